"""Procedural fields: random numbers and fractal noise that depend only on place and seed.

In: coordinates in metres and a seed. Out: fields that are the same however the plane is cut into tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

_TURN = 0.61803398875 * np.pi  # each octave is turned, so that lattice directions do not show


def uniform(i: NDArray[np.integer], j: NDArray[np.integer], seed: int, salt: int = 0) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) for integer cells (i, j); a 32-bit integer hash (Wellons' lowbias32)."""
    key = np.uint32((seed * 0x9E3779B9 + salt * 0x7F4A7C15 + 0x165667B1) & 0xFFFFFFFF)
    h = np.asarray(i).astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA6B)
    h = _scramble(h ^ key)
    h ^= np.asarray(j).astype(np.int64).astype(np.uint32) * np.uint32(0xC2B2AE35)
    h = _scramble(h + key)
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _scramble(h: NDArray[np.uint32]) -> NDArray[np.uint32]:
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def fractal(
    x: FloatArray, y: FloatArray, *, seed: int, scale: float, octaves: int = 1, gain: float = 0.55
) -> NDArray[np.float32]:
    """Fractal value noise with mean 0 and standard deviation about 1.

    Parameters
    ----------
    x, y
        Metres, any equal shapes.
    seed
        Another seed is another field.
    scale
        Longest wavelength, metres; each octave halves it.
    gain
        Amplitude of an octave relative to the one before.

    Returns
    -------
    numpy.ndarray
        float32, shape of `x`; close to Gaussian for three octaves or more.
    """
    total = np.zeros(np.shape(x), np.float32)
    if total.size == 0:
        return total
    power = 0.0
    for octave in range(octaves):
        angle, step, weight = 0.5 + octave * _TURN, scale / 2**octave, gain**octave
        cos, sin = np.cos(angle) / step, np.sin(angle) / step
        total += np.float32(weight) * _value_noise(x * cos - y * sin, x * sin + y * cos, seed * 64 + octave)
        power += weight**2
    return total / np.float32(np.sqrt(power))


def _value_noise(u: FloatArray, v: FloatArray, seed: int) -> NDArray[np.float32]:
    """One octave on the unit lattice, unit variance."""
    iu, iv = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = _smooth((u - iu).astype(np.float32)), _smooth((v - iv).astype(np.float32))
    left, low = int(iu.min()), int(iv.min())
    width, height = int(iu.max()) - left + 2, int(iv.max()) - low + 2
    cells_u, cells_v = np.meshgrid(np.arange(left, left + width), np.arange(low, low + height))
    # A uniform variable of unit variance; 1.276 undoes what interpolation takes away (2 x 0.3918 per axis).
    table = ((uniform(cells_u, cells_v, seed) - np.float32(0.5)) * np.float32(12**0.5 * 1.276)).ravel()
    at = (iv - low) * width + (iu - left)
    lower = table[at] * (1 - fu) + table[at + 1] * fu
    upper = table[at + width] * (1 - fu) + table[at + width + 1] * fu
    result: NDArray[np.float32] = lower * (1 - fv) + upper * fv
    return result


def _smooth(t: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = t * t * t * (t * (t * 6 - 15) + 10)
    return result
