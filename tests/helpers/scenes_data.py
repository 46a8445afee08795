"""Small synthetic tiles (COG-like GeoTIFF) with their STAC items, for the tests of `subpixmap.scenes`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

BANDS = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B05": 20, "B06": 20, "B07": 20, "B8A": 20, "B11": 20, "B12": 20}
NAMES = {
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B11": "swir16",
    "B12": "swir22",
    "SCL": "scl",
}


def write_raster(path: Path, values: np.ndarray, transform: tuple[float, ...], epsg: int = 32651) -> None:
    """One band, tiled and compressed as a COG is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype=values.dtype,
        crs=f"EPSG:{epsg}",
        transform=Affine(*transform),
        nodata=0,
        tiled=True,
        blockxsize=128,
        blockysize=128,
        compress="deflate",
    ) as dataset:
        dataset.write(values, 1)


def make_item(
    folder: Path,
    *,
    tile: str = "51PTT",
    corner: tuple[float, float] = (300000.0, 1200000.0),
    size_px: int = 400,
    start: str = "20210105T021051",
    baseline: str = "05.00",
    seed: int = 0,
    hole: slice | None = None,
    bands: dict[str, int] = BANDS,
    epsg: int = 32651,
    **properties: Any,
) -> dict[str, Any]:
    """Write a tile of `size_px` pixels of 10 m and return its item (dialect of Earth Search c1, absolute hrefs)."""
    rng = np.random.default_rng(seed)
    name = f"S2A_T{tile}_{start}_L2A"
    assets: dict[str, Any] = {}
    for band, step in {**bands, "SCL": 20}.items():
        n = size_px * 10 // step
        values = (
            rng.choice(np.array([4, 5, 6, 3, 8, 9], np.uint8), (n, n), p=[0.6, 0.19, 0.2, 0.004, 0.003, 0.003])
            if band == "SCL"
            else rng.integers(1, 9000, (n, n), dtype=np.uint16)
        )
        if hole is not None:
            values[:, slice(hole.start * 10 // step, hole.stop * 10 // step)] = 0
        transform = (float(step), 0.0, corner[0], 0.0, -float(step), corner[1])
        path = folder / name / f"{band}.tif"
        write_raster(path, values, transform, epsg)
        assets[NAMES[band]] = {
            "href": str(path),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:transform": list(transform),
            "proj:shape": [n, n],
            "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.1}] if band != "SCL" else [{"nodata": 0}],
        }
        if float(baseline) < 4 and band != "SCL":
            assets[NAMES[band]]["raster:bands"][0]["offset"] = 0
    when = f"{start[:4]}-{start[4:6]}-{start[6:11]}:{start[11:13]}:{start[13:15]}.000000Z"
    bounds = transform_bounds(epsg, 4326, corner[0], corner[1] - size_px * 10, corner[0] + size_px * 10, corner[1])
    west, south, east, north = bounds
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "sentinel-2-c1-l2a",
        "bbox": list(bounds),
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
        },
        "properties": {
            "datetime": when,
            "proj:epsg": epsg,
            "grid:code": f"MGRS-{tile}",
            "s2:processing_baseline": baseline,
            "s2:datatake_id": f"GS2A_{start}_028940_N{baseline}",
            "s2:product_uri": f"S2A_MSIL2A_{start}_N{baseline.replace('.', '')}_R103_T{tile}_20210105T050000.SAFE",
            "eo:cloud_cover": 12.5,
            **properties,
        },
        "links": [],
        "assets": assets,
    }


def write_collection(path: Path, items: list[dict[str, Any]]) -> Path:
    """An ItemCollection."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path
