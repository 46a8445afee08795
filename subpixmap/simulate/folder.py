"""Simulates a whole country into a folder: truth first, then the imagery, then the catalogue.

In: a seed and options. Out: a folder with a static catalogue, units and truth. Memory is bounded: trees are planted in
cells and stored in scratch files, the country is rendered in windows of at most 256 pixels, and large planes of pixels
are stored in scratch files too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry
from threadpoolctl import threadpool_limits

from subpixmap.errors import InputError
from subpixmap.files import require_place, write_json
from subpixmap.grid import transformer
from subpixmap.machine import available_memory, thread_pool
from subpixmap.simulate.catalogue import COLLECTION, DeliveredTile, write_catalogue, write_item
from subpixmap.simulate.country import Country, make_country
from subpixmap.simulate.delivery import DIALECTS, Delivery, deliveries
from subpixmap.simulate.highres import write_highres, write_places
from subpixmap.simulate.planting import Planted, cells_of, plant
from subpixmap.simulate.recognise import SCRATCH, is_country
from subpixmap.simulate.schedule import schedule
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.spectra import BAND_FACTS, BANDS
from subpixmap.simulate.truth import write_truth
from subpixmap.simulate.worlds import OBJECTS, VISIBLE_AGE, get_world
from subpixmap.simulate.zones import (
    IN_MEMORY,
    Extent,
    RenderedZone,
    blank,
    extents,
    landscape_bounds,
    paint,
    threads,
    tiles_of,
    windows,
)

_TREES_PER_KM2, _STALLS_PER_KM2 = 10_000, 500
_BYTES_PER_TREE = 55
"""Bytes per tree on disk, in the scratch folder and in points.parquet."""
_BYTES_PER_STALL = 150
"""In memory, while the taken stalls are drawn."""


OnProgress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass
class _Ticker:
    """Counts steps from several threads."""

    total: int
    progress: OnProgress | None
    done: int = 0

    def __post_init__(self) -> None:
        self._lock = Lock()

    def __call__(self) -> None:
        with self._lock:
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)


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
    progress: OnProgress | None = None,
) -> Path:
    """Simulate a country and write imagery, catalogue, units and truth.

    Parameters
    ----------
    out_dir
        Folder to create or fill.
    seed
        Another seed is another country; the same seed gives the same bytes.
    size_km
        Side of the country, kilometres (1 to 50).
    years
        First and last year.
    objects
        Objects that exist: any of coconut, oil_palm, olive and car.
    acquisitions
        Overpasses a year.
    center
        Longitude and latitude, degrees; anywhere between 70 S and 70 N, zone seams and the date line included.
    world
        `base`, in which models are trained, or `shifted`.
    dialect
        `earth-search` or `planetary-computer`: names, fields and offsets of the items.
    progress
        Called with (done, total) steps.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    InputError
        An option is out of range, or memory or disk are too small; nothing was written.
    """
    out = Path(out_dir)
    if isinstance(objects, str):
        raise InputError(f"objects={objects!r} is one text; give a list, such as objects=[{objects!r}]")
    require_place(out)
    names = _check(seed, size_km, years, tuple(objects), acquisitions, center, dialect)
    the_world = get_world(world)
    country = make_country(seed, size_km=size_km, center=center, world=the_world, objects=names)
    dates = schedule(
        seed, years=years, per_year=acquisitions, lon=center[0], lat=center[1], world=the_world, half_m=size_km * 500
    )
    parts = extents(country)
    _check_room(out, size_km, parts, len(dates))
    sent = deliveries(dates, dialect)
    bounds = landscape_bounds(country, parts)
    steps = sum(len(windows(e)) * len(dates) + 2 * len(sent) for e in parts) + len(cells_of(bounds))
    tick = _Ticker(steps, progress)
    _clear(out)
    with threadpool_limits(1), _scratch(out) as scratch:
        planted = plant(country.landscape, bounds, scratch, tick)
        write_truth(out, country, planted, dates, years)
        write_highres(out / "highres", country, planted, dates)
        items = [
            item
            for extent in parts
            for item in _image(out, country, extent, dates, sent, dialect, planted, scratch, tick)
        ]
    write_catalogue(out, items, f"A simulated country, seed {seed}, world {world}")
    parameters = {
        "seed": seed, "size_km": size_km, "years": list(years), "objects": list(names), "acquisitions": acquisitions,
        "center": list(center), "world": world, "dialect": dialect, "epsg": country.epsg,
        "zones": [extent.epsg for extent in parts], "origin": list(country.origin),
        "visible_age": {name: VISIBLE_AGE[name] for name in names if name in VISIBLE_AGE}, "change": "on 1 January",
    }  # fmt: skip
    write_json(out / "country.json", parameters)
    return out


def more_highres(folder: str | Path, out: str | Path, *, n: int = 10, side: float = 400.0, seed: int = 0) -> Path:
    """Imagery of 0.5 m of more places of a simulated country, drawn at random, empty ones too.

    Parameters
    ----------
    folder
        Of the country.
    out
        Folder to write; as `highres/` of the country.
    n, side
        Squares and their side, metres; a multiple of 20.
    seed
        Another seed draws other places.
    """
    facts = json.loads((Path(folder) / "country.json").read_text(encoding="utf-8"))
    world, center, years = get_world(facts["world"]), tuple(facts["center"]), tuple(facts["years"])
    country = make_country(
        facts["seed"], size_km=facts["size_km"], center=center, world=world, objects=tuple(facts["objects"])
    )
    dates = schedule(
        facts["seed"], years=years, per_year=facts["acquisitions"], lon=center[0], lat=center[1], world=world,
        half_m=facts["size_km"] * 500,
    )  # fmt: skip
    half = facts["size_km"] * 500
    steps = np.arange(np.ceil(-half / side), np.floor(half / side)) * side
    squares = [(float(x), float(y)) for x in steps for y in steps
               if country.outline.contains(shapely.box(x, y, x + side, y + side))]  # fmt: skip
    chosen = np.random.default_rng([seed, 0x42]).permutation(len(squares))[:n]
    places = {f"place_{k + 1}": squares[pick] for k, pick in enumerate(chosen)}
    Path(out).mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1), _scratch(Path(out)) as scratch:
        bounds = landscape_bounds(country, extents(country))
        planted = plant(country.landscape, bounds, scratch, lambda: None)
        write_places(Path(out), country, planted, dates[-1], places, side=side)
    return Path(out)


def _check(
    seed: int, size_km: float, years: tuple[int, int], objects: tuple[str, ...], acquisitions: int,
    center: tuple[float, float], dialect: str,
) -> tuple[str, ...]:  # fmt: skip
    """Refuse invalid options; return the objects in canonical order."""
    unknown = sorted(set(objects) - set(OBJECTS))
    if unknown or not objects:
        raise InputError(f"object {', '.join(unknown) or '(none)'} is unknown; choose from {', '.join(OBJECTS)}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed} is not within 0 to 4294967295; give another one")
    if not 1 <= size_km <= 50:
        raise InputError(f"size {size_km} km is not within 1 to 50 km; give another one")
    if not 2016 <= years[0] <= years[1] <= 2030:
        raise InputError(f"years {years[0]}-{years[1]} are not an ascending range within 2016-2030")
    if not 1 <= acquisitions <= 24:
        raise InputError(f"{acquisitions} acquisitions a year is not within 1 to 24; give another number")
    if not (-180 <= center[0] <= 180 and -70 <= center[1] <= 70):
        raise InputError(f"center {center[0]},{center[1]} is not a longitude and a latitude between 70 S and 70 N")
    if dialect not in DIALECTS:
        raise InputError(f"dialect {dialect!r} is unknown; choose {' or '.join(DIALECTS)}")
    return tuple(name for name in OBJECTS if name in objects)


def _clear(out: Path) -> None:
    """Make the folder; an older country in it is removed, other content is refused."""
    out.mkdir(parents=True, exist_ok=True)
    if any(path.name != SCRATCH for path in out.iterdir()) and not is_country(out):
        raise InputError(f"{out} is not empty and is not a simulated country; give a new folder")
    (out / "country.json").unlink(missing_ok=True)  # written last: it marks a complete country
    for folder in (COLLECTION, "highres", SCRATCH):
        shutil.rmtree(out / folder, ignore_errors=True)


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder for scratch files; it is removed in any case."""
    folder = out / SCRATCH
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_room(out: Path, size_km: float, parts: list[Extent], dates: int) -> None:
    """Refuse a country that does not fit the disk or the memory."""
    disk, memory = room_for(parts, dates)
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if disk > free:
        raise InputError(
            f"a country of {size_km} km with {dates} acquisitions needs {disk / 1e9:.1f} GB of disk, but {there} has "
            f"{free / 1e9:.1f} GB; choose a smaller size or fewer acquisitions"
        )
    available = available_memory()
    if memory > available:
        raise InputError(
            f"a country of {size_km} km needs {memory / 1e9:.1f} GB of memory, but {available / 1e9:.1f} GB are "
            "available; "
            "choose a smaller size or fewer acquisitions"
        )


def room_for(parts: list[Extent], dates: int) -> tuple[float, float]:
    """Bytes of (disk, memory) needed to make a country, a little more than measured."""
    pixels = [extent.nbytes(dates) for extent in parts]
    km2 = sum(extent.width * extent.height for extent in parts) / 1e4
    waiting = max(pixels) if max(pixels) > IN_MEMORY else 0  # the files of one zone at a time
    disk = 1.2 * sum(pixels) + waiting + km2 * _TREES_PER_KM2 * _BYTES_PER_TREE
    memory = 300e6 * (1 + threads()) + min(max(pixels), IN_MEMORY) + km2 * _STALLS_PER_KM2 * _BYTES_PER_STALL
    return disk, memory


def _image(
    out: Path, country: Country, extent: Extent, dates: list[Acquisition], sent: list[Delivery], dialect: str,
    planted: Planted, scratch: Path, tick: _Ticker,
) -> list[dict[str, Any]]:  # fmt: skip
    """Render one zone and write its items."""
    zone = blank(extent, len(dates), scratch)
    paint(zone, country, dates, planted, tick)
    jobs = [(delivery, tile) for delivery in sent for tile in tiles_of(extent)]

    def write(job: tuple[Delivery, DeliveredTile]) -> dict[str, Any] | None:
        item = _write_one(out, country, zone, dates, *job, dialect)
        tick()
        return item

    with thread_pool(threads()) as pool:
        items = list(pool.map(write, jobs))
    for path in scratch.glob("*.raw"):
        path.unlink()
    return [item for item in items if item is not None]


def _write_one(
    out: Path,
    country: Country,
    zone: RenderedZone,
    dates: list[Acquisition],
    delivery: Delivery,
    tile: DeliveredTile,
    dialect: str,
) -> dict[str, Any] | None:
    """Cut one tile out of one acquisition and write it; None for a tile without data."""
    date, number = dates[delivery.acquisition], delivery.acquisition
    col = round((tile.west - zone.extent.west) / 10)
    scl = zone.plane("SCL")[number, :, col // 2 : (col + tile.width) // 2]
    if not scl.any():
        return None
    steps = {band: BAND_FACTS[band].gsd // 10 for band in BANDS}
    bands = ((band, zone.plane(band)[number][:, col // k : (col + tile.width) // k]) for band, k in steps.items())
    return write_item(out, tile, date, delivery, dialect, bands, scl, _footprint(tile, country, date))


def _footprint(tile: DeliveredTile, country: Country, date: Acquisition) -> BaseGeometry:
    """The part of a tile inside the swath, degrees."""
    ox, oy = country.origin
    move = transformer(tile.epsg, country.epsg).transform
    shape = shapely.segmentize(shapely.box(*tile.bounds), 2000)
    shape = shapely.transform(shape, lambda xy: np.column_stack(move(xy[:, 0], xy[:, 1])) - (ox, oy))
    if date.edge is not None:
        far = 1e6
        inside = shapely.Polygon(
            [(-far, -far), (date.edge + 0.18 * far, -far), (date.edge - 0.18 * far, far), (-far, far)]
        )
        cut = shapely.intersection(shape, inside)
        shape = cut if cut.area > 0 else shape
    return country.polygon_lonlat(shape)
