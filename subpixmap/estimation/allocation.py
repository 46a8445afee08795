"""Allocates cells to strata, and computes the sample size for a target.

In: cells and expected residual spread of the strata. Out: numbers of cells. The spread is that of the map's errors
(from a pilot sample or a prior), never of the map itself: a map that misses objects in its zero stratum is smooth
there, so an allocation by the map would put no cells there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError

ZERO_SHARE = 1 / 3
"""Smallest share of the sample on land where the map predicts nothing, because omissions are there."""
ZERO_LEAST = ((150, 50), (80, 40))
"""Minimum number of cells in zero strata, for samples of at least this size."""
LEAST = 4
"""Minimum number of cells per stratum (or all, if it has fewer)."""

Array = NDArray[np.float64]


def allocate(size: NDArray[np.int64], spread: Array, zero: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """Allocate cells to strata, with minimum numbers.

    1. Allocate by size times residual spread, n_h ~ N_h S_h, which minimises the variance of the total (Neyman 1934;
    Cochran 1977, section 5.5). Give every stratum a few cells, since the spread is a guess. 2. Give the zero strata
    their minimum, and allocate the rest again.

    Parameters
    ----------
    size
        (stratum,) cells of the frame.
    spread
        (stratum,) expected standard deviation of count - map in a cell.
    zero
        (stratum,) whether the map predicts nothing there.
    n
        Total number of cells.

    Raises
    ------
    InputError
        The frame has fewer cells, or n is too small for the minimum of every stratum.
    """
    size = np.asarray(size, np.int64)
    share = np.asarray(size * np.maximum(spread, 1e-12), np.float64)
    if n > size.sum():
        raise InputError(f"--n {n}: the frame has only {size.sum()} cells; reduce --n or --cell")
    least = np.minimum(LEAST, size)
    if n < least.sum():
        raise InputError(
            f"--n {n}: {(size > 0).sum()} strata need {least.sum()} cells; raise --n, or use a larger --cell"
        )
    wanted = _proportional(share, size, least, n)  # 1.
    # 2. Residuals on empty land look small until a cell full of missed objects is drawn.
    floor = min(zero_floor(n), int(size[zero].sum()), n - int(least[~zero].sum()))
    if zero.any() and wanted[zero].sum() < floor:
        wanted[zero] = _proportional(share[zero], size[zero], least[zero], floor)
        wanted[~zero] = _proportional(share[~zero], size[~zero], least[~zero], n - floor)
    return wanted


def zero_floor(n: int) -> int:
    """Minimum number of cells of a sample of n on land where the map predicts nothing."""
    return max(int(np.ceil(ZERO_SHARE * n)), next((least for size, least in ZERO_LEAST if n >= size), 0))


def needed(
    size: NDArray[np.int64], spread: Array, zero: NDArray[np.bool_], *, targets: Sequence[tuple[Array, float]]
) -> int:
    """Smallest sample size that reaches all targets.

    Parameters
    ----------
    size, spread, zero
        As in `allocate`.
    targets
        For each object, expected spread by stratum and target standard error, objects.

    Raises
    ------
    InputError
        No sample of the frame reaches the targets.
    """
    low, high = int(np.minimum(LEAST, size).sum()), int(size.sum())

    def reached(n: int) -> bool:
        cells = allocate(size, spread, zero, n)
        return all(expected_error(size, one, cells) <= error for one, error in targets)

    if not all(error > 0 for _, error in targets) or not reached(high):
        raise InputError("no sample of this frame reaches the target; raise --target-cv or use a smaller --cell")
    while low < high:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle + 1
    return low


def expected_error(size: NDArray[np.int64], spread: Array, n: NDArray[np.int64]) -> float:
    """Expected standard error of the total, objects: the root of the sum of N^2 (1 - n / N) S^2 / n over strata."""
    size = np.asarray(size, float)
    variance = np.where(n > 0, size * (size - n) / np.maximum(n, 1) * np.asarray(spread) ** 2, 0.0)
    return float(np.sqrt(variance.sum()))


def _proportional(share: Array, most: NDArray[np.int64], least: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Integers near `share` that sum to n and lie between `least` and `most`."""
    low, high = 0.0, float(n) / max(float(share[share > 0].min(initial=np.inf)), 1e-300)
    for _ in range(200):  # the factor of the shares, by halving
        factor = (low + high) / 2
        if np.clip(share * factor, least, most).sum() < n:
            low = factor
        else:
            high = factor
    exact = np.clip(share * high, least, most)
    whole = np.floor(exact + 1e-9).astype(np.int64)
    for at in np.argsort(whole - exact, kind="stable").tolist() * 2:
        if whole.sum() >= n:
            break
        if whole[at] < most[at]:
            whole[at] += 1
    while whole.sum() > n:  # rounding of a floor
        at = int(np.argmax(whole - least))
        whole[at] -= 1
    return whole
