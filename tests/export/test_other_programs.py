"""GeoTIFFs and a STAC catalogue as others read them: valid, described, and with the numbers of the map."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from pystac.validation import validate_dict
from rio_cogeo.cogeo import cog_validate

from subpixmap.counts.count import count_run, write_counts
from subpixmap.export.formats import export_run
from subpixmap.export.stac import export_stac
from subpixmap.mapping.store import open_map
from subpixmap.runfolder import RunFolder
from tests.helpers.run_folders import OBJECTS, PERIODS, make_plan, make_run

EPSG = 32650
pytestmark = [  # of others
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run"
    make_run(out, make_plan())
    write_counts(out, count_run(out))
    return out


@pytest.fixture(scope="module")
def catalogue(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("stac")
    export_run(RunFolder.open(out), "stac", to=to)
    return to


@pytest.fixture(scope="module")
def items(catalogue: Path) -> list[pystac.Item]:
    collection = pystac.Collection.from_file(str(catalogue / "collection.json"))
    found = [item for item in collection.get_items() if item.properties["proj:code"] == f"EPSG:{EPSG}"]
    for item in found:
        item.make_asset_hrefs_absolute()
    return found


def test_every_raster_is_a_valid_cog_and_says_what_it_holds(catalogue: Path) -> None:
    paths = sorted((catalogue / "rasters").iterdir())
    assert {path.suffix for path in paths} == {".tif"}  # nothing stands beside them
    for path in paths:
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
        assert valid, (path.name, errors, warnings)
        with rasterio.open(path) as file:
            tags, kind = file.tags(), path.name.split("_")[0]
            assert file.units == ({"count": "1", "density": "ha-1", "region": "1"}[kind],)
            assert file.descriptions[0] == (kind if kind == "region" else f"{kind} of {tags['object']}")
            assert tags["title"] == "Counts of coconut, car per pixel in here, 2018 to 2019"
            assert "Copernicus Sentinel data" in tags["TIFFTAG_COPYRIGHT"] == tags["license"]
            if kind == "region":
                assert file.nodata is None
                assert set(np.unique(file.read(1))) == {0, 1}
                continue
            assert np.isnan(file.nodata)
            assert (tags["period_start"], tags["period_end"]) == (f"{tags['period']}-01-01", f"{tags['period']}-12-31")
            pixels = file.read(1)
            seen = pixels[~np.isnan(pixels)].astype(float)
            told = {name: float(value) for name, value in file.tags(1).items() if name.startswith("STATISTICS_")}
            assert told["STATISTICS_MINIMUM"] == pytest.approx(seen.min(), rel=1e-6)
            assert told["STATISTICS_MAXIMUM"] == pytest.approx(seen.max(), rel=1e-6)
            assert told["STATISTICS_MEAN"] == pytest.approx(seen.mean(), rel=1e-6)
            assert told["STATISTICS_STDDEV"] == pytest.approx(seen.std(), rel=1e-6)
            assert told["STATISTICS_VALID_PERCENT"] == pytest.approx(100 * seen.size / pixels.size, abs=0.1)


def test_counts_where_the_mask_is_one_are_the_regions_total(out: Path, catalogue: Path) -> None:
    ours = open_map(out)[EPSG]
    expected = ours["count"].sel(object="coconut", period="2019").where(ours["region"]).sum()
    folder = catalogue / "rasters"
    with (
        rasterio.open(folder / f"count_coconut_2019_{EPSG}.tif") as count,
        rasterio.open(folder / f"region_{EPSG}.tif") as region,
    ):
        inside = region.read(1) == 1
        np.testing.assert_array_equal(inside, ours["region"].values)
        total = np.nansum(count.read(1).astype(float)[inside])
    assert total == pytest.approx(float(expected), rel=1e-6)


def test_a_map_without_a_clear_pixel_is_exported(tmp_path: Path) -> None:
    plan = make_plan()
    make_run(tmp_path / "run", plan, clouded=("2018",))
    files = export_stac(RunFolder.open(tmp_path / "run"), tmp_path / "stac")
    with rasterio.open(next(path for path in files if path.name == f"count_car_2018_{EPSG}.tif")) as file:
        assert np.isnan(file.read(1)).all()
    raw = json.loads(next((tmp_path / "stac").glob(f"*/*2018-{EPSG}.json")).read_bytes())
    assert raw["assets"]["count_car"]["bands"][0]["statistics"] == {"valid_percent": 0}


def test_the_catalogue_tells_units_statistics_providers_and_licence(catalogue: Path, items: list[pystac.Item]) -> None:
    collection = pystac.Collection.from_file(str(catalogue / "collection.json"))
    assert collection.title == "Counts of coconut, car per pixel in here, 2018 to 2019"
    roles = {provider.name: provider.roles for provider in collection.providers or ()}
    assert roles == {
        "European Union, Copernicus Sentinel-2, processed by ESA": ["producer"],
        "subpixmap 0.1.0": ["processor"],
    }
    assert collection.license == "other"
    validate_dict(collection.to_dict(), extensions=[])
    keys = [*(f"{kind}_{name}" for name in OBJECTS for kind in ("count", "density")), "region"]
    assert list(collection.to_dict()["item_assets"]) == keys
    for item in items:
        validate_dict(item.to_dict(), extensions=[])  # those of the extensions are not at hand offline
        assert list(item.assets) == keys
        asset = item.assets["density_car"]
        (band,) = asset.extra_fields["bands"]
        assert (band["unit"], band["nodata"], band["data_type"]) == ("ha-1", "nan", "float32")
        with rasterio.open(str(asset.get_absolute_href())) as file:
            assert band["statistics"]["mean"] == pytest.approx(float(np.nanmean(file.read(1).astype(float))), rel=1e-6)
            assert item.properties["proj:shape"] == list(file.shape)
            assert item.properties["proj:bbox"] == list(file.bounds)
            assert item.properties["proj:transform"] == list(file.transform)[:6]
    assert [item.datetime for item in items] == [
        datetime(2018, 7, 2, 12, tzinfo=UTC),
        datetime(2019, 7, 2, 12, tzinfo=UTC),
    ]


def test_simulated_imagery_is_not_said_to_be_that_of_copernicus(out: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("subpixmap.export.stac.is_simulated", lambda _: True)
    export_stac(RunFolder.open(out), tmp_path)
    collection = pystac.Collection.from_file(str(tmp_path / "collection.json"))
    assert [provider.name for provider in collection.providers or ()] == ["subpixmap 0.1.0"]
    assert "none of this is about a real place" in collection.description
    assert len(collection.get_links("license")) == 1


def test_stackstac_and_odc_stac_load_the_numbers_of_the_map(out: Path, items: list[pystac.Item]) -> None:
    import odc.stac
    import stackstac

    ours = open_map(out)[EPSG]
    expected = ours["count"].sel(object="coconut").values
    place = {"epsg": EPSG, "resolution": 10, "bounds": items[0].properties["proj:bbox"]}  # it does not read proj:code
    stack = stackstac.stack(items, assets=["count_coconut", "region"], **place)
    assert stack.time.dt.year.values.tolist() == [2018, 2019]
    np.testing.assert_array_equal(stack.sel(band="count_coconut").values, expected)
    np.testing.assert_array_equal(stack.sel(band="region").values[0], ours["region"].values)
    np.testing.assert_array_equal(stack.x.values + 5, ours.x.values)  # corners
    loaded = odc.stac.load(items, bands=["count_coconut", "region"])
    assert loaded.odc.crs.epsg == EPSG
    np.testing.assert_array_equal(loaded["count_coconut"].values, expected)
    np.testing.assert_array_equal(loaded.time.dt.year, [period.start.year for period in PERIODS])
    np.testing.assert_array_equal(loaded.x.values, ours.x.values)
