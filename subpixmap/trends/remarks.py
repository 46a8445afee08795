"""Sentences about trends: how many units change, how certain this is, and effects common to all units."""

from __future__ import annotations

from typing import Any

import pandas as pd

from subpixmap.tables import REGION
from subpixmap.trends.shared_effects import background_effect
from subpixmap.trends.slopes import smallest_p

_LEAST_EFFECT = 0.01
"""Smallest shared effect that gets a note, as a share of the mean density."""


def trend_remarks(table: pd.DataFrame, counts: pd.DataFrame, series: pd.DataFrame, *, level: float) -> list[str]:
    """Sentences about the trends of a run.

    Parameters
    ----------
    table
        From `trend`.
    counts, series
        The counts of the trends.
    level
        Confidence of the intervals.
    """
    with_trend = set(table.loc[table["measure"] == "count", "object"])
    remarks = [
        f"{name}: no trend, because an occupancy is a mean over dates, not a stock"
        for name in dict.fromkeys(table["object"])
        if name not in with_trend
    ]
    for name, rows in table[table["object"].isin(with_trend)].groupby("object", sort=False):
        remarks += _of_object(str(name), rows, level)
    stepped = table.dropna(subset="shared_step").drop_duplicates("object")
    remarks += [f"{row.object}: {row.shared_step}" for row in stepped.itertuples()]
    return remarks + _shared_effects(counts, series, with_trend)


def _of_object(name: str, rows: pd.DataFrame, level: float) -> list[str]:
    """The verdict on the region, numbers of units per direction, and limits of the rank test."""
    if not rows["change"].notna().any():
        return [f"{name}: no trend, because no unit was observed in two or more periods"]
    whole, units = rows[rows["unit_id"] == REGION], rows[rows["unit_id"] != REGION]
    remarks = [f"{name}, all units together: {_verdict(row)}" for row in whole.itertuples()]
    n = units["direction"].value_counts()
    up, down = n.get("rise", 0), n.get("fall", 0)
    chance = f" (about {1 - level:.0%} of these by chance)" if up + down else ""
    steady = f"{n.get('steady', 0)} are steady, {n.get('unclear', 0)} unclear"
    remarks.append(f"{name}: of {len(units)} units {up} rise and {down} fall{chance}, {steady}")
    ranked = units[units["slope_per_year"].notna() & (units["p_method"] != "seasonal")]
    return remarks + _limits(name, ranked, level)


def _verdict(row: Any) -> str:
    return (
        f"{row.direction}: {row.because}" if row.direction != "fall" and row.direction != "rise" else str(row.because)
    )


def _limits(name: str, exact: pd.DataFrame, level: float) -> list[str]:
    """The limit of the rank test with few periods."""
    if not len(exact):
        return []
    n = int(exact["n_periods"].max())
    least = smallest_p(n)
    if least > 1 - level:
        enough = next(k for k in range(n, 20) if smallest_p(k) <= 1 - level)
        return [
            f"{name}: {n} periods are too few for the rank test (smallest possible p: {least:.2g}; it needs "
            f"{enough} periods)"
        ]
    return []


def _shared_effects(counts: pd.DataFrame, series: pd.DataFrame, with_trend: set[str]) -> list[str]:
    """The largest change of the background relative to the mean density."""
    remarks = []
    effect = background_effect(series)
    for name, rows in effect[effect["object"].isin(with_trend)].groupby("object", sort=False):
        density = counts.loc[counts["object"] == name, "density_per_ha"].astype(float)
        moved, usual = rows["offset_per_ha"].abs().max(), density.mean()
        if usual > 0 and moved > _LEAST_EFFECT * usual:
            worst = rows.loc[rows["offset_per_ha"].abs().idxmax()]
            remarks.append(
                f"{name}: on ground without it, {worst['period']} has a count of "
                f"{worst['offset_per_ha']:+.2g} per ha relative to the mean of all periods ({moved / usual:.1%} of "
                "the mean density): all units share this effect (remove it with --background)"
            )
    return remarks
