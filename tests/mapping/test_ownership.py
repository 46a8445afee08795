"""Each place is mapped once: across zones, across the date line, whatever the region."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from subpixmap.grid import CHUNK, owned, transformer
from subpixmap.mapping.zones import plan_zones
from subpixmap.periods import make_periods
from subpixmap.reference.countmap import count_map
from subpixmap.region.resolve import resolve_region
from subpixmap.scenes.cube import open_cube
from subpixmap.scenes.items import lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import find_items
from tests.helpers import scenes_data


def owners(zones: Any, lon: Any, lat: Any) -> Any:
    """How many planned pixels that their zone owns hold each place."""
    found = np.zeros(len(lon), int)
    for epsg, zone in zones.items():
        x, y = transformer(4326, epsg).transform(lon, lat)
        near = np.abs((lon - (epsg % 100 * 6 - 183) + 180) % 360 - 180) < 4  # degrees from the zone's middle
        step = zone.lattice.resolution
        col = np.where(near, np.floor((x - zone.lattice.x_phase) / step), -(10**9)).astype(int)
        row = np.where(near, np.floor((zone.lattice.top - y) / step), -(10**9)).astype(int)
        chunks = {(c.row // CHUNK, c.col // CHUNK): c for block in zone.blocks for c in block.chunks}
        places: dict[Any, Any] = {}
        for i, key in enumerate(zip((row // CHUNK).tolist(), (col // CHUNK).tolist(), strict=True)):
            if key in chunks:
                places.setdefault(key, []).append(i)
        for key, index in places.items():
            chunk = chunks[key]
            found[index] += owned(zone.lattice, chunk)[row[index] - chunk.row, col[index] - chunk.col]
    return found


def away_from_seams(lon: Any, lat: Any, metres: int = 15) -> Any:
    """Pixels of two zones do not fit together along a meridian: within a pixel of it a place may have none or two."""
    return np.abs((lon + 3) % 6 - 3) * 111_320 * np.cos(np.radians(lat)) > metres


def places_in(geometry: Any, n: Any, seed: int = 0) -> Any:
    west, south, east, north = geometry.bounds
    rng = np.random.default_rng(seed)
    lon, lat = rng.uniform(west, east, 40 * n), rng.uniform(south, north, 40 * n)
    inside = shapely.contains_xy(geometry, lon, lat)
    return lon[inside][:n], lat[inside][:n]


@pytest.mark.realdata
def test_every_municipality_of_the_philippines_is_mapped_once(real_data: Path) -> None:
    """1,647 municipalities of 2019 in three zones: each vertex of their outlines, and places inside each."""
    admin = real_data / "admin_philippines" / "phl_adm3_2019_medres.parquet"
    region = resolve_region("philippines", admin=admin)
    zones = plan_zones(region.geometry, {}, 10.0, 1024)
    assert set(zones) == {32650, 32651, 32652}
    units = gpd.read_parquet(admin).geometry
    assert len(units) == 1647
    inside = units.representative_point()
    vertices = shapely.get_coordinates(units.to_numpy())
    lon = np.concatenate([inside.x, vertices[::5, 0]])
    lat = np.concatenate([inside.y, vertices[::5, 1]])
    assert (owners(zones, lon, lat)[away_from_seams(lon, lat)] == 1).all()


def test_fiji_is_mapped_once_on_both_sides_of_the_date_line() -> None:
    fiji = resolve_region("fiji")
    zones = plan_zones(fiji.geometry, {}, 10.0, 1024)
    assert {32660, 32701, 32760} >= set(zones) >= {32701, 32760}
    parts = [shapely.intersection(fiji.geometry, shapely.box(w, -90, w + 6, 90)) for w in (-180, 174)]
    lon, lat = (np.concatenate(both) for both in zip(*(places_in(part, 300) for part in parts), strict=True))
    found = owners(zones, lon, lat)
    assert (found[away_from_seams(lon, lat)] == 1).all()
    # The check can fail: without one of the zones its side is not mapped.
    assert not owners({32760: zones[32760]}, lon, lat)[lon < 0].any()


@pytest.mark.parametrize("center", [(120.0, 10.5), (126.0, 7.3)], ids=["120 E", "126 E"])
def test_points_of_a_country_on_a_seam_are_counted_once(center: Any) -> None:
    """The simulated country across 120 E and 126 E: each tree has one owner, and count maps of both zones add up."""
    from subpixmap.simulate.country import make_country
    from subpixmap.simulate.placement import place_trees
    from subpixmap.simulate.worlds import get_world
    from subpixmap.simulate.zones import extents, landscape_bounds

    country = make_country(11, size_km=2, center=center, world=get_world("base"), objects=("coconut", "oil_palm"))
    trees = place_trees(country.landscape, landscape_bounds(country, extents(country)))
    inside = shapely.contains_xy(country.outline, trees.x, trees.y)
    lon, lat = country.to_lonlat(trees.x[inside], trees.y[inside])
    assert inside.sum() > 2000
    zones = plan_zones(country.polygon_lonlat(country.outline), {}, 10.0, 256)
    assert len(zones) == 2
    found = owners(zones, lon, lat)
    assert (found[away_from_seams(lon, lat)] == 1).all()
    assert away_from_seams(lon, lat).mean() > 0.95
    counted = 0.0
    for epsg, zone in zones.items():
        x, y = transformer(4326, epsg).transform(lon, lat)
        whole = count_map(x, y, zone.lattice, zone.extent)
        for block in zone.blocks:
            for chunk in block.chunks:
                counted += whole[chunk.slices(zone.extent)][owned(zone.lattice, chunk)].sum()
    assert counted == pytest.approx(len(lon), rel=5e-3)  # what blurs beyond the planned chunks is lost, nothing twice


def test_a_cube_of_a_region_on_a_seam_lies_in_the_zone_of_most_of_it(tmp_path: Path) -> None:
    """Both zones' tiles are found and locked; the cube for exploring is of one zone, and only its items are read."""
    bands = {"B04": 10}
    there: dict[str, Any] = {"size_px": 100, "bands": bands}
    items = [
        scenes_data.make_item(tmp_path, tile="50PRS", corner=(828000.0, 1162000.0), epsg=32650, **there),
        scenes_data.make_item(tmp_path, tile="51PTM", corner=(171500.0, 1162000.0), epsg=32651, seed=1, **there),
    ]
    path = scenes_data.write_collection(tmp_path / "items.json", items)
    west, south, east, north = items[1]["bbox"]
    assert west < 120 < east
    periods = make_periods(2021)
    found = lock_items(find_items(str(path), shapely.box(west, south, east, north), periods), periods, ["B04"])
    assert set(lattices(found)) == {32650, 32651}
    cube = open_cube((west, south, east, north), 2021, source=str(path), bands=["B04"])
    assert cube.rio.crs.to_epsg() == 32651
    assert cube.sizes["time"] == 1
    assert bool(cube.valid.any())
