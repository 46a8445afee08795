"""A run folder -> every format: the same rows with their polygons, rasters of the map, a valid catalogue."""

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
from subpixmap.tables import COUNTS, TREND, read_table, types_of, write_table
from subpixmap.trends.run_trend import trend_of_run
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
    write_table(trend_of_run(RunFolder.open(out)), out / "trend", TREND)
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
    files = ["counts.gpkg"] if format == "gpkg" else [f"counts.{format}", f"trend.{format}"]
    assert [path.name for path in paths] == files
    units = gpd.read_parquet(counted / "units.parquet").set_index("unit_id").geometry
    for table, columns in (("counts", COUNTS), ("trend", TREND)):
        expected = read_table(counted / f"{table}.parquet", columns)
        if format == "csv":
            pd.testing.assert_frame_equal(read_table(tmp_path / f"{table}.csv", columns), expected)
            continue
        path = tmp_path / ("counts.gpkg" if format == "gpkg" else f"{table}.{format}")
        if format == "geoparquet":
            found = gpd.read_parquet(path)
        else:  # GDAL reads it
            found = gpd.read_file(path, layer=table, engine="pyogrio", use_arrow=True)
        assert found.crs == "EPSG:4326"
        for name in {"period_start", "period_end"} & set(columns):
            found[name] = found[name].astype(str)  # GDAL takes an ISO date in GeoJSON for a date
        same_rows(found, expected, columns)
        drawn = shapely.normalize(units.loc[expected["unit_id"]].to_numpy())
        assert shapely.equals_exact(shapely.normalize(found.geometry.to_numpy()), drawn, 1e-8).all()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == files  # nothing half made is left


def test_an_unknown_format_lists_the_known_ones(counted: Any) -> None:
    with pytest.raises(InputError, match="csv, geoparquet, gpkg, geojson, cog, stac"):
        export_run(RunFolder.open(counted), "shapefile")


def test_rasters_hold_the_map_and_their_overviews_hold_means(counted: Any, run: Any, tmp_path: Path) -> None:
    import rasterio

    _, plan = run
    paths = export_run(RunFolder.open(counted), "cog", to=tmp_path)
    assert len(paths) == 2 * len(plan.zones) * len(OBJECTS) * len(PERIODS)
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
    assert set(collection.assets) == {"counts.csv", "counts.parquet", "trend.csv", "trend.parquet", "items.parquet",
                                      "plan.json"}  # fmt: skip
    assert items[0].properties["subpixmap:items_sha256"]
    assert items[0].properties["start_datetime"] == "2018-01-01T00:00:00Z"
    assert "not estimates" in collection.description
