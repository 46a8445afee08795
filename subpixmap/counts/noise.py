"""The within-period noise: how much a unit's total would vary with other acquisitions.

In: the sums of every single acquisition on the ledger's 128 px grid. Out: a standard error of the period's total. The
error of an acquisition (haze, sun, phenology) is common to all its pixels, so deviations are added up over a unit with
their signs before they are squared. Acquisitions are assumed independent. Errors common to all acquisitions (bias of
the model, calibration of the sensor) are not included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEAST = (
    0.25  # share of the best-observed acquisition of a cell; a small gap between clouds does not represent the cell
)
_MERGE = 64


def cell_noise(observed_px: NDArray[Any], total: NDArray[Any], weights: Array) -> tuple[Array, Array]:
    """Deviation of each acquisition, in objects, and the pixels of each unit for which it is known.

    1. Take the acquisitions that observed enough of each cell, and their objects per pixel.
    2. Compare each with the mean of the cell: the mean of n values has variance sum of (d - mean)^2 / (n (n - 1)).
    3. Add up the deviations over the cells of a unit, weighted by the unit's pixels.

    Parameters
    ----------
    observed_px
        (acquisition, cy, cx) pixels observed by each acquisition; may have no acquisition.
    total
        (acquisition, object, cy, cx) objects counted there.
    weights
        (unit, cell) pixels of the unit observed in each cell.

    Returns
    -------
    deviations
        (acquisition, unit, object): contribution of the acquisition's error to the unit's total. The sum of squares
        over acquisitions is the variance of the total, which is a mean over acquisitions.
    informed
        (unit,) observed pixels in cells with at least two acquisitions.
    """
    (n_acquisitions, n_objects), n_cells = np.shape(total)[:2], weights.shape[1]
    px = np.asarray(observed_px, float).reshape(n_acquisitions, 1, n_cells)
    sums = np.asarray(total, float).reshape(n_acquisitions, n_objects, n_cells)
    # 1. Clouds change the observed part of a cell; objects per pixel can be compared.
    usable = (px > 0) & (px >= _LEAST * px.max(axis=0, initial=0))
    n = usable.sum(axis=0)  # (1, cell)
    density = np.divide(sums, px, out=np.zeros_like(sums), where=usable)
    # 2. Each deviation times sqrt(n / (n - 1)) / n, so that the squares add up to that variance.
    mean = density.sum(axis=0) / np.maximum(n, 1)
    repeated = n >= 2
    spread = np.sqrt(np.divide(n, n - 1, out=np.zeros(n.shape), where=repeated)) / np.maximum(n, 1)
    deviation = np.where(usable, (density - mean) * spread, 0)  # (acquisition, object, cell)
    # 3. With signs, because haze shifts all cells of an acquisition in the same direction.
    return np.einsum("aoc,uc->auo", deviation, weights), weights @ repeated[0].astype(float)


class Noise:
    """Deviations of single acquisitions by unit, summed over blocks."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, str], list[tuple[NDArray[np.int64], Array]]] = {}

    def note(self, period: int, acquisitions: Sequence[str], deviations: Array) -> None:
        """Add the deviations (acquisition, unit, object) of one block."""
        for name, values in zip(acquisitions, deviations, strict=True):
            at = np.flatnonzero(values.any(axis=1))
            if at.size:
                self._append((period, name), at, values[at])

    def add(self, at: NDArray[np.int64], other: Noise) -> None:
        """Add another's deviations; its unit i is the unit `at[i]` here."""
        for key, parts in other._parts.items():
            for units, values in parts:
                self._append(key, at[units], values)

    def variance(self, n_units: int, n_periods: int, n_objects: int) -> tuple[Array, NDArray[np.int64]]:
        """Variance (unit, period, object) of the totals, and the number (unit, period) of acquisitions behind it."""
        variance = np.zeros((n_units, n_periods, n_objects))
        count = np.zeros((n_units, n_periods), np.int64)
        for (period, _), parts in sorted(self._parts.items()):
            units, values = _merged(parts)
            variance[units, period] += values**2
            count[units, period] += 1
        return variance, count

    def summed(self, weights: Array) -> Noise:
        """The deviations of a weighted sum of units; `weights` (unit, period)."""
        whole = Noise()
        for (period, name), parts in self._parts.items():
            units, values = _merged(parts)
            units, values = units[inside := units < len(weights)], values[inside]
            products = weights[units, period, None] * values
            deviation = np.array([math.fsum(column) for column in products.T])  # the same bits for any set of objects
            if deviation.any():
                whole._append((period, name), np.zeros(1, np.int64), deviation[None])
        return whole

    def _append(self, key: tuple[int, str], at: NDArray[np.int64], values: Array) -> None:
        parts = self._parts.setdefault(key, [])
        parts.append((at, values))
        if len(parts) >= _MERGE:
            parts[:] = [_merged(parts)]


def _merged(parts: list[tuple[NDArray[np.int64], Array]]) -> tuple[NDArray[np.int64], Array]:
    units, back = np.unique(np.concatenate([at for at, _ in parts]), return_inverse=True)
    values = np.concatenate([values for _, values in parts])
    sums = np.zeros((units.size, values.shape[1]))
    np.add.at(sums, back, values)
    return units, sums
