"""Counts and trends -> a figure in one line, in a notebook: `plot_counts(counts)`, `plot_trend(trend(counts))`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from subpixmap.errors import InputError
from subpixmap.report.colours import ACCENT, MUTED, SERIES, style
from subpixmap.report.figures import plot_units
from subpixmap.tables import REGION

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_counts(counts: pd.DataFrame, name: str | None = None, *, top: int = 6) -> Figure:
    """Totals over the periods of the units with the most objects, a panel for each object.

    Parameters
    ----------
    counts
        Rows of `count_by_unit`.
    name
        One object; all of them when not given.
    top
        Units drawn in each panel.
    """
    from matplotlib.figure import Figure

    counts = counts[counts["unit_id"] != REGION]
    names = _objects(counts, name)
    periods = list(counts.sort_values("period_start", kind="stable")["period"].unique())
    with style():
        figure = Figure(figsize=(4.6 * len(names), 2.9), layout="constrained")
        for axes, one in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
            rows = counts[counts["object"] == one]
            plot_units(pd.DataFrame(rows), periods, top=top, axes=axes)
            unit = "present on average" if rows["measure"].iloc[0] == "occupancy" else "map_total_full"
            axes.set_title(f"{one.replace('_', ' ')} ({unit})", loc="left", fontsize=10, fontweight="bold")
    return figure


def plot_trend(trends: pd.DataFrame, name: str | None = None, *, top: int = 25) -> Figure:
    """Changes of the units with their standard errors, the largest first; filled where they rise or fall.

    Parameters
    ----------
    trends
        Rows of `trend`.
    name
        One object; the first that has trends when not given.
    top
        Units drawn.
    """
    from matplotlib.figure import Figure

    changed = trends[trends["change"].notna() & (trends["unit_id"] != REGION)]
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
        labels = rows["unit_name"].fillna(rows["unit_id"]).astype(str).tolist()
        axes.set_yticks(at, labels, parse_math=False)
        axes.set_xlabel(f"change of {name.replace('_', ' ')}, +/- its standard error; filled: a rise or a fall")
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        if not len(rows):
            axes.text(0.5, 0.5, "no trend", transform=axes.transAxes, ha="center", color=MUTED)
    return figure


def _objects(table: pd.DataFrame, name: str | None) -> list[str]:
    names = [str(one) for one in table["object"].unique()]
    if name is None:
        return names
    if name not in names:
        raise InputError(f"there is no object {name!r} in the table; it has {', '.join(names)}")
    return [name]
