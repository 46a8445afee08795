"""Progress on stderr: a live bar on a terminal, plain lines with rate and time left elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

_LINE_EVERY_S = 10.0


class Progress:
    """Counts finished pieces of work; a context manager.

    Parameters
    ----------
    title
        What is done, one word.
    total
        Pieces of work.
    unit
        What a piece is called, plural.
    done
        Pieces that were finished earlier (a resumed run); they do not count for the rate.
    quiet
        Show nothing.
    """

    def __init__(self, title: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> None:
        self.title, self.total, self.unit, self.quiet = title, total, unit, quiet
        self.first = self.done = done
        self.started = self.last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            from rich import progress as rp
            from rich.console import Console

            self._bar = rp.Progress(
                rp.TextColumn("{task.description}"),
                rp.BarColumn(),
                rp.TextColumn(f"{{task.completed}}/{{task.total}} {self.unit}"),
                rp.TextColumn("{task.fields[note]}"),
                rp.TimeElapsedColumn(),
                rp.TextColumn("left"),
                rp.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, note="")
        elif not self.quiet and self.done:
            self._print(f"{self.done} of {self.total} {self.unit} are done already")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int | None = None, *, note: str = "") -> None:
        """Say that `done` pieces (of a total that became known) are finished, with a short note."""
        self.done, self.total = done, total or self.total
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self.total, note=note)
        elif not self.quiet and (now - self.last_line >= _LINE_EVERY_S or done >= self.total):
            self.last_line = now
            rate = (done - self.first) / max(now - self.started, 1e-9)
            left = (
                f"{(self.total - done) / rate:.0f} s left"
                if rate and done < self.total
                else f"{now - self.started:.0f} s"
            )
            percent = 100 * done / max(self.total, 1)
            self._print(f"{done}/{self.total} {self.unit}  {percent:.0f} %  {rate:.2g}/s  {left}  {note}".rstrip())

    def _print(self, text: str) -> None:
        print(f"{self.title}: {text}", file=sys.stderr, flush=True)
