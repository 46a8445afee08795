"""A run folder -> every format: the same rows with their polygons, rasters of the map, a valid catalogue."""

import json
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from subpixmap.counts.count import count_run, write_counts
from subpixmap.errors import InputError
from subpixmap.export.formats import export_run
from subpixmap.runfolder import RunFolder
from subpixmap.tables import CHANGES, COUNTS, TREND, read_table, rounded, types_of
from subpixmap.trends.run_trend import trend_of_run, write_trend
from tests.helpers.run_folders import OBJECTS, PERIODS, REGION, make_plan, make_run

AROUND = gpd.GeoDataFrame({"unit_id": ["all"]}, geometry=[shapely.segmentize(REGION.buffer(0.1), 0.01)], crs=4326)
"""A unit that holds all that is mapped, also beyond the region."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    plan = make_plan()
    out = tmp_path_factory.mktemp("export") / "run"
    make_run(out, plan)
    return out, plan


@pytest.fixture(scope="module")
def counted(run: Any) -> Any:
    out, _ = run
    write_counts(out, count_run(out))
    write_trend(out, trend_of_run(RunFolder.open(out)))
    return out


def same_rows(found: Any, expected: Any, columns: Any) -> None:
    """Equal in every column, blank where blank."""
    for name, kind in types_of(columns).items():
        mine = found[name].replace({np.nan: None}).astype(object)
        theirs = expected[name].astype(object).where(expected[name].notna(), None)
        if kind == "float64":
            np.testing.assert_array_equal(mine.astype(float), theirs.astype(float), err_msg=name)
        else:
            assert mine.where(mine.notna(), None).tolist() == theirs.tolist(), name


@pytest.mark.parametrize("format", ["csv", "geoparquet", "gpkg", "geojson"])
def test_every_table_format_holds_the_same_rows(counted: Any, tmp_path: Path, format: str) -> None:
    paths = export_run(RunFolder.open(counted), format, to=tmp_path)
    end = "geo.parquet" if format == "geoparquet" else format
    files = ["counts.gpkg"] if format == "gpkg" else [f"counts.{end}", f"trend.{end}"]
    files += [*(["changes.csv", "tables.json"] if format == "csv" else []), "LICENCE-AND-CITATION.txt"]
    assert [path.name for path in paths] == files
    units = gpd.read_parquet(counted / "units.parquet").set_index("unit_id").geometry
    for table, columns in (("counts", COUNTS), ("trend", TREND)):
        expected = read_table(counted / f"{table}.parquet", columns)
        if format == "csv":
            pd.testing.assert_frame_equal(read_table(tmp_path / f"{table}.csv", columns), rounded(expected, columns))
            continue
        path = tmp_path / ("counts.gpkg" if format == "gpkg" else f"{table}.{end}")
        if format == "geoparquet":
            found = gpd.read_parquet(path)
        else:  # GDAL reads it
            found = gpd.read_file(path, layer=table, engine="pyogrio", use_arrow=True)
        assert found.crs == "EPSG:4326"
        for name in {"period_start", "period_end"} & set(columns):
            found[name] = found[name].astype(str)  # GDAL takes an ISO date in GeoJSON for a date
        same_rows(found, expected, columns)
        inside = expected["unit_id"] != "REGION"
        assert found.geometry[~inside.to_numpy()].isna().all()
        drawn = shapely.normalize(units.loc[expected.loc[inside, "unit_id"]].to_numpy())
        mine = shapely.normalize(found.geometry[inside.to_numpy()].to_numpy())
        assert shapely.equals_exact(mine, drawn, 1e-8).all()
    if format == "csv":
        assert (tmp_path / "changes.csv").read_bytes() == (counted / "changes.csv").read_bytes()
        package = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
        assert package["licenses"] == [{"path": "LICENCE-AND-CITATION.txt", "title": "Licences and citation"}]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(files)  # nothing half made is left


def test_an_unknown_format_lists_the_known_ones(counted: Any) -> None:
    with pytest.raises(InputError, match="csv, xlsx, geoparquet, gpkg, geojson, pmtiles, cog, stac"):
        export_run(RunFolder.open(counted), "shapefile")


def test_rasters_hold_the_map_and_their_overviews_hold_means(counted: Any, run: Any, tmp_path: Path) -> None:
    import rasterio

    _, plan = run
    *paths, licence = export_run(RunFolder.open(counted), "cog", to=tmp_path)
    assert licence.name == "LICENCE-AND-CITATION.txt"
    assert len(paths) == len(plan.zones) * (2 * len(OBJECTS) * len(PERIODS) + 1)  # and a mask for each zone
    balance = count_run(counted, AROUND).accounts.balance.set_index(["object", "period"])
    total = 0.0
    for epsg in plan.zones:
        with rasterio.open(tmp_path / f"count_coconut_2018_{epsg}.tif") as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert file.crs.to_epsg() == epsg
            assert file.transform == plan.zones[epsg].lattice.transform(plan.zones[epsg].extent)
            assert file.tags()["overviews"] == "mean of the observed pixels"
            full = file.read(1, masked=False).astype(float)
            total += np.nansum(full)
            assert file.overviews(1)[0] == 2
        with rasterio.open(tmp_path / f"count_coconut_2018_{epsg}.tif", overview_level=0) as file:
            half = file.read(1)
        rows, cols = half.shape[0] * 2, half.shape[1] * 2
        quads = full[:rows, :cols].reshape(half.shape[0], 2, half.shape[1], 2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Mean of empty slice")
            np.testing.assert_allclose(half, np.nanmean(quads, axis=(1, 3)), rtol=1e-5, atol=1e-6)
        with rasterio.open(tmp_path / f"density_coconut_2018_{epsg}.tif") as file:
            np.testing.assert_allclose(file.read(1), full * 100, rtol=1e-6)
            assert file.units == ("ha-1",)
    assert total == pytest.approx(balance.loc[("coconut", "2018"), "map"], rel=1e-9)


def test_the_catalogue_is_valid_and_its_checksums_hold(counted: Any, tmp_path: Path) -> None:
    import hashlib
    from pathlib import Path

    import pystac
    from pystac.validation import validate_dict

    paths = export_run(RunFolder.open(counted), "stac", to=tmp_path / "stac")
    (tmp_path / "stac").rename(tmp_path / "moved")
    collection = pystac.Collection.from_file(str(tmp_path / "moved" / paths[0].name))
    items = list(collection.get_items())
    assert len(items) == 2 * len(PERIODS)
    for one in (collection, *items):
        validate_dict(one.to_dict(), extensions=[])  # the core schemas; those of the extensions are not at hand offline
        for asset in one.assets.values():  # type: ignore[attr-defined]
            content = Path(str(asset.get_absolute_href())).read_bytes()
            assert asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    assert set(collection.assets) == {"counts.csv", "counts.parquet", "trend.csv", "trend.parquet", "changes.csv",
                                      "items.parquet", "plan.json"}  # fmt: skip
    licence, terms = collection.get_links("license")
    assert "Sentinel_Data_Legal_Notice" in terms.href
    assert "Cite as" in Path(str(licence.get_absolute_href())).read_text(encoding="utf-8")
    assert items[0].properties["subpixmap:items_sha256"]
    assert items[0].properties["start_datetime"] == "2018-01-01T00:00:00Z"
    assert "not estimates" in collection.description


def test_a_workbook_holds_the_tables_their_columns_and_the_licence(counted: Any, tmp_path: Path) -> None:
    from openpyxl import load_workbook

    path, licence = export_run(RunFolder.open(counted), "xlsx", to=tmp_path)
    book = load_workbook(path, read_only=True)
    assert book.sheetnames == ["counts", "trend", "changes", "columns", "licence"]
    changes = pd.DataFrame(list(book["changes"].iter_rows(min_row=2, values_only=True)), columns=list(CHANGES))
    pd.testing.assert_frame_equal(changes.astype(types_of(CHANGES)), read_table(counted / "changes.csv", CHANGES))
    expected = rounded(read_table(counted / "counts.parquet", COUNTS), COUNTS)
    rows = [list(row) for row in book["counts"].iter_rows(values_only=True)]
    assert rows[0] == list(COUNTS)
    at = list(COUNTS).index("map_total")
    assert [row[at] for row in rows[1:]] == expected["map_total"].tolist()
    assert [row[0] for row in rows[1:]] == expected["unit_id"].tolist()  # 01 stays a text
    assert len(list(book["columns"].iter_rows())) == 1 + len(COUNTS) + len(TREND) + len(CHANGES)
    assert "Cite as" in licence.read_text(encoding="utf-8")


def test_a_text_that_looks_like_a_formula_stays_a_text(tmp_path: Path) -> None:
    from openpyxl import load_workbook

    from subpixmap.export.workbook import write_workbook
    from subpixmap.tables import SERIES

    table = pd.DataFrame({name: [None] for name in SERIES}).assign(unit_id="=1+1", common_total=2.04)
    book = load_workbook(write_workbook({"series": (table, SERIES)}, "none", tmp_path / "a.xlsx"))
    cell = book["series"]["A2"]
    assert (cell.data_type, cell.value) == ("s", "=1+1")
    assert [one.value for one in book["series"][2]][list(SERIES).index("common_total")] == 2.0


def test_the_dictionary_is_a_data_package_of_the_csv_files(counted: Any, tmp_path: Path) -> None:
    from subpixmap.export.dictionary import write_dictionary

    package = json.loads(write_dictionary(counted).read_text(encoding="utf-8"))
    assert [one["path"] for one in package["resources"]] == ["counts.csv", "trend.csv", "changes.csv"]
    for resource in package["resources"]:
        fields = resource["schema"]["fields"]
        text = pd.read_csv(counted / resource["path"], dtype=str, keep_default_na=False)
        assert [field["name"] for field in fields] == list(text.columns)
        assert all(field["description"] for field in fields)
        assert not text.duplicated(resource["schema"]["primaryKey"]).any()
        for field in fields:
            cells = text.loc[text[field["name"]] != "", field["name"]]
            if field["type"] in ("number", "integer"):
                cells.astype(float)
            elif field["type"] == "boolean":
                assert set(cells) <= {*field["trueValues"], *field["falseValues"]}


def test_a_validator_of_data_packages_accepts_the_tables(counted: Any, tmp_path: Path) -> None:
    from frictionless import validate

    export_run(RunFolder.open(counted), "csv", to=tmp_path)
    report = validate(str(tmp_path / "tables.json"), type="package")
    assert report.valid, report.flatten(["title", "note"])
    assert [task.name for task in report.tasks] == ["counts", "trend", "changes"]
    assert all(task.stats["rows"] for task in report.tasks)
    text = (tmp_path / "trend.csv").read_text(encoding="utf-8")
    (tmp_path / "trend.csv").write_text(text.replace('"count"', '"count","too many"', 1), encoding="utf-8")
    assert not validate(str(tmp_path / "tables.json"), type="package").valid  # it can fail
