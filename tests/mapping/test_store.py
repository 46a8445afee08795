"""The map on disk: opens without a warning, keeps what was written, tells missing from zero from damaged."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from subpixmap.errors import VerificationFailed
from subpixmap.mapping.ledger import Record, array_sha256, locked_sha256, write_record
from subpixmap.mapping.metadata import create_map
from subpixmap.mapping.plan import write_plan
from subpixmap.mapping.quantise import as_stored
from subpixmap.mapping.store import (
    open_map,
    read_block,
    shard_paths,
    write_block,
)
from subpixmap.runpaths import MAP
from subpixmap.scenes.items import write_lock
from tests.helpers.mapping_data import Tiny, raising, tiny

# rasterio and rioxarray still multiply Affine with `*`, which the affine package announces to drop.
affine_star = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("scenes"), dates=1)


@pytest.fixture
def made(country: Tiny, tmp_path: Path) -> Any:
    plan = write_plan(tmp_path, country.plan(block=512))
    write_lock(tmp_path / "items.parquet", country.items)
    create_map(tmp_path, plan)
    return tmp_path, plan


def arrays_of(block: Any, *, seed: int = 0, objects: int = 2) -> Any:
    rng = np.random.default_rng(seed)
    shape = (objects, *block.window.shape)
    found = {name: rng.normal(size=shape).astype(np.float32) for name in ("count", "presence", "sd_over_dates")}
    found["count"][:, :300] = np.nan
    return as_stored(found | {"n_obs": rng.integers(0, 9, block.window.shape).astype(np.uint16)})


def commit(out: Any, plan: Any, block: Any, period: Any, arrays: Any) -> None:
    write_block(out, block, period, arrays)
    digests = {name: array_sha256(values) for name, values in arrays.items()}
    items = locked_sha256(out, plan)[period]
    record = Record(block.id, period, plan.run_id, items, digests, (), 0, 0, {}, {}, {})
    write_record(out, record)


def test_what_is_written_is_read(made: Any) -> None:
    out, plan = made
    (zone,) = plan.zones.values()
    blocks = [one.block for one in zone.blocks]
    for i, block in enumerate(blocks):
        write_block(out, block, "2022", arrays_of(block, seed=i))
    for i, block in enumerate(blocks):
        expected, got = arrays_of(block, seed=i), read_block(out, block, "2022")
        assert got.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])
            assert got[name].dtype == expected[name].dtype
            assert array_sha256(got[name]) == array_sha256(expected[name])


def test_only_the_arrays_and_chunks_that_are_wanted_are_read(made: Any) -> None:
    out, plan = made
    block = next(iter(plan.zones.values())).blocks[0].block
    for seed, period in enumerate(("2021", "2022")):
        write_block(out, block, period, arrays_of(block, seed=seed))
    for path in shard_paths(out, block, "2021")[1:3]:  # presence and sd_over_dates: not looked at
        path.unlink()
    chunks = list(block.chunks())[1:3]
    found = [read_block(out, block, period, ["n_obs", "count"], chunks=chunks) for period in ("2022", "2021")]
    for arrays, seed in zip(found, (1, 0), strict=True):
        assert list(arrays) == ["n_obs", "count"]
        inside = np.zeros(block.window.shape, bool)
        for chunk in chunks:
            inside[chunk.slices(block.window)] = True
        expected = arrays_of(block, seed=seed)
        np.testing.assert_array_equal(arrays["count"], np.where(inside, expected["count"], np.nan))
        np.testing.assert_array_equal(arrays["n_obs"], np.where(inside, expected["n_obs"], 0))


def test_a_missing_block_is_not_an_empty_one(made: Any) -> None:
    out, plan = made
    block = next(iter(plan.zones.values())).blocks[0].block
    with pytest.raises(VerificationFailed, match=f"{block.id}.*2021"):
        read_block(out, block, "2021")
    empty = {name: np.full_like(values, np.nan) for name, values in arrays_of(block).items() if name != "n_obs"}
    write_block(out, block, "2021", empty | {"n_obs": np.zeros(block.window.shape, np.uint16)})
    assert all(path.is_file() for path in shard_paths(out, block, "2021"))  # empty chunks are written
    assert np.isnan(read_block(out, block, "2021")["count"]).all()


def test_every_flipped_bit_is_noticed(made: Any) -> None:
    out, plan = made
    block = next(iter(plan.zones.values())).blocks[0].block
    write_block(out, block, "2021", arrays_of(block))
    rng = np.random.default_rng(0)
    for path in shard_paths(out, block, "2021"):
        good = path.read_bytes()
        for at in rng.integers(0, len(good) * 8, 12):
            bad = bytearray(good)
            bad[at // 8] ^= 1 << (at % 8)
            path.write_bytes(bad)
            with pytest.raises(VerificationFailed, match=f"{block.id}.*2021"):
                read_block(out, block, "2021")
        path.write_bytes(good)
    read_block(out, block, "2021")


@pytest.mark.parametrize("error", [AttributeError, TypeError, KeyError])
def test_a_mistake_of_ours_is_not_taken_for_a_damaged_shard(
    made: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    out, plan = made
    block = next(iter(plan.zones.values())).blocks[0].block
    write_block(out, block, "2021", arrays_of(block))
    monkeypatch.setattr("subpixmap.mapping.store.decode_chunks", raising(error))
    with pytest.raises(error):
        read_block(out, block, "2021")


def test_a_damaged_block_can_be_made_again(made: Any) -> None:
    """Zarr reads the index at the end of a shard before it writes the shard."""
    out, plan = made
    block = next(iter(plan.zones.values())).blocks[0].block
    write_block(out, block, "2021", arrays_of(block))
    paths = shard_paths(out, block, "2021")
    good = [path.read_bytes() for path in paths]
    for path, data in zip(paths, good, strict=True):
        path.write_bytes(data[:-10] + bytes([data[-10] ^ 1]) + data[-9:])
    write_block(out, block, "2021", arrays_of(block))
    assert [path.read_bytes() for path in paths] == good


@affine_star
def test_xarray_opens_it_without_a_warning(made: Any) -> None:
    import rioxarray  # noqa: F401

    out, plan = made
    ((epsg, zone),) = plan.zones.items()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Use `@` matmul")
        there = xr.open_zarr(out / "map.zarr", group=str(epsg), decode_coords="all")
        assert there.rio.crs.to_epsg() == epsg
    assert there["count"].dims == ("object", "period", "y", "x")
    assert there["n_obs"].dims == ("period", "y", "x")
    kinds = {"count": "f", "presence": "f", "sd_over_dates": "f", "n_obs": "u", "region": "b"}
    assert {name: there[name].dtype.kind for name in there.data_vars} == kinds
    assert there["object"].values.tolist() == ["coconut", "car"]
    assert there["period"].values.tolist() == ["2021", "2022"]
    assert there.rio.transform() == zone.lattice.transform(zone.extent)
    assert np.isnan(there["count"][0, 0, :9, :9]).all()
    block = zone.blocks[0].block
    write_block(out, block, "2022", arrays_of(block))
    at = block.window.slices(zone.extent)
    for name, expected in arrays_of(block).items():  # decoded by its attributes alone
        np.testing.assert_array_equal(there[name].sel(period="2022")[..., *at], expected)


def test_one_shard_is_one_block_and_period(made: Any) -> None:
    out, _ = made
    count, n_obs = (zarr.open_array((out / MAP), path=f"32651/{name}", mode="r") for name in ("count", "n_obs"))
    assert count.shards == (2, 1, 512, 512)
    assert count.chunks == (1, 1, 256, 256)
    assert n_obs.shards == (1, 512, 512)
    meta = json.loads(((out / MAP) / "32651" / "count" / "zarr.json").read_text())
    inner = meta["codecs"][0]["configuration"]
    assert [one["name"] for one in inner["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert inner["index_codecs"][-1]["name"] == "crc32c"


def test_open_map_shows_only_what_the_ledger_knows(made: Any) -> None:
    out, plan = made
    (zone,) = plan.zones.values()
    done, torn, *_ = (one.block for one in zone.blocks)
    commit(out, plan, done, "2022", arrays_of(done))
    write_block(out, torn, "2022", arrays_of(torn))  # written, but never committed
    shard_paths(out, torn, "2022")[0].write_bytes(b"half a shard")
    (dataset,) = open_map(out).values()
    assert dataset["count"].chunks[2][0] == 512  # type: ignore[index]
    seen = dataset["n_obs"].sel(period="2022").values
    np.testing.assert_array_equal(seen[done.window.slices(zone.extent)], arrays_of(done)["n_obs"])
    assert seen.sum() == arrays_of(done)["n_obs"].sum()
    shown = dataset["count"].sel(period="2022")
    np.testing.assert_array_equal(shown[:, *done.window.slices(zone.extent)], arrays_of(done)["count"])
    assert np.isnan(shown[:, *torn.window.slices(zone.extent)]).all()
    assert np.isnan(dataset["count"].sel(period="2021")).all()
    assert dataset.attrs["evidence"] == "simulated"


def test_periods_are_appended_and_shown_in_order(country: Tiny, tmp_path: Path) -> None:
    write_lock(tmp_path / "items.parquet", country.items)
    late = write_plan(tmp_path, country.years("2022").plan(block=512))
    create_map(tmp_path, late)
    block = next(iter(late.zones.values())).blocks[0].block
    commit(tmp_path, late, block, "2022", arrays_of(block))
    plan = write_plan(tmp_path, country.years("2021").plan(block=512))
    create_map(tmp_path, plan)
    commit(tmp_path, plan, block, "2021", arrays_of(block, seed=1))
    np.testing.assert_array_equal(read_block(tmp_path, block, "2022")["n_obs"], arrays_of(block)["n_obs"])
    stored = xr.open_zarr(tmp_path / "map.zarr", group="32651", decode_coords="all")
    assert stored["period"].values.tolist() == ["2022", "2021"]
    (dataset,) = open_map(tmp_path).values()
    assert dataset["period"].values.tolist() == ["2021", "2022"]
    rows, cols = block.window.slices(next(iter(plan.zones.values())).extent)
    np.testing.assert_array_equal(dataset["n_obs"].values[0, rows, cols], arrays_of(block, seed=1)["n_obs"])


def test_creating_again_changes_nothing_and_mends_a_half_made_extension(country: Tiny, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, country.years("2021").plan(block=512))
    create_map(tmp_path, plan)
    files = {path: path.read_bytes() for path in (tmp_path / MAP).rglob("*") if path.is_file()}
    left_over = (tmp_path / MAP) / "32651" / "count" / f"c.{'a' * 32}.partial"
    left_over.write_bytes(b"torn")
    create_map(tmp_path, plan)
    assert {path: path.read_bytes() for path in (tmp_path / MAP).rglob("*") if path.is_file()} == files
    count, period = (zarr.open_array((tmp_path / MAP), path=f"32651/{name}", mode="r+") for name in ("count", "period"))
    count.resize((2, 2, *count.shape[2:]))  # a run that was killed while it extended
    period.resize((2,))
    plan = write_plan(tmp_path, country.plan(block=512))
    create_map(tmp_path, plan)
    (dataset,) = open_map(tmp_path).values()
    assert dataset["period"].values.tolist() == ["2021", "2022"]
    assert dataset["n_obs"].shape[0] == dataset["count"].shape[1] == 2


def test_half_a_block_is_refused(made: Any) -> None:
    out, plan = made
    block = next(iter(plan.zones.values())).blocks[0].block
    arrays = arrays_of(block)
    with pytest.raises(ValueError, match=r"count.*256"):
        write_block(out, block, "2021", arrays | {"count": arrays["count"][:, :256]})
    with pytest.raises(VerificationFailed, match="1999"):
        write_block(out, block, "1999", arrays)
