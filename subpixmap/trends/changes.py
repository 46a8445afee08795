"""Totals of periods and their noise -> the change between two of them, its test, and what could be detected.

The noise of a period comes from a few acquisitions, so it is known poorly. All periods of a unit share what they know:
the variance of a single acquisition is drawn towards that of all periods, the more the less they differ (Smyth 2004,
doi:10.2202/1544-6115.1027). That gives the tests more degrees of freedom and keeps their rate of false alarms.
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
"""Share of cases in which the test finds the minimum detectable change."""
SEASONAL = 0.75
"""Most that the deviations of acquisitions repeat themselves from year to year, as a share of their variance: simulated
countries with the seeds 203 to 216 (see docs/trends.md)."""
_MOST = 1e4  # degrees of freedom that mean "as many as there are"
_ENOUGH = 20  # steps of units from which their usual size is known
_MEDIAN = 0.6745  # of the size of a standard normal number


@dataclass(frozen=True)
class Totals:
    """The totals of one unit and object that may be compared, in order of time."""

    periods: tuple[str, ...]
    years: Array
    """(period,) decimal years of the middles of the periods."""
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
        """The weighted sum that its test finds, at this level, in 80 % of cases."""
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
    """p of the two-sided t test that a value is zero; NaN where its standard error is not known."""
    from scipy.special import stdtr

    return 2 * float(stdtr(freedom, -abs(value) / se)) if se > 0 and freedom >= 1 else math.nan


def between(n: int, first: int, last: int) -> Array:
    """(n,) weights of the change from one period to another."""
    weights = np.zeros(n)
    weights[last], weights[first] = 1, -1
    return weights


def shared_noise(noise: Array, acquisitions: Array) -> tuple[Array, Array]:
    """Standard errors of totals that share what they know about the variance of an acquisition.

    1. Turn each standard error into the variance of a single acquisition: only these are alike between periods.
    2. Draw each towards their mean, (d0 mean + d variance) / (d0 + d); d0 says how alike they are (Smyth 2004).
    3. Turn it back into the standard error of the period's mean.

    Parameters
    ----------
    noise
        (unit, period) standard errors, each from the acquisitions of its period alone; NaN where not known.
    acquisitions
        (unit, period) how many acquisitions each comes from.

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
    borrowed = np.minimum(_prior_freedom(variance, own), most - own)  # 2. No more than the other periods have.
    freedom = np.where(most > 0, borrowed + own, 0)
    usable = np.broadcast_to(freedom > 0, own.shape)
    shared = np.divide(borrowed * mean + own * variance, freedom, out=np.full(own.shape, np.nan), where=usable)
    return np.sqrt(shared / n), freedom  # 3.


def even_noise(noise: Array, acquisitions: Array) -> tuple[Array, Array]:
    """Standard errors of a unit whose noise is the same in all periods but for the number of acquisitions.

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
    """(step,) how large the steps of units are, in standard errors: a total against the mean of its neighbours.

    b - (a + c) / 2, with variance se_b^2 + (se_a^2 + se_c^2) / 4. A steady trend cancels.
    """
    step = totals[:, 1:-1] - (totals[:, :-2] + totals[:, 2:]) / 2
    error = np.sqrt(se[:, 1:-1] ** 2 + (se[:, :-2] ** 2 + se[:, 2:] ** 2) / 4)
    usable = np.isfinite(step) & (error > 0)
    sizes: Array = np.abs(step[usable]) / error[usable]
    return sizes


def noise_between_periods(steps: Array, *, divided: bool = False) -> float:
    """Share of the noise within a period that shows between periods.

    Acquisitions of a period differ by season and sun, which come back every year: their noise overstates how much years
    differ. Or something differs between years that acquisitions of one year share: then it understates it. The median
    step tells, because most steps of most units are no change. The share is never below that of acquisitions of which
    `SEASONAL` of the variance is the same every year.

    Parameters
    ----------
    steps
        From `relative_steps`, of all objects and of units that are no sums of others.
    divided
        Periods are parts of a year: their acquisitions are of one season, so that nothing of their noise is taken off.
    """
    if len(steps) < _ENOUGH:
        return 1.0
    return max(float(np.median(steps)) / _MEDIAN, 1.0 if divided else math.sqrt(1 - SEASONAL))


def _prior_freedom(variance: Array, freedom: Array) -> float:
    """How many degrees of freedom the periods of a unit can lend each other: few where their noise really differs.

    Smyth 2004, section 6.2: the logarithms of variances with d degrees of freedom scatter by trigamma(d / 2) by chance.
    What they scatter beyond that is trigamma(d0 / 2), which is solved for d0.
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
    """Benjamini-Hochberg over the tests that were made."""
    from scipy.stats import false_discovery_control

    rates = p.copy()
    tested = p.notna()
    if tested.any():
        rates[tested] = false_discovery_control(p[tested].to_numpy(float))
    return rates
