"""Cores and memory available to this process, with CPU affinity and container limits.

Dask reads these limits on each system; it is imported only when needed, so that `--help` stays quick.
"""

from __future__ import annotations

import contextlib
import platform
import re
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def cores() -> int:
    """Number of cores that this process may use: the smallest of machine, CPU affinity and container quota."""
    from dask.system import cpu_count

    return cpu_count()


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
