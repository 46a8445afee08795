"""Cores and memory follow the CPU affinity and the limits of a container, not the size of the machine."""

import gc
import io
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest

from subpixmap import machine

GB = 10**9


def in_container(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """Let the system's files of control groups say what is given."""
    real_open = open

    def opened(file: Any, *args: Any, **options: Any) -> Any:
        if str(file) in files:
            return io.StringIO(files[str(file)])
        return real_open(file, *args, **options)

    monkeypatch.setattr("builtins.open", opened)


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = machine.memory()
    in_container(monkeypatch, {f"/sys/fs/cgroup/{name}": f"{GB}\n"})
    assert machine.memory() == GB < whole
    assert machine.available_memory() <= GB


def test_a_container_without_a_limit_has_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = machine.memory()
    in_container(monkeypatch, {"/sys/fs/cgroup/memory.max": "max\n"})
    assert machine.memory() == whole


def test_cores_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    quota = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "100000 100000\n"}
    in_container(monkeypatch, quota)
    assert machine.cores() == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
@pytest.mark.parametrize(
    "asked",
    [
        "from subpixmap.machine import cores; print(cores())",
        "from subpixmap.simulate.zones import threads; print(threads())",
        "from subpixmap.machine import usual_workers; print(usual_workers('cpu'))",
    ],
)
def test_cores_follow_the_affinity(asked: str) -> None:
    code = f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {asked}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_cores_are_found_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # as on macOS
    from subpixmap.mapping.task import readers_for

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert machine.cores() >= 1
    assert 1 <= readers_for("cuda") <= max(1, machine.cores() - 1)


def test_results_come_in_order_and_what_they_take_is_added_up() -> None:
    seconds = {"read": 0.0, "wait": 0.0}
    made = []

    def calls() -> Any:
        for n in range(7):
            made.append(n)
            yield lambda n=n: n * n

    coming = machine.in_order(calls(), 3, seconds, "read")
    assert next(coming) == 0
    assert made == [0, 1, 2, 3]
    assert list(coming) == [1, 4, 9, 16, 25, 36]
    assert min(seconds.values()) > 0


def test_a_failed_call_leaves_its_memory_at_once() -> None:
    """Not only when the garbage collector runs: on a GPU, the next attempt needs this memory."""
    held = []

    class Large:
        pass

    def fail() -> None:
        large = Large()
        held.append(weakref.ref(large))
        raise MemoryError

    gc.disable()
    try:
        with pytest.raises(MemoryError):
            list(machine.in_order([fail], 1, {"read": 0.0, "wait": 0.0}, "read"))
        assert held[0]() is None
    finally:
        gc.enable()
