"""Writes acquisitions as cloud-optimised GeoTIFFs and STAC items, as a public catalogue would serve them.

In: bands and SCL of a tile. Out: `catalog.json`, a collection, and a folder per item; all hrefs are relative.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.files import write_json
from subpixmap.simulate.delivery import OFFSET, Delivery
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.spectra import BAND_FACTS

COLLECTION = "sentinel-2-l2a"
EARTH_SEARCH_NAMES = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2", "B07": "rededge3", "B08": "nir",
    "B8A": "nir08", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
_COMMON = {"B05": "rededge", "B06": "rededge", "B07": "rededge"}
_EXTENSIONS = {
    "earth-search": [
        "https://stac-extensions.github.io/view/v1.0.0/schema.json",
        "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
        "https://stac-extensions.github.io/mgrs/v1.0.0/schema.json",
        "https://stac-extensions.github.io/grid/v1.0.0/schema.json",
        "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
        "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    ],
    "planetary-computer": [
        "https://stac-extensions.github.io/eo/v1.0.0/schema.json",
        "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
        "https://stac-extensions.github.io/projection/v1.0.0/schema.json",
    ],
}


@dataclass(frozen=True)
class DeliveredTile:
    """A rectangle of one UTM zone that is delivered as one item per acquisition."""

    name: str
    """MGRS square, such as `50PPT`; the tile covers a part of it, or reaches over its edge."""
    epsg: int
    west: float
    """Metres; a multiple of 20, as are the others."""
    north: float
    width: int
    """10 m pixels; even."""
    height: int

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north), metres."""
        return self.west, self.north - 10 * self.height, self.west + 10 * self.width, self.north

    def transform(self, gsd: int) -> Affine:
        """Upper left corner and pixel size of a band."""
        return Affine(gsd, 0, self.west, 0, -gsd, self.north)


def item_id(tile: DeliveredTile, acquisition: Acquisition, delivery: Delivery, dialect: str) -> str:
    """Name of an item."""
    if dialect == "earth-search":
        return f"{acquisition.platform}_{tile.name}_{acquisition.time:%Y%m%d}_{delivery.sequence}_L2A"
    made = _made(acquisition, delivery)
    start = f"{acquisition.platform}_MSIL2A_{acquisition.time:%Y%m%dT%H%M%S}"
    return f"{start}_R{acquisition.orbit:03d}_T{tile.name}_{made:%Y%m%dT%H%M%S}"


def _made(acquisition: Acquisition, delivery: Delivery) -> datetime:
    """When the scene was processed."""
    return acquisition.time + timedelta(hours=8) if delivery.sequence == 0 else datetime(2023, 6, 1, 12, tzinfo=UTC)


def write_cog(path: Path, pixels: NDArray[np.generic], tile: DeliveredTile, gsd: int) -> None:
    """One band as a cloud-optimised GeoTIFF: deflate, blocks of 512, overviews, nodata 0."""
    rows, cols = pixels.shape
    options = {"compress": "deflate", "blocksize": 512, "predictor": "yes", "level": 6, "num_threads": 1}
    resampling = "nearest" if pixels.dtype == np.uint8 else "average"
    with rasterio.open(
        path, "w", driver="COG", height=rows, width=cols, count=1, dtype=pixels.dtype, nodata=0,
        crs=f"EPSG:{tile.epsg}", transform=tile.transform(gsd), overview_resampling=resampling, **options,
    ) as target:  # fmt: skip
        target.write(pixels, 1)


def write_item(
    folder: Path, tile: DeliveredTile, acquisition: Acquisition, delivery: Delivery, dialect: str,
    bands: Iterable[tuple[str, NDArray[np.uint16]]], scl: NDArray[np.uint8], footprint: BaseGeometry,
) -> dict[str, Any]:  # fmt: skip
    """Write the assets and the item of one tile of one delivery; the item is returned.

    `bands` give 10000 x reflectance + 1000, 0 where there is no data. `footprint` is the polygon with data,
    degrees.
    """
    name = item_id(tile, acquisition, delivery, dialect)
    here = folder / COLLECTION / name
    here.mkdir(parents=True, exist_ok=True)
    assets = {}
    for band, pixels in bands:
        gsd = BAND_FACTS[band].gsd
        write_cog(here / f"{band}.tif", as_delivered(pixels, delivery.offset_dn), tile, gsd)
        key = EARTH_SEARCH_NAMES[band] if dialect == "earth-search" else band
        assets[key] = _band_asset(band, tile, delivery, dialect)
    write_cog(here / "SCL.tif", scl, tile, 20)
    assets["scl" if dialect == "earth-search" else "SCL"] = _asset("SCL", tile, 20, dialect)
    properties = _properties(tile, acquisition, delivery, scl)
    properties |= (_earth_search if dialect == "earth-search" else _planetary_computer)(tile, acquisition, delivery)
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "properties": properties,
        "geometry": shapely.geometry.mapping(footprint), "bbox": bbox_of(footprint),
        "links": [
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
        ],
        "assets": assets, "stac_extensions": _EXTENSIONS[dialect], "collection": COLLECTION,
    }  # fmt: skip
    write_json(here / f"{name}.json", item)
    return item


def as_delivered(pixels: NDArray[np.uint16], offset: int) -> NDArray[np.uint16]:
    """Digital numbers with ESA's offset, or without it; then reflectance below zero becomes 1. 0 stays no data."""
    less = np.uint16(OFFSET - offset)
    return np.where(pixels == 0, np.uint16(0), np.maximum(pixels, less + np.uint16(1)) - less)


def bbox_of(geometry: BaseGeometry) -> list[float]:
    """[west, south, east, north] in degrees; west > east where the geometry crosses the date line (RFC 7946)."""
    west, south, east, north = geometry.bounds
    if east - west > 180:
        parts = [part.bounds for part in geometry.geoms]
        west, east = min(b[0] for b in parts if b[0] > 0), max(b[2] for b in parts if b[2] < 0)
    return [round(v, 9) for v in (west, south, east, north)]


def _asset(name: str, tile: DeliveredTile, gsd: int, dialect: str) -> dict[str, Any]:
    """Fields that every asset has."""
    shape = [tile.height * 10 // gsd, tile.width * 10 // gsd]
    asset: dict[str, Any] = {
        "href": f"./{name}.tif", "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": f"{name} - {gsd}m", "proj:shape": shape, "proj:transform": [gsd, 0, tile.west, 0, -gsd, tile.north],
    }  # fmt: skip
    if dialect == "earth-search":
        asset["roles"] = ["data", "reflectance"]
        asset["raster:bands"] = [{"nodata": 0, "data_type": "uint8", "spatial_resolution": gsd}]
    else:
        asset |= {"roles": ["data"], "gsd": float(gsd), "proj:bbox": list(tile.bounds)}
    return asset


def _band_asset(band: str, tile: DeliveredTile, delivery: Delivery, dialect: str) -> dict[str, Any]:
    facts, earth_search = BAND_FACTS[band], EARTH_SEARCH_NAMES[band]
    asset = _asset(band, tile, facts.gsd, dialect) | {"gsd": facts.gsd}
    name = earth_search if dialect == "earth-search" else band
    asset["eo:bands"] = [
        {"name": name, "common_name": _COMMON.get(band, earth_search), "center_wavelength": facts.centre,
         "full_width_half_max": facts.width}
    ]  # fmt: skip
    if dialect == "earth-search":  # offset -0.1 is declared even where it has been taken away, as in the original
        asset["raster:bands"] = [
            {"nodata": 0, "data_type": "uint16", "bits_per_sample": 15, "spatial_resolution": facts.gsd,
             "scale": 0.0001, "offset": -0.1 if delivery.has_offset else 0}
        ]  # fmt: skip
    return asset


def _properties(
    tile: DeliveredTile, acquisition: Acquisition, delivery: Delivery, scl: NDArray[np.uint8]
) -> dict[str, Any]:
    """Properties that both dialects have."""
    seen = max(int((scl > 0).sum()), 1)
    share = {k: round(100 * float((scl == k).sum()) / seen, 6) for k in range(12)}
    time, made = acquisition.time, _made(acquisition, delivery)
    return {
        "datetime": acquisition.iso, "instruments": ["msi"], "proj:epsg": tile.epsg,
        "eo:cloud_cover": round(share[8] + share[9] + share[10], 6), "sat:relative_orbit": acquisition.orbit,
        "s2:nodata_pixel_percentage": round(100 * float((scl == 0).mean()), 6),
        "s2:cloud_shadow_percentage": share[3], "s2:vegetation_percentage": share[4],
        "s2:not_vegetated_percentage": share[5], "s2:water_percentage": share[6],
        "s2:unclassified_percentage": share[7], "s2:medium_proba_clouds_percentage": share[8],
        "s2:high_proba_clouds_percentage": share[9], "s2:thin_cirrus_percentage": share[10],
        "s2:product_type": "S2MSI2A", "s2:processing_baseline": delivery.baseline,
        "s2:product_uri": f"{acquisition.platform}_MSIL2A_{time:%Y%m%dT%H%M%S}_N{delivery.baseline.replace('.', '')}"
                          f"_R{acquisition.orbit:03d}_T{tile.name}_{made:%Y%m%dT%H%M%S}.SAFE",
        "s2:generation_time": f"{made:%Y-%m-%dT%H:%M:%S}.000000Z",
        "s2:datatake_id": f"{acquisition.name}_N{delivery.baseline}", "s2:datatake_type": "INS-NOBS",
    }  # fmt: skip


def _earth_search(tile: DeliveredTile, acquisition: Acquisition, delivery: Delivery) -> dict[str, Any]:
    return {
        "created": acquisition.iso, "updated": acquisition.iso, "constellation": "sentinel-2",
        "platform": f"sentinel-2{acquisition.platform[-1].lower()}", "mgrs:utm_zone": int(tile.name[:2]),
        "mgrs:latitude_band": tile.name[2], "mgrs:grid_square": tile.name[3:], "grid:code": f"MGRS-{tile.name}",
        "view:sun_azimuth": round(acquisition.sun_azimuth, 6),
        "view:sun_elevation": round(90 - acquisition.sun_zenith, 6), "s2:sequence": str(delivery.sequence),
        "earthsearch:boa_offset_applied": delivery.harmonised,
    }  # fmt: skip


def _planetary_computer(tile: DeliveredTile, acquisition: Acquisition, delivery: Delivery) -> dict[str, Any]:
    return {
        "platform": f"Sentinel-2{acquisition.platform[-1]}", "constellation": "Sentinel 2", "s2:mgrs_tile": tile.name,
        "sat:orbit_state": "descending", "s2:mean_solar_zenith": round(acquisition.sun_zenith, 6),
        "s2:mean_solar_azimuth": round(acquisition.sun_azimuth, 6),
    }  # fmt: skip


def write_catalogue(folder: Path, items: list[dict[str, Any]], title: str) -> None:
    """Write `catalog.json` and the collection that lists the items."""
    boxes = np.array([item["bbox"] for item in items])
    box = [float(v) for v in (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))]
    if (boxes[:, 0] > boxes[:, 2]).any() or box[2] - box[0] > 180:  # across the date line
        box[0], box[2] = -180.0, 180.0
    times = sorted(item["properties"]["datetime"] for item in items)
    collection = {
        "type": "Collection", "id": COLLECTION, "stac_version": "1.0.0", "license": "Apache-2.0",
        "description": "Simulated Sentinel-2 Level-2A scenes",
        "extent": {"spatial": {"bbox": [box]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
            *({"rel": "item", "href": f"./{i['id']}/{i['id']}.json", "type": "application/geo+json"} for i in items),
        ],
    }  # fmt: skip
    write_json(folder / COLLECTION / "collection.json", collection)
    catalog = {
        "type": "Catalog", "id": "simulated", "stac_version": "1.0.0", "description": title,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "child", "href": f"./{COLLECTION}/collection.json", "type": "application/json"},
        ],
    }  # fmt: skip
    write_json(folder / "catalog.json", catalog)
