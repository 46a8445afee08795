"""Units with too few labelled cells: the working prediction of the whole sample, carried over, and its error.

In: predictions and direct estimates of units. Out: synthetic estimates with a root mean squared error. It holds the
error that all units share (the sample decides it), and how far units depart from what the whole sample says of them:
the spread between direct and synthetic estimates of units that have both, less what chance explains.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.layout import Array

ENOUGH = 5
"""Labelled cells from which a unit's direct estimate says how far units depart."""
UNITS = 3
"""Units of this kind, at least; with fewer, a synthetic estimate has no error."""


def departure(direct: Array, variance: Array, synthetic: Array, labelled: NDArray[np.int64]) -> float:
    """How far units depart from their synthetic estimates, as a share of them; NaN where too few units say so.

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
    weight = synthetic[use] ** 2 / variance[use]  # a unit counts by how sharply it tells
    share = float((weight * excess / synthetic[use] ** 2).sum() / weight.sum())
    # Chance alone makes half of such sums negative; then the error of the sum itself is what can be said.
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
        What `departure` returns.
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
        (unit,) what each unit's children shall sum to; for the highest units, their own sum counts.

    Returns
    -------
    numpy.ndarray
        1 where nothing is changed: a unit without parent, or a parent or sibling without estimate.
    """
    factor = np.ones(len(values))
    for one in np.unique(parent[parent >= 0]):
        children = np.flatnonzero(parent == one)
        total = values[children].sum()
        if np.isfinite(total) and total > 0 and np.isfinite(totals[one]):
            factor[children] = totals[one] / total
    return factor
