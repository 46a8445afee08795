"""Small HTML tables and outlines of objects in notebooks. Everything is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


def html_table(title: str, facts: Mapping[str, str], *, picture: str = "") -> str:
    """A table with a title and a row per fact; `picture` is trusted markup and not escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left;vertical-align:top'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in facts.items()
    )
    return f"<div><strong>{html.escape(title)}</strong>{picture}<table>{rows}</table></div>"


def outline_svg(geometry: BaseGeometry, *, side: int = 120) -> str:
    """An outline as a small drawing, north up; with few vertices."""
    import numpy as np
    import shapely

    west, south, east, north = geometry.bounds
    size = max(east - west, north - south) or 1.0
    simple = shapely.transform(
        shapely.simplify(geometry, size / side), lambda xy: np.abs(xy - (west, north)) * (side / size)
    )
    rings = [ring for part in shapely.get_parts(simple) for ring in shapely.get_rings(part)]
    path = " ".join(
        "M" + " ".join(f"{x:.0f},{y:.0f}" for x, y in shapely.get_coordinates(ring)) + "Z" for ring in rings[:200]
    )
    return (
        f"<svg width='{side}' height='{side}' style='display:block'>"
        f"<path d='{path}' fill='#9fb9bb' stroke='#0f6b70' fill-rule='evenodd'/></svg>"
    )
