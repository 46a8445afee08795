"""One frame through the whole physics: landscape -> scene -> sensor -> sky -> digital numbers and SCL.

The country and the training patches both come from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.simulate.ground import Canopy, Frame, GroundLayers, grow_canopy, lay_ground, park_cars
from subpixmap.simulate.landcover import Landscape
from subpixmap.simulate.placement import Bounds, Lots, Trees, parked, place_lots, place_trees
from subpixmap.simulate.sensor import Acquisition, reflectance
from subpixmap.simulate.sky import classify, make_sky, observe


@dataclass(frozen=True)
class Site:
    """What stands in a frame, before any date."""

    frame: Frame
    landscape: Landscape
    ground: GroundLayers
    trees: Trees
    lots: Lots


@dataclass(frozen=True)
class Picture:
    """One acquisition of one frame."""

    acquisition: Acquisition
    bands: dict[str, NDArray[np.float32]]
    """Band -> reflectance at its own pixel size; NaN outside the swath."""
    scl: NDArray[np.uint8]
    """(height / 2, width / 2)."""


def make_site(landscape: Landscape, frame: Frame, trees: Trees | None = None, lots: Lots | None = None) -> Site:
    """Lay the ground and plant the trees of a frame; `trees` and `lots` of a larger area may be handed in."""
    bounds = frame.bounds()
    return Site(
        frame,
        landscape,
        lay_ground(landscape, frame),
        place_trees(landscape, bounds) if trees is None else trees[_inside(trees, bounds)],
        place_lots(landscape, bounds) if lots is None else lots[_inside(lots, bounds)],
    )


def _inside(trees: Trees | Lots, bounds: Bounds) -> NDArray[np.bool_]:
    west, south, east, north = bounds
    result: NDArray[np.bool_] = (trees.x >= west) & (trees.x < east) & (trees.y >= south) & (trees.y < north)
    return result


def render(site: Site, acquisitions: Sequence[Acquisition]) -> Iterator[Picture]:
    """Render acquisitions in their order; the canopy is drawn once a year."""
    world, frame = site.landscape.world, site.frame
    year, canopy = None, None
    for acquisition in acquisitions:
        if canopy is None or acquisition.time.year != year:
            year = acquisition.time.year
            canopy = grow_canopy(site.trees, frame, year, world.crown)
        yield _picture(site, canopy, acquisition)


def _picture(site: Site, canopy: Canopy, acquisition: Acquisition) -> Picture:
    world, frame = site.landscape.world, site.frame
    taken = parked(site.lots, site.landscape.seed, acquisition.number)
    cars = park_cars(site.lots, taken, site.landscape.seed, acquisition.number, frame)
    bands = reflectance(site.ground, canopy, cars, frame, acquisition, world.palette)
    sky = make_sky(frame, acquisition)
    seen = observe(bands, sky, frame, acquisition)
    return Picture(acquisition, seen, classify(seen, sky, frame, acquisition, world))
