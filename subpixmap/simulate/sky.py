"""What lies between ground and sensor: haze, clouds, their shadows, noise, the swath's edge, and SCL with its errors.

In: reflectance of a frame, an `Acquisition`. Out: digital numbers (uint16, 0 = no data) and the scene classification.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from subpixmap.simulate.ground import PIXEL, Frame, halve
from subpixmap.simulate.noise import FloatArray, fractal, uniform
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.spectra import BAND_FACTS, BANDS, CLOUD, HAZE
from subpixmap.simulate.worlds import World

QUANTUM = 10000


@dataclass(frozen=True)
class SkyLayers:
    """The sky over a frame, at 10 m."""

    cloud: NDArray[np.float32]
    """(height, width) opacity of clouds."""
    shadow: NDArray[np.float32]
    """(height, width) share of sunlight that clouds take away from the ground."""
    haze: NDArray[np.float32]
    """(height, width) path reflectance in B02."""
    seen: NDArray[np.bool_]
    """(height, width) inside the swath, whole 20 m pixels."""


def make_sky(frame: Frame, acquisition: Acquisition) -> SkyLayers:
    """Clouds, their shadows and haze over a frame; they follow from place and acquisition alone."""
    x, y = _centres(frame, 20.0, 1)
    seed = acquisition.seed
    tan = np.tan(np.radians(acquisition.sun_zenith)) * acquisition.cloud_height
    azimuth = np.radians(acquisition.sun_azimuth)
    cloud = _opacity(x, y, acquisition)
    shadow = _opacity(x + tan * np.sin(azimuth), y + tan * np.cos(azimuth), acquisition)
    haze = acquisition.haze * np.exp(0.25 * fractal(x, y, seed=seed + 3, scale=5000, octaves=2))
    seen = np.ones(x.shape, bool)
    if acquisition.edge is not None:  # swath edges lean like the orbit, about 10 degrees from north
        seen = x + 0.18 * y < acquisition.edge
    seen = np.repeat(np.repeat(seen[1:-1, 1:-1], 2, axis=0), 2, axis=1)
    return SkyLayers(_upsample(cloud), _upsample(shadow), _upsample(haze), seen)


def _centres(frame: Frame, step: float, more: int = 0) -> tuple[FloatArray, FloatArray]:
    """Landscape coordinates of cell centres, with `more` cells on every side."""
    x = frame.west + (np.arange(-more, int(frame.width * PIXEL / step) + more) + 0.5) * step
    y = frame.north - (np.arange(-more, int(frame.height * PIXEL / step) + more) + 0.5) * step
    xx, yy = np.meshgrid(x, y)
    return frame.to_landscape(xx, yy)


def _upsample(a: FloatArray) -> NDArray[np.float32]:
    """Bilinear, 20 m cells with one more on every side -> 10 m."""
    a = a.astype(np.float32)
    for axis in (0, 1):
        a = np.moveaxis(a, axis, 0)
        near, before, after = a[1:-1] * np.float32(0.75), a[:-2] * np.float32(0.25), a[2:] * np.float32(0.25)
        a = np.moveaxis(np.stack([near + before, near + after], axis=1).reshape(-1, *a.shape[1:]), 0, axis)
    return np.ascontiguousarray(a)


def _opacity(x: FloatArray, y: FloatArray, acquisition: Acquisition) -> NDArray[np.float32]:
    """Opacity of the clouds above a place: cumulus with thin rims, and a veil on some days."""
    if acquisition.cloud_share <= 0:
        return np.zeros(np.shape(x), np.float32)
    level = NormalDist().inv_cdf(1 - min(acquisition.cloud_share, 0.995))
    field = fractal(x, y, seed=acquisition.seed, scale=1300, octaves=5)
    result: NDArray[np.float32] = (1 - np.exp(-5 * np.maximum(0, field - level))).astype(np.float32)
    return result


def observe(
    bands: dict[str, NDArray[np.float32]], sky: SkyLayers, frame: Frame, acquisition: Acquisition
) -> dict[str, NDArray[np.float32]]:
    """Add sky and noise; NaN outside the swath."""
    observed = {}
    x, y = frame.west, frame.north
    for k, band in enumerate(BANDS):
        facts = BAND_FACTS[band]
        cloud, shadow, haze, seen = (
            (a if facts.gsd == 10 else a[::2, ::2]) for a in (sky.cloud, sky.shadow, sky.haze, sky.seen)
        )
        # Sky light still reaches the ground under a cloud's shadow, more of it in the blue.
        light = 1 - shadow * (0.62 + 0.16 * k / 9)
        rho = bands[band] * light
        rho = rho * (1 - 0.6 * haze * HAZE[k]) + haze * HAZE[k]
        rho = rho * (1 - cloud) + CLOUD[k] * cloud
        rho = rho + _noise(rho, facts.noise, facts.gsd, x, y, acquisition.seed * 16 + k)
        observed[band] = np.where(seen, rho, np.nan).astype(np.float32)
    return observed


def _noise(rho: NDArray[np.float32], sd: float, gsd: int, west: float, north: float, seed: int) -> NDArray[np.float32]:
    """Sensor noise that depends on the pixel's place, so that tiles agree; it grows with the signal."""
    rows, cols = rho.shape
    i = np.arange(rows)[:, None] - round(north / gsd)
    j = np.arange(cols) + round(west / gsd)
    total = uniform(j, i, seed, 1) + uniform(j, i, seed, 2) + uniform(j, i, seed, 3) - np.float32(1.5)
    return (total * 2 * (sd * np.sqrt(0.5 + np.maximum(rho, 0) / 0.4))).astype(np.float32)


def classify(
    bands: dict[str, NDArray[np.float32]], sky: SkyLayers, frame: Frame, acquisition: Acquisition, world: World
) -> NDArray[np.uint8]:
    """Scene classification at 20 m with the errors of sen2cor: soft rims missed, bright ground called cloud."""
    x, y = _centres(frame, 20.0)
    seed, wrong = acquisition.seed, world.scl_error
    b02, b03, b04, b08 = (halve(bands[b]) for b in ("B02", "B03", "B04", "B08"))
    cloud, shadow, seen = sky.cloud[::2, ::2], sky.shadow[::2, ::2], sky.seen[::2, ::2]
    with np.errstate(invalid="ignore"):
        green = (b08 - b04) / np.maximum(b08 + b04, 1e-3)
        wet = (b03 - b08) / np.maximum(b03 + b08, 1e-3)
        scl = np.where(green > 0.36, 4, 5).astype(np.uint8)
        scl[(b08 < 0.12) & (wet < 0)] = 2
        scl[(wet > 0.05) & (b08 < 0.10)] = 6
        err = wrong * fractal(x, y, seed=seed + 5, scale=260, octaves=3)
        speck = uniform(*_index(frame), seed, 9)
        scl[speck < 0.006 * wrong] = 7
        guess = cloud + 0.05 * err
        guess_shadow = shadow * (1 - cloud) + 0.07 * err
        scl[guess_shadow > 0.33] = 3
        scl[(guess_shadow > 0.33) & (err < -1.6)] = 2
        scl[(b02 > 0.155) & (err > 0.9) & (cloud < 0.1)] = 8  # roofs and sand
        scl[guess > 0.10] = 7
        scl[guess > 0.16] = 10
        scl[guess > 0.28] = 8
        scl[guess > 0.60] = 9
    scl[~seen] = 0
    return scl


def _index(frame: Frame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    j = np.arange(frame.width // 2) + round(frame.west / 20)
    i = np.arange(frame.height // 2)[:, None] - round(frame.north / 20)
    return j, i


def digital_numbers(rho: NDArray[np.float32], offset: int = 0) -> NDArray[np.uint16]:
    """Reflectance -> DN: 10000 x reflectance + offset, at least 1; 0 where there is no data."""
    dn = np.clip(np.round(np.nan_to_num(rho) * QUANTUM) + offset, 1, 65535)
    return np.where(np.isnan(rho), 0, dn).astype(np.uint16)
