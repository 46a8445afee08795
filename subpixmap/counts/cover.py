"""Which unit covers which part of a block: whole tiles where one unit covers all, coverage fractions along the borders.

In: units, the region and a block. Out: a `Cover`, computed once a block and used for every period and object. Most of a
country lies inside some unit: there a tile of 32 px is summed as a whole, and only the rest is gathered pixel by pixel.
What is mapped beyond the region, because whole inner chunks are, belongs to no row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.cells import EXTRA, CutCell, cut_cell, sort_cells
from subpixmap.counts.fractions import Array, Fractions, polygon_fractions
from subpixmap.grid import Lattice, Window, owned

CELL = 128
"""Side of a cell, pixels; the grid of the ledger's sums."""
TILE = 32
"""Side of a tile, pixels: what one unit alone covers is summed tile by tile, the rest pixel by pixel."""


@dataclass(frozen=True)
class Cover:
    """How the units cover a block. After them follow the `EXTRA` rows: near, far, and everything."""

    n_units: int
    """Units and the extra rows."""
    window: Window
    """The block."""
    mapped: NDArray[np.bool_]
    """(y, x) pixels that the zone owns, in chunks that the run computes."""
    far_chunks: tuple[Window, ...]
    """Chunks that hold nothing but what is farther than 1 km from any unit."""
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

    def whole_tiles_nearby(self) -> NDArray[np.int64]:
        """Tiles wholly inside the region and not farther than 1 km from all units."""
        far, everything = (self.whole_tile[self.whole_unit == self.n_units - back] for back in (2, 1))
        return np.setdiff1d(everything, far)

    def histogram(self, values: NDArray[np.integer], bins: int) -> Array:
        """(n_units, bins) mapped pixels by value; the last bin holds all larger values."""
        capped = values if values.max(initial=0) < bins else np.minimum(values, bins - 1)
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
    region: BaseGeometry | None = None,
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
    region
        What is accounted for besides the units, in the lattice's CRS: beyond it, pixels are mapped only because whole
        chunks are. Without it, all of the chunks.
    assign_nearest
        Give a pixel of the region outside all units, within 1 km of one, to the unit nearest to its centre.

    Returns
    -------
    Cover
    """
    own, cells = owned(lattice, window), _cells(window)
    mapped = np.zeros(window.shape, bool)
    for chunk in chunks:
        mapped[chunk.slices(window)] = True
    computed = np.array([mapped[cell.slices(window)].any() for cell in cells])
    mapped &= own
    boxes = shapely.box(*np.array([lattice.bounds(cell) for cell in cells]).T)
    kinds = sort_cells(units, region, boxes, computed, lattice, assign_nearest=assign_nearest)

    area = np.zeros(len(units) + EXTRA)
    whole: list[tuple[int, int]] = []
    cuts = []
    for at in np.flatnonzero(kinds.inside | kinds.hits.any(axis=0)).tolist():
        inside = bool(kinds.inside[at])
        alone = [int(kinds.alone[at])] if kinds.alone[at] >= 0 else []
        for row in alone + ([len(area) - 1] if inside and kinds.within[at] else []):
            area[row] += np.count_nonzero(own[cells[at].slices(window)])
            whole += [(row, at)] if inside else []
        if not alone:
            cuts.append(cut_cell(units, region, kinds, at, lattice, cells[at]))
    parts = [_NOTHING]
    shapes = [shape for cut in cuts for shape, _ in cut.shapes]
    for found in _by_cut(cuts, polygon_fractions(shapes, lattice, window), window):
        if assign_nearest:
            found = _to_nearest(found, units, lattice, window)
        area += np.bincount(found.unit, found.fraction * own.reshape(-1)[found.pixel], len(area))
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
        far_chunks=_chunks_of(~kinds.inside | (kinds.alone == len(units) + 1), cells, chunks),
        area=area,
        whole_unit=np.append(np.repeat(at_unit, tiles.shape[1]), more_unit),
        whole_tile=np.append(tiles.reshape(-1), more_tile),
        border=border,
        starts=starts,
        start_cell=cell_of[starts],
    )


def _by_cut(
    cuts: Sequence[CutCell], fractions: Iterator[tuple[NDArray[np.int64], Array]], window: Window
) -> Iterator[Fractions]:
    """Fractions of one cell after the other, by row; pixels are numbered in the block."""
    for cut in cuts:
        found = [
            (row, *pair)
            for (_, rows), pair in zip(cut.shapes, itertools.islice(fractions, len(cut.shapes)), strict=True)
            for row in rows
        ]
        if cut.rest is not None:
            left = np.ones(cut.cell.shape)
            rows, cols = cut.cell.slices(window)
            for _, pixel, fraction in found:
                row, col = np.divmod(pixel, window.width)
                left[row - rows.start, col - cols.start] -= fraction
            row, col = np.nonzero(left > 0)
            found.append((cut.rest, (row + rows.start) * window.width + col + cols.start, left[row, col]))
        if found:
            found.sort(key=lambda one: one[0])
            yield Fractions(
                np.repeat([row for row, _, _ in found], [len(pixel) for _, pixel, _ in found]),
                np.concatenate([pixel for _, pixel, _ in found]),
                np.concatenate([fraction for _, _, fraction in found]),
            )


def _chunks_of(marked: NDArray[np.bool_], cells: Sequence[Window], chunks: Sequence[Window]) -> tuple[Window, ...]:
    """The chunks all of whose cells are marked."""
    of = {(cell.row, cell.col): bool(mark) for cell, mark in zip(cells, marked, strict=True)}
    return tuple(chunk for chunk in chunks if all(of[cell.row, cell.col] for cell in _cells(chunk)))


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


def _to_nearest(found: Fractions, units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Fractions:
    """Give the pixels of the first row after the units to the unit nearest to each pixel's centre."""
    moved = found.unit == len(units)
    rows, cols = np.divmod(found.pixel[moved], window.width)
    x, y = lattice.coords(window)
    unit = found.unit.copy()
    unit[moved] = shapely.STRtree(units).nearest(shapely.points(x[cols], y[rows]))
    order = np.argsort(unit, kind="stable")
    return Fractions(unit[order], found.pixel[order], found.fraction[order])
