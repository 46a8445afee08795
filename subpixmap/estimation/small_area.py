"""Synthetic estimates of units with too few labelled cells, from the whole sample, and their error.

In: predictions and direct estimates of units. Out: synthetic estimates with a root mean squared error. It has two
parts: the common error of all units (sampling error of the region), and the departure of units from it: the spread
between direct and synthetic estimates of units that have both, less sampling error.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.layout import Array

ENOUGH = 5
"""Minimum number of labelled cells of a unit to measure its departure from the synthetic estimate."""
UNITS = 3
"""Minimum number of such units; with fewer, synthetic estimates have no standard error."""


def departure(direct: Array, variance: Array, synthetic: Array, labelled: NDArray[np.int64]) -> float:
    """Departure of units from their synthetic estimates, as a share of them; NaN with too few units.

    Parameters
    ----------
    direct, variance
        (unit,) design-based estimates and their variances.
    synthetic
        (unit,).
    labelled
        (unit,) labelled cells.
    """
    use = (labelled >= ENOUGH) & (synthetic > 0) & np.isfinite(direct) & (variance > 0)
    if use.sum() < UNITS:
        return float("nan")
    excess = (direct[use] - synthetic[use]) ** 2 - variance[use]
    weight = synthetic[use] ** 2 / variance[use]  # weight of a unit by its precision
    share = float((weight * excess / synthetic[use] ** 2).sum() / weight.sum())
    # Half of such sums are negative by chance; then the error of the sum itself is used.
    noise = float(np.sqrt(2 * (weight**2 * variance[use] ** 2 / synthetic[use] ** 4).sum()) / weight.sum())
    return float(np.sqrt(max(share, noise / 2)))


def synthetic_error(synthetic: Array, shared: float, between: float) -> Array:
    """(unit,) root mean squared error: relative error of the region's total, and departure of a unit.

    Parameters
    ----------
    synthetic
        (unit,).
    shared
        Relative standard error of the region's total.
    between
        Result of `departure`.
    """
    error: Array = np.abs(synthetic) * np.sqrt(shared**2 + between**2)
    return error


def raked(values: Array, parent: NDArray[np.int64], totals: Array) -> Array:
    """(unit,) factors that make units sum to their parents.

    Parameters
    ----------
    values
        (unit,) estimates; NaN where there is none.
    parent
        (unit,) position of the parent, -1 for the highest units.
    totals
        (unit,) required sum of each unit's children; topmost units keep their own sum.

    Returns
    -------
    numpy.ndarray
        1 where unchanged: a unit without parent, or with a parent or sibling without estimate.
    """
    factor = np.ones(len(values))
    for one in np.unique(parent[parent >= 0]):
        children = np.flatnonzero(parent == one)
        total = values[children].sum()
        if np.isfinite(total) and total > 0 and np.isfinite(totals[one]):
            factor[children] = totals[one] / total
    return factor
