"""Imagery of 0.5 m of a few places, with every object labelled: to train a detector and to make reference data.

In: a country with its trees and stalls. Out: `<place>.tif` (R, G, B, NIR; uint8, 255 = reflectance 0.5),
`labels.parquet` (place, object, radius_m, geometry: every object that counts) and `areas.parquet` (place, image_date,
geometry).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from subpixmap.simulate.country import Country
from subpixmap.simulate.ground import COARSE, MARGIN, Frame, crown_height, crown_radius, lay_ground
from subpixmap.simulate.noise import FloatArray, fractal, uniform
from subpixmap.simulate.placement import KIND, Lots, Trees, lot_direction, parked
from subpixmap.simulate.planting import Planted
from subpixmap.simulate.sensor import Acquisition, season_palette
from subpixmap.simulate.spectra import BANDS, SHADE
from subpixmap.simulate.truth import counted, leaf_of

PIXEL_M = 0.5
SIDE_M = 200.0
PER_OBJECT = 2
"""Places chosen for each object."""
FULL_SCALE = 0.5
"""Reflectance of 255."""
_RGBN = [BANDS.index(band) for band in ("B04", "B03", "B02", "B08")]
_PALMS = [KIND[name] for name in ("coconut", "oil_palm", "other_palm")]


def write_highres(folder: Path, country: Country, planted: Planted, dates: list[Acquisition]) -> None:
    """Write images and labels of a few places at the last acquisition."""
    date = dates[-1]
    parked_now = planted.lots[parked(planted.lots, country.seed, date.number)]
    write_places(folder, country, planted, date, _choose(country, planted, parked_now, date.time.year))


def write_places(
    folder: Path,
    country: Country,
    planted: Planted,
    date: Acquisition,
    places: Mapping[str, tuple[float, float]],
    *,
    side: float = SIDE_M,
) -> None:
    """Write images and labels of squares of `side` metres: name -> (west, south), metres from the country's origin."""
    folder.mkdir(parents=True, exist_ok=True)
    parked_now = planted.lots[parked(planted.lots, country.seed, date.number)]
    labels: dict[str, list[NDArray[np.generic]]] = {"place": [], "object": [], "radius_m": [], "geometry": []}
    areas = []
    for place, (west, south) in places.items():
        frame = _frame(country, west, south, side)
        near = planted.within((west - 15, south - 15, west + side + 15, south + side + 15))
        cars = parked_now[_within(parked_now, west, south, side, 5)]
        pixels = draw(country, frame, near, cars, date)
        _write_image(folder / f"{place}.tif", pixels, frame, country.epsg)
        for key, values in _labels(country, place, near, cars, (west, south, side), date.time.year).items():
            labels[key].append(values)
        square = shapely.box(west, south, west + side, south + side)
        areas.append((place, date.time.date().isoformat(), country.polygon_lonlat(square)))
    columns = {"place": [a[0] for a in areas], "image_date": [a[1] for a in areas]}
    gpd.GeoDataFrame(columns, geometry=[a[2] for a in areas], crs=4326).to_parquet(folder / "areas.parquet")
    merged = {key: np.concatenate(values) if values else np.zeros(0) for key, values in labels.items()}
    gpd.GeoDataFrame(merged, geometry="geometry", crs=4326).to_parquet(folder / "labels.parquet")


def _within(things: Trees | Lots, west: float, south: float, side: float, more: float) -> NDArray[np.bool_]:
    x, y = things.x, things.y
    result: NDArray[np.bool_] = (
        (x >= west - more) & (x < west + side + more) & (y >= south - more) & (y < south + side + more)
    )
    return result


def _choose(country: Country, planted: Planted, cars: Lots, year: int) -> dict[str, tuple[float, float]]:
    """Name -> (west, south) of squares on a 200 m lattice that hold at least 40 of an object, drawn by the seed."""
    rng = np.random.default_rng([country.seed, 0x41])
    chosen: dict[str, tuple[float, float]] = {}
    for name in country.landscape.objects:
        if name == "car":
            parts = [_squares(country, cars)]
        else:
            parts = [_squares(country, trees[counted(trees, name, year)]) for trees in planted.trees()]
        squares, which = np.unique(np.concatenate([part[0] for part in parts]), axis=0, return_inverse=True)
        number = np.bincount(which.ravel(), np.concatenate([part[1] for part in parts]), minlength=len(squares))
        squares = squares[number >= 40]
        for k, pick in enumerate(rng.permutation(len(squares))[:PER_OBJECT]):
            chosen[f"{name}_{k + 1}"] = (float(squares[pick][0] * SIDE_M), float(squares[pick][1] * SIDE_M))
    return chosen


def _squares(country: Country, things: Trees | Lots) -> tuple[FloatArray, NDArray[np.integer]]:
    """Column and row of the squares that hold any of the country's own, and how many each."""
    inside = leaf_of(country, things.x, things.y) >= 0
    squares = np.floor(np.column_stack([things.x[inside], things.y[inside]]) / SIDE_M)
    distinct, number = np.unique(squares, axis=0, return_counts=True)
    return distinct, number


def _frame(country: Country, west: float, south: float, side: float) -> Frame:
    ox, oy = country.origin
    px = int(side / 10)
    return Frame(west + ox, south + oy + side, px, px, lambda x, y: (x - ox, y - oy), lambda x, y: (x + ox, y + oy))


def draw(country: Country, frame: Frame, trees: Trees, cars: Lots, date: Acquisition) -> NDArray[np.float32]:
    """Reflectance (R, G, B, NIR; rows, columns) at 0.5 m: ground, then shadows, then crowns from low to high."""
    year, world = date.time.year, country.landscape.world
    ground_of, crown_of = (table[_RGBN] for table in season_palette(world.palette, date))
    image = _ground(country, frame, ground_of)
    standing = trees[trees.standing(year)]
    age = standing.age(year)
    height = crown_height(standing.kind, age)
    standing, height = standing[np.argsort(height, kind="stable")], np.sort(height, kind="stable")
    radius = crown_radius(standing.kind, standing.age(year), standing.size, world.crown) / PIXEL_M
    col, row = ((a - 10 * MARGIN / PIXEL_M) for a in frame.cell_of(standing.x, standing.y, PIXEL_M))
    sun = np.radians(date.sun_azimuth)
    reach = np.tan(np.radians(date.sun_zenith)) / PIXEL_M
    spin = uniform(np.round(standing.x * 50), np.round(standing.y * 50), country.seed, 91) * 2 * np.pi
    palm = np.isin(standing.kind, _PALMS)
    shade = SHADE[_RGBN]
    for k in range(len(standing)):
        away = 0.8 * height[k] * reach
        _crown(
            image,
            col[k] - away * np.sin(sun),
            row[k] + away * np.cos(sun),
            radius[k],
            spin[k],
            palm[k],
            None,
            shade,
            sun,
        )
    for k in range(len(standing)):
        colour = crown_of[:, standing.kind[k]] * (1 + standing.tint[k])
        _crown(image, col[k], row[k], radius[k], spin[k], palm[k], colour, None, sun)
    _cars(image, country, frame, cars, crown_of[:, KIND["car"]], date.number)
    return image


def _ground(country: Country, frame: Frame, ground_of: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ground cover at 5 m, smoothed, with a texture of about a metre."""
    layers = lay_ground(country.landscape, frame).layers
    coarse = np.tensordot(ground_of, layers, axes=1)
    times = int(COARSE / PIXEL_M)
    edge = MARGIN * 2 * times
    fine = np.stack([ndimage.zoom(band, times, order=1, grid_mode=True, mode="nearest") for band in coarse])
    fine = fine[:, edge:-edge, edge:-edge]
    rows, cols = fine.shape[1:]
    yy, xx = np.mgrid[0:rows, 0:cols] * PIXEL_M
    texture = fractal(xx + frame.west, yy + frame.north, seed=country.seed * 97 + 92, scale=5, octaves=3)
    return np.ascontiguousarray(fine * (1 + 0.10 * texture), np.float32)


def _crown(
    image: NDArray[np.float32], col: float, row: float, radius: float, spin: float, palm: bool,
    colour: NDArray[np.float32] | None, shade: NDArray[np.float32] | None, sun: float,
) -> None:  # fmt: skip
    """Paint one crown, or its shadow where no colour is given: a star of fronds, or a lobed disc."""
    half = int(np.ceil(radius)) + 1
    left, top = int(np.floor(col)) - half, int(np.floor(row)) - half
    rows, cols = image.shape[1:]
    c0, c1, r0, r1 = max(left, 0), min(left + 2 * half + 1, cols), max(top, 0), min(top + 2 * half + 1, rows)
    if c0 >= c1 or r0 >= r1:
        return
    dx, dy = np.meshgrid(np.arange(c0, c1) + 0.5 - col, np.arange(r0, r1) + 0.5 - row)
    distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx) + spin
    lobes = 0.55 + 0.45 * np.cos(4.5 * angle) ** 2 if palm else 0.88 + 0.12 * np.cos(2.5 * angle) ** 2
    alpha = np.clip(radius * lobes - distance + 0.5, 0, 1).astype(np.float32)
    target = image[:, r0:r1, c0:c1]
    if colour is None:
        assert shade is not None
        target *= 1 - alpha * (1 - shade[:, None, None])
        return
    lit = 1 + 0.35 * (dx * np.sin(sun) - dy * np.cos(sun)) / max(radius, 1.0)
    target += alpha * (colour[:, None, None] * lit.astype(np.float32) - target)


def _cars(
    image: NDArray[np.float32], country: Country, frame: Frame, cars: Lots, colour: NDArray[np.float32], scene: int
) -> None:
    """Paint parked cars: 1.8 x 4.5 m, across the rows of their lot."""
    col, row = ((a - 10 * MARGIN / PIXEL_M) for a in frame.cell_of(cars.x, cars.y, PIXEL_M))
    side = image.shape[1]
    for k in range(len(cars.x)):
        turn = lot_direction(country.seed, int(cars.row[k]), int(cars.col[k]))
        c0, c1 = (int(np.clip(col[k] + d, 0, side)) for d in (-6, 7))
        r0, r1 = (int(np.clip(row[k] + d, 0, side)) for d in (-6, 7))
        dx, dy = np.meshgrid(np.arange(c0, c1) + 0.5 - col[k], -(np.arange(r0, r1) + 0.5 - row[k]))
        along, across = dx * np.cos(turn) + dy * np.sin(turn), -dx * np.sin(turn) + dy * np.cos(turn)
        body = np.clip(1.8 - np.abs(along) + 0.5, 0, 1) * np.clip(4.5 - np.abs(across) + 0.5, 0, 1)
        paint = uniform(cars.lot[k : k + 1] + 65537 * scene, cars.lane[k : k + 1], country.seed, 74)[0]
        tint = 2.6 if paint < 0.45 else 1.1 if paint < 0.7 else 0.38
        target = image[:, r0:r1, c0:c1]
        target += body.astype(np.float32) * (colour[:, None, None] * np.float32(tint) - target)


def _write_image(path: Path, pixels: NDArray[np.float32], frame: Frame, epsg: int) -> None:
    dn = np.clip(np.round(pixels / FULL_SCALE * 255), 1, 255).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", height=dn.shape[1], width=dn.shape[2], count=4, dtype="uint8", nodata=0,
        crs=f"EPSG:{epsg}", transform=Affine(PIXEL_M, 0, frame.west, 0, -PIXEL_M, frame.north), compress="deflate",
        predictor=2, tiled=True,
    ) as target:  # fmt: skip
        target.write(dn)
        target.descriptions = ("red", "green", "blue", "nir")


def _labels(
    country: Country, place: str, trees: Trees, cars: Lots, square: tuple[float, float, float], year: int
) -> dict[str, NDArray[np.generic]]:
    """Everything that counts inside a place (west, south, side)."""
    trees = trees[_within(trees, *square, 0)]
    cars = cars[_within(cars, *square, 0)]
    names, radii, xs, ys = [], [], [], []
    for name in country.landscape.objects:
        if name == "car":
            x, y, radius = cars.x, cars.y, np.full(len(cars.x), 1.61)
        else:
            one = trees[counted(trees, name, year)]
            x, y = one.x, one.y
            radius = crown_radius(one.kind, one.age(year), one.size, country.landscape.world.crown)
        names += [name] * len(x)
        radii.append(radius)
        xs.append(x)
        ys.append(y)
    lon, lat = country.to_lonlat(np.concatenate(xs), np.concatenate(ys))
    return {
        "place": np.array([place] * len(lon), object), "object": np.array(names, object),
        "radius_m": np.round(np.concatenate(radii), 2), "geometry": shapely.points(lon, lat),
    }  # fmt: skip
