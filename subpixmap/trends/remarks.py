"""Trends -> sentences about them: how many units change, how sure that is, and what all units share."""

from __future__ import annotations

import math

import pandas as pd

from subpixmap.trends.shared_effects import background_effect, shared_steps, step_text
from subpixmap.trends.slopes import smallest_p

_LEAST_EFFECT = 0.01
"""Share of the mean density from which a shared effect of a period gets a remark."""


def trend_remarks(table: pd.DataFrame, counts: pd.DataFrame, series: pd.DataFrame, *, level: float) -> list[str]:
    """Sentences about the trends of a run.

    Parameters
    ----------
    table
        From `trend`.
    counts, series
        The counts that it follows.
    level
        Confidence of the intervals.
    """
    with_trend = set(table.loc[table["measure"] == "count", "object"])
    remarks = [
        f"{name}: no trend, because an occupancy is not a stock"
        for name in dict.fromkeys(table["object"])
        if name not in with_trend
    ]
    for name, rows in table[table["object"].isin(with_trend)].groupby("object", sort=False):
        remarks += _of_object(str(name), rows[rows["slope_per_year"].notna()], level)
    steps = shared_steps(counts, series)
    if len(steps):
        steps = steps[steps["object"].isin(with_trend)]
        remarks += [
            f"{row.object}: {step_text(row)}; a country does not change everywhere at once"
            for row in steps[steps["stands_out"]].itertuples()
        ]
    return remarks + _shared_effects(counts, series, with_trend)


def _of_object(name: str, rows: pd.DataFrame, level: float) -> list[str]:
    if not len(rows):
        return [f"{name}: no trend, because no unit was observed in two or more periods"]
    significant = rows[rows["significant"].fillna(False).astype(bool)]
    up, down = int((significant["slope_per_year"] > 0).sum()), int((significant["slope_per_year"] < 0).sum())
    not_persistent = int((~significant["persistent"].fillna(True).astype(bool)).sum())
    summary = f"{name}: of {len(rows)} units {up} rise and {down} fall"
    summary += f" ({1 - level:.0%} of these by chance)" if up + down else ""
    summary += f"; {not_persistent} of them do not persist" if not_persistent else ""
    return [summary, *_limits(name, rows[rows["p_method"] != "seasonal"], len(rows), level)]


def _limits(name: str, exact: pd.DataFrame, n_units: int, level: float) -> list[str]:
    """What an exact test of so few periods cannot show."""
    if not len(exact):
        return []
    n = int(exact["n_periods"].max())
    least = smallest_p(n)
    if least > 1 - level:
        enough = next(k for k in range(n, 20) if smallest_p(k) <= 1 - level)
        return [
            f"{name}: {n} periods cannot show a significant trend (smallest possible p: {least:.2g}; "
            f"{enough} are needed)"
        ]
    needed = math.ceil(n_units * least / (1 - level))
    if needed > 1:
        return [
            f"{name}: with {n} periods p is at least {least:.2g}, so trends of fewer than {needed} of {n_units} "
            "units could be chance"
        ]
    return []


def _shared_effects(counts: pd.DataFrame, series: pd.DataFrame, with_trend: set[str]) -> list[str]:
    """How much the background moves, against the density that is counted."""
    remarks = []
    effect = background_effect(series)
    for name, rows in effect[effect["object"].isin(with_trend)].groupby("object", sort=False):
        density = counts.loc[counts["object"] == name, "density_per_ha"].astype(float)
        moved, usual = rows["offset_per_ha"].abs().max(), density.mean()
        if usual > 0 and moved > _LEAST_EFFECT * usual:
            worst = rows.loc[rows["offset_per_ha"].abs().idxmax()]
            remarks.append(
                f"{name}: on ground where it is never present, {worst['period']} counts "
                f"{worst['offset_per_ha']:+.2g} per ha against the mean of all periods ({moved / usual:.1%} of the "
                "mean density): all units share this effect (--background removes it)"
            )
    return remarks
