"""Ctrl-C and SIGTERM end a command within seconds, even during a read; a rerun resumes.

A run commits its work in ledger records and writes files atomically, so nothing is lost when the process is killed. The
command first gets a few seconds to close what it has opened.
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
"""Seconds that a command may take to close Dask workers, files and connections."""
_THREADS_S = 1.0  # for threads that still read when everything else has ended


class Interrupted(BaseException):
    """The user or the system stopped the run. Not a KeyboardInterrupt, because click turns that into exit code 1."""


class _Stop:
    """A requested stop: first the command gets some seconds to end, then the threads that still read."""

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
        """Note that the command has ended; from now on only threads can keep the process alive."""
        self.over.set()
        # Called before Python waits for the threads of pools; `atexit` comes after that.
        threading._register_atexit(self.leaving.set)  # type: ignore[attr-defined]


_stops: list[_Stop] = []


def tell(name: str) -> None:
    """Print the message about the interruption."""
    print(f"subpixmap: interrupted by {name}; rerun the same command to resume", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: object) -> None:
    name = signal.Signals(number).name
    if _stops and not _stops[-1].over.is_set():  # a second Ctrl-C stops at once
        _stops[-1].end()
    _stops.append(_Stop(name))
    raise Interrupted(name)


@contextlib.contextmanager
def signals_end_the_run() -> Iterator[None]:
    """Make Ctrl-C and SIGTERM (sent by clusters at a time limit) raise `Interrupted`; a second one ends the process."""
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
