"""What others read in map.zarr without a line of this package: place, time, units, region, source; and what was there
before these attributes stays as it was."""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import cf_xarray  # noqa: F401  (registers .cf)
import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.errors
import rioxarray  # noqa: F401  (registers .rio)
import shapely
import xarray as xr
import zarr_cm

from subpixmap.geozarr import TIME, TIME_BOUNDS
from subpixmap.mapping.metadata import create_map, metadata_files
from subpixmap.mapping.plan import write_plan
from subpixmap.mapping.schema import ARRAYS, REGION
from subpixmap.mapping.store import open_map
from subpixmap.mapping.verify import verify
from subpixmap.periods import Period, make_periods
from tests.helpers.run_folders import PERIODS, make_plan, make_run

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out, plan = tmp_path_factory.mktemp("other") / "run", make_plan()
    make_run(out, plan)
    return out, plan


def opened(out: Path, epsg: int) -> xr.Dataset:
    there: xr.Dataset = xr.open_zarr(out / "map.zarr", group=str(epsg), decode_coords="all")
    return there


def group_of(out: Path, epsg: int) -> Any:
    return json.loads((out / "map.zarr" / str(epsg) / "zarr.json").read_bytes())


def test_the_conventions_of_geozarr_hold(made: tuple[Path, Any]) -> None:
    out, plan = made
    for epsg, zone in plan.zones.items():
        raw = group_of(out, epsg)
        raw.pop("consolidated_metadata")
        zarr_cm.proj.validate_group_metadata(raw)
        zarr_cm.spatial.validate_group_metadata(raw)
        attributes = raw["attributes"]
        assert zarr_cm.detect_revisions(attributes) == {"proj": "r3", "spatial": "r3"}
        assert pyproj.CRS.from_wkt(attributes["proj:wkt2"]) == pyproj.CRS(attributes["proj:code"]) == epsg
        there = opened(out, epsg)
        assert attributes["spatial:shape"] == [there.sizes[name] for name in attributes["spatial:dimensions"]]
        assert attributes["spatial:transform"] == list(there.rio.transform())[:6]
        assert tuple(attributes["spatial:bbox"]) == there.rio.bounds() == zone.lattice.bounds(zone.extent)
    del raw["attributes"]["proj:code"], raw["attributes"]["proj:wkt2"]
    with pytest.raises(ValueError, match="proj:code"):  # the check can fail
        zarr_cm.proj.validate_group_metadata(raw)


def test_cf_readers_find_place_time_and_units(made: tuple[Path, Any]) -> None:
    out, plan = made
    for epsg in plan.zones:
        there = opened(out, epsg)
        assert there.attrs["Conventions"] == "CF-1.11"
        assert there.attrs["title"] == "Counts of coconut, car per pixel in here, 2018 to 2019"
        assert plan.run_id in there.attrs["history"]
        assert "Copernicus Sentinel data 2018, 2019" in there.attrs["license"]
        assert pyproj.CRS.from_cf(there["spatial_ref"].attrs) == epsg
        assert there.rio.crs.to_epsg() == epsg
        assert there.cf.grid_mapping_names == {"transverse_mercator": ["spatial_ref"]}
        assert there.cf.bounds == {TIME: [TIME_BOUNDS], "T": [TIME_BOUNDS]}
        assert {axis: there.cf.axes[axis] for axis in "TXY"} == {"T": [TIME], "X": ["x"], "Y": ["y"]}
        for name in ("count", "presence", "sd_over_dates", "n_obs"):
            assert there[name].attrs["units"] == "1"
            assert there[name].cf["time"].dims == ("period",)
        assert there[TIME].dt.year.values.tolist() == [2018, 2019]
        assert there[TIME_BOUNDS].values.astype("datetime64[D]").astype(str).tolist() == [
            ["2018-01-01", "2019-01-01"],
            ["2019-01-01", "2020-01-01"],
        ]


def test_the_region_is_in_the_map_and_gives_its_total(made: tuple[Path, Any]) -> None:
    out, plan = made
    ours = open_map(out)
    for epsg, zone in plan.zones.items():
        there = opened(out, epsg)
        assert there[REGION].dtype == bool
        x, y = np.meshgrid(there.x.values, there.y.values)
        drawn = gpd.GeoSeries([plan.geometry], crs=4326).to_crs(epsg).item()
        lon, _ = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
        oracle = shapely.contains_xy(drawn, x, y) & ((lon < 120) == (epsg == 32650))
        np.testing.assert_array_equal(there[REGION].values, oracle)
        assert 0 < oracle.sum() < oracle.size
        np.testing.assert_array_equal(ours[epsg][REGION].values, oracle)
        mine, theirs = (one["count"].where(one[REGION]).sum(("y", "x")) for one in (ours[epsg], there))
        np.testing.assert_allclose(theirs, mine, rtol=1e-6)
        np.testing.assert_array_equal(ours[epsg][TIME], there[TIME])
        np.testing.assert_array_equal(ours[epsg][TIME_BOUNDS], there[TIME_BOUNDS])
        assert zone.extent.shape == there[REGION].shape


def test_gdal_reads_the_map_from_3_13_on(made: tuple[Path, Any]) -> None:
    """Before, GDAL does not know sharding; docs/running.md says so."""
    out, plan = made
    epsg, zone = next(iter(plan.zones.items()))
    name = f'ZARR:"{out / "map.zarr" / str(epsg)}":/n_obs:0'
    if tuple(map(int, rasterio.__gdal_version__.split(".")[:2])) < (3, 13):
        with pytest.raises(rasterio.errors.RasterioIOError, match="sharding_indexed"):
            rasterio.open(name)
        return
    with rasterio.open(name) as file:
        assert file.crs.to_epsg() == epsg
        assert file.transform == zone.lattice.transform(zone.extent)
        np.testing.assert_array_equal(file.read(1), opened(out, epsg)["n_obs"].values[0])


def test_a_selection_of_the_map_can_be_written_as_netcdf(made: tuple[Path, Any], tmp_path: Path) -> None:
    out, plan = made
    epsg = next(iter(plan.zones))
    part = open_map(out)[epsg].isel(x=slice(0, 9), y=slice(0, 9))
    part = part.drop_vars(["period", "object", "region", "count", "presence", "sd_over_dates"]).astype("int32")
    part.to_netcdf(tmp_path / "part.nc", engine="scipy")
    with xr.open_dataset(tmp_path / "part.nc", engine="scipy", decode_coords="all") as back:
        assert back.attrs["title"] == part.attrs["title"]
        np.testing.assert_array_equal(back[TIME_BOUNDS], part[TIME_BOUNDS])


@pytest.mark.parametrize(
    ("periods", "moments", "bounds"),
    [
        (
            make_periods("2020", months=(11, 12, 1, 2)),
            ["2020-12-31T00:00:00"],
            [["2020-11-01", "2021-03-01"]],
        ),
        (
            make_periods("2020", "quarter")[:2],
            ["2020-02-15T12:00:00", "2020-05-16T12:00:00"],
            [["2020-01-01", "2020-04-01"], ["2020-04-01", "2020-07-01"]],
        ),
        (
            make_periods("2020", "month", (1, 2)),
            ["2020-01-16T12:00:00", "2020-02-15T12:00:00"],
            [["2020-01-01", "2020-02-01"], ["2020-02-01", "2020-03-01"]],
        ),
        (
            [Period("2020-02-28T23:59:59Z", date(2020, 2, 28), date(2020, 2, 28))],
            ["2020-02-28T23:59:59"],
            [["2020-02-28", "2020-02-29"]],
        ),
    ],
)
def test_every_kind_of_period_has_its_bounds(tmp_path: Path, periods: Any, moments: Any, bounds: Any) -> None:
    create_map(tmp_path, make_plan(periods=tuple(periods)))
    there = opened(tmp_path, 32650)
    assert there[TIME].values.astype("datetime64[s]").astype(str).tolist() == moments
    assert there[TIME_BOUNDS].values.astype("datetime64[D]").astype(str).tolist() == bounds


def content(path: Path) -> Any:
    """Of a file; the order in which attributes were added carries no meaning."""
    return json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()


def as_before(out: Path) -> None:
    """Take from a map what maps of earlier versions lack."""
    kept = {"run_id", "evidence", "lattice_window", "long_name", "grid_mapping", "standard_name", "axis"}
    kept |= {"scale_factor", "add_offset", "_FillValue", "spatial_ref", "crs_wkt"}
    for folder in (out / "map.zarr").glob("*/*"):
        if folder.name in (REGION, TIME, TIME_BOUNDS):
            shutil.rmtree(folder)
    for path in (out / "map.zarr").rglob("zarr.json"):
        raw = json.loads(path.read_bytes())
        raw.pop("consolidated_metadata", None)
        raw["attributes"] = {key: value for key, value in raw["attributes"].items() if key in kept}
        path.write_text(json.dumps(raw), encoding="utf-8")


def test_a_map_of_before_opens_and_gets_what_it_lacks_when_it_is_extended(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(made[0], out)
    new = {path.relative_to(out): content(path) for path in metadata_files(out)}
    as_before(out)
    shards = [path for name in ARRAYS for path in out.glob(f"map.zarr/*/{name}/c/**/*") if path.is_file()]
    chunks = {path: path.read_bytes() for path in shards}
    before = open_map(out)
    assert not verify(out).damaged
    for epsg, one in open_map(made[0]).items():
        xr.testing.assert_identical(one.drop_attrs(), before[epsg].drop_attrs())
    create_map(out, made[1])  # a run that goes on
    assert {path.relative_to(out): content(path) for path in metadata_files(out)} == new
    longer = write_plan(out, make_plan(periods=(*PERIODS, Period("2020", date(2020, 1, 1), date(2020, 12, 31)))))
    create_map(out, longer)
    assert {path: path.read_bytes() for path in chunks} == chunks
    there = opened(out, 32650)
    assert there.attrs["title"].endswith("2018 to 2020")
    assert there[TIME].dt.year.values.tolist() == [2018, 2019, 2020]


def test_a_mask_that_was_not_finished_is_made_again(made: tuple[Path, Any], tmp_path: Path) -> None:
    _, plan = made
    create_map(tmp_path, plan)
    files = {path: path.read_bytes() for path in (tmp_path / "map.zarr").rglob("*") if path.is_file()}
    folder = tmp_path / "map.zarr" / "32650" / REGION
    raw = json.loads((folder / "zarr.json").read_bytes())
    del raw["attributes"]["region_sha256"]  # what a run writes last
    (folder / "zarr.json").write_text(json.dumps(raw), encoding="utf-8")
    shutil.rmtree(folder / "c")
    create_map(tmp_path, plan)
    assert {path: path.read_bytes() for path in (tmp_path / "map.zarr").rglob("*") if path.is_file()} == files
