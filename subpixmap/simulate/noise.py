"""Procedural fields: random numbers and fractal noise that depend only on place and seed.

In: coordinates in metres and a seed. Out: fields that are the same however the plane is cut into tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

_TURN = 0.61803398875 * np.pi  # each octave is turned, so that lattice directions do not show
_BLOCK = 15360  # float64 temporaries of 120 kB: in the cache, and recycled by malloc instead of mapped anew


def blocks(size: int) -> Iterator[slice]:
    """Slices of a flat array to work on one by one: this takes a third of the CPU time of the whole at once."""
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def uniform(i: NDArray[np.integer], j: NDArray[np.integer], seed: int, salt: int = 0) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) for integer cells (i, j), which broadcast; a 32-bit hash (Wellons' lowbias32)."""
    key = np.uint32((seed * 0x9E3779B9 + salt * 0x7F4A7C15 + 0x165667B1) & 0xFFFFFFFF)
    h = np.asarray(i).astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA6B)
    h = _scramble(h ^ key)
    h = h ^ (np.asarray(j).astype(np.int64).astype(np.uint32) * np.uint32(0xC2B2AE35))
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
    field = np.empty(np.shape(x), np.float32)
    flat, fx, fy = field.reshape(-1), np.reshape(x, -1), np.reshape(y, -1)
    for part in blocks(flat.size):
        flat[part] = _octaves(fx[part], fy[part], seed, scale, octaves, gain)
    return field


def _octaves(x: FloatArray, y: FloatArray, seed: int, scale: float, octaves: int, gain: float) -> NDArray[np.float32]:
    """Sum of octaves of unit variance."""
    total = np.zeros(x.shape, np.float32)
    power = 0.0
    for octave in range(octaves):
        angle, step, weight = 0.5 + octave * _TURN, scale / 2**octave, gain**octave
        cos, sin = np.cos(angle) / step, np.sin(angle) / step
        total += np.float32(weight) * _value_noise(x * cos - y * sin, x * sin + y * cos, seed * 64 + octave)
        power += weight**2
    total /= np.float32(np.sqrt(power))
    return total


def _value_noise(u: FloatArray, v: FloatArray, seed: int) -> NDArray[np.float32]:
    """One octave on the unit lattice, unit variance."""
    floor_u, floor_v = np.floor(u), np.floor(v)
    fu, fv = _smooth((u - floor_u).astype(np.float32)), _smooth((v - floor_v).astype(np.float32))
    left, low = int(floor_u.min()), int(floor_v.min())
    width, height = int(floor_u.max()) - left + 2, int(floor_v.max()) - low + 2
    cells_u, cells_v = np.arange(left, left + width), np.arange(low, low + height)[:, None]
    # A uniform variable of unit variance; 1.276 undoes what interpolation takes away (2 x 0.3918 per axis).
    table = ((uniform(cells_u, cells_v, seed) - np.float32(0.5)) * np.float32(12**0.5 * 1.276)).ravel()
    at = ((floor_v - low) * width + (floor_u - left)).astype(np.intp)
    rest = 1 - fu
    lower = table[at] * rest + table[at + 1] * fu
    at += width
    upper = table[at] * rest + table[at + 1] * fu
    result: NDArray[np.float32] = lower * (1 - fv) + upper * fv
    return result


def _smooth(t: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = t * t * t * (t * (t * 6 - 15) + 10)
    return result
