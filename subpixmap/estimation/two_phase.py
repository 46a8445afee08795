"""Two phases: a detector counted in many cells of a sample, people checked some of them -> one count for every cell.

A cell of the first phase gets what its detections predict, b x, and a checked cell also what the prediction lacks, as
many times as there are cells for each checked one:

    u = b x + (n1 / n2) (y - b x) if the cell was checked, else b x

Over a stratum the mean of u is the two-phase regression estimator, unbiased whatever the detector misses or invents as
long as the checked cells were drawn at random within the stratum. Its spread holds both phases: the variance of u is
that of y plus (n1 / n2 - 1) times that of the residuals. So every estimator of a sample can take u for a count. For
large sampling fractions f the part of the second phase is too small by the factor 1 - f. Sources: Cochran 1977,
Sampling Techniques, section 12.6; Sarndal, Swensson and Wretman 1992, section 9.7.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.errors import InputError

MIN_CHECKED = 5
"""Checked cells that a stratum needs."""
_KEYS = ["object", "period"]


def has_two_phases(labelled: pd.DataFrame) -> bool:
    """Whether a detector counted in cells that nobody checked."""
    return "n_detected" in labelled and bool((labelled["n_detected"].notna() & labelled["n_objects"].isna()).any())


def two_phase_counts(
    detected: NDArray[np.floating], checked: NDArray[np.floating], stratum: NDArray[np.integer]
) -> NDArray[np.float64]:
    """A count for every cell of the first phase.

    Parameters
    ----------
    detected
        (cell,) what the detector counted.
    checked
        (cell,) what people counted; NaN where nobody looked.
    stratum
        (cell,) of the design.

    Returns
    -------
    numpy.ndarray
        (cell,) u, to be taken for a count.

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
            f"stratum {one} has {n2[one]} checked cells of {n1[one]}; two phases need {MIN_CHECKED} in each: check more"
        )
    predicted = _slope(x[known], y[known], stratum[known]) * x
    u = predicted.copy()
    u[known] += (n1 / np.maximum(n2, 1))[stratum[known]] * (y[known] - predicted[known])
    return u


def with_detections(labelled: pd.DataFrame, strata: pd.DataFrame) -> pd.DataFrame:
    """Labelled cells whose counts are those of both phases.

    Parameters
    ----------
    labelled
        `cell_id`, `object`, `period`, `n_objects` (blank where nobody looked) and `n_detected`.
    strata
        `cell_id`, `object`, `period` and `stratum` of the drawn cells.

    Raises
    ------
    InputError
        A checked cell has no detections counted, or a stratum has too few checked cells.
    """
    table = labelled.merge(strata[["cell_id", *_KEYS, "stratum"]], on=["cell_id", *_KEYS], how="left")
    if (lost := table["n_detected"].isna()).any():
        row = table[lost].iloc[0]
        raise InputError(
            f"cell {row['cell_id']}, object {row['object']}: n_detected is blank; with two phases the detector counts "
            "in every cell that is labelled"
        )
    parts = []
    for _, part in table.groupby(_KEYS, sort=False):
        detected, checked = part["n_detected"].to_numpy(float), part["n_objects"].to_numpy(float)
        u = two_phase_counts(detected, checked, part["stratum"].to_numpy(np.int64))
        parts.append(part.assign(n_objects=u))
    return pd.concat(parts).sort_index().drop(columns="stratum")


def _slope(x: NDArray[np.float64], y: NDArray[np.float64], stratum: NDArray[np.integer]) -> float:
    """Objects for a detection, by least squares within strata; 1 where detections do not differ."""
    n = np.maximum(np.bincount(stratum), 1)
    off_x, off_y = (a - (np.bincount(stratum, a) / n)[stratum] for a in (x, y))
    below = float((off_x**2).sum())
    return float((off_x * off_y).sum()) / below if below > 0 else 1.0
