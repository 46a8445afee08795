"""Counts -> what all units share in a period, which is a trend of none of them: effects of single years, and steps.

In: counts and their comparable series. Out: small tables: effects that `trend` can remove, steps that are shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from subpixmap.errors import InputError

JOINS: dict[str, date] = {
    "processing baseline 04.00": date(2022, 1, 25),
    "Sentinel-2C replaces Sentinel-2A": date(2025, 1, 21),
}
"""Days on which the input changed everywhere at once."""

_STANDS_OUT = 3.0  # times the median size of the other steps
_LEAST_STEP = 1.0  # percent


def unchanged_effect(series: pd.DataFrame, unchanged: Sequence[str]) -> pd.DataFrame:
    """Shared effect of each period, from units that did not change, as the user knows.

    Parameters
    ----------
    series
        `series` of a count.
    unchanged
        Ids of the units; enough of them that their own small changes cancel.

    Returns
    -------
    pandas.DataFrame
        `object, period, factor, offset_per_ha, source`: their total in the period over its mean over the periods.
    """
    missing = sorted(set(unchanged) - set(series["unit_id"]))
    if missing or not unchanged:
        raise InputError(f"unchanged units {missing[:3] or '(none given)'} are not among the units of the counts")
    rows = series[series["unit_id"].isin(unchanged)]
    totals = rows.groupby(["object", "period"], sort=False)["common_total"].sum(min_count=len(set(unchanged)))
    if totals.isna().any():
        raise InputError("the unchanged units share no pixel that was observed in all periods")
    factor = totals / totals.groupby(level="object").transform("mean")
    effect = factor.rename("factor").reset_index()
    return effect.assign(offset_per_ha=0.0, source=f"{len(set(unchanged))} unchanged units")


def background_effect(series: pd.DataFrame) -> pd.DataFrame:
    """Shared effect of each period, from places where the map never sees the object.

    The map should count nothing there. What it counts in one period above the average of all periods is subtracted
    from every hectare of that period. Young objects below the threshold look like background too, so a real increase
    that begins everywhere at once is also subtracted: look at the effect before you use it.

    Returns
    -------
    pandas.DataFrame
        `object, period, factor, offset_per_ha, source`.
    """
    density = series.groupby(["object", "period"], sort=False)["background_per_ha"].first()
    offset = density - density.groupby(level="object").transform("mean")
    effect = offset.rename("offset_per_ha").reset_index()
    return effect.assign(factor=1.0, source="background")[["object", "period", "factor", "offset_per_ha", "source"]]


def shared_steps(
    counts: pd.DataFrame, series: pd.DataFrame | None = None, *, joins: Mapping[str, date] = JOINS
) -> pd.DataFrame:
    """Steps that most units make together between two neighbouring periods.

    A country does not plant everywhere in the same year. A step that most units share more likely comes from the
    sensor, the processor or the season, above all where the input changed.

    Parameters
    ----------
    counts, series
        From the same count.
    joins
        Name of a change of the input -> the day on which it happened.

    Returns
    -------
    pandas.DataFrame
        `object, before, after, join, n_units, shared_step_percent` (median over units), `p_value` (signed-rank test
        over units that it is zero) and `stands_out`: more than 1 % and three times the median of the other
        steps, with p below 0.01.
    """
    from scipy.stats import wilcoxon

    rows = pd.DataFrame(counts).drop(columns="geometry", errors="ignore")
    rows = rows[rows["measure"] == "count"]
    rows = rows.assign(total=rows["map_total_full"].astype(float))
    if series is not None:
        rows = rows.merge(series, on=["unit_id", "object", "period"], validate="one_to_one")
        rows["total"] = rows["common_total"]
    steps = []
    for name, mine in rows.groupby("object", sort=False):
        spans = mine.drop_duplicates("period").sort_values("period_start", kind="stable").to_dict("records")
        wide = mine.pivot(index="unit_id", columns="period", values="total")[[span["period"] for span in spans]]
        for i, (before, after) in enumerate(pairwise(spans)):
            first, second = wide.iloc[:, i], wide.iloc[:, i + 1]
            both = first.notna() & second.notna() & (first + second > 0)
            step = (2 * (second - first) / (first + second))[both].to_numpy(float)
            inside = [k for k, day in joins.items() if _middle(before) < day <= _middle(after)]
            steps.append(
                {
                    "object": name,
                    "before": before["period"],
                    "after": after["period"],
                    "join": "; ".join(inside) or None,
                    "n_units": step.size,
                    "shared_step_percent": 100 * float(np.median(step)) if step.size else np.nan,
                    "p_value": float(wilcoxon(step).pvalue) if np.count_nonzero(step) >= 6 else np.nan,
                }
            )
    names = ["object", "before", "after", "join", "n_units", "shared_step_percent", "p_value"]
    table = pd.DataFrame(steps, columns=names)
    return table.assign(stands_out=_stand_out(table))


def step_text(step: Any) -> str:
    """A row of `shared_steps` in words."""
    text = f"most units step by {step.shared_step_percent:+.1f} % together from {step.before} to {step.after}"
    return text + (f", where the input changed ({step.join})" if step.join else "")


def _stand_out(table: pd.DataFrame) -> list[bool]:
    stand_out = []
    for i, row in table.iterrows():
        others = table[(table["object"] == row["object"]) & (table.index != i)]["shared_step_percent"].abs().dropna()
        usual = float(others.median()) if len(others) else 0.0
        large = abs(row["shared_step_percent"]) > max(_LEAST_STEP, _STANDS_OUT * usual)
        stand_out.append(bool(row["p_value"] < 0.01 and large))
    return stand_out


def _middle(span: Mapping[Any, Any]) -> date:
    first, last = date.fromisoformat(span["period_start"][:10]), date.fromisoformat(span["period_end"][:10])
    return first + (last - first) / 2
