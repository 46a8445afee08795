"""Which unit covers which part of a block: whole tiles where one unit covers all, coverage fractions along the borders.

In: units and a block. Out: a `Cover`, computed once a block and used for every period and object. Most of a country
lies inside some unit: there a tile of 32 px is summed as a whole, and only the rest is gathered pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.fractions import Array, Fractions, unit_fractions
from subpixmap.counts.polygons import clipped, polygonal
from subpixmap.grid import Lattice, Window, owned

CELL = 128
"""Side of a cell, pixels; the grid of the ledger's sums."""
TILE = 32
"""Side of a tile, pixels: what one unit alone covers is summed tile by tile, the rest pixel by pixel."""
NEAR = 1000.0
"""Metres from a unit within which what lies outside all units is told apart: a coarse coastline loses such places."""


@dataclass(frozen=True)
class Cover:
    """How the units cover a block. The two rows after the units are what lies outside all of them, near and far."""

    n_units: int
    """Units and the two rows."""
    window: Window
    """The block."""
    mapped: NDArray[np.bool_]
    """(y, x) pixels that the zone owns, in chunks that the run computes."""
    area: Array
    """(n_units,) pixels that the zone owns."""
    whole_unit: NDArray[np.int64]
    """(k,) the unit that alone covers a tile."""
    whole_tile: NDArray[np.int64]
    """(k,) that tile, row-major."""
    border: Fractions
    """Everything else, mapped pixels only, cell by cell; pixels are numbered in the block."""
    starts: NDArray[np.int64]
    """(s,) where in `border` a unit's part of a cell begins."""
    start_cell: NDArray[np.int64]
    """(s,) the cell of each part."""

    @property
    def n_cells(self) -> int:
        """Cells of the block."""
        return (self.window.height // CELL) * (self.window.width // CELL)

    def by_tile(self, layer: NDArray) -> Array:
        """(tile,) sums of a layer (y, x), whatever covers it."""
        rows, cols = self.window.height // TILE, self.window.width // TILE
        # Down the rows first: the long, contiguous sums are several times faster than a sum over both axes at once.
        if layer.dtype == bool:  # TILE ones fit into a byte
            strips = np.add.reduce(layer.view(np.uint8).reshape(rows, TILE, -1), axis=1, dtype=np.uint8)
        else:
            strips = np.add.reduce(layer.reshape(rows, TILE, -1), axis=1, dtype=np.float64)
        return strips.reshape(rows, cols, TILE).sum(axis=2, dtype=np.float64).reshape(-1)

    def sums(self, layer: NDArray, by_tile: Array | None = None) -> Array:
        """(n_units, cell) sums of a layer (y, x) without NaN that is zero wherever `mapped` is False."""
        tiles = self.by_tile(layer) if by_tile is None else by_tile
        key = self.whole_unit * self.n_cells + _cell_of_tile(self.whole_tile, self.window)
        summed = np.bincount(key, tiles[self.whole_tile], self.n_units * self.n_cells)
        found: Array = summed.astype(np.float64, copy=False).reshape(self.n_units, self.n_cells)
        if self.starts.size:
            weights = layer.reshape(-1).take(self.border.pixel) * self.border.fraction
            found[self.border.unit[self.starts], self.start_cell] += np.add.reduceat(weights, self.starts)
        return found

    def histogram(self, values: NDArray[np.integer], bins: int) -> Array:
        """(n_units, bins) mapped pixels by value; the last bin holds all larger values."""
        capped = np.minimum(values, bins - 1)
        key = self.border.unit * bins + capped.reshape(-1).take(self.border.pixel)
        found = np.bincount(key, self.border.fraction, self.n_units * bins).astype(np.float64, copy=False)
        found = found.reshape(self.n_units, bins)
        if self.whole_unit.size:
            small = capped.astype(np.uint8) if bins <= 256 else capped
            for value in range(int(small.min()), int(small.max()) + 1):
                tiles = self.by_tile((small == value) & self.mapped)
                found[:, value] += np.bincount(self.whole_unit, tiles[self.whole_tile], self.n_units)
        return found


def cover_block(
    units: Sequence[BaseGeometry],
    lattice: Lattice,
    window: Window,
    chunks: Sequence[Window],
    *,
    assign_nearest: bool = False,
) -> Cover:
    """How units cover a block.

    Parameters
    ----------
    units
        Valid polygons in the lattice's CRS: all that come within 1 km of the block.
    lattice, window
        The block.
    chunks
        The inner chunks that the run computes; they are whole cells.
    assign_nearest
        Give a pixel outside all units, within 1 km of one, to the unit nearest to its centre.

    Returns
    -------
    Cover
    """
    mapped = np.zeros(window.shape, bool)
    for chunk in chunks:
        mapped[chunk.slices(window)] = True
    own, cells = owned(lattice, window), _cells(window)
    inside = np.array([mapped[cell.slices(window)].any() for cell in cells])
    mapped &= own
    boxes = shapely.box(*np.array([lattice.bounds(cell) for cell in cells]).T)
    hits, full = np.zeros((len(units), len(cells)), bool), np.zeros((len(units), len(cells)), bool)
    for i, unit in enumerate(units):
        shapely.prepare(unit)
        hits[i], full[i] = shapely.intersects(unit, boxes), shapely.contains(unit, boxes)
    belt = _belt(units, lattice, bool((inside & ~full.any(axis=0)).any()))

    area = np.zeros(len(units) + 2)
    whole: list[tuple[int, int]] = []
    parts = [_NOTHING]
    for at, cell in enumerate(cells):
        local = np.flatnonzero(hits[:, at])
        alone = int(local[0]) if local.size == 1 and full[local[0], at] else None
        if not local.size and inside[at]:
            alone = _alone_outside(belt, boxes[at], len(units), assign_nearest)
        elif not local.size:
            continue
        if alone is not None:
            area[alone] += np.count_nonzero(own[cell.slices(window)])
            whole += [(alone, at)] if inside[at] else []
            continue
        found = _cell_fractions(units, local, belt if inside[at] else None, lattice, cell)
        if assign_nearest:
            found = _to_nearest(found, units, lattice, cell)
        found = found._replace(pixel=_renumbered(found.pixel, cell, window))
        np.add.at(area, found.unit, found.fraction * own.reshape(-1)[found.pixel])
        kept = mapped.reshape(-1)[found.pixel]
        parts.append(Fractions(found.unit[kept], found.pixel[kept], found.fraction[kept]))
    border = Fractions(*(np.concatenate([part[i] for part in parts]) for i in range(3)))
    at_unit, at_cell = np.array(whole, np.int64).reshape(-1, 2).T
    tiles = _tiles_of_cells(at_cell, window)
    border, more_unit, more_tile = _whole_tiles(border, window)
    cell_of = _cell_of_tile(_tile_of_pixel(border.pixel, window), window)
    starts = np.flatnonzero(np.diff(border.unit * len(cells) + cell_of, prepend=-1))
    return Cover(
        n_units=len(area),
        window=window,
        mapped=mapped,
        area=area,
        whole_unit=np.append(np.repeat(at_unit, tiles.shape[1]), more_unit),
        whole_tile=np.append(tiles.reshape(-1), more_tile),
        border=border,
        starts=starts,
        start_cell=cell_of[starts],
    )


def _whole_tiles(border: Fractions, window: Window) -> tuple[Fractions, NDArray[np.int64], NDArray[np.int64]]:
    """Take the tiles that one unit covers wholly out of the fractions: (the rest, their units, their tiles)."""
    n_tiles = (window.height // TILE) * (window.width // TILE)
    key = border.unit * n_tiles + _tile_of_pixel(border.pixel, window)
    full = np.bincount(key, border.fraction == 1) == TILE**2 if key.size else np.zeros(0, bool)
    unit, tile = np.divmod(np.flatnonzero(full), n_tiles)
    rest = ~full[key] if key.size else np.zeros(0, bool)
    return Fractions(border.unit[rest], border.pixel[rest], border.fraction[rest]), unit, tile


def _tile_of_pixel(pixel: NDArray[np.int64], window: Window) -> NDArray[np.int64]:
    return pixel // (window.width * TILE) * (window.width // TILE) + pixel % window.width // TILE


def _cell_of_tile(tile: NDArray[np.int64], window: Window) -> NDArray[np.int64]:
    row, col = np.divmod(tile, window.width // TILE)
    return row // (CELL // TILE) * (window.width // CELL) + col // (CELL // TILE)


def _tiles_of_cells(cell: NDArray[np.int64], window: Window) -> NDArray[np.int64]:
    """(cell, tiles of it)."""
    every = np.arange((window.height // TILE) * (window.width // TILE))
    by_cell = every[np.argsort(_cell_of_tile(every, window), kind="stable")].reshape(-1, (CELL // TILE) ** 2)
    return by_cell[cell]


_NOTHING = Fractions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _cells(window: Window) -> list[Window]:
    return [
        Window(row, col, CELL, CELL)
        for row in range(window.row, window.row + window.height, CELL)
        for col in range(window.col, window.col + window.width, CELL)
    ]


def _belt(units: Sequence[BaseGeometry], lattice: Lattice, needed: bool) -> BaseGeometry:
    """Everything within 1 km of a unit. Its outer border carries no number of its own, so it is drawn coarsely."""
    if not needed or not len(units):
        return shapely.Polygon()
    belt = shapely.buffer(shapely.simplify(shapely.union_all(units), lattice.resolution), NEAR, quad_segs=4)
    shapely.prepare(belt)
    return belt


def _alone_outside(belt: BaseGeometry, box: BaseGeometry, n: int, assign_nearest: bool) -> int | None:
    """The row of a cell that no unit touches; None where it must be looked at pixel by pixel."""
    if not belt.intersects(box):
        return n + 1
    return n if belt.contains(box) and not assign_nearest else None


def _cell_fractions(
    units: Sequence[BaseGeometry],
    local: NDArray[np.int64],
    belt: BaseGeometry | None,
    lattice: Lattice,
    cell: Window,
) -> Fractions:
    """Fractions of one cell; with `belt`, also of what is outside all units, from its own polygon, in two more rows."""
    near = [clipped(units[i], lattice.bounds(cell.padded(2))) for i in local]
    rows = local
    if belt is not None:
        outside = polygonal(shapely.difference(shapely.box(*lattice.bounds(cell)), shapely.union_all(near)))
        near += [polygonal(shapely.intersection(outside, belt)), polygonal(shapely.difference(outside, belt))]
        rows = np.append(local, [len(units), len(units) + 1])
    found = unit_fractions(near, lattice, cell)
    return found._replace(unit=rows[found.unit])


def _to_nearest(found: Fractions, units: Sequence[BaseGeometry], lattice: Lattice, cell: Window) -> Fractions:
    """Give the pixels of the first row after the units to the unit nearest to each pixel's centre."""
    moved = found.unit == len(units)
    rows, cols = np.divmod(found.pixel[moved], cell.width)
    x, y = lattice.coords(cell)
    unit = found.unit.copy()
    unit[moved] = shapely.STRtree(units).nearest(shapely.points(x[cols], y[rows]))
    order = np.argsort(unit, kind="stable")
    return Fractions(unit[order], found.pixel[order], found.fraction[order])


def _renumbered(pixel: NDArray[np.int64], cell: Window, window: Window) -> NDArray[np.int64]:
    rows, cols = cell.slices(window)
    row, col = np.divmod(pixel, cell.width)
    return (row + rows.start) * window.width + col + cols.start
