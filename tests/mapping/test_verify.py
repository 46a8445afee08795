"""Status from the folder alone; every flipped bit of every artefact is found, named and repaired."""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from subpixmap.errors import InputError, VerificationFailed
from subpixmap.mapping.ledger import Failure, record_path, write_failure
from subpixmap.mapping.manifest import MAPPING, write_manifest
from subpixmap.mapping.metadata import metadata_files
from subpixmap.mapping.owner import run_lock
from subpixmap.mapping.plan import write_plan
from subpixmap.mapping.run import map_region
from subpixmap.mapping.schema import ARRAYS
from subpixmap.mapping.verify import status, take_back, verify
from subpixmap.scenes.items import write_lock
from tests.helpers.mapping_data import Tiny, hashes, tiny


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("scenes"), dates=1)


@pytest.fixture(scope="module")
def finished(country: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("run")
    map_region(out, country.plan(block=512), country.items, country.model, workers=0)
    write_lock(out / "items.parquet", country.items)
    (out / "counts.csv").write_text("unit_id,object,map_total\n1,car,2.5\n")
    (out / "run.log").write_text("anything\n")
    write_manifest(out)
    return out


@pytest.fixture
def copy(finished: Any, tmp_path: Path) -> Any:
    return shutil.copytree(finished, tmp_path / "run")


def flip(path: Any, at: Any) -> None:
    data = bytearray(path.read_bytes())
    data[at // 8] ^= 1 << (at % 8)
    path.write_bytes(data)


def test_a_sound_run_is_sound(finished: Any) -> None:
    found = verify(finished)
    assert found.damaged == ()
    assert (found.blocks, found.missing) == (8, 0)
    assert found.files > 10
    found.require_sound()


def artefacts(out: Any) -> Any:
    """Kinds of files, with what a report must name."""
    shards = [p for name in ARRAYS for p in out.glob(f"map.zarr/*/{name}/c/**/*") if p.is_file()]
    assert len(shards) == 8 * 4
    return {
        "map": shards,
        "metadata": metadata_files(out),  # with the mask of the region
        "ledger": sorted(out.glob("ledger/*.json")),
        "lock": [out / "items.parquet"],
        "plan": [out / "plan.json"],
        "table": [out / "counts.csv"],
        "manifest": [out / "manifest.json"],
    }


def find_flips(out: Any, kind: Any, n: Any, seed: Any) -> Any:
    """Flip one bit, verify, flip it back; how many of n were found and named."""
    rng, found = random.Random(seed), 0
    for _ in range(n):
        path = rng.choice(artefacts(out)[kind])
        at = rng.randrange(path.stat().st_size * 8)
        flip(path, at)
        try:
            damaged = verify(out).damaged
            told = " ".join(map(str, damaged))
        except VerificationFailed as error:
            told = str(error)
        block = path.stem.split("_")[0] if kind == "ledger" else ""
        found += bool(told) and (kind == "map" or path.name in told or block in told)
        flip(path, at)
    assert not verify(out).damaged
    return found


@pytest.mark.parametrize("kind", ["map", "metadata", "ledger", "lock", "plan", "table", "manifest"])
def test_every_flipped_bit_is_found(copy: Any, kind: str) -> None:
    assert find_flips(copy, kind, 4, 0) == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["map", "metadata", "ledger", "lock", "plan", "table", "manifest"])
def test_200_of_200_flipped_bits_are_found(copy: Any, kind: str) -> None:
    assert find_flips(copy, kind, 200, 1) == 200


def test_what_was_removed_or_swapped_is_found(copy: Any) -> None:
    records = sorted(copy.glob("ledger/*.json"))
    shards = sorted(p for p in copy.rglob("map.zarr/32651/count/c/0/*/*/*") if p.is_file())
    shards[0].unlink()
    assert records[0].name.split("_")[0] in str(verify(copy).damaged[0])
    shutil.copy(shards[1], shards[0])  # a sound shard in the wrong place: only the ledger can tell
    (swapped,) = verify(copy).damaged
    assert "count" in swapped.reason
    records[0].unlink()
    found = verify(copy)
    assert found.missing == 1
    assert any(d.what == "ledger" for d in found.damaged)
    (copy / "counts.csv").unlink()
    assert any(d.what == "counts.csv" for d in verify(copy).damaged)
    with pytest.raises(VerificationFailed, match=r"counts\.csv"):
        verify(copy).require_sound()


def test_repair_makes_damaged_blocks_again(country: Tiny, copy: Any) -> None:
    expected = hashes(copy)
    shards = artefacts(copy)["map"]
    flip(shards[5], 3000)
    flip(sorted(copy.glob("ledger/*.json"))[0], 500)
    found = verify(copy)
    keys = take_back(copy, found.damaged)
    assert len(keys) == 2
    summary = map_region(copy, country.plan(block=512), country.items, country.model, workers=0)
    assert summary.done == 2
    write_manifest(copy)
    verify(copy).require_sound()
    assert hashes(copy) == expected


def test_repair_writes_metadata_anew_and_keeps_the_shards(country: Tiny, copy: Any) -> None:
    expected = hashes(copy)
    for name in ("count/zarr.json", "zarr.json", "x/c/0"):
        (copy / "map.zarr" / "32651" / name).write_bytes(b"garbage")
        assert any(d.what == f"map.zarr/32651/{name}" for d in verify(copy).damaged)
        assert take_back(copy, verify(copy).damaged) == []
        assert map_region(copy, country.plan(block=512), country.items, country.model, workers=0).done == 0
        write_manifest(copy, MAPPING)
        assert hashes(copy) == expected
        assert not [d for d in verify(copy).damaged if d.what != "ledger"]


def test_a_run_on_damaged_metadata_is_refused(country: Tiny, copy: Any) -> None:
    (copy / "map.zarr" / "32651" / "count" / "zarr.json").write_bytes(b"{}")
    with pytest.raises(VerificationFailed, match=r"map\.zarr"):
        map_region(copy, country.plan(block=512), country.items, country.model, workers=0)


def test_status_tells_what_is_done_and_what_failed(copy: Any) -> None:
    assert (status(copy).done, status(copy).total, status(copy).failed) == (8, 8, ())
    assert status(copy).seconds_left == 0
    path = sorted(copy.glob("ledger/*_2022.json"))[0]
    key = path.stem.rsplit("_", 1)
    path.unlink()
    write_failure(copy, Failure(key[0], key[1], "B08.tif could not be read"))
    now = status(copy)
    assert (now.done, now.by_period) == (7, {"2021": (4, 4), "2022": (3, 4)})
    assert [f.reason for f in now.failed] == ["B08.tif could not be read"]
    assert now.owner is None
    assert now.seconds_left == float("inf")
    with run_lock(copy):
        now_s = time.time()  # said outright: a file system's own clock may lag behind the lock's by some milliseconds
        os.utime(record_path(copy, key[0], "2021"), (now_s, now_s))
        live = status(copy)
        assert live.owner is not None
        assert live.owner.pid == os.getpid()
        assert live.rate > 0
        assert live.seconds_left < float("inf")
    with pytest.raises(InputError, match=r"plan\.json"):
        status(copy / "map.zarr")


def test_status_of_a_run_that_has_just_started(country: Tiny, tmp_path: Path) -> None:
    write_plan(tmp_path, country.plan())
    with run_lock(tmp_path):
        now = status(tmp_path)
    assert (now.done, now.rate, now.seconds_left) == (0, 0.0, float("inf"))
    assert now.owner is not None
    assert now.owner.pid == os.getpid()
