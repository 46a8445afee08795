"""Effects common to all units in a period: effects of single years, and steps.

In: counts and their comparable series. Out: small tables of effects that `trend` can remove, and of shared steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.tables import REGION
from subpixmap.trends.inputs import InputChange, changed_inputs

JOINS: dict[str, date] = {
    "processing baseline 04.00": date(2022, 1, 25),
    "Sentinel-2C replaces Sentinel-2A": date(2025, 1, 21),
}
"""Days on which the input changed everywhere: the joins if the items of a series are unknown."""

_STANDS_OUT = 3.0  # times the median size of the other steps
_LEAST_STEP = 1.0  # percent
_BACKGROUND = 0.1  # of the background itself


def unchanged_effect(series: pd.DataFrame, unchanged: Sequence[str]) -> pd.DataFrame:
    """Shared effect of each period, from units known not to change.

    Parameters
    ----------
    series
        `series` of a count.
    unchanged
        Ids of the units; use enough units so that their own small changes cancel.

    Returns
    -------
    pandas.DataFrame
        `object, period, factor, offset_per_ha, source`: their total in the period divided by its mean over the periods.
    """
    missing = sorted(set(unchanged) - set(series["unit_id"]))
    if missing or not unchanged:
        raise InputError(f"unchanged units {missing[:3] or '(none given)'} are not among the units of the counts")
    rows = _compared(series[series["unit_id"].isin(unchanged)])
    totals = rows.groupby(["object", "period"], sort=False)["common_total"].sum(min_count=len(set(unchanged)))
    if totals.isna().any():
        raise InputError("the unchanged units have no pixel observed in all periods; choose other units")
    factor = totals / totals.groupby(level="object").transform("mean")
    effect = factor.rename("factor").reset_index()
    return effect.assign(offset_per_ha=0.0, source=f"{len(set(unchanged))} unchanged units")


def background_effect(series: pd.DataFrame) -> pd.DataFrame:
    """Shared effect of each period, from places where the map never shows the object.

    The count there should be zero. Its deviation from the mean of all periods is subtracted from every hectare of the
    period. Young objects below the threshold look like background, so a real increase that begins everywhere at once is
    also subtracted: check the effect before using it.

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
    counts: pd.DataFrame,
    series: pd.DataFrame,
    *,
    joins: Mapping[str, date] = JOINS,
    inputs: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Steps that most units make together between two neighbouring periods.

    A step common to most units can be a real event (a storm, a drought) or come from the sensor, the processor or the
    season. The columns `join`, `changed` and `unchanged` help to decide.

    1. Keep units without children, since a parent is the sum of its children and would count them twice.
    2. For each object and pair of neighbouring periods, find the changes of the input.
    3. Measure the common step of units, and test whether it is zero.
    4. Mark steps that are large relative to the other steps of the object.

    Parameters
    ----------
    counts, series
        From the same count.
    joins
        Name of a change of the input -> the day on which it happened; for periods that `inputs` does not know.
    inputs
        From `inputs_by_period`: a change of baseline, of the mix of satellites or of the catalogue is a join.

    Returns
    -------
    pandas.DataFrame
        `object, before, after, join, n_units, n_alike` (units that step that way), `shared_step_percent` (median over
        units), `p_value` (signed-rank test over units that it is zero), `changed` and `unchanged` (what the input did,
        in words) and `stands_out`: more than 1 % and three times the median of the other steps, with p below 0.01.
    """
    # 1. Use totals of pixels observed in every period, in which clouds make no steps.
    rows = pd.DataFrame(counts).drop(columns="geometry", errors="ignore")
    rows = _leaves(rows[rows["measure"] == "count"])
    rows = _compared(rows.merge(series, on=["unit_id", "object", "period"], validate="one_to_one"))
    steps = []
    for name, mine in rows.groupby("object", sort=False):
        spans = mine.drop_duplicates("period").sort_values("period_start", kind="stable").to_dict("records")
        wide = mine.pivot(index="unit_id", columns="period", values="common_total")[[span["period"] for span in spans]]
        for i, (before, after) in enumerate(pairwise(spans)):
            # 2. Items have the best evidence. Without them, use the days on which the input changed everywhere.
            change = None if inputs is None else changed_inputs(inputs, before["period"], after["period"])
            if change is None:
                change = InputChange(tuple(k for k, day in joins.items() if _middle(before) < day <= _middle(after)))
            changed, unchanged = _evidence(before, after, change)
            # 3. By unit, because a few large units would dominate the step of a sum.
            steps.append(
                {
                    "object": name,
                    "before": before["period"],
                    "after": after["period"],
                    "join": "; ".join(change.joins) or None,
                    **_step(wide.iloc[:, i].to_numpy(float), wide.iloc[:, i + 1].to_numpy(float)),
                    "changed": "; ".join(changed) or None,
                    "unchanged": ", ".join(unchanged) or None,
                }
            )
    # 4. Last, since "large" means relative to all other steps.
    table = pd.DataFrame(steps, columns=_STEP_COLUMNS)
    return table.assign(stands_out=_stand_out(table))


def join_factors(rows: pd.DataFrame, steps: pd.DataFrame) -> NDArray[np.float64]:
    """(row,) factor of each total from shared steps at joins; 1 without an outstanding join.

    Parameters
    ----------
    rows
        `object`, `period` and `period_start`.
    steps
        From `shared_steps`.
    """
    factors = np.ones(len(rows))
    for step in steps[steps["stands_out"].astype(bool) & steps["join"].notna()].to_dict("records"):
        mine = (rows["object"] == step["object"]).to_numpy(bool)
        start = rows.loc[mine & (rows["period"] == step["after"]).to_numpy(bool), "period_start"].iloc[0]
        later = mine & (rows["period_start"] >= start).to_numpy(bool)
        # The step is s = 200 (b - a) / (a + b) percent, see `_step`; so b / a = (200 + s) / (200 - s).
        factors[later] *= (200 + step["shared_step_percent"]) / (200 - step["shared_step_percent"])
    return factors


def step_text(step: Any) -> str:
    """A row of `shared_steps` in words, with the evidence about its cause."""
    text = (
        f"{step.n_alike} of {step.n_units} units step by about {step.shared_step_percent:+.0f} % from {step.before} to "
        f"{step.after}: check whether this is a real event (storm, drought, felling) or an effect of the sensor"
    )
    facts = [f"input changed ({step.join})"] if step.join else []
    facts += [f"{step.changed}"] if step.changed else []
    facts += [f"unchanged: {step.unchanged}"] if step.unchanged else []
    return " ".join([text, "; ".join(facts)]).strip()


_STEP_COLUMNS = ["object", "before", "after", "join", "n_units", "n_alike", "shared_step_percent", "p_value"]
_STEP_COLUMNS += ["changed", "unchanged"]


def _leaves(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the region's row and the units that are parents of others."""
    parents = set(rows["parent_id"].dropna()) if "parent_id" in rows else set()
    return rows[~rows["unit_id"].isin(parents | {REGION})]


def _compared(series: pd.DataFrame) -> pd.DataFrame:
    """Without periods that have no observation, if other periods can be compared."""
    known = series.groupby("period")["common_total"].transform("count") > 0
    return series[known] if known.any() else series


def _step(first: NDArray[np.floating], second: NDArray[np.floating]) -> dict[str, Any]:
    """The common step of units with objects.

    The step of a unit from a to b is 2 (b - a) / (a + b): symmetric, and between -2 and 2 even if a is 0. The median
    ignores the few units that really changed; Wilcoxon's signed-rank test (1945, doi:10.2307/3001968) does not assume
    normal steps.
    """
    from scipy.stats import wilcoxon

    with np.errstate(invalid="ignore"):
        both = first + second > 0  # False for NaN
    step = 2 * (second - first)[both] / (first + second)[both]
    middle = float(np.median(step)) if step.size else math.nan
    return {
        "n_units": step.size,
        "n_alike": int(np.count_nonzero(step * middle > 0)),
        "shared_step_percent": 100 * middle,
        "p_value": float(wilcoxon(step).pvalue) if np.count_nonzero(step) >= 6 else math.nan,
    }


def _evidence(before: Mapping[Any, Any], after: Mapping[Any, Any], change: InputChange) -> tuple[list[str], list[str]]:
    """Other changes of the input from one period to the next, and unchanged properties, in words.

    Without the object, the count should be constant: a change of the background indicates a change of the input.
    """
    changed, unchanged = list(change.changed), list(change.unchanged)
    first, second = before["background_per_ha"], after["background_per_ha"]
    if first == first and second == second:  # known in both
        moved = second - first
        if abs(moved) > _BACKGROUND * max(abs(first), abs(second)):
            changed.append(f"background (where the object is never present) {moved:+.2g} per ha")
        else:
            unchanged.append("background")
    return changed, unchanged


def _stand_out(table: pd.DataFrame) -> list[bool]:
    # Relative to the median of the other steps, so that a single large step does not raise its own threshold.
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
