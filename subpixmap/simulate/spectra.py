"""What the simulated sensor and ground are made of: bands, point spread, noise, and reflectance per material.

The reflectances are rounded typical surface values, of the order of the USGS Spectral Library version 7 (Kokaly et al.
2017, doi:10.3133/ds1035), the ECOSTRESS library (Meerdink et al. 2019, doi:10.1016/j.rse.2019.05.015) and Sentinel-2
means over such covers; no material is a copy of one library entry. Modulation transfer and noise per band:
MTF at Nyquist of the Sentinel-2 MSI as used for super-resolution (Lanaras et al. 2018), SNR as specified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Canonical order of the reflectance bands."""


@dataclass(frozen=True)
class BandFacts:
    """One band of the sensor."""

    gsd: int
    """Pixel size, metres."""
    centre: float
    """Central wavelength, micrometres."""
    width: float
    """Full width at half maximum, micrometres."""
    mtf: float
    """Modulation transfer at the Nyquist frequency, detector footprint included."""
    noise: float
    """Standard deviation of the noise, reflectance."""

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian point spread, metres (total: do not average over the pixel as well)."""
        return self.gsd * math.sqrt(-2 * math.log(self.mtf)) / math.pi


BAND_FACTS = {
    "B02": BandFacts(10, 0.4924, 0.066, 0.26, 0.0013),
    "B03": BandFacts(10, 0.5598, 0.036, 0.28, 0.0013),
    "B04": BandFacts(10, 0.6646, 0.031, 0.24, 0.0016),
    "B05": BandFacts(20, 0.7041, 0.015, 0.38, 0.0014),
    "B06": BandFacts(20, 0.7405, 0.015, 0.34, 0.0019),
    "B07": BandFacts(20, 0.7828, 0.020, 0.34, 0.0017),
    "B08": BandFacts(10, 0.8328, 0.106, 0.26, 0.0018),
    "B8A": BandFacts(20, 0.8647, 0.021, 0.33, 0.0024),
    "B11": BandFacts(20, 1.6137, 0.091, 0.22, 0.0005),
    "B12": BandFacts(20, 2.2024, 0.175, 0.23, 0.0006),
}

GROUND = (
    "water", "mangrove", "forest", "shrub", "grass", "bare", "field_a", "field_b", "field_c", "roof", "asphalt",
    "fishpond", "nipa",
)  # fmt: skip
"""Ground covers, as layers of a rendered place. The three field layers are mixtures that depend on the date."""

CROWNS = ("coconut", "oil_palm", "olive", "other_palm", "broadleaf", "car")
"""Materials of objects; `other_palm` and `broadleaf` are the look-alikes that are not counted."""

# Reflectance, columns as BANDS.
REFLECTANCE: dict[str, tuple[float, ...]] = {
    "coconut": (0.031, 0.062, 0.038, 0.094, 0.238, 0.297, 0.318, 0.333, 0.180, 0.089),
    "oil_palm": (0.024, 0.053, 0.027, 0.083, 0.272, 0.350, 0.374, 0.390, 0.158, 0.067),
    "olive": (0.045, 0.070, 0.055, 0.096, 0.172, 0.203, 0.222, 0.238, 0.170, 0.098),
    "other_palm": (0.026, 0.055, 0.030, 0.087, 0.252, 0.322, 0.347, 0.362, 0.140, 0.060),
    "broadleaf": (0.024, 0.054, 0.026, 0.084, 0.292, 0.382, 0.412, 0.428, 0.192, 0.085),
    "car": (0.130, 0.130, 0.132, 0.136, 0.142, 0.146, 0.150, 0.152, 0.140, 0.130),
    "water": (0.045, 0.045, 0.030, 0.022, 0.015, 0.014, 0.012, 0.011, 0.005, 0.004),
    "mangrove": (0.025, 0.045, 0.022, 0.065, 0.210, 0.270, 0.290, 0.295, 0.110, 0.045),
    "forest": (0.022, 0.045, 0.022, 0.075, 0.265, 0.350, 0.375, 0.390, 0.165, 0.070),
    "shrub": (0.035, 0.068, 0.042, 0.105, 0.235, 0.285, 0.310, 0.325, 0.215, 0.110),
    "grass": (0.045, 0.085, 0.060, 0.130, 0.250, 0.300, 0.330, 0.345, 0.270, 0.155),
    "bare": (0.085, 0.125, 0.165, 0.190, 0.210, 0.225, 0.245, 0.260, 0.340, 0.290),
    "paddy": (0.050, 0.070, 0.060, 0.080, 0.110, 0.120, 0.125, 0.125, 0.060, 0.035),
    "crop": (0.035, 0.080, 0.040, 0.120, 0.310, 0.390, 0.420, 0.435, 0.220, 0.100),
    "stubble": (0.075, 0.110, 0.125, 0.160, 0.205, 0.230, 0.255, 0.270, 0.320, 0.230),
    "roof": (0.160, 0.180, 0.200, 0.210, 0.220, 0.230, 0.240, 0.250, 0.280, 0.260),
    "asphalt": (0.085, 0.095, 0.105, 0.110, 0.115, 0.120, 0.125, 0.130, 0.150, 0.140),
    "fishpond": (0.060, 0.075, 0.060, 0.050, 0.035, 0.035, 0.030, 0.030, 0.012, 0.008),
    "nipa": (0.026, 0.055, 0.030, 0.087, 0.252, 0.322, 0.347, 0.362, 0.140, 0.060),
}

CLOUD = np.array((0.62, 0.61, 0.61, 0.62, 0.63, 0.64, 0.65, 0.65, 0.44, 0.34), np.float32)
HAZE = np.array((1.00, 0.72, 0.52, 0.45, 0.38, 0.32, 0.28, 0.25, 0.06, 0.03), np.float32)
"""Path reflectance of residual haze, relative to B02."""
SHADE = np.array((0.42, 0.36, 0.30, 0.32, 0.42, 0.46, 0.47, 0.47, 0.30, 0.22), np.float32)
"""Illumination under a crown's shadow relative to the open: skylight, and light through the leaves."""


@dataclass(frozen=True)
class Palette:
    """Reflectance of every material in one world: material name -> (band,)."""

    of: dict[str, NDArray[np.float32]]
    psf_scale: float = 1.0
    """Factor on every band's sigma."""

    def __post_init__(self) -> None:
        for name, values in self.of.items():
            if values.shape != (len(BANDS),) or not ((values > 0) & (values < 1)).all():
                raise ValueError(f"reflectance of {name} is not {len(BANDS)} values in (0, 1): {values}")


def base_palette() -> Palette:
    """The materials of the world in which models are trained."""
    return Palette({name: np.array(values, np.float32) for name, values in REFLECTANCE.items()})


def shifted_palette() -> Palette:
    """Materials of a world that no model was trained in: every spectrum is brighter or darker, tilted and rippled.

    The deviations (5 % in level, 5 % in tilt from blue to short-wave infrared, 3 % a band) are drawn once, from a fixed
    seed, and the point spread is a tenth wider.
    """
    rng = np.random.default_rng(20180912)
    of = {}
    for name, values in base_palette().of.items():
        level, tilt = rng.normal(0, 0.05, 2)
        ripple = rng.normal(0, 0.03, len(BANDS))
        deviation = np.exp(level + tilt * np.linspace(-1, 1, len(BANDS)) + ripple)
        of[name] = (values * deviation).astype(np.float32)
    return Palette(of, psf_scale=1.1)
