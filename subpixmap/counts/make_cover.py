"""Makes the `Cover` of a block from units and region: cuts polygons by cell, and only their edges by pixel.

In: units and the region in the lattice's CRS, and the chunks of a block. Out: which unit covers which tile or pixel. By
cell, because most cells (128 px) lie wholly in one unit or far from all units.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.cover import EXTRA, NEAR, TILE, TILES, Cover
from subpixmap.counts.fractions import Fractions, in_stack, row_col
from subpixmap.counts.units import clipped
from subpixmap.grid import CELL, CHUNK, Lattice, Window, owned
from subpixmap.region.fractions import Array, polygon_fractions
from subpixmap.region.outline import polygonal

Shape = tuple[BaseGeometry, tuple[int, ...]]
"""A polygon and the rows that it is counted in."""

_TOUCH = 1e-9
"""Share of a cell below which an overlap of units is the rounding of their common border."""


def cover_block(
    units: Sequence[BaseGeometry],
    lattice: Lattice,
    window: Window,
    chunks: Sequence[Window],
    *,
    computed: NDArray[np.bool_] | None = None,
    region: BaseGeometry | None = None,
    assign_nearest: bool = False,
) -> Cover:
    """Make the cover of a block.

    Parameters
    ----------
    units
        Valid polygons in the lattice's CRS: all units within 1 km of the block.
    lattice, window
        The block.
    chunks
        The inner chunks with pixels computed by the run; they consist of whole cells.
    computed
        (row, column) of the block's cells: whether the run computes them; by default all cells of the chunks.
    region
        Region to account for in addition to the units, in the lattice's CRS; by default all that is computed.
    assign_nearest
        Assign pixels of the region up to 1 km outside all units to the unit nearest to the pixel centre.

    Returns
    -------
    Cover
    """
    # 1. Classify the cells by what touches or contains them. Most belong to one row and need no cut.
    cells = _sort_cells(units, region, lattice, _cells_of(window, chunks, computed), assign_nearest=assign_nearest)
    # 2. Put chunks near a unit first, because sums over units need only these. Number tiles through this stack.
    near = np.zeros(len(chunks), bool)
    near[cells.chunk[cells.inside & ~cells.far]] = True
    stack = [chunks[i] for i in np.argsort(~near, kind="stable")]
    own = owned(lattice, window)
    mapped = own & (cells.chunk >= 0).reshape(window.height // CELL, -1).repeat(CELL, axis=0).repeat(CELL, axis=1)
    tiles = _number_tiles(lattice, window, stack, own)
    # 3. Assign whole tiles to the row that contains them: no fraction is stored for their pixels. The rest is shared.
    whole, shared = _hand_out(units, region, cells, tiles, lattice, assign_nearest=assign_nearest)
    area = np.zeros(len(units) + EXTRA)
    for row, some in whole:
        area[row] += tiles.own[some].sum()
    # 4. Cut shared cells by pixel, the costly step. Areas include all owned pixels, sums only the stack.
    parts = [(Fractions.none(), 0)]
    for one, fractions in _cut(shared, lattice, window, nearest_of=units if assign_nearest else None):
        mine = fractions if own.all() else fractions.take(own.reshape(-1)[fractions.pixel])
        area += np.bincount(mine.unit, mine.fraction, len(area))
        if cells.chunk[one.at] >= 0:
            place = int(tiles.place[tiles.cell == one.at][0])
            parts.append((in_stack(mine, window, stack, place // TILES), one.at))
    border = Fractions(*map(np.concatenate, zip(*(part for part, _ in parts), strict=True)))
    # 5. Note where each unit's part of a cell begins in the border, so that `Cover.sums` adds it up in one call.
    cell = np.repeat([at for _, at in parts], [len(part.unit) for part, _ in parts])
    starts = np.flatnonzero(np.diff(border.unit * len(cells.windows) + cell, prepend=-1))
    unit, tile = np.array([(row, one) for row, some in whole for one in tiles.place[some]], np.int64).reshape(-1, 2).T
    order = np.argsort(tiles.place)
    return Cover(
        n_units=len(area),
        n_cells=len(cells.windows),
        chunks=tuple(stack),
        n_near=int(near.sum()),
        mapped=np.array([mapped[chunk.slices(window)] for chunk in stack]).reshape(-1, CHUNK, CHUNK),
        area=area,
        whole_unit=unit[tile >= 0],
        whole_tile=tile[tile >= 0],
        border=border,
        starts=starts,
        start_cell=cell[starts],
        tile_cell=tiles.cell[order[tiles.place[order] >= 0]],
    )


# Cells ----------------------------------------------------------------------------------------------------------------


class _Cells(NamedTuple):
    """The cells of a block, row-major, and the units that touch or contain them."""

    windows: list[Window]
    chunk: NDArray[np.int64]
    """(cell,) which of the chunks holds it, -1 where it is not computed."""
    hits: NDArray[np.bool_]
    """(unit, cell) the unit touches it."""
    inside: NDArray[np.bool_]
    """(cell,) computed, and touched by a unit or the region."""
    within: NDArray[np.bool_]
    """(cell,) wholly in the region or in a unit."""
    alone: NDArray[np.int64]
    """(cell,) the row that holds all of it, -1 where it must be looked at pixel by pixel."""
    far: NDArray[np.bool_]
    """(cell,) farther than 1 km from any unit."""
    belt: BaseGeometry
    """Everything within 1 km of a unit."""


def _sort_cells(
    units: Sequence[BaseGeometry],
    region: BaseGeometry | None,
    lattice: Lattice,
    cells: tuple[list[Window], NDArray[np.int64]],
    *,
    assign_nearest: bool,
) -> _Cells:
    windows, chunk = cells
    boxes = shapely.box(*np.array([lattice.bounds(cell) for cell in windows]).T)
    hits, full = _touching(units, boxes)
    touched, within = np.ones((2, len(boxes)), bool)
    if region is not None:
        (touched,), (within,) = _touching([region], boxes)
    inside = (chunk >= 0) & (touched | hits.any(axis=0))
    within = within | full.any(axis=0)
    belt = _belt(units, lattice, bool((inside & ~full.any(axis=0)).any()))
    alone = np.where((hits.sum(axis=0) == 1) & full.any(axis=0), hits.argmax(axis=0) if len(units) else -1, -1)
    outside = inside & ~hits.any(axis=0)
    far = outside & ~shapely.intersects(belt, boxes)
    alone[far & within] = len(units) + 1
    if not assign_nearest:
        alone[outside & within & ~far & shapely.contains(belt, boxes)] = len(units)
    return _Cells(windows, chunk, hits, inside, within, alone, far, belt)


def _cells_of(
    window: Window, chunks: Sequence[Window], computed: NDArray[np.bool_] | None
) -> tuple[list[Window], NDArray[np.int64]]:
    """The cells of a block, and the chunk of each, -1 where it is not computed."""
    number = {(chunk.row // CHUNK, chunk.col // CHUNK): i for i, chunk in enumerate(chunks)}
    cells = [
        Window(row, col, CELL, CELL)
        for row in range(window.row, window.row + window.height, CELL)
        for col in range(window.col, window.col + window.width, CELL)
    ]
    chunk = np.array([number.get((cell.row // CHUNK, cell.col // CHUNK), -1) for cell in cells], np.int64)
    return cells, chunk if computed is None else np.where(computed.reshape(-1), chunk, -1)


def _touching(
    shapes: Sequence[BaseGeometry], boxes: NDArray[np.object_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(shape, box): boxes that each shape touches, and boxes that it contains."""
    hits, full = (np.zeros((len(shapes), len(boxes)), bool) for _ in range(2))
    for i, shape in enumerate(shapes):
        shapely.prepare(shape)
        hits[i], full[i] = shapely.intersects(shape, boxes), shapely.contains(shape, boxes)
    return hits, full


def _belt(units: Sequence[BaseGeometry], lattice: Lattice, needed: bool) -> BaseGeometry:
    """Land within 1 km of a unit. Its outer border affects no count of a unit, so it is drawn coarsely."""
    if not needed or not len(units):
        return shapely.Polygon()
    belt = shapely.buffer(shapely.simplify(shapely.union_all(units), lattice.resolution), NEAR, quad_segs=4)
    shapely.prepare(belt)
    return belt


# Tiles ----------------------------------------------------------------------------------------------------------------


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

    def boxes(self, some: NDArray[np.int64], lattice: Lattice) -> NDArray[np.object_]:
        """The outlines of some tiles."""
        x, y, step = self.west[some], self.north[some], TILE * lattice.resolution
        outlines: NDArray[np.object_] = shapely.box(x, y - step, x + step, y)
        return outlines


def _number_tiles(lattice: Lattice, window: Window, stack: Sequence[Window], own: NDArray[np.bool_]) -> _Tiles:
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


def _hand_out(
    units: Sequence[BaseGeometry],
    region: BaseGeometry | None,
    cells: _Cells,
    tiles: _Tiles,
    lattice: Lattice,
    *,
    assign_nearest: bool,
) -> tuple[list[tuple[int, NDArray[np.int64]]], list[_SharedCell]]:
    """Rows with their whole tiles, and cells shared by several rows."""
    whole: list[tuple[int, NDArray[np.int64]]] = []
    shared = []
    for at in np.flatnonzero(cells.inside | cells.hits.any(axis=0)).tolist():
        mine = np.flatnonzero(tiles.cell == at)
        if cells.inside[at] and cells.within[at]:
            whole.append((len(units) + EXTRA - 1, mine))
        if cells.alone[at] >= 0:
            whole.append((int(cells.alone[at]), mine))
            continue
        cell, more = _without_whole_tiles(
            _share_cell(units, region, cells, at, lattice),
            mine,
            tiles.boxes(mine, lattice),
            by_pixel=len(units) if assign_nearest else None,
        )
        shared.append(cell)
        whole += more
    return whole, shared


# Cells that several rows share ----------------------------------------------------------------------------------------


class _SharedCell(NamedTuple):
    """A cell shared by several rows."""

    at: int
    """Its number in the block."""
    window: Window
    shapes: list[Shape]
    """Polygons inside the cell, none empty."""
    rest: int | None = None
    """The row of what the polygons leave of `open`; None where that is in no row, or a polygon of its own."""
    open: tuple[tuple[int, int], ...] = ()
    """Tiles (row, column in the cell) that polygons share with the rest."""


def _share_cell(
    units: Sequence[BaseGeometry], region: BaseGeometry | None, cells: _Cells, at: int, lattice: Lattice
) -> _SharedCell:
    """The polygons of a cell: its units and, if computed, the land outside all units and the whole region."""
    n, window = len(units), cells.windows[at]
    bounds = lattice.bounds(window)
    box = shapely.box(*bounds)
    shapes: list[Shape] = [(clipped(units[i], bounds), (i,)) for i in np.flatnonzero(cells.hits[:, at]).tolist()]
    if not cells.inside[at]:
        return _SharedCell(at, window, _not_empty(shapes))
    union = shapely.union_all([shape for shape, _ in shapes])
    within = bool(cells.within[at])
    apart = abs(sum(shape.area for shape, _ in shapes) - union.area) <= _TOUCH * box.area
    if shapes and within and apart and cells.belt.contains(box):  # half the work of a polygon of the rest
        return _SharedCell(at, window, _not_empty(shapes), rest=n)
    ground = box
    if not within:
        ground = union if region is None else polygonal(shapely.union_all([union, clipped(region, bounds)]))
    outside = polygonal(shapely.difference(ground, union))
    near = polygonal(shapely.intersection(outside, cells.belt))
    far = polygonal(shapely.difference(outside, cells.belt))
    if not within and far.equals(ground):
        return _SharedCell(at, window, _not_empty([*shapes, (far, (n + 1, n + 2))]))
    shapes += [(near, (n,)), (far, (n + 1,))]
    return _SharedCell(at, window, _not_empty(shapes if within else [*shapes, (ground, (n + 2,))]))


def _not_empty(shapes: Sequence[Shape]) -> list[Shape]:
    return [(shape, rows) for shape, rows in shapes if shape.area > 0]


def _without_whole_tiles(
    cell: _SharedCell, mine: NDArray[np.int64], boxes: NDArray[np.object_], *, by_pixel: int | None
) -> tuple[_SharedCell, list[tuple[int, NDArray[np.int64]]]]:
    """Remove tiles of a cell (`mine`, `boxes`) that lie wholly in one polygon or in the rest.

    Returns the remaining tiles, and rows with their tiles. Tiles of the row `by_pixel` stay.
    """
    shapes, whole = [], []
    touched, full = np.zeros((2, mine.size), bool)
    for shape, rows in cell.shapes:
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
    if cell.rest is not None:
        if cell.rest == by_pixel:
            open_ = ~full
        elif not touched.all():
            whole.append((cell.rest, mine[~touched]))
    places = tuple(divmod(int(i), CELL // TILE) for i in np.flatnonzero(open_))
    return cell._replace(shapes=shapes, open=places), whole


# Pixels ---------------------------------------------------------------------------------------------------------------


def _cut(
    cells: Sequence[_SharedCell], lattice: Lattice, window: Window, *, nearest_of: Sequence[BaseGeometry] | None
) -> Iterator[tuple[_SharedCell, Fractions]]:
    """Fractions of each cell, by row; pixels are numbered in the block.

    With `nearest_of`, pixels of the first row after these units go to the nearest unit.
    """
    shapes = [shape for cell in cells for shape, _ in cell.shapes]
    each = polygon_fractions(shapes, lattice, window)
    for cell in cells:
        parts = [
            (row, *pair)
            for (_, rows), pair in zip(cell.shapes, itertools.islice(each, len(cell.shapes)), strict=True)
            for row in rows
        ]
        if cell.rest is not None:
            parts.append((cell.rest, *_left_over(cell, parts, window)))
        if not parts:
            continue
        parts.sort(key=lambda part: part[0])
        fractions = Fractions(
            np.repeat([row for row, _, _ in parts], [len(pixel) for _, pixel, _ in parts]),
            np.concatenate([pixel for _, pixel, _ in parts]),
            np.concatenate([fraction for _, _, fraction in parts]),
        )
        yield cell, fractions if nearest_of is None else _to_nearest(fractions, nearest_of, lattice, window)


def _left_over(
    cell: _SharedCell, parts: Sequence[tuple[int, NDArray[np.int64], Array]], window: Window
) -> tuple[NDArray[np.int64], Array]:
    """Pixels of a cell's open tiles, and the share of each not covered by its polygons."""
    left = np.zeros(cell.window.shape)
    for row, col in cell.open:
        left[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE] = 1
    top, side = (part.start for part in cell.window.slices(window))
    for _, pixel, fraction in parts:
        y, x = row_col(pixel, window)
        left[y - top, x - side] -= fraction
    y, x = np.nonzero(left > 0)
    return (y + top) * window.width + x + side, left[y, x]


def _to_nearest(fractions: Fractions, units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Fractions:
    """Assign pixels of the first row after the units to the unit nearest to the pixel centre."""
    moved = fractions.unit == len(units)
    row, col = row_col(fractions.pixel[moved], window)
    x, y = lattice.coords(window)
    unit = fractions.unit.copy()
    unit[moved] = shapely.STRtree(units).nearest(shapely.points(x[col], y[row]))
    order = np.argsort(unit, kind="stable")
    return Fractions(unit[order], fractions.pixel[order], fractions.fraction[order])
