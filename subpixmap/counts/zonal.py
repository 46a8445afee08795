"""Totals per unit, object and period, summed from the blocks of a map.

In: the blocks of a run and administrative units. Out: sums in float64, in a fixed order, of what was observed and of
what was not. Coverage fractions (exactextract) are computed once a block and used for every period and object; a block
needs the memory of its own pixels whatever the size of the country. `table` turns the sums into the published rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.fractions import Fractions, unit_fractions, zonal_sums
from subpixmap.counts.noise import Noise, cell_noise
from subpixmap.counts.polygons import clipped, polygonal
from subpixmap.errors import VerificationFailed
from subpixmap.grid import Lattice, Window, owned

CELL = 128
"""Side of a ledger cell, pixels."""
NEAR = 1000.0
"""Metres from a unit within which what lies outside all units is told apart: a coarse coastline loses such places."""
_KEEP = 256 << 20  # bytes of counts of all periods that may stay in memory
_SIDE = 1024  # windows of a block that are summed at once, pixels: fractions of more would only cost memory

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MapBlock:
    """One block of a map, as the sums see it."""

    lattice: Lattice
    window: Window
    """The block's pixels."""
    chunks: tuple[Window, ...]
    """The inner chunks that the run computes; elsewhere the map says nothing."""
    record: Callable[[str], Mapping[str, Any] | None]
    """Period label -> what the ledger's valid record holds on its 128 px grid, None where there is no such record.
    `observed_px`, `out_of_domain_px` (cy, cx), `acquisition_observed_px` (acquisition, cy, cx), `acquisition_total`
    (acquisition, object, cy, cx) and `acquisitions`, their ids; each may be missing."""
    read: Callable[[str], Mapping[str, NDArray]]
    """Period label -> `count` and `presence` (object, y, x), `n_obs` (y, x); only asked for where there is a record."""
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
    extent: Array
    """(1,) pixels of the map: in computed chunks and owned."""
    whole: Array
    """(period, object) objects on all observed pixels of the map, summed without any unit: the check of the rest."""
    empty: Array
    """(object,) pixels observed in every period, in none of which the object is present."""
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
            extent=np.zeros(1),
            whole=np.zeros((periods, objects)),
            empty=np.zeros(objects),
            empty_total=np.zeros((periods, objects)),
            noise=Noise(),
        )

    def add(self, at: NDArray[np.int64], part: Sums) -> None:
        """Add the sums of the units at these positions, in place."""
        for name in _BY_UNIT:
            getattr(self, name)[at] += getattr(part, name)
        for name in ("extent", "whole", "empty", "empty_total"):
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
    assign_nearest: bool = False,
) -> Sums:
    """Sums of one block, for its units and, in two more rows, for what lies outside all of them.

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
    assign_nearest
        Count a pixel that lies outside all units, within 1 km of one, in the nearest.

    Returns
    -------
    Sums
        `len(units) + 2` rows. The last two are the map's extent (its computed chunks) less the union of the units: the
        part within 1 km of a unit, and the rest.
    """
    sums = Sums.zeros(len(units) + 2, len(periods), objects, max_obs)
    pieces = [_piece(units, block, window, assign_nearest) for window in _windows(block.window)]
    for piece in pieces:
        area, mapped = zonal_sums(piece.fractions, [piece.owned, piece.mapped], len(sums.area)).T
        sums.area[:] += area
        sums.mapped[:] += mapped
        sums.extent[:] += np.count_nonzero(piece.mapped)
    records = [block.record(period) for period in periods]
    common = np.full(block.window.shape, all(record is not None for record in records))
    ever = np.zeros((objects, *block.window.shape), bool)
    observed_px = [0] * len(periods)
    keep = len(periods) * ever.size * 4 <= _KEEP  # else every period is read once more
    counts: dict[str, NDArray] = {}
    for p, (period, record) in enumerate(zip(periods, records, strict=True)):
        if record is None:
            sums.n_obs[:, p, 0] += sums.mapped
            continue
        arrays = block.read(period)
        n_obs = arrays["n_obs"]
        observed = n_obs >= block.min_obs
        present = arrays["presence"] >= presence_threshold
        if keep:
            counts[period] = arrays["count"]
        common &= observed
        ever |= present
        by_cell, observed_px[p] = _add_coverage(sums, p, pieces, block.window, n_obs, observed, present)
        _add_cells(sums, p, record, by_cell)
    again = ((p, counts.pop(label, None)) for p, label in enumerate(periods) if records[p] is not None)
    reread = ((p, block.read(periods[p])["count"] if count is None else count) for p, count in again)
    found = _add_counts(sums, pieces, block.window, reread, common, ever)
    for p, seen in found.items():
        if seen != observed_px[p]:
            raise VerificationFailed(
                f"block {block.name}, period {periods[p]}: {seen} pixels hold a count, but by n_obs "
                f"{observed_px[p]} were observed; look with subpixmap verify"
            )
    return sums


class _Piece(NamedTuple):
    """A window of a block with what does not depend on the period."""

    window: Window
    fractions: Fractions
    owned: NDArray[np.bool_]
    mapped: NDArray[np.bool_]
    """Owned, and in a chunk that the run computes."""


def _piece(units: Sequence[BaseGeometry], block: MapBlock, window: Window, assign_nearest: bool) -> _Piece:
    lattice = block.lattice
    own = owned(lattice, window)
    computed = np.zeros(window.shape, bool)
    inside = [chunk for chunk in block.chunks if _overlaps(chunk, window)]
    for chunk in inside:
        computed[chunk.slices(window)] = True
    reach = int(np.ceil(NEAR / lattice.resolution)) + 2
    around = [clipped(unit, lattice.bounds(window.padded(reach))) for unit in units]
    extent = shapely.union_all([shapely.box(*lattice.bounds(chunk)) for chunk in inside])
    everything = shapely.union_all(around)
    outside = polygonal(shapely.difference(extent, everything))
    near = far = shapely.Polygon()
    if not outside.is_empty:
        # The border of "near" carries no number of its own, so it may be drawn coarsely.
        belt = shapely.buffer(shapely.simplify(everything, lattice.resolution), NEAR, quad_segs=4)
        near, far = polygonal(shapely.intersection(outside, belt)), polygonal(shapely.difference(outside, belt))
    fractions = unit_fractions([*around, near, far], lattice, window)
    if assign_nearest and not near.is_empty:
        fractions = _nearest(fractions, around, lattice, window)
    return _Piece(window, fractions, own, own & computed)


def _nearest(fractions: Fractions, units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Fractions:
    """Give the pixels of the first row after the units to the unit nearest to each pixel's centre."""
    moved = fractions.unit == len(units)
    rows, cols = np.divmod(fractions.pixel[moved], window.width)
    x, y = lattice.coords(window)
    places = np.array([i for i, unit in enumerate(units) if not unit.is_empty])
    tree = shapely.STRtree([units[i] for i in places])
    unit = fractions.unit.copy()
    unit[moved] = places[tree.nearest(shapely.points(x[cols], y[rows]))]
    order = np.lexsort((fractions.pixel, unit))
    return Fractions(unit[order], fractions.pixel[order], fractions.fraction[order])


def _add_coverage(
    sums: Sums,
    p: int,
    pieces: Sequence[_Piece],
    block: Window,
    n_obs: NDArray,
    observed: NDArray[np.bool_],
    present: NDArray[np.bool_],
) -> tuple[Array, int]:
    """Add what was observed in one period, in place.

    Returns observed pixels by (unit, ledger cell), and how many pixels of the block were observed.
    """
    n_units, bins = len(sums.area), sums.n_obs.shape[2]
    across = -(-block.width // CELL)
    by_cell, observed_px = np.zeros((n_units, across * -(-block.height // CELL))), 0
    for piece in pieces:
        rows, cols = piece.window.slices(block)
        seen = observed[rows, cols] & piece.owned
        observed_px += int(np.count_nonzero(seen))
        found = zonal_sums(piece.fractions, [seen, *(present[:, rows, cols] & seen)], n_units)
        sums.observed[:, p] += found[:, 0]
        sums.present[:, p] += found[:, 1:]
        unit, pixel, fraction = piece.fractions
        clear = np.where(piece.mapped, np.minimum(n_obs[rows, cols], bins - 1), bins).reshape(-1)[pixel]
        histogram = np.bincount(unit * (bins + 1) + clear, weights=fraction, minlength=n_units * (bins + 1))
        sums.n_obs[:, p] += histogram.reshape(n_units, bins + 1)[:, :bins]
        row, col = np.divmod(pixel, piece.window.width)
        cell = (row + rows.start) // CELL * across + (col + cols.start) // CELL
        weights = np.where(seen.reshape(-1)[pixel], fraction, 0)
        by_cell += np.bincount(unit * by_cell.shape[1] + cell, weights, by_cell.size).reshape(by_cell.shape)
    return by_cell, observed_px


def _add_cells(sums: Sums, p: int, record: Mapping[str, Any], by_cell: Array) -> None:
    """Add what the ledger knows of a period on its 128 px grid, in place."""
    if "out_of_domain_px" in record:
        known = np.asarray(record["observed_px"], float).reshape(-1)
        strange = np.asarray(record["out_of_domain_px"], float).reshape(-1)
        share = np.divide(strange, known, out=np.zeros_like(known), where=known > 0)
        sums.strange[:, p] += by_cell @ share
    if "acquisition_total" in record:
        deviations, informed = cell_noise(record["acquisition_observed_px"], record["acquisition_total"], by_cell)
        sums.informed[:, p] += informed
        sums.noise.note(p, [str(one) for one in record["acquisitions"]], deviations)


def _add_counts(
    sums: Sums,
    pieces: Sequence[_Piece],
    block: Window,
    counts: Iterable[tuple[int, NDArray]],
    common: NDArray[np.bool_],
    ever: NDArray[np.bool_],
) -> dict[int, int]:
    """Add the objects of each (period, count), in place; returns how many pixels hold a count in each."""
    n_units, objects = len(sums.area), len(ever)
    for piece in pieces:
        rows, cols = piece.window.slices(block)
        both = common[rows, cols] & piece.owned
        sums.common[:] += zonal_sums(piece.fractions, [both], n_units)[:, 0]
        sums.empty[:] += (both & ~ever[:, rows, cols]).sum(axis=(1, 2))
    found_px = {}
    for p, count in counts:
        found_px[p] = 0
        for piece in pieces:
            rows, cols = piece.window.slices(block)
            known = np.isfinite(count[:, rows, cols]).all(axis=0) & piece.owned
            both = common[rows, cols] & piece.owned
            values = np.where(known, count[:, rows, cols], 0).astype(np.float64)
            found = zonal_sums(piece.fractions, [*values, *(values * both)], n_units)
            sums.total[:, p] += found[:, :objects]
            sums.common_total[:, p] += found[:, objects:]
            sums.whole[p] += values.sum(axis=(1, 2))
            sums.empty_total[p] += (values * (both & ~ever[:, rows, cols])).sum(axis=(1, 2))
            found_px[p] += int(np.count_nonzero(known))
    return found_px


def _windows(block: Window) -> Iterator[Window]:
    for row in range(block.row, block.row + block.height, _SIDE):
        for col in range(block.col, block.col + block.width, _SIDE):
            height = min(_SIDE, block.row + block.height - row)
            yield Window(row, col, height, min(_SIDE, block.col + block.width - col))


def _overlaps(a: Window, b: Window) -> bool:
    return a.row < b.row + b.height and b.row < a.row + a.height and a.col < b.col + b.width and b.col < a.col + a.width
