"""Rows of counts -> what a page says of the whole region: totals without counting a place twice, change, status."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from subpixmap.report.contents import Run


@dataclass(frozen=True)
class Status:
    """How far the numbers can be trusted, in one line for the banner."""

    level: str
    """`warning`, `note` or `good`."""
    title: str
    text: str


def status(run: Run) -> Status:
    """The honest status of the numbers: evidence of the model against the kind of imagery."""
    if run.simulated:
        return Status(
            "note",
            "Simulated data.",
            "The imagery of this run was simulated. The numbers show how the method works; they say nothing of any "
            "real place.",
        )
    if run.evidence == "simulated":
        return Status(
            "warning",
            "These numbers are not estimates.",
            "The model has only been trained on simulated data and was applied to real imagery. Use this page to check "
            "coverage, clouds and processing; train or calibrate a model with reference data before quoting a number.",
        )
    if run.evidence == "degraded-aerial":
        return Status(
            "warning",
            "Not validated on Sentinel-2.",
            "The model was trained on aerial images degraded to the resolution of a satellite. How well it carries "
            "over to Sentinel-2 has not been measured.",
        )
    if run.counts["estimate"].notna().any():
        return Status("good", "Estimates with confidence intervals.", "They rest on a reference sample; see the units.")
    return Status(
        "note",
        "Map totals, without confidence intervals.",
        "A sum of pixels is biased in ways a map cannot show. Draw a reference sample to turn it into an estimate.",
    )


def leaves(units: pd.DataFrame) -> list[str]:
    """Ids of units that are not the parent of another one."""
    parents = set(units.parent_id.dropna())
    return [unit for unit in units.unit_id if unit not in parents]


def roots(units: pd.DataFrame) -> list[str]:
    """Ids of units whose parent is not among the units: together they hold each place once."""
    known = set(units.unit_id)
    return [unit for unit, parent in zip(units.unit_id, units.parent_id, strict=True) if parent not in known - {unit}]


def region_totals(run: Run) -> pd.DataFrame:
    """One row per object and period: the sum over the top units.

    Returns
    -------
    pandas.DataFrame
        object, period, map_total, map_total_full, noise_se, area_ha, observed_ha, observed_frac, density_per_ha; NaN
        where nothing was observed. Units share their acquisitions: errors add up fully.
    """
    top = run.counts[run.counts.unit_id.isin(roots(run.units))]
    columns = ["map_total", "map_total_full", "area_ha", "observed_ha"]
    found = top.groupby(["object", "period"], sort=False)[columns].sum(min_count=1).astype(float).reset_index()
    found["noise_se"] = _noise(run, found)
    found["observed_frac"] = (found.observed_ha / found.area_ha.where(found.area_ha > 0)).fillna(0.0)
    found["density_per_ha"] = found.map_total / found.observed_ha.where(found.observed_ha > 0)
    return ordered(found, run)


def _noise(run: Run, table: pd.DataFrame) -> pd.Series:
    keys = ["object", "period"]
    if run.series is None:
        return pd.Series(np.nan, index=table.index)
    top = run.series[run.series.unit_id.isin(roots(run.units))]
    sums = top.groupby(keys).noise_se.agg(lambda errors: errors.sum() if errors.notna().all() else np.nan)
    return table.join(sums, on=keys).noise_se


def ordered(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Rows in the order of the run's objects and periods."""
    keys = {name: i for i, name in enumerate(run.objects)}, {name: i for i, name in enumerate(run.periods)}
    table = table[table.object.isin(keys[0]) & table.period.isin(keys[1])]
    return table.sort_values(
        ["object", "period"],
        key=lambda column: column.map(keys[0 if column.name == "object" else 1]),
        ignore_index=True,
    )


def against_truth(run: Run) -> pd.DataFrame | None:
    """Mapped against truth, a row per unit, object and period: unit_id, unit_name, object, period, truth, mapped."""
    if run.truth is None:
        return None
    mapped = run.counts[["unit_id", "unit_name", "object", "period", "map_total_full"]]
    found = mapped.merge(run.truth, on=["unit_id", "object", "period"], how="inner")
    return found.rename(columns={"count": "truth", "map_total_full": "mapped"})


def region_truth(run: Run) -> pd.DataFrame | None:
    """Mapped against truth over the region, a row per object and period, with the error in percent."""
    found = against_truth(run)
    if found is None or found.empty:
        return None
    top = found[found.unit_id.isin(roots(run.units)) & found.mapped.notna()]
    table = top.groupby(["object", "period"], sort=False)[["truth", "mapped"]].sum().astype(float).reset_index()
    table["error"] = (table.mapped - table.truth) / table.truth.where(table.truth > 0)
    return ordered(table, run)


def number(value: float | None, *, digits: int = 0) -> str:
    """A number for people: thin spaces between thousands, a dash for what is not known."""
    if value is None or pd.isna(value) or not np.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace(",", "\u202f").replace("-", "\u2212")


def compact(value: float | None) -> str:
    """A headline number: 1.24 million, 38.4 thousand, 512."""
    if value is None or pd.isna(value):
        return "–"
    size = abs(value)
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if size >= limit:
            return f"{number(value / limit, digits=2)} {unit}"
    return number(value)


def percent(value: float | None, *, digits: int = 0, sign: bool = False) -> str:
    """A share as percent."""
    if value is None or pd.isna(value):
        return "–"
    text = number(100 * value, digits=digits)
    return f"{'+' if sign and 100 * value >= 0.5 * 10**-digits else ''}{text}\u202f%"


def title(name: str) -> str:
    """A region's or object's name for people: philippines-palawan -> Philippines, Palawan."""
    words = name.replace("_", " ").replace("-", " ").split()
    if not words or any(letter.isdigit() for letter in name):
        return name.replace("_", ", ") if any(letter.isdigit() for letter in name) else name
    return " ".join(word[:1].upper() + word[1:] for word in words)
