"""A country: its place on the Earth, its outline and its nested units.

In: a seed, a size and a place. Out: `Country`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.grid import transformer, utm_epsg
from subpixmap.simulate.landcover import Landscape
from subpixmap.simulate.noise import FloatArray, fractal
from subpixmap.simulate.worlds import World

PROVINCES, MUNICIPALITIES = 3, 3
HALO_M = 400.0
"""Imagery reaches at least this far beyond the outline."""


@dataclass(frozen=True)
class Country:
    """Where a simulated country lies and how it is divided."""

    seed: int
    size_km: float
    center: tuple[float, float]
    """Longitude and latitude, degrees."""
    epsg: int
    """UTM zone that owns the centre; the landscape is laid out on its plane."""
    origin: tuple[float, float]
    """Easting and northing of the landscape's origin; multiples of 20 m."""
    landscape: Landscape
    units: tuple[tuple[str, str, str | None, BaseGeometry], ...]
    """(unit_id, unit_name, parent_id, polygon in metres from the origin), parents first."""

    @property
    def leaves(self) -> list[tuple[str, BaseGeometry]]:
        """Units of the lowest level: (unit_id, polygon)."""
        return [(unit, polygon) for unit, _, parent, polygon in self.units if parent is not None]

    @property
    def outline(self) -> BaseGeometry:
        """All land of the country, metres from the origin."""
        return shapely.union_all([polygon for _, _, parent, polygon in self.units if parent is None])

    def reach(self) -> float:
        """Half side of the square that imagery covers, metres; a multiple of 20."""
        bounds = np.abs(self.outline.bounds)
        return float(np.ceil((bounds.max() + HALO_M) / 20) * 20)

    def to_lonlat(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Metres from the origin -> degrees."""
        lon, lat = transformer(self.epsg, 4326).transform(x + self.origin[0], y + self.origin[1])
        return lon, lat

    def polygon_lonlat(self, polygon: BaseGeometry) -> BaseGeometry:
        """A polygon in degrees, vertex by vertex; cut in two where it crosses the date line (RFC 7946)."""

        def move(xy: NDArray[np.floating]) -> NDArray[np.floating]:
            lon, lat = self.to_lonlat(xy[:, 0], xy[:, 1])
            return np.column_stack([(lon - self.center[0] + 180) % 360 - 180 + self.center[0], lat])

        whole = shapely.transform(polygon, move)
        if -180 <= whole.bounds[0] and whole.bounds[2] <= 180:
            return whole
        parts = []
        for turn in (-360, 0, 360):
            cut = shapely.intersection(whole, shapely.box(turn - 180, -90, turn + 180, 90))
            parts += [shapely.transform(p, lambda xy, t=turn: xy - (t, 0)) for p in shapely.get_parts(cut)]
        return shapely.multipolygons([part for part in parts if part.area > 0])


def make_country(
    seed: int, *, size_km: float, center: tuple[float, float], world: World, objects: tuple[str, ...]
) -> Country:
    """Lay out a country around a place."""
    epsg = int(utm_epsg(np.array(center[0]), np.array(center[1])))
    x, y = transformer(4326, epsg).transform(*center)
    origin = (round(x / 20) * 20.0, round(y / 20) * 20.0)
    landscape = Landscape(seed, world, objects)
    return Country(seed, size_km, center, epsg, origin, landscape, _divide(seed, size_km * 500))


def _divide(seed: int, half: float) -> tuple[tuple[str, str, str | None, BaseGeometry], ...]:
    """Provinces of municipalities: Voronoi cells with wavering borders."""
    rng = np.random.default_rng([seed, 0xAD])
    step = 2 * half / PROVINCES
    grid = -half + (np.arange(PROVINCES) + 0.5) * step
    xx, yy = np.meshgrid(grid, grid)
    seeds = np.column_stack([xx.ravel(), yy.ravel()]) + rng.uniform(-0.22, 0.22, (PROVINCES * MUNICIPALITIES, 2)) * step
    square = shapely.box(-half, -half, half, half)
    cells = shapely.voronoi_polygons(shapely.multipoints(seeds), extend_to=square, ordered=True)
    # One shared, rounded set of vertices, bent by one field: neighbours keep a common border.
    cut = shapely.set_precision(shapely.intersection(np.array(cells.geoms), square), 0.01)
    bent = shapely.transform(shapely.segmentize(cut, half / 60), lambda xy: _bend(xy, seed, half))
    provinces, municipalities = [], []
    for p in range(PROVINCES):
        members = bent[p * MUNICIPALITIES : (p + 1) * MUNICIPALITIES]
        provinces.append((f"SIM.{p + 1}", f"Province {p + 1}", None, shapely.union_all(members)))
        for m, polygon in enumerate(members):
            name = (f"SIM.{p + 1}.{m + 1}", f"Municipality {p + 1}.{m + 1}", f"SIM.{p + 1}", polygon)
            municipalities.append(name)
    return (*provinces, *municipalities)


def _bend(xy: NDArray[np.floating], seed: int, half: float) -> NDArray[np.floating]:
    xy = np.round(xy, 2)
    parts = [xy[:, k] + 0.022 * half * fractal(xy[:, 0], xy[:, 1], seed=seed * 97 + 81 + k, scale=half / 2.5, octaves=4)
             for k in (0, 1)]  # fmt: skip
    return np.round(np.column_stack(parts), 2)
