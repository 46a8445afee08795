"""Training data directly from the simulator, without files: with the landscape, sensor and sky of a country.

In: a seed and sizes. Out: an endless choice of places, each with acquisitions of one year and its points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from subpixmap.errors import InputError
from subpixmap.simulate.ground import MARGIN, PIXEL, Frame
from subpixmap.simulate.landcover import PARCEL, USES, Landscape
from subpixmap.simulate.noise import FloatArray
from subpixmap.simulate.placement import parked
from subpixmap.simulate.render import Picture, Site, make_site, render
from subpixmap.simulate.schedule import schedule
from subpixmap.simulate.sky import QUANTUM, digital_numbers
from subpixmap.simulate.spectra import BAND_FACTS, BANDS
from subpixmap.simulate.truth import counted
from subpixmap.simulate.worlds import OBJECTS, World, get_world

COVERS = ("water", "mangrove", "forest", "shrubland", "town", *USES)
"""Land cover of a pixel's centre: natural covers, then the uses of parcels."""
Mask = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
_OUTSIDE = 5.0
"""Points up to this many pixels outside a patch are included, so that the count map is right at its edge."""


@dataclass(frozen=True)
class Patch:
    """One place in one year, seen in several acquisitions."""

    reflectance: NDArray[np.float32]
    """(acquisition, band, y, x) on the 10 m lattice, bands as `BANDS`; NaN = no data; 20 m bands repeated twice."""
    valid: NDArray[np.bool_]
    """(acquisition, y, x): the mask of the scene classes."""
    scl: NDArray[np.uint8]
    """(acquisition, y, x) scene classes on the same lattice."""
    points: dict[str, tuple[NDArray[np.float64], ...]]
    """Object -> for each acquisition an (n, 2) array of x, y in pixels from the upper left corner (a pixel's centre is
    at .5), including those up to 5 pixels outside. Trees are the same in all acquisitions, cars are not."""
    year: int
    seed: int
    """Seed of the landscape."""
    cover: NDArray[np.uint8]
    """(y, x): index into `covers`."""
    covers: ClassVar[tuple[str, ...]] = COVERS


def patches(
    seed: int,
    *,
    n_places: int,
    mask: Mask,
    size_px: int = 128,
    acquisitions: int = 4,
    objects: tuple[str, ...] = OBJECTS,
    world: str = "base",
    start: int = 0,
) -> Iterator[Patch]:
    """Places of landscapes that no country shares, one after the other.

    Parameters
    ----------
    seed
        Another seed gives other landscapes. Countries draw theirs from small seeds; these lie beyond 2^32.
    n_places
        How many places.
    mask
        Scene classes (y, x) at 10 m -> valid pixels (y, x), such as `scenes.clouds.scl_valid` with a rule.
    size_px
        Side of a patch, 10 m pixels; even.
    acquisitions
        Acquisitions of each place, all of one year.
    objects
        Which objects exist in the landscape.
    world
        `base` or `shifted`.
    start
        Number of the first place: place k does not depend on it, so workers can share the work.

    Yields
    ------
    Patch
    """
    if size_px % 2 or size_px < 16:
        raise InputError(f"size_px is {size_px}; it must be even and at least 16")
    for number in range(start, start + n_places):
        with threadpool_limits(1):
            patch = _patch(
                np.random.default_rng([seed, number, 0x7A]),
                mask=mask, size_px=size_px, acquisitions=acquisitions, objects=objects, world=get_world(world),
            )  # fmt: skip
        yield patch


def _patch(
    rng: np.random.Generator, *, mask: Mask, size_px: int, acquisitions: int, objects: tuple[str, ...], world: World
) -> Patch:
    landscape = Landscape(int(rng.integers(2**32, 2**40)), world, objects)
    year = int(rng.integers(2016, 2025))
    lat = float(rng.uniform(-8, 18))
    west, north = (float(v) * 20 for v in rng.integers(-150, 150, 2))
    frame = Frame(west, north, size_px, size_px, lambda x, y: (x, y), lambda x, y: (x, y))
    dates = schedule(
        landscape.seed,
        years=(year, year),
        per_year=acquisitions,
        lon=119.5,
        lat=lat,
        world=landscape.world,
        half_m=3000,
    )
    site = make_site(landscape, frame)
    pictures = list(render(site, dates))
    scl = np.stack([_double(p.scl) for p in pictures])
    return Patch(
        np.stack([stacked(p) for p in pictures]), np.stack([mask(s) for s in scl]), scl,
        _points(site, pictures, year), year, landscape.seed, cover_of(landscape, frame),
    )  # fmt: skip


def cover_of(landscape: Landscape, frame: Frame) -> NDArray[np.uint8]:
    """(y, x): index into `COVERS` at pixel centres."""
    x, y = frame.centres(PIXEL)
    parcels = landscape.parcels(frame.bounds())
    cover, parcel = landscape.cover(x, y, parcels)
    codes = np.where(cover < PARCEL, cover, PARCEL + parcels.use.ravel()[parcel]).astype(np.uint8)
    return codes[MARGIN : MARGIN + frame.height, MARGIN : MARGIN + frame.width]


def stacked(picture: Picture) -> NDArray[np.float32]:
    """(band, y, x) as read from a file: rounded to digital numbers and back."""
    layers = []
    for band in BANDS:
        dn = digital_numbers(picture.bands[band])
        rho = np.where(dn == 0, np.float32(np.nan), dn.astype(np.float32) / np.float32(QUANTUM))
        layers.append(rho if BAND_FACTS[band].gsd == 10 else _double(rho))
    return np.stack(layers)


def _double(a: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.repeat(np.repeat(a, 2, axis=0), 2, axis=1)


def _points(site: Site, pictures: list[Picture], year: int) -> dict[str, tuple[NDArray[np.float64], ...]]:
    points = {}
    for name in site.landscape.objects:
        if name == "car":
            points[name] = tuple(_car_points(site, picture) for picture in pictures)
            continue
        chosen = site.trees[counted(site.trees, name, year)]
        points[name] = (_in_pixels(site.frame, chosen.x, chosen.y),) * len(pictures)
    return points


def _car_points(site: Site, picture: Picture) -> NDArray[np.float64]:
    lots = site.lots
    taken = parked(lots, site.landscape.seed, picture.acquisition.number)
    return _in_pixels(site.frame, lots.x[taken], lots.y[taken])


def _in_pixels(frame: Frame, x: FloatArray, y: FloatArray) -> NDArray[np.float64]:
    east, north = frame.to_image(x, y)
    col, row = (east - frame.west) / 10, (frame.north - north) / 10
    near = (col > -_OUTSIDE) & (row > -_OUTSIDE) & (col < frame.width + _OUTSIDE) & (row < frame.height + _OUTSIDE)
    return np.column_stack([col[near], row[near]]).astype(np.float64)
