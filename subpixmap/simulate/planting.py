"""All trees and stalls of a country and its surroundings, planted cell by cell.

In: a landscape and bounds. Out: `Planted`, whose trees wait in files, so that memory does not grow with the country.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from subpixmap.simulate.landcover import Landscape
from subpixmap.simulate.placement import Bounds, Lots, Trees, join_lots, join_trees, place_lots, place_trees

CELL_M = 5000.0
"""Side of the cells in which trees are placed, metres."""


@dataclass(frozen=True)
class Planted:
    """Trees and stalls of every cell."""

    folder: Path
    """Holds a file of trees for each cell."""
    cells: tuple[Bounds, ...]
    """(west, south, east, north) of each cell, metres from the origin."""
    lots: Lots
    """All stalls; there are few."""

    def trees(self) -> Iterator[Trees]:
        """The trees of one cell after the other."""
        return (self._read(number) for number in range(len(self.cells)))

    def within(self, bounds: Bounds) -> Trees:
        """Trees whose stem lies inside (west, south, east, north), in the order of the cells."""
        west, south, east, north = bounds
        near = [k for k, c in enumerate(self.cells) if c[0] < east and c[2] > west and c[1] < north and c[3] > south]
        trees = join_trees([self._read(k) for k in near])
        return trees[(trees.x >= west) & (trees.x < east) & (trees.y >= south) & (trees.y < north)]

    def _read(self, number: int) -> Trees:
        with np.load(_file(self.folder, number)) as columns:
            return Trees(*(columns[field.name] for field in fields(Trees)))


def _file(folder: Path, number: int) -> Path:
    return folder / f"trees_{number}.npz"


def cells_of(bounds: Bounds) -> list[Bounds]:
    """Cut bounds into cells, row by row."""
    west, south, east, north = bounds
    columns = np.append(np.arange(west, east, CELL_M), east)
    rows = np.append(np.arange(south, north, CELL_M), north)
    return [
        (columns[c], rows[r], columns[c + 1], rows[r + 1])
        for r in range(len(rows) - 1)
        for c in range(len(columns) - 1)
    ]


def plant(landscape: Landscape, bounds: Bounds, folder: Path, tick: Callable[[], None]) -> Planted:
    """Place everything inside the bounds; `tick` is called after each cell."""
    cells, lots = cells_of(bounds), []
    for number, cell in enumerate(cells):
        trees = place_trees(landscape, cell)
        np.savez(_file(folder, number), **{field.name: getattr(trees, field.name) for field in fields(Trees)})
        lots.append(place_lots(landscape, cell))
        tick()
    return Planted(folder, tuple(cells), join_lots(lots))
