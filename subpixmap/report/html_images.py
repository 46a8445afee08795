"""Display layers -> small images and outlines for the page: palette PNGs as data URIs, unit borders as SVG paths."""

from __future__ import annotations

import base64
import io
import zlib

import geopandas as gpd
import numpy as np
import shapely
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.report.downsample import DisplayGrid, Layers

_HATCH = ((238, 240, 243), (203, 208, 216))  # ground and lines of what was not observed
_COLOURS = 240
_TITLE_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def density_uri(layers: Layers, o: int, p: int, cmap: Colormap, limit: float) -> str:
    """Data URI of a density map: clipped to [0, limit] for display, hatched where the region was not observed."""
    return png_uri(layers.density[o, p], layers.inside, cmap, limit)


def observations_uri(layers: Layers, p: int, cmap: Colormap, limit: float) -> str:
    """Data URI of the number of clear observations; hatched where there were none."""
    n = layers.n_obs[p]
    return png_uri(np.where(n > 0, n, np.nan), layers.inside, cmap, limit)


def png_uri(values: NDArray[np.floating], inside: NDArray[np.bool_], cmap: Colormap, limit: float) -> str:
    """A palette PNG: colours for numbers, a hatch for NaN inside the region, nothing for NaN outside of it."""
    from PIL import Image

    finite = np.isfinite(values)
    scaled = np.clip(np.nan_to_num(values, nan=0.0) / limit, 0, 1)
    pixels = np.where(finite, 3 + np.rint(scaled * (_COLOURS - 1)), 0).astype(np.uint8)
    row, col = np.indices(values.shape)
    pixels[inside & ~finite] = 1
    pixels[inside & ~finite & ((row + col) % 7 < 2)] = 2
    table = np.zeros((256, 3), np.uint8)
    table[1], table[2] = _HATCH
    table[3 : 3 + _COLOURS] = np.rint(cmap(np.linspace(0, 1, _COLOURS))[:, :3] * 255)
    image = Image.fromarray(pixels, mode=None)
    image = image.convert("P") if image.mode != "P" else image
    image.putpalette(table.ravel().tolist())
    out = io.BytesIO()
    image.save(out, "PNG", transparency=0, compress_level=6)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def unit_paths(units: gpd.GeoDataFrame, grid: DisplayGrid) -> list[str]:
    """SVG path data of each unit in display pixels, simplified to half a pixel; empty for a unit without polygon."""
    return [path_data(grid.to_pixels(g)) if g is not None and not g.is_empty else "" for g in units.geometry]


def path_data(geometry: BaseGeometry) -> str:
    """SVG path data of polygons given in display pixels, simplified to less than half a pixel."""
    paths = []
    for part in shapely.get_parts(shapely.simplify(geometry, 0.4)):
        for ring in shapely.get_rings(part):
            xy = shapely.get_coordinates(ring)[:-1]
            if len(xy) >= 3:
                paths.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in xy) + "Z")
    return "".join(paths).replace(".0 ", " ").replace(".0L", "L").replace(".0Z", "Z")


def svg(figure: Figure, label: str) -> str:
    """A matplotlib figure as inline SVG that scales with the page and uses its font; the same figure, the same text."""
    import re
    from html import escape

    from subpixmap.report.colours import style

    out = io.StringIO()
    with style():
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g\b[^>]*?) id="[^"]*"', r"\1", text)
    own = f"f{zlib.crc32(label.encode()):08x}-"  # figures share a page: what they define needs names of its own
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", _TITLE_FONT, text)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(label, quote=True)}" ', 1)
    return re.sub(r">\s+<", "><", text)


def sparkline(values: list[float], *, width: int = 84, height: int = 22) -> str:
    """A tiny inline SVG of a series from 0 up; gaps where nothing was observed."""
    finite = [value for value in values if value == value]
    if len(finite) < 2:
        return ""
    low, high = min(0.0, *finite), max(0.0, *finite)
    span = (high - low) or 1.0
    step = (width - 6) / max(len(values) - 1, 1)
    points = [(3 + i * step, height - 3 - (value - low) / span * (height - 6)) for i, value in enumerate(values)]
    path, pen = "", "M"
    for x, y in points:
        if y == y:
            path, pen = f"{path}{pen}{x:.1f} {y:.1f}", "L"
        else:
            pen = "M"
    x, y = next((x, y) for x, y in reversed(points) if y == y)
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true"><path d="{path}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/></svg>'
    )
