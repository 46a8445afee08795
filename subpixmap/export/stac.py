"""A run folder -> a static STAC catalogue: one Collection, and one Item for each zone and period.

Out: JSON with relative hrefs, checksum, unit and statistics of every file, and where the numbers come from (model,
recipe, item list, software), so that a catalogue can serve them and a reader can check them. An asset has the same
name in every item, `count_<object>`, so that readers stack the periods.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from subpixmap import runpaths
from subpixmap.export.cogs import MEANINGS, REGION, export_cogs
from subpixmap.export.licence import NAME as LICENCE
from subpixmap.files import file_sha256
from subpixmap.grid import project
from subpixmap.mapping.plan import Plan, read_plan, write_plan
from subpixmap.mapping.schema import description
from subpixmap.mapping.zones import Zone
from subpixmap.periods import Period
from subpixmap.runfolder import RunFolder
from subpixmap.scenes.hrefs import redact_urls, unsigned
from subpixmap.scenes.items import read_lock, read_notes, write_lock
from subpixmap.simulate.recognise import is_simulated

if TYPE_CHECKING:
    import pystac

EXTENSIONS = [
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
]
_CSV, _PARQUET, _JSON = "text/csv", "application/vnd.apache.parquet", "application/json"
_TABLES = {
    runpaths.COUNTS_CSV: (_CSV, "Counts by unit, object and period, rounded"),
    runpaths.COUNTS_PARQUET: (_PARQUET, "Counts by unit, object and period"),
    runpaths.TREND_CSV: (_CSV, "Changes and trends by unit and object, rounded"),
    runpaths.TREND_PARQUET: (_PARQUET, "Changes and trends by unit and object"),
    runpaths.CHANGES_CSV: (_CSV, "Changes from period to period"),
    runpaths.ESTIMATES_CSV: (_CSV, "Estimates from a reference sample, with intervals"),
    runpaths.TABLES: (_JSON, "What every column of every table means"),
    runpaths.ITEMS: (_PARQUET, "Sentinel-2 items that were read"),
    runpaths.PLAN: (_JSON, "Recipe and plan of the run"),
}
"""Table -> its media type and its title."""
_SENTINEL_TERMS = "https://sentinels.copernicus.eu/documents/247904/690755/Sentinel_Data_Legal_Notice"
_STATISTICS = ("minimum", "maximum", "mean", "stddev", "valid_percent")

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
    items = [_item(run, zone, period, to / "rasters") for zone in plan.zones.values() for period in plan.periods]
    collection = _collection(plan, items)
    collection.normalize_hrefs(str(to.resolve()))
    collection.make_all_asset_hrefs_relative()
    tables = [name for name in _TABLES if (run.path / name).is_file()]
    for name in tables:
        _copy(run.path / name, to / name)
        media, title = _TABLES[name]
        asset = _asset(to / name, media, ["metadata"] if name in _METADATA else ["data"], title)
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


def _item(run: RunFolder, zone: Zone, period: Period, rasters: Path) -> pystac.Item:
    """A zone in a period, with its rasters and the mask that the periods share."""
    import pystac

    plan, lattice, extent = run.plan, zone.lattice, zone.extent
    outline = shapely.segmentize(shapely.box(*lattice.bounds(extent)), lattice.resolution * extent.width / 20)
    footprint = project(outline, lattice.epsg, 4326)
    label = period.label.replace(":", "")
    item = pystac.Item(
        id=f"{plan.region_name}-{label}-{lattice.epsg}",
        geometry=shapely.geometry.mapping(footprint),
        bbox=list(footprint.bounds),
        datetime=period.moment,
        start_datetime=datetime.combine(period.start, time.min, UTC),
        end_datetime=datetime.combine(period.end, time(23, 59, 59), UTC),
        properties={
            "title": f"Counts in {plan.region_name}, {period.label}, UTM zone {lattice.epsg % 100}",
            "proj:code": f"EPSG:{lattice.epsg}",
            "proj:shape": list(extent.shape),
            "proj:transform": list(lattice.transform(extent))[:6],
            "proj:bbox": list(lattice.bounds(extent)),
            **_lineage(plan),
            "subpixmap:items_sha256": run.items_sha256.get(period.label),
        },
        stac_extensions=list(EXTENSIONS),
    )
    for key in _layers(plan):
        item.add_asset(key, _raster(plan, key, rasters / f"{key}_{label}_{lattice.epsg}.tif"))
    item.add_asset(REGION, _raster(plan, REGION, rasters / f"{REGION}_{lattice.epsg}.tif"))
    return item


def _layers(plan: Plan) -> list[str]:
    """Names of the rasters of each zone and period."""
    kinds = [kind for kind in MEANINGS if kind != REGION and (plan.recipe.spread or kind != "sd_over_models")]
    return [f"{kind}_{name}" for name in plan.objects for kind in kinds]


def _raster(plan: Plan, key: str, path: Path) -> pystac.Asset:
    """An asset with what the file says of its band: unit, nodata, statistics."""
    import pystac
    import rasterio

    with rasterio.open(path) as file:
        told = {name: file.tags(1).get(f"STATISTICS_{name.upper()}") for name in _STATISTICS}
        band: dict[str, Any] = {"name": key, **_described(key), "data_type": file.dtypes[0]}
        if file.nodata is not None:
            band["nodata"] = "nan" if np.isnan(file.nodata) else file.nodata
    if statistics := {name: float(value) for name, value in told.items() if value is not None}:
        band["statistics"] = statistics
    asset = _asset(path, pystac.MediaType.COG, ["data-mask" if key == REGION else "data"], _title(key))
    asset.extra_fields |= {
        "bands": [band],
        "raster:spatial_resolution": plan.recipe.resolution,
        "raster:sampling": "area",
    }
    return asset


def _described(key: str) -> dict[str, str]:
    """Unit and meaning of a raster, as STAC names them."""
    unit, meaning = next(told for kind, told in MEANINGS.items() if key == kind or key.startswith(f"{kind}_"))
    return {"description": meaning, "unit": unit}


def _title(key: str) -> str:
    kind = next(kind for kind in MEANINGS if key == kind or key.startswith(f"{kind}_"))
    name = key.removeprefix(kind).removeprefix("_")
    return kind.replace("_", " ").capitalize() + (f" of {name}" if name else "")


def _collection(plan: Plan, items: list[pystac.Item]) -> pystac.Collection:
    import pystac

    starts, ends = [p.start for p in plan.periods], [p.end for p in plan.periods]
    interval = [datetime.combine(min(starts), time.min, UTC), datetime.combine(max(ends), time(23, 59, 59), UTC)]
    simulated = is_simulated(plan.sources)
    collection = pystac.Collection(
        id=f"{plan.region_name}-{plan.run_id}",
        title=description(plan)["title"],
        description=f"Counts of {', '.join(plan.objects)} per pixel and hectare in {plan.region_name}. "
        + (
            "The model has only seen simulated data: on real imagery these are not estimates. "
            * (plan.model.evidence == "simulated")
        )
        + "The imagery is simulated: none of this is about a real place. " * simulated
        + "Overviews of the rasters hold means.",
        keywords=["sentinel-2", "counts", "subpixmap", *plan.objects],
        extent=pystac.Extent(
            pystac.SpatialExtent([list(plan.geometry.bounds)]), pystac.TemporalExtent([list(interval)])
        ),
        license="other",
        providers=_providers(plan, simulated),
        extra_fields={
            "summaries": {
                "subpixmap:object": list(plan.objects),
                "proj:code": [f"EPSG:{epsg}" for epsg in plan.zones],
                "gsd": [plan.recipe.resolution],
            },
            "item_assets": _item_assets(plan),
            **{name: value for name, value in _lineage(plan).items() if name not in _processing(plan)},
        },
        stac_extensions=EXTENSIONS[:3],
    )
    collection.add_link(pystac.Link(pystac.RelType.LICENSE, f"./{LICENCE}", "text/plain", "Licences and citation"))
    if not simulated:
        title = "Legal notice on the use of Copernicus Sentinel Data and Service Information"
        collection.add_link(pystac.Link(pystac.RelType.LICENSE, _SENTINEL_TERMS, "application/pdf", title))
    collection.add_items(items)
    return collection


def _item_assets(plan: Plan) -> dict[str, Any]:
    """What every item of the collection holds."""
    import pystac

    return {
        key: {
            "title": _title(key),
            "type": pystac.MediaType.COG,
            "roles": ["data-mask" if key == REGION else "data"],
            "bands": [{"name": key, **_described(key)}],
        }
        for key in (*_layers(plan), REGION)
    }


def _providers(plan: Plan, simulated: bool) -> list[pystac.Provider]:
    """Who made the imagery, and what made the numbers; who ran it is not known here."""
    import pystac

    imagery = pystac.Provider(
        "European Union, Copernicus Sentinel-2, processed by ESA",
        roles=[pystac.ProviderRole.PRODUCER],
        url="https://sentinels.copernicus.eu",
    )
    software = pystac.Provider(
        f"subpixmap {plan.versions['subpixmap']}",
        "The software; it does not know who ran it.",
        roles=[pystac.ProviderRole.PROCESSOR],
        url="https://github.com/subpixmap/subpixmap",
        extra_fields=_processing(plan),
    )
    return [software] if simulated else [imagery, software]


def _lineage(plan: Plan) -> dict[str, Any]:
    return _processing(plan) | {
        "subpixmap:run_id": plan.run_id,
        "subpixmap:evidence": plan.model.evidence,
        "subpixmap:model_id": plan.model.name,
        "subpixmap:model_sha256": plan.model.sha256,
    }


def _processing(plan: Plan) -> dict[str, Any]:
    """Of an item; a collection has it at the provider who processed."""
    return {
        "processing:lineage": f"Sentinel-2 {plan.recipe.level} items of items.parquet ({', '.join(plan.sources)}), "
        f"predicted one by one with model {plan.model.name}, averaged over each period",
        "processing:software": {"subpixmap": plan.versions["subpixmap"]},
    }


def _asset(path: Path, media: str, roles: list[str], title: str) -> pystac.Asset:
    import pystac

    fields = {
        "file:checksum": f"1220{file_sha256(path)}",  # 1220 = multihash: sha2-256, 32 bytes
        "file:size": path.stat().st_size,
    }
    return pystac.Asset(str(path.resolve()), title=title, media_type=media, roles=roles, extra_fields=fields)
