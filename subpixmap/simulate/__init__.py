"""A small simulated country with truth: `simulate_country` writes one, `patches` gives training data without files."""

from subpixmap.simulate.folder import simulate_country
from subpixmap.simulate.patches import Patch, patches
from subpixmap.simulate.truth import summarise
from subpixmap.simulate.worlds import OBJECTS, VISIBLE_AGE

__all__ = ["OBJECTS", "VISIBLE_AGE", "Patch", "patches", "simulate_country", "summarise"]
