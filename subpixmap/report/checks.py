"""Rows of a page that let a reader check the others: whether all adds up, and what all units share in a period."""

from __future__ import annotations

from typing import Any

import pandas as pd

from subpixmap.report.contents import Run

MAX_PARENTS = 40
"""Parents listed for an object; those with the largest gaps come first."""


def balance_rows(run: Run, name: str) -> list[dict[str, Any]]:
    """A row per period: objects of the map, of the topmost units, outside, near outside, and counted twice."""
    if not {"balance", "outside"} <= set(run.accounts):
        return []
    keys = ["object", "period"]
    outside = run.accounts["outside"][[*keys, "near_total", "near_ha", "area_ha"]]
    both = run.accounts["balance"].merge(outside, on=keys, how="left")
    return [_known(row) for row in _in_time(both[both["object"] == name], run).to_dict("records")]


def parent_rows(run: Run, name: str) -> tuple[str, list[dict[str, Any]]]:
    """(last period, parents that are units themselves against the sum of their children, largest gap first)."""
    if "parents" not in run.accounts or run.accounts["parents"].empty:
        return "", []
    parents = run.accounts["parents"]
    parents = _in_time(parents[parents["object"] == name], run)
    if parents.empty:
        return "", []
    period = str(parents["period"].iloc[-1])
    names = dict(zip(run.units["unit_id"], run.units["unit_name"], strict=True))
    rows = parents[parents["period"] == period]
    rows = rows.assign(
        unit_name=rows["parent_id"].map(names).fillna(rows["parent_id"]),
        covered=rows["children_ha"].astype(float) / rows["parent_ha"].astype(float).where(lambda ha: ha > 0),
    )
    rows = rows.sort_values("covered", kind="stable").head(MAX_PARENTS)
    return period, [_known(row) for row in rows.to_dict("records")]


def shared_rows(run: Run, name: str) -> list[dict[str, Any]]:
    """A row per period: what the map counts where the object never is, and the step that most units make together."""
    from subpixmap.trends.shared_effects import background_effect, shared_steps

    if run.series is None or "background_per_ha" not in run.series or run.measures.get(name) != "count":
        return []
    series = run.series[run.series["object"] == name]
    counts = run.counts[run.counts["object"] == name]
    effect = background_effect(series).set_index("period")["offset_per_ha"]
    background = series.groupby("period", sort=False)["background_per_ha"].first()
    steps = shared_steps(counts, series).set_index("after") if len(run.periods) > 1 else pd.DataFrame()
    found = []
    for period in run.periods:
        row: dict[str, Any] = {"period": period, "background": background.get(period), "offset": effect.get(period)}
        step = steps.loc[period].to_dict() if period in steps.index else {}
        row |= {key: step.get(key) for key in ("shared_step_percent", "p_value", "n_units", "join", "stands_out")}
        found.append(_known(row))
    return found


def _in_time(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    place = {period: i for i, period in enumerate(run.periods)}
    table = table[table["period"].isin(place)]
    return table.sort_values("period", key=lambda column: column.map(place), kind="stable")


def _known(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}
