"""Stores per-object arrays as steps of 1/512 in 16 bits: a third of the size of float32, with exact sums.

Rounding each pixel separately shifts totals: by random rounding errors, and on empty land, where predictions are near
zero, by a bias. So the running sum over a square of pixels, row by row, is rounded, and each pixel gets its difference:
the sum of any run of pixels along its rows is exact to one step, and that of a square to half a step. A square is an
inner chunk or a cell, whatever a run computes as a whole, so stored values do not depend on the region.

A step is a power of two, so multiplication in float32 and float64 gives the same numbers. On disk 64 is added to the
steps, so that noise around zero changes only one of the two bytes; the other compresses to nothing.
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
_MOST = 2**15 - 2 - ZERO  # steps; the running sum may add one more


def encode(values: NDArray[Any], *, side: int = CHUNK) -> NDArray[np.int16]:
    """Encode finite values as steps, NaN as `FILL`.

    Parameters
    ----------
    values
        (..., y, x) float32, whole squares. Encoding decoded values gives the same steps, for any side.
    side
        Side of a square, pixels: the running sum starts anew in each.

    Raises
    ------
    InputError
        A value is infinite or outside +-63.87.
    """
    stored = np.empty(values.shape, np.int16)
    for source, target in zip(_squares(values, side), _squares(stored, side), strict=True):
        missing = np.isnan(source)
        if missing.all():  # most of a block at a coast
            target[:] = FILL
            continue
        steps = np.where(missing, 0, source).astype(np.float64) / STEP
        if (most := max(steps.max(), -steps.min())) > _MOST:
            raise InputError(
                f"{most * STEP:.4g} objects are predicted in one pixel, but the map can store at most "
                f"{_MOST * STEP:.2f}: the input is unlike the training data. Check the digital numbers of the scenes "
                "against the headers of the files (nodata, offset, scale); with --force and a coarse --resolution, "
                "use a finer one"
            )
        # Round the running sum and take differences: rounding errors do not add up.
        sums = np.rint(np.cumsum(steps))
        target[:] = np.where(missing, FILL, np.diff(sums, prepend=0).reshape(source.shape))
    return stored


def decode(stored: NDArray[np.int16]) -> NDArray[np.float32]:
    """Decode steps to values, float32; NaN for `FILL`."""
    values = stored * np.float32(STEP)
    values[stored == FILL] = np.nan
    return values


def is_known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of observed pixels: values that are not NaN, or steps that are not `FILL`."""
    observed: NDArray[np.bool_] = values != FILL if values.dtype.kind == "i" else np.isfinite(values)
    return observed


def step_of(values: NDArray[Any]) -> float:
    """Value of one unit: `STEP` for steps, 1 for values."""
    return STEP if values.dtype.kind == "i" else 1.0


def as_stored(arrays: Mapping[str, NDArray[Any]], *, side: int = CHUNK) -> dict[str, NDArray[Any]]:
    """Arrays of a whole block after encoding and decoding; `side` as in `encode`."""
    return {name: decode(encode(one, side=side)) if one.dtype.kind == "f" else one for name, one in arrays.items()}


def _squares(values: NDArray[Any], side: int) -> list[NDArray[Any]]:
    """Views of squares, (side, side) each, in a fixed order."""
    rows, cols = values.shape[-2] // side, values.shape[-1] // side
    split = values.reshape(-1, rows, side, cols, side)
    return [split[k, r, :, c] for k, r, c in np.ndindex(len(split), rows, cols)]
