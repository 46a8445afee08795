"""The two worlds: `base`, in which models are trained, and `shifted`, in which they are tested.

A world holds all numbers in which simulations differ; a country draws its own landscape within it.
"""

from __future__ import annotations

from dataclasses import dataclass

from subpixmap.errors import InputError
from subpixmap.simulate.spectra import Palette, base_palette, shifted_palette

OBJECTS = ("coconut", "oil_palm", "olive", "car")
"""The objects that are counted, in canonical order."""
VISIBLE_AGE = {"coconut": 4, "oil_palm": 3, "olive": 5}
"""Age in years from which an object is counted; younger ones are in the imagery but not in the truth."""


@dataclass(frozen=True)
class World:
    """All numbers in which worlds differ."""

    name: str
    palette: Palette
    use_share: dict[str, float]
    """Share of the parcels by use, before the slow affinities."""
    wild_above: float = 0.85
    """Places are forest where a unit Gaussian field exceeds this."""
    urban_above: float = 1.3
    """Places are built up where a unit Gaussian field exceeds this."""
    parking_share: float = 0.3
    """Share of the parcels in town that are parking lots."""
    spacing: float = 1.0
    """Factor on planting distances."""
    crown: float = 1.0
    """Factor on crown radii."""
    haze: float = 0.012
    """Median path reflectance of residual haze in B02."""
    gain_sd: float = 0.03
    """Standard deviation of the view and sun gain between acquisitions."""
    shift_sd: float = 3.0
    """Standard deviation of the registration error per axis, metres."""
    scl_error: float = 1.0
    """Factor on the errors of the scene classification."""


_BASE_SHARE = {
    "coconut": 0.24, "coconut_sparse": 0.13, "oil_palm": 0.19, "olive": 0.09, "field": 0.14, "shrub": 0.07,
    "grass": 0.05, "bare": 0.02, "orchard": 0.05, "nipa": 0.04,
}  # fmt: skip


_SHIFTED_SHARE = {
    "coconut": 0.17, "coconut_sparse": 0.20, "oil_palm": 0.13, "olive": 0.07, "field": 0.17, "shrub": 0.10,
    "grass": 0.05, "bare": 0.03, "orchard": 0.05, "nipa": 0.03,
}  # fmt: skip


def get_world(name: str) -> World:
    """`base` or `shifted`."""
    if name == "base":
        return World("base", base_palette(), _BASE_SHARE)
    if name == "shifted":
        return World(
            "shifted", shifted_palette(), _SHIFTED_SHARE, wild_above=0.7, urban_above=1.2, parking_share=0.2,
            spacing=1.05, crown=0.95, haze=0.018, gain_sd=0.045, shift_sd=4.0, scl_error=1.7,
        )  # fmt: skip
    raise InputError(f"world {name!r} is unknown; choose base or shifted")
