"""Checks whether input is similar to the training data.

In: reflectance. Out: the pixels whose input lies outside the range that the card of the model gives, or whose
surroundings do not look like the land of the training, where the card says what that looks like (see `likeness`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpixmap.model.checkpoint import Model


def out_of_domain(
    model: Model, reflectance: NDArray[np.float32], observed: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """(y, x): True where the input is unlike the training data; False without data.

    Parameters
    ----------
    model
        From `checkpoint.load_model`.
    reflectance
        (band, y, x) in the order of the card's bands.
    observed
        (y, x): what is clear; by default what has data. Only such pixels tell what their surroundings look like.

    Notes
    -----
    A pixel is unlike the training data where any band lies outside the card's range. With a card that has `likeness`,
    so is every pixel of a cell around which the land looks different. Cells are counted from the corner of the window.
    """
    card = model.card
    shape = (len(card.bands), 1, 1)
    low = np.asarray(card.input_low, np.float32).reshape(shape)
    high = np.asarray(card.input_high, np.float32).reshape(shape)
    unlike = np.asarray(((reflectance < low) | (reflectance > high)).any(axis=0))
    if (likeness := model.likeness) is None:
        return unlike
    has_data = np.asarray(np.isfinite(reflectance).all(axis=0))
    seen = has_data if observed is None else np.asarray(observed & has_data)
    return np.asarray(unlike | (has_data & likeness.unlike(reflectance, seen)))
