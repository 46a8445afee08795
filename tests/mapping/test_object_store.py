"""A run whose folder lies in an object store: the same bits as on a disk, whatever upload fails, whoever is killed."""

import itertools
import multiprocessing
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import dask
import pytest

from tests.helpers import map_once
from tests.helpers.mapping_data import HOLD, Tiny, hashes, tiny

pytest.importorskip("s3fs")
pytest.importorskip("moto")

from subpixmap.errors import Incomplete, InputError, Refused
from subpixmap.files import files_under, is_remote, make_folder, modified, path_of, read_many, touch, write_new
from subpixmap.mapping import run
from subpixmap.mapping.ledger import read_records, record_path
from subpixmap.mapping.manifest import write_manifest
from subpixmap.mapping.owner import STALE_S, read_owner, run_lock
from subpixmap.mapping.run import BlocksFailed, map_region
from subpixmap.mapping.store import open_map
from subpixmap.mapping.verify import status, take_back, verify
from subpixmap.runpaths import LOCK
from tests.helpers import s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    settings = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something", "AWS_DEFAULT_REGION": "us-east-1"}
    with s3_server.serve() as (address, uploads), pytest.MonkeyPatch.context() as patch:
        for name, value in (settings | {"AWS_ENDPOINT_URL_S3": address}).items():
            patch.setenv(name, value)
        cast(Any, path_of("s3://runs")).fs.mkdir("runs")
        yield uploads


@pytest.fixture
def out(server: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A folder of its own for each test."""
    server.reset()
    yield path_of(f"s3://runs/{abs(hash(request.node.nodeid))}")
    server.reset()


def owner_pid(out: Any) -> int:
    owner = read_owner(out / LOCK)
    assert owner is not None
    return owner.pid


@pytest.fixture(scope="module")
def tiny_country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("scenes")
    return tiny(folder, dates=1, size_px=300, region_px=(100, 300))


@pytest.fixture(scope="module")
def truth(tiny_country: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("run")
    map_region(folder, tiny_country.plan(), tiny_country.items, tiny_country.model, workers=0)
    return folder


def test_a_run_in_an_object_store_has_the_bits_of_one_on_a_disk(out: Any, tiny_country: Tiny, truth: Any) -> None:
    early, late = tiny_country.years("2021"), tiny_country.years("2022")
    map_region(out, early.plan(), early.items, tiny_country.model, workers=0)
    summary = map_region(str(out), late.plan(), tiny_country.items, tiny_country.model, workers=0)  # extended
    assert (summary.earlier, summary.done) == (2, 2)
    assert hashes(out) == hashes(truth)
    local, remote = read_records(truth), read_records(out)
    assert {key: one.to_json() for key, one in local.items()} == {key: one.to_json() for key, one in remote.items()}
    (one,), (other,) = open_map(out).values(), open_map(truth).values()
    assert one.equals(other)
    assert status(out).done == status(out).total == 4
    names = {path.relative_to(out).as_posix() for path in files_under(out)}
    assert names == {path.relative_to(truth).as_posix() for path in files_under(truth)}
    assert not any(LOCK in name for name in names)


@pytest.fixture
def fresh_processes(server: Any) -> Iterator[Any]:
    """Processes that see the server in their environment; those forked from one of an earlier test would not."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}):
        yield multiprocessing.get_context("spawn")


@pytest.mark.slow
def test_worker_processes_write_to_it_too(out: Any, tiny_country: Tiny, truth: Any, fresh_processes: Any) -> None:
    map_region(out, tiny_country.plan(), tiny_country.items, tiny_country.model, workers=1)
    assert hashes(out) == hashes(truth)


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_repaired(out: Any, tiny_country: Tiny, truth: Any) -> None:
    map_region(out, tiny_country.plan(), tiny_country.items, tiny_country.model, workers=0)
    write_manifest(out)
    verify(out).require_sound()
    rng = random.Random(0)
    records, shards = sorted(out.glob("ledger/*.json")), _shards(out)
    assert (len(records), len(shards)) == (4, 4)
    for path in (records[0], shards[-1]):  # of different blocks
        data = path.read_bytes()
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
    told = " ".join(map(str, verify(out).damaged))
    assert records[0].name in told
    assert str(shards[-1]) in told
    assert len(take_back(out, verify(out).damaged)) == 2
    assert map_region(out, tiny_country.plan(), tiny_country.items, tiny_country.model, workers=0).done == 2
    assert hashes(out) == hashes(truth)


def _shards(out: Any) -> Any:
    return [path for path in files_under(out / "map.zarr") if "/c/0/" in str(path) and "/count/" in str(path)]


def fail_uploads(server: Any, out: Any, tiny_country: Tiny, expected: Any, numbers: Any) -> Any:
    """Refuse all uploads from the n-th on, as when the rights are withdrawn; until none fails. How many runs failed."""
    failed = 0
    for n in numbers:
        place = out / str(n)
        server.reset(refused=lambda i, n=n: i >= n)
        try:
            map_region(place, tiny_country.plan(), tiny_country.items, tiny_country.model, workers=0, attempts=1)
            break
        except (BlocksFailed, Incomplete, InputError):
            failed += 1
        server.reset()
        there = hashes(place) if (place / "plan.json").is_file() else {}
        assert there.items() <= expected.items()
        map_region(place, tiny_country.plan(), tiny_country.items, tiny_country.model, workers=0)
        assert hashes(place) == expected
        assert not verify(place).damaged
    return failed


@pytest.mark.slow
def test_when_uploads_fail_what_is_committed_is_right(
    server: Any, out: Any, tiny_country: Tiny, truth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_PAUSE_S", 0.0)
    early = tiny_country.years("2021")
    map_region(out / "undisturbed", early.plan(), early.items, tiny_country.model, workers=0)
    # The last upload is the last block's record. A place before it, the arrays of that block are not all there.
    assert fail_uploads(server, out, early, of_2021(truth), (server.n, server.n - 3)) == 2


@pytest.mark.slow
def test_every_fourth_upload_that_fails(
    server: Any, out: Any, tiny_country: Tiny, truth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_PAUSE_S", 0.0)
    assert fail_uploads(server, out, tiny_country.years("2021"), of_2021(truth), itertools.count(1, 4)) > 6


def of_2021(out: Any) -> Any:
    return {key: value for key, value in hashes(out).items() if key[1] == "2021"}


def test_data_without_a_record_is_not_done(server: Any, out: Any, tiny_country: Tiny, truth: Any) -> None:
    """The record is the last of a block's uploads: without it the block is made again."""
    early = tiny_country.years("2021")
    map_region(out, early.plan(), early.items, tiny_country.model, workers=0)
    key = sorted(read_records(out))[0]
    record_path(out, *key).unlink()
    assert status(out).done == 1
    (dataset,) = open_map(out).values()
    assert int((dataset["n_obs"] > 0).sum()) < int((next(iter(open_map(truth).values()))["n_obs"][:1] > 0).sum())
    assert map_region(out, early.plan(), early.items, tiny_country.model, workers=0).done == 1
    assert hashes(out) == of_2021(truth)


@pytest.mark.slow
def test_lost_answers_do_not_matter(server: Any, out: Any, tiny_country: Tiny, truth: Any) -> None:
    """The store took the upload, its answer was lost, and the library uploads again."""
    early = tiny_country.years("2021")
    server.reset(answer_lost=lambda n: n % 7 in (2, 3))
    map_region(out, early.plan(), early.items, tiny_country.model, workers=0)
    assert server.n > 30
    assert hashes(out) == of_2021(truth)


def test_the_lock_of_a_lost_answer_is_our_own(server: Any, out: Any) -> None:
    server.reset(answer_lost=lambda n: n % 2 == 1)
    with run_lock(out):
        assert owner_pid(out) == os.getpid()
    assert server.n >= 4
    assert not files_under(out)


@pytest.mark.slow
def test_a_killed_driver_resumes_to_the_same_bits(
    out: Any, tmp_path: Path, tiny_country: Tiny, truth: Any, fresh_processes: Any
) -> None:
    (tmp_path / "country.pickle").write_bytes(pickle.dumps((tiny_country, {})))
    for seconds in (2.0,):
        ready = fresh_processes.Event()
        process = fresh_processes.Process(target=map_once.main, args=(tmp_path, str(out), ready))
        process.start()
        assert ready.wait(120)
        process.join(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert hashes(out).items() <= hashes(truth).items() if (out / "plan.json").is_file() else True
    map_region(out, tiny_country.plan(), tiny_country.items, tiny_country.model, workers=0)
    assert hashes(out) == hashes(truth)
    assert not verify(out).damaged


def test_of_many_at_once_exactly_one_goes_on_and_a_dead_owner_is_not_waited_for(out: Any) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(out), "600"], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        first = [process.stdout.readline() for process in processes if process.stdout]
        assert sorted(first) == ["held\n", "refused\n", "refused\n"]
        holder = processes[first.index("held\n")]
        with pytest.raises(Refused, match=str(holder.pid)), run_lock(out):
            pass
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with run_lock(out):
        assert owner_pid(out) == os.getpid()


def test_what_another_wrote_and_took_away_again_was_not_ours(out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def exists(*_: Any, **__: Any) -> None:
        raise FileExistsError

    monkeypatch.setattr(out.fs, "pipe_file", exists)
    with pytest.raises(FileExistsError):
        write_new(out / "claim", b"mine")


def test_an_owner_elsewhere_is_waited_for_until_its_heartbeat_stops(out: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from subpixmap.mapping import owner as runlock

    with run_lock(out):
        text = (out / LOCK).read_text().replace(socket.gethostname(), "another-host")
    write_new(out / LOCK, text.encode())
    with pytest.raises(Refused, match="another-host"), run_lock(out):
        pass
    monkeypatch.setattr(runlock, "STALE_S", -1.0)
    with run_lock(out):
        assert owner_pid(out) == os.getpid()
    assert STALE_S > 0


def test_what_cannot_be_reached_is_told_in_a_line(
    server: Any, monkeypatch: pytest.MonkeyPatch, tiny_country: Tiny
) -> None:
    with pytest.raises(InputError, match="s3://nowhere/run"):
        map_region("s3://nowhere/run", tiny_country.plan(), tiny_country.items, tiny_country.model, workers=0)
    with pytest.raises(InputError, match=r"s3://runs/none.*plan\.json"):
        status(path_of("s3://runs/none"))
    with pytest.raises(InputError, match=r"nosuch://x/y.*s3://"):
        path_of("nosuch://x/y")
    server.reset(refused=lambda n: True)
    with pytest.raises(InputError, match="s3://runs/refused"), run_lock(path_of("s3://runs/refused")):
        pass
    server.reset()


def test_paths(tmp_path: Path, out: Any) -> None:
    assert is_remote(out)
    assert not is_remote(path_of(tmp_path))
    assert path_of(f"file://{tmp_path}") == tmp_path
    from pathlib import Path

    assert str(path_of(Path("s3://runs/a"))) == str(path_of("s3://runs/a")) == "s3://runs/a"  # pathlib drops a slash
    for place in (tmp_path / "new", out):
        make_folder(place)
        write_new(place / "one", b"1")
        with pytest.raises(FileExistsError):
            write_new(place / "one", b"2")
        before = modified(place)["one"]
        touch(place / "one")
        assert modified(place)["one"] >= before
        assert [data for _, data in read_many([place / "one"])] == [b"1"]
        ((_, error),) = read_many([place / "none"])
        assert isinstance(error, FileNotFoundError)
        assert files_under(place) == [place / "one"]
    assert files_under(tmp_path / "nowhere") == []


@pytest.mark.slow
def test_the_commands_take_such_a_folder(
    out: Any,
    country: Path,
    stand_in: Path,
    subpixmap: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tables, report, status, verify and export, as on a disk."""
    options = ["--region", country / "region.geojson", "--years", "2020", "--source", country / "catalog.json"]
    options += ["--admin", country / "admin.parquet", "--model", stand_in, "--object", "coconut", "--workers", 0]
    for place in (tmp_path / "run", out):
        assert subpixmap("run", *options, "--out", place) == 0
    assert f"{out}/report.html" in capsys.readouterr().out
    for name in ("counts.csv", "counts.parquet", "items.parquet", "units.parquet", "accounts.json"):
        assert (out / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert subpixmap("verify", out) == 0
    assert (out / "run.log").read_text().count('"block done"') == status(out).done
    assert subpixmap("export", out, "--format", "csv") == 2
    assert "--to" in capsys.readouterr().err
    assert subpixmap("export", out, "--format", "gpkg", "--to", tmp_path / "export") == 0
    (out / "counts.csv").write_bytes(b"other")
    assert subpixmap("verify", out) == 5
