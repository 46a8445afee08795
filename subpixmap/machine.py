"""Cores, memory and threads of this process, with CPU affinity and container limits.

Dask reads these limits on each system; it is imported only when needed, so that `--help` stays quick.
"""

from __future__ import annotations

import contextlib
import platform
import re
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Number of cores that this process may use: the smallest of machine, CPU affinity and container quota."""
    from dask.system import cpu_count

    return cpu_count()


def usual_workers(device: str) -> int:
    """Number of worker processes unless another is asked for: one for each core, or for each GPU ("cuda")."""
    if device == "cpu":
        return cores()
    import torch

    return max(1, torch.cuda.device_count())


def memory() -> int:
    """Bytes of memory for all processes together: the smaller of machine and container limit."""
    from distributed.system import memory_limit

    return memory_limit()


@contextlib.contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that starts nothing new after an error, and does not wait after Ctrl-C."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()


@lru_cache(maxsize=2)
def _pool(threads: int, stage: str) -> ThreadPoolExecutor:
    """The threads of this process that read, or that use its GPU; reused, because readers keep their files open."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"subpixmap-{stage}")


def in_order(calls: Iterable[Callable[[], T]], threads: int, seconds: dict[str, float], stage: str) -> Iterator[T]:
    """Yield results in the order of the calls; every thread works one call ahead.

    Parameters
    ----------
    calls
        They may be made while earlier results are used.
    threads
        Number of threads.
    seconds, stage
        The times of the calls are added to this stage; if they read, the time until a result is there to "wait".
    """
    pool, waiting, coming = _pool(threads, stage), iter(calls), deque[Future[tuple[T, float]]]()
    try:
        coming.extend(pool.submit(timed, call) for call in islice(waiting, threads))
        while coming:
            values = _waited(coming.popleft(), seconds, stage)
            coming.extend(pool.submit(timed, call) for call in islice(waiting, 1))
            yield values
            del values
    finally:
        for future in coming:
            future.cancel()


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result, and seconds."""
    began = time.perf_counter()
    return call(), time.perf_counter() - began


def _waited(future: Future[tuple[T, float]], seconds: dict[str, float], stage: str) -> T:
    began = time.perf_counter()
    try:
        values, spent = future.result()
    finally:
        del future  # else it, its exception and this frame would keep each other alive, with the call's memory
    if stage == "read":
        seconds["wait"] += time.perf_counter() - began
    seconds[stage] += spent
    return values


def available_memory() -> int:
    """Bytes of memory that are free at this moment, and never more than `memory`."""
    import psutil

    return min(int(psutil.virtual_memory().available), memory())


def instruction_set() -> str:
    """The best vector or matrix instructions of the processor: AMX, AVX512 or AVX2; else the architecture."""
    info = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    has = set(flags[1].split()) if flags else set()
    known = {"amx_tile": "AMX", "avx512f": "AVX512", "avx2": "AVX2"}
    return next((name for flag, name in known.items() if flag in has), platform.machine())


def peak_rss() -> int:
    """Largest resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.is_file() and (line := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(line[1])  # getrusage of a child process starts with the peak of its parent
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
