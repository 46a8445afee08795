"""Sums -> the published rows: one per unit, object and period, with all columns of the contract.

In: a run folder (or any blocks of a map) and units. Out: a GeoDataFrame, the total of what lies outside all units, and
the balance of the two against the map. Blank means not known; it is never zero.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.polygons import Units, cells_of, clipped, prepare_units
from subpixmap.counts.zonal import NEAR, MapBlock, Sums, block_sums, unmapped_area
from subpixmap.grid import Lattice, Window
from subpixmap.periods import Period

if TYPE_CHECKING:
    import geopandas as gpd
    from distributed import Client

COLUMNS: dict[str, str] = {
    "unit_id": "string",
    "unit_name": "string",
    "parent_id": "string",
    "object": "string",
    "object_definition": "string",
    "measure": "string",
    "period": "string",
    "period_start": "string",
    "period_end": "string",
    "map_total": "float64",
    "map_total_full": "float64",
    "density_per_ha": "float64",
    "object_area_ha": "float64",
    "area_ha": "float64",
    "observed_ha": "float64",
    "observed_frac": "float64",
    "n_obs_median": "float64",
    "ood_frac": "float64",
    "estimate": "float64",
    "se": "float64",
    "cv": "float64",
    "ci_low": "float64",
    "ci_high": "float64",
    "ci_level": "float64",
    "estimator": "string",
    "n_ref": "Int64",
    "suppressed": "boolean",
    "flag": "string",
    "evidence": "string",
    "boundary_source": "string",
    "boundary_version": "string",
    "model_id": "string",
    "model_sha256": "string",
    "items_sha256": "string",
    "run_id": "string",
    "software_version": "string",
}
"""Columns of counts.csv and counts.parquet, in order, and their pandas types. Areas are hectares on the lattice."""

FLAGS: dict[str, str] = {
    "no_polygon": "the unit came without a polygon, or with one that has no area",
    "repaired_polygon": "the polygon was invalid and was repaired",
    "repeated_id": "several polygons had this id; they were united",
    "no_pixels": "the unit has a polygon but covers no pixel",
    "tiny_unit": "the unit is smaller than 100 pixels",
    "outside_map": "more than 0.1 % of the unit lies outside the mapped extent",
    "not_observed": "no pixel was observed: totals are blank",
    "partly_observed": "less than 90 % was observed: map_total misses the rest, map_total_full assumes it is alike",
    "out_of_domain": "more than 10 % of the observed inputs are unlike the training data",
    "unlike_card": "the input was unlike the model's card and was forced",
    "simulated_evidence": "the model has only seen simulated data: on real imagery the numbers are no estimates",
}
"""Values of `flag` (several are joined by `;`, in this order)."""

SERIES_COLUMNS: dict[str, str] = {
    "unit_id": "string",
    "object": "string",
    "period": "string",
    "common_frac": "float64",
    "common_total": "float64",
    "noise_se": "float64",
    "n_acquisitions": "Int64",
}
"""Columns of series.parquet: share of the unit that every period observed; density there x area of the unit; standard
error of `map_total_full` from the differences between acquisitions of the period, and how many these were."""

TINY_PX, OUTSIDE, PARTLY, STRANGE = 100.0, 0.001, 0.9, 0.1
_SEEN_PX = 1e-3  # less is the rounding of a border between two units (1e-9 m), not an observation


@dataclass(frozen=True)
class Facts:
    """What the rows say about the map they come from."""

    objects: dict[str, str]
    """Object -> definition, in the order of the map."""
    measures: dict[str, str]
    """Object -> `count` or `occupancy`."""
    periods: tuple[Period, ...]
    """In the order of the map."""
    resolution: float
    """Metres."""
    evidence: str
    """`simulated`, `degraded-aerial` or `sentinel-2`."""
    model_id: str
    model_sha256: str
    items_sha256: dict[str, str]
    """Period label -> hash of its item list."""
    run_id: str
    software_version: str
    boundary_source: str | None = None
    boundary_version: str | None = None
    max_obs: int = 10
    """Most acquisitions of a block and period."""
    presence_threshold: float = 0.5
    """A pixel holds the object at or above it."""
    unlike_card: bool = False
    """The input was unlike the card, and forced."""

    @property
    def px_ha(self) -> float:
        """Hectares of a pixel."""
        return self.resolution**2 / 1e4


@dataclass(frozen=True)
class Counted:
    """The counts of a map."""

    table: gpd.GeoDataFrame
    """The rows, with the units' polygons (EPSG:4326) as geometry."""
    series: pd.DataFrame
    """`SERIES_COLUMNS`: what may be compared over the periods, and how sure each period is."""
    outside: pd.DataFrame
    """What the map holds outside all units: `object, period, map_total, near_total, area_ha, near_ha, observed_ha,
    observed_frac`; near is within 1 km of a unit (a coarse coastline). With `assign_nearest`, near is in the units."""
    balance: pd.DataFrame
    """`object, period, map, units, outside, counted_twice`: objects. Of several levels only the topmost is in `units`;
    `counted_twice` = units + outside - map is what overlapping units share."""
    parents: pd.DataFrame
    """`parent_id, object, period, parent_total, children_total, difference, parent_ha, children_ha`: for each parent
    that is itself a unit. A positive difference lies in no child."""
    background: pd.DataFrame
    """`object, period, density_per_ha, area_ha`: what the map counts where the object was never present; it should be
    nothing, and a year in which it is more is an effect of that year."""
    overlap_ha: float
    """Mapped area that belongs to several topmost units, once for each unit too many."""


def count_blocks(
    blocks: Iterable[MapBlock],
    units: gpd.GeoDataFrame,
    facts: Facts,
    *,
    size: int,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> Counted:
    """Totals per unit, object and period from blocks of a map.

    Parameters
    ----------
    blocks
        Blocks of `size` pixels, in the order in which they are to be summed.
    units
        Polygons with a CRS and `unit_id`, `unit_name`, `parent_id`.
    facts
        What the rows say about the map.
    size
        Side of a block, pixels.
    assign_nearest
        Count what lies outside all units, within 1 km of one, in the nearest.
    client
        A Dask client whose workers see the map; in this process without one. The result does not depend on it.

    Returns
    -------
    Counted
    """
    ready = prepare_units(units)
    sums = sum_blocks(blocks, ready, facts, size=size, assign_nearest=assign_nearest, client=client)
    top = _topmost(ready)
    table = _rows(ready, sums, facts)
    return Counted(
        table=table,
        series=_series(ready, sums, facts),
        outside=_outside(sums, facts),
        balance=_balance(sums, facts, top),
        parents=_parents(table),
        background=_background(sums, facts),
        overlap_ha=max(0.0, float(sums.mapped[top].sum() + sums.mapped[-2:].sum() - sums.extent[0]) * facts.px_ha),
    )


def sum_blocks(
    blocks: Iterable[MapBlock],
    units: Units,
    facts: Facts,
    *,
    size: int,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> Sums:
    """Sums over all blocks; the two rows after the units are what lies outside all of them, near and far."""
    labels, n = [period.label for period in facts.periods], len(units)
    sums = Sums.zeros(n + 2, len(labels), len(facts.objects), facts.max_obs)
    walk = _Walk(units, size)
    task = partial(
        block_sums,
        periods=labels,
        objects=len(facts.objects),
        max_obs=facts.max_obs,
        presence_threshold=facts.presence_threshold,
        assign_nearest=assign_nearest,
    )
    calls = (((at, polygons, block)) for block in blocks for at, polygons in [walk.take(block.lattice, block.window)])
    for at, part in _in_order(task, calls, client):
        sums.add(np.append(at, [n, n + 1]), part)
    for lattice, window, at, polygons in walk.rest(facts.resolution):
        sums.area[at] += unmapped_area(polygons, lattice, window)
    return sums


Call = tuple[NDArray[np.int64], Sequence[BaseGeometry], MapBlock]


def _in_order(
    task: Callable[..., Sums], calls: Iterable[Call], client: Client | None
) -> Iterator[tuple[NDArray[np.int64], Sums]]:
    """(positions, sums) of every call, in the order of the calls; a few at a time on the workers of a client."""
    if client is None:
        for at, polygons, block in calls:
            yield at, task(polygons, block)
        return
    ahead = 4 * max(1, sum(client.ncores().values()))
    waiting: deque[tuple[NDArray[np.int64], Any]] = deque()
    for at, polygons, block in calls:
        waiting.append((at, client.submit(task, polygons, block, pure=False)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


class _Walk:
    """Hands out the units of each block, and then the places of units that no block held."""

    def __init__(self, units: Units, size: int) -> None:
        self.polygons = units.by_zone()
        self.size = size
        self.lattices: dict[int, Lattice] = {}
        self.cells: dict[int, dict[tuple[int, int], list[int]]] = {}

    def take(self, lattice: Lattice, window: Window) -> tuple[NDArray[np.int64], list[BaseGeometry]]:
        cells = self._open(lattice)
        reach = math.ceil(NEAR / lattice.resolution) + 4
        positions = cells.pop((window.row // self.size, window.col // self.size), [])
        return self._units(lattice, window.padded(reach), positions)

    def rest(self, resolution: float) -> Iterator[tuple[Lattice, Window, NDArray[np.int64], list[BaseGeometry]]]:
        for epsg in self.polygons:
            lattice = self.lattices.get(epsg) or Lattice(epsg, resolution)
            for (row, col), positions in self._open(lattice).items():
                window = Window(row * self.size, col * self.size, self.size, self.size)
                yield lattice, window, *self._units(lattice, window.padded(2), positions)

    def _open(self, lattice: Lattice) -> dict[tuple[int, int], list[int]]:
        if lattice.epsg not in self.cells:
            self.lattices[lattice.epsg] = lattice
            self.cells[lattice.epsg] = cells_of(
                self.polygons.get(lattice.epsg, []), lattice, self.size, reach=NEAR + 2 * lattice.resolution
            )
        return self.cells[lattice.epsg]

    def _units(
        self, lattice: Lattice, around: Window, positions: list[int]
    ) -> tuple[NDArray[np.int64], list[BaseGeometry]]:
        near = [clipped(self.polygons[lattice.epsg][position], lattice.bounds(around)) for position in positions]
        return np.array(positions, np.int64), near


def _rows(units: Units, sums: Sums, facts: Facts) -> gpd.GeoDataFrame:
    import geopandas as gpd

    n, names, periods = len(units), list(facts.objects), facts.periods
    # (unit, object, period) is the order of the rows; what does not depend on one of them is repeated along it.
    shape = (n, len(names), len(periods))
    values = _values(sums, n, facts)

    def spread(array: Any, axis: int) -> NDArray:
        view = [1, 1, 1]
        view[axis] = -1
        return np.broadcast_to(np.asarray(array, object).reshape(view), shape).ravel()

    data: dict[str, Any] = {name: spread(units.table[name], 0) for name in ("unit_id", "unit_name", "parent_id")}
    data["object"] = spread(names, 1)
    data["object_definition"] = spread([facts.objects[name] for name in names], 1)
    data["measure"] = spread([facts.measures[name] for name in names], 1)
    data["period"] = spread([period.label for period in periods], 2)
    data["period_start"] = spread([period.start.isoformat() for period in periods], 2)
    data["period_end"] = spread([period.end.isoformat() for period in periods], 2)
    data |= {name: np.broadcast_to(array, shape).ravel() for name, array in values.items()}
    data["flag"] = np.broadcast_to(_flags(units, sums, values, facts)[:, None, :], shape).ravel()
    data["items_sha256"] = spread([facts.items_sha256.get(period.label) for period in periods], 2)
    for name in ("evidence", "boundary_source", "boundary_version", "model_id", "model_sha256", "run_id"):
        data[name] = [getattr(facts, name)] * (n * len(names) * len(periods))
    data["software_version"] = [facts.software_version] * (n * len(names) * len(periods))
    table = pd.DataFrame(data).reindex(columns=list(COLUMNS)).astype(COLUMNS)
    polygons = np.repeat(units.polygons, len(names) * len(periods))
    return gpd.GeoDataFrame(table, geometry=gpd.GeoSeries(polygons, crs="EPSG:4326"))


def _values(sums: Sums, n: int, facts: Facts) -> dict[str, NDArray]:
    """The numeric columns of the first `n` rows of the sums, each broadcastable to (unit, object, period)."""
    area, observed = sums.area[:n, None, None], sums.observed[:n, None, :]
    seen = observed > _SEEN_PX
    total = np.where(seen, np.swapaxes(sums.total[:n], 1, 2), np.nan)
    density = _ratio(total, np.where(seen, observed, 0) * facts.px_ha)
    return {
        "map_total": total,
        "map_total_full": density * area * facts.px_ha,
        "density_per_ha": density,
        "object_area_ha": np.where(seen, np.swapaxes(sums.present[:n], 1, 2) * facts.px_ha, np.nan),
        "area_ha": area * facts.px_ha,
        "observed_ha": observed * facts.px_ha,
        "observed_frac": np.minimum(_ratio(observed, area), 1.0),
        "n_obs_median": _weighted_median(sums.n_obs[:n])[:, None, :],
        "ood_frac": np.minimum(_ratio(sums.strange[:n, None, :], np.where(seen, observed, 0)), 1.0),
    }


def _flags(units: Units, sums: Sums, values: dict[str, NDArray], facts: Facts) -> NDArray[np.object_]:
    """(unit, period) texts."""
    n = len(units)
    area, mapped = sums.area[:n, None], sums.mapped[:n, None]
    observed = sums.observed[:n]
    seen = observed > _SEEN_PX
    has_polygon = np.array([not polygon.is_empty for polygon in units.polygons])[:, None]
    tests = {
        **{
            name: np.array([name in flags for flags in units.flags])[:, None]
            for name in ("no_polygon", "repaired_polygon", "repeated_id")
        },
        "no_pixels": has_polygon & (area < _SEEN_PX),
        "tiny_unit": (area > 0) & (area < TINY_PX),
        "outside_map": (area > 0) & (mapped < area * (1 - OUTSIDE)),
        "not_observed": (area > 0) & ~seen,
        "partly_observed": seen & (values["observed_frac"][:, 0] < PARTLY),
        "out_of_domain": values["ood_frac"][:, 0] > STRANGE,
        "unlike_card": np.array([[facts.unlike_card]]),
        "simulated_evidence": np.array([[facts.evidence == "simulated"]]),
    }
    grids = {name: np.broadcast_to(tests[name], observed.shape) for name in FLAGS}
    texts = np.empty(observed.shape, dtype=object)
    for at in np.ndindex(*observed.shape):
        texts[at] = ";".join(name for name, grid in grids.items() if grid[at]) or None
    return texts


def _series(units: Units, sums: Sums, facts: Facts) -> pd.DataFrame:
    """What may be compared over the periods: densities on the pixels that every period observed."""
    n = len(units)
    variance, acquisitions = (a[:n] for a in sums.noise.variance(n + 2, len(facts.periods), len(facts.objects)))
    area, common, observed = sums.area[:n, None, None], sums.common[:n, None, None], sums.observed[:n, :, None]
    informed = sums.informed[:n, :, None]
    seen = common > _SEEN_PX
    total = _ratio(sums.common_total[:n], np.where(seen, common, 0)) * area
    # Where only one acquisition saw a place its noise is not known; it is taken to be that of the rest, fully shared.
    noise = np.sqrt(variance) * _ratio(area, np.where(informed >= observed / 2, informed, 0))
    shape = total.shape
    count = np.broadcast_to(acquisitions[:, :, None], shape)
    columns = {
        "unit_id": np.broadcast_to(units.table["unit_id"].to_numpy()[:, None, None], shape),
        "object": np.broadcast_to(np.array(list(facts.objects), object), shape),
        "period": np.broadcast_to(np.array([period.label for period in facts.periods], object)[:, None], shape),
        "common_frac": np.broadcast_to(np.minimum(_ratio(common, area), 1), shape),
        "common_total": total,
        "noise_se": np.where(count >= 2, noise, np.nan),
        "n_acquisitions": count,
    }
    rows = {name: np.swapaxes(values, 1, 2).ravel() for name, values in columns.items()}
    return pd.DataFrame(rows).astype(SERIES_COLUMNS)


def _outside(sums: Sums, facts: Facts) -> pd.DataFrame:
    area, observed = sums.area[-2:].sum(), sums.observed[-2:].sum(axis=0)
    return pd.DataFrame(
        [
            {
                "object": name,
                "period": period.label,
                "map_total": sums.total[-2:, p, o].sum() if observed[p] > _SEEN_PX else np.nan,
                "near_total": sums.total[-2, p, o] if sums.observed[-2, p] > _SEEN_PX else np.nan,
                "area_ha": area * facts.px_ha,
                "near_ha": sums.area[-2] * facts.px_ha,
                "observed_ha": observed[p] * facts.px_ha,
                "observed_frac": min(observed[p] / area, 1.0) if area > 0 else np.nan,
            }
            for o, name in enumerate(facts.objects)
            for p, period in enumerate(facts.periods)
        ]
    )


def _topmost(units: Units) -> NDArray[np.int64]:
    """Positions of the units whose parent is not a unit itself."""
    ids = set(units.table["unit_id"])
    return np.flatnonzero([parent not in ids for parent in units.table["parent_id"]])


def _balance(sums: Sums, facts: Facts, top: NDArray[np.int64]) -> pd.DataFrame:
    inside, outside = sums.total[top].sum(axis=0), sums.total[-2:].sum(axis=0)
    return pd.DataFrame(
        [
            {
                "object": name,
                "period": period.label,
                "map": sums.whole[p, o],
                "units": inside[p, o],
                "outside": outside[p, o],
                "counted_twice": inside[p, o] + outside[p, o] - sums.whole[p, o],
            }
            for o, name in enumerate(facts.objects)
            for p, period in enumerate(facts.periods)
        ]
    )


def _parents(table: pd.DataFrame) -> pd.DataFrame:
    plain = pd.DataFrame(table)[["unit_id", "parent_id", "object", "period", "map_total", "area_ha"]]
    keys = ["parent_id", "object", "period"]
    sums = plain.groupby(keys, sort=False, dropna=True)[["map_total", "area_ha"]].sum(min_count=1)
    children = sums.rename(columns={"map_total": "children_total", "area_ha": "children_ha"}).reset_index()
    own = plain.drop(columns="parent_id").rename(columns={"unit_id": "parent_id", "map_total": "parent_total"})
    both = own.rename(columns={"area_ha": "parent_ha"}).merge(children, on=keys)
    both["difference"] = both["parent_total"] - both["children_total"].fillna(0)
    order = [*keys, "parent_total", "children_total", "difference", "parent_ha", "children_ha"]
    return both[order].reset_index(drop=True)


def _background(sums: Sums, facts: Facts) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "object": name,
                "period": period.label,
                "density_per_ha": sums.empty_total[p, o] / (sums.empty[o] * facts.px_ha) if sums.empty[o] else np.nan,
                "area_ha": sums.empty[o] * facts.px_ha,
            }
            for o, name in enumerate(facts.objects)
            for p, period in enumerate(facts.periods)
        ]
    )


def _ratio(a: NDArray, b: NDArray) -> NDArray:
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def _weighted_median(histogram: NDArray) -> NDArray:
    """Median of 0, 1, ... weighted by the last axis; NaN where all weights are 0."""
    steps = np.cumsum(histogram, axis=-1)
    half = steps[..., -1:] / 2
    low = (steps < half * (1 - 1e-12)).sum(axis=-1)  # first value with at least half of the weight at or below it
    high = (steps <= half * (1 + 1e-12)).sum(axis=-1)  # differs from it only where exactly half lies below
    return np.where(steps[..., -1] > 0, (low + np.minimum(high, histogram.shape[-1] - 1)) / 2, np.nan)
