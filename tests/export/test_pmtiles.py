"""Vector tiles of the units: GDAL and the reader of the format's own authors find in them what was written."""

import gzip
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import TileType

from subpixmap.errors import InputError
from subpixmap.export.pmtiles import MOST_PERIODS, by_unit, write_pmtiles, zooms
from subpixmap.tables import COUNTS, REGION, TREND, typed

STEP = 0.02  # degrees along a side of a unit


def table_of(columns: Any, rows: list[dict[str, Any]]) -> pd.DataFrame:
    return typed(pd.DataFrame([{name: row.get(name) for name in columns} for row in rows]), columns)


def made(
    *, periods: tuple[str, ...] = ("2019", "2020"), objects: tuple[str, ...] = ("car", "olive")
) -> tuple[pd.DataFrame, pd.DataFrame, gpd.GeoDataFrame]:
    """Four units, the province that holds them, and one without a polygon."""
    names = {"a": "p", "b": "p", "c": "p", "d": "p", "p": None, "nowhere": None}
    rows = [
        {
            "unit_id": unit, "unit_name": f"name of {unit}", "parent_id": parent, "object": one, "period": period,
            "period_start": f"{period}-01-01"[:10], "map_total": 10.04 * (k + 1) + i, "evidence": "simulated",
            "model_id": "m", "flag": "tiny_unit" if unit == "a" else None,
            "estimate": 99.04 if (unit, one) == ("p", "olive") and period == periods[-1] else None,
        }
        for k, (unit, parent) in enumerate([*names.items(), (REGION, None)])
        for one in objects
        for i, period in enumerate(periods)
    ]  # fmt: skip
    counts = table_of(COUNTS, rows)
    trend = table_of(TREND, [{"unit_id": "a", "object": "olive", "direction": "rise", "change": 1.0}])
    squares = [shapely.box(120 + i * STEP, 10 + j * STEP, 120 + (i + 1) * STEP, 10 + (j + 1) * STEP)
               for i in range(2) for j in range(2)]  # fmt: skip
    polygons = [*squares, shapely.union_all(squares), None]
    return counts, trend, gpd.GeoDataFrame({"unit_id": list(names)}, geometry=polygons, crs=4326)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pmtiles(*made(), tmp_path_factory.mktemp("tiles") / "counts.pmtiles", name="here", about="a test")


def test_gdal_reads_every_unit_with_its_numbers(written: Path) -> None:
    assert [name for name, _ in pyogrio.list_layers(written)] == ["units"]
    found = gpd.read_file(written, engine="pyogrio")  # the tiles of the highest zoom
    assert found.crs == "EPSG:3857"
    one = found.drop_duplicates("unit_id").set_index("unit_id")
    assert set(one.index) == {"a", "b", "c", "d", "p"}  # what has a polygon
    assert one.loc["b", ["car_2019", "car_2020", "car_last"]].tolist() == [20.1, 21.1, 21.1]  # as in the CSV
    assert one.loc["a", "olive_direction"] == "rise"
    assert one.loc["a", "car_flag"] == "tiny_unit"
    assert one.loc["p", "olive_estimate"] == 99.0
    assert one["level"].to_dict() == {"a": 1, "b": 1, "c": 1, "d": 1, "p": 0}
    assert one.loc["d", ["unit_name", "parent_id", "last_period"]].tolist() == ["name of d", "p", "2020"]
    pieces = found.dissolve("unit_id").geometry
    drawn = made()[2].dropna(subset="geometry").set_index("unit_id").geometry.to_crs(3857)
    apart = pieces.symmetric_difference(drawn.reindex(pieces.index)).area / drawn.reindex(pieces.index).area
    assert (apart < 0.02).all()  # a 256th of a unit along its border


def test_the_reader_of_the_formats_authors_finds_header_metadata_and_tiles(written: Path) -> None:
    shapes = made()[2].dropna(subset="geometry").to_crs(3857).geometry
    low, high = zooms(shapes, shapes[:4])
    with written.open("rb") as file:
        source = MmapSource(file)
        header, metadata = Reader(source).header(), Reader(source).metadata()
        tiles = dict(all_tiles(source))
    assert header["tile_type"] == TileType.MVT
    assert (header["min_zoom"], header["max_zoom"]) == (low, high)
    box = [header[name] / 1e7 for name in ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7")]
    assert box == pytest.approx([120, 10, 120 + 2 * STEP, 10 + 2 * STEP], abs=1e-5)
    assert (metadata["name"], metadata["description"]) == ("here", "a test")
    (layer,) = metadata["vector_layers"]
    assert layer["id"] == "units"
    assert {"unit_id", "unit_name", "car_2019", "olive_last", "olive_direction"} <= set(layer["fields"])
    assert {zoom for zoom, _, _ in tiles} == set(range(low, high + 1))
    assert all(b"units" in gzip.decompress(content) for content in tiles.values())


def test_the_same_units_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = write_pmtiles(*made(), tmp_path / "counts.pmtiles", name="here", about="a test")
    assert again.read_bytes() == written.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["counts.pmtiles"]  # nothing half made is left


@pytest.mark.parametrize(
    ("side_km", "columns", "expected"), [(100, 10, (2, 5)), (10, 30, (4, 8)), (1, 30, (7, 12)), (0.1, 50, (9, 14))]
)
def test_zooms_fit_the_size_of_the_units(side_km: float, columns: int, expected: tuple[int, int]) -> None:
    side = 1000 * side_km
    boxes = [shapely.box(i * side, 0, (i + 1) * side, side) for i in range(columns)]
    shapes = gpd.GeoSeries(boxes, crs=3857)
    assert zooms(shapes, shapes) == expected


def test_a_large_unit_beside_small_ones_makes_no_millions_of_tiles() -> None:
    boxes = [
        *(shapely.box(100 * i, 0, 100 * (i + 1), 100) for i in range(9)),
        shapely.box(-1.9e7, -1.9e7, 1.9e7, -1.5e7),
    ]
    shapes = gpd.GeoSeries(boxes, crs=3857)
    _, high = zooms(shapes, shapes)
    assert 3.8e7 * 4e6 / (4e7 / 2**high) ** 2 < 60_000


def test_of_many_periods_the_last_are_kept() -> None:
    months = tuple(f"{2018 + k // 12}-{k % 12 + 1:02d}" for k in range(72))
    counts, trend, _ = made(periods=months)
    kept = [name for name in by_unit(counts, trend).columns if name.startswith("car_20")]
    assert kept == [f"car_{month}" for month in months[-MOST_PERIODS // 2 :]]


def test_units_at_the_poles_are_cut_and_those_without_any_polygon_are_refused(tmp_path: Path) -> None:
    counts, trend, units = made()
    units.loc[units["unit_id"] == "a", "geometry"] = shapely.box(120, -90, 120.1, -85)
    path = write_pmtiles(counts, trend, units, tmp_path / "counts.pmtiles", name="here", about="a test")
    assert np.isfinite(gpd.read_file(path, engine="pyogrio").total_bounds).all()
    with pytest.raises(InputError, match="no unit has a polygon"):
        write_pmtiles(counts, None, units.assign(geometry=None), tmp_path / "b.pmtiles", name="here", about="a test")


def test_a_gdal_without_the_driver_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pyogrio, "list_drivers", lambda **_: {"GPKG": "rw", "PMTiles": "r"})
    with pytest.raises(InputError, match=r"no driver that writes PMTiles.*geoparquet"):
        write_pmtiles(*made(), tmp_path / "there" / "counts.pmtiles", name="here", about="a test")
    assert not (tmp_path / "there").exists()


def test_units_that_are_too_small_for_tiles_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts, trend, units = made()
    west, south, *_ = units.geometry.iloc[0].bounds
    islet = shapely.box(west, south, west + 1e-5, south + 1e-5)
    units.loc[units["unit_id"] == "a", "geometry"] = gpd.GeoSeries([islet], crs=4326).to_numpy()
    write_pmtiles(counts, trend, units, tmp_path / "counts.pmtiles", name="here", about="a test")
    assert "units smaller than" in caplog.text
    assert caplog.text.rstrip().endswith("missing in the tiles: 1 (a)")
    assert "a" not in set(gpd.read_file(tmp_path / "counts.pmtiles", engine="pyogrio")["unit_id"])
    rock = shapely.box(west, south, west + 1e-6, south + 1e-6)
    units["geometry"] = gpd.GeoSeries([rock] * len(units), crs=4326).to_numpy()
    with pytest.raises(InputError, match="every unit is smaller"):
        write_pmtiles(counts, trend, units, tmp_path / "none.pmtiles", name="here", about="a test")
    assert not (tmp_path / "none.pmtiles").exists()
