"""Ctrl-C and SIGTERM -> the end of a command within seconds, whatever still reads; the next one resumes.

Records are the commits of a run and files appear whole, so that nothing is lost when a process is ended at once. It
first gets a few seconds to close in order what it has opened.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

EXIT_CODE = 3
IN_ORDER_S = 6.0
"""Seconds that a command may take to close what it has opened: workers of Dask, files, servers that do not answer."""
_THREADS_S = 1.0  # for threads that are still reading when all else has ended


class Interrupted(BaseException):
    """The user or the system stopped the run. Not a KeyboardInterrupt, which click would turn into exit code 1."""


class _Stop:
    """A stop that was asked for. The command gets some seconds to end, and then the threads that still read."""

    def __init__(self, name: str) -> None:
        self.name, self.over, self.leaving = name, threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="subpixmap-stop", daemon=True).start()

    def _watch(self) -> None:
        if not self.over.wait(IN_ORDER_S):
            self.end()
        self.leaving.wait()
        time.sleep(_THREADS_S)
        os._exit(EXIT_CODE)

    def end(self) -> None:
        """End the process at once."""
        tell(self.name)
        os._exit(EXIT_CODE)

    def command_ended(self) -> None:
        """All is closed; from now on only threads can keep the process, which Python waits for when it ends."""
        self.over.set()
        # Called before Python waits for the threads of pools; `atexit` comes after that.
        threading._register_atexit(self.leaving.set)  # type: ignore[attr-defined]


_stops: list[_Stop] = []


def tell(name: str) -> None:
    """What the person reads at the end."""
    print(f"subpixmap: interrupted by {name}; run the same command again to resume", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: object) -> None:
    name = signal.Signals(number).name
    if _stops and not _stops[-1].over.is_set():  # a second Ctrl-C stops at once
        _stops[-1].end()
    _stops.append(_Stop(name))
    raise Interrupted(name)


@contextlib.contextmanager
def signals_end_the_run() -> Iterator[None]:
    """Ctrl-C, and SIGTERM, by which clusters end a job whose time is up, raise `Interrupted`; twice end the process."""
    here = threading.current_thread() is threading.main_thread()
    before = {one: signal.signal(one, _interrupt) for one in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        for stop in _stops:
            stop.command_ended()
        _stops.clear()
