"""Layers, encodings and long ids: nothing of a vector file is chosen or rounded in silence."""

import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from subpixmap.errors import InputError
from subpixmap.estimation.labels import read_sheet
from subpixmap.reference.points import read_points
from subpixmap.reference.reference import make_reference
from subpixmap.region.resolve import resolve_region
from subpixmap.region.units import read_area, read_units
from subpixmap.verbs.request import Labelling
from subpixmap.verbs.teach import reference

NAMES = ["Città", "Ñuñoa", "naïve"]
BOXES = [shapely.box(15 + n / 10, 46, 15.1 + n / 10, 46.1) for n in range(3)]


def units(**columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=BOXES, crs=4326)


@pytest.fixture
def two_layers(tmp_path: Path) -> Path:
    """A GeoPackage with 12 plots, and then 40 palms in two of them."""
    path = tmp_path / "field.gpkg"
    plots = [shapely.box(119.5 + n / 100, 10.5, 119.508 + n / 100, 10.508) for n in range(12)]
    rng = np.random.default_rng(0)
    palms = shapely.points(
        119.5 + rng.uniform(0.001, 0.007, 40) + 0.01 * (np.arange(40) % 2), 10.5005 + np.arange(40) / 6e3
    )
    gpd.GeoDataFrame({"name": [f"plot {n}" for n in range(12)]}, geometry=plots, crs=4326).to_file(path, layer="plots")
    gpd.GeoDataFrame({"object": "palm"}, index=range(40), geometry=palms, crs=4326).to_file(path, layer="palms")
    return path


def test_several_layers_are_refused_with_their_names(two_layers: Path, tmp_path: Path) -> None:
    """The first layer alone made 12 palms of 12 plots."""
    for read, option in ((read_points, "--layer"), (read_area, "--layer"), (read_units, "--layer")):
        with pytest.raises(InputError, match=rf"field\.gpkg has several layers: plots .*, palms .*{option}") as caught:
            read(two_layers)
        assert caught.value.exit_code == 2
    assert len(read_points(two_layers, layer="palms")) == 40
    assert len(read_area(two_layers, layer="plots")) == 12
    assert resolve_region(str(two_layers), layer="plots").geometry.area == pytest.approx(12 * 0.008**2)
    with pytest.raises(InputError, match=r"--layer trees: field\.gpkg has no such layer; it has plots, palms"):
        read_points(two_layers, layer="trees")
    with pytest.raises(InputError, match="--labelled-layer"):
        reference(two_layers, two_layers, "2021", tmp_path / "ref", labelling=Labelling(layer="palms"))
    made = reference(
        two_layers, two_layers, "2021", tmp_path / "ref", labelling=Labelling(layer="palms", labelled_layer="plots"),
        quiet=True,
    )  # fmt: skip
    assert made.points == {"palm": 40}


def test_a_labelled_sheet_with_several_layers_is_refused(two_layers: Path) -> None:
    with pytest.raises(InputError, match=r"field\.gpkg has several layers: plots .*a separate file"):
        read_sheet(two_layers)


def test_a_layer_of_a_file_without_layers_is_refused(tmp_path: Path) -> None:
    units(unit_id=["a", "b", "c"]).to_parquet(tmp_path / "u.parquet")
    (tmp_path / "p.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match=r"--layer a: u\.parquet"):
        read_units(tmp_path / "u.parquet", layer="a")
    with pytest.raises(InputError, match=r"--layer a: p\.csv"):
        read_points(tmp_path / "p.csv", layer="a")


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson"])
@pytest.mark.parametrize("gap", [False, True])
def test_long_ids_come_as_they_are_or_are_refused(tmp_path: Path, suffix: str, gap: bool) -> None:
    """19 digits, in a column with and without a gap; 17 digits are more than floating point holds."""
    ids = [1234567890123456789, 1234567890123456790, 99999999999999999]
    parents: Any = pd.array([ids[0], None if gap else ids[1], ids[2]], dtype="Int64")
    path = tmp_path / f"u{suffix}"
    table = units(unit_id=ids, parent_id=parents)
    table.to_parquet(path) if suffix == ".parquet" else table.to_file(path)
    found = read_units(path)
    expected = {(str(ids[0]), str(ids[0])), (str(ids[1]), "" if gap else str(ids[1])), (str(ids[2]), str(ids[2]))}
    assert set(zip(found.unit_id, found.parent_id, strict=True)) == expected  # FlatGeobuf sorts its rows


def long_in_json(path: Path) -> None:
    features = [
        {"type": "Feature", "properties": {"id": 12345678901234567890 + n}, "geometry": shapely.geometry.mapping(box)}
        for n, box in enumerate(BOXES)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_ids_that_the_file_itself_rounds_are_refused(tmp_path: Path) -> None:
    """20 digits are read as floating point: three units would become one id, or three others."""
    long_in_json(tmp_path / "u.geojson")
    units(id=[1.2345678901234567e19, 1.0, 2.0]).to_parquet(tmp_path / "u.parquet")
    for name in ("u.geojson", "u.parquet"):
        for read in (read_units, read_area):
            with pytest.raises(InputError, match=rf"{name}: column id .*123456789012345.*text"):
                read(tmp_path / name, id_column="id")
    ids = ["12345678901234567890", "12345678901234567891", "1"]
    units(id=ids).to_file(tmp_path / "t.geojson")
    assert read_units(tmp_path / "t.geojson").unit_id.tolist() == ids


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=3, max_size=3, unique=True))
def test_any_whole_number_is_an_id(tmp_path_factory: pytest.TempPathFactory, ids: Any) -> None:
    path = tmp_path_factory.mktemp("ids") / "u.parquet"
    dtype: Any = pd.ArrowDtype(pa.int64())
    table = units(unit_id=pd.array(ids, dtype=dtype))
    table.to_parquet(path)
    assert read_units(path).unit_id.tolist() == [str(one) for one in ids]


@pytest.fixture
def shapefile(tmp_path: Path) -> Callable[..., Path]:
    """A Shapefile in an encoding, without the .cpg that would say so; or zipped."""

    def write(encoding: str, names: list[str], suffix: str) -> Path:
        for old in tmp_path.glob("u.*"):
            old.unlink()
        path = tmp_path / "u.shp"
        units(unit_id=["a", "b", "c"], unit_name=names).to_file(path, encoding=encoding)
        path.with_suffix(".cpg").unlink()
        if suffix == ".zip":
            with zipfile.ZipFile(tmp_path / "u.zip", "w") as archive:
                for one in tmp_path.glob("u.*"):
                    if one.suffix != ".zip":
                        archive.write(one, one.name)
        return tmp_path / f"u{suffix}"

    return write


@pytest.mark.parametrize("spelling", ["latin-1", "latin1", "ISO-8859-1", "L1", "cp1252", "iso8859_15"])
def test_encodings_are_known_in_any_spelling(shapefile: Callable[..., Path], spelling: str) -> None:
    assert read_units(shapefile("iso-8859-1", NAMES, ".shp"), encoding=spelling).unit_name.tolist() == NAMES


@pytest.mark.parametrize("suffix", [".shp", ".zip"])
@pytest.mark.parametrize(("encoding", "told"), [("utf-8", "UTF-8"), ("iso-8859-1", "LATIN-1")])
def test_names_without_a_declared_encoding_are_guessed_and_the_guess_is_told(
    shapefile: Callable[..., Path], suffix: str, encoding: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = shapefile(encoding, NAMES, suffix)
    with caplog.at_level(logging.WARNING):
        assert read_units(path).unit_name.tolist() == NAMES
    assert f"{path.name} does not state its encoding" in caplog.text
    assert told in caplog.text
    assert "--encoding" in caplog.text


def test_an_encoding_that_is_given_is_obeyed_without_a_word(
    shapefile: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = shapefile("cp1250", ["Łódź", "Żary", "Płock"], ".shp")
    with caplog.at_level(logging.WARNING):
        assert read_units(path, encoding="cp1250").unit_name.tolist() == ["Łódź", "Żary", "Płock"]
        read_units(shapefile("utf-8", ["a", "b", "c"], ".shp"))
    assert not caplog.text


def test_an_encoding_that_is_unknown_or_of_no_use_is_refused(shapefile: Callable[..., Path], tmp_path: Path) -> None:
    path = shapefile("utf-8", NAMES, ".shp")
    with pytest.raises(InputError, match="--encoding 'klingon'"):
        read_units(path, encoding="klingon")
    units(unit_id=["a", "b", "c"]).to_file(tmp_path / "g.gpkg")
    with pytest.raises(InputError, match=r"--encoding cp1252: .*g\.gpkg"):
        read_units(tmp_path / "g.gpkg", encoding="cp1252")
    table = tmp_path / "p.csv"
    table.write_bytes("object,x,y\npalmière,119.5,10.5\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"p\.csv.*--encoding"):
        read_points(table, crs="EPSG:4326")
    assert read_points(table, crs="EPSG:4326", encoding="latin-1")["object"].tolist() == ["palmière"]


# ---- overlapping areas -----------------------------------------------------------------------------------------------


def field(*areas: shapely.Polygon, seed: int = 0) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    rng = np.random.default_rng(seed)
    xy = rng.uniform((119.5, 10.5), (119.52, 10.51), (300, 2))
    points = gpd.GeoDataFrame({"object": "palm"}, index=range(300), geometry=shapely.points(xy), crs=4326)
    names = [f"area {number}" for number in range(len(areas))]
    return points, gpd.GeoDataFrame({"unit_name": names}, geometry=list(areas), crs=4326)


def test_overlapping_areas_are_refused_by_name() -> None:
    """Their points were counted twice."""
    points, areas = field(shapely.box(119.5, 10.5, 119.512, 10.51), shapely.box(119.508, 10.5, 119.52, 10.51))
    shared = Geod(ellps="WGS84").geometry_area_perimeter(shapely.box(119.508, 10.5, 119.512, 10.51))[0] / 1e4
    with pytest.raises(InputError, match=rf"area 0 and area 1 \({shared:.2g} ha\)"):
        make_reference(points, areas, "2021")


@settings(max_examples=40, deadline=None)
@given(st.floats(119.503, 119.517), st.floats(-1e-9, 1e-9), st.integers(0, 9))
def test_each_point_of_areas_side_by_side_counts_once(edge: float, rounding: float, seed: int) -> None:
    west, east = shapely.box(119.5, 10.5, edge, 10.51), shapely.box(edge + rounding, 10.5, 119.52, 10.51)
    points, areas = field(west, east, seed=seed)
    points.loc[0, "geometry"] = shapely.Point(edge + rounding / 2, 10.505)
    inside = shapely.union_all([west, east]).contains(points.geometry.to_numpy()).sum()
    assert abs(sum(make_reference(points, areas, "2021", max_per_pixel=300).points.values()) - inside) <= 1


def test_a_copy_of_a_zip_is_read_like_its_content(shapefile: Callable[..., Path], tmp_path: Path) -> None:
    path = shapefile("utf-8", NAMES, ".zip")
    copy = shutil.copy(path, tmp_path / "copy.zip")
    assert read_units(copy).geometry.equals(read_units(path).geometry)
