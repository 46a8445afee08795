"""Writes acquisitions as cloud-optimised GeoTIFFs and STAC items, as Earth Search would serve them.

In: bands and SCL of a tile. Out: `catalog.json`, a collection, and a folder per item; all hrefs are relative.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.grid import transformer
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.spectra import BAND_FACTS

COLLECTION = "sentinel-2-l2a"
EARTH_SEARCH_NAMES = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2", "B07": "rededge3", "B08": "nir",
    "B8A": "nir08", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
_COMMON = {"B05": "rededge", "B06": "rededge", "B07": "rededge"}
_EXTENSIONS = [
    "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "https://stac-extensions.github.io/mgrs/v1.0.0/schema.json",
    "https://stac-extensions.github.io/grid/v1.0.0/schema.json",
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
]
_COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_LATITUDE_BANDS = "CDEFGHJKLMNPQRSTUVWX"


@dataclass(frozen=True)
class Tile:
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


def mgrs_square(epsg: int, x: float, y: float, column: int = 0) -> str:
    """Name of the 100 km square that holds a place, or of the one `column` squares to the east."""
    zone = epsg % 100
    lat = transformer(epsg, 4326).transform(x, y)[1]
    band = _LATITUDE_BANDS[int(np.clip((lat + 80) // 8, 0, 19))]
    letter = _COLUMNS[zone % 3][int(np.clip(x // 1e5 - 1 + column, 0, 7))]
    return f"{zone:02d}{band}{letter}{_ROWS[(int(y // 1e5) + (5 if zone % 2 == 0 else 0)) % 20]}"


def item_id(tile: Tile, acquisition: Acquisition) -> str:
    """Name of an item in the Earth Search dialect."""
    return f"{acquisition.platform}_{tile.name}_{acquisition.time:%Y%m%d}_0_L2A"


def write_cog(path: Path, pixels: NDArray[np.generic], tile: Tile, gsd: int) -> None:
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
    folder: Path, tile: Tile, acquisition: Acquisition, bands: dict[str, NDArray[np.uint16]], scl: NDArray[np.uint8],
    footprint: BaseGeometry,
) -> dict[str, Any]:  # fmt: skip
    """Write the assets and the item of one tile of one acquisition; the item is returned.

    `footprint` is the polygon with data, degrees.
    """
    name = item_id(tile, acquisition)
    here = folder / COLLECTION / name
    here.mkdir(parents=True, exist_ok=True)
    assets = {}
    for band, pixels in {**bands, "SCL": scl}.items():
        gsd = 20 if band == "SCL" else BAND_FACTS[band].gsd
        write_cog(here / f"{band}.tif", pixels, tile, gsd)
        assets[EARTH_SEARCH_NAMES[band]] = _asset(band, tile, acquisition, pixels, gsd)
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": name,
        "properties": _properties(name, tile, acquisition, scl),
        "geometry": shapely.geometry.mapping(footprint), "bbox": [round(v, 9) for v in footprint.bounds],
        "links": [
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
        ],
        "assets": assets, "stac_extensions": _EXTENSIONS, "collection": COLLECTION,
    }  # fmt: skip
    write_json(here / f"{name}.json", item)
    return item


def _asset(band: str, tile: Tile, acquisition: Acquisition, pixels: NDArray[np.generic], gsd: int) -> dict[str, Any]:
    common: dict[str, Any] = {
        "href": f"./{band}.tif",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": f"{band} - {gsd}m",
        "proj:shape": list(pixels.shape),
        "proj:transform": [gsd, 0, tile.west, 0, -gsd, tile.north],
        "roles": ["data", "reflectance"],
    }
    if band == "SCL":
        common["raster:bands"] = [{"nodata": 0, "data_type": "uint8", "spatial_resolution": gsd}]
        return common
    facts, name = BAND_FACTS[band], EARTH_SEARCH_NAMES[band]
    offset = -0.1 if acquisition.baseline >= "04.00" else 0
    return common | {
        "gsd": gsd,
        "eo:bands": [
            {"name": name, "common_name": _COMMON.get(band, name), "center_wavelength": facts.centre,
             "full_width_half_max": facts.width}
        ],
        "raster:bands": [
            {"nodata": 0, "data_type": "uint16", "bits_per_sample": 15, "spatial_resolution": gsd, "scale": 0.0001,
             "offset": offset}
        ],
    }  # fmt: skip


def _properties(name: str, tile: Tile, acquisition: Acquisition, scl: NDArray[np.uint8]) -> dict[str, Any]:
    seen = max(int((scl > 0).sum()), 1)
    share = {k: round(100 * float((scl == k).sum()) / seen, 6) for k in range(12)}
    baseline, time = acquisition.baseline, acquisition.time
    return {
        "created": acquisition.iso, "updated": acquisition.iso, "datetime": acquisition.iso,
        "platform": f"sentinel-2{acquisition.platform[-1].lower()}", "constellation": "sentinel-2",
        "instruments": ["msi"], "eo:cloud_cover": round(share[8] + share[9] + share[10], 6), "proj:epsg": tile.epsg,
        "mgrs:utm_zone": int(tile.name[:2]), "mgrs:latitude_band": tile.name[2], "mgrs:grid_square": tile.name[3:],
        "grid:code": f"MGRS-{tile.name}", "view:sun_azimuth": round(acquisition.sun_azimuth, 6),
        "view:sun_elevation": round(90 - acquisition.sun_zenith, 6), "sat:relative_orbit": acquisition.orbit,
        "s2:nodata_pixel_percentage": round(100 * float((scl == 0).mean()), 6),
        "s2:cloud_shadow_percentage": share[3], "s2:vegetation_percentage": share[4],
        "s2:not_vegetated_percentage": share[5], "s2:water_percentage": share[6],
        "s2:unclassified_percentage": share[7], "s2:medium_proba_clouds_percentage": share[8],
        "s2:high_proba_clouds_percentage": share[9], "s2:thin_cirrus_percentage": share[10],
        "s2:product_type": "S2MSI2A", "s2:processing_baseline": baseline,
        "s2:product_uri": f"{acquisition.platform}_MSIL2A_{time:%Y%m%dT%H%M%S}_N{baseline.replace('.', '')}"
                          f"_R{acquisition.orbit:03d}_T{tile.name}_{time:%Y%m%dT%H%M%S}.SAFE",
        "s2:generation_time": acquisition.iso, "s2:datatake_id": f"{acquisition.name}_N{baseline}",
        "s2:datatake_type": "INS-NOBS", "s2:sequence": "0",
        "earthsearch:boa_offset_applied": baseline >= "04.00",
    }  # fmt: skip


def write_catalogue(folder: Path, items: list[dict[str, Any]], title: str) -> None:
    """Write `catalog.json` and the collection that lists the items."""
    boxes = np.array([item["bbox"] for item in items])
    box = [float(v) for v in (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))]
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


def write_json(path: Path, content: Any) -> None:
    """The same content gives the same bytes."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
