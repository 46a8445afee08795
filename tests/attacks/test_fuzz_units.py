"""Files of polygons and points at random: read rightly, or refused in one line."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from subpixmap.estimation.labels import read_sheet
from subpixmap.reference.points import read_points
from subpixmap.region.resolve import resolve_region
from subpixmap.region.units import read_area, read_units
from tests.helpers.fuzz import LONG, QUICK, damaged_bytes, damaged_json, right_or_refused

READERS: list[Callable[[Path], Any]] = [
    read_units,
    read_area,
    read_points,
    read_sheet,
    lambda p: resolve_region(str(p)),
]
SUFFIXES = (".gpkg", ".geojson", ".parquet", ".fgb", ".shp", ".zip", ".kml", ".gml")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Suffix -> the bytes of a file with two units."""
    folder = tmp_path_factory.mktemp("whole")
    shapes = [shapely.box(10, 45, 10.1, 45.1), shapely.MultiPolygon([shapely.box(11, 45, 11.1, 45.1)])]
    table = gpd.GeoDataFrame({"unit_id": ["a", "b"], "name": ["x", "y"], "object": "palm"}, geometry=shapes, crs=4326)
    found: dict[str, bytes] = {}
    for suffix in SUFFIXES:
        path = folder / f"u{suffix}"
        if suffix == ".parquet":
            table.to_parquet(path)
        elif suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for one in folder.glob("u.*"):
                    if one.suffix in (".shp", ".shx", ".dbf", ".prj", ".cpg"):
                        archive.write(one, one.name)
        else:
            table.to_file(path, **({"driver": "KML"} if suffix == ".kml" else {}))
        found[suffix] = path.read_bytes()
    return found | {
        one.suffix: one.read_bytes() for one in folder.glob("u.*") if one.suffix in (".shx", ".dbf", ".prj")
    }


def attack(files: dict[str, bytes], folder: Path, data: Any) -> None:
    suffix = data.draw(st.sampled_from(SUFFIXES))
    for one in folder.iterdir():
        one.unlink()
    if suffix == ".geojson" and data.draw(st.integers(0, 3)):
        damaged = json.dumps(data.draw(damaged_json(json.loads(files[suffix])))).encode()
        (folder / "u.geojson").write_bytes(damaged)
    elif suffix == ".shp":
        hurt = data.draw(st.sampled_from([".shp", ".shx", ".dbf", ".prj"]))
        for part in (".shp", ".shx", ".dbf", ".prj"):
            (folder / f"u{part}").write_bytes(data.draw(damaged_bytes(files[part])) if part == hurt else files[part])
    else:
        name = data.draw(st.sampled_from([suffix, suffix, suffix, ".geojson", ".gpkg", ""]))
        (path := folder / f"u{name}").write_bytes(data.draw(damaged_bytes(files[suffix], tuple(files.values()))))
        suffix = path.suffix
    path, read = folder / f"u{suffix}", data.draw(st.sampled_from(READERS))
    found = right_or_refused(lambda: read(path))
    right_or_refused(lambda: resolve_region(str(path)))
    if found is not None and read in (read_units, read_area):
        assert found.geometry.is_valid.all()
        assert (found["unit_id"].str.len() > 0).all()
        assert found["unit_id"].is_unique
        west, south, east, north = found.total_bounds
        assert -180 <= west <= east <= 180
        assert -90 <= south <= north <= 90


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@QUICK
@given(data=st.data())
def test_units(files: dict[str, bytes], tmp_path: Path, data: Any) -> None:
    attack(files, tmp_path, data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@LONG
@given(data=st.data())
def test_units_for_long(files: dict[str, bytes], tmp_path: Path, data: Any) -> None:
    attack(files, tmp_path, data)
