"""Totals from a map and labelled cells: expansion, difference, regression, ratio, and their standard errors.

In: counts and map counts of labelled cells, how they were drawn, and sums of the map. Out: a total for every domain (a
unit), with what its error rests on. All are one estimator with another working prediction p of a cell's count:

    total = sum of p over the domain + sum over its labelled cells of weight * (count - p)

`expansion` p = 0; `difference` p = m, the map; `regression` p = a + b m with an intercept for every stratum and one
slope; `ratio` p = r m. Whatever p is, the second term removes its bias. Formulas: Sarndal, Swensson and Wretman 1992,
chapters 6-8; the regression is prediction-powered inference with a tuned lambda (Angelopoulos, Duchi and Zrnic 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.layout import Array, Layout

ESTIMATORS = ("expansion", "difference", "regression", "ratio")
"""In the order of the tables."""


@dataclass(frozen=True)
class Domains:
    """What is known of whole domains before a cell is labelled. `...` are free axes, such as units."""

    member: NDArray[np.bool_]
    """(..., cell) whether a labelled cell belongs to the domain."""
    cells: Array
    """(..., stratum) cells of the frame in the domain."""
    map_total: Array
    """(...) sum of the map over the domain."""
    map_cells: Array
    """(...) sum of the map over the cells of the domain: what the labelled cells are weighed against."""


@dataclass(frozen=True)
class Total:
    """An estimated total and what its error rests on."""

    value: Array
    """(...) objects."""
    predicted: Array
    """(...) the working prediction alone: what is known of a domain without labelled cells."""
    influence: Array
    """(..., cell) what a cell adds to the error, before its weight; corrected for the parameters that were fitted."""
    slope: Array
    """(...) factor of the map."""


@dataclass(frozen=True)
class Spread:
    """The error of a total."""

    variance: Array
    """(...)."""
    df: Array
    """(...) degrees of freedom of the variance."""
    skew: Array
    """(...) skewness of the estimator."""


def estimate_total(name: str, y: NDArray[Any], m: NDArray[Any], layout: Layout, domains: Domains) -> Total:
    """Total of every domain by one estimator.

    Parameters
    ----------
    name
        One of `ESTIMATORS`.
    y, m
        (..., cell) labelled counts, and the map's counts of the same cells (0 where it saw nothing).
    layout
        How the cells were drawn.
    domains
        What is estimated.
    """
    y, m = np.asarray(y, float), np.where(layout.on_map, m, 0.0)
    inside, weight = domains.member.astype(float), layout.weight
    intercept, slope, gain, leverage = _fit(name, y, m, layout)
    residual = y - intercept[..., layout.stratum] - slope[..., None] * m
    # What the domain holds beyond its labelled cells, in cells and in objects of the map: there the fit counts.
    more_cells = domains.cells - layout.by_stratum(inside * weight)
    more_map = domains.map_cells - (inside * weight * m).sum(axis=-1)
    predicted = (intercept * domains.cells).sum(axis=-1) + slope * domains.map_total
    value = predicted + (inside * weight * residual).sum(axis=-1)
    influence = inside
    if name == "regression":
        share = more_cells / np.maximum(layout.stratum_size, 1)
        beyond = more_map - (layout.means(m) * more_cells).sum(axis=-1)
        influence = inside + share[..., layout.stratum] + beyond[..., None] * gain
    elif name == "ratio":
        influence = inside + more_map[..., None] * gain
    return Total(value, predicted, influence * residual / (1 - leverage), slope)


def _fit(name: str, y: Array, m: Array, layout: Layout) -> tuple[Array, Array, Array, Array]:
    """Intercepts (..., stratum), slope (...), and of every cell what it adds to the slope and its leverage."""
    none = np.zeros(m.shape)
    shape = np.broadcast_shapes(y.shape, m.shape)[:-1]
    flat = np.zeros((*shape, layout.n_strata))
    if name == "expansion":
        return flat, np.zeros(shape), none, none
    if name == "difference":
        return flat, np.ones(shape), none, none
    if name == "ratio":
        pull = np.where(layout.on_map, layout.weight, 0.0)
        below = (pull * m).sum(axis=-1)
        slope = np.where(below > 0, (pull * y).sum(axis=-1) / np.where(below > 0, below, 1), 1.0)
        gain = np.where(layout.on_map, 1.0, 0.0) / np.where(below > 0, below, np.inf)[..., None]
        return flat, slope, gain, np.clip(gain * layout.weight * m, 0, 0.5)
    if name != "regression":
        raise ValueError(f"no estimator {name!r}; there are {', '.join(ESTIMATORS)}")
    # The slope that makes the variance of the total small: a cell counts by the square of its weight.
    pull = np.where(layout.on_map, layout.weight * np.maximum(layout.weight - 1, 1e-9), 0.0)
    centred = m - layout.means(m)[..., layout.stratum]
    below = (pull * centred**2).sum(axis=-1)
    known = below > 0
    slope = np.where(known, (pull * centred * y).sum(axis=-1) / np.where(known, below, 1), 1.0)
    gain = pull * centred / np.where(known, below, np.inf)[..., None]
    intercept = layout.means(y) - slope[..., None] * layout.means(m)
    # `influence` is multiplied by the weight, the gain is that of the cell itself.
    return intercept, slope, gain / layout.weight, np.clip(gain * centred, 0, 0.5)


def spread_of(influence: Array, layout: Layout) -> Spread:
    """Variance, degrees of freedom and skewness of weighted sums of cells.

    Parameters
    ----------
    influence
        (..., cell) what a cell adds, before its weight.
    layout
        How the cells were drawn.

    Returns
    -------
    Spread
        The variance is that of simple random samples in segments, with finite population correction. A segment with
        one labelled cell adds nothing: see `merged_segments`. Degrees of freedom follow Satterthwaite (1946), corrected
        for segments of two cells; heavy tails lower them.
    """
    n, size = layout.labelled, layout.segment_size
    mean = layout.by_segment(influence) / n
    squares = layout.by_segment((influence - mean[..., layout.segment]) ** 2)
    v = size**2 * layout.chance * squares / (n * np.maximum(n - 1, 1))
    variance = v.sum(axis=-1)
    # Satterthwaite divides by the sum of V^2 / (n - 1). Of estimates v the same is v^2 / (n + 1), since
    # E[v^2] = V^2 (n + 1) / (n - 1); and the square of their sum is too large by twice that sum.
    below = (v**2 / (n + 1)).sum(axis=-1)
    df = np.divide(variance**2, below, out=np.full_like(variance, 2.0), where=below > 0) - 2
    return Spread(variance, df, _skew(influence, layout))


def _skew(influence: Array, layout: Layout) -> Array:
    """Skewness of the estimator, as if the strata were not cut into segments: two cells of a segment show none."""
    n, size = layout.stratum_labelled, layout.stratum_size
    plain = layout.by_stratum(influence) / np.maximum(n, 1)
    off = influence - plain[..., layout.stratum]
    share = n / np.maximum(size, 1)
    second = layout.by_stratum(off**2) / np.maximum(n - 1, 1)
    third = layout.by_stratum(off**3) * np.where(n >= 3, n / np.maximum((n - 1) * (n - 2), 1), 0.0)
    below = (size**2 * (1 - share) / np.maximum(n, 1) * second).sum(axis=-1) ** 1.5
    above = (size**3 * (1 - share) * (1 - 2 * share) / np.maximum(n, 1) ** 2 * third).sum(axis=-1)
    skew: Array = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return skew
