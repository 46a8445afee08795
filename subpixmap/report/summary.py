"""The totals of the whole region, without double counts, and the banner of the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from subpixmap.report.contents import Contents
from subpixmap.report.estimates_section import region_estimates


@dataclass(frozen=True)
class Banner:
    """The reliability of the numbers, in one line for the banner."""

    level: str
    """`warning`, `note` or `good`."""
    title: str
    text: str


def banner(contents: Contents) -> Banner:
    """The banner, from the evidence of the model and the kind of imagery."""
    if contents.simulated:
        return Banner(
            "note",
            "Simulated data.",
            "The imagery of this run is simulated. The numbers show how the method works; they do not describe a "
            "real place.",
        )
    if contents.model.evidence == "simulated":
        return Banner(
            "warning",
            "These numbers are not estimates.",
            "The model was trained on simulated data only, but applied to real imagery. Use this page to check "
            "coverage, clouds and processing. Train or calibrate a model with reference data before you quote a "
            "number.",
        )
    if contents.model.evidence == "degraded-aerial":
        return Banner(
            "warning",
            "Not validated on Sentinel-2.",
            "The model was trained on aerial images degraded to the resolution of a satellite. Its accuracy on "
            "Sentinel-2 has not been measured.",
        )
    if contents.counts["estimate"].notna().any():
        return Banner(
            "good", "Estimates with confidence intervals.", "They come from a reference sample; see the table of units."
        )
    return Banner(
        "note",
        "Map totals, without confidence intervals.",
        "Map totals can be biased, and the map cannot show by how much. Draw a reference sample to get estimates.",
    )


def leaves(units: pd.DataFrame) -> list[str]:
    """Ids of units that are not the parent of another one."""
    parents = set(units.parent_id.dropna())
    return [unit for unit in units.unit_id if unit not in parents]


def roots(units: pd.DataFrame) -> list[str]:
    """Ids of units whose parent is not among the units: together they contain each place once."""
    ids = set(units.unit_id)
    return [unit for unit, parent in zip(units.unit_id, units.parent_id, strict=True) if parent not in ids - {unit}]


def region_totals(contents: Contents) -> pd.DataFrame:
    """One row per object and period: the sum over the top units.

    Returns
    -------
    pandas.DataFrame
        object, period, map_total, map_total_full, noise_se, area_ha, observed_ha, observed_frac, density_per_ha,
        estimate, ci_low, ci_high; NaN
        where nothing was observed. Units share their acquisitions: errors add up fully.
    """
    top = contents.counts[contents.counts.unit_id.isin(roots(contents.units))]
    columns = ["map_total", "map_total_full", "area_ha", "observed_ha"]
    totals = top.groupby(["object", "period"], sort=False)[columns].sum(min_count=1).astype(float).reset_index()
    totals["noise_se"] = _noise(contents, totals)
    totals["observed_frac"] = (totals.observed_ha / totals.area_ha.where(totals.area_ha > 0)).fillna(0.0)
    totals = totals.merge(region_estimates(contents.estimates), on=["object", "period"], how="left")
    totals["density_per_ha"] = totals.map_total / totals.observed_ha.where(totals.observed_ha > 0)
    return ordered(totals, contents)


def _noise(contents: Contents, table: pd.DataFrame) -> pd.Series:
    keys = ["object", "period"]
    if contents.series is None:
        return pd.Series(np.nan, index=table.index)
    top = contents.series[contents.series.unit_id.isin(roots(contents.units))]
    sums = top.groupby(keys).noise_se.agg(lambda errors: errors.sum() if errors.notna().all() else np.nan)
    return table.join(sums, on=keys).noise_se


def ordered(table: pd.DataFrame, contents: Contents) -> pd.DataFrame:
    """Rows in the order of the run's objects and periods."""
    keys = {name: i for i, name in enumerate(contents.objects)}, {name: i for i, name in enumerate(contents.periods)}
    table = table[table.object.isin(keys[0]) & table.period.isin(keys[1])]
    return table.sort_values(
        ["object", "period"],
        key=lambda column: column.map(keys[0 if column.name == "object" else 1]),
        ignore_index=True,
    )


def against_truth(contents: Contents) -> pd.DataFrame | None:
    """Mapped against truth, a row per unit, object and period: unit_id, unit_name, object, period, truth, mapped."""
    if contents.truth is None:
        return None
    mapped = contents.counts[["unit_id", "unit_name", "object", "period", "map_total_full"]]
    pairs = mapped.merge(contents.truth, on=["unit_id", "object", "period"], how="inner")
    return pairs.rename(columns={"count": "truth", "map_total_full": "mapped"})


def region_truth(contents: Contents) -> pd.DataFrame | None:
    """Mapped against truth over the region, a row per object and period, with the error as a share of the truth."""
    pairs = against_truth(contents)
    if pairs is None or pairs.empty:
        return None
    top = pairs[pairs.unit_id.isin(roots(contents.units)) & pairs.mapped.notna()]
    table = top.groupby(["object", "period"], sort=False)[["truth", "mapped"]].sum().astype(float).reset_index()
    table["error"] = (table.mapped - table.truth) / table.truth.where(table.truth > 0)
    return ordered(table, contents)
