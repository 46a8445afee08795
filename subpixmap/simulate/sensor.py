"""A fine scene -> one Sentinel-2 Level-2A acquisition: mixing, shadows, point spread, sampling, view, noise.

In: `GroundLayers`, `Canopy` and an `Acquisition`. Out: reflectance of the ten bands on the 10 m and 20 m lattices.
Reflectance is linear in cover: rho = ground x (open + shade x shadowed) + sum of crowns, blurred by the band's Gaussian
point spread and sampled at pixel centres, displaced by the acquisition's registration error.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtr

from subpixmap.simulate.ground import FINE, MARGIN, PIXEL, Canopy, Frame, GroundLayers, halve
from subpixmap.simulate.spectra import BAND_FACTS, BANDS, CROWNS, GROUND, SHADE, Palette

TEN_METRE = tuple(b for b in BANDS if BAND_FACTS[b].gsd == 10)


@dataclass(frozen=True)
class Acquisition:
    """What is particular to one overpass."""

    number: int
    """Number in the schedule; it seeds clouds, cars and noise."""
    time: datetime
    """UTC."""
    platform: str
    """`S2A` or `S2B`."""
    orbit: int
    """Relative orbit."""
    absolute_orbit: int
    baseline: str
    """Processing baseline, such as `05.09`."""
    sun_zenith: float
    """Degrees."""
    sun_azimuth: float
    """Degrees from north, clockwise."""
    season: float
    """Greenness of the season, 0 (dry) to 1 (wet)."""
    field_phase: float
    """Phase of the cropping calendar, turns."""
    gain: tuple[float, ...]
    """Factor per band: view, sun and calibration."""
    haze: float
    """Path reflectance of residual haze in B02."""
    shift: tuple[float, float]
    """Registration error (east, north), metres: the image shows the ground this far to the east and north."""
    cloud_share: float
    """Share of the landscape under clouds, 0 to 1."""
    cloud_height: float
    """Metres."""
    edge: float | None
    """Easting from the landscape's origin at which the swath ends, metres; None where it covers everything."""
    seed: int

    @property
    def name(self) -> str:
        """The datatake without its baseline, the key by which tiles of one overpass are grouped."""
        return f"G{self.platform}_{self.time:%Y%m%dT%H%M%S}_{self.absolute_orbit:06d}"

    @property
    def iso(self) -> str:
        """Time as written in the items."""
        return f"{self.time:%Y-%m-%dT%H:%M:%S}.000000Z"


def reflectance(
    ground: GroundLayers, canopy: Canopy, cars: Canopy | None, frame: Frame, acquisition: Acquisition, palette: Palette
) -> dict[str, NDArray[np.float32]]:
    """Surface reflectance as the sensor resolves it, before atmosphere and noise.

    Returns
    -------
    dict
        Band -> (height, width) at 10 m or (height / 2, width / 2) at 20 m.
    """
    season = season_palette(palette, acquisition)
    cover, lit = canopy.cover, canopy.lit
    if cars is not None:
        cover = np.maximum(cover, 0) * (1 - cars.cover) + cars.cover
        lit = lit * (1 - cars.cover) + cars.lit
    shadow = cast_shadow(canopy, acquisition)
    open_ground = 1 - cover
    shaded = open_ground * shadow
    open_ground = open_ground - shaded
    ground_of = season[0] @ ground.layers.reshape(len(GROUND), -1)
    ground_of = ground_of.reshape(len(BANDS), *ground.layers.shape[1:])
    fine = [BANDS.index(b) for b in TEN_METRE]
    crowns_of = (season[1][fine] @ lit.reshape(len(CROWNS), -1)).reshape(len(fine), *cover.shape)
    coarse_open, coarse_shaded = halve(open_ground), halve(shaded)
    coarse_lit = np.stack([halve(layer) for layer in lit])
    coarse = [k for k in range(len(BANDS)) if k not in fine]
    coarse_crowns = (season[1][coarse] @ coarse_lit.reshape(len(CROWNS), -1)).reshape(len(coarse), *coarse_open.shape)
    sampled: dict[str, NDArray[np.float32]] = {}
    for k, band in enumerate(BANDS):
        if k in fine:
            under = np.repeat(np.repeat(ground_of[k], 2, axis=0), 2, axis=1)
            scene = under * (open_ground + SHADE[k] * shaded) + crowns_of[fine.index(k)]
        else:
            scene = ground_of[k] * (coarse_open + SHADE[k] * coarse_shaded) + coarse_crowns[coarse.index(k)]
        sampled[band] = sample(scene, frame, band, acquisition.shift, palette.psf_scale)
    return sampled


def season_palette(palette: Palette, acquisition: Acquisition) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Reflectance (band, ground layer) and (band, crown kind) on the day: dry grass, rice calendar, leaf flush."""
    of, green = palette.of, acquisition.season
    ground = []
    for name in GROUND:
        if name in ("grass", "shrub"):
            dry = (0.55 if name == "grass" else 0.22) * (1 - green)
            ground.append((1 - dry) * of[name] + dry * of["stubble"])
        elif name.startswith("field"):
            ground.append(_field(palette, acquisition.field_phase + "abc".index(name[-1]) / 3))
        else:
            ground.append(of[name])
    flush = np.array([1.0 if name == "car" else 0.97 + 0.06 * green for name in CROWNS])
    crowns = [of[name] * flush[k] for k, name in enumerate(CROWNS)]
    gain = np.array(acquisition.gain)[:, None]
    return (
        np.ascontiguousarray(np.array(ground).T * gain, np.float32),
        np.ascontiguousarray(np.array(crowns).T * gain, np.float32),
    )


def _field(palette: Palette, phase: float) -> NDArray[np.float32]:
    """A crop's turn: flooded, green, ripe and cut."""
    phase = phase % 1
    wet = max(0.0, 1 - abs(phase - 0.12) / 0.2, 1 - abs(phase - 1.12) / 0.2)
    green = max(0.0, 1 - abs(phase - 0.45) / 0.3)
    dry = max(0.05, 1 - abs(phase - 0.85) / 0.28)
    total = wet + green + dry
    of = palette.of
    result: NDArray[np.float32] = (wet * of["paddy"] + green * of["crop"] + dry * of["stubble"]) / total
    return result


def cast_shadow(canopy: Canopy, acquisition: Acquisition) -> NDArray[np.float32]:
    """Share of each fine cell in the shadow of a crown: the crowns, displaced away from the sun."""
    reach = np.tan(np.radians(acquisition.sun_zenith))
    azimuth = np.radians(acquisition.sun_azimuth)
    clear = np.ones(canopy.cover.shape, np.float32)
    for height, share in canopy.tall:
        east, north = -height * reach * np.sin(azimuth), -height * reach * np.cos(azimuth)
        clear *= 1 - _displace(share, -north / FINE, east / FINE)
    return 1 - clear


def _displace(a: NDArray[np.float32], rows: float, cols: float) -> NDArray[np.float32]:
    """Move an image by a fraction of cells, linearly; it wraps, inside the margin."""
    for axis, by in ((0, rows), (1, cols)):
        whole = int(np.floor(by))
        part = np.float32(by - whole)
        a = np.roll(a, whole, axis) * (1 - part) + np.roll(a, whole + 1, axis) * part
    return a


def sample(
    scene: NDArray[np.float32], frame: Frame, band: str, shift: tuple[float, float], psf_scale: float = 1.0
) -> NDArray[np.float32]:
    """Blur a scene (margin included, cells of 2.5 or 5 m) by the band's point spread and sample it at pixel centres.

    Parameters
    ----------
    scene
        (rows, columns), any cell size that divides 10 m.
    shift
        (east, north) in metres: what lies at a place appears this far to the east and north.
    """
    step = PIXEL * (frame.height + 2 * MARGIN) / scene.shape[0]
    facts = BAND_FACTS[band]
    sigma = facts.sigma * psf_scale
    down = sampling_matrix(frame.height, step, facts.gsd, sigma, -shift[1])
    across = sampling_matrix(frame.width, step, facts.gsd, sigma, shift[0])
    rows = down @ scene
    result: NDArray[np.float32] = np.ascontiguousarray((across @ np.ascontiguousarray(rows.T)).T)
    return result


@lru_cache(maxsize=64)
def sampling_matrix(pixels: int, step: float, gsd: int, sigma: float, shift: float) -> sparse.csr_array:
    """Weights of the cells in each sample on one axis: the Gaussian integrated over the cell, rows summing to 1.

    `shift` is the displacement of the image along the axis in metres; `pixels` counts 10 m pixels without the margin.
    """
    cells = int((pixels + 2 * MARGIN) * PIXEL / step)
    number = pixels * int(PIXEL) // gsd
    at = (np.arange(number) + 0.5) * gsd + MARGIN * PIXEL - shift
    reach = int(np.ceil(5 * sigma / step)) + 1
    first = np.floor(at / step).astype(int) - reach
    index = first[:, None] + np.arange(2 * reach + 1)
    weight = ndtr(((index + 1) * step - at[:, None]) / sigma) - ndtr((index * step - at[:, None]) / sigma)
    weight[(index < 0) | (index >= cells)] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    index = np.clip(index, 0, cells - 1)
    rows = np.repeat(np.arange(number), index.shape[1])
    return sparse.csr_array((weight.ravel().astype(np.float32), (rows, index.ravel())), shape=(number, cells))
