"""Matches detections with checked objects; recall, precision, F1 and count bias.

A detection and an object match if they are the same object and their centres lie within a stated distance; each is
matched once, so that as many as possible match and, of those, the nearest do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


@dataclass(frozen=True)
class Tally:
    """Numbers of objects that were found, missed and invented."""

    matched: int
    detected: int
    true: int

    @property
    def recall(self) -> float:
        """Share of the objects that were found; NaN without objects."""
        return self.matched / self.true if self.true else float("nan")

    @property
    def precision(self) -> float:
        """Share of the detections that are objects; NaN without detections."""
        return self.matched / self.detected if self.detected else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        both = self.detected + self.true
        return 2 * self.matched / both if both else float("nan")

    @property
    def bias(self) -> float:
        """(detections - objects) / objects."""
        return (self.detected - self.true) / self.true if self.true else float("nan")

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.matched + other.matched, self.detected + other.detected, self.true + other.true)

    def facts(self) -> dict[str, float | int | None]:
        """For a table or a card; unknown values are None."""
        values = {"recall": self.recall, "precision": self.precision, "f1": self.f1, "count_bias": self.bias}
        rounded = {name: None if np.isnan(value) else round(value, 4) for name, value in values.items()}
        return {"n": self.true, "detected": self.detected, "matched": self.matched, **rounded}


NOTHING = Tally(0, 0, 0)


def match(
    found: NDArray[np.floating],
    true: NDArray[np.floating],
    distance: float,
    *,
    found_kind: NDArray[np.generic] | None = None,
    true_kind: NDArray[np.generic] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (index of a detection, index of an object), each in one pair at most.

    Parameters
    ----------
    found, true
        (n, 2) centres, in one plane, in the unit of `distance`.
    distance
        Largest distance of a pair.
    found_kind, true_kind
        (n,) what each is; pairs are of one kind.
    """
    none = np.zeros(0, np.int64)
    if not len(found) or not len(true):
        return none, none
    pairs = cKDTree(found).sparse_distance_matrix(cKDTree(true), distance, output_type="coo_matrix")
    near_found, near_true, far = pairs.row, pairs.col, pairs.data
    if found_kind is not None and true_kind is not None:
        same = found_kind[near_found] == true_kind[near_true]
        near_found, near_true, far = near_found[same], near_true[same], far[same]
    # Groups of neighbours are matched apart: each is small, however large the country is.
    n = len(found)
    graph = coo_array((np.ones(len(far)), (near_found, near_true + n)), shape=(n + len(true),) * 2)
    group = connected_components(graph, directed=False)[1][near_found]
    order = np.argsort(group, kind="stable")
    chosen: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if part.size:
            chosen.append(_assign(near_found[part], near_true[part], far[part], distance))
    if not chosen:
        return none, none
    return np.concatenate([a for a, _ in chosen]), np.concatenate([b for _, b in chosen])


def _assign(
    found: NDArray[np.integer], true: NDArray[np.integer], far: NDArray[np.floating], distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, row = np.unique(found, return_inverse=True)
    cols, col = np.unique(true, return_inverse=True)
    worthless = 1e3 * distance * (len(rows) + len(cols) + 1)  # a pair more is worth any distances
    cost = np.full((len(rows), len(cols)), worthless)
    cost[row, col] = far
    a, b = linear_sum_assignment(cost)
    paired = cost[a, b] < worthless
    return rows[a[paired]].astype(np.int64), cols[b[paired]].astype(np.int64)
