"""Console lines of a training: time left, progress, and whether it ended too early."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TextIO

import numpy as np

from subpixmap.progress import duration

COLUMNS = ("step", "loss", "mse", "ce", "block", "sample", "pair", "plot")
"""Of the curves; a term that a recipe lacks stays empty."""
LINE_EVERY_S = 5.0
_SILENT_AT_MOST_S = 30.0
_STILL_FALLING = 0.05
_HARDLY_BETTER = 0.1
_TRIED = 5  # steps after which their time is known; the first one may compile


class Lines:
    """Lines of one network's training, to a stream; None for silence.

    Parameters
    ----------
    stream
        Stream to write to.
    step, steps
        Steps that are done when it starts or goes on, and all of them.
    log_every
        Steps over which losses are averaged.
    title
        Before every line.
    """

    def __init__(self, stream: TextIO | None, *, step: int, steps: int, log_every: int, title: str = "") -> None:
        self.stream, self.first, self.steps, self.log_every, self.title = stream, step, steps, log_every, title
        self.started = self.said = time.monotonic()
        if step:
            self._print(f"resuming after step {step} of {steps}")

    def after(self, step: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Say how far it is, if it is time to; `rows` are the losses of the latest steps."""
        now, done = time.monotonic(), step - self.first
        if done == 1:
            self.started = now  # of the steps that are measured
        left = (now - self.started) / max(done - 1, 1) * (self.steps - step)
        if done == _TRIED and step < self.steps:
            when = datetime.now() + timedelta(seconds=left)
            each = (now - self.started) / (done - 1)
            self._print(
                f"{self.steps} steps of {each:.2g} s: about {duration(left)}, until {when:%H:%M}; an interrupted "
                "training loses at most half a minute"
            )
        rounds = step % self.log_every == 0 and (now - self.said >= LINE_EVERY_S or self.said == self.started)
        if done == 1 or rounds or step == self.steps or now - self.said >= _SILENT_AT_MOST_S:
            self.said = now
            losses = " ".join(f"{key} {value:.4f}" for key, value in mean_of(rows).items() if key != "step")
            told = f" {duration(left)} left" if done > 1 and step < self.steps else ""
            self._print(f"step {step}/{self.steps} {losses}{told}")

    def _print(self, text: str) -> None:
        say(self.stream, f"{self.title}{text}")


def say(stream: TextIO | None, text: str) -> None:
    """A line to a stream; None is silence."""
    if stream is not None:
        print(text, file=stream, flush=True)


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean losses of some steps, with the number of the last one."""
    by_name = {key: [row[key] for row in rows if key in row] for key in COLUMNS}
    return {key: float(np.mean(values)) for key, values in by_name.items() if values} | {"step": rows[-1]["step"]}


def loss_facts(losses: Sequence[Sequence[float]]) -> dict[str, float]:
    """For the card: the mean loss of the last tenth of the steps, and of the tenth before; of the worst network.

    Parameters
    ----------
    losses
        Of each network, the loss of every step. Below 40 steps they say nothing, and the facts are empty.
    """
    tenths = []
    for one in losses:
        n = len(one) // 10
        if n >= 4:
            last, before = float(np.mean(one[-n:])), float(np.mean(one[-2 * n : -n]))
            noise = float(np.hypot(np.std(one[-n:]), np.std(one[-2 * n : -n]))) / np.sqrt(n)
            tenths.append({"last_tenth": last, "tenth_before": before, "noise": noise})
    if not tenths:
        return {}
    worst = max(tenths, key=lambda facts: facts["tenth_before"] / facts["last_tenth"])
    return {name: float(f"{value:.4g}") for name, value in worst.items()}


def undertrained(facts: Mapping[str, Any], errors: Mapping[str, Any], steps: int) -> tuple[str, ...]:
    """Signs that a training ended too early, for the card and the console; empty if there are none.

    Parameters
    ----------
    facts
        From `loss_facts`.
    errors
        From `evaluate`, on places held out. R2 compares with a flat map: the same density everywhere.
    steps
        That were trained.
    """
    texts = []
    fell = 1 - facts["last_tenth"] / facts["tenth_before"] if facts.get("tenth_before") else 0.0
    if fell > _STILL_FALLING and facts["tenth_before"] - facts["last_tenth"] > 2 * facts["noise"]:
        texts.append(f"the loss was still falling by {100 * fell:.0f} % in the last tenth of {steps} steps")
    for name, error in errors.items():
        r2 = error.get("1 ha", {}).get("r2", float("nan")) if isinstance(error, Mapping) else float("nan")
        if r2 < _HARDLY_BETTER:
            texts.append(
                f"{name}: hardly better than one constant density everywhere (R2 at 1 ha {r2:.2f}, test places)"
            )
    return (f"Undertrained: {'; '.join(texts)}. Train longer (--steps), or label more land.",) if texts else ()
