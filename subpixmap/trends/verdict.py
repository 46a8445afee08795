"""Turns the test results of a unit into one verdict with a reason.

Three tests use the totals on common pixels: last period against first, a straight line with the known errors of the
periods, and one step. The verdict uses the strongest test, corrected for three tests. It is `steady` only if a change
beyond the margin would have been detected. These tests, and the reason in words, use the errors of `even_noise`, scaled
to the noise between periods; the columns of the change use the errors of its two periods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from subpixmap.trends.change_points import Step, find_step
from subpixmap.trends.changes import Totals, between
from subpixmap.trends.slopes import Line, weighted_line

RISE, FALL, STEADY, UNCLEAR = "rise", "fall", "steady", "unclear"

LEAST_COMMON = 0.5
"""Smallest share of a unit observed in all periods for a direction."""


_DRAWS, _ENOUGH = 100_000, 200  # of the simulation; minimum number of draws beyond a value to know its probability


@dataclass(frozen=True)
class Evidence:
    """Test results of one unit and object."""

    series: Totals
    change: float
    """Last total minus the first one, objects; `se` is its standard error."""
    se: float
    change_p: float
    detectable: float
    """Change that the test detects in 4 of 5 cases."""
    half_width: float
    """Half-width of the interval that decides on `steady`: both ends must be within the margin."""
    margin: float
    """Margin: largest change that counts as steady, objects."""
    holds: bool
    """Whether the map shows the object in the unit in any period."""
    step: Step | None
    line: Line | None
    p_value: float
    """p-value of the strongest of the three tests, corrected for their number."""
    test_se: float
    """Standard error of the change from the errors of the tests, shown in the reason."""
    ends_p: float
    """p-value of last against first period only, with the same errors as the other two tests."""
    agrees: bool
    """Whether the strongest test has the sign of the change."""
    persistent: bool | None
    """Whether the last two periods are both above or both below the first two."""
    without_joins: Evidence | None = None
    """The same without the steps that units share at joins; None without such a step."""

    @property
    def direction_p(self) -> float:
        """p of the strongest test; the weaker evidence if a shared step at a join may come from the sensor."""
        if self.without_joins is None:
            return self.p_value
        return max(self.p_value, self.without_joins.p_value)  # NaN only together

    @property
    def is_steady(self) -> bool:
        """Whether the interval of the change is within the margin, and a change of that size would be detected."""
        alone = abs(self.change) + self.half_width <= self.margin and self.detectable <= self.margin
        return alone and (self.without_joins is None or self.without_joins.is_steady)


def weigh(series: Totals, even: Totals, *, level: float, within: float, holds: bool = True) -> Evidence:
    """Test the totals of a unit.

    1. Test last against first period, a straight line, and one step: each detects changes that the others miss.
    2. Take the strongest, and correct its p for three tests.
    3. Compute the minimum detectable change, which `steady` needs.

    Parameters
    ----------
    series
        At least two periods, with their own errors.
    even
        The same with the errors of `even_noise`.
    level
        Confidence of the tests.
    within
        A unit is steady if its change is within this share of the first total.
    holds
        Whether the map shows the object in the unit at all.
    """
    n, totals = len(series.totals), series.totals
    last_first = between(n, 0, n - 1)  # 1.
    change, se, change_p = series.contrast(last_first)
    step, line = find_step(even, level=level), weighted_line(even)
    _, test_se, ends_p = even.contrast(last_first)
    tests = [(ends_p, change)]
    if n > 2 and step is not None and line is not None:
        tests += [(line.p_value, line.per_year), (step.p_there, step.change)]
    # 2. The tests use the same totals; `_of_strongest` accounts for that and is less strict than Bonferroni.
    usable = [test for test in tests if math.isfinite(test[0])]
    strongest, value = min(usable, key=lambda test: test[0]) if usable else (math.nan, math.nan)
    # 3. A unit that starts at zero has no relative change: use its last total.
    base = totals[0] if totals[0] > 0 else max(totals[-1], 0.0)
    return Evidence(
        series=series,
        change=change,
        se=se,
        change_p=change_p,
        detectable=even.detectable(last_first, level),
        half_width=even.half_width(last_first, 2 * level - 1),  # two one-sided tests, each at `level`
        margin=within * float(base),
        holds=holds,
        step=step,
        line=line,
        p_value=_of_strongest(strongest, n),
        test_se=test_se,
        ends_p=ends_p,
        agrees=value * change > 0,
        persistent=_persistent(series) if n >= 4 else None,
    )


def _of_strongest(p: float, n: int) -> float:
    """p of the strongest of all tests, from its own p and the distribution of the largest of n even periods.

    For smaller p than the draws allow, Bonferroni: p times the n + 1 tests (one pair, one line, n - 1 steps).
    """
    from scipy.stats import norm

    if not math.isfinite(p) or n < 3:
        return p
    largest, size = _largest_by_chance(n), norm.isf(p / 2)
    beyond = len(largest) - int(np.searchsorted(largest, size))
    return min(1.0, beyond / len(largest) if beyond >= _ENOUGH else (n + 1) * p)


@lru_cache(maxsize=64)
def _largest_by_chance(n: int) -> NDArray[np.float64]:
    """Sorted sizes of the largest test statistic of n even periods without change."""
    steps = [np.where(np.arange(n) > k, 1 / (n - 1 - k), -1 / (k + 1)) for k in range(n - 1)]
    contrasts = np.array([between(n, 0, n - 1), np.arange(n) - (n - 1) / 2, *steps])
    contrasts /= np.linalg.norm(contrasts, axis=1, keepdims=True)
    draws = np.random.default_rng(n).standard_normal((_DRAWS, n), dtype=np.float32)
    return np.sort(np.abs(draws @ contrasts.T.astype(np.float32)).max(axis=1)).astype(float)


def verdict(evidence: Evidence, q: float, *, alpha: float) -> tuple[str, str]:
    """(`rise`, `fall`, `steady` or `unclear`, the reason in words); `q` is the false discovery rate of its p."""
    if not evidence.holds:
        return (
            UNCLEAR,
            f"the map shows none here: its total of {evidence.series.totals[-1]:,.0f} is noise around zero",
        )
    if not math.isfinite(evidence.p_value):
        return UNCLEAR, f"changed by {_signed(evidence)}, but there are too few acquisitions to know its noise"
    if evidence.is_steady:
        return (
            STEADY,
            f"changed by {_signed(evidence)}{_share(evidence)}; a change of {evidence.detectable:,.0f} would be "
            "detected",
        )
    if q > alpha:
        return UNCLEAR, (
            f"changed by {_signed(evidence)}{_share(evidence)}; "
            + (_at_joins(evidence) or f"a change of less than {evidence.detectable:,.0f} cannot be told from noise")
        )
    if not evidence.agrees or evidence.ends_p > 2 * alpha:  # for example a storm followed by recovery
        return UNCLEAR, f"rose and fell: the total change from first to last is {_signed(evidence)}{_share(evidence)}"
    if abs(evidence.change) <= evidence.margin:
        return UNCLEAR, f"changed by {_signed(evidence)}{_share(evidence)}: too small to be called a rise or a fall"
    cleaned = evidence.without_joins
    if cleaned is not None and (cleaned.change * evidence.change <= 0 or abs(cleaned.change) <= cleaned.margin):
        return UNCLEAR, f"changed by {_signed(evidence)}{_share(evidence)}; {_at_joins(evidence)}"
    way, did = (RISE, "rose") if evidence.change > 0 else (FALL, "fell")
    size = f"{did} by {abs(evidence.change):,.0f} +/- {evidence.test_se:,.0f}{_share(evidence)}"
    return way, size + _when(evidence, alpha) + (
        "; not all late periods lie beyond the early ones" if _flickers(evidence) else ""
    )


def _when(evidence: Evidence, alpha: float) -> str:
    """The periods between which most of the change happened, if known."""
    step, line, series = evidence.step, evidence.line, evidence.series
    if len(series.periods) == 2:
        return f", from {series.periods[0]} to {series.periods[1]}"
    if step is None or line is None or not step.p_value <= alpha:
        return ""
    jump = series.totals[step.before + 1] - series.totals[step.before]
    if step.misfit <= line.misfit and jump / evidence.change >= 0.5:
        first, last = series.periods[step.earliest], series.periods[step.latest + 1]
        return f", most of it between {first} and {last}"
    return f", about {abs(line.per_year):,.0f} a year" if line.misfit < step.misfit else ", in more than one step"


def _at_joins(evidence: Evidence) -> str:
    """The change without steps that may come from the sensor; empty if there are none."""
    if evidence.without_joins is None:
        return ""
    return f"without the common step at a change of the input: {evidence.without_joins.change:+,.0f}"


def _flickers(evidence: Evidence) -> bool:
    return evidence.persistent is False


def _persistent(series: Totals) -> bool:
    before, after = series.totals[:2], series.totals[-2:]
    return bool(after.min() > before.max() or after.max() < before.min())


def _signed(evidence: Evidence) -> str:
    error = "" if math.isnan(evidence.test_se) else f" +/- {evidence.test_se:,.0f}"
    return f"{evidence.change:+,.0f}{error}"


def _share(evidence: Evidence) -> str:
    first = evidence.series.totals[0]
    return f" ({100 * evidence.change / first:+.1f} %)" if first > 0 else ""
