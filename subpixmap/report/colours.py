"""Colours and style of everything that is drawn: maps, series, bars, on the page and in notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.colors import LinearSegmentedColormap

INK, MUTED, LINE, ACCENT = "#1c2430", "#667085", "#d7dce3", "#0f6b70"
SERIES = ("#0f6b70", "#c4651a", "#4f5bb5", "#8a3d77", "#5b7a1d", "#7a6a58")
"""Colours of lines: they differ for colour-blind readers and in grey."""
DENSITY = LinearSegmentedColormap.from_list(
    "density", ["#f5f2e8", "#d9e6b3", "#9ad3a2", "#4fb0a5", "#2a7f9e", "#2d4d8e", "#2a1a55"]
)
"""From pale (none) to dark (many), with steadily falling lightness, so it also works in grey."""
CLEAR_OBSERVATIONS = LinearSegmentedColormap.from_list(
    "looks", ["#fbf3e4", "#f0cf97", "#dd9a5a", "#b8623c", "#7d3328", "#451a1e"]
)
"""Number of clear observations."""
CHANGE = LinearSegmentedColormap.from_list(
    "change", ["#8a3d10", "#d07c3c", "#f0c79d", "#eceae6", "#a9cfe0", "#4a8dc0", "#1b4a7a"]
)
"""Brown for losses, blue for gains, grey for none: distinct for colour-blind readers."""
ERRORS = ("#d7e8f4", "#94c0e0", "#4a8dc0", "#1f5687")
"""Classes of the standard error, small to large."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; the page swaps in the system font
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e9ecf1",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "subpixmap",
    "hatch.color": "#b9bec8",
    "hatch.linewidth": 0.6,
}


@contextmanager
def style() -> Iterator[None]:
    """The house style, for the figures drawn inside."""
    with matplotlib.rc_context(_STYLE):
        yield
