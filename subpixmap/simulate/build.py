"""Simulates a whole country into a folder: truth first, then the imagery tile by tile, then the catalogue.

In: a seed and options. Out: the folder of DESIGN section 5. Memory is bounded because the country is rendered in tiles
of at most 256 pixels, and each acquisition's pixels wait in one array until they are written.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from threadpoolctl import threadpool_limits

from subpixmap.errors import InputError
from subpixmap.simulate.catalogue import Tile, mgrs_square, write_catalogue, write_item, write_json
from subpixmap.simulate.country import (
    Country,
    car_table,
    make_country,
    point_table,
    truth_by_scene,
    truth_by_year,
    unit_table,
)
from subpixmap.simulate.ground import Frame
from subpixmap.simulate.placement import Lots, Trees, join_lots, join_trees, place_lots, place_trees
from subpixmap.simulate.render import make_place, render
from subpixmap.simulate.schedule import schedule
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.sky import digital_numbers
from subpixmap.simulate.spectra import BAND_FACTS, BANDS
from subpixmap.simulate.worlds import OBJECTS, VISIBLE_AGE, get_world

CHUNK = 256
"""Largest side of a rendered tile, pixels."""
_CELL = 5000.0
"""Side of the cells in which trees are placed, metres."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Canvas:
    """The rectangle of one UTM zone that is rendered, with the pixels of every acquisition."""

    epsg: int
    west: float
    north: float
    width: int
    height: int
    pixels: dict[str, NDArray[np.uint16]]
    """Band -> (acquisition, rows, columns)."""
    scl: NDArray[np.uint8]
    """(acquisition, rows, columns) at 20 m."""


def simulate_country(
    out_dir: str | Path,
    *,
    seed: int = 7,
    size_km: float = 6,
    years: tuple[int, int] = (2018, 2023),
    objects: tuple[str, ...] = OBJECTS,
    acquisitions: int = 4,
    center: tuple[float, float] = (119.5, 10.5),
    world: str = "base",
    dialect: str = "earth-search",
    progress: Progress | None = None,
) -> Path:
    """Simulate a country and write imagery, catalogue, units and truth.

    Parameters
    ----------
    out_dir
        Folder to create or fill.
    seed
        Another seed is another country; the same seed gives the same bytes.
    size_km
        Side of the country, kilometres (2 to 50).
    years
        First and last year.
    objects
        Which of coconut, oil_palm, olive and car exist.
    acquisitions
        Overpasses a year.
    center
        Longitude and latitude, degrees.
    world
        `base` or `shifted`.
    dialect
        `earth-search`: names and fields of its items.
    progress
        Called with (done, total) steps.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    InputError
        An option is out of range; nothing was written.
    """
    names = _check(size_km, years, objects, acquisitions, center, dialect)
    the_world = get_world(world)
    country = make_country(seed, size_km=size_km, center=center, world=the_world, objects=names)
    dates = schedule(
        seed, years=years, per_year=acquisitions, lon=center[0], lat=center[1], world=the_world, half_m=size_km * 500
    )
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    trees, lots = _plant(country)
    _write_truth(out, country, trees, lots, dates, years)
    canvas = _canvas(country, len(dates))
    with threadpool_limits(1):
        _paint(canvas, country, dates, trees, lots, progress)
    items = _write_items(out, canvas, country, dates)
    write_catalogue(out, items, f"A simulated country, seed {seed}, world {world}")
    parameters = {
        "seed": seed, "size_km": size_km, "years": list(years), "objects": list(names), "acquisitions": acquisitions,
        "center": list(center), "world": world, "dialect": dialect, "epsg": country.epsg,
        "visible_age": {name: VISIBLE_AGE[name] for name in names if name in VISIBLE_AGE},
        "origin": list(country.origin), "change": "on 1 January",
    }  # fmt: skip
    write_json(out / "country.json", parameters)
    return out


def _check(
    size_km: float, years: tuple[int, int], objects: tuple[str, ...], acquisitions: int, center: tuple[float, float],
    dialect: str,
) -> tuple[str, ...]:  # fmt: skip
    """Refuse what cannot be simulated; the objects come back in canonical order."""
    unknown = sorted(set(objects) - set(OBJECTS))
    if unknown or not objects:
        raise InputError(f"object {', '.join(unknown) or '(none)'} is unknown; choose from {', '.join(OBJECTS)}")
    if not 1 <= size_km <= 50:
        raise InputError(f"size {size_km} km is outside 1 to 50 km")
    if not 2016 <= years[0] <= years[1] <= 2030:
        raise InputError(f"years {years[0]}-{years[1]} are not an ascending range within 2016-2030")
    if not 1 <= acquisitions <= 24:
        raise InputError(f"{acquisitions} acquisitions a year is outside 1 to 24")
    if not (-180 <= center[0] <= 180 and -70 <= center[1] <= 70):
        raise InputError(f"center {center} is not a longitude and a latitude between 70 S and 70 N")
    if dialect != "earth-search":
        raise InputError(f"dialect {dialect!r} is unknown; choose earth-search")
    return tuple(name for name in OBJECTS if name in objects)


def _plant(country: Country) -> tuple[Trees, Lots]:
    """All trees and stalls of the country and its surroundings, cell by cell."""
    reach = country.reach() + 200
    edges = np.append(np.arange(-reach, reach, _CELL), reach)
    cells = [
        (west, south, east, north)
        for south, north in itertools.pairwise(edges)
        for west, east in itertools.pairwise(edges)
    ]
    landscape = country.landscape
    return join_trees([place_trees(landscape, c) for c in cells]), join_lots([place_lots(landscape, c) for c in cells])


def _write_truth(
    out: Path, country: Country, trees: Trees, lots: Lots, dates: list[Acquisition], years: tuple[int, int]
) -> None:
    truth_by_year(country, trees, years).to_csv(out / "truth.csv", index=False, lineterminator="\n")
    truth_by_scene(country, lots, dates).to_csv(out / "truth_scene.csv", index=False, lineterminator="\n")
    point_table(country, trees, years).to_parquet(out / "points.parquet", index=False)
    if "car" in country.landscape.objects:
        car_table(country, lots, dates).to_parquet(out / "cars.parquet", index=False)
    unit_table(country).to_parquet(out / "admin.parquet", index=False)
    outline = shapely.geometry.mapping(country.polygon_lonlat(country.outline))
    feature = {"type": "Feature", "properties": {"name": "demo"}, "geometry": outline}
    write_json(out / "region.geojson", {"type": "FeatureCollection", "features": [feature]})


def _canvas(country: Country, number: int) -> Canvas:
    reach = country.reach()
    side = round(2 * reach / 10)
    shapes = {band: (number, side * 10 // BAND_FACTS[band].gsd, side * 10 // BAND_FACTS[band].gsd) for band in BANDS}
    return Canvas(
        country.epsg, country.origin[0] - reach, country.origin[1] + reach, side, side,
        {band: np.zeros(shape, np.uint16) for band, shape in shapes.items()},
        np.zeros((number, side // 2, side // 2), np.uint8),
    )  # fmt: skip


def _windows(canvas: Canvas) -> Iterator[tuple[int, int, int, int]]:
    """(row, column, height, width) of tiles of even size, at most CHUNK."""
    rows, cols = (_cuts(n) for n in (canvas.height, canvas.width))
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(cols):
            yield top, left, bottom - top, right - left


def _cuts(pixels: int) -> list[int]:
    parts = -(-pixels // CHUNK)
    return [round(pixels / 2 * k / parts) * 2 for k in range(parts + 1)]


def _paint(
    canvas: Canvas, country: Country, dates: list[Acquisition], trees: Trees, lots: Lots, progress: Progress | None
) -> None:
    """Render every tile of the canvas, all dates of a tile together."""
    windows = list(_windows(canvas))
    total, done = len(windows) * len(dates), 0
    ox, oy = country.origin

    def paint(window: tuple[int, int, int, int]) -> None:
        nonlocal done
        row, col, height, width = window
        frame = Frame(
            canvas.west + 10 * col, canvas.north - 10 * row, width, height,
            lambda x, y: (x - ox, y - oy), lambda x, y: (x + ox, y + oy),
        )  # fmt: skip
        place = make_place(country.landscape, frame, trees, lots)
        for number, picture in enumerate(render(place, dates)):
            for band, rho in picture.bands.items():
                k = BAND_FACTS[band].gsd // 10
                target = canvas.pixels[band][number]
                target[row // k : (row + height) // k, col // k : (col + width) // k] = digital_numbers(rho)
            canvas.scl[number, row // 2 : (row + height) // 2, col // 2 : (col + width) // 2] = picture.scl
            done += 1
            if progress:
                progress(done, total)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(paint, windows))


def _tiles(canvas: Canvas) -> list[Tile]:
    """Two tiles that overlap by a tenth of the width."""
    middle, overlap = canvas.width // 4 * 2, max(canvas.width // 40 * 2, 20)
    x = canvas.west + 10 * middle
    y = canvas.north - 5 * canvas.height
    east = 1 if x < 8e5 else 0
    return [
        Tile(mgrs_square(canvas.epsg, x, y, east - 1), canvas.epsg, canvas.west, canvas.north, middle + overlap,
             canvas.height),
        Tile(mgrs_square(canvas.epsg, x, y, east), canvas.epsg, x - 10 * overlap, canvas.north,
             canvas.width - middle + overlap, canvas.height),
    ]  # fmt: skip


def _write_items(out: Path, canvas: Canvas, country: Country, dates: list[Acquisition]) -> list[dict[str, Any]]:
    """Cut every acquisition into its tiles and write them; a tile without data has no item."""
    jobs = [(number, date, tile) for number, date in enumerate(dates) for tile in _tiles(canvas)]

    def write(job: tuple[int, Acquisition, Tile]) -> dict[str, Any] | None:
        number, date, tile = job
        col = round((tile.west - canvas.west) / 10)
        scl = canvas.scl[number, :, col // 2 : (col + tile.width) // 2]
        if not scl.any():
            return None
        bands = {}
        for band in BANDS:
            k = BAND_FACTS[band].gsd // 10
            bands[band] = canvas.pixels[band][number][:, col // k : (col + tile.width) // k]
        return write_item(out, tile, date, bands, scl, _footprint(tile, country, date))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(write, jobs))
    return [item for item in found if item is not None]


def _footprint(tile: Tile, country: Country, date: Acquisition) -> BaseGeometry:
    """The part of a tile inside the swath, degrees."""
    ox, oy = country.origin
    west, south, east, north = tile.bounds
    shape = shapely.box(west - ox, south - oy, east - ox, north - oy)
    if date.edge is not None:
        far = 1e6
        inside = shapely.Polygon(
            [(-far, -far), (date.edge + 0.18 * far, -far), (date.edge - 0.18 * far, far), (-far, far)]
        )
        cut = shapely.intersection(shape, inside)
        shape = cut if cut.area > 0 else shape
    return country.polygon_lonlat(shapely.segmentize(shape, 2000))
