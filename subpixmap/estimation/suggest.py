"""Chooses areas to label next to improve a model, with reasons.

In: disagreement of the networks, share of the total, and features of every area. Out: areas in the recommended order of
labelling.

There are three reasons for an area. The networks disagree on its count, so they have not learnt this land yet. It is
unlike all labelled and chosen areas: k-center greedy, the core set of Sener and Savarese 2018 (arXiv 1708.00489), with
which Rodriguez et al. 2021 (RSE 261:112479) chose areas of oil palms. It has a large share of the total, so an error
there matters. As the reasons have different units, each is a rank among the areas, 0 to 1, and the ranks are added.
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
    "distance": "unlike the labelled and chosen areas",
    "share": "much of the total",
}
"""Reasons to suggest an area, in words."""
ALL = "all"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Suggested:
    """The chosen areas, best first."""

    index: NDArray[np.int64]
    """Positions among the areas."""
    ranks: Mapping[str, Array]
    """Reason -> (chosen,) rank among all areas when it was chosen, 0 to 1 (the highest); of all three reasons."""
    distance: Array
    """(chosen,) distance to the nearest labelled or chosen area; NaN if there is none."""

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
    """Choose areas one by one; after each choice, update the distances of the others.

    1. Scale the features, and compute the distance of each area from the labelled ones.
    2. Add up the ranks of the reasons, and choose the best remaining area.
    3. Update the distances with this area among the chosen ones; continue with 2.

    Parameters
    ----------
    features
        (area, feature): areas similar to the network are close together.
    disagreement, share
        (area,) in any unit; larger is better.
    n
        Areas to choose.
    known
        (area, feature) of areas already labelled.
    by
        One of `REASONS`, or all of them.

    Raises
    ------
    InputError
        More areas than available or fewer than one are requested, or the reason is unknown.
    """
    if not 1 <= n <= len(features):
        raise InputError(f"--n {n}: give 1 to {len(features)}, the number of areas that can be suggested")
    require_reason(by)
    # 1. Without labelled areas there is no distance, so novelty does not affect the first choice.
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
    """Refuse an unknown reason."""
    if by not in (ALL, *REASONS):
        raise InputError(f"--by {by!r} is unknown; choose {ALL}, {', '.join(REASONS)}")


def _scale(features: Array) -> Array:
    """(feature,) standard deviations, to give all features equal weight; 1 where a feature is constant."""
    spread = features.std(axis=0)
    return np.where(spread > 1e-9 * max(1.0, float(spread.max(initial=0))), spread, 1.0)


def _distances(points: Array, one: Array) -> Array:
    """(area,) Euclidean."""
    distances: Array = np.sqrt(((points - one) ** 2).sum(axis=1))
    return distances


def _ranks(values: NDArray[Any]) -> Array:
    """Share of areas with a lower value, 0 to 1; equal values have the same rank."""
    values = np.asarray(values, float)
    lower = np.searchsorted(np.sort(values), values, side="left")
    return lower / max(len(values) - 1, 1)
