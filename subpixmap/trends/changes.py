"""Tests the change between two periods, and computes the minimum detectable change.

The noise of a period comes from a few acquisitions, so it is poorly known. The variance of a single acquisition is
therefore shrunk towards the mean of all periods of the unit, more strongly if the periods are similar (Smyth 2004,
doi:10.2202/1544-6115.1027). This gives more degrees of freedom at the same rate of false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.tables import CHANGES, types_of

Array = NDArray[np.float64]

POWER = 0.8
"""Power of the test at the minimum detectable change."""
SEASONAL = 0.75
"""Largest share of the variance between acquisitions that repeats every year, from simulated countries with the seeds
203 to 216 (see docs/trends.md)."""
_MOST = 1e4  # degrees of freedom that stand for infinity
_ENOUGH = 20  # minimum number of unit steps to know their usual size
_MEDIAN = 0.6745  # median of the absolute value of a standard normal number


@dataclass(frozen=True)
class Totals:
    """The comparable totals of one unit and object, in order of time."""

    periods: tuple[str, ...]
    years: Array
    """(period,) decimal years of the middle of the periods."""
    totals: Array
    """(period,) objects."""
    se: Array
    """(period,) standard errors; NaN where the noise is not known."""
    freedom: Array
    """(period,) degrees of freedom of the standard errors."""
    most_freedom: float
    """Of all periods together."""

    def contrast(self, weights: Array) -> tuple[float, float, float]:
        """(value, standard error, p of the two-sided t test) of a weighted sum of the totals whose weights add to 0."""
        value, variance = float(weights @ self.totals), weights**2 * self.se**2
        used = weights != 0
        se = math.sqrt(variance[used].sum()) if np.isfinite(variance[used]).all() else math.nan
        return value, se, p_of(value, se, self._freedom(variance[used], self.freedom[used]))

    def detectable(self, weights: Array, level: float) -> float:
        """The weighted sum that its test detects at this level in 80 % of cases."""
        from scipy.stats import t

        used = weights != 0
        variance = weights[used] ** 2 * self.se[used] ** 2
        freedom = self._freedom(variance, self.freedom[used])
        if not (math.isfinite(freedom) and freedom >= 1):
            return math.nan
        return math.sqrt(variance.sum()) * float(t.ppf((1 + level) / 2, freedom) + t.ppf(POWER, freedom))

    def half_width(self, weights: Array, level: float) -> float:
        """Half of the two-sided interval of a weighted sum, at this level."""
        from scipy.stats import t

        used = weights != 0
        variance = weights[used] ** 2 * self.se[used] ** 2
        freedom = self._freedom(variance, self.freedom[used])
        usable = math.isfinite(freedom) and freedom >= 1
        return math.sqrt(variance.sum()) * float(t.ppf((1 + level) / 2, freedom)) if usable else math.nan

    def _freedom(self, variance: Array, freedom: Array) -> float:
        """Degrees of freedom of a sum of variances v: (sum of v)^2 / sum of v^2 / freedom (Satterthwaite 1946)."""
        parts = np.divide(variance**2, freedom, out=np.full(variance.shape, np.nan), where=freedom > 0)
        if not (np.isfinite(parts).all() and variance.sum() > 0):
            return math.nan
        return min(float(variance.sum() ** 2 / parts.sum()), self.most_freedom)


def p_of(value: float, se: float, freedom: float) -> float:
    """p of the two-sided t test that a value is zero; NaN if its standard error is unknown."""
    from scipy.special import stdtr

    return 2 * float(stdtr(freedom, -abs(value) / se)) if se > 0 and freedom >= 1 else math.nan


def between(n: int, first: int, last: int) -> Array:
    """(n,) weights of the change from one period to another."""
    weights = np.zeros(n)
    weights[last], weights[first] = 1, -1
    return weights


def shared_noise(noise: Array, acquisitions: Array) -> tuple[Array, Array]:
    """Standard errors of totals with shrunk variances of an acquisition.

    1. Turn each standard error into the variance of a single acquisition, which is similar in all periods.
    2. Shrink each towards their mean, (d0 mean + d variance) / (d0 + d); d0 grows with their similarity (Smyth 2004).
    3. Turn it back into the standard error of the period's mean.

    Parameters
    ----------
    noise
        (unit, period) standard errors, each from the acquisitions of its own period; NaN where unknown.
    acquisitions
        (unit, period) number of acquisitions of each.

    Returns
    -------
    se, freedom
        (unit, period) standard errors and their degrees of freedom; NaN and 0 for a unit without any noise.
    """
    n = np.maximum(np.asarray(acquisitions, float), 1)
    own = np.where(np.isfinite(noise) & (n >= 2), n - 1, 0)
    variance = np.where(own > 0, np.asarray(noise, float) ** 2 * n, 0)  # 1.
    most = own.sum(axis=1, keepdims=True)
    mean = np.divide((own * variance).sum(axis=1, keepdims=True), most, out=np.full(most.shape, np.nan), where=most > 0)
    borrowed = np.minimum(_prior_freedom(variance, own), most - own)  # 2. Not more than those of the other periods.
    freedom = np.where(most > 0, borrowed + own, 0)
    usable = np.broadcast_to(freedom > 0, own.shape)
    shared = np.divide(borrowed * mean + own * variance, freedom, out=np.full(own.shape, np.nan), where=usable)
    return np.sqrt(shared / n), freedom  # 3.


def even_noise(noise: Array, acquisitions: Array) -> tuple[Array, Array]:
    """Standard errors of a unit, assuming equal noise per acquisition in all periods.

    Parameters
    ----------
    noise, acquisitions
        (unit, period); NaN where not known.

    Returns
    -------
    se, freedom
        (unit, period); NaN and 0 for a unit without any noise.
    """
    n = np.maximum(np.asarray(acquisitions, float), 1)
    own = np.where(np.isfinite(noise) & (n >= 2), n - 1, 0)
    variance = np.where(own > 0, np.asarray(noise, float) ** 2 * n, 0)
    most = own.sum(axis=1, keepdims=True)
    mean = np.divide((own * variance).sum(axis=1, keepdims=True), most, out=np.full(most.shape, np.nan), where=most > 0)
    return np.sqrt(mean / n), np.broadcast_to(most, n.shape)


def relative_steps(totals: Array, se: Array) -> Array:
    """(step,) size of unit steps in standard errors: a total minus the mean of its neighbours.

    b - (a + c) / 2, with variance se_b^2 + (se_a^2 + se_c^2) / 4. A steady trend cancels.
    """
    step = totals[:, 1:-1] - (totals[:, :-2] + totals[:, 2:]) / 2
    error = np.sqrt(se[:, 1:-1] ** 2 + (se[:, :-2] ** 2 + se[:, 2:] ** 2) / 4)
    usable = np.isfinite(step) & (error > 0)
    sizes: Array = np.abs(step[usable]) / error[usable]
    return sizes


def noise_between_periods(steps: Array, *, divided: bool = False) -> float:
    """Share of the noise within a period that appears between periods.

    Acquisitions of a period differ by season and sun, which repeat every year, so their noise overstates the difference
    between years. Or years differ in ways common to acquisitions of one year, so it understates it. The median step
    decides, because most steps of most units are not real changes. The smallest share is that for a repeated part of
    the variance of `SEASONAL`.

    Parameters
    ----------
    steps
        From `relative_steps`, for all objects and units that are not sums of others.
    divided
        Whether periods are parts of a year: their acquisitions are of one season, so the noise is not reduced.
    """
    if len(steps) < _ENOUGH:
        return 1.0
    return max(float(np.median(steps)) / _MEDIAN, 1.0 if divided else math.sqrt(1 - SEASONAL))


def _prior_freedom(variance: Array, freedom: Array) -> float:
    """Prior degrees of freedom from the other periods of a unit: few if their noise really differs.

    Smyth 2004, section 6.2: logarithms of variances with d degrees of freedom have the variance trigamma(d / 2) by
    chance. The excess variance is trigamma(d0 / 2), which is solved for d0.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    usable = (freedom > 0) & (variance > 0)
    several = usable.sum(axis=1) >= 2
    if not several.any():
        return _MOST
    usable, variance, freedom = usable[several], variance[several], freedom[several]
    half = np.where(usable, freedom, 2) / 2
    logs = np.where(usable, np.log(np.where(usable, variance, 1)) - digamma(half) + np.log(half), 0)
    n = usable.sum(axis=1)
    spread = np.where(usable, logs - (logs.sum(axis=1) / n)[:, None], 0)
    expected = np.where(usable, polygamma(1, half), 0).sum(axis=1) / n
    excess = float((((spread**2).sum(axis=1) / (n - 1) - expected) * (n - 1)).sum() / (n - 1).sum())
    if excess <= polygamma(1, _MOST / 2):
        return _MOST
    return 2 * float(brentq(lambda half: polygamma(1, half) - excess, 1e-3, _MOST / 2))


def year_to_year(key: Sequence[str], series: Totals) -> list[dict[str, object]]:
    """Changes of a unit and object between neighbouring periods; `key` is (unit_id, unit_name, object)."""
    rows: list[dict[str, object]] = []
    names = dict(zip(("unit_id", "unit_name", "object"), key, strict=True))
    n = len(series.periods)
    for i, (before, after) in enumerate(pairwise(series.periods)):
        change, se, p = series.contrast(between(n, i, i + 1))
        percent = 100 * change / series.totals[i] if series.totals[i] > 0 else math.nan
        rows.append(
            {**names, "from": before, "to": after, "change": change, "se": se, "change_percent": percent, "p": p}
        )
    return rows


def changes_table(rows: Sequence[dict[str, object]], *, level: float) -> pd.DataFrame:
    """Rows of `year_to_year` with their false discovery rates over the units and periods of an object."""
    table = pd.DataFrame(rows, columns=list(CHANGES)).astype(types_of(CHANGES))
    table["q"] = table.groupby("object", sort=False)["p"].transform(false_discovery_rates)
    tested = table["q"].notna()
    table.loc[tested, "significant"] = table.loc[tested, "q"] <= 1 - level
    return table


def false_discovery_rates(p: pd.Series) -> pd.Series:
    """False discovery rates (Benjamini-Hochberg) over all tests made."""
    from scipy.stats import false_discovery_control

    rates = p.copy()
    tested = p.notna()
    if tested.any():
        rates[tested] = false_discovery_control(p[tested].to_numpy(float))
    return rates
