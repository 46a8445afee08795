"""A few labelled areas under painted scenes: what stands there shows in the reflectance, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

from subpixmap.grid import Lattice, Window, project, transformer
from subpixmap.reference.countmap import count_map
from tests.helpers.scenes_data import make_item, write_collection, write_raster

BANDS = {"B02": 10, "B04": 10, "B08": 10}
CORNER = (500000.0, 1200000.0)
EPSG = 32651
SIDE = 160
AREA, GAP = 40, 10
EMPTY = (2, 4, 6)
DATES = ("20210105T021051", "20210312T021051", "20210420T021051")


@dataclass(frozen=True)
class Painted:
    """Files of a small reference and its imagery."""

    points: Path
    labelled: Path
    source: Path
    x: np.ndarray
    y: np.ndarray
    window: Window
    lattice: Lattice


def paint(folder: Path, *, seed: int = 0, noise: bool = False, shift: tuple[float, float] = (0.0, 0.0)) -> Painted:
    """Nine areas of 40 px, three of them empty, in three scenes; with `noise` the scenes show nothing but noise.

    `shift` (metres east, north) moves the points of the file away from what the scenes show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    lattice = Lattice(EPSG)
    window = Window(*_corner(lattice), SIDE, SIDE)
    squares, x, y = [], [], []
    for k in range(9):
        west = CORNER[0] + 10 * (GAP + (k % 3) * (AREA + GAP))
        north = CORNER[1] - 10 * (GAP + (k // 3) * (AREA + GAP))
        square = shapely.box(west, north - 10 * AREA, west + 10 * AREA, north)
        squares.append(square.buffer(0.5, join_style="mitre"))
        n = 0 if k in EMPTY else 300 + 60 * k
        x.append(rng.uniform(west, west + 10 * AREA, n))
        y.append(rng.uniform(north - 10 * AREA, north, n))
    px, py = np.concatenate(x), np.concatenate(y)
    count = count_map(px, py, lattice, window)
    items = [_scene(folder, start, count, rng, noise) for start in DATES]
    source = write_collection(folder / "items.json", items)
    lon, lat = transformer(EPSG, 4326).transform(px - shift[0], py - shift[1])
    points = folder / "points.parquet"
    gpd.GeoDataFrame({"object": ["coconut"] * px.size}, geometry=shapely.points(lon, lat), crs=4326).to_parquet(points)
    labelled = folder / "areas.geojson"
    shapes = [project(shapely.segmentize(square, 50), EPSG, 4326) for square in squares]
    gpd.GeoDataFrame({"name": [f"area {k}" for k in range(9)]}, geometry=shapes, crs=4326).to_file(labelled)
    return Painted(points, labelled, source, px, py, window, lattice)


def _corner(lattice: Lattice) -> tuple[int, int]:
    first = lattice.window((CORNER[0], CORNER[1] - 1, CORNER[0] + 1, CORNER[1]))
    return first.row, first.col


def _scene(folder: Path, start: str, count: np.ndarray, rng: np.random.Generator, noise: bool) -> dict[str, Any]:
    item = make_item(folder, corner=CORNER, start=start, size_px=SIDE, bands=BANDS)
    shown = {"B02": 1800 - 150 * count, "B04": 1900 - 200 * count, "B08": 3000 + 400 * count}
    for band, asset in zip(BANDS, item["assets"].values(), strict=False):
        dn = rng.integers(1100, 9000, count.shape) if noise else shown[band] + rng.normal(0, 15, count.shape)
        write_raster(Path(asset["href"]), dn.astype(np.uint16), tuple(asset["proj:transform"]), EPSG)
    scl = item["assets"]["scl"]
    write_raster(Path(scl["href"]), np.full((SIDE // 2,) * 2, 5, np.uint8), tuple(scl["proj:transform"]), EPSG)
    return item
