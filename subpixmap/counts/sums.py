"""Sums the blocks of a map per unit, object and period.

In: the blocks of a run and administrative units. Out: sums in float64 of observed and unobserved pixels. Blocks are
summed in this process or on Dask workers, and added in the given order, so the result does not depend on the workers.
Coverage fractions are computed once per block for all periods and objects. Memory holds a few blocks and the sums,
whatever the size of the country.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.blocks import Cells, MapBlock
from subpixmap.counts.cover import EXTRA, NEAR, Cover
from subpixmap.counts.facts import Facts
from subpixmap.counts.fractions import unmapped_area
from subpixmap.counts.make_cover import cover_block
from subpixmap.counts.noise import Noise, cell_noise
from subpixmap.counts.units import Ground, Units, cells_of, clipped
from subpixmap.errors import VerificationFailed
from subpixmap.grid import Lattice, Window
from subpixmap.mapping.quantise import STEP, is_known, step_of
from subpixmap.model.mean import member_name
from subpixmap.progress import track

if TYPE_CHECKING:
    from distributed import Client

_KEEP = 256 << 20  # bytes of counts of all periods that may stay in memory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Sums over pixels, weighted by the share that the unit covers."""

    area: Array
    """(unit,) pixels that the unit's zones own."""
    mapped: Array
    """(unit,) of these, pixels that the run computes."""
    observed: Array
    """(unit, period) pixels observed."""
    total: Array
    """(unit, period, object) objects on observed pixels."""
    by_model: Array
    """(unit, period, object, network) objects by each network of the model alone, where the map keeps them apart."""
    present: Array
    """(unit, period, object) pixels observed with presence at or above the threshold."""
    out_of_domain: Array
    """(unit, period) pixels observed whose inputs are unlike the training data, from the ledger's cells."""
    n_obs: Array
    """(unit, period, k) mapped pixels by number of clear observations; the last k holds all larger numbers."""
    common: Array
    """(unit,) pixels observed in every period that is compared (not in `Facts.unobserved`)."""
    common_total: Array
    """(unit, period, object) objects on those."""
    informed: Array
    """(unit, period) pixels observed in ledger cells that two or more acquisitions saw: the noise is known there."""
    empty: Array
    """(object,) pixels observed in every period, in none of which the object is present, in tiles of the region that
    are not farther than 1 km from all units."""
    empty_total: Array
    """(period, object) what the map nevertheless counts there."""
    noise: Noise
    """Deviations of single acquisitions."""

    @classmethod
    def zeros(cls, units: int, periods: int, objects: int, max_obs: int, spread: int = 0) -> Sums:
        """Empty sums."""
        one, two, three = (units,), (units, periods), (units, periods, objects)
        return cls(
            area=np.zeros(one),
            mapped=np.zeros(one),
            observed=np.zeros(two),
            total=np.zeros(three),
            by_model=np.zeros((*three, spread)),
            present=np.zeros(three),
            out_of_domain=np.zeros(two),
            n_obs=np.zeros((*two, max_obs + 1)),
            common=np.zeros(one),
            common_total=np.zeros(three),
            informed=np.zeros(two),
            empty=np.zeros(objects),
            empty_total=np.zeros((periods, objects)),
            noise=Noise(),
        )

    def add(self, at: NDArray[np.int64], part: Sums) -> None:
        """Add the sums of the units at these positions, in place."""
        for field in fields(self):
            if field.name == "noise":
                self.noise.add(at, part.noise)
            elif field.name in ("empty", "empty_total"):  # of the region
                getattr(self, field.name)[...] += getattr(part, field.name)
            else:
                getattr(self, field.name)[at] += getattr(part, field.name)


# All blocks -----------------------------------------------------------------------------------------------------------


def sum_blocks(
    blocks: Iterable[MapBlock],
    units: Units,
    facts: Facts,
    *,
    size: int,
    region: BaseGeometry | None = None,
    client: Client | None = None,
) -> Sums:
    """Sum over all blocks; the rows after the units are outside near, outside far, and the whole region.

    1. Give each block the units near it.
    2. Sum it, here or on a worker.
    3. Add the parts in the order of the blocks: sums in float64 depend on their order.
    4. Add the area of units outside all blocks: the area of a unit includes unmapped land.

    `size` is the side of a block, pixels. `region` (EPSG:4326) is the region to account for in addition to the units;
    by default everything mapped.
    """
    n = len(units)
    sums = Sums.zeros(n + EXTRA, len(facts.periods), len(facts.objects), facts.max_obs, facts.spread)
    by_block, ground = _UnitsByBlock(units, size), Ground(region)
    calls = (  # 1. Lazily: polygons are cut out for a few blocks at a time.
        (at, polygons, block, ground.at(block.lattice, block.window))
        for block in blocks
        for at, polygons in [by_block.take(block.lattice, block.window)]
    )
    parts = _in_order(partial(block_sums, facts=facts), calls, client)  # 2.
    for at, part in track(parts, "count", "blocks", total=len(blocks) if isinstance(blocks, Sized) else None):
        sums.add(np.append(at, n + np.arange(EXTRA)), part)  # 3.
    sums.area[:n] += by_block.rest(facts.resolution)  # 4.
    return sums


Call = tuple[NDArray[np.int64], Sequence[BaseGeometry], MapBlock, BaseGeometry | None]
"""Positions of units, their polygons around the block, the block, the region around it."""


def _in_order(
    task: Callable[..., Sums], calls: Iterable[Call], client: Client | None
) -> Iterator[tuple[NDArray[np.int64], Sums]]:
    """Yield (positions, sums) in the order of the calls; a few at a time on the workers of a client.

    Four calls per core: enough to keep workers busy, few enough for the memory of the scheduler.
    """
    if client is None:
        for at, polygons, block, region in calls:
            yield at, task(polygons, block, region=region)
        return
    cores: dict[str, int] = cast(Any, client).ncores()
    ahead = 4 * max(1, sum(cores.values()))
    waiting: deque[tuple[NDArray[np.int64], Any]] = deque()
    for at, polygons, block, region in calls:
        waiting.append((at, client.submit(task, polygons, block, region=region, pure=False)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


class _UnitsByBlock:
    """Selects the units of each block, and keeps track of parts of units outside all blocks."""

    def __init__(self, units: Units, size: int) -> None:
        self.n, self.polygons = len(units), units.by_zone()
        self.size = size
        self.lattices: dict[int, Lattice] = {}
        self.cells: dict[int, dict[tuple[int, int], list[int]]] = {}
        self.taken: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def take(self, lattice: Lattice, window: Window) -> tuple[NDArray[np.int64], list[BaseGeometry]]:
        cells = self._cells(lattice)
        reach = math.ceil(NEAR / lattice.resolution) + 4
        cell = window.row // self.size, window.col // self.size
        self.taken[lattice.epsg].append(cell)
        positions = cells.pop(cell, [])
        return self._around(lattice, window.padded(reach), positions)

    def rest(self, resolution: float) -> NDArray[np.float64]:
        """(unit,) pixels outside all blocks, weighted by coverage and owned by their zone."""
        area = np.zeros(self.n)
        for epsg, polygons in self.polygons.items():
            lattice = self.lattices.get(epsg) or Lattice(epsg, resolution)
            held = [Window(row * self.size, col * self.size, self.size, self.size) for row, col in self.taken[epsg]]
            for position in sorted({one for positions in self._cells(lattice).values() for one in positions}):
                extent = lattice.window(polygons[position].bounds).aligned(self.size)
                side = self.size << (max(extent.shape) // self.size - 1).bit_length()
                square = Window(extent.row, extent.col, side, side)
                area[position] += unmapped_area(polygons[position], lattice, square, held)
        return area

    def _cells(self, lattice: Lattice) -> dict[tuple[int, int], list[int]]:
        if lattice.epsg not in self.cells:
            self.lattices[lattice.epsg] = lattice
            self.cells[lattice.epsg] = cells_of(
                self.polygons.get(lattice.epsg, []), lattice, self.size, reach=NEAR + 2 * lattice.resolution
            )
        return self.cells[lattice.epsg]

    def _around(
        self, lattice: Lattice, around: Window, positions: list[int]
    ) -> tuple[NDArray[np.int64], list[BaseGeometry]]:
        near = [clipped(self.polygons[lattice.epsg][position], lattice.bounds(around)) for position in positions]
        return np.array(positions, np.int64), near


# One block ------------------------------------------------------------------------------------------------------------


def block_sums(
    units: Sequence[BaseGeometry], block: MapBlock, *, facts: Facts, region: BaseGeometry | None = None
) -> Sums:
    """Sum one block for its units, for the land outside all units, and for the whole region.

    1. Compute which unit covers which pixel.
    2. Find the periods that have a record.
    3. Read each period: sum observed pixels, and collect the pixels observed in all periods.
    4. Sum the objects of each period, over all observed pixels and over those observed in all periods.
    5. Sum the objects of each network of the model.

    Parameters
    ----------
    units
        Valid polygons in the CRS of the block's lattice: all units within 1 km of the block.
    block
        The block.
    facts
        Information about its map.
    region
        Region to account for in addition to the units, in the lattice's CRS; by default all computed chunks.

    Returns
    -------
    Sums
        `len(units) + EXTRA` rows. The last are the region outside all units (within 1 km of a unit, and the rest), and
        the region with the units, summed independently of units as a check.

    Raises
    ------
    VerificationFailed
        Counts and numbers of observations of the block contradict each other.
    """
    # 1. Once for all periods and objects: cutting polygons is the costly part. Chunks far from all units are in no
    #    unit's row, so of them only the counts are read.
    place = block.lattice, block.window, block.chunks
    cover = cover_block(units, *place, computed=block.computed, region=region, assign_nearest=facts.assign_nearest)
    near = cover.near()
    labels, objects = [period.label for period in facts.periods], len(facts.objects)
    sums = Sums.zeros(cover.n_units, len(labels), objects, facts.max_obs, facts.spread)
    sums.area[:] = cover.area
    sums.mapped[:] = cover.sums(cover.mapped).sum(axis=1)
    # 2. The record is the commit: arrays without one may be half-written, so they count as not observed.
    records = {p: cells for p, label in enumerate(labels) if (cells := block.record(label)) is not None}
    sums.n_obs[:, [p for p in range(len(labels)) if p not in records], 0] += sums.mapped[:, None]
    done = [labels[p] for p in records]
    # 3. Clouds differ from period to period; only pixels that all periods observed can be compared. A period in which
    #    the whole map observed nothing would leave none, so it is not compared.
    compared = {p for p, label in enumerate(labels) if label not in facts.unobserved}
    everywhere = near.mapped if compared <= records.keys() else np.zeros_like(near.mapped)
    ever_present = np.zeros((objects, *near.mapped.shape), bool)
    wanted = {"n_obs": near.chunks, "presence": near.chunks, "count": cover.chunks}
    keep = len(done) * objects * cover.mapped.size * 4 <= _KEEP  # else the counts are read twice
    counts: list[NDArray[Any]] = []
    for (p, cells), arrays in zip(records.items(), block.read(done, wanted), strict=True):
        counted = cover.mapped & _observed(arrays["count"])
        observed = counted[: near.n_near]
        _require_alike(observed, near.mapped & (arrays["n_obs"] >= block.min_obs), block, labels[p])
        present = _at_least(arrays["presence"], facts.model.presence_threshold) & observed
        if p in compared:
            everywhere = everywhere & observed
        ever_present |= present
        _add_coverage(sums, p, near, arrays["n_obs"], present)
        _add_cells(sums, p, cover.sums(counted), cells)
        if keep:
            counts.append(arrays["count"])
    # 4. A second pass, because pixels observed in all periods are known only after the last period.
    common = _Common(near, near.whole_tiles_nearby(), everywhere, ever_present)
    _add_common(sums, common)
    again = iter(counts) if keep else (arrays["count"] for arrays in block.read(done, {"count": cover.chunks}))
    for p, count in zip(records, again, strict=True):
        _add_counts(sums, p, cover, common, count)
    # 5. One network at a time, so that memory does not depend on their number.
    for name, total in zip(map(member_name, range(facts.spread)), np.moveaxis(sums.by_model, 3, 0), strict=True):
        for p, arrays in zip(records, block.read(done, {name: cover.chunks}), strict=True):
            _add_objects(total[:, p], cover, arrays[name])
    return sums


class _Common(NamedTuple):
    """Common pixels of all periods, in chunks near a unit."""

    cover: Cover
    """Of these chunks."""
    tiles: NDArray[np.int64]
    """Tiles of the region that are not farther than 1 km from all units."""
    observed: NDArray[np.bool_]
    """(chunk, 256, 256) observed in every period."""
    present: NDArray[np.bool_]
    """(object, chunk, 256, 256) present in any period."""


def _where(observed: NDArray[np.bool_], layer: NDArray[Any]) -> NDArray[Any]:
    """Values or steps of observed pixels, 0 elsewhere."""
    return layer * observed if layer.dtype.kind == "i" else np.where(observed, layer, 0)


def _observed(count: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels where every object has a count. By object, which is ten times faster than one test over the first axis."""
    observed = is_known(count[0])
    for layer in count[1:]:
        observed &= is_known(layer)
    return observed


def _at_least(values: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Pixels with values or steps at or above a positive number."""
    above: NDArray[np.bool_] = values >= (math.ceil(threshold / STEP) if values.dtype.kind == "i" else threshold)
    return above


def _require_alike(observed: NDArray[np.bool_], clear: NDArray[np.bool_], block: MapBlock, period: str) -> None:
    counted, expected = np.count_nonzero(observed), np.count_nonzero(clear)
    if counted != expected:
        raise VerificationFailed(
            f"block {block.name}, period {period}: {counted} pixels have a count, but n_obs says that {expected} "
            "were observed; run subpixmap verify"
        )


def _add_coverage(sums: Sums, p: int, near: Cover, n_obs: NDArray[Any], present: NDArray[np.bool_]) -> None:
    """Add observations and presence of one period, in place."""
    sums.n_obs[:, p] += near.histogram(n_obs, sums.n_obs.shape[2])
    for o, layer in enumerate(present):
        if layer.any():
            sums.present[:, p, o] += near.sums(layer).sum(axis=1)


def _add_cells(sums: Sums, p: int, observed: Array, cells: Cells) -> None:
    """Add observed pixels (unit, cell) and the ledger's cell values of one period, in place."""
    sums.observed[:, p] += observed.sum(axis=1)
    if "out_of_domain_px" in cells:
        observed_px = np.asarray(cells["observed_px"], float).reshape(-1)
        unlike_px = np.asarray(cells["out_of_domain_px"], float).reshape(-1)
        share = np.divide(unlike_px, observed_px, out=np.zeros_like(observed_px), where=observed_px > 0)
        sums.out_of_domain[:, p] += (observed * share).sum(axis=1)
    if "acquisition_total" in cells:
        deviations, informed = cell_noise(cells["acquisition_observed_px"], cells["acquisition_total"], observed)
        sums.informed[:, p] += informed
        sums.noise.note(p, [str(one) for one in cells["acquisitions"]], deviations)


def _add_common(sums: Sums, common: _Common) -> None:
    """Add pixels observed in all periods, in place."""
    sums.common[:] += common.cover.sums(common.observed).sum(axis=1)
    for o, layer in enumerate(common.present):
        sums.empty[o] += common.cover.by_tile(common.observed & ~layer)[common.tiles].sum()


def _add_counts(sums: Sums, p: int, cover: Cover, common: _Common, count: NDArray[Any]) -> None:
    """Add the objects of one period, in place. Sums of steps are whole numbers: exact in any order."""
    step = step_of(count)
    observed = cover.mapped & _observed(count)
    for o, (layer, present) in enumerate(zip(count, common.present, strict=True)):
        values = _where(observed, layer)
        sums.total[:, p, o] += cover.sums(values).sum(axis=1) * step
        shared = values[: common.cover.n_near] * common.observed
        by_tile = common.cover.by_tile(shared)
        sums.common_total[:, p, o] += common.cover.sums(shared, by_tile).sum(axis=1) * step
        there = common.cover.by_tile(shared * present)[common.tiles].sum() if present.any() else 0
        sums.empty_total[p, o] += (by_tile[common.tiles].sum() - there) * step


def _add_objects(total: Array, cover: Cover, count: NDArray[Any]) -> None:
    """Add counts (object, chunk, 256, 256) to totals (unit, object), in place."""
    observed = cover.mapped & _observed(count)
    for o, layer in enumerate(count):
        total[:, o] += cover.sums(_where(observed, layer)).sum(axis=1) * step_of(count)
