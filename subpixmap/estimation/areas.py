"""Areas of a map -> what the network sees there: the clearest acquisition of each is read once more.

In: a run folder, its model and cells of its map. Out: how each cell looks to the network, and how far the opinions of
the model differ on its count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import Incomplete
from subpixmap.estimation.frame import FrameCells
from subpixmap.grid import CELL, Lattice, Window
from subpixmap.mapping.footprints import Footprints, footprints_by_period_and_zone
from subpixmap.mapping.ledger import Record, read_record
from subpixmap.model.checkpoint import Model
from subpixmap.model.opinions import area_features, opinions
from subpixmap.progress import track
from subpixmap.runfolder import RunFolder
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.items import by_acquisition

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Looks:
    """What a model sees in some cells."""

    features: Array
    """(cell, feature)."""
    deviation: Array
    """(cell, object) sample standard deviation of the opinions on the count of the cell."""

    @classmethod
    def of(cls, folder: RunFolder, model: Model, cells: FrameCells, *, period: str, objects: list[int]) -> Looks:
        """Look at cells in the acquisition of the period that saw most of each.

        Parameters
        ----------
        folder, model
            The run, and its model.
        cells
            Of its map.
        period
            Label.
        objects
            Positions among the objects of the model.

        Raises
        ------
        ReadFailed, Incomplete
            Imagery cannot be read, or a cell's block is not mapped.
        """
        features, deviation = [], []
        for reflectance in track(_read(folder, model, cells, period), "look", "areas", total=len(cells)):
            features.append(area_features(model, reflectance[None])[0])
            totals = opinions(model, reflectance[None])[:, 0, objects].sum(axis=(2, 3), dtype=float)
            deviation.append(totals.std(axis=0, ddof=1))
        return cls(np.array(features, float), np.array(deviation))


def _read(folder: RunFolder, model: Model, cells: FrameCells, period: str) -> Iterator[NDArray[np.float32]]:
    """Reflectance (band, y, x) of every cell with its halo, in the acquisition that saw most around its centre."""
    recipe, near = folder.plan.recipe, _near(folder, period)
    records: dict[str, Record] = {}  # cells are in order of their place: few blocks are looked at twice
    for epsg, row, col in zip(cells.epsg.tolist(), cells.row.tolist(), cells.col.tolist(), strict=True):
        lattice = cells.grids[epsg].lattice
        window = Window(row * cells.px, col * cells.px, cells.px, cells.px)
        padded = window.padded(model.halo)
        name = _clearest(folder, lattice, window, period, records)
        over = near[epsg].over(lattice.bounds(padded))
        items = by_acquisition(near[epsg].items[i] for i in over)[name]
        yield read_reflectance(items, lattice, padded, recipe.bands, missing=recipe.missing)


def _near(folder: RunFolder, period: str) -> dict[int, Footprints]:
    """The items of a period that may be read, by zone."""
    return {
        epsg: near
        for label, epsg, _, near in footprints_by_period_and_zone(folder.plan, folder.items)
        if label == period
    }


def _clearest(folder: RunFolder, lattice: Lattice, window: Window, period: str, records: dict[str, Record]) -> str:
    """The acquisition that observed most pixels in the ledger's cell of 128 px around the centre of a window."""
    size = folder.plan.recipe.block
    row, col = window.row + window.height // 2, window.col + window.width // 2
    block = next(
        one.block
        for one in folder.plan.zones[lattice.epsg].blocks
        if (one.block.row, one.block.col) == (row // size, col // size)
    )
    if block.id not in records:
        record = read_record(folder.path, block.id, period)
        if record is None:
            raise Incomplete(f"block {block.id}, period {period} is not mapped: `subpixmap map {folder.path}`")
        records.clear()
        records[block.id] = record
    record = records[block.id]
    seen: NDArray[Any] = record.cells["acquisition_observed_px"][:, row % size // CELL, col % size // CELL]
    return record.acquisitions[int(np.argmax(seen))].id
