"""What the map says of cells -> strata.

In: predicted counts, presence, whether the map saw them. Out: a stratum for every cell. The sample is drawn inside
them, so that cells of a kind are compared with each other.
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
"""Objects: a cell without presence that holds fewer is taken to hold nothing."""

Array = NDArray[np.float64]


def stratify(
    predicted: Array, seen: NDArray[np.bool_], present: NDArray[np.bool_], near: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], list[str]]:
    """Stratum of every cell, and the names of the strata that hold cells.

    Parameters
    ----------
    predicted
        (cell,) size measure: objects of the cell, several objects as shares of their totals.
    seen
        (cell,) whether the map saw any of it, in every period.
    present
        (cell,) whether objects are predicted in it.
    near
        (cell,) whether objects are predicted close by.
    """
    names = [UNSEEN, FAR, NEAR, *(f"predicted, class {k + 1} of {CLASSES}" for k in range(CLASSES))]
    full = seen & present
    stratum = np.where(seen, np.where(near, 2, 1), 0)
    stratum[full] = 3 + size_classes(predicted[full])
    kept = np.unique(stratum)
    return np.searchsorted(kept, stratum), [names[one] for one in kept]


def size_classes(predicted: Array) -> NDArray[np.int64]:
    """Classes from few to many: limits at equal steps of the cumulated square root of the sizes.

    After Dalenius and Hodges 1959, J. Am. Stat. Assoc. 54, 88-101, whose rule cumulates the root of frequencies.
    """
    root = np.sqrt(np.maximum(predicted, 0))
    order = np.argsort(root, kind="stable")
    along = np.cumsum(root[order])
    classes = np.zeros(len(root), np.int64)
    if len(root) and along[-1] > 0:
        classes[order] = np.minimum((along / along[-1] * CLASSES).astype(np.int64), CLASSES - 1)
    return classes
