"""Means over blocks of pixels: the supports at which counts are calibrated and judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

SUPPORTS = {"pixel": 1, "1 ha": 10, "4 ha": 20, "1 km2": 100}
"""Name -> side of a block in pixels of 10 m."""


def block_means(values: FloatArray, side: int, *, least: float = 0.5) -> tuple[FloatArray, FloatArray]:
    """Mean over the observed pixels of blocks.

    Parameters
    ----------
    values
        (..., y, x), NaN where not observed.
    side
        Pixels; what is left over at the lower and right edge is dropped.
    least
        Blocks observed less than this are dropped (NaN).

    Returns
    -------
    tuple
        mean (..., rows, cols), NaN where dropped, and number of observed pixels of the same shape.
    """
    rows, cols = values.shape[-2] // side, values.shape[-1] // side
    observed = np.isfinite(values)

    def blocks(a: NDArray[Any]) -> FloatArray:
        cut = a[..., : rows * side, : cols * side]
        return np.asarray(cut.reshape(*a.shape[:-2], rows, side, cols, side).sum(axis=(-3, -1), dtype=np.float64))

    number = blocks(observed)
    total = blocks(np.where(observed, values, 0))
    enough = number >= max(least * side**2, 1)
    return np.where(enough, total / np.maximum(number, 1), np.nan), np.where(enough, number, 0)
