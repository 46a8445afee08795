"""Sums -> the published rows: one per unit, object and period, with all columns of the contract.

In: sums over the pixels of each unit. Out: a GeoDataFrame. Blank means not known; it is never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.sums import Sums
from subpixmap.counts.units import Units
from subpixmap.periods import Period
from subpixmap.tables import COUNTS, typed

if TYPE_CHECKING:
    import geopandas as gpd

FLAGS: dict[str, str] = {
    "no_polygon": "the unit came without a polygon, or with one that has no area",
    "repaired_polygon": "the polygon was invalid and was repaired",
    "repeated_id": "several polygons had this id; they were united",
    "nearest_assigned": "what lies outside all units within 1 km of one was counted in the nearest (--assign-nearest)",
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

TINY_PX, OUTSIDE, PARTLY, STRANGE = 100.0, 0.001, 0.9, 0.1
SEEN_PX = 1e-3  # less is the rounding of a border between two units (1e-9 m), not an observation


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
    assign_nearest: bool = False
    """What lies outside all units, within 1 km of one, was counted in the nearest."""

    @property
    def px_ha(self) -> float:
        """Hectares of a pixel."""
        return self.resolution**2 / 1e4


def unit_rows(units: Units, sums: Sums, facts: Facts) -> gpd.GeoDataFrame:
    """One row per unit, object and period, in that order, with the units' polygons."""
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
    table = typed(pd.DataFrame(data).reindex(columns=list(COUNTS)), COUNTS)
    polygons = np.repeat(units.polygons, len(names) * len(periods))
    return gpd.GeoDataFrame(table, geometry=gpd.GeoSeries(polygons, crs="EPSG:4326"))


def _values(sums: Sums, n: int, facts: Facts) -> dict[str, NDArray]:
    """The numeric columns of the first `n` rows of the sums, each broadcastable to (unit, object, period)."""
    area, observed = sums.area[:n, None, None], sums.observed[:n, None, :]
    seen = observed > SEEN_PX
    total = np.where(seen, np.swapaxes(sums.total[:n], 1, 2), np.nan)
    density = ratio(total, np.where(seen, observed, 0) * facts.px_ha)
    return {
        "map_total": total,
        "map_total_full": density * area * facts.px_ha,
        "density_per_ha": density,
        "object_area_ha": np.where(seen, np.swapaxes(sums.present[:n], 1, 2) * facts.px_ha, np.nan),
        "area_ha": area * facts.px_ha,
        "observed_ha": observed * facts.px_ha,
        "observed_frac": np.minimum(ratio(observed, area), 1.0),
        "n_obs_median": _weighted_median(sums.n_obs[:n])[:, None, :],
        "ood_frac": np.minimum(ratio(sums.strange[:n, None, :], np.where(seen, observed, 0)), 1.0),
    }


def _flags(units: Units, sums: Sums, values: dict[str, NDArray], facts: Facts) -> NDArray[np.object_]:
    """(unit, period) texts."""
    n = len(units)
    area, mapped = sums.area[:n, None], sums.mapped[:n, None]
    observed = sums.observed[:n]
    seen = observed > SEEN_PX
    has_polygon = np.array([not polygon.is_empty for polygon in units.polygons])[:, None]
    tests = {
        **{
            name: np.array([name in flags for flags in units.flags])[:, None]
            for name in ("no_polygon", "repaired_polygon", "repeated_id")
        },
        "nearest_assigned": np.array([[facts.assign_nearest]]),
        "no_pixels": has_polygon & (area < SEEN_PX),
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


def ratio(a: NDArray, b: NDArray) -> NDArray:
    """a / b, NaN where b is not positive."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def _weighted_median(histogram: NDArray) -> NDArray:
    """Median of 0, 1, ... weighted by the last axis; NaN where all weights are 0."""
    steps = np.cumsum(histogram, axis=-1)
    half = steps[..., -1:] / 2
    low = (steps < half * (1 - 1e-12)).sum(axis=-1)  # first value with at least half of the weight at or below it
    high = (steps <= half * (1 + 1e-12)).sum(axis=-1)  # differs from it only where exactly half lies below
    return np.where(steps[..., -1] > 0, (low + np.minimum(high, histogram.shape[-1] - 1)) / 2, np.nan)
