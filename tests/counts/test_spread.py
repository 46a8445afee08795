"""The spread between networks, against each network run alone as a model of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

from subpixmap.counts.count import count_run
from subpixmap.errors import InputError, VerificationFailed
from subpixmap.export.cogs import export_cogs
from subpixmap.mapping.ledger import read_records, record_path
from subpixmap.mapping.plan import read_plan
from subpixmap.mapping.run import map_region
from subpixmap.mapping.store import open_map
from subpixmap.mapping.verify import verify
from subpixmap.model.checkpoint import Model
from subpixmap.region.resolve import Region
from subpixmap.runfolder import RunFolder, RunUnits, write_units
from tests.helpers.mapping_data import Tiny, hashes, tiny, tiny_model

MEMBERS = 3
SPREAD = "sd_over_models"


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Six acquisitions, so that the highest and the lowest are left out of every network's own mean."""
    folder = tmp_path_factory.mktemp("scenes")
    one = tiny(folder, years="2021", dates=6, size_px=220, region_px=(150, 180), model=tiny_model(members=MEMBERS))
    west, south, east, north = one.region.geometry.bounds
    middle = (west + east) / 2
    units = gpd.GeoDataFrame(
        {"unit_id": ["1", "2"], "unit_name": ["west", "east"], "parent_id": ["", ""]},
        geometry=[shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)],
        crs=4326,
    )
    return replace(one, region=replace(one.region, units=units))


@pytest.fixture(scope="module")
def mapped(country: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run"), country, country.model, spread=True)


def run(out: Path, country: Tiny, model: Model, **options: Any) -> Path:
    map_region(out, replace(country, model=model).plan(**options), country.items, model, workers=0)
    region: Region = country.region
    write_units(out, RunUnits(region.units, region.boundary_source, region.boundary_version))
    return out


def test_it_is_the_deviation_of_what_each_network_counts_alone(country: Tiny, mapped: Path, tmp_path: Path) -> None:
    counted, key = count_run(mapped).all_rows, ["unit_id", "object"]
    totals, pixels = [], []
    (zone,) = open_map(mapped).values()
    for k in range(MEMBERS):
        alone = Model.of(country.model.net.members[k], replace(country.model.card, members=1))  # type: ignore[index, arg-type]
        out = run(tmp_path / str(k), country, alone)
        rows = count_run(out).all_rows
        assert rows["sd_over_models"].isna().all()
        totals.append(rows.set_index(key)["map_total"])
        (there,) = open_map(out).values()
        pixels.append(there["count"].values)
        np.testing.assert_array_equal(zone[f"count_of_model_{k + 1}"].values, pixels[-1])
    expected = np.std(totals, axis=0, ddof=1)
    assert (expected > 1).all()
    np.testing.assert_allclose(counted["sd_over_models"], expected, rtol=1e-9)
    assert list(counted["unit_id"].unique()) == ["1", "2", "REGION"]
    np.testing.assert_allclose(zone["sd_over_models"].values, np.std(pixels, axis=0, ddof=1), atol=0.005)


def test_nothing_else_changes_by_a_bit(country: Tiny, mapped: Path, tmp_path: Path) -> None:
    plain = run(tmp_path, country, country.model)
    with_it, without = hashes(mapped), hashes(plain)
    assert without == {
        key: {name: one[name] for name in ("count", "presence", "sd_over_dates", "n_obs")}
        for key, one in with_it.items()
    }
    assert {len(one) for one in with_it.values()} == {4 + 1 + MEMBERS}
    assert "spread" not in read_plan(plain).recipe.to_json()
    rows, plain_rows = (count_run(out).all_rows.drop(columns=["sd_over_models", "run_id"]) for out in (mapped, plain))
    assert rows.equals(plain_rows)


def test_blocks_and_a_run_that_goes_on_give_the_same_bits(country: Tiny, mapped: Path, tmp_path: Path) -> None:
    before, key = hashes(mapped), next(iter(read_records(mapped)))
    record_path(mapped, *key).unlink()
    run(mapped, country, country.model, spread=True)
    assert hashes(mapped) == before
    run(tmp_path, country, country.model, spread=True, block=512)
    (small,), (large,) = open_map(mapped).values(), open_map(tmp_path).values()
    large = large.sel(x=small.x, y=small.y)
    for k in range(MEMBERS):
        np.testing.assert_array_equal(small[f"count_of_model_{k + 1}"], large[f"count_of_model_{k + 1}"])
    np.testing.assert_array_equal(small["sd_over_models"], large["sd_over_models"])


def test_an_opened_map_counts_it_like_its_folder(mapped: Path) -> None:
    maps, folder = open_map(mapped), count_run(mapped).table["sd_over_models"]
    np.testing.assert_allclose(count_run(maps).table["sd_over_models"], folder, rtol=1e-9)
    few = {epsg: zone[["count", "presence", "n_obs"]] for epsg, zone in maps.items()}
    assert count_run(few).table["sd_over_models"].isna().all()


def test_rasters_of_the_spread_hold_what_the_map_holds(mapped: Path, tmp_path: Path) -> None:
    files = export_cogs(RunFolder.open(mapped), tmp_path, objects=["car"])
    layers = [f"{kind}_car_2021_32651.tif" for kind in ("count", "density", SPREAD)]
    assert [path.name for path in files] == [*layers, "region_32651.tif"]
    (zone,) = open_map(mapped).values()
    with rasterio.open(files[2]) as file:
        np.testing.assert_array_equal(file.read(1), zone[SPREAD].sel(object="car", period="2021").values)


def test_a_flipped_bit_is_found(mapped: Path) -> None:
    shard = next(iter(mapped.glob("map.zarr/*/count_of_model_2/c/0/0/*/*")))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    whole = shard.read_bytes()
    shard.write_bytes(content)
    try:
        assert any("count_of_model_2" in str(one) for one in verify(mapped).damaged)
        with pytest.raises(VerificationFailed, match="count_of_model_2"):
            count_run(mapped)
    finally:
        shard.write_bytes(whole)


def test_a_model_of_one_network_is_refused(country: Tiny) -> None:
    with pytest.raises(InputError, match="--spread: model 'tiny' has one network"):
        replace(country, model=tiny_model()).plan(spread=True)
