"""Per-object arrays as whole steps of 1/512 in 16 bits: a third of the room of float32, and every sum is kept.

Rounding each pixel by itself shifts a total: by the chance of millions of roundings, and where empty land is predicted
a hair beside zero by all of that hair. So what is rounded is the running sum over an inner chunk, row by row, and each
pixel gets its step in it: any run of pixels along the rows keeps its sum to one step, and a chunk to half a step.

A step is a power of two: whoever multiplies by it, in float32 or float64, gets the same numbers. On disk 64 is added
to the steps, so that noise around zero changes one of the two bytes only; the other then costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.grid import CHUNK

STEP = 2.0**-9
"""Objects per pixel (or share, of `presence`) of one step; the noise of a prediction is ten times as wide."""
FILL = -(2**15)
"""The step where a value is NaN."""
ZERO = 64
"""Added to steps on disk."""
_MOST = 2**15 - 2 - ZERO  # steps; one more may come from the running sum


def encode(values: NDArray[Any]) -> NDArray[np.int16]:
    """Steps of finite values, `FILL` where they are NaN.

    Parameters
    ----------
    values
        (..., y, x) float32, whole inner chunks of 256 x 256 px. Decoded values give the same steps again.

    Raises
    ------
    InputError
        A value is infinite or beyond +-63.87.
    """
    stored = np.empty(values.shape, np.int16)
    for source, target in zip(_chunks(values), _chunks(stored), strict=True):
        missing = np.isnan(source)
        steps = np.where(missing, 0, source).astype(np.float64) / STEP
        if (most := max(steps.max(), -steps.min())) > _MOST:
            raise InputError(
                f"{most * STEP:.4g} objects are predicted in one pixel, and the map holds at most {_MOST * STEP:.2f}: "
                "the model has never seen such input. Compare the digital numbers of its scenes with the headers of "
                "the files (nodata, offset, scale); if larger pixels were forced, use a smaller --resolution"
            )
        # Round the running sum, and give each pixel its step in it: errors do not add up.
        sums = np.rint(np.cumsum(steps))
        target[:] = np.where(missing, FILL, np.diff(sums, prepend=0).reshape(source.shape))
    return stored


def decode(stored: NDArray[np.int16]) -> NDArray[np.float32]:
    """Values of steps, float32; NaN for `FILL`."""
    values = stored * np.float32(STEP)
    values[stored == FILL] = np.nan
    return values


def is_known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where something was observed: values that are not NaN, or steps that are not `FILL`."""
    observed: NDArray[np.bool_] = values != FILL if values.dtype.kind == "i" else np.isfinite(values)
    return observed


def step_of(values: NDArray[Any]) -> float:
    """What one unit of the values is worth: `STEP` for steps, 1 for values."""
    return STEP if values.dtype.kind == "i" else 1.0


def as_stored(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays of a whole block as the map gives them back."""
    return {name: decode(encode(one)) if one.dtype.kind == "f" else one for name, one in arrays.items()}


def _chunks(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of the inner chunks, (256, 256) each, in a fixed order."""
    rows, cols = values.shape[-2] // CHUNK, values.shape[-1] // CHUNK
    split = values.reshape(-1, rows, CHUNK, cols, CHUNK)
    return [split[k, r, :, c] for k, r, c in np.ndindex(len(split), rows, cols)]
