"""The tables of one object on the page.

The table of units is made for each period on the page's slider; all others are as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from subpixmap.counts.rows import FLAGS
from subpixmap.report.checks import balance_rows, parent_rows, shared_rows
from subpixmap.report.contents import Contents
from subpixmap.report.estimates_section import EstimatesSection
from subpixmap.report.formatting import number, percent, shown
from subpixmap.report.html_images import sparkline
from subpixmap.report.page_tables import SMALL, Column, Table, make_table, named, with_interval
from subpixmap.report.summary import region_truth
from subpixmap.tables import REGION

MAX_ROWS = 2000
"""Units listed for an object; the CSV holds them all."""
_UNIT = Column("Unit", "unit")
_UNITS = (
    _UNIT,
    Column("Total", "map_total_full", "0", "Sum over the observed pixels, scaled to the whole unit"),
    Column("Observed total", "map_total", "0", "Sum over the observed pixels"),
    Column(
        "± networks", "sd_over_models", "0", "Standard deviation of the observed total over the networks of the model"
    ),
    Column("Estimate", "estimated", "text", "From the labelled sample, with its interval"),
    Column("Per hectare", "density_per_ha", "1"),
    Column("Observed", "observed_frac", "%"),
    Column("Looks", "n_obs_median", "0", "Median number of clear observations of a pixel"),
    Column("Unlike", "ood_frac", "%", "Share of inputs unlike the training data"),
    Column("Area, ha", "area_ha", "0"),
    Column("Flags", "flags"),
)
_TRENDS = (
    _UNIT,
    Column("Direction", "direction", hint="rise, fall, steady or unclear"),
    Column("Change", "change", "0", "Last minus first period, on pixels observed in every period"),
    Column("± s.e.", "change_se", "0", "Standard error of the change, from differences between acquisitions"),
    Column("Percent", "share", "+%", "Change in percent"),
    Column("q", "direction_q", "p", "False discovery rate of the direction over the units"),
    Column("Because", "because"),
    Column("Per year", "slope_per_year", "0", "Median slope (Theil–Sen)"),
    Column("Detectable", "min_detectable_change", "0", "The smallest change that is detected in 4 of 5 cases"),
    Column("Limits", "note"),
)
_ESTIMATES = (
    Column("Period", "when"),
    Column("Map total", "mapped", "0"),
    Column("Estimate", "estimate", "0"),
    Column("Interval", "interval"),
    Column("Error", "cv", "1%", "Standard error, as a share of the estimate"),
    Column("Estimator", "estimator"),
    Column("Labelled cells", "n_ref", "0"),
)
_TRUTH = (
    Column("Period", "period"),
    Column("Truth", "truth", "0"),
    Column("Mapped", "mapped", "0"),
    Column("Error", "error", "+1%"),
)
_SHARED = (
    Column("Period", "period"),
    Column("Background, per ha", "background", "2", "Count of the map where the object is never present"),
    Column("Year effect, per ha", "offset", "2", "Difference from the mean of all periods"),
    Column("Shared step", "step", "+1%", "Median change of the units from the previous period"),
    Column("p", "p_value", "p", "p-value of a signed-rank test over the units that the shared step is zero"),
    Column("Stands out", "marked", hint="Much larger than the other steps"),
    Column("Units alike", "alike"),
    Column("What changed", "differs"),
    Column("What did not", "unchanged"),
)
_BALANCE = (
    Column("Period", "period"),
    Column("Region", "map", "0"),
    Column("In the units", "units", "0"),
    Column("Outside", "outside", "~"),
    Column("of this within 1 km", "near_total", "~", "Outside all units, but within 1 km of one"),
    Column("Counted twice", "counted_twice", "~", "Objects in overlaps of units"),
    Column("Outside, ha", "area_ha", "0"),
)
_PARENTS = (
    _UNIT,
    Column("Total", "parent_total", "0"),
    Column("Its sub-units", "children_total", "0"),
    Column("In none of them", "difference", "~"),
    Column("Area covered", "covered", "1%"),
)


def unit_table(
    contents: Contents, name: str, period: str, periods: Sequence[str]
) -> tuple[Table | None, dict[str, list[list[str]]], list[str]]:
    """The units in one period, the cells of the same rows in other periods, and the flags that all rows have.

    Parameters
    ----------
    period
        Shown first. The largest units in it come first, unobserved ones last.
    periods
        That the reader may choose.
    """
    counts = contents.counts[contents.counts.object == name]
    largest_first = counts[counts.period == period].sort_values("map_total_full", ascending=False, kind="stable")
    order = largest_first.unit_id.head(MAX_ROWS).tolist()
    shown_in = counts[counts.period.isin([*periods, period]) & counts.unit_id.isin(order)]
    flags = shown_in.flag.fillna("").astype(str).str.split(";")
    common = [flag for flag in FLAGS if len(flags) and flags.map(lambda own: flag in own).all()]  # noqa: B023
    known = {"estimated": "estimate", "sd_over_models": "sd_over_models"}  # columns that most runs do not have
    columns = tuple(
        one
        for one in _UNITS
        if one.key not in known or (known[one.key] in counts and counts[known[one.key]].notna().any())
    )
    parents = set(contents.units.parent_id.dropna())
    cells: dict[str, list[list[str]]] = {}
    table: Table | None = None
    for one, rows in shown_in.groupby("period", sort=False):
        by_unit = {row["unit_id"]: row for row in map(shown, rows.to_dict("records"))}
        records = [_unit_record(by_unit[unit], common) for unit in order if unit in by_unit]
        cells[str(one)] = [[column.cell(record) for column in columns[1:]] for record in records]
        if one == period:
            table = make_table(
                f"{name}-units", "Units", columns,
                [record | {"parent": record["unit_id"] in parents} for record in records],
                file="counts.csv", unit="unit_id",
            )  # fmt: skip
    if table is None:
        return None, {}, common
    table.spark.update(_sparks(counts, contents.periods, order))
    return table, {one: cells[one] for one in periods if len(cells.get(one, ())) == len(order)}, common


def _unit_record(row: dict[str, Any], common: Sequence[str]) -> dict[str, Any]:
    own = [flag for flag in str(row["flag"] or "").split(";") if flag and flag not in common]
    return row | {"unit": named(row), "estimated": with_interval(row), "flags": ";".join(own)}


def _sparks(counts: pd.DataFrame, periods: Sequence[str], units: Sequence[str]) -> dict[str, str]:
    """Unit -> its series, drawn small."""
    series = counts.pivot_table(index="unit_id", columns="period", values="map_total_full", aggfunc="first", sort=False)
    series = series.reindex(index=list(units), columns=list(periods)).astype(float)
    return {unit: sparkline(values) for unit, values in zip(units, series.to_numpy().tolist(), strict=True)}


def trend_table(contents: Contents, name: str) -> tuple[Table | None, str, str]:
    """(trends, the most certain and largest change first; the note common to all; the removed shared effect).

    A measure that has no trend has no table.
    """
    if contents.trend is None or contents.model.measures[name] != "count":
        return None, "", ""
    trends = contents.trend[contents.trend.object == name]
    trends = trends[trends.unit_id != REGION].sort_values("change", key=lambda column: -column.abs(), kind="stable")
    surest = trends.direction.isin(["unclear"]).sort_values(kind="stable").index
    rows = [shown(row) for row in trends.loc[surest].head(MAX_ROWS).to_dict("records")]
    if len(contents.periods) < 2 or not rows:
        return None, "", ""
    notes = {row["note"] or "" for row in rows}
    records = [
        row | {"unit": named(row), "share": None if row["change_percent"] is None else row["change_percent"] / 100}
        for row in rows
    ]
    columns = _TRENDS[:-1] if len(notes) == 1 else _TRENDS
    table = make_table(f"{name}-trends", "Trends", columns, records, file="trend.csv", unit="unit_id")
    effects = sorted({row["year_effect"] or "" for row in rows} - {""})
    return table, notes.pop() if len(notes) == 1 else "", ", ".join(effects)


def estimates_table(estimates: EstimatesSection | None, name: str) -> Table | None:
    """Totals of the region by labelled period, then the changes between them."""
    if estimates is None:
        return None
    totals = [row | {"when": row["period"]} for row in estimates.totals]
    changes = [
        row | {"when": f"{row['from_period']} to {row['period']}", "cv": None,
               "estimator": f"change, {row['estimator']}"}
        for row in estimates.changes
    ]  # fmt: skip
    records = [row | {"interval": _interval(row)} for row in [*totals, *changes]]
    return make_table(f"{name}-estimates", "Estimates of the region", _ESTIMATES, records, file="estimates.csv")


def _interval(row: dict[str, Any]) -> str:
    if row["ci_low"] is None:
        return str(row["note"] or "none")
    return f"{number(row['ci_low'])} to {number(row['ci_high'])}{SMALL}{percent(row['ci_level'])}"


def truth_table(contents: Contents, name: str) -> Table | None:
    """Mapped against the truth of a simulated country."""
    truth = region_truth(contents)
    if truth is None:
        return None
    records = [shown(row) for row in truth[truth.object == name].to_dict("records")]
    return make_table(f"{name}-truth", "Mapped against truth", _TRUTH, records)


def shared_table(contents: Contents, name: str) -> Table | None:
    """Effects common to all units; None for one period."""
    if len(contents.periods) < 2:
        return None
    records = [
        row
        | {
            "step": None if row["shared_step_percent"] is None else row["shared_step_percent"] / 100,
            "marked": "yes" if row["stands_out"] else "",
            "alike": f"{row['n_alike']} of {row['n_units']}" if row["n_units"] else "",
            "differs": "; ".join(str(one) for one in (row["join"], row["changed"]) if one),
        }
        for row in shared_rows(contents, name)
    ]
    return make_table(f"{name}-shared", "What all units share", _SHARED, records)


def balance_tables(contents: Contents, name: str) -> tuple[Table | None, Table | None]:
    """(units and outside against the map, parents against the sum of their children)."""
    balance = make_table(f"{name}-balance", "Does it add up?", _BALANCE, balance_rows(contents, name))
    period, parents = parent_rows(contents, name)
    records = [row | {"unit": named(row, id="parent_id")} for row in parents]
    title = f"Units against the sum of their sub-units, {period}"
    return balance, make_table(f"{name}-parents", title, _PARENTS, records, unit="parent_id")
