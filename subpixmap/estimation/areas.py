"""Areas of a map -> what the network sees there: the clearest acquisition of each is read once more.

In: a run folder, its model and cells of its map. Out: how each cell looks to the network, and how far the opinions of
the model differ on its count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from subpixmap.scenes.cube import read_reflectance, read_valid
from subpixmap.scenes.items import by_acquisition

CLEAR = 0.75
"""Share of a cell that one acquisition must have seen: what lies under clouds is not what a network differs about."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Looks:
    """What a model sees in some cells."""

    features: Array
    """(cell, feature)."""
    deviation: Array
    """(cell, object) sample standard deviation of the opinions on the count of the cell."""
    at: NDArray[np.int64]
    """(cell,) which of the cells that were to be looked at these are: those that the acquisition saw clearly."""

    @classmethod
    def of(cls, folder: RunFolder, model: Model, cells: FrameCells, *, period: str, objects: list[int]) -> Looks:
        """Look at cells in the acquisition of the period that saw most of each; cloudy pixels are left out.

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
        features, deviation, at = [], [], []
        seen = track(_read(folder, model, cells, period), "look", "areas", total=len(cells))
        for i, (reflectance, clear) in enumerate(seen):
            if clear.mean() < CLEAR:
                continue
            at.append(i)
            features.append(area_features(model, reflectance[None], clear[None])[0])
            counts = opinions(model, reflectance[None])[:, 0, objects]
            deviation.append(counts[..., clear].mean(axis=-1, dtype=float).std(axis=0, ddof=1) * clear.size)
        return cls(np.array(features, float), np.array(deviation), np.array(at, np.int64))


def _read(
    folder: RunFolder, model: Model, cells: FrameCells, period: str
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Reflectance (band, y, x) of every cell with its halo, and clear pixels, in the acquisition that saw most of it.

    Clouds are those of the scene classes, whatever finds them in the run: here they need not be exact.
    """
    recipe, near = folder.plan.recipe, _near(folder, period)
    rule = replace(recipe.mask, by="scl")
    records: dict[str, Record] = {}  # cells are in order of their place: few blocks are looked at twice
    for epsg, row, col in zip(cells.epsg.tolist(), cells.row.tolist(), cells.col.tolist(), strict=True):
        lattice = cells.grids[epsg].lattice
        window = Window(row * cells.px, col * cells.px, cells.px, cells.px)
        padded = window.padded(model.halo)
        name = _clearest(folder, lattice, window, period, records)
        over = near[epsg].over(lattice.bounds(padded))
        items = by_acquisition(near[epsg].items[i] for i in over)[name]
        reflectance = read_reflectance(items, lattice, padded, recipe.bands, missing=recipe.missing)
        clear = read_valid(items, lattice, window, rule, missing=recipe.missing)
        inner = reflectance[:, model.halo : -model.halo, model.halo : -model.halo]
        yield reflectance, clear & np.isfinite(inner).all(axis=0)


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
