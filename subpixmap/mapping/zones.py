"""Plans the blocks, chunks and cells to compute in each UTM zone of a region.

A block is planned if the region touches it and the zone owns a pixel of it. The same rule selects its inner chunks.
Only those cells of the chunks are computed that are near the region.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.grid import CELL, CHUNK, Block, Lattice, Window, owned, project, transformer, utm_epsg
from subpixmap.mapping.recipe import MappedBy
from subpixmap.region.outline import densify, mended, polygonal

_ONE_THREAD = threading.Lock()  # rasterio silences a warning of its own, which of two threads works for one only
_CLIP_DEGREES = 10.0  # the region is cut at this distance from the central meridian, because UTM is undefined beyond
_MARGIN = 8  # pixels around the region that are computed: a cell of 1 ha of a sample may reach 7 px beyond it


@dataclass(frozen=True)
class BlockPlan:
    """A block and its computed chunks."""

    block: Block
    chunks: tuple[Window, ...]
    """Inner chunks that touch the region and hold a pixel that the zone owns."""
    cells: str = ""
    """Which cells of the block are computed, a hexadecimal number (see `_hex`); empty where all of the chunks are."""

    @property
    def computed(self) -> NDArray[np.bool_]:
        """(row, column) of the block's cells: whether they are computed."""
        if self.cells:
            return _mask(self.cells, self.block.size // CELL)
        return _chunk_mask(self).repeat(CHUNK // CELL, axis=0).repeat(CHUNK // CELL, axis=1)

    def pixels(self) -> NDArray[np.bool_]:
        """(y, x) of the window: pixels of the cells that are computed; the zone may own only some of them."""
        rows, cols = self.window.slices(self.block.window)
        return self.computed.repeat(CELL, axis=0).repeat(CELL, axis=1)[rows, cols]

    @property
    def window(self) -> Window:
        """The smallest window that contains the chunks."""
        top, left = min(c.row for c in self.chunks), min(c.col for c in self.chunks)
        bottom = max(c.row + c.height for c in self.chunks)
        right = max(c.col + c.width for c in self.chunks)
        return Window(top, left, bottom - top, right - left)


@dataclass(frozen=True)
class Zone:
    """The blocks of one UTM zone."""

    lattice: Lattice
    blocks: tuple[BlockPlan, ...]
    """In row-major order."""

    @property
    def extent(self) -> Window:
        """The smallest window of whole blocks that contains all blocks: the map's x and y."""
        first = self.blocks[0].block
        rows, cols = {b.block.row for b in self.blocks}, {b.block.col for b in self.blocks}
        height, width = (max(rows) - min(rows) + 1) * first.size, (max(cols) - min(cols) + 1) * first.size
        return Window(min(rows) * first.size, min(cols) * first.size, height, width)


def plan_zones(
    geometry: BaseGeometry,
    lattices: Mapping[int, Lattice],
    resolution: float,
    block: int,
    mapped_by: MappedBy = "chunk",
) -> dict[int, Zone]:
    """Plan the blocks of each UTM zone that owns a part of the region.

    Parameters
    ----------
    geometry
        EPSG:4326.
    lattices
        Lattices of the zones with items. A zone without items is planned on the phase of the others: its land is not
        observed, which differs from being outside the region.
    resolution, block
        Metres; pixels.
    mapped_by
        Whether all cells of a chunk are computed, or those that come near the region.
    """
    common = next(iter(lattices.values()), Lattice(32601, resolution))
    zones = {}
    for epsg in _zones_of(geometry):
        lattice = lattices.get(epsg) or replace(common, epsg=epsg)
        near = near_zone(geometry, epsg)
        if blocks := _plan_blocks(near, lattice, block):
            if mapped_by == "cell":
                blocks = _only_cells_near(near, blocks)
            zones[epsg] = Zone(lattice, tuple(blocks))
    return zones


def near_zone(geometry: BaseGeometry, epsg: int) -> BaseGeometry:
    """The geometry in a zone's CRS, without parts far from the zone."""
    middle = (epsg % 100) * 6 - 183
    reach = shapely.box(middle - _CLIP_DEGREES, -90, middle + _CLIP_DEGREES, 90)
    if not reach.contains(geometry):
        geometry = densify(polygonal(shapely.intersection(geometry, reach)), 0.1)
    return mended(project(geometry, 4326, epsg))


def pixels_inside(geometry: BaseGeometry, lattice: Lattice, window: Window) -> NDArray[np.bool_]:
    """Mask (height, width): pixels that the zone owns and whose centre lies in a geometry of the lattice's CRS."""
    from rasterio.features import geometry_mask

    mine = owned(lattice, window)
    around = shapely.box(*lattice.bounds(window.padded(2)))
    if not mine.any() or shapely.contains(geometry, around):
        return mine
    near = polygonal(shapely.intersection(geometry, around))  # GDAL would walk along the whole coast for each window
    if near.is_empty:
        return np.zeros(window.shape, bool)
    with _ONE_THREAD:
        inside = geometry_mask([near], window.shape, lattice.transform(window), invert=True)
    mask: NDArray[np.bool_] = inside & mine
    return mask


def region_mask(geometry: BaseGeometry, lattice: Lattice) -> Callable[[Window], NDArray[np.bool_]]:
    """A function that says which pixels of a window lie in a geometry (EPSG:4326), see `pixels_inside`."""
    near = near_zone(geometry, lattice.epsg)
    shapely.prepare(near)
    return lambda window: pixels_inside(near, lattice, window)


def _plan_blocks(geometry: BaseGeometry, lattice: Lattice, size: int) -> list[BlockPlan]:
    """Blocks with their chunks, row by row.

    1. Find the blocks that the region touches.
    2. Keep those with a pixel that the zone owns.
    3. Do the same for the inner chunks of these blocks.
    4. Gather the chunks by block.

    Coarse before fine, and thousands of cells in one call: a country takes a second.
    """
    if geometry.is_empty:
        return []
    # 1. Part by part, because the bounds of a country with far islands are mostly sea.
    coarse: NDArray[np.int64] = np.empty((0, 2), np.int64)
    for part in getattr(geometry, "geoms", [geometry]):
        extent = lattice.window(part.bounds).aligned(size)
        rows, cols = np.mgrid[
            extent.row // size : (extent.row + extent.height) // size,
            extent.col // size : (extent.col + extent.width) // size,
        ]
        cells = np.column_stack([rows.ravel(), cols.ravel()])
        coarse = np.concatenate([coarse, cells[_touched(part, lattice, cells, size)]])
    # 2. The lattices of two zones overlap, but only one zone owns a place: otherwise it would be counted twice. Two
    #    parts may touch one block, hence `unique`.
    coarse = np.unique(coarse, axis=0)
    coarse = coarse[_owned_somewhere(lattice, coarse, size)]
    # 3. Only needed chunks of a block on a coast or border are computed.
    k = size // CHUNK
    inside = np.argwhere(np.ones((k, k), bool))
    fine = (coarse[:, None] * k + inside).reshape(-1, 2)
    fine = fine[_touched(geometry, lattice, fine, CHUNK)]
    fine = fine[_owned_somewhere(lattice, fine, CHUNK)]
    # 4. The plan's order, row by row, is the order in which blocks are run.
    chunks: dict[tuple[int, int], list[Window]] = {}
    for row, col in fine.tolist():
        chunks.setdefault((row // k, col // k), []).append(Window(row * CHUNK, col * CHUNK, CHUNK, CHUNK))
    return [BlockPlan(Block(lattice, row, col, size), tuple(inner)) for (row, col), inner in sorted(chunks.items())]


def _only_cells_near(geometry: BaseGeometry, blocks: Sequence[BlockPlan]) -> list[BlockPlan]:
    """The blocks with their cells that come near the geometry; it passes through few chunks of a country."""
    lattice, k = blocks[0].block.lattice, CHUNK // CELL
    chunks = np.array([(one.row // CHUNK, one.col // CHUNK) for plan in blocks for one in plan.chunks], np.int64)
    shapely.prepare(geometry)
    partly = chunks[~shapely.contains_properly(geometry, _boxes(lattice, chunks, CHUNK))]
    cells = (partly[:, None] * k + np.argwhere(np.ones((k, k), bool))).reshape(-1, 2)
    away = cells[~_touched(geometry, lattice, cells, CELL, margin=_MARGIN)]
    per_block = blocks[0].block.size // CELL
    by_block: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for row, col in away.tolist():
        place = row // per_block, col // per_block
        by_block.setdefault(place, []).append((row % per_block, col % per_block))
    return [_without(plan, by_block.get((plan.block.row, plan.block.col), [])) for plan in blocks]


def _without(plan: BlockPlan, away: Sequence[tuple[int, int]]) -> BlockPlan:
    """The plan of a block without some of its cells."""
    if not away:
        return plan
    computed = plan.computed
    computed[tuple(np.array(away).T)] = False
    return replace(plan, cells=_hex(computed))


def _touched(
    geometry: BaseGeometry, lattice: Lattice, cells: NDArray[np.int64], size: int, *, margin: int = 0
) -> NDArray[np.bool_]:
    """Which cells (row, col), in units of `size` pixels and grown by a margin of pixels, a geometry touches."""
    shapely.prepare(geometry)
    hit: NDArray[np.bool_] = shapely.intersects(geometry, _boxes(lattice, cells, size, margin))
    return hit


def _boxes(lattice: Lattice, cells: NDArray[np.int64], size: int, margin: int = 0) -> NDArray[np.object_]:
    """Outlines of cells (row, col), in units of `size` pixels and grown by a margin of pixels, in the lattice's CRS."""
    side, more = size * lattice.resolution, margin * lattice.resolution
    west = lattice.x_phase + cells[:, 1] * side
    north = lattice.top - cells[:, 0] * side
    boxes: NDArray[np.object_] = shapely.box(west - more, north - side - more, west + side + more, north + more)
    return boxes


def _owned_somewhere(lattice: Lattice, cells: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Cells that contain a pixel owned by the zone.

    Tests pixels of the outline, at most 256 px apart: a zone's border (a meridian or a parallel) bends by less than 2
    cm over that distance, so it cannot own an inner pixel without owning one of these.
    """
    at = np.unique(np.append(np.arange(0, size, CHUNK // 2), size - 1))
    lower, upper = np.zeros_like(at), np.full_like(at, size - 1)
    rows, cols = np.concatenate([at, at, lower, upper]), np.concatenate([lower, upper, at, at])
    x = lattice.x_phase + (cells[:, 1, None] * size + cols + 0.5) * lattice.resolution
    y = lattice.top - (cells[:, 0, None] * size + rows + 0.5) * lattice.resolution
    codes = utm_epsg(*transformer(lattice.epsg, 4326).transform(x, y))
    hit: NDArray[np.bool_] = (codes == lattice.epsg).any(axis=1)
    return hit


def _zones_of(geometry: BaseGeometry) -> list[int]:
    """UTM zones that may own a part of the geometry."""
    codes: set[int] = set()
    for west, south, east, north in shapely.bounds(np.array(getattr(geometry, "geoms", [geometry]))):
        lon = np.append(np.arange(west, east, 1.0), east)
        lat = np.append(np.arange(south, north, 1.0), north)
        codes |= set(utm_epsg(*np.meshgrid(lon, lat)).ravel().tolist())
    return sorted(codes)


def row_of(plan: BlockPlan) -> list[Any]:
    """The plan of a block as plain values: row, column, chunks, and the cells where not all of these are computed."""
    return [plan.block.row, plan.block.col, _hex(_chunk_mask(plan)), *([plan.cells] if plan.cells else [])]


def plan_of_row(lattice: Lattice, size: int, row: Sequence[Any]) -> BlockPlan:
    """The plan of a block that `row_of` wrote."""
    block = Block(lattice, row[0], row[1], size)
    wanted = _mask(row[2], size // CHUNK).ravel().tolist()
    chunks = tuple(chunk for chunk, is_wanted in zip(block.chunks(), wanted, strict=True) if is_wanted)
    return BlockPlan(block, chunks, *row[3:])


def _chunk_mask(plan: BlockPlan) -> NDArray[np.bool_]:
    """(row, column) of the block's inner chunks: whether the plan has them."""
    k = plan.block.size // CHUNK
    mask = np.zeros((k, k), bool)
    for chunk in plan.chunks:
        mask[chunk.row // CHUNK - plan.block.row * k, chunk.col // CHUNK - plan.block.col * k] = True
    return mask


def _hex(mask: NDArray[np.bool_]) -> str:
    """A mask as a hexadecimal number: bit i is the i-th place, row by row."""
    return f"{int.from_bytes(np.packbits(mask, bitorder='little').tobytes(), 'little'):x}"


def _mask(number: str, side: int) -> NDArray[np.bool_]:
    """The mask (side, side) that `_hex` wrote."""
    raw = np.frombuffer(int(number, 16).to_bytes(-(-(side**2) // 8), "little"), np.uint8)
    return np.unpackbits(raw, count=side**2, bitorder="little").astype(bool).reshape(side, side)
