"""Areas that could be labelled -> those that would teach a model most, and why.

In: for every area how far the opinions of the model differ, what it holds of the total, and how it looks to the
network. Out: areas in the order in which they should be labelled.

Three things speak for an area. The networks disagree on its count: they have not learnt this yet. It looks unlike all
that is labelled or chosen: k-center greedy, the core set of Sener and Savarese 2018 (arXiv 1708.00489), with which
Rodriguez et al. 2021 (RSE 261:112479) chose areas of oil palms. It holds much of the total: an error there counts.
Units differ, so each reason is a rank among the areas, 0 to 1, and the ranks are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError

REASONS = {
    "disagreement": "the networks disagree",
    "distance": "unlike what is labelled or chosen",
    "share": "much of the total",
}
"""What may speak for an area, in words."""
ALL = "all"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Suggested:
    """The areas that were chosen, first to last."""

    index: NDArray[np.int64]
    """Positions among the areas."""
    ranks: Mapping[str, Array]
    """Reason -> (chosen,) rank among all areas when it was chosen, 0 to 1 (the highest); of all three reasons."""
    distance: Array
    """(chosen,) to the nearest area that was labelled or chosen before; NaN where there was none."""

    @property
    def reason(self) -> list[str]:
        """The strongest reason of each, by name."""
        names = list(REASONS)
        return [names[i] for i in np.argmax([self.ranks[name] for name in names], axis=0)]


def suggest_areas(
    features: NDArray[Any],
    disagreement: NDArray[Any],
    share: NDArray[Any],
    n: int,
    *,
    known: NDArray[Any] | None = None,
    by: str = ALL,
) -> Suggested:
    """Choose areas one after the other; the distances of the others shrink with each.

    1. Scale the features, and measure how far each area is from the labelled ones.
    2. Add up the ranks of the reasons, and take the best area that is left.
    3. Measure the distances again, with this one among the chosen; go on with 2.

    Parameters
    ----------
    features
        (area, feature): areas that look alike to the network lie close together.
    disagreement, share
        (area,) of any unit; larger is better.
    n
        Areas to choose.
    known
        (area, feature) of areas that are labelled already.
    by
        One of `REASONS`, or all of them.

    Raises
    ------
    InputError
        More areas are asked for than there are, or fewer than one; an unknown reason.
    """
    if not 1 <= n <= len(features):
        raise InputError(f"--n {n}: there are {len(features):,} areas that can be suggested, give 1 to {len(features)}")
    require_reason(by)
    # 1. Without labelled areas no distance is known, and novelty says nothing about the first choice.
    nearest = np.full(len(features), np.inf)
    scale = _scale(np.asarray(features, float))
    points = np.asarray(features, float) / scale
    for one in np.asarray(known, float) / scale if known is not None else ():
        nearest = np.minimum(nearest, _distances(points, one))
    ranks = {"disagreement": _ranks(disagreement), "share": _ranks(share)}
    left = np.ones(len(features), bool)
    chosen: list[int] = []
    told: dict[str, list[float]] = {name: [] for name in REASONS}
    distances = []
    for _ in range(n):  # 2.
        now = ranks | {"distance": _ranks(nearest) if np.isfinite(nearest).all() else np.zeros(len(features))}
        score = now[by] if by != ALL else sum(now.values(), np.zeros(len(features)))
        best = int(np.argmax(np.where(left, score, -1)))
        for name in REASONS:
            told[name].append(float(now[name][best]))
        distances.append(float(nearest[best]))
        chosen.append(best)
        left[best] = False
        nearest = np.minimum(nearest, _distances(points, points[best]))  # 3.
    far = np.array(distances)
    return Suggested(
        np.array(chosen),
        {name: np.array(values) for name, values in told.items()},
        np.where(np.isfinite(far), far, np.nan),
    )


def require_reason(by: str) -> None:
    """Refuse what is no reason of an area."""
    if by not in (ALL, *REASONS):
        raise InputError(f"--by {by!r} is unknown; choose {ALL}, {', '.join(REASONS)}")


def _scale(features: Array) -> Array:
    """(feature,) standard deviations, so that none weighs more than others; 1 where a feature is constant."""
    spread = features.std(axis=0)
    return np.where(spread > 1e-9 * max(1.0, float(spread.max(initial=0))), spread, 1.0)


def _distances(points: Array, one: Array) -> Array:
    """(area,) Euclidean."""
    distances: Array = np.sqrt(((points - one) ** 2).sum(axis=1))
    return distances


def _ranks(values: NDArray[Any]) -> Array:
    """Share of the areas whose value is lower, 0 to 1; equal values have the same rank."""
    values = np.asarray(values, float)
    lower = np.searchsorted(np.sort(values), values, side="left")
    return lower / max(len(values) - 1, 1)
