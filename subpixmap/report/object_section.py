"""Tables of a run -> what its page shows of one object: totals, series, units, trends and checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from subpixmap.counts.rows import FLAGS
from subpixmap.report.checks import balance_rows, parent_rows, shared_rows
from subpixmap.report.contents import Contents
from subpixmap.report.estimates_section import EstimatesSection, estimates_section
from subpixmap.report.figures import plot_reliability, plot_series, plot_units
from subpixmap.report.formatting import shown, title
from subpixmap.report.html_images import sparkline, svg
from subpixmap.report.summary import against_truth, leaves, region_truth
from subpixmap.tables import REGION

MAX_ROWS = 2000
"""Units listed for an object; the CSV holds them all."""


@dataclass(frozen=True)
class ObjectSection:
    """What the page shows of one object."""

    name: str
    definition: str
    measure: str
    totals: list[dict[str, Any]]
    """A row per period, over the region."""
    latest: dict[str, Any] | None
    """The last period in which anything was observed."""
    change: dict[str, Any] | None
    """The trend of the whole region: change on common pixels, with its error and verdict."""
    has_estimates: bool
    estimates: EstimatesSection | None
    """Totals and changes with intervals; None without a reference sample."""
    has_noise: bool
    common_flags: list[str]
    """Flags that every row has; the page shows them once."""
    common_note: str
    """The note of the trends, where it is the same for all units."""
    spark: str
    series: str
    by_unit: str
    units: list[dict[str, Any]]
    trends: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    reliability: str
    balance: list[dict[str, Any]]
    """Whether units and outside add up to the map; a row per period."""
    parents_period: str
    parents: list[dict[str, Any]]
    """Parents against the sum of their children."""
    shared: list[dict[str, Any]]
    """What all units share in a period."""
    year_effect: str
    """The shared effect that was taken out of the trends; empty when none was."""


def object_section(contents: Contents, name: str, totals: pd.DataFrame) -> ObjectSection:
    """The section of one object; `totals` are those of `region_totals`."""
    totals = totals[totals.object == name].reset_index(drop=True)
    observed = totals[totals.map_total.notna()]
    latest = shown(observed.iloc[-1].to_dict()) if len(observed) else None
    counts = contents.counts[contents.counts.object == name]
    truth = region_truth(contents)
    truth = None if truth is None else truth[truth.object == name]
    units = _unit_rows(contents, counts, latest["period"] if latest else contents.periods[-1])
    trends = _trend_rows(contents, name)
    notes = {row["note"] or "" for row in trends}
    effects = {row["year_effect"] or "" for row in trends}
    parents_period, parents = parent_rows(contents, name)
    return ObjectSection(
        name=name,
        definition=contents.model.definitions[name],
        measure=contents.model.measures[name],
        totals=[shown(row) for row in totals.to_dict("records")],
        latest=latest,
        change=_change(contents, name),
        has_noise=bool(totals.noise_se.notna().any()),
        has_estimates=bool(counts.estimate.notna().any()),
        estimates=estimates_section(contents.estimates, contents.sample, name),
        spark=sparkline(totals.map_total_full.tolist()),
        series=svg(plot_series(totals, truth=truth), f"{title(name)}: total of the region by period"),
        by_unit=_unit_figure(contents, name, counts),
        common_flags=[flag for flag in FLAGS if units and all(flag in row["flags"] for row in units)],
        common_note=notes.pop() if len(notes) == 1 else "",
        units=units,
        trends=trends,
        truth=[] if truth is None else [shown(row) for row in truth.to_dict("records")],
        reliability=_reliability_figure(contents, name),
        balance=balance_rows(contents, name),
        parents_period=parents_period,
        parents=parents,
        shared=shared_rows(contents, name),
        year_effect=", ".join(sorted(effects - {""})),
    )


def _change(contents: Contents, name: str) -> dict[str, Any] | None:
    """The region's row of the trends; None for a measure that has none."""
    if contents.trend is None or contents.model.measures[name] != "count":
        return None
    rows = contents.trend[(contents.trend.object == name) & (contents.trend.unit_id == REGION)]
    return shown(rows.iloc[0].to_dict()) if len(rows) else None


def _unit_figure(contents: Contents, name: str, counts: pd.DataFrame) -> str:
    """Series of the largest units; empty where there is one unit, or nothing was observed."""
    if len(contents.units) <= 1 or not counts.map_total_full.notna().any():
        return ""
    lowest = counts[counts.unit_id.isin(leaves(contents.units))]
    return svg(plot_units(lowest, contents.periods), f"{title(name)}: total of the largest units by period")


def _reliability_figure(contents: Contents, name: str) -> str:
    """Mapped against truth by unit and period; empty where the truth is not known."""
    pairs = against_truth(contents)
    if pairs is None:
        return ""
    pairs = pairs[(pairs.object == name) & pairs.unit_id.isin(leaves(contents.units))]
    if not len(pairs):
        return ""
    truth, mapped = pairs.truth.to_numpy(float), pairs.mapped.to_numpy(float)
    figure = plot_reliability(truth, mapped, unit="per unit and period")
    return svg(figure, f"{title(name)}: mapped against truth by unit and period")


def _unit_rows(contents: Contents, counts: pd.DataFrame, period: str) -> list[dict[str, Any]]:
    """Rows of one object in one period with their series, the largest first, unobserved units last."""
    series = counts.pivot_table(index="unit_id", columns="period", values="map_total_full", aggfunc="first", sort=False)
    series = series.reindex(columns=list(contents.periods)).astype(float)
    largest_first = counts[counts.period == period].sort_values("map_total_full", ascending=False, kind="stable")
    parents = set(contents.units.parent_id.dropna())
    rows = []
    for row in map(shown, largest_first.head(MAX_ROWS).to_dict("records")):
        values = series.loc[row["unit_id"]].tolist() if row["unit_id"] in series.index else []
        row |= {"spark": sparkline(values), "is_parent": row["unit_id"] in parents}
        row["flags"] = [flag for flag in str(row["flag"] or "").split(";") if flag]
        rows.append(row)
    return rows


def _trend_rows(contents: Contents, name: str) -> list[dict[str, Any]]:
    """Trends of one object, the surest and largest change first; none for a measure that has no trend."""
    if contents.trend is None or contents.model.measures[name] != "count":
        return []
    trends = contents.trend[contents.trend.object == name]
    trends = trends[trends.unit_id != REGION].sort_values("change", key=lambda column: -column.abs(), kind="stable")
    surest = trends.direction.isin(["unclear"]).sort_values(kind="stable").index
    return [shown(row) for row in trends.loc[surest].head(MAX_ROWS).to_dict("records")]
