"""A total and its spread -> an interval that covers, or none.

In: value, variance, degrees of freedom, skewness. Out: lower and upper end; NaN where no interval may be printed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from subpixmap.estimation.estimators import Spread
from subpixmap.estimation.layout import Array

MIN_CELLS = 30
"""Labelled cells of a unit below which no interval is printed."""
MIN_ZERO = 30
"""Labelled cells where the map predicts nothing, below which no interval is printed of a unit that has such land."""
MIN_DF = 2.0
"""Degrees of freedom below which no interval is printed: the variance rests on one or two cells."""
MIN_FULL = 15
"""Labelled cells elsewhere, below which no interval is printed of a unit that has so much other land."""
MOST_UNSEEN = 0.5
"""Of an estimate: where more may stand unseen, no interval is printed."""
_ZERO_MATTERS = 0.1  # share of a unit's cells in which the map predicts nothing
MOST_SKEW = 0.7
"""Skewness that an interval is corrected for; a sample says little of more."""


def interval(
    value: Array, spread: Spread, *, level: float = 0.95, least: Array | float = 0.0, unseen: Array | float = 0.0
) -> tuple[Array, Array]:
    """Ends of the interval of a total.

    1. Student's t with the degrees of freedom of the variance.
    2. A shift for skewness, skew * (2 z^2 + 1) / 6 standard errors: a few crowded cells make the upper side longer
       (Cornish-Fisher for a studentised mean; Johnson 1978, J. Am. Stat. Assoc. 73, 536-544).
    3. What may stand unseen is added to the upper end. The total is then known up to a range, and the interval is
       that of Imbens and Manski 2004, doi:10.1111/j.1468-0262.2004.00555.x.

    Parameters
    ----------
    value, spread
        (...) the total and its error.
    level
        Confidence.
    least
        (...) objects that were labelled in the domain: the total cannot be smaller.
    unseen
        (...) objects that the sample may have missed altogether (`unseen_objects`).

    Returns
    -------
    tuple of numpy.ndarray
        (...) lower and upper ends; NaN where the variance is zero or rests on too little.
    """
    usable = (spread.variance > 0) & (spread.df >= MIN_DF)
    se = np.sqrt(np.where(usable, spread.variance, np.nan))
    side = _one_side(level, np.where(usable, unseen / np.where(usable, se, 1.0), 0.0))
    t = stats.t.ppf(side, np.where(usable, spread.df, MIN_DF))
    z = stats.norm.ppf(side)
    shift = np.clip(spread.skew, -MOST_SKEW, MOST_SKEW) * (2 * z**2 + 1) / 6
    # The long side gets all of the shift; the short side gives up half of it, as the skewness itself is a guess.
    low = value - se * (t - np.where(shift > 0, shift / 2, shift))
    high = value + unseen + se * (t + np.where(shift > 0, shift, shift / 2))
    return np.maximum(low, least), np.maximum(high, least)


def _one_side(level: float, width: Array) -> Array:
    """(...) chance that either end holds, when the total is known up to a range of `width` standard errors.

    The range has two ends and the total lies at one of them at most, so with a wide range each end may fail as often as
    the whole interval: z solves Phi(z + width) - Phi(-z) = level.
    """
    both = 0.5 + level / 2
    low, high = np.full(np.shape(width), stats.norm.ppf(level)), np.full(np.shape(width), stats.norm.ppf(both))
    for _ in range(40):  # by halving
        z = (low + high) / 2
        enough = stats.norm.cdf(z + width) - stats.norm.cdf(-z) >= level
        low, high = np.where(enough, low, z), np.where(enough, z, high)
    side: Array = np.where(width > 0, stats.norm.cdf(high), both)
    return side


def why_none(
    value: Array,
    spread: Spread,
    *,
    unseen: Array | float,
    labelled: NDArray[np.int64],
    labelled_zero: NDArray[np.int64],
    cells: Array,
    zero_cells: Array,
    min_cells: int = MIN_CELLS,
) -> NDArray[np.object_]:
    """Why no interval is printed, empty where one is.

    Parameters
    ----------
    value, spread
        (...) the total and its error.
    unseen
        (...) as in `interval`.
    labelled, labelled_zero
        (...) labelled cells of a unit, and those of them where the map predicts nothing.
    cells, zero_cells
        (...) cells of the frame, alike.
    min_cells
        Labelled cells below which no interval is printed.
    """
    note = np.full(np.broadcast_shapes(spread.df.shape, np.shape(labelled)), "", object)
    checks = [
        (spread.df < MIN_DF, "the error rests on one or two labelled cells"),
        (~(spread.variance > 0), "the labelled cells show no spread"),
        (
            (zero_cells > _ZERO_MATTERS * cells) & (labelled_zero < np.minimum(MIN_ZERO, zero_cells)),
            f"fewer than {MIN_ZERO} labelled cells where the map predicts nothing",
        ),
        (
            labelled - labelled_zero < np.minimum(MIN_FULL, cells - zero_cells),
            f"fewer than {MIN_FULL} labelled cells where the map predicts objects",
        ),
        (
            unseen > MOST_UNSEEN * np.abs(value),
            "too few labelled cells where the map predicts nothing: much may stand unseen",
        ),
        (labelled < min_cells, f"fewer than {min_cells} labelled cells"),
    ]
    for applies, text in checks:
        note[np.broadcast_to(applies, note.shape)] = text
    return note
