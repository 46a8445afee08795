"""A reference on disk: GeoTIFFs that any GIS opens, outlines, and `reference.json` with what they mean, and hashes.

`<area>_count.tif` holds a band per object (objects per pixel, float32), `<area>_presence.tif` 1, 0 and 255 (not
labelled), `<area>_labelled.tif` 0 (not labelled), 1 (labelled, in the border strip) and 2 (used). Of a plot whose
totals alone are known there is `<area>_share.tif`: the share of each pixel that it covers; its totals stand in
`reference.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError, VerificationFailed
from subpixmap.files import file_sha256, write_json
from subpixmap.grid import Lattice, Window
from subpixmap.reference.reference import USED, Area, Reference, presence

_FORMAT = 1
_LAYERS = ("count", "presence", "labelled")
_FIELDS = ("objects", "measure", "resolution", "border", "box", "present_above", "max_per_pixel", "source", "shifts")


def write_reference(folder: str | Path, reference: Reference) -> Path:
    """Write a reference; `reference.json` comes last, so that a half-written folder is not taken for a whole one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reference.json").unlink(missing_ok=True)
    areas = [_write_area(folder, area, reference) for area in reference.areas]
    outlines = {area.name: area.outline for area in reference.areas}
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": shapely.geometry.mapping(outline)}
        for name, outline in outlines.items()
    ]
    write_json(folder / "areas.geojson", {"type": "FeatureCollection", "features": features})
    content = {
        "format": _FORMAT,
        "image_date": [day.isoformat() for day in reference.image_date],
        **{name: getattr(reference, name) for name in _FIELDS},
        "areas": areas,
        "summary": summary(reference),
    }
    write_json(folder / "reference.json", content)
    return folder


def read_reference(folder: str | Path) -> Reference:
    """Open what `write_reference` wrote.

    Raises
    ------
    InputError
        The folder holds no reference.
    VerificationFailed
        A file is not what it was.
    """
    folder = Path(folder)
    path = folder / "reference.json"
    if not path.is_file():
        raise InputError(f"{folder} has no reference data (reference.json is missing): run subpixmap reference first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = json.loads((folder / "areas.geojson").read_text(encoding="utf-8"))["features"]
        outlines = {f["properties"]["name"]: shapely.geometry.shape(f["geometry"]) for f in features}
        areas = tuple(_read_area(folder, entry, outlines[entry["name"]]) for entry in content["areas"])
        first, last = (date.fromisoformat(day) for day in content["image_date"])
        return Reference(**{name: content[name] for name in _FIELDS}, image_date=(first, last), areas=areas)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged or of another version ({error}): run subpixmap reference again") from error


def reference_sha256(folder: str | Path) -> str:
    """Hash of a reference: of its `reference.json`, which holds those of its files."""
    return file_sha256(Path(folder) / "reference.json")


def summary(reference: Reference) -> list[dict[str, Any]]:
    """One row an area: zone, extent, objects, and how much of it is used; plots together have one."""
    rows = []
    for area in reference.labelled_areas:
        px = {code: int((area.labelled >= code).sum()) for code in (1, USED)}
        ha = reference.resolution**2 / 1e4
        numbers = dict(zip(reference.objects, area.points.tolist(), strict=True))
        rows.append(
            {
                "area": area.name,
                "epsg": area.lattice.epsg,
                "labelled_km2": round(px[1] * ha / 100, 4),
                "used_km2": round(px[USED] * ha / 100, 4),
                **numbers,
                "per_ha": round(sum(numbers.values()) / (px[1] * ha), 2) if px[1] else None,
            }
        )
    return rows + _summary_of_plots(reference)


def _summary_of_plots(reference: Reference) -> list[dict[str, Any]]:
    """One row of all plots of which the totals alone are known; none without plots."""
    if not (plots := reference.plots):
        return []
    ha = sum(float(area.share.sum(dtype=float)) for area in plots if area.share is not None)
    ha *= reference.resolution**2 / 1e4
    totals = np.sum([area.totals for area in plots if area.totals is not None], axis=0).tolist()
    zones = sorted({area.lattice.epsg for area in plots})
    return [
        {
            "area": f"{len(plots)} plots",
            "epsg": zones[0] if len(zones) == 1 else zones,
            "labelled_km2": round(ha / 100, 4),
            "used_km2": round(ha / 100, 4),
            **dict(zip(reference.objects, totals, strict=True)),
            "per_ha": round(sum(totals) / ha, 2),
        }
    ]


def _write_area(folder: Path, area: Area, reference: Reference) -> dict[str, Any]:
    layers: dict[str, tuple[NDArray[Any], tuple[str, ...], int | None]]
    layers = {
        "count": (area.count, tuple(reference.objects), None),
        "presence": (presence(area, reference.present_above), tuple(reference.objects), 255),
        "labelled": (area.labelled[None], ("labelled",), 0),
    }
    if area.share is not None:
        layers = {"share": (area.share[None], ("share",), None)}
    files = {}
    for layer, (values, bands, nodata) in layers.items():
        name = f"{area.key}_{layer}.tif"
        _write_raster(folder / name, values, area, bands, nodata)
        files[layer] = {"file": name, "sha256": file_sha256(folder / name)}
    lattice, window = area.lattice, area.window
    return {
        "name": area.name,
        "lattice": [lattice.epsg, lattice.resolution, lattice.x_phase, lattice.y_phase],
        "window": [window.row, window.col, window.height, window.width],
        "points": area.points.tolist(),
        **({} if area.totals is None else {"totals": area.totals.tolist()}),
        "files": files,
    }


def _read_area(folder: Path, entry: Mapping[str, Any], outline: BaseGeometry) -> Area:
    read = {}
    for layer in ("share",) if "totals" in entry else _LAYERS:
        path = folder / Path(entry["files"][layer]["file"]).name
        if not path.is_file() or file_sha256(path) != entry["files"][layer]["sha256"]:
            raise VerificationFailed(
                f"{path} is missing or differs from its hash in reference.json: run subpixmap reference again"
            )
        if layer != "presence":
            with rasterio.open(path, driver="GTiff") as raster:
                read[layer] = raster.read()
    epsg, *rest = entry["lattice"]
    points = np.array(entry["points"], np.int64)
    lattice, window = Lattice(int(epsg), *rest), Window(*entry["window"])
    if "totals" in entry:
        return Area.plot(entry["name"], lattice, window, outline, read["share"][0], np.array(entry["totals"], float))
    return Area(entry["name"], lattice, window, outline, read["count"], read["labelled"][0], points)


def _write_raster(path: Path, values: NDArray[Any], area: Area, bands: Sequence[str], nodata: int | None) -> None:
    """A compressed GeoTIFF with named bands; north up, on the lattice."""
    options = {"predictor": 3} if values.dtype.kind == "f" else {}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=area.window.height,
        width=area.window.width,
        count=len(values),
        dtype=values.dtype,
        crs=f"EPSG:{area.lattice.epsg}",
        transform=area.lattice.transform(area.window),
        nodata=nodata,
        compress="deflate",
        **options,
    ) as raster:
        raster.write(values)
        for number, band in enumerate(bands, 1):
            raster.set_band_description(number, band)
