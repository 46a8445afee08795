"""Reads everything that the report page shows from a finished run folder.

In: plan, lock, ledger, map, units and tables of the run. Out: `Contents`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from subpixmap import runpaths
from subpixmap.counts.accounts import read_accounts
from subpixmap.errors import InputError
from subpixmap.export.licence import licence_text
from subpixmap.mapping.plan import ModelInfo, Plan
from subpixmap.mapping.store import open_map
from subpixmap.report.downsample import Layers, read_layers
from subpixmap.runfolder import RunFolder
from subpixmap.scenes.hrefs import for_readers
from subpixmap.simulate.recognise import is_simulated
from subpixmap.tables import ESTIMATES, REGION, read_table
from subpixmap.trends.inputs import inputs_by_period

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry.base import BaseGeometry

    from subpixmap.mapping.ledger import Record
    from subpixmap.scenes.items import Item

TRUTH_COLUMNS = ("unit_id", "object", "period", "count")


@dataclass(frozen=True)
class Contents:
    """The contents of a page, independent of the run folder."""

    name: str
    """Region."""
    geometry: BaseGeometry
    """EPSG:4326."""
    periods: tuple[str, ...]
    """Labels, in order of time."""
    objects: tuple[str, ...]
    """In the order of the map."""
    model: ModelInfo
    """Definitions and measures of the objects, and the evidence for the model."""
    simulated: bool
    """Whether the imagery itself is simulated."""
    counts: pd.DataFrame
    """Rows of counts.parquet, without those of the whole region."""
    trend: pd.DataFrame | None
    """Rows of trend.parquet; the whole region is the unit `tables.REGION`."""
    units: gpd.GeoDataFrame
    """unit_id, unit_name, parent_id, geometry."""
    series: pd.DataFrame | None
    """Rows of series.parquet, at least unit_id, object, period and noise_se."""
    layers: Layers | None
    """The map for display."""
    acquisitions: pd.DataFrame
    """acquisition, time, period, blocks, observed_px: the acquisitions behind the map."""
    items: pd.DataFrame
    """id, tile, acquisition, datetime, period, baseline, offset_dn, offset_reason, cloud_cover: the lock."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where the numbers come from: what -> value, in the order of the page."""
    truth: pd.DataFrame | None = None
    """unit_id, object, period, count: the objects of a simulated country."""
    estimates: pd.DataFrame | None = None
    """Rows of estimates.csv."""
    sample: Mapping[str, Any] = field(default_factory=dict)
    """Records of the sample: `design` and `labels`."""
    inputs: pd.DataFrame | None = None
    """What the imagery of each period was made of (`inputs_by_period`)."""
    accounts: Mapping[str, Any] = field(default_factory=dict)
    """What `read_accounts` returns: `outside`, `balance`, `parents`, `remarks`."""
    expected_blocks: int = 0
    """Blocks x periods of the plan."""
    done_blocks: int = 0
    """Of these, with a ledger record."""
    written: str = ""
    """Day of this page, ISO 8601."""
    licence: tuple[str, ...] = ()
    """Licences of what the numbers are made of, and how to cite them; a line each."""


def read_contents(run: RunFolder, *, truth: pd.DataFrame | None = None, size: int = 560) -> Contents:
    """Read the contents of a page.

    Parameters
    ----------
    run
        With counts.
    truth
        Rows unit_id, object, period, count of a simulated country, to compare the map with.
    size
        Display pixels along the longer side of the map.

    Raises
    ------
    InputError
        The run has no counts, or the truth lacks a column.
    """
    plan, records = run.plan, run.records()
    return Contents(
        name=plan.region_name,
        geometry=plan.geometry,
        periods=tuple(period.label for period in plan.periods),
        objects=plan.objects,
        model=plan.model,
        simulated=is_simulated(plan.sources),
        counts=run.counts[run.counts["unit_id"] != REGION].reset_index(drop=True),
        trend=run.trend,
        units=run.units.table,
        series=run.series if (run.path / runpaths.SERIES_PARQUET).is_file() else None,
        layers=read_layers(open_map(run.path), plan.geometry, size=size),
        acquisitions=_acquisitions(records),
        items=_items(run.items),
        provenance=_provenance(run) | _missing_items(run.lock_notes),
        truth=_checked_truth(truth),
        estimates=_estimates(run),
        sample=_sample(run),
        inputs=inputs_by_period(run.items_by_period),
        accounts=read_accounts(run.path / runpaths.ACCOUNTS),
        expected_blocks=plan.n_tasks,
        done_blocks=len(records),
        written=_today(),
        licence=tuple(line for line in licence_text(run).splitlines() if line),
    )


def _today() -> str:
    """Today, or the day of SOURCE_DATE_EPOCH for reproducible builds."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(fixed), UTC) if fixed.isdigit() else datetime.now(UTC)
    return now.date().isoformat()


def _estimates(run: RunFolder) -> pd.DataFrame | None:
    path = run.path / runpaths.ESTIMATES_CSV
    return read_table(path, ESTIMATES) if path.is_file() else None


def _sample(run: RunFolder) -> dict[str, Any]:
    """The records of the sample behind the estimates."""
    files = {"design": runpaths.SAMPLE_DESIGN, "labels": runpaths.SAMPLE_IMPORT}
    paths = {name: run.path / file for name, file in files.items()}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def _acquisitions(records: Mapping[tuple[str, str], Record]) -> pd.DataFrame:
    """Number of blocks and of observed pixels of each acquisition."""
    rows = [
        (used.id, used.time, period, 1, used.observed_px)
        for (_, period), record in sorted(records.items())
        for used in record.acquisitions
    ]
    table = pd.DataFrame(rows, columns=["acquisition", "time", "period", "blocks", "observed_px"])
    by_acquisition = table.groupby(["period", "acquisition"], as_index=False, sort=False)
    table = by_acquisition.agg({"time": "first", "blocks": "sum", "observed_px": "sum"})
    table = table[["acquisition", "time", "period", "blocks", "observed_px"]]
    return table.sort_values(["time", "acquisition"], ignore_index=True)


def _items(items: list[Item]) -> pd.DataFrame:
    columns = ["id", "tile", "acquisition", "datetime", "period"]
    columns += ["baseline", "offset_dn", "offset_reason", "cloud_cover"]
    return pd.DataFrame([[getattr(item, column) for column in columns] for item in items], columns=columns)


def _provenance(run: RunFolder) -> dict[str, str]:
    """Region, units, sources, recipe, model, items and software of a run, in words."""
    plan, units = run.plan, run.units
    boundaries = for_readers(units.boundary_source or "source not stated")
    items = run.counts[["period", "items_sha256"]].drop_duplicates().dropna()
    return {
        "Region": plan.region_name,
        "Units": f"{len(units.table)} from {boundaries}, {units.boundary_version}",
        "Source of the imagery": ", ".join(map(for_readers, plan.sources)),
        **_recipe_in_words(plan),
        "Run id": plan.run_id,
        **(
            {"Forced": "--force was given: input that does not match the model's card was accepted"}
            if plan.forced
            else {}
        ),
        **{f"Items {row.period}, sha256": str(row.items_sha256) for row in items.itertuples()},
        "Software": ", ".join(f"{name} {version}" for name, version in plan.versions.items()),
    }


_JUDGES = {
    "scl": "",
    "learned": "a cloud network (ukis-csmask) in place of scene classes, with cloud as 9 and shadow as 3; ",
    "both": "scene classes, and a cloud network (ukis-csmask) with cloud as 9 and shadow as 3; ",
}


def _recipe_in_words(plan: Plan) -> dict[str, str]:
    recipe, mask = plan.recipe, plan.recipe.mask
    zones = ", ".join(f"EPSG:{epsg} ({len(zone.blocks)} blocks)" for epsg, zone in plan.zones.items())
    months = f" (months {_listed(recipe.months)})" if len(recipe.months) < 12 else ""
    clouds = f", cloud cover of the tile up to {recipe.max_cloud:g} %" if recipe.max_cloud is not None else ""
    return {
        "Periods": _listed(period.label for period in plan.periods) + months,
        "Grid": f"{recipe.resolution:g} m, {zones}, blocks of {recipe.block} px",
        "Model": f"{plan.model.name}, evidence: {plan.model.evidence}, sha256 {plan.model.sha256}",
        "Bands": _listed(recipe.bands),
        "Mask rule": _JUDGES[mask.by]
        + f"scene classes {_listed(mask.drop)} dropped; {_listed(mask.dilate)} with {mask.dilate_m:g} m "
        "around them",
        "Scene choice": f"up to {recipe.max_scenes} acquisitions per block and period, at least {recipe.min_obs} clear"
        + clouds,
    }


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _missing_items(notes: Mapping[str, Any]) -> dict[str, str]:
    """Items that are missing in the catalogue."""
    missing = {
        "Items refused": list(notes.get("refused", {}).values()),
        "MGRS squares without items, wholly or in part": notes.get("squares_without", []),
        "Months without items": notes.get("months_without", []),
        "Months in which a tile has none": [f"{tile} {month}" for tile, month in notes.get("tile_months_without", [])],
    }
    return {
        what: f"{len(names)}: {'; '.join(names[:20])}{'; ...' if len(names) > 20 else ''}"
        for what, names in missing.items()
        if names
    }


def _checked_truth(truth: pd.DataFrame | None) -> pd.DataFrame | None:
    if truth is None:
        return None
    missing = [name for name in TRUTH_COLUMNS if name not in truth.columns]
    if missing:
        raise InputError(f"the table of truth lacks the columns {', '.join(missing)}")
    return truth[list(TRUTH_COLUMNS)].astype({"unit_id": str, "object": str, "period": str, "count": float})
