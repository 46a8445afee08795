"""kill -9 of workers and drivers, I/O calls that fail, a full disk: the map ends with the same bits."""

import contextlib
import errno
import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from subpixmap.errors import Incomplete
from subpixmap.grid import Window
from subpixmap.mapping.run import map_region
from subpixmap.mapping.verify import status, verify
from subpixmap.model.checkpoint import load_model, save_model
from subpixmap.verbs.job import Job, freeze
from tests.helpers import map_once
from tests.helpers.mapping_data import hashes, region_of, tiny, tiny_model

OPTIONS = {"max_scenes": 7}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scenes")
    country = tiny(folder, dates=2)
    (folder / "country.pickle").write_bytes(pickle.dumps((country, OPTIONS)))
    return folder, country


@pytest.fixture(scope="module")
def truth(scenes: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("undisturbed")
    _, country = scenes
    map_region(out, country.plan(**OPTIONS), country.items, country.model, workers=0)
    return hashes(out)


def start_driver(context: Any, folder: Any, out: Any) -> Any:
    ready = context.Event()
    process = context.Process(target=map_once.main, args=(folder, out, ready))
    process.start()
    assert ready.wait(120)
    return process


def kill_drivers(context: Any, scenes: Any, truth: Any, out: Any, kills: Any, seed: Any, longest_s: Any) -> None:
    """Start, kill at a random moment, start again; then a run to the end."""
    folder, country = scenes
    rng, done = random.Random(seed), []
    for _ in range(kills):
        process = start_driver(context, folder, out)
        process.join(rng.uniform(0, longest_s))
        process.kill()
        process.join()
        done.append(status(out).done if (out / "plan.json").exists() else 0)
        assert done == sorted(done)  # what was committed stays
    map_region(out, country.plan(**OPTIONS), country.items, country.model, workers=0)
    assert hashes(out) == truth
    assert not verify(out).damaged
    assert not list(out.rglob("*.partial*"))


def test_a_killed_driver_resumes_to_the_same_bits(
    quick_processes: object, scenes: Any, truth: Any, tmp_path: Path
) -> None:
    kill_drivers(quick_processes, scenes, truth, tmp_path / "run", kills=2, seed=1, longest_s=1.5)


def test_what_killed_writers_left_half_written_is_swept(scenes: Any, truth: Any, tmp_path: Path) -> None:
    _, country = scenes
    map_region(tmp_path, country.plan(**OPTIONS), country.items, country.model, workers=0)
    record, chunk = next(tmp_path.glob("ledger/*.json")), next(tmp_path.glob("map.zarr/*/count/c/**/0"))
    record.with_name(f".{record.name}.123.partial").write_bytes(b"{")
    chunk.with_suffix(f".{uuid4().hex}.partial").write_bytes(b"half")
    map_region(tmp_path, country.plan(**OPTIONS), country.items, country.model, workers=0)
    assert not list(tmp_path.rglob("*.partial"))
    assert hashes(tmp_path) == truth


@pytest.mark.slow
def test_30_killed_drivers(quick_processes: object, scenes: Any, truth: Any, tmp_path: Path) -> None:
    for seed in range(10):
        kill_drivers(quick_processes, scenes, truth, tmp_path / str(seed), kills=3, seed=seed, longest_s=2.5)


def test_an_end_asked_for_by_the_system_is_resumed(tmp_path: Path, subpixmap: Callable[..., int]) -> None:
    """SIGTERM, as a cluster sends it when the time of a job is up: exit code 3, the lock given back, no bit lost."""
    path, out = tmp_path / "tiny.safetensors", tmp_path / "run"
    model = tiny_model()
    save_model(path, model.net, model.card)
    country = tiny(tmp_path / "scenes", dates=1, years="2021", region_px=(340, 430), model=load_model(str(path)))
    out.mkdir()
    freeze(Job(out, country.plan(), country.items, country.model))
    stop = threading.Event()

    def end() -> None:
        while not stop.is_set() and not list(out.glob("ledger/*.json")):
            stop.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    try:
        assert subpixmap("map", out, "--model", path, "--workers", 0) == 3
    finally:
        stop.set()
        thread.join()
    before = status(out)
    assert 0 < before.done < before.total
    assert before.owner is None
    assert subpixmap("map", out, "--model", path, "--workers", 0) == 0
    assert not verify(out).damaged
    map_region(tmp_path / "undisturbed", country.plan(), country.items, country.model, workers=0)
    assert hashes(out) == hashes(tmp_path / "undisturbed")
    events = [json.loads(line)["event"] for line in (out / "run.log").read_text().splitlines()]
    assert {"mapping", "block done", "Interrupted: SIGTERM", "mapped"} <= set(events)


def kill_workers(cluster: Any, client: Any, country: Any, truth: Any, out: Any, seed: Any, *, at_most: Any) -> Any:
    """Kill a random worker process, each time a moment after a block was done, while a map is made; how often."""
    kills: list[Any] = []
    rng, stop, moved = random.Random(seed), threading.Event(), threading.Event()

    def killer() -> None:
        moved.set()
        while len(kills) < at_most and not stop.is_set():
            if moved.wait(0.2):
                moved.clear()
                stop.wait(rng.uniform(0, 0.3))
                here = client.scheduler_info(n_workers=-1)["workers"]
                # One that is still starting is killed less often: Dask gives it up, and 15 s pass until it is replaced.
                nannies = [n for n in list(cluster.workers.values()) if n.worker_address in here or rng.random() < 0.05]
                pids = [nanny.pid for nanny in nannies if nanny.pid]
                if pids:
                    kills.append(rng.choice(pids))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(kills[-1], signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        options = {"client": client, "attempts": 10, "progress": lambda _: moved.set()}
        map_region(out, country.plan(**OPTIONS), country.items, country.model, **options)
    finally:
        stop.set()
        thread.join()
    assert hashes(out) == truth
    return len(kills)


@pytest.fixture(scope="module")
def workers(quick_processes: object) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


def test_killed_workers_cost_no_bit(scenes: Any, truth: Any, workers: Any, tmp_path: Path) -> None:
    assert kill_workers(*workers, scenes[1], truth, tmp_path, 3, at_most=2) == 2  # type: ignore[call-arg, misc]


@pytest.mark.slow
def test_100_killed_workers(workers: Any, tmp_path: Path) -> None:
    country, kills, run = tiny(tmp_path / "scenes", years="2019-2024", dates=1), 0, 0
    map_region(tmp_path / "undisturbed", country.plan(**OPTIONS), country.items, country.model, workers=0)
    truth = hashes(tmp_path / "undisturbed")
    while kills < 100:
        kills += kill_workers(*workers, country, truth, tmp_path / str(run), run, at_most=100 - kills)  # type: ignore[call-arg, misc]
        run += 1
        print(f"{kills} kills in {run} runs of {len(truth)} blocks, all bit-identical", flush=True)


def test_files_that_cannot_be_written_are_told_in_a_line(
    tmp_path: Path, country: Path, stand_in: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--region", country / "region.geojson", "--years", "2020", "--source", country / "catalog.json"]
    options += ["--admin", country / "admin.parquet", "--model", stand_in, "--workers", 0, "--quiet"]
    (tmp_path / "file").write_text("")
    assert subpixmap("run", *options, "--out", tmp_path / "file" / "run") == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'file'} is a file, not a folder; give another folder" in told
    (tmp_path / "run" / "counts.csv").mkdir(parents=True)
    assert subpixmap("run", *options, "--out", tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "counts.csv" in line
    (tmp_path / "run" / "counts.csv").rmdir()
    assert subpixmap("run", *options, "--out", tmp_path / "run") == 0


class Failing:
    """Lets the N-th call of fsync, replace or rename fail, and all calls after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: Any) -> None:
        self.left = nth
        for name in ("fsync", "replace", "rename"):
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
            return call(*args, **kwargs)

        return wrapped


def fail_io_calls(folder: Any, numbers: Any) -> Any:
    """For each number let that I/O call and all after it fail, then resume; how many runs failed."""
    country = tiny(folder / "scenes", dates=1, years="2021")
    (zone,) = country.plan().zones.values()
    first = zone.blocks[0].block.window
    country = replace(country, region=region_of(Window(first.row + 100, first.col + 100, 99, 99), zone.lattice))
    plan = country.plan()
    assert plan.n_tasks == 1
    map_region(folder / "undisturbed", plan, country.items, country.model, workers=0)
    expected, failures = hashes(folder / "undisturbed"), 0
    for nth in numbers:
        out = folder / str(nth)
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, nth)
            try:
                map_region(out, plan, country.items, country.model, workers=0)
            except Incomplete:
                failures += 1
            else:
                assert failing.left > 0  # the run needed fewer calls: all of them were tried
                return failures
        map_region(out, plan, country.items, country.model, workers=0)
        assert hashes(out) == expected
        assert not verify(out).damaged
    raise AssertionError("the run needs more calls than were tried")


def test_an_io_call_that_fails_is_resumed(tmp_path: Path) -> None:
    assert fail_io_calls(tmp_path, [1, 3, 19, 23, 40, 55, 70, 1000]) >= 3


@pytest.mark.slow
def test_the_nth_io_call_fails_for_every_n(tmp_path: Path) -> None:
    assert fail_io_calls(tmp_path, itertools.count(1)) > 20


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Any]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_room_resumes_it(scenes: Any, truth: Any, tiny_disk: Any) -> None:
    _, country = scenes
    with pytest.raises(Incomplete, match="No space left"):
        map_region(tiny_disk, country.plan(**OPTIONS), country.items, country.model, workers=0)
    before = status(tiny_disk)
    assert before.done < before.total
    subprocess.run(["mount", "-o", "remount,size=100m", str(tiny_disk)], check=True)
    summary = map_region(tiny_disk, country.plan(**OPTIONS), country.items, country.model, workers=0)
    assert summary.earlier == before.done
    assert hashes(tiny_disk) == truth
