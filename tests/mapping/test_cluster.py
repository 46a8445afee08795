"""Where tasks run: any scheduler by address or file, the model brought to every worker, clear words where it fails."""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from subpixmap.errors import Incomplete, InputError
from subpixmap.machine import cores, usual_workers
from subpixmap.mapping import cluster
from subpixmap.mapping.pool import WorkerDied, _bring, open_pool, run_with_cached_model
from subpixmap.model.checkpoint import load_model, save_model
from subpixmap.verbs.job import Job, freeze
from tests.helpers.mapping_data import tiny, tiny_model


def where_and_what(task: Any, model: Any) -> Any:
    """A task: its argument, the process that did it, and the model's hash."""
    if task == "fail":
        raise ValueError("a bad task")
    return task, os.getpid(), model.sha256


def results(pool: Any, tasks: Any) -> Any:
    for task in tasks:
        pool.submit(task)
    found: dict[Any, Any] = {}
    while len(found) < len(tasks):
        if event := pool.wait(30.0):
            found[event[0]] = event[1]
    return found


def test_in_process() -> None:
    model = tiny_model()
    with open_pool(where_and_what, model, workers=0) as pool:
        assert pool.wait(0.0) is None
        found = results(pool, ["a", "fail", "b"])
    assert found["a"] == ("a", os.getpid(), model.sha256)
    assert isinstance(found["fail"], ValueError)


def troublesome(task: Any, model: Any) -> Any:
    """A task that never ends, one that eats memory, and good ones."""
    if task == "hang":
        time.sleep(1000)
    if task == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(os.urandom(1)) * 20_000_000)
            time.sleep(0.01)
    return task


def test_tasks_that_hang_or_eat_memory_lose_their_worker_and_the_others_go_on(quick_processes: object) -> None:
    options: dict[str, Any] = {"workers": 2, "memory_limit": "1600MB", "limit_s": 4.0}
    with open_pool(troublesome, tiny_model(), **options) as pool:
        found = results(pool, ["hang", "a", "eat", "b", "c"])
    assert {key: found[key] for key in "abc"} == {key: key for key in "abc"}
    for key in ("hang", "eat"):
        assert isinstance(found[key], WorkerDied)
        assert found[key].deaths == 1
    assert re.search("4 s.*--block", str(found["hang"]))


class DeadlyModel:
    """Kills the process that unpickles it, the first few times."""

    sha256 = "deadly"

    def __init__(self, marks: Any, deaths: Any) -> None:
        self.marks, self.deaths = marks, deaths

    def __setstate__(self, state: Any) -> None:
        self.__dict__ = state
        for i in range(self.deaths):
            with contextlib.suppress(FileExistsError):
                (self.marks / str(i)).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_while_it_is_brought_the_model_costs_nothing(
    tmp_path: Path, quick_processes: object
) -> None:
    from distributed import Client, LocalCluster

    quiet = {"dashboard_address": ":0", "silence_logs": 50}
    with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as local, Client(local) as client:
        with open_pool(where_and_what, cast(Any, DeadlyModel(tmp_path, 2)), client=client) as pool:
            found = results(pool, ["a", "b", "c", "d"])
    assert len(list(tmp_path.iterdir())) == 2
    assert {key: value[0] for key, value in found.items()} == {key: key for key in "abcd"}


def test_a_worker_that_its_cluster_gives_up_is_replaced(quick_processes: object) -> None:
    """Dask closes what has not come back after a while, and starts no other: without workers a run waits for ever."""
    import dask
    from distributed import Client, LocalCluster

    impatient = dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"})
    quiet = {"dashboard_address": ":0", "silence_logs": 50}
    with impatient, LocalCluster(n_workers=1, threads_per_worker=1, **quiet) as local, Client(local) as client:
        with open_pool(where_and_what, tiny_model(), client=client) as pool:
            os.kill(local.workers[0].pid, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while local.workers and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not local.workers  # given up
            pool.submit("a")
            while (event := pool.wait(0.5)) is None and time.monotonic() < deadline:
                assert pool.slots
    assert event is not None
    assert event[1][0] == "a"


@contextlib.contextmanager
def running(*command: Any) -> Iterator[Any]:
    """A process of a cluster, with the environment of a worker that can import this module."""
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]], env=environment, **quiet
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(path: Any, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text())["address"]
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def test_a_worker_that_ends_too_slowly_does_not_fail_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Dask gives up joining a process that it has killed."""
    from distributed.nanny import WorkerProcess

    kill = WorkerProcess.kill

    async def slowly(self: Any, *args: Any, **options: Any) -> None:
        await kill(self, *args, **options)
        raise TimeoutError

    monkeypatch.setattr(WorkerProcess, "kill", slowly)
    with cluster.connect(1) as client:
        found = client.submit(os.getpid, pure=False).result(timeout=60)
    assert found != os.getpid()


@contextlib.contextmanager
def lines_of_dask() -> Iterator[list[str]]:
    """What Dask's loggers write meanwhile: they hand nothing to other loggers."""
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "asyncio")]
    for one in loggers:
        one.addHandler(handler)
    try:
        yield said
    finally:
        for one in loggers:
            one.removeHandler(handler)


@pytest.mark.slow
def test_a_scheduler_started_elsewhere_by_file_and_by_address_and_its_loss(tmp_path: Path) -> None:
    model, file = tiny_model(), tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1"]
    with running("dask_scheduler", *options, "--port", "0", "--no-dashboard") as scheduler:
        address = wait_for(file)
        with running("dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"):
            with open_pool(where_and_what, model, scheduler=str(file)) as pool:
                found = results(pool, ["a", "fail", "b"])
                assert found["a"][2] == model.sha256
                assert found["a"][1] != os.getpid()
                assert isinstance(found["fail"], ValueError)
            with lines_of_dask() as said, open_pool(where_and_what, model, scheduler=address) as pool:
                assert results(pool, ["c"])["c"][0] == "c"
                scheduler.kill()
                pool.submit("d")
                with pytest.raises(Incomplete, match=rf"{address} is lost; rerun the same command to resume"):
                    results(pool, ["e"])
    assert said == []  # we say it in one line


def test_local_workers_that_never_come_back_are_told_and_given_up(
    quick_processes: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as local,
        Client(local) as client,
        open_pool(where_and_what, tiny_model(), client=client) as pool,
    ):
        monkeypatch.setattr(pool, "_replace_lost", lambda alive: None)
        monkeypatch.setattr(cast(Any, pool).absence, "limit_s", 6.0)
        client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"]), close_workers=True)
        pool.submit("a")
        with pytest.raises(Incomplete):
            poll(pool, 60.0)
    assert "no workers" in caplog.text


def poll(pool: Any, seconds: Any) -> None:
    """What the driver does while nothing comes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert pool.slots
        assert pool.wait(0.5) is None


def test_a_scheduler_without_workers_is_told_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "_WARN_AFTER_S", 0.5)
    file = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with running("dask_scheduler", *options), contextlib.ExitStack() as stack:
        address = wait_for(file)
        come = ["dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"]

        def start_one_when_it_is_told(record: Any) -> Any:
            if "no workers" in record.getMessage():
                stack.enter_context(running(*come))
            return True

        caplog.handler.addFilter(start_one_when_it_is_told)
        with open_pool(where_and_what, tiny_model(), scheduler=address) as pool:
            assert results(pool, ["a"])["a"][0] == "a"
            caplog.handler.filters.clear()
            (told,) = [record for record in caplog.records if "no workers" in record.getMessage()]
            assert f"dask worker {address} --nthreads 1" in told.getMessage()
            assert "30 min" in told.getMessage()
            monkeypatch.setattr(cast(Any, pool).absence, "limit_s", 1.0)
            stack.close()  # the worker goes, and none comes
            pool.submit("b")
            with pytest.raises(Incomplete, match=f"dask worker {address}"):
                poll(pool, 60.0)


def test_a_run_without_workers_ends_with_3_and_goes_on_with_some(
    tmp_path: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    import dask

    path, out, file = tmp_path / "tiny.safetensors", tmp_path / "run", tmp_path / "scheduler.json"
    model = tiny_model()
    save_model(path, model.net, model.card)
    country = tiny(tmp_path / "scenes", dates=1, years="2021", region_px=(99, 99), model=load_model(str(path)))
    out.mkdir()
    freeze(Job(out, country.plan(), country.items, country.model))
    command = ["map", out, "--model", path, "--quiet"]
    options = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    with running("dask_scheduler", *options), dask.config.set({"subpixmap.wait-for-workers": "1s"}):
        address = wait_for(file)
        assert subpixmap(*command, "--scheduler", file) == 3
    open_, told, error = capsys.readouterr().err.splitlines()
    assert "certificate" in open_
    assert f"dask worker {address}" in told
    assert address in error
    assert f"dask worker {address}" in (out / "run.log").read_text()
    assert subpixmap(*command, "--workers", 0) == 0


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1.0)
    with (
        pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9 .*--scheduler"),
        open_pool(where_and_what, tiny_model(), scheduler="tcp://127.0.0.1:9"),
    ):
        pass


@pytest.mark.parametrize("content", ["", "not JSON", "[]", '{"id": "Scheduler"}', "\xff"])
def test_a_file_that_is_no_scheduler_file_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "scheduler.json"
    file.write_bytes(content.encode("latin-1"))
    with (
        pytest.raises(InputError, match=r"scheduler\.json.*--scheduler"),
        open_pool(where_and_what, tiny_model(), scheduler=str(file)),
    ):
        pass


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:9", "tcp://", "tcp://127.0.0.1:99999"])
def test_what_is_no_address_of_a_scheduler_is_named(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_S", 1.0)
    with (
        pytest.raises(InputError, match=f"--scheduler.*{address}|{address} .*--scheduler|--scheduler {address}"),
        open_pool(where_and_what, tiny_model(), scheduler=address),
    ):
        pass


def test_a_missing_gpu_is_told() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with (
        pytest.raises(InputError, match="--device"),
        open_pool(where_and_what, tiny_model(), device="cuda"),
    ):
        pass


def test_a_missing_dask_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(InputError, match=r"subpixmap\[cuda\]"),
        open_pool(where_and_what, tiny_model(), device="cuda"),
    ):
        pass


def test_a_process_is_asked_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cluster of processes in the place of dask-cuda's: there is no GPU here."""
    import torch
    from distributed import LocalCluster

    asked = []

    def cluster_of(**options: Any) -> Any:
        asked.append(options)
        return LocalCluster(**{**options, "memory_limit": 0}, processes=False, silence_logs=50)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=cluster_of))
    with open_pool(where_and_what, tiny_model(), device="cuda") as pool:
        assert results(pool, ["a"])["a"][0] == "a"
    (options,) = asked
    assert options["n_workers"] == 2
    assert options["security"] is True
    assert {options["host"], options["dashboard_address"]} == {"127.0.0.1", "127.0.0.1:0"}
    assert options["memory_limit"] == "auto"
    with (
        pytest.raises(InputError, match=r"--workers 3: this machine has 2 GPU"),
        open_pool(where_and_what, tiny_model(), device="cuda", workers=3),
    ):
        pass
    assert (usual_workers("cuda"), usual_workers("cpu")) == (2, cores())
    assert len(asked) == 1


def faults_of_a_freed_tensor(task: Any, model: Any) -> Any:
    import resource

    import numpy as np

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        np.ones(2**18, np.float32)  # 1 MiB: 256 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_local_workers_keep_freed_memory() -> None:
    with open_pool(faults_of_a_freed_tensor, tiny_model(), workers=1) as pool:
        faults = results(pool, ["once"])["once"]
    assert faults < 10 * 256  # handed back to the system each time it would be ten times as much


@pytest.mark.parametrize("failing", [False, True])
def test_a_cluster_that_does_not_close_in_time_takes_no_result_with_it(
    failing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a crowded machine Dask gives up waiting for its workers, after the last block is done."""
    closed = []

    class Slow:
        def __init__(self, *_: object, **__: object) -> None:
            self.scheduler = None

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            closed.append(self)
            raise TimeoutError

    monkeypatch.setattr("distributed.LocalCluster", Slow)
    monkeypatch.setattr("distributed.Client", Slow)
    with contextlib.suppress(ZeroDivisionError), cluster.connect(1):
        if failing:
            raise ZeroDivisionError  # and what went wrong inside is what is told
    assert len(closed) == 2


class Unreachable:
    """A client whose scheduler answers a plugin with an error."""

    status, scheduler = "running", SimpleNamespace(address="tls://there:1")

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def register_plugin(self, plugin: Any, name: str) -> None:
        self.asked += 1
        raise self.error


def test_workers_that_cannot_be_brought_the_model_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    bare = Unreachable(ModuleNotFoundError("No module named 'subpixmap'", name="subpixmap"))
    with pytest.raises(
        InputError, match=r"a worker of tls://there:1 cannot import subpixmap: install subpixmap on all"
    ):
        _bring(cast("Any", bare), SimpleNamespace(name="model"))
    assert bare.asked == 1
    gone = Unreachable(TimeoutError("nobody"))
    with pytest.raises(Incomplete, match=r"the model could not be sent to the workers of tls://there:1: .*nobody"):
        _bring(cast("Any", gone), SimpleNamespace(name="model"))
    assert gone.asked > 1
    with pytest.raises(RuntimeError, match="no model abc: it started without the plugin"):
        run_with_cached_model(lambda task, model: task, 1, "abc")
