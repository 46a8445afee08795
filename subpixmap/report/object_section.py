"""The page section of one object: sentence, totals, figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from subpixmap.report.contents import Contents
from subpixmap.report.estimates_section import EstimatesSection, estimates_section
from subpixmap.report.figures import plot_reliability, plot_series, plot_units
from subpixmap.report.formatting import shown, title
from subpixmap.report.html_images import sparkline, svg
from subpixmap.report.object_tables import (
    balance_tables,
    estimates_table,
    shared_table,
    trend_table,
    truth_table,
    unit_table,
)
from subpixmap.report.page_tables import Table
from subpixmap.report.sentences import sentence
from subpixmap.report.summary import against_truth, leaves, region_truth
from subpixmap.tables import REGION


@dataclass(frozen=True)
class ObjectSection:
    """The page section of one object."""

    name: str
    definition: str
    measure: str
    sentence: str
    """What was found, and what confirms it."""
    latest: dict[str, Any] | None
    """The last period in which anything was observed."""
    change: dict[str, Any] | None
    """The trend of the whole region: change on common pixels, with its error and verdict."""
    estimates: EstimatesSection | None
    """Totals and changes with intervals; None without a reference sample."""
    has_noise: bool
    common_flags: list[str]
    """Flags that every row has; the page shows them once."""
    common_note: str
    """The note of the trends, where it is the same for all units."""
    year_effect: str
    """The shared effect that was taken out of the trends; empty when none was."""
    period: str
    """Shown first."""
    spark: str
    series: str
    """Empty for one period: the card and the table say the number."""
    by_unit: str
    reliability: str
    cells: dict[str, list[list[str]]]
    """Period -> cells of the rows of `units`, without the first column."""
    units: Table | None
    trends: Table | None
    estimated: Table | None
    truth: Table | None
    balance: Table | None
    """Whether units and outside add up to the map; a row per period."""
    parents: Table | None
    """Parents against the sum of their children."""
    shared: Table | None
    """What all units share in a period."""


def object_section(contents: Contents, name: str, totals: pd.DataFrame, periods: Sequence[str]) -> ObjectSection:
    """The section of one object; `totals` are those of `region_totals`, `periods` those a reader may choose."""
    totals = totals[totals.object == name].reset_index(drop=True)
    observed = totals[totals.map_total.notna()]
    latest = shown(observed.iloc[-1].to_dict()) if len(observed) else None
    period = latest["period"] if latest and latest["period"] in periods else periods[-1]
    change = _change(contents, name)
    estimates = estimates_section(contents.estimates, contents.sample, name)
    units, cells, common_flags = unit_table(contents, name, period, periods)
    trends, common_note, year_effect = trend_table(contents, name)
    balance, parents = balance_tables(contents, name)
    return ObjectSection(
        name=name,
        definition=contents.model.definitions[name],
        measure=contents.model.measures[name],
        sentence=sentence(contents, name, latest, change, estimates),
        latest=latest,
        change=change,
        estimates=estimates,
        has_noise=bool(totals.noise_se.notna().any()),
        common_flags=common_flags,
        common_note=common_note,
        year_effect=year_effect,
        period=period,
        spark=sparkline(totals.map_total_full.tolist()),
        series=_series_figure(contents, name, totals),
        by_unit=_unit_figure(contents, name),
        reliability=_reliability_figure(contents, name),
        cells=cells,
        units=units,
        trends=trends,
        estimated=estimates_table(estimates, name),
        truth=truth_table(contents, name),
        balance=balance,
        parents=parents,
        shared=shared_table(contents, name),
    )


def _change(contents: Contents, name: str) -> dict[str, Any] | None:
    """The region's row of the trends; None for one period, and for a measure that has no trend."""
    if contents.trend is None or contents.model.measures[name] != "count" or len(contents.periods) < 2:
        return None
    rows = contents.trend[(contents.trend.object == name) & (contents.trend.unit_id == REGION)]
    return shown(rows.iloc[0].to_dict()) if len(rows) else None


def _series_figure(contents: Contents, name: str, totals: pd.DataFrame) -> str:
    """Total of the region by period."""
    if len(contents.periods) < 2:
        return ""
    truth = region_truth(contents)
    truth = None if truth is None else truth[truth.object == name]
    return svg(plot_series(totals, truth=truth), f"{title(name)}: total of the region by period")


def _unit_figure(contents: Contents, name: str) -> str:
    """Series of the largest units, or bars for one period; empty where there is one unit, or nothing was observed."""
    counts = contents.counts[contents.counts.object == name]
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
