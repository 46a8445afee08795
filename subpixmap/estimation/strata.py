"""Stratifies cells by their map values.

In: predicted counts, presence, whether the map saw them. Out: a stratum for every cell. The sample is drawn within
strata of similar cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNSEEN, FAR, NEAR = "not observed", "nothing predicted", "nothing predicted, near objects"
ZERO = (FAR, NEAR)
"""Strata in which the map predicts nothing."""
CLASSES = 3
"""Strata of cells with predicted objects, from few to many."""
ALMOST_NONE = 0.5
"""A cell without presence and fewer objects than this counts as empty."""

Array = NDArray[np.float64]


def stratify(
    predicted: Array, seen: NDArray[np.bool_], present: NDArray[np.bool_], near: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[str]]:
    """Stratum of every cell, and the names of the strata that hold cells.

    Parameters
    ----------
    predicted
        (cell,) size measure: objects of the cell; for several objects, the sum of shares of their totals.
    seen
        (cell,) whether it is observed in every period.
    present
        (cell,) whether objects are predicted in it.
    near
        (cell,) whether objects are predicted nearby.
    """
    names = [UNSEEN, FAR, NEAR, *(f"predicted, class {k + 1} of {CLASSES}" for k in range(CLASSES))]
    full = seen & present
    stratum = np.where(seen, np.where(near, 2, 1), 0)
    stratum[full] = 3 + size_classes(predicted[full])
    kept = np.unique(stratum)
    return np.searchsorted(kept, stratum), [names[one] for one in kept]


def size_classes(predicted: Array) -> NDArray[np.int64]:
    """Classes from few to many objects: limits at equal steps of the cumulated square root of the sizes.

    After Dalenius and Hodges 1959, J. Am. Stat. Assoc. 54, 88-101, whose rule cumulates the root of frequencies.
    """
    root = np.sqrt(np.maximum(predicted, 0))
    order = np.argsort(root, kind="stable")
    along = np.cumsum(root[order])
    classes = np.zeros(len(root), np.int64)
    if len(root) and along[-1] > 0:
        classes[order] = np.minimum((along / along[-1] * CLASSES).astype(np.int64), CLASSES - 1)
    return classes
