"""Computes the interval of a total from its spread, or none.

In: value, variance, degrees of freedom, skewness. Out: lower and upper end; NaN where no interval is allowed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.estimators import Spread
from subpixmap.estimation.layout import Array

MIN_CELLS = 30
"""Minimum number of labelled cells in a unit for an interval."""
MIN_ZERO = 30
"""Minimum number of labelled cells where the map predicts nothing, for an interval of a unit with such land."""
MIN_DF = 2.0
"""Minimum degrees of freedom for an interval; with fewer, the variance depends on one or two cells."""
MIN_FULL = 15
"""Minimum number of labelled cells on other land, for an interval of a unit with this much other land."""
MOST_UNSEEN = 0.5
"""Largest share of unseen objects in an estimate for which an interval is printed."""
_ZERO_MATTERS = 0.1  # share of a unit's cells in which the map predicts nothing
MOST_SKEW = 0.7
"""Largest skewness corrected for in an interval; larger values cannot be estimated well."""


def interval(
    value: Array, spread: Spread, *, level: float = 0.95, least: Array | float = 0.0, unseen: Array | float = 0.0
) -> tuple[Array, Array]:
    """Ends of the interval of a total.

    1. Student's t with the degrees of freedom of the variance.
    2. A shift for skewness, skew * (2 z^2 + 1) / 6 standard errors: a few crowded cells make the upper side longer
       (Cornish-Fisher for a studentised mean; Johnson 1978, J. Am. Stat. Assoc. 73, 536-544).
    3. Objects that may be unseen are added to the upper end. The total then is known up to a range, with the interval
    of Imbens and Manski 2004, doi:10.1111/j.1468-0262.2004.00555.x.

    Parameters
    ----------
    value, spread
        (...) the total and its error.
    level
        Confidence.
    least
        (...) labelled objects in the domain: the total cannot be smaller.
    unseen
        (...) objects that the sample may have missed altogether (`unseen_objects`).

    Returns
    -------
    tuple of numpy.ndarray
        (...) lower and upper ends; NaN where the variance is zero or too uncertain.
    """
    from scipy.special import ndtri
    from scipy.stats import t as student

    usable = (spread.variance > 0) & (spread.df >= MIN_DF)
    se = np.sqrt(np.where(usable, spread.variance, np.nan))
    side = _one_side(level, np.where(usable, unseen / np.where(usable, se, 1.0), 0.0))
    t = student.ppf(side, np.where(usable, spread.df, MIN_DF))
    z = ndtri(side)
    shift = np.clip(spread.skew, -MOST_SKEW, MOST_SKEW) * (2 * z**2 + 1) / 6
    # The long side gets the whole shift, the short side half of it, because the skewness is uncertain.
    low = value - se * (t - np.where(shift > 0, shift / 2, shift))
    high = value + unseen + se * (t + np.where(shift > 0, shift, shift / 2))
    return np.maximum(low, least), np.maximum(high, least)


def _one_side(level: float, width: Array) -> Array:
    """(...) confidence of each end when the total is known up to a range of `width` standard errors.

    The total lies at one end of the range at most, so with a wide range each end may fail as often as the whole
    interval: z solves Phi(z + width) - Phi(-z) = level.
    """
    from scipy.special import ndtr, ndtri

    both = 0.5 + level / 2
    low, high = np.full(np.shape(width), ndtri(level)), np.full(np.shape(width), ndtri(both))
    for _ in range(40):  # by halving
        z = (low + high) / 2
        enough = ndtr(z + width) - ndtr(-z) >= level
        low, high = np.where(enough, low, z), np.where(enough, z, high)
    side: Array = np.where(width > 0, ndtr(high), both)
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
    """The reason for a missing interval; empty if there is one.

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
        Minimum number of labelled cells for an interval.
    """
    note = np.full(np.broadcast_shapes(spread.df.shape, np.shape(labelled)), "", object)
    checks = [
        (spread.df < MIN_DF, "the error depends on only one or two labelled cells"),
        (~(spread.variance > 0), "the labelled cells all have the same error, so no variance is known"),
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
            "too few labelled cells where the map predicts nothing: many objects may be missed",
        ),
        (labelled < min_cells, f"fewer than {min_cells} labelled cells"),
    ]
    for applies, text in checks:
        note[np.broadcast_to(applies, note.shape)] = text
    return note
