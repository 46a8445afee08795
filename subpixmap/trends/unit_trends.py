"""Counts over periods -> the change and the slope of every unit, and how significant they are.

In: the rows of counts and, if there, the comparable series. Out: one row per unit and object. This module decides which
numbers can be compared and when there are too few; the statistics are those of `slopes` and `changes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.errors import InputError, Refused
from subpixmap.tables import SERIES, TREND, types_of
from subpixmap.trends.changes import change_test
from subpixmap.trends.shared_effects import shared_steps, step_text
from subpixmap.trends.slopes import seasonal_slope, smallest_p, theil_sen

_ALIKE = ["object_definition", "measure", "model_sha256", "run_id", "boundary_source", "boundary_version", "evidence"]
_LEAST_COMMON = 0.5


def trend(
    counts: pd.DataFrame,
    series: pd.DataFrame | None = None,
    *,
    level: float = 0.95,
    year_effect: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Slope and change of every unit and object over the periods.

    Parameters
    ----------
    counts
        Rows as `count_by_unit` returns them, or counts.parquet.
    series
        `series` of the same count: totals on the pixels observed in every period, and their noise. The rows of
        `count_by_unit` hold it. Without it the trend is that of `map_total_full`, where a cloud over the palms of one
        year can look like felling.
    level
        Confidence of the slope's interval; 1 - level is the false discovery rate of `significant`.
    year_effect
        Shared effects of single periods to remove, from `unchanged_effect` or `background_effect`.

    Returns
    -------
    pandas.DataFrame
        The columns of `tables.TREND`, a row per unit and object in the order of `counts`; `note` names its limits.

    Raises
    ------
    InputError
        Columns are missing.
    Refused
        Rows of one object come from different models, recipes, boundaries or definitions.
    """
    needed = {"unit_id", "object", "measure", "period", "period_start", "period_end", "map_total_full", "area_ha"}
    if missing := sorted(needed - set(counts.columns)):
        raise InputError(f"the counts lack the columns {', '.join(missing)}; give the rows of count_by_unit")
    _refuse_unlike(counts)
    counts, series = _counts_and_series(pd.DataFrame(counts).drop(columns="geometry", errors="ignore"), series)
    totals = _totals(counts, series)
    if year_effect is not None:
        totals = _remove_effect(totals, year_effect)
    rows = [
        _unit_trend(group.sort_values("period_start", kind="stable"), level)
        for _, group in totals.groupby(["unit_id", "object"], sort=False)
    ]
    table = pd.DataFrame(rows, columns=list(TREND)).astype(types_of(TREND))
    for p, q in (("p_value", "q_value"), ("change_p", "change_q")):
        table[q] = table.groupby("object", sort=False)[p].transform(_false_discovery_rates)
    steps = shared_steps(counts, series)
    for name, joins in steps[steps["stands_out"].astype(bool)].groupby("object"):
        table.loc[table["object"] == name, "shared_step"] = "; ".join(step_text(row) for row in joins.itertuples())
    tested = table["q_value"].notna()
    table.loc[tested, "significant"] = table.loc[tested, "q_value"] <= 1 - level
    return table


def _refuse_unlike(counts: pd.DataFrame) -> None:
    for name, rows in counts.groupby("object", sort=False):
        for column in _ALIKE:
            if column not in rows:
                continue
            values = rows[column].drop_duplicates()
            if len(values) > 1:
                raise Refused(
                    f"the counts of {name} are not comparable: {column} is {values.iloc[0]!r} in some rows and "
                    f"{values.iloc[1]!r} in others; count all periods with one model, recipe and set of units"
                )
    keys = counts.duplicated(["unit_id", "object", "period"])
    if keys.any():
        first = counts[keys].iloc[0]
        raise InputError(f"unit {first['unit_id']!r} has two rows of {first['object']} in period {first['period']}")


def _counts_and_series(counts: pd.DataFrame, series: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Counts and series apart; `count_by_unit` puts the columns of the series beside those of the counts."""
    keys = {"unit_id", "object", "period"}
    beside = [name for name in SERIES if name not in keys]
    if series is None and set(beside) <= set(counts.columns):
        series = counts[list(SERIES)]
    return counts.drop(columns=beside, errors="ignore"), series


def _totals(counts: pd.DataFrame, series: pd.DataFrame | None) -> pd.DataFrame:
    """The rows with `total`, `noise`, `n_noise_acquisitions`, `common_frac` and `basis`."""
    if series is None:
        missing = {"noise": np.nan, "n_noise_acquisitions": 0, "common_frac": np.nan, "background_per_ha": np.nan}
        return counts.assign(total=counts["map_total_full"].astype(float), basis="map_total_full", **missing)
    keys = ["unit_id", "object", "period"]
    both = counts.merge(series, on=keys, how="left", validate="one_to_one", indicator=True)
    if (both["_merge"] != "both").any():
        row = both[both["_merge"] != "both"].iloc[0]
        raise Refused(
            f"series.parquet does not belong to these counts: unit {row['unit_id']!r}, {row['object']}, period "
            f"{row['period']} is missing there; count again (subpixmap count)"
        )
    return both.assign(total=both["common_total"], noise=both["noise_se"], basis="common_pixels").drop(columns="_merge")


def _remove_effect(rows: pd.DataFrame, effect: pd.DataFrame) -> pd.DataFrame:
    """Remove shared effects of the periods: total / factor - offset x area."""
    both = rows.merge(effect, on=["object", "period"], how="left", validate="many_to_one")
    both["total"] = both["total"] / both["factor"].fillna(1) - both["offset_per_ha"].fillna(0) * both["area_ha"]
    both["year_effect"] = both["source"]
    return both


def _unit_trend(group: pd.DataFrame, level: float) -> dict[str, Any]:
    observed = group[group["total"].notna()]
    first = group.iloc[0]
    names = ("unit_id", "unit_name", "parent_id", "object", "measure", "basis", "common_frac", "year_effect")
    row: dict[str, Any] = {name: first.get(name) for name in names}
    row |= {name: first.get(name) for name in ("evidence", "boundary_version", "model_id", "run_id")}
    row["n_periods"] = n = len(observed)
    if first["measure"] != "count":
        return row | {"basis": None, "note": f"a measure of {first['measure']} has no trend"}
    if n < 2:
        common = first["basis"] == "common_pixels" and group["map_total_full"].notna().sum() >= 2
        reason = "no pixel was observed in all periods" if common else f"observed in {n} of {len(group)} periods"
        return row | {"note": f"{reason}: no trend"}
    middles = np.array([_middle(*span) for span in zip(observed["period_start"], observed["period_end"], strict=True)])
    totals = observed["total"].to_numpy(float)
    if middles[0] == middles[-1]:
        return row | {"note": f"all that was observed is of {observed['period_start'].iloc[0]}: no trend"}
    row |= _change(observed, totals, level) | _slope(middles, totals, level)
    row["persistent"] = _persistent(totals) if n >= 4 else None
    row["background_slope_per_year"] = _background_slope(observed, middles)
    return row | {"note": _note(row, n, len(group), 1 - level)}


def _change(observed: pd.DataFrame, totals: NDArray[np.floating], level: float) -> dict[str, Any]:
    change = totals[-1] - totals[0]
    ends = observed.iloc[[0, -1]]
    se, p, least = change_test(
        change, ends["noise"].to_numpy(float), ends["n_noise_acquisitions"].to_numpy(float), level
    )
    return {
        "first_period": observed["period"].iloc[0],
        "last_period": observed["period"].iloc[-1],
        "first_total": totals[0],
        "last_total": totals[-1],
        "change": change,
        "change_percent": 100 * change / totals[0] if totals[0] > 0 else math.nan,
        "change_se": se,
        "change_p": p,
        "min_detectable_change": least,
    }


def _slope(middles: NDArray[np.floating], totals: NDArray[np.floating], level: float) -> dict[str, Any]:
    middles, totals = _by_day(middles, totals)
    several_a_year = np.diff(middles).min() < 0.75 and middles[-1] - middles[0] >= 1
    slope = (seasonal_slope if several_a_year else theil_sen)(middles, totals, level=level)
    return {
        "slope_per_year": slope.per_year,
        "slope_low": slope.low,
        "slope_high": slope.high,
        "slope_level": slope.level if math.isfinite(slope.low) else math.nan,
        "tau": slope.tau,
        "p_value": slope.p_value,
        "p_method": slope.p_method,
    }


def _background_slope(observed: pd.DataFrame, middles: NDArray[np.floating]) -> float:
    """The slope that the unit would show without any object in it."""
    from scipy.stats import theilslopes

    background = observed["background_per_ha"].to_numpy(float) * observed["area_ha"].to_numpy(float)
    if not np.isfinite(background).all():
        return math.nan
    middles, background = _by_day(middles, background)
    return float(theilslopes(background, middles)[0])


def _by_day(
    middles: NDArray[np.floating], values: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Different times in order, with their values; acquisitions of one day count as their mean."""
    middles, at = np.unique(middles, return_inverse=True)
    return middles, np.bincount(at, values) / np.bincount(at)


def _persistent(totals: NDArray[np.floating]) -> bool:
    before, after = totals[:2], totals[-2:]
    return bool(after.min() > before.max() or after.max() < before.min())


def _note(row: Mapping[str, Any], n: int, periods: int, alpha: float) -> str | None:
    notes = []
    if n < periods:
        notes.append(f"observed in {n} of {periods} periods")
    if row["basis"] == "common_pixels" and row["common_frac"] < _LEAST_COMMON:
        notes.append(f"only {row['common_frac']:.0%} of the unit was observed in all periods")
    if math.isnan(row["slope_per_year"]):
        notes.append("no season was observed in two years: no slope")
    if row["p_method"] != "seasonal" and smallest_p(n) > alpha:
        notes.append(
            f"{n} periods cannot show a significant trend (smallest possible p: {smallest_p(n):.2g}; 5 are needed)"
        )
    return "; ".join(notes) or None


def _false_discovery_rates(p: pd.Series) -> pd.Series:
    from scipy.stats import false_discovery_control

    rates = p.copy()
    tested = p.notna()
    if tested.any():
        rates[tested] = false_discovery_control(p[tested].to_numpy(float))
    return rates


def _middle(start: str, end: str) -> float:
    """Decimal year of the middle of a period."""
    first, last = date.fromisoformat(str(start)[:10]), date.fromisoformat(str(end)[:10])
    middle = (first.toordinal() + last.toordinal() + 1) / 2
    year = date.fromordinal(int(middle)).year
    begin, after = date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal()
    return year + (middle - begin) / (after - begin)
