"""Two totals and their errors -> the change between them, its test, and the change that could be detected."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

POWER = 0.8
"""Share of cases in which the test finds the minimum detectable change."""


def change_test(
    change: float, noise: NDArray[np.floating], acquisitions: NDArray[np.floating], level: float = 0.95
) -> tuple[float, float, float]:
    """(standard error, p, minimum detectable change) of a change between two periods.

    Parameters
    ----------
    change
        Last minus first.
    noise
        (2,) standard errors of the two totals.
    acquisitions
        (2,) how many acquisitions each standard error comes from.
    level
        Confidence of the test.

    Returns
    -------
    tuple of float
        p is that of the two-sided t test, which finds the minimum at this level in 80 % of cases. NaN where the noise
        is not known.
    """
    from scipy.stats import t

    se = float(np.hypot(*noise))
    freedom = float(np.sum(acquisitions) - 2)
    if not (se > 0 and freedom >= 1):
        return (se if se >= 0 else math.nan), math.nan, math.nan
    p = 2 * float(t.sf(abs(change) / se, freedom))
    return se, p, se * float(t.ppf((1 + level) / 2, freedom) + t.ppf(POWER, freedom))
