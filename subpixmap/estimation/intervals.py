"""A total and its spread -> an interval that covers, or none.

In: value, variance, degrees of freedom, skewness. Out: lower and upper end; NaN where no interval may be printed.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from subpixmap.estimation.estimators import Spread
from subpixmap.estimation.layout import Array

MIN_CELLS = 30
"""Labelled cells of a unit below which no interval is printed."""
MIN_ZERO = 30
"""Labelled cells where the map predicts nothing, below which no interval is printed of a unit that has such land."""
MIN_DF = 2.0
"""Degrees of freedom below which no interval is printed: the variance rests on one or two cells."""
MOST_SKEW = 0.7
"""Skewness that an interval is corrected for; a sample says little of more."""


def interval(value: Array, spread: Spread, *, level: float = 0.95, least: Array | float = 0.0) -> tuple[Array, Array]:
    """Ends of the interval of a total.

    Student's t with the degrees of freedom of the variance, and the first term of the Cornish-Fisher expansion for the
    skewness of the estimator: a few rare, crowded cells make the upper side longer.

    Parameters
    ----------
    value, spread
        (...) the total and its error.
    level
        Confidence.
    least
        (...) objects that were labelled in the domain: the total cannot be smaller.

    Returns
    -------
    tuple of numpy.ndarray
        (...) lower and upper ends; NaN where the variance is zero or rests on too little.
    """
    usable = (spread.variance > 0) & (spread.df >= MIN_DF)
    se = np.sqrt(np.where(usable, spread.variance, np.nan))
    t = stats.t.ppf(0.5 + level / 2, np.where(usable, spread.df, MIN_DF))
    z = stats.norm.ppf(0.5 + level / 2)
    shift = np.clip(spread.skew, -MOST_SKEW, MOST_SKEW) * (2 * z**2 + 1) / 6
    # The long side gets all of the shift; the short side gives up half of it, as the skewness itself is a guess.
    low = value - se * (t - np.where(shift > 0, shift / 2, shift))
    high = value + se * (t + np.where(shift > 0, shift, shift / 2))
    return np.maximum(low, least), np.maximum(high, least)
