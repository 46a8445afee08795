"""A map layer of pictures with its legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Colormap


@dataclass(frozen=True)
class Layer:
    """A layer of the map."""

    key: str
    label: str
    uris: list[str]
    """A picture for each period that can be chosen, or one for all of them."""
    unit: str
    """What the colours say."""
    gradient: str = ""
    ticks: tuple[str, ...] = ()
    bands: tuple[tuple[str, str], ...] = ()
    """(colour, what it stands for), in place of a gradient."""


def ticks(limit: float) -> list[str]:
    """Labels of a legend: 0 to the limit in steps that are round for the limits of `nice_limit`."""
    lead = limit / 10.0 ** np.floor(np.log10(limit))
    steps = 3 if round(lead, 6) in (1.5, 3, 6) else 5 if round(lead, 6) in (1, 5) else 4
    return [f"{value:g}" for value in np.linspace(0, limit, steps + 1)]


def gradient(cmap: Colormap) -> str:
    """The colours of a legend, from left to right."""
    from matplotlib.colors import to_hex

    return f"linear-gradient(to right, {', '.join(to_hex(cmap(x)) for x in np.linspace(0, 1, 9))})"
