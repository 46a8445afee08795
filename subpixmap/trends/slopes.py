"""Slope and trend test of a series, by scipy and pymannkendall."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.trends.changes import Totals
from subpixmap.trends.seasons import seasons_a_year

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Slope:
    """A monotonic trend of one series."""

    per_year: float
    """Theil-Sen slope."""
    low: float
    high: float
    """Ends of its interval; NaN where it has none."""
    level: float
    """Confidence of the interval: as requested, or the highest possible with so few values."""
    tau: float
    """Kendall's tau."""
    p_value: float
    """p-value of the two-sided Mann-Kendall test; NaN, like slope and tau, if no two values can be compared."""
    p_method: str
    """`exact`; `asymptotic` where values are equal; `seasonal` for the seasonal test."""


def theil_sen(years: Array, values: Array, *, level: float = 0.95) -> Slope:
    """Theil-Sen slope with its interval, and the Mann-Kendall test.

    Parameters
    ----------
    years
        (n,) decimal years, n >= 2.
    values
        (n,) finite.
    level
        Confidence of the interval; by the Mann-Kendall test it is at most `1 - 2 / n!` for n values.

    Returns
    -------
    Slope

    References
    ----------
    Sen 1968, doi:10.1080/01621459.1968.10480934; Kendall 1975, Rank Correlation Methods.
    """
    from scipy.stats import kendalltau, theilslopes

    n = len(values)
    reached = min(level, 1 - smallest_p(n))
    if np.all(values == values[0]):
        end = 0.0 if n > 2 else math.nan
        return Slope(0.0, end, end, reached, 0.0, 1.0, "exact")
    method = "exact" if np.unique(values).size == n else "asymptotic"
    test = kendalltau(years, values, method=method)
    slope, _, low, high = theilslopes(values, years, alpha=max(reached, 0.5))
    if n < 3:
        low = high = math.nan
    return Slope(float(slope), float(low), float(high), reached, float(test[0]), float(test[1]), method)


def seasonal_slope(years: Array, values: Array, *, level: float = 0.95) -> Slope:
    """Seasonal Mann-Kendall test and slope of a series with several values per year; without an interval.

    Values are compared with those of the same season only: as many seasons a year as the closest values need, at most
    twelve. Several values of one season and year (acquisitions) are averaged.

    References
    ----------
    Hirsch, Slack & Smith 1982, doi:10.1029/WR018i001p00107.
    """
    from pymannkendall import seasonal_test

    seasons = seasons_a_year(years)
    at = np.round((years - years[0]) / (1 / seasons)).astype(int)
    total, n = np.bincount(at, values), np.bincount(at)
    complete = np.divide(total, n, out=np.full(n.size, np.nan), where=n > 0)  # seasons not observed stay empty
    if np.bincount(np.flatnonzero(n) % seasons).max() < 2:  # no season was observed in two years
        return Slope(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, "seasonal")
    result = seasonal_test(complete, period=seasons, alpha=1 - level)
    return Slope(
        float(result.slope), math.nan, math.nan, math.nan, float(result.Tau), float(result.p), "seasonal"
    )  # pymannkendall's slope is per year: the step between values of one season


@dataclass(frozen=True)
class Line:
    """A straight line through totals with known errors."""

    per_year: float
    se: float
    p_value: float
    """That it is level."""
    misfit: float
    """Chi square of the totals around the line."""


def weighted_line(series: Totals) -> Line | None:
    """Weighted least squares with independent errors of the periods; None if errors are unknown.

    With w = 1 / se^2 the slope is sum of w (x - mean) y / sum of w (x - mean)^2. It is a weighted sum of the totals, so
    `Totals.contrast` tests it.
    """
    se = series.se
    if len(se) < 2 or not (np.isfinite(se).all() and (se > 0).all()):
        return None
    precision = 1 / se**2
    away = series.years - np.average(series.years, weights=precision)
    weights = precision * away / (precision * away**2).sum()
    slope, error, p = series.contrast(weights)
    fitted = np.average(series.totals, weights=precision) + slope * away
    return Line(slope, error, p, float((((series.totals - fitted) / se) ** 2).sum()))


def smallest_p(n: int) -> float:
    """Smallest p that a two-sided Mann-Kendall test of n different values can reach: 2 / n!."""
    return min(1.0, 2 / math.factorial(n)) if n >= 2 else 1.0
