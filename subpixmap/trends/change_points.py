"""Finds the single step that best explains the totals of periods: its place, certainty and size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.trends.changes import Totals

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A single step of a series."""

    before: int
    """Position of the last period before the step."""
    earliest: int
    latest: int
    """Ends of the interval of `before`."""
    change: float
    """Mean after the step minus mean before it, weighted by the precision of each period."""
    se: float
    p_there: float
    """p-value of no step at this place, without correction for other places."""
    p_value: float
    """p-value of no step at all, corrected for all possible places."""
    misfit: float
    """Chi square of the totals around the two means."""


def find_step(series: Totals, *, level: float = 0.95) -> Step | None:
    """The step that best explains the totals, among all places; None if the noise is unknown.

    1. At every place, compute mean after minus mean before, with weights 1 / se^2, and the chi square around both.
    2. The best place has the smallest chi square.
    3. A place has the likelihood exp(-chi square / 2), with a flat prior. The interval contains the most likely places
    that add up to `level`. 4. The p of the best of n - 1 places is n - 1 times as large (Bonferroni).
    """
    n, se = len(series.totals), series.se
    if n < 2 or not (np.isfinite(se).all() and (se > 0).all()):
        return None
    # 1.
    weights = [_step_weights(se, k) for k in range(n - 1)]
    tests = [series.contrast(one) for one in weights]
    misfits = np.array([_misfit(series, k) for k in range(n - 1)])
    best = int(np.argmin(misfits))  # 2.
    likely = np.exp(-(misfits - misfits.min()) / 2)  # 3.
    order = np.argsort(-likely, kind="stable")
    enough = int(np.searchsorted(np.cumsum(likely[order]) / likely.sum(), level - 1e-12)) + 1
    held = order[:enough]
    change, error, p = tests[best]  # 4.
    corrected = min(1.0, p * (n - 1)) if math.isfinite(p) else math.nan
    return Step(best, int(held.min()), int(held.max()), change, error, p, corrected, float(misfits[best]))


def _step_weights(se: Array, before: int) -> Array:
    """(period,) weights of the mean after a step minus the mean before it."""
    precision = 1 / se**2
    late = np.arange(len(se)) > before
    weights: Array = np.where(late, precision / precision[late].sum(), -precision / precision[~late].sum())
    return weights


def _misfit(series: Totals, before: int) -> float:
    """Chi square of the totals around one mean before and one mean after a step."""
    late = np.arange(len(series.se)) > before
    fitted = np.zeros(len(series.se))
    for side in (late, ~late):
        fitted[side] = np.average(series.totals[side], weights=1 / series.se[side] ** 2)
    return float((((series.totals - fitted) / series.se) ** 2).sum())
