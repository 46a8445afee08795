"""A finished run folder -> everything that its page says, read once and held as tables.

In: plan.json, counts.parquet, trend.parquet, units.parquet, items.parquet, the ledger and the map. Out: `Contents`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pandas as pd

from subpixmap.errors import InputError
from subpixmap.files import path_of
from subpixmap.report.downsample import Layers, read_layers
from subpixmap.tables import COUNTS, TREND, read_table

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from subpixmap.mapping.ledger import Record
    from subpixmap.runfolder import RunUnits
    from subpixmap.scenes.items import Item

TRUTH_COLUMNS = ("unit_id", "object", "period", "count")


@dataclass(frozen=True)
class Contents:
    """What a page is made of; nothing in it needs the folder any more."""

    name: str
    """Region."""
    geometry: BaseGeometry
    """EPSG:4326."""
    periods: tuple[str, ...]
    """Labels, in order of time."""
    objects: Mapping[str, str]
    """Object -> definition."""
    measures: Mapping[str, str]
    """Object -> `count` or `occupancy`."""
    evidence: str
    """Of the model: `simulated`, `degraded-aerial` or `sentinel-2`."""
    simulated: bool
    """Whether the imagery itself is simulated."""
    counts: pd.DataFrame
    """Rows of counts.parquet."""
    trend: pd.DataFrame | None
    """Rows of trend.parquet."""
    units: gpd.GeoDataFrame
    """unit_id, unit_name, parent_id, geometry."""
    series: pd.DataFrame | None
    """unit_id, object, period, noise_se: standard error of a total from the differences between acquisitions; also
    common_frac, common_total, n_acquisitions, background_per_ha where series.parquet was read."""
    layers: Layers | None
    """The map for display."""
    acquisitions: pd.DataFrame
    """acquisition, time, period, blocks, observed_px: what went into the map."""
    items: pd.DataFrame
    """id, tile, acquisition, datetime, period, baseline, offset_dn, offset_reason, cloud_cover: the lock."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Provenance: what -> value, in the order of the page."""
    truth: pd.DataFrame | None = None
    """unit_id, object, period, count: what a simulated country really holds."""
    accounts: Mapping[str, Any] = field(default_factory=dict)
    """What `read_accounts` returns: `outside`, `balance`, `parents`, `remarks`."""
    expected_blocks: int = 0
    """Blocks x periods of the plan."""
    done_blocks: int = 0
    """Of these, with a ledger record."""


def read_contents(out: str | Path, *, truth: pd.DataFrame | None = None, size: int = 560) -> Contents:
    """Read a run folder.

    Parameters
    ----------
    out
        The run's folder.
    truth
        Rows unit_id, object, period, count to compare with, where they are known.
    size
        Display pixels along the longer side of the map.

    Raises
    ------
    InputError
        No plan or no counts in the folder.
    """
    from subpixmap.export.formats import read_accounts
    from subpixmap.mapping.ledger import read_records
    from subpixmap.mapping.plan import read_plan
    from subpixmap.mapping.store import open_map
    from subpixmap.runfolder import read_units
    from subpixmap.scenes.items import read_lock, read_notes
    from subpixmap.simulate.recognise import is_simulated

    out = path_of(out)
    plan = read_plan(out)
    counts = read_table(out / "counts.parquet", COUNTS)
    trend = read_table(out / "trend.parquet", TREND) if (out / "trend.parquet").is_file() else None
    records = read_records(out, plan)
    items = read_lock(out / "items.parquet")
    units = read_units(out, plan)
    return Contents(
        name=plan.region_name,
        geometry=plan.geometry,
        periods=tuple(period.label for period in plan.periods),
        objects={name: plan.model.definitions.get(name, name) for name in plan.objects},
        measures={name: plan.model.measures.get(name, "count") for name in plan.objects},
        evidence=plan.model.evidence,
        simulated=is_simulated(plan.sources),
        counts=pd.DataFrame(counts),
        trend=None if trend is None else pd.DataFrame(trend),
        units=units.table,
        series=_noise(out / "series.parquet"),
        layers=read_layers(open_map(out), plan.geometry, size=size),
        acquisitions=_acquisitions(records),
        items=_items(items),
        facts=_facts(plan, counts, units) | _lacks(read_notes(out / "items.parquet")),
        truth=_checked_truth(truth),
        accounts=read_accounts(out / "accounts.json"),
        expected_blocks=plan.n_tasks,
        done_blocks=len(records),
    )


def _noise(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    table = pd.read_parquet(io.BytesIO(path.read_bytes()))
    return table.astype({"noise_se": float, "unit_id": str, "object": str, "period": str})


def _acquisitions(records: Mapping[tuple[str, str], Record]) -> pd.DataFrame:
    found: dict[tuple[str, str], list] = {}
    for (_, period), record in sorted(records.items()):
        for used in record.acquisitions:
            row = found.setdefault((period, used.id), [used.time, 0, 0])
            row[1] += 1
            row[2] += used.observed_px
    rows = [(name, time, period, blocks, px) for (period, name), (time, blocks, px) in found.items()]
    table = pd.DataFrame(rows, columns=["acquisition", "time", "period", "blocks", "observed_px"])
    return table.sort_values(["time", "acquisition"], ignore_index=True)


def _items(items: list[Item]) -> pd.DataFrame:
    columns = [
        "id",
        "tile",
        "acquisition",
        "datetime",
        "period",
        "baseline",
        "offset_dn",
        "offset_reason",
        "cloud_cover",
    ]
    return pd.DataFrame([[getattr(item, column) for column in columns] for item in items], columns=columns)


def _facts(plan, counts: pd.DataFrame, units: RunUnits) -> dict[str, str]:  # type: ignore[no-untyped-def]
    recipe, model = plan.recipe, plan.model
    zones = ", ".join(f"EPSG:{epsg} ({len(zone.blocks)} blocks)" for epsg, zone in plan.zones.items())
    mask = recipe.mask
    items = counts[["period", "items_sha256"]].drop_duplicates().dropna()
    facts = {
        "Region": plan.region_name,
        "Units": f"{len(units.table)} from {units.boundary_source}, {units.boundary_version}",
        "Source of the imagery": ", ".join(plan.sources),
        "Periods": f"{', '.join(p.label for p in plan.periods)} (months {', '.join(map(str, recipe.months))})"
        if len(recipe.months) < 12
        else ", ".join(p.label for p in plan.periods),
        "Grid": f"{recipe.resolution:g} m, {zones}, blocks of {recipe.block} px",
        "Model": f"{model.name}, evidence: {model.evidence}, sha256 {model.sha256}",
        "Bands": ", ".join(recipe.bands),
        "Mask rule": f"scene classes {', '.join(map(str, mask.drop))} dropped; {', '.join(map(str, mask.dilate))} "
        f"with {mask.dilate_m:g} m around them",
        "Scene choice": f"up to {recipe.max_scenes} acquisitions per block and period, at least {recipe.min_obs} clear"
        + (f", cloud cover of the tile up to {recipe.max_cloud:g} %" if recipe.max_cloud is not None else ""),
        "Run id": plan.run_id,
    }
    if plan.forced:
        facts["Forced"] = "--force was given: input unlike the model's card was accepted"
    for period, sha in zip(items.period, items.items_sha256, strict=True):
        facts[f"Items {period}, sha256"] = sha
    facts["Software"] = ", ".join(f"{name} {version}" for name, version in plan.versions.items())
    return facts


def _lacks(notes: Mapping[str, Any]) -> dict[str, str]:
    """What was expected of the catalogue and is not among the items."""
    refused = notes.get("refused", {})
    found = {
        "Items refused": list(refused.values()),
        "MGRS squares without items, wholly or in part": notes.get("squares_without", []),
        "Months without items": notes.get("months_without", []),
        "Months in which a tile has none": [f"{tile} {month}" for tile, month in notes.get("tile_months_without", [])],
    }
    return {
        what: f"{len(names)}: {'; '.join(names[:20])}{'; ...' if len(names) > 20 else ''}"
        for what, names in found.items()
        if names
    }


def _checked_truth(truth: pd.DataFrame | None) -> pd.DataFrame | None:
    if truth is None:
        return None
    missing = [name for name in TRUTH_COLUMNS if name not in truth.columns]
    if missing:
        raise InputError(f"the table of truth lacks the columns {', '.join(missing)}")
    return truth[list(TRUTH_COLUMNS)].astype({"unit_id": str, "object": str, "period": str, "count": float})
