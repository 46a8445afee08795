"""Makes the sampling frame of a map: all cells with their map values.

In: the blocks of a run and its units. Out: all cells whose centre lies in a unit. Cells are squares of whole pixels,
numbered from the origin of their zone's lattice, so all runs of a place have the same cells. Rules at borders:

- unit: a cell belongs to the unit that contains its centre; map totals of units stay exact (see `map_sums`);
- border of two zones: a cell belongs to the zone that owns its centre; pixels of the other zone are filled;
- shore, edge of the map, clouds: the map's density on the observed part of a cell fills the rest;
- mostly unobserved: the map value is 0, and the cell belongs to a separate stratum.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.blocks import MapBlock
from subpixmap.counts.units import Units
from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window, project, transformer, utm_epsg
from subpixmap.mapping.quantise import is_known, step_of
from subpixmap.progress import track

_CELL_ID = re.compile(r"(\d{5})-p(\d+)-r(-?\d+)-c(-?\d+)")
SEEN = 0.25
"""Smallest observed share of a cell; with less, filling the rest is too uncertain."""

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CellGrid:
    """Cells of a zone."""

    lattice: Lattice
    px: int
    """Pixels along a side."""

    def bounds(self, row: Ints, col: Ints) -> tuple[Any, Any, Any, Any]:
        """(west, south, east, north) of cells, metres."""
        step = self.px * self.lattice.resolution
        west, north = self.lattice.x_phase + col * step, self.lattice.top - row * step
        return west, north - step, west + step, north

    def centre(self, row: Ints, col: Ints) -> tuple[Array, Array]:
        """(x, y) of cells, metres."""
        west, south, east, north = self.bounds(row, col)
        return (west + east) / 2, (south + north) / 2


def cell_pixels(cell: float, resolution: float, *, option: str = "--cell") -> int:
    """Pixels along the side of a cell of `cell` metres; `option` is the name in messages.

    Raises
    ------
    InputError
        The side is not a whole number of pixels.
    """
    px = round(cell / resolution)
    if px < 1 or abs(px * resolution - cell) > 1e-6:
        raise InputError(f"{option} {cell:g}: the side of a cell must be a whole number of pixels of {resolution:g} m")
    return px


def cell_ids(epsg: Ints, row: Ints, col: Ints, px: int) -> list[str]:
    """Ids of cells; the same place has the same id in every run."""
    return [f"{e}-p{px}-r{r:06d}-c{c:06d}" for e, r, c in zip(epsg.tolist(), row.tolist(), col.tolist(), strict=True)]


def parse_cell_id(text: str) -> tuple[int, int, int, int]:
    """(EPSG, pixels, row, column) of a cell id; ValueError if invalid."""
    found = _CELL_ID.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a valid cell id")
    epsg, px, row, col = map(int, found.groups())
    return epsg, px, row, col


@dataclass(frozen=True)
class FrameCells:
    """All cells of a frame, ordered by zone, row and column."""

    grids: dict[int, CellGrid]
    """By EPSG code."""
    epsg: Ints
    """(cell,)."""
    row: Ints
    col: Ints
    unit: Ints
    """(cell, level) position of the unit that contains the centre, -1 for none; level 0 are the topmost units."""
    owned_px: Ints
    """(cell,) pixels that the zone owns and the run computes."""
    observed_px: Ints
    """(cell, period)."""
    observed: Array
    """(cell, period, object) objects on observed pixels."""
    present: NDArray[np.bool_]
    """(cell, period, object) whether any pixel holds the object, by presence."""

    def __len__(self) -> int:
        return len(self.epsg)

    @property
    def px(self) -> int:
        """Pixels along a side."""
        return next(iter(self.grids.values())).px

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """(cell, period) whether enough of the cell was observed."""
        return self.observed_px >= SEEN * self.px**2

    @cached_property
    def mapped(self) -> Array:
        """(cell, period, object) map value of the whole square; 0 where not observed."""
        density = self.observed / np.maximum(self.observed_px, 1)[..., None]
        return np.where(self.seen[..., None], density * self.px**2, 0.0)

    @cached_property
    def counted(self) -> Array:
        """(cell, period, object) the part of `mapped` and of unobserved cells already included in map totals.

        Objects on observed pixels, and filled values of pixels of another zone, which are observed there.
        """
        density = self.observed / np.maximum(self.observed_px, 1)[..., None]
        foreign = (self.px**2 - self.owned_px)[:, None, None]
        return self.observed + np.where(self.seen[..., None], density * foreign, 0.0)

    @cached_property
    def ids(self) -> list[str]:
        """Names."""
        return cell_ids(self.epsg, self.row, self.col, self.px)

    def centres(self) -> tuple[Array, Array]:
        """Longitude and latitude."""
        lon, lat = np.zeros((2, len(self)))
        for epsg, grid in self.grids.items():
            own = self.epsg == epsg
            if own.any():
                lon[own], lat[own] = transformer(epsg, 4326).transform(*grid.centre(self.row[own], self.col[own]))
        return lon, lat

    def take(self, keep: NDArray[Any]) -> FrameCells:
        """A selection of the cells."""
        names = ("epsg", "row", "col", "unit", "owned_px", "observed_px", "observed", "present")
        return FrameCells(self.grids, *(getattr(self, name)[keep] for name in names))


class _Part(NamedTuple):
    """Parts of cells in a block; a cell at its edge has parts in other blocks."""

    key: Ints
    """(part, 3) EPSG, row, column."""
    unit: Ints
    owned_px: Ints
    observed_px: Ints
    observed: Array
    present: NDArray[np.bool_]


def frame_cells(
    blocks: Iterable[MapBlock],
    units: Units,
    *,
    px: int,
    periods: Sequence[str],
    objects: Sequence[int],
    threshold: float,
) -> FrameCells:
    """The cells of a map.

    Parameters
    ----------
    blocks
        Blocks of the run.
    units
        A cell is in the frame if one of them contains its centre.
    px
        Pixels along the side of a cell.
    periods
        Labels.
    objects
        Positions in the map.
    threshold
        Minimum presence of a pixel with an object.

    Raises
    ------
    InputError
        No cell's centre lies in a unit.
    """
    find = _UnitFinder(units)
    grids: dict[int, CellGrid] = {}
    parts = []
    for block in track(blocks, "read the map", "blocks"):
        grid = grids.setdefault(block.lattice.epsg, CellGrid(block.lattice, px))
        parts += list(_parts_of(block, grid, find, periods, objects, threshold))
    if not parts:
        raise InputError("the frame is empty, because no cell has its centre in a unit; use a smaller --cell")
    joined = _Part(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    key, first, inverse = np.unique(joined.key, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)

    def added(values: NDArray[Any], kind: Any) -> NDArray[Any]:
        sums = np.zeros((len(key), *values.shape[1:]), kind)
        np.add.at(sums, inverse, values)
        return sums

    return FrameCells(
        grids,
        key[:, 0],
        key[:, 1],
        key[:, 2],
        joined.unit[first],
        added(joined.owned_px, np.int64),
        added(joined.observed_px, np.int64),
        added(joined.observed, np.float64),
        added(joined.present, np.int64) > 0,
    )


def _parts_of(
    block: MapBlock, grid: CellGrid, find: _UnitFinder, periods: Sequence[str], objects: Sequence[int], threshold: float
) -> Iterator[_Part]:
    """The cells of each chunk of a block that are in the frame."""
    done = [p for p, label in enumerate(periods) if block.record(label) is not None]
    kept = {}
    for at, chunk in enumerate(block.chunks):
        key = _keys(grid, chunk)
        unit = find(grid, key)
        if (inside := (unit >= 0).any(axis=1)).any():
            kept[at] = key[inside], unit[inside], inside
    chunks = [block.chunks[at] for at in kept]
    if not chunks:
        return
    shape = len(periods), len(objects)
    sums = {}
    for at, (key, unit, inside) in kept.items():
        own = _cell_sums(block.owned(block.chunks[at])[None], block.chunks[at], grid.px)[0][inside]
        none = np.zeros((len(key), *shape))
        sums[at] = _Part(key, unit, own, none[..., 0].astype(np.int64), none, none.astype(bool))
    wanted = {"count": chunks, "presence": chunks}
    for p, arrays in zip(done, block.read([periods[p] for p in done], wanted) if done else (), strict=True):
        counts, presence = arrays["count"], arrays["presence"]
        present = presence >= (threshold / step_of(presence))
        for i, (at, (_, _, inside)) in enumerate(kept.items()):
            chunk = block.chunks[at]
            known = block.owned(chunk)
            for layer in counts[:, i]:
                known = known & is_known(layer)
            values = np.where(known, counts[objects, i], 0) * step_of(counts)
            sums[at].observed_px[:, p] = _cell_sums(known[None], chunk, grid.px)[0][inside]
            sums[at].observed[:, p] = _cell_sums(values, chunk, grid.px)[:, inside].T
            sums[at].present[:, p] = (_cell_sums(present[objects, i] & known, chunk, grid.px) > 0)[:, inside].T
    yield from sums.values()


def _keys(grid: CellGrid, chunk: Window) -> Ints:
    """(cell, 3) EPSG, row and column of the cells that a chunk touches, row by row."""
    rows = np.arange(chunk.row // grid.px, (chunk.row + chunk.height - 1) // grid.px + 1)
    cols = np.arange(chunk.col // grid.px, (chunk.col + chunk.width - 1) // grid.px + 1)
    row, col = (axis.ravel() for axis in np.meshgrid(rows, cols, indexing="ij"))
    return np.stack([np.full(row.size, grid.lattice.epsg), row, col], axis=1)


def _cell_sums(layers: NDArray[Any], chunk: Window, px: int) -> NDArray[Any]:
    """(layer, y, x) on a chunk -> (layer, cell) sums, in the order of `_keys`."""
    starts = []
    for first, length in ((chunk.row, chunk.height), (chunk.col, chunk.width)):
        edges = np.arange(first // px, (first + length - 1) // px + 1) * px - first
        starts.append(np.maximum(edges, 0))
    kind = np.float64 if layers.dtype.kind == "f" else np.int64
    down = np.add.reduceat(layers, starts[0], axis=1, dtype=kind)
    sums: NDArray[Any] = np.add.reduceat(down, starts[1], axis=2, dtype=kind)
    return sums.reshape(len(layers), -1)


class _UnitFinder:
    """Finds the units that contain the centres of cells, one per level."""

    def __init__(self, units: Units) -> None:
        self.level = levels_of(units)
        self.n_levels = int(self.level.max(initial=0)) + 1
        self.polygons = units.by_zone()
        self.trees: dict[int, shapely.STRtree] = {}

    def __call__(self, grid: CellGrid, key: Ints) -> Ints:
        """(cell, level) positions; -1 where no unit contains the centre, or another zone owns it."""
        found = np.full((len(key), self.n_levels), -1, np.int64)
        epsg = grid.lattice.epsg
        if epsg not in self.polygons:
            return found
        tree = self.trees.setdefault(epsg, shapely.STRtree(self.polygons[epsg]))
        x, y = grid.centre(key[:, 1], key[:, 2])
        cell, unit = tree.query(shapely.points(x, y), predicate="intersects")
        # A centre on a border lies in both units: the first one in the table gets it, since it is written last.
        order = np.argsort(-unit, kind="stable")
        found[cell[order], self.level[unit[order]]] = unit[order]
        if cell.size:
            foreign = utm_epsg(*transformer(epsg, 4326).transform(x, y)) != epsg
            found[foreign] = -1
        return found


def levels_of(units: Units) -> Ints:
    """(unit,) how many of its ancestors are among the units."""
    position = {one: i for i, one in enumerate(units.table["unit_id"])}
    level = np.zeros(len(units), np.int64)
    for i, parent in enumerate(units.table["parent_id"]):
        passed = {i}
        while parent in position and position[parent] not in passed:
            passed.add(position[parent])
            level[i] += 1
            parent = units.table["parent_id"].iloc[position[parent]]
    return level


def near_cells(cells: FrameCells, present: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """(cell,) whether another cell within `reach` cells, also diagonally, is `present`."""
    from scipy.ndimage import maximum_filter1d

    near = np.zeros(len(cells), bool)
    for epsg in cells.grids:
        own = np.flatnonzero(cells.epsg == epsg)
        if not own.size:
            continue
        row, col = cells.row[own] - cells.row[own].min(), cells.col[own] - cells.col[own].min()
        grid = np.zeros((row.max() + 1, col.max() + 1), np.uint8)
        grid[row, col] = present[own]
        for axis in (0, 1):
            grid = maximum_filter1d(grid, 2 * reach + 1, axis=axis, mode="constant")
        near[own] = grid[row, col] > 0
    return near


def outside_of(cells: FrameCells, land: Sequence[BaseGeometry]) -> NDArray[np.bool_]:
    """(cell,) whether a cell touches none of these polygons (EPSG:4326)."""
    outside = np.ones(len(cells), bool)
    for epsg, grid in cells.grids.items() if len(land) else ():
        own = np.flatnonzero(cells.epsg == epsg)
        west, south, east, north = grid.bounds(cells.row[own], cells.col[own])
        tree = shapely.STRtree(shapely.box(west, south, east, north))
        hit = tree.query([project(one, 4326, epsg) for one in land], predicate="intersects")[1]
        outside[own[hit]] = False
    return outside
