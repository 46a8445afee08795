"""Tables to check a run: whether sums agree, and effects common to all units."""

from __future__ import annotations

from typing import Any

import pandas as pd

from subpixmap.report.contents import Contents
from subpixmap.report.formatting import shown

_STEP = ("shared_step_percent", "p_value", "n_units", "n_alike", "join", "changed", "unchanged", "stands_out")
MAX_PARENTS = 40
"""Largest number of parents in the table of an object; the largest gaps come first."""


def balance_rows(contents: Contents, name: str) -> list[dict[str, Any]]:
    """A row per period: objects of the map, of the topmost units, outside, near outside, and counted twice."""
    if not {"balance", "outside"} <= set(contents.accounts):
        return []
    keys = ["object", "period"]
    outside = contents.accounts["outside"][[*keys, "near_total", "near_ha", "area_ha"]]
    both = contents.accounts["balance"].merge(outside, on=keys, how="left")
    return [shown(row) for row in _in_time(both[both["object"] == name], contents).to_dict("records")]


def parent_rows(contents: Contents, name: str) -> tuple[str, list[dict[str, Any]]]:
    """(last period, parents that are units themselves against the sum of their children, largest gap first)."""
    if "parents" not in contents.accounts or contents.accounts["parents"].empty:
        return "", []
    parents = contents.accounts["parents"]
    parents = _in_time(parents[parents["object"] == name], contents)
    if parents.empty:
        return "", []
    period = str(parents["period"].iloc[-1])
    names = dict(zip(contents.units["unit_id"], contents.units["unit_name"], strict=True))
    rows = parents[parents["period"] == period]
    rows = rows.assign(
        unit_name=rows["parent_id"].map(names).fillna(rows["parent_id"]),
        covered=rows["children_ha"].astype(float) / rows["parent_ha"].astype(float).where(lambda ha: ha > 0),
    )
    rows = rows.sort_values("covered", kind="stable").head(MAX_PARENTS)
    return period, [shown(row) for row in rows.to_dict("records")]


def shared_rows(contents: Contents, name: str) -> list[dict[str, Any]]:
    """A row per period: what the map counts where the object is never present, and the step that most units share."""
    from subpixmap.trends.shared_effects import background_effect, shared_steps

    if (
        contents.series is None
        or "background_per_ha" not in contents.series
        or contents.model.measures.get(name) != "count"
    ):
        return []
    series = contents.series[contents.series["object"] == name]
    counts = contents.counts[contents.counts["object"] == name]
    effect = background_effect(series).set_index("period")["offset_per_ha"]
    background = series.groupby("period", sort=False)["background_per_ha"].first()
    steps = (
        shared_steps(counts, series, inputs=contents.inputs).set_index("after")
        if len(contents.periods) > 1
        else pd.DataFrame()
    )
    rows = []
    for period in contents.periods:
        row: dict[str, Any] = {"period": period, "background": background.get(period), "offset": effect.get(period)}
        step = steps.loc[period].to_dict() if period in steps.index else {}
        row |= {key: step.get(key) for key in _STEP}
        rows.append(shown(row))
    return rows


def _in_time(table: pd.DataFrame, contents: Contents) -> pd.DataFrame:
    order = {period: i for i, period in enumerate(contents.periods)}
    table = table[table["period"].isin(order)]
    return table.sort_values("period", key=lambda column: column.map(order), kind="stable")
