"""Is the input like the training data? The condition under which a model may be used.

In: reflectance. Out: the pixels whose input lies outside the range that the card of the model gives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpixmap.model.checkpoint import Model


def out_of_domain(model: Model, reflectance: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(y, x): True where any band lies outside the card's input range; False where there is no data.

    Parameters
    ----------
    model
        From `checkpoint.load_model`.
    reflectance
        (band, y, x) in the order of the card's bands.
    """
    shape = (len(model.card.bands), 1, 1)
    low = np.asarray(model.card.input_low, np.float32).reshape(shape)
    high = np.asarray(model.card.input_high, np.float32).reshape(shape)
    return np.asarray(((reflectance < low) | (reflectance > high)).any(axis=0))
