"""Figures of counts and trends with one call, for notebooks: `plot_counts(counts)`, `plot_trend(trend(counts))`.

Also the picture of areas that are suggested for labelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.report.colours import ACCENT, MUTED, SERIES, style
from subpixmap.report.figures import plot_units, short
from subpixmap.report.summary import leaves
from subpixmap.tables import REGION

if TYPE_CHECKING:
    import geopandas as gpd
    from matplotlib.figure import Figure


def plot_counts(counts: pd.DataFrame, name: str | None = None, *, level: int | None = None, top: int = 6) -> Figure:
    """Totals over the periods of the units with the most objects, a panel for each object.

    Parameters
    ----------
    counts
        Rows of `count_by_unit`.
    name
        One object; all of them when not given.
    level
        Units of this level: 1 is the highest; the lowest ones when not given. A unit and its parent are never mixed.
    top
        Units drawn in each panel.
    """
    from matplotlib.figure import Figure

    counts, number = _of_level(counts, level)
    names = _objects(counts, name)
    periods = list(counts.sort_values("period_start", kind="stable")["period"].unique())
    with style():
        cols = min(2, len(names))
        rows_of_panels = -(-len(names) // cols)
        height = max(2.9, 0.9 + 0.22 * min(top, number))
        figure = Figure(figsize=(4.6 * cols, height * rows_of_panels), layout="constrained")
        panels = np.ravel(figure.subplots(rows_of_panels, cols, squeeze=False))
        for unused in panels[len(names) :]:
            unused.remove()
        for axes, one in zip(panels, names, strict=False):
            rows = counts[counts["object"] == one]
            plot_units(pd.DataFrame(rows), periods, top=top, axes=axes)
            unit = "present on average" if rows["measure"].iloc[0] == "occupancy" else "map_total_full"
            axes.set_title(f"{one.replace('_', ' ')} ({unit})", loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel(_how_many(top, number, "the largest"), loc="left", fontsize=8)
    return figure


def plot_trend(trends: pd.DataFrame, name: str | None = None, *, level: int | None = None, top: int = 25) -> Figure:
    """Changes of the units with their standard errors, the largest first; filled where they rise or fall.

    Parameters
    ----------
    trends
        Rows of `trend`.
    name
        One object; the first that has trends when not given.
    level
        As in `plot_counts`.
    top
        Units drawn.
    """
    from matplotlib.figure import Figure

    trends, number = _of_level(trends, level)
    changed = trends[trends["change"].notna()]
    if name is None and len(changed):
        name = str(changed["object"].iloc[0])
    (name,) = _objects(trends, name) if name else (str(trends["object"].iloc[0]),)
    rows = changed[changed["object"] == name]
    rows = rows.reindex(rows["change"].astype(float).abs().sort_values(ascending=False, kind="stable").index)
    rows = rows.head(top).sort_values("change", kind="stable")
    at = np.arange(len(rows))
    change, se = (rows[key].to_numpy(float) for key in ("change", "change_se"))
    sure = rows["direction"].isin(["rise", "fall"]).to_numpy(bool)
    with style():
        figure = Figure(figsize=(5.2, 0.9 + 0.24 * max(len(rows), 3)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.hlines(at, change - se, change + se, color=ACCENT, lw=1.4)
        colours = np.where(change >= 0, SERIES[0], SERIES[1])
        axes.scatter(change, at, s=30, c=np.where(sure, colours, "white"), edgecolors=colours.tolist(), zorder=3)
        labels = [short(str(text), 28) for text in rows["unit_name"].fillna(rows["unit_id"])]
        axes.set_yticks(at, labels, parse_math=False)
        told = f"change of {name.replace('_', ' ')}, +/- its standard error\nfilled: a rise or a fall"
        more = _how_many(len(rows), number, "the largest changes,")
        axes.set_xlabel(told + (f"\n{more}" if more else ""), fontsize=8.5)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        if not len(rows):
            axes.text(0.5, 0.5, "no trend", transform=axes.transAxes, ha="center", color=MUTED)
    return figure


def plot_areas(
    areas: gpd.GeoDataFrame,
    longitude: NDArray[np.float64],
    latitude: NDArray[np.float64],
    per_ha: NDArray[np.float64],
    units: gpd.GeoDataFrame,
    *,
    title: str = "",
) -> Figure:
    """Areas that were chosen, numbered and coloured by their reason, on the density of the map.

    Parameters
    ----------
    areas
        `area`, `reason` and outlines (EPSG:4326).
    longitude, latitude, per_ha
        (cell,) what the map says of all its cells, objects per hectare.
    units
        Outlines to draw.
    title
        Above the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    middle = float(np.mean(latitude)) if len(latitude) else 0.0
    with style():
        figure = Figure(figsize=(7, 6.4), layout="constrained")
        axes = figure.add_subplot()
        dots = axes.scatter(longitude, latitude, c=np.maximum(per_ha, 0), s=4, cmap="Greys", marker="s", lw=0)
        figure.colorbar(dots, ax=axes, shrink=0.6, label="objects per hectare on the map")
        units.to_crs(4326).boundary.plot(ax=axes, color=MUTED, lw=0.5)
        for k, (reason, rows) in enumerate(areas.groupby("reason", sort=False)):
            at = rows.geometry.representative_point()
            axes.scatter(at.x, at.y, s=42, marker="s", facecolors="none", edgecolors=SERIES[k], lw=1.6, label=reason)
            for number, x, y in zip(rows["area"], at.x, at.y, strict=True):
                axes.annotate(str(number), (x, y), (4, 4), textcoords="offset points", fontsize=8, color=SERIES[k])
        axes.set_aspect(1 / np.cos(np.radians(middle)))
        axes.xaxis.set_major_locator(MaxNLocator(4))  # more would run into each other
        axes.set(title=title, xlabel="longitude, degrees", ylabel="latitude, degrees")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=3, fontsize=8)
    return figure


def _of_level(table: pd.DataFrame, level: int | None) -> tuple[pd.DataFrame, int]:
    """Rows of the units of one level, and how many units these are; without the row of all together."""
    table = table[table["unit_id"] != REGION]
    units = table.drop_duplicates("unit_id")
    if level is None:
        wanted = set(leaves(units))
    else:
        parent = dict(zip(units["unit_id"], units["parent_id"], strict=True))
        depth = {unit: len(_lineage(unit, parent)) for unit in parent}
        wanted = {unit for unit, found in depth.items() if found == level}
        if not wanted and depth:
            raise InputError(f"there are no units of level {level}; the levels are 1 to {max(depth.values())}")
    return table[table["unit_id"].isin(wanted)], len(wanted)


def _lineage(unit: str, parent: Mapping[str, object]) -> list[object]:
    """A unit, its parent, and so on."""
    line: list[object] = []
    one: object = unit
    while one in parent and one not in line:
        line.append(one)
        one = parent[str(one)]
    return line


def _how_many(shown: int, number: int, what: str) -> str:
    """That not all units are drawn; empty if they are."""
    return f"{what} {shown} of {number:,} units" if shown < number else ""


def _objects(table: pd.DataFrame, name: str | None) -> list[str]:
    names = [str(one) for one in table["object"].unique()]
    if name is None:
        return names
    if name not in names:
        raise InputError(f"there is no object {name!r} in the table; it has {', '.join(names)}")
    return [name]
