"""Progress on stderr: a live bar on a terminal, plain lines with rate and time left elsewhere.

A command without --quiet uses `with shown():`; the functions it calls then show their long loops by `track`. In Python
these functions are silent unless the caller also uses `with shown():`.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_LINE_EVERY_S = 10.0
_WORTH_A_LINE_S = 3.0
"""Loops shorter than this show no progress, seconds."""
_shown: ContextVar[bool] = ContextVar("shown", default=False)


@contextlib.contextmanager
def shown(quiet: bool = False) -> Iterator[None]:
    """Show the loops of `track` inside this context, unless `quiet`."""
    token = _shown.set(not quiet)
    try:
        yield
    finally:
        _shown.reset(token)


def track(pieces: Iterable[T], title: str, unit: str, *, total: int | None = None) -> Iterator[T]:
    """Yield the pieces, with progress on stderr if shown; loops of a few seconds show nothing.

    Parameters
    ----------
    pieces
        The pieces of work.
    title, unit
        The work in a few words, and the name of the pieces, plural.
    total
        Number of pieces; by default `len(pieces)`.
    """
    number = total if total is not None else len(pieces) if isinstance(pieces, Sized) else 0
    with counter(title, number, unit) as bar:
        for done, piece in enumerate(pieces):
            yield piece
            bar.update(done + 1)


def counter(title: str, total: int, unit: str) -> Progress:
    """Like `track`, for work that is not a simple loop: call `update` of the result."""
    return Progress(title, total, unit, quiet=not _shown.get(), patient=True)


def duration(seconds: float) -> str:
    """Format a duration: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


class Progress:
    """Counts finished pieces of work; a context manager. If two are nested, only the outer one is shown.

    Parameters
    ----------
    title
        The work in a few words.
    total
        Pieces of work.
    unit
        Name of the pieces, plural.
    done
        Pieces finished earlier (in a resumed run), not included in the rate.
    quiet
        Show nothing.
    patient
        Also show nothing if the work takes only a few seconds.
    """

    _outermost: Progress | None = None

    def __init__(
        self, title: str, total: int, unit: str, *, done: int = 0, quiet: bool = False, patient: bool = False
    ) -> None:
        self.title, self.total, self.unit, self.quiet, self.patient = title, total, unit, quiet, patient
        self.first = self.done = done
        self.started = self.last_line = time.monotonic()
        self._said = False
        self._bar: Any = None
        self._task: Any = None
        self._alarm: threading.Timer | None = None

    def __enter__(self) -> Self:
        self.quiet = self.quiet or Progress._outermost is not None
        if self.quiet:
            return self
        Progress._outermost = self
        if sys.stderr.isatty():
            self._start_bar()
        elif self.patient:
            self._alarm = threading.Timer(_WORTH_A_LINE_S, self._say)
            self._alarm.daemon = True
            self._alarm.start()
        elif self.done:
            self._print(f"{self.done} of {self.total} {self.unit} were already done")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._bar is not None:
            self._bar.stop()
        if Progress._outermost is self:
            Progress._outermost = None

    def update(self, done: int, total: int | None = None, *, note: str = "") -> None:
        """Report `done` finished pieces (and a new total), with a short note."""
        self.done, self.total = done, total or self.total
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self.total or None, note=note)
        elif not self.quiet and (now - self.last_line >= _LINE_EVERY_S or done >= self.total > 0):
            if not self.patient or self._said or now - self.started >= _WORTH_A_LINE_S:
                self._say(note)

    def step(self) -> None:
        """Report one more finished piece."""
        self.update(self.done + 1)

    def _say(self, note: str = "") -> None:
        """Print one line of progress."""
        self._said, self.last_line = True, time.monotonic()
        passed = self.last_line - self.started
        rate = (self.done - self.first) / max(passed, 1e-9)
        of = f"/{self.total} {self.unit}  {100 * self.done / self.total:.0f} %" if self.total else f" {self.unit}"
        left = f"{duration((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        speed = f"  {rate:.2g}/s" if rate else ""
        self._print(f"{self.done}{of}{speed}  {left or duration(passed)}  {note}".rstrip())

    def _start_bar(self) -> None:
        from rich import progress as rp
        from rich.console import Console

        self._bar = rp.Progress(
            rp.TextColumn("{task.description}"),
            rp.BarColumn(),
            rp.TextColumn("{task.completed:.0f}" + (f"/{{task.total:.0f}} {self.unit}" if self.total else self.unit)),
            rp.TextColumn("{task.fields[note]}"),
            rp.TimeElapsedColumn(),
            rp.TextColumn("left"),
            rp.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=self.patient,
        )
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=self.total or None, completed=self.done, note="")

    def _print(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)
