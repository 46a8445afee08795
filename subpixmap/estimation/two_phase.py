"""Two-phase counts: a detector counted many cells of a sample, people checked some of them.

A cell of the first phase gets the prediction from its detections, b x. A checked cell also gets the error of the
prediction, times the number of cells per checked cell:

    u = b x + (n1 / n2) (y - b x) if the cell was checked, else b x

Over a stratum the mean of u is the two-phase regression estimator, unbiased for any errors of the detector as long as
the checked cells were drawn at random within the stratum. Its spread includes both phases: the variance of u is that of
y plus (n1 / n2 - 1) times that of the residuals. So every estimator can use u as a count. For large sampling fractions
f, the variance of the second phase is too small by the factor 1 - f. Sources: Cochran 1977, Sampling Techniques,
section 12.6; Sarndal, Swensson and Wretman 1992, section 9.7.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.errors import InputError

MIN_CHECKED = 5
"""Minimum number of checked cells per stratum."""
_KEYS = ["object", "period"]


def has_two_phases(labelled: pd.DataFrame) -> bool:
    """Whether a detector counted cells that nobody checked."""
    return "n_detected" in labelled and bool((labelled["n_detected"].notna() & labelled["n_objects"].isna()).any())


def two_phase_counts(
    detected: NDArray[np.floating], checked: NDArray[np.floating], stratum: NDArray[np.integer]
) -> NDArray[np.float64]:
    """A count for every cell of the first phase.

    Parameters
    ----------
    detected
        (cell,) counts of the detector.
    checked
        (cell,) counts of people; NaN where not checked.
    stratum
        (cell,) stratum of the design.

    Returns
    -------
    numpy.ndarray
        (cell,) u, to be used as a count.

    Raises
    ------
    InputError
        A stratum has too few checked cells.
    """
    x, y = np.asarray(detected, float), np.asarray(checked, float)
    known = np.isfinite(y)
    n1 = np.bincount(stratum)
    n2 = np.bincount(stratum[known], minlength=len(n1))
    if (few := (n1 > 0) & (n2 < np.minimum(MIN_CHECKED, n1))).any():
        one = int(few.argmax())
        raise InputError(
            f"stratum {one} has {n2[one]} checked cells of {n1[one]}; two-phase estimates need {MIN_CHECKED} per "
            "stratum: check more cells"
        )
    predicted = _slope(x[known], y[known], stratum[known]) * x
    u = predicted.copy()
    u[known] += (n1 / np.maximum(n2, 1))[stratum[known]] * (y[known] - predicted[known])
    return u


def with_detections(labelled: pd.DataFrame, strata: pd.DataFrame) -> pd.DataFrame:
    """Labelled cells with two-phase counts.

    Parameters
    ----------
    labelled
        `cell_id`, `object`, `period`, `n_objects` (blank where not checked) and `n_detected`.
    strata
        `cell_id`, `object`, `period` and `stratum` of the drawn cells.

    Raises
    ------
    InputError
        A checked cell has no detector count, or a stratum has too few checked cells.
    """
    table = labelled.merge(strata[["cell_id", *_KEYS, "stratum"]], on=["cell_id", *_KEYS], how="left")
    if (lost := table["n_detected"].isna()).any():
        row = table[lost].iloc[0]
        raise InputError(
            f"cell {row['cell_id']}, object {row['object']}: n_detected is blank; fill it in: two-phase estimates "
            "need a detector count in every labelled cell"
        )
    parts = []
    for _, part in table.groupby(_KEYS, sort=False):
        detected, checked = part["n_detected"].to_numpy(float), part["n_objects"].to_numpy(float)
        u = two_phase_counts(detected, checked, part["stratum"].to_numpy(np.int64))
        parts.append(part.assign(n_objects=u))
    return pd.concat(parts).sort_index().drop(columns="stratum")


def _slope(x: NDArray[np.float64], y: NDArray[np.float64], stratum: NDArray[np.integer]) -> float:
    """Objects per detection, by least squares within strata; 1 where all detections are equal."""
    n = np.maximum(np.bincount(stratum), 1)
    off_x, off_y = (a - (np.bincount(stratum, a) / n)[stratum] for a in (x, y))
    below = float((off_x**2).sum())
    return float((off_x * off_y).sum()) / below if below > 0 else 1.0
