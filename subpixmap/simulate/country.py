"""A country: its place on the Earth, its outline, its nested units, and the truth about what stands in them.

In: a seed and a size. Out: `Country`, and tables of truth. Change happens on 1 January; an object younger than its
visible age is in the imagery but not in the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.grid import transformer, utm_epsg
from subpixmap.simulate.landcover import Landscape
from subpixmap.simulate.noise import FloatArray, fractal
from subpixmap.simulate.placement import KIND, STANDING, Lots, Trees, parked
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.worlds import VISIBLE_AGE, World

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
        """A polygon in degrees, vertex by vertex."""
        return shapely.transform(polygon, lambda xy: np.column_stack(self.to_lonlat(xy[:, 0], xy[:, 1])))


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


def leaf_of(country: Country, x: FloatArray, y: FloatArray) -> NDArray[np.int16]:
    """Index of the lowest unit that holds each place, or -1."""
    found = np.full(len(x), -1, np.int16)
    for number, (_, polygon) in enumerate(country.leaves):
        shapely.prepare(polygon)
        found[shapely.contains_xy(polygon, x, y)] = number
    return found


def counted(trees: Trees, name: str, year: int) -> NDArray[np.bool_]:
    """Which trees are objects of that name that count in a year."""
    old = trees.age(year) >= VISIBLE_AGE[name]
    result: NDArray[np.bool_] = (trees.kind == KIND[name]) & trees.standing(year) & old
    return result


def truth_by_year(country: Country, trees: Trees, years: tuple[int, int]) -> pd.DataFrame:
    """Trees per unit, object and year: columns unit_id, object, period, count."""
    leaf = leaf_of(country, trees.x, trees.y)
    rows = []
    for name in country.landscape.objects:
        if name == "car":
            continue
        for year in range(years[0], years[1] + 1):
            counts = _per_leaf(country, leaf[counted(trees, name, year)])
            rows += [(unit, name, str(year), count) for unit, count in _per_unit(country, counts)]
    return pd.DataFrame(rows, columns=["unit_id", "object", "period", "count"])


def truth_by_scene(country: Country, lots: Lots, acquisitions: list[Acquisition]) -> pd.DataFrame:
    """Cars per unit and acquisition: columns unit_id, object, acquisition, datetime, count."""
    leaf = leaf_of(country, lots.x, lots.y)
    rows = []
    for acquisition in acquisitions if "car" in country.landscape.objects else []:
        taken = parked(lots, country.seed, acquisition.number)
        for unit, count in _per_unit(country, _per_leaf(country, leaf[taken])):
            rows.append((unit, "car", acquisition.name, acquisition.iso, count))
    return pd.DataFrame(rows, columns=["unit_id", "object", "acquisition", "datetime", "count"])


def _per_leaf(country: Country, leaf: NDArray[np.int16]) -> dict[str, int]:
    counts = np.bincount(leaf[leaf >= 0], minlength=len(country.leaves))
    return {unit: int(n) for (unit, _), n in zip(country.leaves, counts, strict=True)}


def _per_unit(country: Country, leaves: dict[str, int]) -> list[tuple[str, int]]:
    """Counts of every unit: a parent's is the sum of its members."""
    parent_of = {unit: parent for unit, _, parent, _ in country.units}
    return [
        (u, leaves[u] if u in leaves else sum(n for v, n in leaves.items() if parent_of[v] == u)) for u in parent_of
    ]


def unit_table(country: Country) -> gpd.GeoDataFrame:
    """unit_id, unit_name, parent_id, geometry (EPSG:4326)."""
    columns = {
        "unit_id": [unit for unit, *_ in country.units],
        "unit_name": [name for _, name, *_ in country.units],
        "parent_id": [parent for *_, parent, _ in country.units],
    }
    shapes = [country.polygon_lonlat(polygon) for *_, polygon in country.units]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=4326)


def point_table(country: Country, trees: Trees, years: tuple[int, int]) -> gpd.GeoDataFrame:
    """Every counted kind of tree that stands in one of the years: object, year_planted, year_removed, geometry."""
    wanted = [KIND[name] for name in country.landscape.objects if name != "car"]
    trees = trees[np.isin(trees.kind, wanted) & (trees.planted <= years[1]) & (trees.removed > years[0])]
    names = {code: name for name, code in KIND.items()}
    lon, lat = country.to_lonlat(trees.x, trees.y)
    # What happens after the last year is nobody's business yet.
    gone = pd.array(np.where(trees.removed > years[1], -1, trees.removed), dtype="Int16")
    gone[trees.removed > years[1]] = pd.NA
    table = {
        "object": [names[k] for k in trees.kind],
        "year_planted": trees.planted,
        "year_removed": gone,
    }
    assert STANDING > years[1]
    return gpd.GeoDataFrame(table, geometry=shapely.points(lon, lat), crs=4326)


def car_table(country: Country, lots: Lots, acquisitions: list[Acquisition]) -> gpd.GeoDataFrame:
    """Every parked car of every acquisition: object, acquisition, datetime, geometry."""
    name: list[str] = []
    when: list[str] = []
    shapes = []
    for acquisition in acquisitions:
        taken = parked(lots, country.seed, acquisition.number)
        shapes.append(shapely.points(*country.to_lonlat(lots.x[taken], lots.y[taken])))
        name += [acquisition.name] * int(taken.sum())
        when += [acquisition.iso] * int(taken.sum())
    table = {"object": ["car"] * len(name), "acquisition": name, "datetime": when}
    geometry = np.concatenate(shapes)
    return gpd.GeoDataFrame(table, geometry=geometry, crs=4326)
