"""Units, the region and a block -> its `Cover`: polygons are cut cell by cell, and only their edges pixel by pixel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.cells import EXTRA, CutCell, cut_cell, sort_cells
from subpixmap.counts.cover import TILE, TILES, Cover
from subpixmap.counts.fractions import Array, Fractions, polygon_fractions
from subpixmap.counts.units import polygonal
from subpixmap.grid import CELL, CHUNK, Lattice, Window, owned


class _Tiles(NamedTuple):
    """The tiles of a block, row-major."""

    west: Array
    """(tile,) metres in the lattice's CRS."""
    north: Array
    """(tile,) likewise."""
    cell: NDArray[np.int64]
    """(tile,) the cell that holds it."""
    own: NDArray[np.int64]
    """(tile,) pixels that the zone owns."""
    place: NDArray[np.int64]
    """(tile,) its number in the stack of chunks, -1 outside of it."""

    def boxes(self, some: NDArray[np.int64], lattice: Lattice) -> NDArray:
        """The outlines of some tiles."""
        x, y, step = self.west[some], self.north[some], TILE * lattice.resolution
        outlines: NDArray = shapely.box(x, y - step, x + step, y)
        return outlines


class _Cut(NamedTuple):
    """A cell that several rows share, without the tiles that a polygon holds whole."""

    at: int
    """The cell."""
    cell: Window
    shapes: list[tuple[BaseGeometry, tuple[int, ...]]]
    rest: int | None
    """The row of what the polygons leave of `open`."""
    open: list[tuple[int, int]]
    """Tiles (row, column in the cell) that polygons share with the rest."""


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
    own, cells, n = owned(lattice, window), _cells(window), len(units)
    boxes = shapely.box(*np.array([lattice.bounds(cell) for cell in cells]).T)
    home = _chunk_of(cells, chunks)
    kinds = sort_cells(units, region, boxes, home >= 0, lattice, assign_nearest=assign_nearest)
    near = np.zeros(len(chunks), bool)
    near[home[kinds.inside & ~kinds.far]] = True
    stack = [chunks[i] for i in np.argsort(~near, kind="stable")]
    tiles = _tiles_of(lattice, window, stack, own)

    area, whole, cuts = np.zeros(n + EXTRA), [], []
    for at in np.flatnonzero(kinds.inside | kinds.hits.any(axis=0)).tolist():
        mine = np.flatnonzero(tiles.cell == at)
        if kinds.inside[at] and kinds.within[at]:
            whole.append((n + EXTRA - 1, mine))
        if kinds.alone[at] >= 0:
            whole.append((int(kinds.alone[at]), mine))
        else:
            cut, more = _without_whole_tiles(
                at,
                cut_cell(units, region, kinds, at, lattice, cells[at]),
                mine,
                tiles.boxes(mine, lattice),
                n if assign_nearest else None,
            )
            cuts.append(cut)
            whole += more
    for row, some in whole:
        area[row] += tiles.own[some].sum()
    parts = [(_NOTHING, 0)]
    shapes = [shape for cut in cuts for shape, _ in cut.shapes]
    every = own.all()
    for cut, found in _by_cut(cuts, polygon_fractions(shapes, lattice, window), window):
        if assign_nearest:
            found = _to_nearest(found, units, lattice, window)
        if not every:
            found = found.take(own.reshape(-1)[found.pixel])
        area += np.bincount(found.unit, found.fraction, len(area))
        if (place := int(tiles.place[tiles.cell == cut.at][0])) >= 0:
            chunk = place // TILES
            y, x = _row_col(found.pixel, window)
            inside = (y + window.row - stack[chunk].row) * CHUNK + x + window.col - stack[chunk].col
            parts.append((Fractions(found.unit, chunk * CHUNK**2 + inside, found.fraction), cut.at))
    border = Fractions(*map(np.concatenate, zip(*(part for part, _ in parts), strict=True)))
    cell = np.repeat([at for _, at in parts], [len(part.unit) for part, _ in parts])
    starts = np.flatnonzero(np.diff(border.unit * len(cells) + cell, prepend=-1))
    unit, tile = np.array([(row, one) for row, some in whole for one in tiles.place[some]], np.int64).reshape(-1, 2).T
    order = np.argsort(tiles.place)
    return Cover(
        n_units=len(area),
        n_cells=len(cells),
        chunks=tuple(stack),
        n_near=int(near.sum()),
        mapped=np.array([own[chunk.slices(window)] for chunk in stack]).reshape(-1, CHUNK, CHUNK),
        area=area,
        whole_unit=unit[tile >= 0],
        whole_tile=tile[tile >= 0],
        border=border,
        starts=starts,
        start_cell=cell[starts],
        tile_cell=tiles.cell[order[tiles.place[order] >= 0]],
    )


def _without_whole_tiles(
    at: int, cut: CutCell, mine: NDArray[np.int64], boxes: NDArray, by_pixel: int | None
) -> tuple[_Cut, list[tuple[int, NDArray[np.int64]]]]:
    """Take off those of a cell's tiles (`mine`, `boxes`) that one polygon, or the rest, holds wholly.

    Returns what is left, and the tiles with their rows. What belongs to the row `by_pixel` stays.
    """
    shapes, whole = [], []
    touched, full = np.zeros((2, mine.size), bool)
    for shape, rows in cut.shapes:
        shapely.prepare(shape)
        hit = shapely.intersects(shape, boxes)
        touched |= hit
        if by_pixel not in rows:
            held = shapely.contains(shape, boxes)
            if held.any():
                full |= held
                whole += [(row, mine[held]) for row in rows]
                shape = polygonal(shapely.difference(shape, shapely.coverage_union_all(boxes[held])))
        if shape.area > 0:
            shapes.append((shape, rows))
    open_ = touched & ~full
    if cut.rest is not None:
        if cut.rest == by_pixel:
            open_ = ~full
        elif not touched.all():
            whole.append((cut.rest, mine[~touched]))
    places = [divmod(int(i), CELL // TILE) for i in np.flatnonzero(open_)]
    return _Cut(at, cut.cell, shapes, cut.rest, places), whole


def _by_cut(
    cuts: Sequence[_Cut], fractions: Iterator[tuple[NDArray[np.int64], Array]], window: Window
) -> Iterator[tuple[_Cut, Fractions]]:
    """Fractions of one cell after the other, by row; pixels are numbered in the block."""
    for cut in cuts:
        found = [
            (row, *pair)
            for (_, rows), pair in zip(cut.shapes, itertools.islice(fractions, len(cut.shapes)), strict=True)
            for row in rows
        ]
        if cut.rest is not None:
            left = np.zeros(cut.cell.shape)
            for row, col in cut.open:
                left[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE] = 1
            top, side = (part.start for part in cut.cell.slices(window))
            for _, pixel, fraction in found:
                y, x = _row_col(pixel, window)
                left[y - top, x - side] -= fraction
            y, x = np.nonzero(left > 0)
            found.append((cut.rest, (y + top) * window.width + x + side, left[y, x]))
        if found:
            found.sort(key=lambda one: one[0])
            yield (
                cut,
                Fractions(
                    np.repeat([row for row, _, _ in found], [len(pixel) for _, pixel, _ in found]),
                    np.concatenate([pixel for _, pixel, _ in found]),
                    np.concatenate([fraction for _, _, fraction in found]),
                ),
            )


def _tiles_of(lattice: Lattice, window: Window, stack: Sequence[Window], own: NDArray[np.bool_]) -> _Tiles:
    row, col = np.divmod(np.arange(window.height * window.width // TILE**2), window.width // TILE)
    chunk, side, wide = np.full(row.size, -1), CHUNK // TILE, CELL // TILE
    for i, one in enumerate(stack):
        down, right = ((part.start // CHUNK) for part in one.slices(window))
        chunk[(row // side == down) & (col // side == right)] = i
    west, _, _, north = lattice.bounds(window)
    step = TILE * lattice.resolution
    return _Tiles(
        west=west + col * step,
        north=north - row * step,
        cell=row // wide * (window.width // CELL) + col // wide,
        own=own.reshape(window.height // TILE, TILE, -1, TILE).sum(axis=(1, 3)).reshape(-1),
        place=np.where(chunk >= 0, chunk * TILES + row % side * side + col % side, -1),
    )


def _chunk_of(cells: Sequence[Window], chunks: Sequence[Window]) -> NDArray[np.int64]:
    """(cell,) which of the chunks holds it, -1 for none."""
    number = {(chunk.row // CHUNK, chunk.col // CHUNK): i for i, chunk in enumerate(chunks)}
    return np.array([number.get((cell.row // CHUNK, cell.col // CHUNK), -1) for cell in cells], np.int64)


def _cells(window: Window) -> list[Window]:
    return [
        Window(row, col, CELL, CELL)
        for row in range(window.row, window.row + window.height, CELL)
        for col in range(window.col, window.col + window.width, CELL)
    ]


def _row_col(pixel: NDArray[np.int64], window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row = pixel // window.width
    return row, pixel - row * window.width


_NOTHING = Fractions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _to_nearest(found: Fractions, units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Fractions:
    """Give the pixels of the first row after the units to the unit nearest to each pixel's centre."""
    moved = found.unit == len(units)
    row, col = _row_col(found.pixel[moved], window)
    x, y = lattice.coords(window)
    unit = found.unit.copy()
    unit[moved] = shapely.STRtree(units).nearest(shapely.points(x[col], y[row]))
    order = np.argsort(unit, kind="stable")
    return Fractions(unit[order], found.pixel[order], found.fraction[order])
