"""A run whose folder was taken over stops before its next commit, in this process and in workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from subpixmap.errors import Incomplete
from subpixmap.mapping.manifest import MAPPING, announce, write_manifest
from subpixmap.mapping.owner import FolderLost
from subpixmap.mapping.run import RunProgress, map_region
from subpixmap.mapping.verify import verify
from subpixmap.runpaths import LEDGER, LOCK, MAP
from tests.helpers.mapping_data import Tiny, hashes, tiny


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("scenes"), dates=1, years="2021")


def taken(out: Path) -> None:
    raw = json.loads((out / LOCK).read_text())
    (out / LOCK).write_text(json.dumps(raw | {"token": "another", "host": "elsewhere"}))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_owner_that_lost_its_folder_stops_before_the_next_commit(
    country: Tiny, tmp_path: Path, workers: int
) -> None:
    def lose(now: RunProgress) -> None:
        if now.done == 1:
            taken(tmp_path)

    with pytest.raises(FolderLost, match=r"taken over by another run.*elsewhere"):
        map_region(tmp_path, country.plan(), country.items, country.model, workers=workers, progress=lose)
    assert len(list((tmp_path / LEDGER).iterdir())) == 1
    assert json.loads((tmp_path / LOCK).read_text())["token"] == "another"  # what is not ours is not removed
    shards = [path for path in (tmp_path / MAP / "32651" / "count" / "c").rglob("*") if path.is_file()]
    assert len(shards) == 1
    (tmp_path / LOCK).unlink()
    map_region(tmp_path, country.plan(), country.items, country.model, workers=0)
    whole = tmp_path / "whole"
    map_region(whole, country.plan(), country.items, country.model, workers=0)
    assert hashes(tmp_path) == hashes(whole)


def test_the_manifest_is_not_written_by_who_lost_the_folder(country: Tiny, tmp_path: Path) -> None:
    from subpixmap.mapping.owner import run_lock

    map_region(tmp_path, country.plan(block=512), country.items, country.model, workers=0)
    with run_lock(tmp_path):
        write_manifest(tmp_path)
        taken(tmp_path)
        for write in (lambda: write_manifest(tmp_path), lambda: announce(tmp_path, MAPPING)):
            with pytest.raises(FolderLost):
                write()
    (tmp_path / LOCK).unlink()
    verify(tmp_path).require_sound()


def test_a_live_run_is_not_called_damaged(country: Tiny, tmp_path: Path) -> None:
    map_region(tmp_path, country.plan(block=512), country.items, country.model, workers=0)
    (tmp_path / LOCK).write_text(
        json.dumps({"host": "elsewhere", "pid": 5, "born": "1", "since": 1.0, "token": "t", "system": "another"})
    )
    with pytest.raises(Incomplete, match=r"running \(process 5 on elsewhere"):
        verify(tmp_path)


def test_what_was_interrupted_is_unfinished_and_not_damaged(country: Tiny, tmp_path: Path) -> None:
    def state(out: Any) -> tuple[list[str], bool]:
        found = verify(out)
        return [one.what for one in found.damaged], bool(found.unfinished)

    map_region(tmp_path, country.plan(block=512), country.items, country.model, workers=0)
    assert state(tmp_path) == ([], True)  # mapped, and nothing vouches for the metadata: ended before its end
    with pytest.raises(Incomplete, match="to finish it"):
        verify(tmp_path).require_sound()
    (tmp_path / "counts.csv").write_text("unit_id\n")
    assert state(tmp_path) == (["manifest.json"], False)
    write_manifest(tmp_path)
    assert state(tmp_path) == ([], False)
    announce(tmp_path, ["counts.csv", "ledger"])
    (tmp_path / "counts.csv").write_text("unit_")
    assert state(tmp_path) == ([], True)
    (tmp_path / "items.parquet").write_bytes((tmp_path / "items.parquet").read_bytes() + b"x")
    assert state(tmp_path)[0] == ["items.parquet"]


def test_a_verb_vouches_only_for_what_it_wrote(country: Tiny, tmp_path: Path) -> None:
    map_region(tmp_path, country.plan(block=512), country.items, country.model, workers=0)
    for name in ("counts.csv", "counts.parquet", "trend.csv", "trend.parquet", "report.html", "mine.txt"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    (tmp_path / "mine.txt").write_text("changed")  # a user's own file
    (tmp_path / "report.html").write_text("<script>")
    (tmp_path / "trend.csv").unlink()
    (tmp_path / "counts.csv").write_text("new counts")
    write_manifest(tmp_path, ["counts.csv"])
    assert {one.what: one.reason.split()[0] for one in verify(tmp_path).damaged} == {
        "report.html": "differs",
        "trend.csv": "is",
    }


def test_what_is_made_of_former_tables_is_stale(country: Tiny, tmp_path: Path) -> None:
    map_region(tmp_path, country.plan(block=512), country.items, country.model, workers=0)
    for name in ("counts.parquet", "series.parquet", "trend.parquet", "report.html"):
        (tmp_path / name).write_text(name)
    stale = write_manifest(tmp_path).stale
    assert stale() == {}
    (tmp_path / "counts.parquet").write_text("in other units")
    found = write_manifest(tmp_path, ["counts.parquet"])
    assert list(found.stale()) == ["trend.parquet", "report.html"]
    assert {one.what for one in verify(tmp_path).damaged} == {"trend.parquet", "report.html"}
    assert list(write_manifest(tmp_path, ["report.html"]).stale()) == ["trend.parquet", "report.html"]
    (tmp_path / "trend.parquet").write_text("of other units")
    assert list(write_manifest(tmp_path, ["trend.parquet"]).stale()) == ["report.html"]
    assert list(write_manifest(tmp_path, ["report.html"]).stale()) == []
    record = next((tmp_path / LEDGER).glob("*.json"))
    record.unlink()
    assert "the map has changed" in write_manifest(tmp_path, MAPPING).stale()["counts.parquet"]
