"""What the pixels of training patches are like: statistics of the bands for the card, the scale of the counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpixmap.errors import InputError
from subpixmap.reference.patches import Patches

FloatArray = NDArray[np.floating]


def input_statistics(patches: Patches, *, tail: float = 0.001, sample: int = 400, seed: int = 0) -> dict[str, Any]:
    """Card fields: mean, standard deviation and range of every band over valid training pixels.

    Parameters
    ----------
    patches
        Of the training split.
    tail
        Quantile beyond which an input counts as unlike the training data; the range is widened by a tenth of itself.
    sample
        Most places that are looked at.
    seed
        Of the choice of places.
    """
    index = np.sort(np.random.default_rng(seed).permutation(len(patches))[:sample])
    h = patches.halo
    pixels = patches.reflectance[index][..., h : h + patches.size, h : h + patches.count.shape[-1]]
    pixels = np.moveaxis(pixels, 2, -1)[patches.valid[index]].astype(np.float32)
    low, high = np.quantile(pixels, [tail, 1 - tail], axis=0)
    margin = 0.1 * (high - low)
    return {
        "input_mean": _rounded(pixels.mean(axis=0, dtype=float)),
        "input_std": _rounded(pixels.std(axis=0, dtype=float)),
        "input_low": _rounded(low - margin),
        "input_high": _rounded(high + margin),
    }


def density_scale(patches: Patches) -> Tensor:
    """(object,) root mean square of the count: to count nothing is then an error of 1, whether rare or common."""
    squares = [np.square(patches.count[:, 0, i][patches.labelled], dtype=float) for i in range(len(patches.objects))]
    for name, square in zip(patches.objects, squares, strict=True):
        if not square.any():
            raise InputError(f"the training patches hold no {name}")
    return torch.tensor([float(np.sqrt(square.mean())) for square in squares])


def _rounded(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
