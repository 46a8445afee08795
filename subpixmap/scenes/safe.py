"""An L2A product as ESA delivers it (a .SAFE folder) -> a STAC item."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import shapely

from subpixmap.errors import InputError
from subpixmap.grid import transformer
from subpixmap.scenes.dialect import BANDS, SCL

_NAME = re.compile(
    r"(?P<platform>S2[A-Z])_MSIL2A_(?P<start>\d{8}T\d{6})_N(?P<baseline>\d{4})_R(?P<orbit>\d{3})_T(?P<tile>\w{5})_\d{8}T\d{6}"
)
_NATIVE = dict.fromkeys(BANDS, 20) | dict.fromkeys(("B02", "B03", "B04", "B08"), 10) | {SCL: 20}


def read_safe(folder: Path) -> dict[str, Any]:
    """Build the item of a product from its name, its images' headers and its metadata.

    Raises
    ------
    InputError
        The folder is no L2A product, or an image or the metadata is missing.
    """
    match = _NAME.match(folder.name)
    if not match:
        raise InputError(f"{folder} is not named as an L2A product of Sentinel-2 (S2A_MSIL2A_...SAFE)")
    metadata = next(folder.glob("MTD_MSIL2A.xml"), None)
    if metadata is None:
        raise InputError(f"{folder} has no MTD_MSIL2A.xml: the product is not complete")
    text = metadata.read_text(errors="replace")
    assets = {band: _asset(folder, band, step) for band, step in _NATIVE.items()}
    epsg = assets[SCL]["proj:epsg"]
    offsets = {int(value) for value in re.findall(r"<BOA_ADD_OFFSET[^>]*>\s*(-?\d+)\s*<", text)}
    for band in BANDS:
        assets[band]["raster:bands"] = [{"nodata": 0, "scale": 0.0001, "offset": sum(offsets) / 10000}]
    if len(offsets) > 1:
        raise InputError(f"{folder} has several offsets (BOA_ADD_OFFSET): {sorted(offsets)}")
    baseline = match["baseline"]
    properties = {
        "datetime": _tag(folder, text, "PRODUCT_START_TIME"),
        "proj:epsg": epsg,
        "grid:code": f"MGRS-{match['tile']}",
        "s2:product_uri": folder.name,
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": f"{baseline[:2]}.{baseline[2:]}",
        "sat:relative_orbit": int(match["orbit"]),
    }
    if datatake := re.search(r'datatakeIdentifier="(\w+\.\d\d)"', text):
        properties["s2:datatake_id"] = datatake[1]
    if cloud := re.search(r"<Cloud_Coverage_Assessment>\s*([\d.]+)\s*<", text):
        properties["eo:cloud_cover"] = float(cloud[1])
    outline = _outline(epsg, assets[SCL])
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": folder.stem,
        "bbox": list(outline.bounds),
        "geometry": shapely.geometry.mapping(outline),
        "properties": properties,
        "links": [],
        "assets": assets,
    }


def _asset(folder: Path, band: str, step: int) -> dict[str, Any]:
    """The band's image at its native resolution, described by its own header."""
    from subpixmap.scenes.reader import open_raster

    found = sorted(folder.glob(f"GRANULE/*/IMG_DATA/R{step}m/*_{band}_{step}m.*"))
    if len(found) != 1:
        raise InputError(
            f"{folder} has {len(found)} images of {band} at {step} m, not one: the product is not complete"
        )
    with open_raster(str(found[0])) as dataset:
        return {
            "href": str(found[0].resolve()),
            "proj:epsg": dataset.crs.to_epsg(),
            "proj:transform": list(dataset.transform)[:6],
            "proj:shape": list(dataset.shape),
        }


def _outline(epsg: int, asset: dict[str, Any]) -> shapely.Polygon:
    (a, _, c, _, e, f), (rows, cols) = asset["proj:transform"], asset["proj:shape"]
    corners = ((c, f), (c, f + e * rows), (c + a * cols, f + e * rows), (c + a * cols, f))
    return shapely.Polygon([transformer(epsg, 4326).transform(x, y) for x, y in corners])


def _tag(folder: Path, text: str, name: str) -> str:
    match = re.search(rf"<{name}>\s*([^<\s]+)\s*<", text)
    if not match:
        raise InputError(f"{folder}: MTD_MSIL2A.xml has no {name}")
    return match[1]
