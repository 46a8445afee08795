"""A block that is not what its record says, or a record that is not the lock's, gives no number anywhere."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subpixmap.counts.count import count_by_unit, count_run, write_counts
from subpixmap.errors import SubpixmapError, VerificationFailed
from subpixmap.export.formats import export_run
from subpixmap.mapping.ledger import read_records, write_record
from subpixmap.mapping.store import open_map, shard_paths
from subpixmap.mapping.verify import take_back, verify
from subpixmap.report.page import write_report
from subpixmap.runfolder import RunFolder
from subpixmap.trends.run_trend import trend_of_run, write_trend
from tests.helpers.run_folders import make_plan, make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proof") / "run"
    make_run(out, make_plan())
    write_counts(out, count_run(out))
    write_trend(out, trend_of_run(RunFolder.open(out)))
    return out


@pytest.fixture(params=["hashes of files", "hashes of values", "both"])
def copy(finished: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A finished run whose records are as those of this version, of earlier ones, or of both."""
    out = shutil.copytree(finished, tmp_path / "run")
    for i, record in enumerate(read_records(out).values()):
        assert record.shard_sha256
        if request.param == "hashes of values" or (request.param == "both" and i % 2):
            write_record(out, replace(record, shard_sha256={}))
    return out


def mid(out: Path) -> Any:
    """A block in the middle of the first zone."""
    zone = next(iter(RunFolder.open(out).plan.zones.values()))
    return zone.blocks[len(zone.blocks) // 2].block


NUMBERS: dict[str, Callable[[Path], object]] = {
    "count": count_run,
    "count of an opened map": lambda out: count_by_unit(open_map(out)),
    "an opened map": lambda out: [dataset.load() for dataset in open_map(out).values()],
    "report": write_report,
    "cog": lambda out: export_run(RunFolder.open(out), "cog"),
    "stac": lambda out: export_run(RunFolder.open(out), "stac"),
}


@pytest.mark.parametrize("number", NUMBERS)
def test_shards_of_two_periods_that_were_exchanged_are_not_counted(copy: Path, number: str) -> None:
    block = mid(copy)
    for a, b in zip(shard_paths(copy, block, "2018"), shard_paths(copy, block, "2019"), strict=True):
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)
    with pytest.raises(VerificationFailed, match=rf"{block.id}, period 201[89].*verify --repair"):
        NUMBERS[number](copy)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_record_of_other_items_is_not_counted(finished: Path, tmp_path: Path, number: str) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    block = mid(out)
    old = replace(read_records(out)[block.id, "2018"], items_sha256="0" * 64)  # as it was before a --refresh
    write_record(out, old)
    with pytest.raises(VerificationFailed, match=rf"{block.id}, period 2018: .*other items.*verify --repair"):
        NUMBERS[number](out)
    found = [one for one in verify(out).damaged if one.block is not None]
    assert [(one.block, "other items" in one.reason) for one in found] == [((block.id, "2018"), True)]


def test_each_array_that_is_read_is_proven(copy: Path) -> None:
    block = mid(copy)
    for name in ("count", "presence", "n_obs"):
        a, b = (
            next(path for path in shard_paths(copy, block, period) if name in path.parts) for period in ("2018", "2019")
        )
        content = a.read_bytes()
        a.write_bytes(b.read_bytes())
        with pytest.raises(VerificationFailed, match=rf"{name}.*{block.id}, period 2018"):
            count_run(copy)
        a.write_bytes(content)
    count_run(copy)


def test_the_same_values_in_another_encoding_count(finished: Path, tmp_path: Path) -> None:
    """The hash of the file is only the quick way: a map that was stored anew holds the same numbers."""
    out = shutil.copytree(finished, tmp_path / "run")
    for record in read_records(out).values():
        write_record(out, replace(record, shard_sha256=dict.fromkeys(record.shard_sha256, "0" * 64)))
    again, before = count_run(out).table, count_run(finished).table
    assert again.drop(columns="geometry").equals(before.drop(columns="geometry"))


def test_a_stray_shard_is_named_and_repaired(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "manifest.json").unlink(missing_ok=True)
    shard = shard_paths(out, mid(out), "2018")[0]
    stray = shard.with_name("999")
    shutil.copy(shard, stray)
    (out / "map.zarr" / "notes.txt").write_text("mine")
    (shard.parent / ".DS_Store").write_text("somebody's")
    damaged = [one for one in verify(out).damaged if one.what != "manifest.json"]
    assert [one.what for one in damaged] == [stray.relative_to(out).as_posix()]
    take_back(out, damaged)
    assert not stray.exists()
    assert (out / "map.zarr" / "notes.txt").exists()


def test_a_lost_lock_is_an_error_that_says_so(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "items.parquet").unlink()
    with pytest.raises(SubpixmapError, match=r"items\.parquet"):
        count_run(out)
    assert any(one.what == "items.parquet" for one in verify(out).damaged)
