"""Display layers -> what the page shows of the map: pictures by object and period, legends, outlines of units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subpixmap.report.colours import CLEAR_OBSERVATIONS, DENSITY
from subpixmap.report.contents import Contents
from subpixmap.report.downsample import Layers
from subpixmap.report.figures import length_text, nice_limit
from subpixmap.report.html_images import density_uri, observations_uri, path_data, unit_paths
from subpixmap.report.summary import leaves

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

MAX_PICTURES = 120
"""Maps in a page; with more periods every second, third ... one is shown."""


def map_section(contents: Contents) -> dict[str, Any] | None:
    """Pictures by object and period, pictures of clear observations, legends and unit outlines."""
    layers = contents.layers
    if layers is None:
        return None
    every = -(-(len(layers.objects) + 1) * len(layers.periods) // MAX_PICTURES)
    chosen = list(range(len(layers.periods)))[::-every][::-1]  # the last one always
    most_observations = nice_limit(layers.n_obs, share=1.0)
    grid = layers.grid
    rows, cols = grid.shape
    scale = nice_limit(np.array([cols * grid.step / 4]))
    return {
        "rows": rows,
        "cols": cols,
        "periods": [layers.periods[p] for p in chosen],
        "density": {
            name: _density(layers, o, chosen, contents.model.measures.get(name, "count"))
            for o, name in enumerate(layers.objects)
        },
        "looks": {
            "uris": [observations_uri(layers, p, CLEAR_OBSERVATIONS, most_observations) for p in chosen],
            "ticks": _ticks(most_observations),
            "gradient": _gradient(CLEAR_OBSERVATIONS),
        },
        "outlines": _outlines(contents, layers),
        "veil": f"M0 0H{cols}V{rows}H0Z" + path_data(grid.to_pixels(contents.geometry)),
        "scale_px": scale / grid.step,
        "scale": length_text(scale),
        "step": length_text(grid.step),
        "projection": grid.crs.name if grid.crs.to_epsg() else "Equidistant cylindrical",
    }


def _density(layers: Layers, o: int, chosen: Sequence[int], measure: str) -> dict[str, Any]:
    """Pictures of one object in the chosen periods, and their legend."""
    limit = nice_limit(layers.density[o])
    return {
        "uris": [density_uri(layers, o, p, DENSITY, limit) for p in chosen],
        "ticks": _ticks(limit),
        "gradient": _gradient(DENSITY),
        "unit": "objects per hectare" if measure == "count" else "mean number present per hectare",
    }


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


def _ticks(limit: float) -> list[str]:
    """Labels of a legend: 0 to the limit in steps that are round for the limits of `nice_limit`."""
    lead = limit / 10.0 ** np.floor(np.log10(limit))
    steps = 3 if round(lead, 6) in (1.5, 3, 6) else 5 if round(lead, 6) in (1, 5) else 4
    return [f"{value:g}" for value in np.linspace(0, limit, steps + 1)]


def _gradient(cmap: Colormap) -> str:
    from matplotlib.colors import to_hex

    return f"linear-gradient(to right, {', '.join(to_hex(cmap(x)) for x in np.linspace(0, 1, 9))})"
