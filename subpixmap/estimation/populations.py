"""Simulated places with known objects, and maps of them with typical errors.

In: a kind and a seed. Out: counts and map counts of all cells, to try estimators on (`coverage`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.layout import Array

KINDS = ("easy", "rare", "omission", "crowded", "hidden", "biased", "clouded", "clumped")
"""What `make_population` makes."""
_OMITTED = {"omission": 0.05, "crowded": 0.01, "hidden": 0.005}
"""Share of cells on empty land with objects that the map misses."""


@dataclass(frozen=True)
class Population:
    """All cells of a place: true counts and map counts."""

    x: Array
    """(cell,) place, cells."""
    y: Array
    count: Array
    """(cell,) objects."""
    predicted: Array
    """(cell,) objects of the map; 0 where not observed."""
    seen: NDArray[np.bool_]
    """(cell,) whether it is observed in the map."""
    present: NDArray[np.bool_]
    """(cell,) whether the map predicts objects."""
    near: NDArray[np.bool_]
    """(cell,) whether the map predicts objects nearby."""

    @property
    def truth(self) -> float:
        """Total number of objects."""
        return float(self.count.sum())


def make_population(kind: str, *, side: int = 120, seed: int = 0) -> Population:
    """A simulated place of `side` x `side` cells, and a map of it.

    Parameters
    ----------
    kind
        "easy": plantations, seen well. "rare": objects in one cell of a hundred. "omission": the map misses a ninth of
        the objects, which stand in one of twenty cells of empty land; "crowded": in one of a hundred; "hidden": in one
        of two hundred, so that a sample easily sees none. "biased": the map is 40 % too high and blurs. "clouded": a
        quarter of the land was not seen. "clumped": few cells hold most objects, and the map errs by a factor.
    """
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(side * side), side)
    field = _smooth(rng, side, 6).ravel()
    share = {"rare": 0.01, "clumped": 0.08}.get(kind, 0.15)
    full = field > np.quantile(field, 1 - share)
    mean = np.where(full, 40 * (field - np.quantile(field, 1 - share)) / np.ptp(field) + 8, 0.0)
    if kind == "clumped":
        mean = mean * rng.gamma(0.5, 2.0, mean.shape)
    count = rng.poisson(mean).astype(float)
    error = {"clumped": rng.lognormal(-0.3, 0.8, count.shape)}.get(kind, rng.lognormal(-0.03, 0.25, count.shape))
    predicted = count * error + rng.normal(0, 0.15, count.shape)
    if kind == "biased":
        predicted = 1.4 * (0.8 * predicted + 0.2 * _blurred(predicted, side))
    if kind in _OMITTED:
        alone = ~full & (rng.random(count.shape) < _OMITTED[kind])
        count[alone] += rng.poisson(count.sum() / 8 / alone.sum(), int(alone.sum()))
    seen = np.ones(count.shape, bool)
    if kind == "clouded":
        cloud = _smooth(rng, side, 8).ravel()
        seen = cloud < np.quantile(cloud, 0.75)
    predicted = np.where(seen, predicted, 0.0)
    present = seen & (predicted > 1)
    near = _dilated(present.reshape(side, side), 2).ravel() & ~present
    return Population(col.astype(float), row.astype(float), count, predicted, seen, present, near)


def _smooth(rng: np.random.Generator, side: int, sigma: float) -> Array:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(rng.standard_normal((side, side)), sigma))


def _blurred(values: Array, side: int) -> Array:
    from scipy.ndimage import uniform_filter

    return np.asarray(uniform_filter(values.reshape(side, side), 3)).ravel()


def _dilated(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(mask.astype(np.uint8), 2 * reach + 1)) > 0
