"""Makes the published rows from sums: one per unit, object and period, with all columns, and their series.

In: sums over the pixels of each unit. Out: a GeoDataFrame of counts, and the table of values comparable between
periods. Blank means unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.facts import Facts
from subpixmap.counts.sums import Sums
from subpixmap.counts.units import Units
from subpixmap.tables import COUNTS, SERIES, typed

if TYPE_CHECKING:
    import geopandas as gpd

Array = NDArray[np.float64]

FLAGS: dict[str, str] = {
    "no_polygon": "the unit has no polygon, or one without area",
    "repaired_polygon": "the polygon was invalid and was repaired",
    "repeated_id": "several polygons have this id; they were united",
    "nearest_assigned": "objects up to 1 km outside all units were counted in the nearest unit (--assign-nearest)",
    "no_pixels": "the unit has a polygon but covers no pixel",
    "tiny_unit": "the unit is smaller than 100 pixels",
    "outside_map": "more than 0.1 % of the unit lies outside the mapped extent",
    "not_observed": "no pixel was observed: totals are blank",
    "partly_observed": "less than 90 % was observed: map_total lacks the rest, map_total_full assumes the same "
    "density there",
    "out_of_domain": "more than 10 % of the observed inputs are unlike the training data",
    "unlike_card": "the input does not match the model's card and was accepted with --force",
    "simulated_evidence": "the model was trained on simulated data only: on real imagery the numbers are not estimates",
}
"""Values of `flag` (several are joined by `;`, in this order)."""

TINY_PX, OUTSIDE, PARTLY, OUT_OF_DOMAIN = 100.0, 0.001, 0.9, 0.1
"""Pixels or shares from which a row gets the flags `tiny_unit`, `outside_map`, `partly_observed`, `out_of_domain`."""
SEEN_PX = 1e-3  # less is rounding at a border between two units (1e-9 m), not an observation


def unit_rows(units: Units, sums: Sums, facts: Facts) -> gpd.GeoDataFrame:
    """One row per unit, object and period, in that order, with the units' polygons."""
    import geopandas as gpd

    names, periods, model = facts.objects, facts.periods, facts.model
    # (unit, object, period) is the order of the rows; values independent of one of them are repeated along it.
    shape = (len(units), len(names), len(periods))
    values = _values(sums, len(units), facts)
    map_total = np.broadcast_to(values["map_total"], shape).ravel()
    data: dict[str, Any] = {
        **{name: _spread(units.table[name], 0, shape) for name in ("unit_id", "unit_name", "parent_id")},
        "object": _spread(names, 1, shape),
        "object_definition": _spread([model.definitions[name] for name in names], 1, shape),
        "measure": _spread([model.measures[name] for name in names], 1, shape),
        "period": _spread([period.label for period in periods], 2, shape),
        "period_start": _spread([period.start.isoformat() for period in periods], 2, shape),
        "period_end": _spread([period.end.isoformat() for period in periods], 2, shape),
        **{name: np.broadcast_to(array, shape).ravel() for name, array in values.items()},
        "flag": np.broadcast_to(_flags(units, sums, values, facts)[:, None, :], shape).ravel(),
        "evidence": model.evidence,
        "boundary_source": facts.boundary_source,
        "boundary_version": facts.boundary_version,
        "model_id": model.name,
        "model_sha256": model.sha256,
        "items_sha256": _spread([facts.items_sha256.get(period.label) for period in periods], 2, shape),
        "run_id": facts.run_id,
        "software_version": facts.software_version,
        "below_zero": pd.Series(map_total < 0, dtype="boolean").mask(np.isnan(map_total)),
    }
    table = typed(pd.DataFrame(data).reindex(columns=list(COUNTS)), COUNTS)
    polygons = np.repeat(units.polygons, len(names) * len(periods))
    return gpd.GeoDataFrame(table, geometry=gpd.GeoSeries(polygons, crs="EPSG:4326"))


def series_rows(units: Units, sums: Sums, facts: Facts) -> pd.DataFrame:
    """Values comparable between periods: densities on pixels observed in every period."""
    n, shape = len(units), (len(units), len(facts.objects), len(facts.periods))
    variance, acquisitions = (a[:n] for a in sums.noise.variance(*sums.total.shape))
    area, common, observed = sums.area[:n, None, None], sums.common[:n, None, None], sums.observed[:n, :, None]
    informed = sums.informed[:n, :, None]
    compared = np.array([period.label not in facts.unobserved for period in facts.periods])
    total = _ratio(sums.common_total[:n], np.where(common > SEEN_PX, common, 0)) * area
    background = _ratio(sums.empty_total, sums.empty * facts.px_ha)
    # With only one acquisition the noise is unknown; it is assumed equal to that of the rest, fully correlated.
    noise = np.sqrt(variance) * _ratio(area, np.where(informed >= observed / 2, informed, 0))
    count = acquisitions[:, :, None]
    values = {
        "common_frac": np.minimum(_ratio(common, area), 1),
        "common_total": np.where(compared[:, None], total, np.nan),
        "noise_se": np.where(count >= 2, noise, np.nan),
        "n_noise_acquisitions": count,
        "background_per_ha": np.where(compared[:, None], background, np.nan)[None],
    }
    data: dict[str, Any] = {
        "unit_id": _spread(units.table["unit_id"], 0, shape),
        "object": _spread(facts.objects, 1, shape),
        "period": _spread([period.label for period in facts.periods], 2, shape),
        # (unit, period, object) in the sums, (unit, object, period) in the rows
        **{name: np.broadcast_to(np.swapaxes(array, 1, 2), shape).ravel() for name, array in values.items()},
    }
    return typed(pd.DataFrame(data), SERIES)


def _spread(values: Sequence[Any] | pd.Series, axis: int, shape: tuple[int, int, int]) -> NDArray[np.object_]:
    """Values along one axis of (unit, object, period), repeated along the others, one for each row."""
    view = [1, 1, 1]
    view[axis] = -1
    return np.broadcast_to(np.asarray(values, object).reshape(view), shape).ravel()


def _values(sums: Sums, n: int, facts: Facts) -> dict[str, NDArray[Any]]:
    """The numeric columns of the first `n` rows of the sums, each broadcastable to (unit, object, period)."""
    area, observed = sums.area[:n, None, None], sums.observed[:n, None, :]
    seen = observed > SEEN_PX
    total = np.where(seen, np.swapaxes(sums.total[:n], 1, 2), np.nan)
    density = _ratio(total, np.where(seen, observed, 0) * facts.px_ha)
    return {
        "map_total": total,
        "map_total_full": density * area * facts.px_ha,
        "density_per_ha": density,
        "sd_over_models": np.where(seen, np.swapaxes(_spread_of(sums.by_model[:n]), 1, 2), np.nan),
        "object_area_ha": np.where(seen, np.swapaxes(sums.present[:n], 1, 2) * facts.px_ha, np.nan),
        "area_ha": area * facts.px_ha,
        "observed_ha": observed * facts.px_ha,
        "observed_frac": np.minimum(_ratio(observed, area), 1.0),
        "n_obs_median": _weighted_median(sums.n_obs[:n])[:, None, :],
        "ood_frac": np.minimum(_ratio(sums.out_of_domain[:n, None, :], np.where(seen, observed, 0)), 1.0),
    }


def _spread_of(by_model: Array) -> Array:
    """Sample standard deviation over the last axis, NaN below two."""
    if by_model.shape[-1] < 2:
        return np.full(by_model.shape[:-1], np.nan)
    spread: Array = by_model.std(axis=-1, ddof=1)
    return spread


def _flags(units: Units, sums: Sums, values: dict[str, NDArray[Any]], facts: Facts) -> NDArray[np.object_]:
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
        "out_of_domain": values["ood_frac"][:, 0] > OUT_OF_DOMAIN,
        "unlike_card": np.array([[facts.unlike_card]]),
        "simulated_evidence": np.array([[facts.model.evidence == "simulated"]]),
    }
    grids = {name: np.broadcast_to(tests[name], observed.shape) for name in FLAGS}
    texts = np.empty(observed.shape, dtype=object)
    for at in np.ndindex(*observed.shape):
        texts[at] = ";".join(name for name, grid in grids.items() if grid[at]) or None
    return texts


def _ratio(a: NDArray[Any], b: NDArray[Any]) -> Array:
    """a / b, NaN where b is not positive."""
    a, b = np.broadcast_arrays(a, b)
    quotient: Array = np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
    return quotient


def _weighted_median(histogram: Array) -> Array:
    """Median of 0, 1, ... weighted by the last axis; NaN where all weights are 0."""
    steps = np.cumsum(histogram, axis=-1)
    half = steps[..., -1:] / 2
    low = (steps < half * (1 - 1e-12)).sum(axis=-1)  # first value with at least half of the weight at or below it
    high = (steps <= half * (1 + 1e-12)).sum(axis=-1)  # differs from it only where exactly half lies below
    return np.where(steps[..., -1] > 0, (low + np.minimum(high, histogram.shape[-1] - 1)) / 2, np.nan)
