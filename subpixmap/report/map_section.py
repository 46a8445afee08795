"""The map section of the page: pixels and units side by side, legends, outlines of units.

Every layer is a picture, or one for each period; the page shows the last one without a script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from subpixmap.progress import track
from subpixmap.report.colours import CLEAR_OBSERVATIONS, DENSITY
from subpixmap.report.contents import Contents
from subpixmap.report.downsample import Layers
from subpixmap.report.figures import length_text, nice_limit
from subpixmap.report.html_images import density_uri, observations_uri, path_data, unit_paths
from subpixmap.report.legends import Layer, gradient, ticks
from subpixmap.report.summary import leaves
from subpixmap.report.unit_layers import FRAME, unit_labels, unit_layers, unit_raster

MAX_PICTURES = 120
"""Maps in a page; with more periods every second, third ... one is shown."""
MAX_CELLS = 60_000
"""Rows of the tables of units over all objects and periods; with more, fewer periods can be chosen."""


def chosen_periods(contents: Contents) -> list[str]:
    """Periods that a reader can choose: all, or every second, third ... where the page would grow too large."""
    many = len(contents.periods) * (len(contents.objects) + 1)
    rows = len(contents.periods) * len(contents.objects) * len(contents.units)
    every = max(-(-2 * many // MAX_PICTURES), -(-rows // MAX_CELLS), 1)
    return list(contents.periods)[::-every][::-1]  # the last one always


def map_section(contents: Contents, periods: Sequence[str]) -> dict[str, Any] | None:
    """Layers by object, pictures of clear observations, and unit outlines."""
    layers = contents.layers
    if layers is None:
        return None
    periods = [period for period in periods if period in layers.periods]  # other periods are planned but not mapped
    chosen = [layers.periods.index(period) for period in periods]
    grid = layers.grid
    rows, cols = grid.shape
    scale = nice_limit(np.array([cols * grid.step / 4]))
    looks = _looks(layers, chosen)
    raster, units = unit_raster(contents.units, leaves(contents.units), layers)
    pixels = {name: _density(layers, o, chosen, contents.model.measures[name]) for o, name in enumerate(layers.objects)}
    return {
        "rows": rows,
        "cols": cols,
        "periods": list(periods),
        "panes": {
            name: [
                [pixels[name], looks],
                unit_layers(contents, name, periods, raster, units),
            ]
            for name in track(layers.objects, "draw the maps", "objects")
        },
        "looks": looks,
        "outlines": _outlines(contents, layers),
        "labels": unit_labels(contents.units, leaves(contents.units), layers),
        "veil": f"M0 0H{cols}V{rows}H0Z" + path_data(grid.to_pixels(contents.geometry)),
        "letter": round(11 * cols / FRAME, 2),
        "frame": FRAME,
        "scale_px": scale / grid.step,
        "scale_m": scale,
        "scale": length_text(scale),
        "step": length_text(grid.step),
        "projection": grid.crs.name if grid.crs.to_epsg() else "Equidistant cylindrical",
    }


def _looks(layers: Layers, chosen: Sequence[int]) -> Layer:
    most = nice_limit(layers.n_obs, share=1.0)
    uris = [observations_uri(layers, p, CLEAR_OBSERVATIONS, most) for p in chosen]
    return Layer(
        "looks", "Observations", uris, "clear observations used", gradient(CLEAR_OBSERVATIONS), tuple(ticks(most))
    )


def _density(layers: Layers, o: int, chosen: Sequence[int], measure: str) -> Layer:
    """Pictures of one object in the chosen periods, and their legend."""
    limit = nice_limit(layers.density[o])
    unit = "objects per hectare" if measure == "count" else "mean number present per hectare"
    uris = [density_uri(layers, o, p, DENSITY, limit) for p in chosen]
    *lower, top = ticks(limit)
    return Layer("pixels", "Pixels", uris, unit, gradient(DENSITY), (*lower, f"{top}+"))


def _outlines(contents: Contents, layers: Layers) -> list[dict[str, str]]:
    """Units as SVG paths: those without sub-units, which react to the pointer; above them the borders of parents."""
    paths = unit_paths(contents.units, layers.grid)
    lowest = set(leaves(contents.units))
    outlines = [
        {"id": str(unit), "name": str(name), "d": path, "kind": "leaf" if unit in lowest else "parent"}
        for unit, name, path in zip(contents.units.unit_id, contents.units.unit_name, paths, strict=True)
        if path
    ]
    return sorted(outlines, key=lambda outline: outline["kind"])
