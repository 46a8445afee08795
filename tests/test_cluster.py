"""Where tasks run: any scheduler by address or file, the model brought to every worker, clear words where it fails."""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest
from mapping_data import tiny_model

from subpixmap.errors import Incomplete, InputError
from subpixmap.mapping import cluster
from subpixmap.mapping.cluster import open_pool


def where_and_what(task, model):
    """A task: its argument, the process that did it, and the model's hash."""
    if task == "fail":
        raise ValueError("a bad task")
    return task, os.getpid(), model.sha256


def results(pool, tasks):
    for task in tasks:
        pool.submit(task)
    found = {}
    while len(found) < len(tasks):
        if event := pool.wait(30.0):
            found[event[0]] = event[1]
    return found


def test_in_process():
    model = tiny_model()
    with open_pool(where_and_what, model, workers=0) as pool:
        assert pool.wait(0.0) is None
        found = results(pool, ["a", "fail", "b"])
    assert found["a"] == ("a", os.getpid(), model.sha256)
    assert isinstance(found["fail"], ValueError)


@contextlib.contextmanager
def running(*command):
    """A process of a cluster, with the environment of a worker that can import this module."""
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(__file__))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]], env=environment, **quiet
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(path, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text())["address"]
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def test_a_scheduler_started_elsewhere_by_file_and_by_address_and_its_loss(tmp_path):
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
            with open_pool(where_and_what, model, scheduler=address) as pool:
                assert results(pool, ["c"])["c"][0] == "c"
                scheduler.kill()
                pool.submit("d")
                with pytest.raises(Incomplete, match=r"the scheduler at tcp://127.* is lost"):
                    results(pool, ["e"])


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_S", 1.0)
    with (
        pytest.raises(InputError, match=r"no scheduler answers at tcp://127.0.0.1:9 .*--scheduler"),
        open_pool(where_and_what, tiny_model(), scheduler="tcp://127.0.0.1:9"),
    ):
        pass


def test_a_missing_gpu_is_told():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with (
        pytest.raises(InputError, match="no GPU is found"),
        open_pool(where_and_what, tiny_model(), device="cuda"),
    ):
        pass
