"""Predicts areas of a map again from their clearest acquisition, to compare the networks of the model.

In: a run folder, its model and cells of its map. Out: features of each cell, and the disagreement of the networks on
its count.
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
"""Smallest share of a cell that must be clear in the acquisition, so that clouds do not affect the comparison."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Looks:
    """Features and disagreement of a model in some cells."""

    features: Array
    """(cell, feature)."""
    deviation: Array
    """(cell, object) standard deviation over the networks of the count of the cell."""
    at: NDArray[np.int64]
    """(cell,) positions of the clear cells among the requested ones."""

    @classmethod
    def of(cls, folder: RunFolder, model: Model, cells: FrameCells, *, period: str, objects: list[int]) -> Looks:
        """Predict cells from the clearest acquisition of the period; cloudy pixels are left out.

        Parameters
        ----------
        folder, model
            The run and its model.
        cells
            Information about its map.
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
    """Reflectance (band, y, x) with halo and clear pixels of every cell, in its clearest acquisition.

    Clouds are taken from scene classes, whatever the mask of the run: here they need not be exact.
    """
    recipe, near = folder.plan.recipe, _near(folder, period)
    rule = replace(recipe.mask, by="scl")
    records: dict[str, Record] = {}  # cells are in spatial order, so few blocks are visited twice
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
    """The usable items of a period, by zone."""
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
            raise Incomplete(f"block {block.id}, period {period} is not mapped: run `subpixmap map {folder.path}`")
        records.clear()
        records[block.id] = record
    record = records[block.id]
    seen: NDArray[Any] = record.cells["acquisition_observed_px"][:, row % size // CELL, col % size // CELL]
    return record.acquisitions[int(np.argmax(seen))].id
