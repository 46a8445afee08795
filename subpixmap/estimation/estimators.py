"""Totals from a map and labelled cells: expansion, difference, regression, ratio, and their standard errors.

In: counts and map counts of labelled cells, how they were drawn, and sums of the map. Out: a total for every domain (a
unit), with the terms of its error. All use one estimator with a different working prediction p of a cell's count:

    total = sum of p over the domain + sum over its labelled cells of weight * (count - p)

`expansion` p = 0; `difference` p = m, the map; `regression` p = a + b m with an intercept for every stratum and one
slope; `ratio` p = r m. Whatever p is, the second term removes its bias. Sources: Sarndal, Swensson and Wretman 1992,
Model Assisted Survey Sampling, sections 6.3 (difference), 6.4 (regression) and 7.3 (ratio). The regression is
prediction-powered inference with a tuned lambda (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453).
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
    """Known sums of whole domains, independent of labels. `...` are free axes, such as units."""

    member: NDArray[np.bool_]
    """(..., cell) whether a labelled cell belongs to the domain."""
    cells: Array
    """(..., stratum) cells of the frame in the domain."""
    map_total: Array
    """(...) sum of the map over the domain."""
    map_cells: Array
    """(...) sum of the map over the cells of the domain, the reference of the weighted labelled cells."""


@dataclass(frozen=True)
class Total:
    """An estimated total and the terms of its error."""

    value: Array
    """(...) objects."""
    predicted: Array
    """(...) the working prediction only, for domains without labelled cells."""
    influence: Array
    """(..., cell) contribution of a cell to the error, before weighting; corrected for fitted parameters."""
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

    1. Fit the working prediction p to all labelled cells, since a single domain has too few.
    2. Sum p over the domain, and add the weighted residuals of its labelled cells, which remove the bias of p.
    3. Compute the contribution of each cell to the error, also through the fitted parameters.

    Parameters
    ----------
    name
        One of `ESTIMATORS`.
    y, m
        (..., cell) labelled counts, and the map's counts of the same cells (0 where not observed).
    layout
        How the cells were drawn.
    domains
        Domains to estimate.
    """
    y, m = np.asarray(y, float), np.where(layout.on_map, m, 0.0)
    inside, weight = domains.member.astype(float), layout.weight
    # 1. p = intercept + slope * map
    intercept, slope, gain, leverage = _fit(name, y, m, layout)
    residual = y - intercept[..., layout.stratum] - slope[..., None] * m
    # Difference of the domain and its weighted labelled cells, in cells and in objects of the map, for step 3.
    more_cells = domains.cells - layout.by_stratum(inside * weight)
    more_map = domains.map_cells - (inside * weight * m).sum(axis=-1)
    # 2. total = sum of p + sum of weight * (y - p)
    predicted = (intercept * domains.cells).sum(axis=-1) + slope * domains.map_total
    value = predicted + (inside * weight * residual).sum(axis=-1)
    # 3. The fit affects the error only through these differences: cells by the intercepts, map objects by the slope.
    #    These factors of the residuals are the g-weights of Sarndal et al., section 6.5; without a fit they are 1.
    influence = inside
    if name == "regression":
        share = more_cells / np.maximum(layout.stratum_size, 1)
        beyond = more_map - (layout.means(m) * more_cells).sum(axis=-1)
        influence = inside + share[..., layout.stratum] + beyond[..., None] * gain
    elif name == "ratio":
        influence = inside + more_map[..., None] * gain
    # Residuals of fitted cells are too small; dividing by 1 - leverage corrects this (HC3, MacKinnon and White 1985).
    return Total(value, predicted, influence * residual / (1 - leverage), slope)


def _fit(name: str, y: Array, m: Array, layout: Layout) -> tuple[Array, Array, Array, Array]:
    """Intercepts (..., stratum), slope (...), and the influence on the slope and leverage of every cell.

    Strata not observed in the map are left out of the slope. Without any observed stratum the slope is 1.
    """
    none = np.zeros(m.shape)
    shape = np.broadcast_shapes(y.shape, m.shape)[:-1]
    flat = np.zeros((*shape, layout.n_strata))
    if name == "expansion":
        return flat, np.zeros(shape), none, none
    if name == "difference":
        return flat, np.ones(shape), none, none
    if name == "ratio":  # r = sum of w y / sum of w m
        pull = np.where(layout.on_map, layout.weight, 0.0)
        below = (pull * m).sum(axis=-1)
        slope = np.where(below > 0, (pull * y).sum(axis=-1) / np.where(below > 0, below, 1), 1.0)
        gain = np.where(layout.on_map, 1.0, 0.0) / np.where(below > 0, below, np.inf)[..., None]
        return flat, slope, gain, np.clip(gain * layout.weight * m, 0, 0.5)
    if name != "regression":
        raise ValueError(f"unknown estimator {name!r}; choose from {', '.join(ESTIMATORS)}")
    # Regression: b = sum of q (m - mean) y / sum of q (m - mean)^2, means by stratum, with q = w (w - 1). These are the
    # factors of residuals in the variance of the total, sum over strata of N^2 (1 - n / N) / n * s^2, since N = n w:
    # this b minimises it.
    pull = np.where(layout.on_map, layout.weight * np.maximum(layout.weight - 1, 1e-9), 0.0)
    centred = m - layout.means(m)[..., layout.stratum]
    below = (pull * centred**2).sum(axis=-1)
    known = below > 0
    slope = np.where(known, (pull * centred * y).sum(axis=-1) / np.where(known, below, 1), 1.0)
    gain = pull * centred / np.where(known, below, np.inf)[..., None]
    intercept = layout.means(y) - slope[..., None] * layout.means(m)
    # Divide by the weight, because `influence` is multiplied by it later.
    return intercept, slope, gain / layout.weight, np.clip(gain * centred, 0, 0.5)


def spread_of(influence: Array, layout: Layout) -> Spread:
    """Variance, degrees of freedom and skewness of weighted sums of cells.

    1. Variance: sum over segments of v = N^2 (1 - n / N) s^2 / n, simple random samples of n of N cells (Sarndal et
       al., section 3.7).
    2. Degrees of freedom: 2 variance^2 / (variance of the variance), Satterthwaite 1946, doi:10.2307/3002019.
    3. Skewness, because a few crowded cells lengthen the upper side of an interval.

    Parameters
    ----------
    influence
        (..., cell) contribution of a cell, before weighting.
    layout
        How the cells were drawn.

    Returns
    -------
    Spread
        A segment with one labelled cell adds no variance (see `merged_segments`). Degrees of freedom are corrected for
        segments of two cells; heavy tails lower them.
    """
    n, size = layout.labelled, layout.segment_size
    mean = layout.by_segment(influence) / n
    squares = layout.by_segment((influence - mean[..., layout.segment]) ** 2)
    v = size**2 * layout.chance * squares / (n * np.maximum(n - 1, 1))
    variance = v.sum(axis=-1)
    # Satterthwaite: (sum of V)^2 / sum of V^2 / (n - 1). Only estimates v are known, with E[v^2] = V^2 (n + 1) / (n -
    # 1). So v^2 / (n + 1) estimates V^2 / (n - 1), and (sum of v)^2 is too large by twice their sum: hence the - 2.
    below = (v**2 / (n + 1)).sum(axis=-1)
    df = np.divide(variance**2, below, out=np.full_like(variance, 2.0), where=below > 0) - 2
    return Spread(variance, df, _skew(influence, layout))


def _skew(influence: Array, layout: Layout) -> Array:
    """Skewness of the estimator, computed by strata, because two cells of a segment have no skewness.

    Of n of N cells without replacement, f = n / N, the mean has variance (1 - f) k2 / n and third moment
    (1 - f) (1 - 2 f) k3 / n^2; k2 and k3 are Fisher's unbiased k-statistics.
    """
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
