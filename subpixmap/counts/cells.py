"""Cells of a block: which lie whole in one unit, outside all of them or beyond the region, and how the others are cut.

In: units, the region and the cells' boxes, in the lattice's CRS. Out: the row of each cell that need not be looked at
pixel by pixel, and the polygons of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.units import clipped, polygonal
from subpixmap.grid import Lattice, Window

NEAR = 1000.0
"""Metres from a unit within which what lies outside all units is told apart: a coarse coastline loses such places."""
EXTRA = 3
"""Rows after those of the units: outside all units within 1 km of one, outside and farther, and all of the region."""


_TOUCH = 1e-9
"""Share of a cell below which an overlap of units is the rounding of their common border."""


class Kinds(NamedTuple):
    """What the cells of a block are."""

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


def sort_cells(
    units: Sequence[BaseGeometry],
    region: BaseGeometry | None,
    boxes: NDArray,
    computed: NDArray[np.bool_],
    lattice: Lattice,
    *,
    assign_nearest: bool,
) -> Kinds:
    """Tell cells (boxes of the block, in the lattice's CRS) apart by what touches or holds them."""
    hits, full = _touching(units, boxes)
    touched, within = np.ones((2, len(boxes)), bool)
    if region is not None:
        (touched,), (within,) = _touching([region], boxes)
    inside = computed & (touched | hits.any(axis=0))
    within = within | full.any(axis=0)
    belt = _belt(units, lattice, bool((inside & ~full.any(axis=0)).any()))
    alone = np.where((hits.sum(axis=0) == 1) & full.any(axis=0), hits.argmax(axis=0) if len(units) else -1, -1)
    outside = inside & ~hits.any(axis=0)
    far = outside & ~shapely.intersects(belt, boxes)
    alone[far & within] = len(units) + 1
    if not assign_nearest:
        alone[outside & within & ~far & shapely.contains(belt, boxes)] = len(units)
    return Kinds(hits, inside, within, alone, far, belt)


class CutCell(NamedTuple):
    """A cell that several rows share."""

    cell: Window
    shapes: list[tuple[BaseGeometry, tuple[int, ...]]]
    """Polygons inside the cell, none empty, each with the rows that it is counted in."""
    rest: int | None
    """The row of what the polygons leave of the cell; None where that is in no row, or a polygon of its own."""


def cut_cell(
    units: Sequence[BaseGeometry],
    region: BaseGeometry | None,
    kinds: Kinds,
    at: int,
    lattice: Lattice,
    cell: Window,
) -> CutCell:
    """The polygons of a cell: its units, and, where it is computed, what is outside all of them and everything."""
    n, bounds = len(units), lattice.bounds(cell)
    box = shapely.box(*bounds)
    shapes: list[tuple[BaseGeometry, tuple[int, ...]]] = []
    for i in np.flatnonzero(kinds.hits[:, at]).tolist():
        shapes.append((clipped(units[i], bounds), (i,)))
    if not kinds.inside[at]:
        return _without_empty(cell, shapes)
    union = shapely.union_all([shape for shape, _ in shapes])
    within = bool(kinds.within[at])
    apart = abs(sum(shape.area for shape, _ in shapes) - union.area) <= _TOUCH * box.area
    if shapes and within and apart and kinds.belt.contains(box):  # half the work of a polygon of the rest
        return _without_empty(cell, shapes, rest=n)
    ground = box
    if not within:
        ground = union if region is None else polygonal(shapely.union_all([union, clipped(region, bounds)]))
    outside = polygonal(shapely.difference(ground, union))
    near, far = polygonal(shapely.intersection(outside, kinds.belt)), polygonal(shapely.difference(outside, kinds.belt))
    if not within and far.equals(ground):
        return _without_empty(cell, [*shapes, (far, (n + 1, n + 2))])
    shapes += [(near, (n,)), (far, (n + 1,))]
    return _without_empty(cell, shapes if within else [*shapes, (ground, (n + 2,))])


def _without_empty(
    cell: Window, shapes: Sequence[tuple[BaseGeometry, tuple[int, ...]]], *, rest: int | None = None
) -> CutCell:
    return CutCell(cell, [(shape, rows) for shape, rows in shapes if shape.area > 0], rest)


def _touching(shapes: Sequence[BaseGeometry], boxes: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(shape, box): which boxes each shape touches, and which it holds whole."""
    hits, full = (np.zeros((len(shapes), len(boxes)), bool) for _ in range(2))
    for i, shape in enumerate(shapes):
        shapely.prepare(shape)
        hits[i], full[i] = shapely.intersects(shape, boxes), shapely.contains(shape, boxes)
    return hits, full


def _belt(units: Sequence[BaseGeometry], lattice: Lattice, needed: bool) -> BaseGeometry:
    """Everything within 1 km of a unit. Its outer border carries no number of its own, so it is drawn coarsely."""
    if not needed or not len(units):
        return shapely.Polygon()
    belt = shapely.buffer(shapely.simplify(shapely.union_all(units), lattice.resolution), NEAR, quad_segs=4)
    shapely.prepare(belt)
    return belt
