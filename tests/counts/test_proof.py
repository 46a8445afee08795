"""A block that is not what its record says, or a record that is not the lock's, gives no number anywhere."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subpixmap.counts.count import count_by_unit, count_run, write_counts
from subpixmap.errors import SubpixmapError, VerificationFailed
from subpixmap.export.formats import export_run
from subpixmap.mapping import manifest, proofs
from subpixmap.mapping.ledger import array_sha256, read_records, write_record
from subpixmap.mapping.owner import run_lock
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


def of_an_earlier_version(finished: Path, tmp_path: Path) -> Path:
    out = shutil.copytree(finished, tmp_path / "run")
    for record in read_records(out).values():
        write_record(out, replace(record, shard_sha256={}))
    return out


def hashed_arrays(out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many arrays a count has to hash by their values."""
    hashed = []

    def count_calls(values: Any) -> str:
        hashed.append(1)
        return array_sha256(values)

    with monkeypatch.context() as patch:
        patch.setattr(proofs, "array_sha256", count_calls)
        count_run(out)
    return len(hashed)


def notes(out: Path) -> list[Path]:
    return sorted((out / "ledger").glob("*.shards"))


def test_records_of_earlier_versions_are_proven_by_their_values_once(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = of_an_earlier_version(finished, tmp_path)
    records = {path: path.read_bytes() for path in (out / "ledger").glob("*.json")}
    sound = count_run(finished).table.drop(columns="geometry")
    assert hashed_arrays(out, monkeypatch) == 3 * len(records)  # not held: nothing may be written
    assert not notes(out)
    with run_lock(out):
        assert hashed_arrays(out, monkeypatch) == 3 * len(records)
    assert len(notes(out)) == len(records)
    assert hashed_arrays(out, monkeypatch) == 0
    assert count_run(out).table.drop(columns="geometry").equals(sound)
    assert records == {path: path.read_bytes() for path in records}
    manifest.write_manifest(out)
    verify(out).require_sound()


def test_a_note_of_other_values_or_with_a_flipped_bit_proves_nothing(finished: Path, tmp_path: Path) -> None:
    out = of_an_earlier_version(finished, tmp_path)
    with run_lock(out):
        count_run(out)
    block = mid(out)
    first, second = (notes(out)[[block.id in path.name and year in path.name for path in notes(out)].index(True)]
                     for year in ("2018", "2019"))  # fmt: skip
    a, b = (shard_paths(out, block, period)[0] for period in ("2018", "2019"))
    shard, note, other = a.read_bytes(), first.read_bytes(), second.read_bytes()
    a.write_bytes(b.read_bytes())
    raw = json.loads(note)
    raw["notes"]["count"]["file"] = json.loads(other)["notes"]["count"]["file"]
    for forged in (note, other, json.dumps(raw).encode(), b"", b"[]", b"{"):
        first.write_bytes(forged)
        with pytest.raises(VerificationFailed, match=rf"{block.id}, period 2018"):
            count_run(out)
    a.write_bytes(shard)
    count_run(out)
    with run_lock(out):
        count_run(out)
    assert first.read_bytes() == note  # made again


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
