"""Totals per unit, object and period, summed from the blocks of a map.

In: the blocks of a run and administrative units. Out: sums in float64, in a fixed order, of what was observed and of
what was not. Coverage fractions (exactextract) are computed once a block and used for every period and object; a block
needs the memory of its own pixels whatever the size of the country. `table` turns the sums into the published rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.cover import Cover
from subpixmap.counts.make_cover import cover_block
from subpixmap.counts.noise import Noise, cell_noise
from subpixmap.errors import VerificationFailed
from subpixmap.grid import Lattice, Window
from subpixmap.mapping.quantise import STEP, is_known, step_of

_KEEP = 256 << 20  # bytes of counts of all periods that may stay in memory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MapBlock:
    """One block of a map, as the sums see it."""

    lattice: Lattice
    window: Window
    """The block's pixels."""
    chunks: tuple[Window, ...]
    """The inner chunks that the run computes."""
    record: Callable[[str], Mapping[str, Any] | None]
    """Period label -> what the ledger's valid record holds on its 128 px grid, None where there is no such record.
    `observed_px`, `out_of_domain_px` (cy, cx), `acquisition_observed_px` (acquisition, cy, cx), `acquisition_total`
    (acquisition, object, cy, cx) and `acquisitions`, their ids; each may be missing."""
    read: Callable[[Sequence[str], Mapping[str, Sequence[Window]]], Iterator[Mapping[str, NDArray]]]
    """Period labels and names of arrays, with the chunks that are wanted of each -> stacks of these chunks, in their
    order, one period after the other: `count` and `presence` (object, chunk, 256, 256), `n_obs` (chunk, 256, 256).
    Counts and presence are numbers with NaN where nothing was observed, or the whole steps that the map stores (see
    `mapping.encoding`). Periods without a record are not asked for."""
    min_obs: int = 1
    """Clear observations that make a pixel observed."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.lattice.epsg}, rows from {self.window.row}, columns from {self.window.col}"


@dataclass(frozen=True)
class Sums:
    """Sums over pixels, each weighted by the share of it that the unit covers."""

    area: Array
    """(unit,) pixels that the unit's zones own."""
    mapped: Array
    """(unit,) of these, pixels in chunks that the run computes."""
    observed: Array
    """(unit, period) pixels observed."""
    total: Array
    """(unit, period, object) objects on observed pixels."""
    present: Array
    """(unit, period, object) pixels observed with presence at or above the threshold."""
    strange: Array
    """(unit, period) pixels observed whose inputs are unlike the training data, from the ledger's cells."""
    n_obs: Array
    """(unit, period, k) mapped pixels by number of clear observations; the last k holds all larger numbers."""
    common: Array
    """(unit,) pixels observed in every period."""
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
    def zeros(cls, units: int, periods: int, objects: int, max_obs: int) -> Sums:
        """Sums of nothing."""
        one, two, three = (units,), (units, periods), (units, periods, objects)
        return cls(
            area=np.zeros(one),
            mapped=np.zeros(one),
            observed=np.zeros(two),
            total=np.zeros(three),
            present=np.zeros(three),
            strange=np.zeros(two),
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
        for name in _BY_UNIT:
            getattr(self, name)[at] += getattr(part, name)
        for name in ("empty", "empty_total"):
            getattr(self, name)[...] += getattr(part, name)
        self.noise.add(at, part.noise)


_BY_UNIT = ("area", "mapped", "observed", "total", "present", "strange", "n_obs", "common", "common_total", "informed")


def block_sums(
    units: Sequence[BaseGeometry],
    block: MapBlock,
    periods: Sequence[str],
    objects: int,
    *,
    max_obs: int,
    presence_threshold: float = 0.5,
    region: BaseGeometry | None = None,
    assign_nearest: bool = False,
) -> Sums:
    """Sums of one block, for its units and, in more rows, for what lies outside all of them and for everything.

    Parameters
    ----------
    units
        Valid polygons in the CRS of the block's lattice: all that come within 1 km of the block.
    block
        The block.
    periods
        Labels, in the order of the result.
    objects
        Number of objects in the map.
    max_obs
        Largest number of clear observations told apart.
    presence_threshold
        A pixel holds the object at or above it.
    region
        What is accounted for besides the units, in the lattice's CRS; all of the computed chunks without it.
    assign_nearest
        Count a pixel of the region that lies outside all units, within 1 km of one, in the nearest.

    Returns
    -------
    Sums
        `len(units) + EXTRA` rows. The last are the region less the union of the units, the part within 1 km of a unit
        and the rest, and the region with the units, summed without looking at any unit: the check of all others.
    """
    cover = cover_block(units, block.lattice, block.window, block.chunks, region=region, assign_nearest=assign_nearest)
    near = cover.near()
    sums = Sums.zeros(cover.n_units, len(periods), objects, max_obs)
    sums.area[:] = cover.area
    sums.mapped[:] = cover.sums(cover.mapped).sum(axis=1)
    records = {p: record for p, period in enumerate(periods) if (record := block.record(period)) is not None}
    sums.n_obs[:, [p for p in range(len(periods)) if p not in records], 0] += sums.mapped[:, None]
    done = [periods[p] for p in records]
    common = near.mapped if len(records) == len(periods) else np.zeros_like(near.mapped)
    ever = np.zeros((objects, *near.mapped.shape), bool)
    # What is far from all units is in no row but that of what lies outside: its counts are enough.
    wanted = {"n_obs": near.chunks, "presence": near.chunks, "count": cover.chunks}
    keep = len(done) * objects * cover.mapped.size * 4 <= _KEEP  # else the counts are read twice
    counts: list[NDArray] = []
    for (p, record), arrays in zip(records.items(), block.read(done, wanted), strict=True):
        known = cover.mapped & _known(arrays["count"])
        observed = known[: near.n_near]
        _require_alike(observed, near.mapped & (arrays["n_obs"] >= block.min_obs), block, periods[p])
        present = _at_least(arrays["presence"], presence_threshold) & observed
        common = common & observed
        ever |= present
        by_cell = cover.sums(known)
        sums.observed[:, p] += by_cell.sum(axis=1)
        _add_coverage(sums, p, near, arrays["n_obs"], present, by_cell, record)
        if keep:
            counts.append(arrays["count"])
    nearby = near.whole_tiles_nearby()
    _add_common(sums, near, nearby, common, ever)
    again = iter(counts) if keep else (arrays["count"] for arrays in block.read(done, {"count": cover.chunks}))
    for p, count in zip(records, again, strict=True):
        _add_counts(sums, p, cover, near, nearby, count, common, ever)
    return sums


def _known(count: NDArray) -> NDArray[np.bool_]:
    """Where every object has a count; one by one, which takes a tenth of the time of a test over the first axis."""
    known = is_known(count[0])
    for layer in count[1:]:
        known &= is_known(layer)
    return known


def _at_least(values: NDArray, threshold: float) -> NDArray[np.bool_]:
    """Where values or steps are at or above a positive number."""
    found: NDArray[np.bool_] = values >= (math.ceil(threshold / STEP) if values.dtype.kind == "i" else threshold)
    return found


def _require_alike(observed: NDArray[np.bool_], clear: NDArray[np.bool_], block: MapBlock, period: str) -> None:
    found, expected = np.count_nonzero(observed), np.count_nonzero(clear)
    if found != expected:
        raise VerificationFailed(
            f"block {block.name}, period {period}: {found} pixels hold a count, but by n_obs {expected} were observed; "
            "look with subpixmap verify"
        )


def _add_coverage(
    sums: Sums,
    p: int,
    near: Cover,
    n_obs: NDArray,
    present: NDArray[np.bool_],
    by_cell: Array,
    record: Mapping[str, Any],
) -> None:
    """Add what was observed in one period, in place, and what the ledger knows of it on its 128 px grid."""
    sums.n_obs[:, p] += near.histogram(n_obs, sums.n_obs.shape[2])
    for o, layer in enumerate(present):
        if layer.any():
            sums.present[:, p, o] += near.sums(layer).sum(axis=1)
    if "out_of_domain_px" in record:
        known = np.asarray(record["observed_px"], float).reshape(-1)
        strange = np.asarray(record["out_of_domain_px"], float).reshape(-1)
        share = np.divide(strange, known, out=np.zeros_like(known), where=known > 0)
        sums.strange[:, p] += (by_cell * share).sum(axis=1)
    if "acquisition_total" in record:
        deviations, informed = cell_noise(record["acquisition_observed_px"], record["acquisition_total"], by_cell)
        sums.informed[:, p] += informed
        sums.noise.note(p, [str(one) for one in record["acquisitions"]], deviations)


def _add_common(
    sums: Sums, near: Cover, nearby: NDArray[np.int64], common: NDArray[np.bool_], ever: NDArray[np.bool_]
) -> None:
    """Add what every period observed, in place."""
    sums.common[:] += near.sums(common).sum(axis=1)
    for o, layer in enumerate(ever):
        sums.empty[o] += near.by_tile(common & ~layer)[nearby].sum()


def _add_counts(
    sums: Sums,
    p: int,
    cover: Cover,
    near: Cover,
    nearby: NDArray[np.int64],
    count: NDArray,
    common: NDArray[np.bool_],
    ever: NDArray[np.bool_],
) -> None:
    """Add the objects of one period, in place. Sums of steps are whole numbers: exact in any order."""
    step = step_of(count)
    known = cover.mapped & _known(count)
    for o, layer in enumerate(count):
        values = layer * known if layer.dtype.kind == "i" else np.where(known, layer, 0)
        sums.total[:, p, o] += cover.sums(values).sum(axis=1) * step
        shared = values[: near.n_near] * common
        in_common = near.by_tile(shared)
        sums.common_total[:, p, o] += near.sums(shared, in_common).sum(axis=1) * step
        there = near.by_tile(shared * ever[o])[nearby].sum() if ever[o].any() else 0
        sums.empty_total[p, o] += (in_common[nearby].sum() - there) * step
