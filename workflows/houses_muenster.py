"""Learns houses of Muenster from one real Sentinel-2 acquisition, and compares with baselines.

    python workflows/houses_muenster.py --data DIR --json OUT

DIR holds `sentinel2_l1c_2016.tif` (B02, B03, B04, B08, Level-1C, 10 m, 6.5 km2) and `addresses.parquet` (4,472 points,
about one a house). The land is cut into six blocks of whole hectares. Each is tested once, by a model that the other
five have taught and calibrated through `subpixmap.verbs.teach.learn` with its defaults; the baselines are fitted on the
same land. One city, one date, eight years between imagery and points: a test of the method, not a model to publish.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import rasterio
import shapely
from rasterio.warp import transform_bounds

from subpixmap.errors import InputError, SubpixmapError
from subpixmap.reference.samples import Scheme
from subpixmap.verbs import teach
from subpixmap.verbs.request import Labelling

IMAGE, POINTS = "sentinel2_l1c_2016.tif", "addresses.parquet"
BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
DAY = "2016-01-01"
"""Stands for the winter 2015/16; the exact day is not recorded."""
TILE = "32UMC"
METHODS = ("subpixmap", "mean", "ridge", "random_forest", "strided")
ROWS, COLUMNS = 2, 3
HECTARE = 10
"""Pixels along its side."""
LABELLING = Labelling(
    objects=("address",),
    definitions={"address": "address point of 2024, about one for each main building"},
    border=1,  # beside a block lie others, so the network sees what is known; only houses just outside blur in
)


def write_catalogue(image: Path, folder: Path) -> Path:
    """A clip of four bands -> one file a band and an ItemCollection of one item, which says that it is Level-1C."""
    folder.mkdir(parents=True, exist_ok=True)
    with rasterio.open(image) as clip:
        if clip.count != len(BANDS) or clip.dtypes[0] != "uint16":
            raise InputError(f"{image}: want the four bands {', '.join(BANDS)} as uint16")
        profile = {**clip.profile, "count": 1, "driver": "GTiff", "nodata": 0, "compress": "deflate"}
        bounds = transform_bounds(clip.crs, 4326, *clip.bounds)
        epsg, transform, shape = clip.crs.to_epsg(), list(clip.transform)[:6], list(clip.shape)
        for number, band in enumerate(BANDS, 1):
            with rasterio.open(folder / f"{band}.tif", "w", **profile) as file:
                file.write(clip.read(number), 1)
    placed = {"proj:transform": transform, "proj:shape": shape, "raster:bands": [{"nodata": 0, "scale": 0.0001}]}
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "muenster-2016-l1c",
        "collection": "sentinel-2-l1c",
        "bbox": list(bounds),
        "geometry": shapely.geometry.mapping(shapely.box(*bounds)),
        "properties": {
            "datetime": f"{DAY}T10:30:00Z",
            "processing:level": "L1C",
            "s2:processing_baseline": "02.01",  # before 04.00: its digital numbers have no offset
            "s2:datatake_id": f"GS2A_{DAY.replace('-', '')}T103000",
            "grid:code": f"MGRS-{TILE}",
            "proj:epsg": epsg,
        },
        "links": [],
        "assets": {name: {"href": str(folder / f"{band}.tif"), **placed} for band, name in BANDS.items()},
    }
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    return path


def cut_blocks(image: Path, path: Path) -> list[str]:
    """Six blocks of whole hectares as labelled areas; their names, row by row."""
    with rasterio.open(image) as clip:
        rows, cols = (_parts(side // HECTARE, n) for side, n in zip(clip.shape, (ROWS, COLUMNS), strict=True))
        top, left = ((side - side // HECTARE * HECTARE) // 2 for side in clip.shape)
        step, x, y = clip.res[0], clip.bounds.left, clip.bounds.top
        squares = [
            shapely.box(x + step * (left + w), y - step * (top + s), x + step * (left + e), y - step * (top + n))
            for n, s in rows
            for w, e in cols
        ]
        crs = clip.crs
    names = [f"block {number}" for number in range(1, len(squares) + 1)]
    gpd.GeoDataFrame({"name": names}, geometry=squares, crs=crs).to_file(path, driver="GPKG")
    return names


def _parts(hectares: int, n: int) -> list[tuple[int, int]]:
    """Whole hectares cut into `n` parts, as pixels (first, last + 1)."""
    ends = [round(hectares * k / n) * HECTARE for k in range(n + 1)]
    return list(itertools.pairwise(ends))


def learn_block(
    data: Path, catalogue: Path, labelled: Path, block: str, folder: Path, asked: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """What a model that all other blocks have taught makes of a block, and the baselines; numbers by method."""
    output = folder / f"{block.replace(' ', '-')}.safetensors"
    teach.learn(
        data / POINTS,
        labelled,
        DAY,
        [str(catalogue)],
        output,
        labelling=LABELLING,
        correct_shift=True,
        scheme=Scheme(level="L1C", test=(block,)),
        asked=asked,
        baselines=METHODS[1:],
        quiet=True,
    )
    errors = json.loads(output.with_suffix(".metrics.json").read_text())
    by_method = {METHODS[0]: errors, **errors["baselines"]}
    return {method: _numbers(by_method[method]["address"]) for method in METHODS}


def _numbers(errors: Mapping[str, Any]) -> dict[str, float]:
    """Errors of one method in one block: at 1 ha, and sums."""
    at, total = errors["1 ha"], errors["total"]
    squares = at["n"] * at["rmse"] ** 2
    return {
        "n_cells": at["n"],
        "absolute": at["n"] * at["mae"],
        "sum": at["n"] * at["mean"],
        "squares": squares,
        "spread": squares / (1 - at["r2"]),  # of the reference around its mean
        "predicted": total["predicted"],
        "reference": total["reference"],
    }


def together(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Errors over several blocks, as over all their cells."""
    sums = {name: sum(part[name] for part in parts) for name in parts[0]}
    mean = sums["sum"] / sums["n_cells"]
    between = sum(part["n_cells"] * (part["sum"] / part["n_cells"] - mean) ** 2 for part in parts)
    return {
        "r2_1ha": round(1 - sums["squares"] / (sums["spread"] + between), 4),
        "mae_1ha": round(sums["absolute"] / sums["n_cells"], 3),
        "total_bias_pct": round(100 * (sums["predicted"] / sums["reference"] - 1), 2),
        "n_cells": int(sums["n_cells"]),
    }


def houses(
    data: Path, *, blocks: Sequence[str] | None = None, asked: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Every block tested once: errors by method, overall and by block.

    Parameters
    ----------
    data
        Folder with image and points.
    blocks
        Names of those that are tested; all by default.
    asked
        Options of the training that differ from the defaults of `learn`.
    """
    for name in (IMAGE, POINTS):
        if not (data / name).is_file():
            raise InputError(f"{data / name} is missing; want a folder like muenster_houses")
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="houses-") as folder:
        catalogue = write_catalogue(data / IMAGE, Path(folder) / "catalogue")
        labelled = Path(folder) / "blocks.gpkg"
        for block in cut_blocks(data / IMAGE, labelled):
            if blocks is None or block in blocks:
                began = time.monotonic()
                found[block] = learn_block(data, catalogue, labelled, block, Path(folder), asked or {})
                minutes = (time.monotonic() - began) / 60
                print(
                    f"{block}, {minutes:.1f} min: {together([found[block]['subpixmap']])}", file=sys.stderr, flush=True
                )
    return {
        "overall": {method: together([one[method] for one in found.values()]) for method in METHODS},
        "blocks": {block: {method: together([one[method]]) for method in METHODS} for block, one in found.items()},
    }


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    try:
        result = houses(options.data)
    except SubpixmapError as error:
        print(f"houses_muenster: {error}", file=sys.stderr)
        return error.exit_code
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    for method, numbers in result["overall"].items():
        print(method, json.dumps(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
