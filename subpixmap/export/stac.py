"""A run folder -> a static STAC catalogue: one Collection, and one Item for each zone and period.

Out: JSON with relative hrefs, the checksum of every file, and where the numbers come from (model, recipe, item list,
software), so that a catalogue can serve them and a reader can check them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely

from subpixmap import runpaths
from subpixmap.export.cogs import export_cogs
from subpixmap.export.licence import NAME as LICENCE
from subpixmap.grid import project
from subpixmap.mapping.plan import Plan, read_plan, write_plan
from subpixmap.mapping.zones import Zone
from subpixmap.periods import Period
from subpixmap.runfolder import RunFolder
from subpixmap.scenes.hrefs import redact_urls, unsigned
from subpixmap.scenes.items import read_lock, read_notes, write_lock

if TYPE_CHECKING:
    import pystac

EXTENSIONS = [
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
]
_TABLES = {
    runpaths.COUNTS_CSV: "text/csv",
    runpaths.COUNTS_PARQUET: "application/vnd.apache.parquet",
    runpaths.TREND_CSV: "text/csv",
    runpaths.TREND_PARQUET: "application/vnd.apache.parquet",
    runpaths.CHANGES_CSV: "text/csv",
    runpaths.ESTIMATES_CSV: "text/csv",
    runpaths.TABLES: "application/json",
    runpaths.ITEMS: "application/vnd.apache.parquet",
    runpaths.PLAN: "application/json",
}

_METADATA = (runpaths.ITEMS, runpaths.PLAN, runpaths.TABLES)


def export_stac(run: RunFolder, to: Path) -> list[Path]:
    """Write `collection.json`, its items, their rasters and copies of the tables into a folder; returns the paths.

    Parameters
    ----------
    run
        Its tables are copied as far as they are there.
    to
        Where the catalogue goes; it can be moved as a whole.
    """
    import pystac

    plan = run.plan
    rasters = export_cogs(run, to / "rasters")
    items = [
        _item(run, zone, period, [path for path in rasters if path.name.endswith(_ending(period, zone))])
        for zone in plan.zones.values()
        for period in plan.periods
    ]
    collection = _collection(plan, items)
    collection.normalize_hrefs(str(to.resolve()))
    collection.make_all_asset_hrefs_relative()
    tables = [name for name in _TABLES if (run.path / name).is_file()]
    for name in tables:
        _copy(run.path / name, to / name)
        asset = _asset(to / name, _TABLES[name], ["metadata"] if name in _METADATA else ["data"])
        asset.href = f"./{name}"
        collection.add_asset(name, asset)
    collection.save(pystac.CatalogType.SELF_CONTAINED)
    return [to / "collection.json", *sorted(to.glob("*/*.json")), *rasters, *(to / name for name in tables)]


def _copy(path: Path, to: Path) -> None:
    """Copy a file for others; what earlier versions wrote into plans and locks can hold signatures and passwords."""
    if path.name == runpaths.ITEMS:
        items = read_lock(path)
        hrefs = [asset.href for item in items for asset in item.assets.values()]
        if any(unsigned(href) != href for href in hrefs):
            without = [
                replace(item, assets={b: replace(a, href=unsigned(a.href)) for b, a in item.assets.items()})
                for item in items
            ]
            write_lock(to, without, json.loads(redact_urls(json.dumps(read_notes(path)))))
            return
    if path.name == runpaths.PLAN:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if redact_urls(str(stated := raw.get("sources", raw.get("source")))) != str(stated):
            write_plan(to.parent, read_plan(path.parent))  # reading leaves secrets out
            return
    to.write_bytes(path.read_bytes())


def _ending(period: Period, zone: Zone) -> str:
    return f"_{period.label.replace(':', '')}_{zone.lattice.epsg}.tif"


def _item(run: RunFolder, zone: Zone, period: Period, rasters: list[Path]) -> pystac.Item:
    import pystac

    plan, lattice, extent = run.plan, zone.lattice, zone.extent
    outline = shapely.segmentize(shapely.box(*lattice.bounds(extent)), lattice.resolution * extent.width / 20)
    footprint = project(outline, lattice.epsg, 4326)
    item = pystac.Item(
        id=f"{plan.region_name}-{period.label.replace(':', '')}-{lattice.epsg}",
        geometry=shapely.geometry.mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=None,
        start_datetime=datetime.combine(period.start, time.min, UTC),
        end_datetime=datetime.combine(period.end, time(23, 59, 59), UTC),
        properties={
            "proj:code": f"EPSG:{lattice.epsg}",
            "proj:shape": list(extent.shape),
            "proj:transform": list(lattice.transform(extent))[:6],
            **_lineage(plan),
            "subpixmap:items_sha256": run.items_sha256.get(period.label),
        },
        stac_extensions=list(EXTENSIONS),
    )
    for path in rasters:
        item.add_asset(path.stem, _asset(path, pystac.MediaType.COG, ["data"]))
    return item


def _collection(plan: Plan, items: list[pystac.Item]) -> pystac.Collection:
    import pystac

    starts, ends = [p.start for p in plan.periods], [p.end for p in plan.periods]
    interval = [datetime.combine(min(starts), time.min, UTC), datetime.combine(max(ends), time(23, 59, 59), UTC)]
    collection = pystac.Collection(
        id=f"{plan.region_name}-{plan.run_id}",
        description=f"Counts of {', '.join(plan.objects)} per pixel and hectare in {plan.region_name}. "
        + (
            "The model has only seen simulated data: on real imagery these are not estimates. "
            * (plan.model.evidence == "simulated")
        )
        + "Overviews of the rasters hold means.",
        extent=pystac.Extent(
            pystac.SpatialExtent([list(plan.geometry.bounds)]), pystac.TemporalExtent([list(interval)])
        ),
        license="other",
        extra_fields={"summaries": {"subpixmap:object": list(plan.objects)}, **_lineage(plan)},
        stac_extensions=[EXTENSIONS[0], EXTENSIONS[2]],
    )
    collection.add_link(pystac.Link(pystac.RelType.LICENSE, f"./{LICENCE}", "text/plain", "Licences and citation"))
    collection.add_items(items)
    return collection


def _lineage(plan: Plan) -> dict[str, Any]:
    return {
        "processing:lineage": f"Sentinel-2 L2A items of items.parquet ({', '.join(plan.sources)}), predicted one by "
        f"one with model {plan.model.name}, averaged over each period",
        "processing:software": {"subpixmap": plan.versions["subpixmap"]},
        "subpixmap:run_id": plan.run_id,
        "subpixmap:evidence": plan.model.evidence,
        "subpixmap:model_id": plan.model.name,
        "subpixmap:model_sha256": plan.model.sha256,
    }


def _asset(path: Path, media: str, roles: list[str]) -> pystac.Asset:
    import pystac

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    fields = {
        "file:checksum": f"1220{digest}",
        "file:size": path.stat().st_size,
    }  # 1220 = multihash: sha2-256, 32 bytes
    return pystac.Asset(str(path.resolve()), media_type=media, roles=roles, extra_fields=fields)
