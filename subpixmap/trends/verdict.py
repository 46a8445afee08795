"""Trends -> what a reader should know of them, in plain words: how many, how sure, and what all units share."""

from __future__ import annotations

import math

import pandas as pd

from subpixmap.trends.shared_effects import background_effect, shared_steps, step_told
from subpixmap.trends.slopes import smallest_p

_WORTH_TELLING = 0.01
"""Share of the mean density from which a shared year effect is told."""


def trend_remarks(table: pd.DataFrame, counts: pd.DataFrame, series: pd.DataFrame, *, level: float) -> list[str]:
    """Sentences on the trends of a run.

    Parameters
    ----------
    table
        Of `trend`.
    counts, series
        That it follows.
    level
        Confidence of the intervals.
    """
    counted = set(table.loc[table["measure"] == "count", "object"])
    remarks = [
        f"{name}: no trend, a measure of occupancy" for name in dict.fromkeys(table["object"]) if name not in counted
    ]
    for name, rows in table[table["object"].isin(counted)].groupby("object", sort=False):
        remarks += _of_object(str(name), rows[rows["slope_per_year"].notna()], level)
    steps = shared_steps(counts, series)
    if len(steps):
        steps = steps[steps["object"].isin(counted)]
        remarks += [
            f"{row.object}: {step_told(row)}; a country does not change everywhere at once"
            for row in steps[steps["stands_out"]].itertuples()
        ]
    return remarks + _shared_effects(counts, series, counted)


def _of_object(name: str, rows: pd.DataFrame, level: float) -> list[str]:
    if not len(rows):
        return [f"{name}: no unit was observed in two periods or more: no trend"]
    found = rows[rows["significant"].fillna(False).astype(bool)]
    up, down = int((found["slope_per_year"] > 0).sum()), int((found["slope_per_year"] < 0).sum())
    flicker = int((~found["persistent"].fillna(True).astype(bool)).sum())
    told = f"{name}: of {len(rows)} units {up} rise and {down} fall"
    told += f" ({1 - level:.0%} of these by chance)" if up + down else ""
    told += f"; {flicker} of them do not persist" if flicker else ""
    remarks = [told]
    exact = rows[rows["p_method"] != "seasonal"]
    if len(exact):
        n = int(exact["n_periods"].max())
        least = smallest_p(n)
        if least > 1 - level:
            enough = next(k for k in range(n, 20) if smallest_p(k) <= 1 - level)
            remarks.append(
                f"{name}: {n} periods cannot show a significant trend (smallest possible p: {least:.2g}; "
                f"{enough} are needed)"
            )
        elif (needed := math.ceil(len(rows) * least / (1 - level))) > 1:
            remarks.append(
                f"{name}: with {n} periods p is at least {least:.2g}, so trends of fewer than {needed} of {len(rows)} "
                "units cannot be told from chance"
            )
    return remarks


def _shared_effects(counts: pd.DataFrame, series: pd.DataFrame, counted: set[str]) -> list[str]:
    """How much the background moves, against the density that is counted."""
    remarks = []
    effect = background_effect(series)
    for name, rows in effect[effect["object"].isin(counted)].groupby("object", sort=False):
        density = counts.loc[counts["object"] == name, "density_per_ha"].astype(float)
        moved, usual = rows["offset_per_ha"].abs().max(), density.mean()
        if usual > 0 and moved > _WORTH_TELLING * usual:
            worst = rows.loc[rows["offset_per_ha"].abs().idxmax()]
            remarks.append(
                f"{name}: where it is never present, {worst['period']} counts {worst['offset_per_ha']:+.2g} per ha "
                f"against the mean of all periods ({moved / usual:.1%} of the mean density): an effect that all units "
                "share (--background takes it out)"
            )
    return remarks
