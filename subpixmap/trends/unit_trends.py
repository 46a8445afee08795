"""Computes the change, verdict and slope of every unit from counts over periods, with errors.

In: the rows of counts and the comparable series. Out: one row per unit and object, and their changes from period to
period. This module decides which numbers are comparable and when there are too few; statistics are in `changes`,
`change_points` and `slopes`, texts in `verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.unlike import unlike_words
from subpixmap.errors import InputError, Refused
from subpixmap.progress import track
from subpixmap.tables import REGION, SERIES, TREND, types_of
from subpixmap.trends.changes import (
    Totals,
    changes_table,
    even_noise,
    false_discovery_rates,
    noise_between_periods,
    relative_steps,
    shared_noise,
    year_to_year,
)
from subpixmap.trends.seasons import by_year, is_seasonal, seasons_a_year
from subpixmap.trends.shared_effects import join_factors, shared_steps, step_text
from subpixmap.trends.slopes import seasonal_slope, smallest_p, theil_sen
from subpixmap.trends.verdict import LEAST_COMMON, UNCLEAR, Evidence, verdict, weigh

_ALIKE = ["object_definition", "measure", "model_sha256", "run_id", "boundary_source", "boundary_version", "evidence"]

_STRAY = 0.0005  # of the pixels of a unit


@dataclass(frozen=True)
class Followed:
    """Trends and changes of counts."""

    trend: pd.DataFrame
    """The columns of `tables.TREND`, a row per unit and object in the order of the counts."""
    changes: pd.DataFrame
    """The columns of `tables.CHANGES`, a row per unit, object and pair of neighbouring periods."""


def trend(
    counts: pd.DataFrame,
    series: pd.DataFrame | None = None,
    *,
    level: float = 0.95,
    steady_within: float = 0.05,
    year_effect: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Change and verdict of every unit and object over the periods; see `follow`.

    Returns
    -------
    pandas.DataFrame
        The columns of `tables.TREND`, a row per unit and object in the order of `counts`.
    """
    return follow(counts, series, level=level, steady_within=steady_within, year_effect=year_effect).trend


def follow(
    counts: pd.DataFrame,
    series: pd.DataFrame | None = None,
    *,
    level: float = 0.95,
    steady_within: float = 0.05,
    year_effect: pd.DataFrame | None = None,
    inputs: pd.DataFrame | None = None,
) -> Followed:
    """Change, verdict and slope of every unit and object, and its changes from period to period.

    1. Refuse rows that cannot be compared.
    2. Take the totals of pixels observed in all periods, without common effects of all units.
    3. Estimate their noise from all periods of a unit and the steps of all units: one period has few acquisitions.
    4. Test each unit and object; then correct for multiple tests, because many tests find something by chance.

    Parameters
    ----------
    counts
        Rows as `count_by_unit` returns them, or counts.parquet.
    series
        `series` of the same count (series.parquet): totals on the pixels observed in every period, and their noise.
        The rows of `count_by_unit` contain it.
    level
        Confidence of the intervals; 1 - level is the false discovery rate of significant results.
    steady_within
        A unit is steady if its change is within this share of the first total.
    year_effect
        Shared effects of single periods to remove, from `unchanged_effect` or `background_effect`.
    inputs
        From `inputs_by_period`: properties of the imagery of each period, as evidence for shared steps.

    Raises
    ------
    InputError
        Columns or the comparable series are missing.
    Refused
        Rows of one object come from different models, recipes, boundaries or definitions.
    """
    needed = {"unit_id", "object", "measure", "period", "period_start", "period_end", "map_total_full", "area_ha"}
    if missing := sorted(needed - set(counts.columns)):
        raise InputError(f"the counts lack the columns {', '.join(missing)}; give the rows of count_by_unit")
    _refuse_unlike(counts)  # 1.
    counts, series = _counts_and_series(pd.DataFrame(counts).drop(columns="geometry", errors="ignore"), series)
    totals = _totals(counts, series)  # 2.
    if year_effect is not None:
        totals = _remove_effect(totals, year_effect)
    steps = shared_steps(counts, series, inputs=inputs)
    # Removing a shared effect also removes the steps at joins.
    totals = totals.assign(join_factor=1.0 if year_effect is not None else join_factors(totals, steps))
    rows, weighed, cautions, changes = [], [], [], []
    by_unit = _with_noise(totals).groupby(["unit_id", "object"], sort=False)  # 3.
    for _, group in track(by_unit, "trend", "units x objects", total=by_unit.ngroups):  # 4.
        row, evidence = _unit_trend(group.sort_values("period_start", kind="stable"), level, steady_within)
        rows.append(row)
        weighed.append(evidence)
        cautions.append(unlike_words(group))
        if evidence is not None:
            changes += year_to_year([row[name] for name in ("unit_id", "unit_name", "object")], evidence.series)
    table = pd.DataFrame(rows, columns=list(TREND)).astype(types_of(TREND))
    table = _judged(table, weighed, cautions, 1 - level)
    for name, joins in steps[steps["stands_out"].astype(bool)].groupby("object"):
        table.loc[table["object"] == name, "shared_step"] = "; ".join(step_text(row) for row in joins.itertuples())
    return Followed(table, changes_table(changes, level=level))


def _judged(
    table: pd.DataFrame, weighed: list[Evidence | None], cautions: list[str | None], alpha: float
) -> pd.DataFrame:
    """The rows with false discovery rates, significance, verdicts and notes."""
    for p, q, significant in (
        ("p_value", "q_value", "trend_significant"),
        ("change_p", "change_q", "change_significant"),
        ("direction_p", "direction_q", None),
    ):
        table[q] = table.groupby("object", sort=False)[p].transform(false_discovery_rates)
        if significant is not None:
            tested = table[q].notna()
            table.loc[tested, significant] = table.loc[tested, q] <= alpha
    notes, common = table["note"].tolist(), table["common_frac"].tolist()
    verdicts = []
    for evidence, q, note, frac in zip(weighed, table["direction_q"].tolist(), notes, common, strict=True):
        if evidence is None:
            verdicts.append((UNCLEAR, note))
        elif frac < LEAST_COMMON:
            verdicts.append((UNCLEAR, f"only {frac:.0%} of the unit was observed in all periods"))
        else:
            verdicts.append(verdict(evidence, q, alpha=alpha))
    return table.assign(
        direction=pd.array([one for one, _ in verdicts], "string"),
        because=pd.array(
            ["; ".join(filter(None, (why, more))) or None for (_, why), more in zip(verdicts, cautions, strict=True)],
            "string",
        ),
    )


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


def _counts_and_series(counts: pd.DataFrame, series: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split counts and series, which `count_by_unit` returns in one table."""
    keys = {"unit_id", "object", "period"}
    beside = [name for name in SERIES if name not in keys]
    if series is None and set(beside) <= set(counts.columns):
        series = counts[list(SERIES)]
    if series is None:
        raise InputError(
            "the counts have no totals on common pixels, and totals of single periods cannot be compared; give the "
            "rows of count_by_unit, or series.parquet of the same folder as `series`"
        )
    return counts.drop(columns=beside, errors="ignore"), series


def _totals(counts: pd.DataFrame, series: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns of the series and `total`."""
    keys = ["unit_id", "object", "period"]
    both = counts.merge(series, on=keys, how="left", validate="one_to_one", indicator=True)
    if (both["_merge"] != "both").any():
        row = both[both["_merge"] != "both"].iloc[0]
        raise Refused(
            f"series.parquet does not match these counts: unit {row['unit_id']!r}, {row['object']}, period "
            f"{row['period']} is missing there; count again (subpixmap count)"
        )
    return both.assign(total=both["common_total"], basis="common_pixels").drop(columns="_merge")


def _with_noise(totals: pd.DataFrame) -> pd.DataFrame:
    """The rows with `se` and `freedom` (of `shared_noise`), `even_se` and `even_freedom` (of `even_noise`)."""
    parts, steps, divided = [], [np.empty(0)], False
    for _, rows in totals.groupby("object", sort=False):
        unit, units = pd.factorize(rows["unit_id"])
        order = rows.sort_values("period_start", kind="stable")["period"].unique()
        period = pd.Categorical(rows["period"], categories=order).codes
        grids = {name: np.full((len(units), len(order)), np.nan) for name in ("total", "noise_se", "n")}
        for name, values in zip(grids, (rows["total"], rows["noise_se"], rows["n_noise_acquisitions"]), strict=True):
            grids[name][unit, period] = values.to_numpy(float, na_value=np.nan)
        total, noise, n = grids["total"], grids["noise_se"], np.nan_to_num(grids["n"])
        parents = {*rows["parent_id"].dropna(), REGION} if "parent_id" in rows else {REGION}
        alone = ~np.isin(np.asarray(units, str), list(parents))
        se, freedom = shared_noise(noise, n)
        even_se, even_freedom = even_noise(noise, n)
        spans = rows.drop_duplicates("period").sort_values("period_start", kind="stable")
        middles = np.array([_middle(*span) for span in zip(spans["period_start"], spans["period_end"], strict=True)])
        apart = seasons_a_year(middles) if is_seasonal(middles) else 1
        steps += [relative_steps(total[alone, k::apart], even_se[alone, k::apart]) for k in range(apart)]
        divided = divided or apart > 1
        columns = {"se": se, "freedom": freedom, "even_se": even_se, "even_freedom": even_freedom}
        parts.append(rows.assign(**{name: grid[unit, period] for name, grid in columns.items()}))
    if not parts:
        return totals
    both = pd.concat(parts).loc[totals.index]
    return both.assign(even_se=both["even_se"] * noise_between_periods(np.concatenate(steps), divided=divided))


def _remove_effect(rows: pd.DataFrame, effect: pd.DataFrame) -> pd.DataFrame:
    """Remove shared effects of the periods: total / factor - offset x area."""
    both = rows.merge(effect, on=["object", "period"], how="left", validate="many_to_one")
    both["total"] = both["total"] / both["factor"].fillna(1) - both["offset_per_ha"].fillna(0) * both["area_ha"]
    both["year_effect"] = both["source"]
    return both


def _unit_trend(group: pd.DataFrame, level: float, within: float) -> tuple[dict[str, Any], Evidence | None]:
    """The row of a unit and object, and its test results; None if nothing can be compared."""
    observed = group[group["total"].notna()]
    first = group.iloc[0]
    names = ("unit_id", "unit_name", "parent_id", "object", "measure", "basis", "common_frac", "year_effect")
    row: dict[str, Any] = {name: first.get(name) for name in names}
    row |= {name: first.get(name) for name in ("evidence", "boundary_version", "model_id", "run_id")}
    row["n_periods"] = n = len(observed)
    if first["measure"] != "count":
        return row | {"basis": None, "note": f"a measure of {first['measure']} has no trend"}, None
    if n < 2:
        unshared = group["map_total_full"].notna().sum() >= 2
        reason = "no pixel was observed in all periods" if unshared else f"observed in {n} of {len(group)} periods"
        return row | {"note": f"{reason}: no trend"}, None
    series = _series(observed)
    if series.years[0] == series.years[-1]:
        return row | {"note": f"all that was observed is of {observed['period_start'].iloc[0]}: no trend"}, None
    row |= _slope(series.years, series.totals, level)
    row["background_slope_per_year"] = _background_slope(observed, series.years)
    evidence = _weighed(observed, level, within)
    if evidence is None:
        return row | {"note": "no slope, because no season was observed in two years"}, None
    row |= _evidence_columns(evidence)
    return row | {"note": _note(row, n, len(group), 1 - level)}, evidence


def _weighed(observed: pd.DataFrame, level: float, within: float) -> Evidence | None:
    """Test results by year; None if no two years have a common season."""
    series, even = _series(observed), _series(observed, "even_")
    if is_seasonal(series.years):
        yearly, even_yearly = by_year(series), by_year(even)
        if yearly is None or even_yearly is None:
            return None
        series, even = yearly, even_yearly
    found = weigh(series, even, level=level, within=within, holds=_holds(observed))
    factor = observed["join_factor"]
    if (factor == 1).all():
        return found
    cleaned = {name: observed[name] / factor for name in ("total", "se", "even_se")}
    return replace(found, without_joins=_weighed(observed.assign(**cleaned, join_factor=1.0), level, within))


def _series(observed: pd.DataFrame, errors: str = "") -> Totals:
    spans = zip(observed["period_start"], observed["period_end"], strict=True)
    return Totals(
        periods=tuple(observed["period"]),
        years=np.array([_middle(*span) for span in spans]),
        totals=observed["total"].to_numpy(float),
        se=observed[f"{errors}se"].to_numpy(float),
        freedom=observed[f"{errors}freedom"].to_numpy(float),
        most_freedom=float(observed["even_freedom"].max()),
    )


def _evidence_columns(evidence: Evidence) -> dict[str, Any]:
    """The columns with test results."""
    series, totals = evidence.series, evidence.series.totals
    row: dict[str, Any] = {
        "first_period": series.periods[0],
        "last_period": series.periods[-1],
        "first_total": totals[0],
        "last_total": totals[-1],
        "change": evidence.change,
        "change_percent": 100 * evidence.change / totals[0] if totals[0] > 0 else math.nan,
        "change_se": evidence.se,
        "change_p": evidence.change_p,
        "direction_p": evidence.direction_p,
        "min_detectable_change": evidence.detectable,
        "persistent": evidence.persistent,
    }
    if (step := evidence.step) is not None and len(totals) > 2:
        row |= {
            "step_from": series.periods[step.before],
            "step_to": series.periods[step.before + 1],
            "step_earliest": series.periods[step.earliest],
            "step_latest": series.periods[step.latest + 1],
            "step_change": step.change,
            "step_se": step.se,
            "step_p": step.p_value,
        }
    if (line := evidence.line) is not None:
        row |= {"line_per_year": line.per_year, "line_se": line.se, "line_p": line.p_value}
    return row


def _slope(middles: NDArray[np.floating], totals: NDArray[np.floating], level: float) -> dict[str, Any]:
    middles, totals = _by_day(middles, totals)
    slope = (seasonal_slope if is_seasonal(middles) else theil_sen)(middles, totals, level=level)
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
    """The slope of the unit's background, as if it had no object."""
    from scipy.stats import theilslopes

    background = observed["background_per_ha"].to_numpy(float) * observed["area_ha"].to_numpy(float)
    if not np.isfinite(background).all():
        return math.nan
    middles, background = _by_day(middles, background)
    return float(theilslopes(background, middles)[0])


def _holds(observed: pd.DataFrame) -> bool:
    """Whether the map shows the object on more than a few stray pixels in any period; True if unknown."""
    if "object_area_ha" not in observed:
        return True
    area = observed["object_area_ha"].to_numpy(float)
    return not bool(np.nanmax(area, initial=0) < _STRAY * observed["area_ha"].iloc[0]) or not np.isfinite(area).any()


def _by_day(
    middles: NDArray[np.floating], values: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Distinct times in order, with their values; acquisitions of one day are averaged."""
    middles, at = np.unique(middles, return_inverse=True)
    return middles, np.bincount(at, values) / np.bincount(at)


def _note(row: Mapping[str, Any], n: int, periods: int, alpha: float) -> str | None:
    notes = []
    if n < periods:
        notes.append(f"observed in {n} of {periods} periods")
    if row["common_frac"] < LEAST_COMMON:
        notes.append(f"only {row['common_frac']:.0%} of the unit was observed in all periods")
    if math.isnan(row["slope_per_year"]):
        notes.append("no slope, because no season was observed in two years")
    if row["p_method"] != "seasonal" and smallest_p(n) > alpha:
        notes.append(
            f"{n} periods are too few for a significant trend (smallest possible p: {smallest_p(n):.2g}; 5 periods "
            "are needed)"
        )
    return "; ".join(notes) or None


def _middle(start: str, end: str) -> float:
    """Decimal year of the middle of a period."""
    first, last = date.fromisoformat(str(start)[:10]), date.fromisoformat(str(end)[:10])
    middle = (first.toordinal() + last.toordinal() + 1) / 2
    year = date.fromordinal(int(middle)).year
    begin, after = date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal()
    return year + (middle - begin) / (after - begin)
