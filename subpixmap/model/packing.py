"""Reflectance in as few bytes as hold it exactly, for its way to a GPU: 11 bytes a pixel for ten bands, not 40.

Bands of 20 m on a lattice of 10 m repeat every pixel in a square of 2 x 2, so one of the four is enough. Reflectance of
digital numbers fits into 16 bits. Packing is done with NumPy on the host, unpacking with PyTorch on the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LOWEST = -1001
"""Of the whole numbers that 16 bits hold, 1/10000 of reflectance: 0 stands for a missing pixel, 1 for -1000."""
_PART_PX = 2**16
"""Pixels packed at once."""
_STRIP = 64
"""Rows compared at once: a band of 10 m differs already in the first ones."""

Phase = tuple[int, int]
"""Row and column, 0 or 1, of the first square of 2 x 2 pixels that lies whole in a window."""


def pack(reflectance: NDArray[np.float32]) -> list[tuple[tuple[int, ...], NDArray[Any], Phase | None]]:
    """Pack a window (band, y, x), NaN where missing, in one or two groups of bands.

    1. Bands that repeat every pixel 2 x 2 times keep it once.
    2. Digital numbers take 16 bits.

    Returns
    -------
    list
        Bands, their values, and the phase of pixels that stand for 2 x 2, for each group. Values of all groups are
        int16 (see `unpacked`), or float32 where a window holds anything but digital numbers.
    """
    coarse, phase = repeated_bands(reflectance)  # 1.
    fine = tuple(band for band in range(len(reflectance)) if band not in coarse)
    groups: list[tuple[tuple[int, ...], NDArray[Any], Phase | None]] = []
    if fine:
        groups.append((fine, reflectance[list(fine)], None))
    if coarse:
        groups.append((coarse, once(reflectance, coarse, phase), phase))
    small = [packed(values) for _, values, _ in groups]  # 2.
    whole = [values.view(np.int16) for values in small if values is not None]
    if len(whole) < len(groups):
        return groups
    return [(bands, values, first) for (bands, _, first), values in zip(groups, whole, strict=True)]


def repeated_bands(reflectance: NDArray[np.float32]) -> tuple[tuple[int, ...], Phase]:
    """Bands of a window (band, y, x) that repeat every pixel in a square of 2 x 2, and where these squares begin."""
    bits = reflectance.view(np.uint32)
    equal = np.array([[[_in_pairs(lines, at) for at in (0, 1)] for lines in (band, band.T)] for band in bits])
    row, col = equal.sum(axis=0).argmax(axis=1).tolist()
    return tuple(np.flatnonzero(equal[:, 0, row] & equal[:, 1, col]).tolist()), (row, col)


def _in_pairs(lines: NDArray[np.uint32], first: int) -> bool:
    """Whether lines, rows or columns, are equal in pairs, the first pair beginning here."""
    strips = (lines[start : start + _STRIP] for start in range(first, len(lines) - 1, _STRIP))
    return all(np.array_equal(strip[:-1:2], strip[1::2]) for strip in strips)


def once(reflectance: NDArray[np.float32], bands: tuple[int, ...], phase: Phase) -> NDArray[np.float32]:
    """One pixel of every square; of a square that the window cuts, the one it holds."""
    rows, cols = (np.r_[:first, first:side:2] for first, side in zip(phase, reflectance.shape[1:], strict=True))
    return np.stack([reflectance[band][rows][:, cols] for band in bands])


def in_squares(values: Tensor, phase: Phase, shape: tuple[int, int, int]) -> Tensor:
    """The inverse of `once`: (band, y, x) with every pixel in its square again."""
    (row, col), (_, rows, cols) = phase, shape
    return values.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, row : row + rows, col : col + cols]


def packed(reflectance: NDArray[np.float32]) -> NDArray[np.uint16] | None:
    """Reflectance (band, y, x) of digital numbers as whole numbers, exact; None where it is of anything else.

    In parts that stay in the cache of a core, which is ten times as fast.
    """
    small = np.empty(reflectance.shape, np.uint16)
    rows = max(1, _PART_PX // max(1, reflectance.shape[2]))
    for band, into in zip(reflectance, small, strict=True):
        for start in range(0, len(band), rows):
            part = band[start : start + rows]
            missing = np.isnan(part)
            numbers = np.rint(part * np.float32(10000))
            numbers -= np.float32(_LOWEST)
            numbers[missing] = 0
            with np.errstate(invalid="ignore"):  # what does not fit is not equal below
                whole = numbers.astype(np.uint16)
            back = (whole + np.float32(_LOWEST)) / np.float32(10000)
            if not np.array_equal(whole == 0, missing) or not ((back == part) | missing).all():
                return None
            into[start : start + rows] = whole
    return small


def unpacked(small: Tensor) -> Tensor:
    """16 bits as float32, on the device where they lie; NaN where a pixel is missing.

    They come as int16, because few operations of PyTorch know 16 bits without a sign. The divisor lies on the device:
    with a number of the host, PyTorch on a GPU multiplies by the reciprocal instead, which rounds differently.
    """
    numbers = small.to(torch.int32) & 0xFFFF
    reflectance = (numbers + _LOWEST).to(torch.float32) / torch.full((), 10000.0, device=small.device)
    return torch.where(numbers == 0, torch.nan, reflectance)
