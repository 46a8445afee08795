"""Figures of a map, of time series and of agreement with reference data; each returns a matplotlib Figure.

Small functions on arrays and tables, so that notebooks and the page draw the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from subpixmap.report.colours import ACCENT, DENSITY, INK, MUTED, SERIES, style

if TYPE_CHECKING:
    import geopandas as gpd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from subpixmap.report.downsample import Layers


def nice_limit(values: NDArray[np.floating], *, share: float = 0.995) -> float:
    """A round upper end for a scale: the quantile of the positive values, up to 1, 1.5, 2, 3, 4, 5, 6, 8 x 10^n."""
    positive = values[np.isfinite(values) & (values > 0)]
    top = float(np.quantile(positive, share)) if positive.size else 1.0
    power = 10.0 ** np.floor(np.log10(top))
    return float(next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= top * (1 - 1e-9)))


def plot_map(
    layers: Layers,
    object_name: str,
    period: str,
    *,
    units: gpd.GeoDataFrame | None = None,
    limit: float | None = None,
    figsize: tuple[float, float] = (6.0, 6.0),
) -> Figure:
    """Density per hectare of one object and period; pixels that were not observed are hatched.

    Parameters
    ----------
    layers
        As `read_layers` returns them.
    object_name, period
        One of the layers' each.
    units
        Polygons whose borders are drawn (EPSG:4326).
    limit
        Upper end of the colour scale, objects per hectare; by default the 99.5 % quantile over all periods, rounded up.
    """
    o, p = layers.objects.index(object_name), layers.periods.index(period)
    density = layers.density[o, p]
    limit = nice_limit(layers.density[o]) if limit is None else limit
    rows, cols = layers.grid.shape
    with style():
        figure = Figure(figsize=figsize, layout="constrained")
        axes = figure.add_subplot()
        missing = layers.inside & ~np.isfinite(density)
        axes.contourf(missing.astype(float), [0.5, 1.5], colors="#eef0f3", hatches=["////"], zorder=0) if (
            missing.any() and not missing.all()
        ) else None
        image = axes.imshow(
            np.ma.masked_invalid(np.clip(density, 0, limit)), cmap=DENSITY, vmin=0, vmax=limit, interpolation="nearest"
        )
        if units is not None:
            _draw_borders(axes, layers, units)
        axes.set(xlim=(-0.5, cols - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{object_name.replace('_', ' ')}, {period}", loc="left", fontsize=11, fontweight="bold")
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=28, pad=0.02, extend="max")
        bar.set_label("objects per hectare")
        bar.outline.set_visible(False)
        _scale_bar(axes, layers)
    return figure


def plot_series(
    table: pd.DataFrame,
    *,
    value: str = "map_total_full",
    label: str = "mapped",
    truth: pd.DataFrame | None = None,
    observed: bool = True,
    figsize: tuple[float, float] = (4.6, 2.7),
) -> Figure:
    """Totals over the periods; below them the share that was observed.

    Parameters
    ----------
    table
        Rows of one object in order of time: period, `value`, observed_frac; optionally estimate, ci_low and ci_high
        (a square with its interval) and noise_se (whiskers).
    truth
        Rows period, truth, drawn as rings.
    observed
        Whether to draw the observed share.
    """
    x = np.arange(len(table))
    totals = table[value].to_numpy(float)
    with style():
        figure = Figure(figsize=figsize, layout="constrained")
        if observed:
            axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        else:
            axes = strip = figure.add_subplot()
        estimated = "estimate" in table.columns and bool(table.estimate.notna().any())
        if estimated:
            _draw_estimates(axes, x, table)
        if "noise_se" in table.columns and table.noise_se.notna().any():
            noise = np.nan_to_num(table.noise_se.to_numpy(float))
            axes.errorbar(x, totals, yerr=noise, fmt="none", ecolor=ACCENT, elinewidth=1.2, capsize=3)
        if truth is not None and len(truth):
            at = {period: i for i, period in enumerate(table.period)}
            drawn = truth[truth.period.isin(at)]
            axes.plot(drawn.period.map(at), drawn.truth, "o", mfc="none", mec=SERIES[1], mew=1.4, ms=8, label="truth")
        axes.plot(x, totals, color=ACCENT, lw=2, marker="o", ms=5, mec="white", mew=0.8, label=label)
        highest = [] if truth is None else truth.truth.to_list()
        highest += table.ci_high.to_list() if estimated else []
        highest += (totals + table.noise_se.fillna(0).to_numpy(float)).tolist() if "noise_se" in table.columns else []
        _from_zero(axes, np.append(totals, np.array(highest, float)))
        if estimated or (truth is not None and len(truth)):
            axes.legend(
                frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, handlelength=1.4, borderaxespad=0
            )
        if observed:
            _observed_strip(strip, x, table.observed_frac.to_numpy(float))
        _period_ticks(strip, list(table.period))
    return figure


def _draw_estimates(axes: Axes, x: NDArray[np.integer], table: pd.DataFrame) -> None:
    """Estimates with their intervals, a little beside the map totals."""
    value, low, high = (table[name].to_numpy(float) for name in ("estimate", "ci_low", "ci_high"))
    at, known = x + 0.12, np.isfinite(low)
    axes.errorbar(
        at[known],
        value[known],
        yerr=np.stack([value - low, high - value])[:, known],
        fmt="none",
        ecolor=SERIES[2],
        elinewidth=2.2,
        capsize=4,
    )
    axes.plot(at, value, "s", color=SERIES[2], ms=6, mec="white", mew=0.8, label="estimate")


def plot_units(
    counts: pd.DataFrame,
    periods: Sequence[str],
    *,
    value: str = "map_total_full",
    top: int = 6,
    figsize: tuple[float, float] = (4.6, 2.7),
    axes: Axes | None = None,
) -> Figure:
    """Totals of the units with the most objects, each labelled at the end of its line; bars for one period.

    Parameters
    ----------
    counts
        Rows of one object: unit_id, unit_name, period, `value`.
    periods
        Labels in order of time.
    top
        Units to draw.
    axes
        Drawn into, instead of a figure of its own.
    """
    wide = counts.pivot(index="unit_id", columns="period", values=value).reindex(columns=list(periods)).astype(float)
    names = counts.drop_duplicates("unit_id").set_index("unit_id").unit_name
    first = wide.mean(axis=1).sort_values(ascending=False, kind="stable").dropna().index[:top]
    with style():
        if axes is None:
            axes = Figure(figsize=figsize, layout="constrained").add_subplot()
        figure = axes.get_figure(root=True)
        assert isinstance(figure, Figure)
        if len(periods) == 1:
            _draw_bars(axes, wide.loc[first].iloc[:, 0], [short(str(names[unit])) for unit in first])
            return figure
        ends = []
        for i, unit in enumerate(first):
            values, colour = wide.loc[unit].to_numpy(float), SERIES[i % len(SERIES)]
            dashes = ("-", "--", ":")[i // len(SERIES) % 3]
            axes.plot(np.arange(len(periods)), values, color=colour, lw=1.8, ls=dashes, marker="o", ms=3.5)
            last = np.flatnonzero(np.isfinite(values))[-1]
            ends.append((values[last], colour, short(str(names[unit]))))
        _from_zero(axes, wide.loc[first].to_numpy(float).ravel())
        _label_ends(axes, ends, len(periods) - 1)
        _period_ticks(axes, list(periods))
    return figure


def _draw_bars(axes: Axes, values: pd.Series, names: Sequence[str]) -> None:
    """A bar for each unit, the largest on top, its number behind it."""
    at = -np.arange(len(values))
    axes.barh(at, values, height=0.62, color=ACCENT)
    for y, value in zip(at, values, strict=True):
        axes.annotate(f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}", (max(value, 0), y), (4, 0),
                      textcoords="offset points", va="center", fontsize=8.5, color=INK)  # fmt: skip
    axes.set_yticks(at, names, parse_math=False)
    axes.margins(x=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    _thousands(axes.xaxis)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")


def plot_reliability(
    reference: NDArray[np.floating],
    mapped: NDArray[np.floating],
    *,
    unit: str = "objects per unit and period",
    figsize: tuple[float, float] = (3.8, 3.6),
) -> Figure:
    """Mapped against reference, with the line of equality, the mean error and the mean absolute error.

    Parameters
    ----------
    reference, mapped
        (n,) finite or NaN; pairs with a NaN are left out.
    """
    both = np.isfinite(reference) & np.isfinite(mapped)
    x, y = np.asarray(reference, float)[both], np.asarray(mapped, float)[both]
    with style():
        figure = Figure(figsize=figsize, layout="constrained")
        axes = figure.add_subplot()
        top = float(max(x.max(initial=0), y.max(initial=0))) * 1.06 or 1.0
        low = float(min(0, y.min(initial=0)))
        axes.plot([low, top], [low, top], color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.scatter(x, y, s=18, color=ACCENT, alpha=0.55, lw=0)
        axes.set(xlim=(low, top), ylim=(low, top), aspect="equal", xlabel=f"reference, {unit}", ylabel="mapped")
        axes.grid(True, axis="both")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            _thousands(axis)
        if x.size:
            bias, absolute = np.mean(y - x), np.mean(np.abs(y - x))
            text = f"n = {x.size}\nmean error {bias:+,.1f}\nmean abs. error {absolute:,.1f}".replace("-", "\u2212")
            axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", color=INK, fontsize=8.5, linespacing=1.4)
    return figure


def length_text(metres: float) -> str:
    """A length for people: metres below a kilometre."""
    return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


def _draw_borders(axes: Axes, layers: Layers, units: gpd.GeoDataFrame) -> None:
    import shapely
    from matplotlib.collections import LineCollection

    lines = [
        shapely.get_coordinates(ring) - 0.5  # pixel centres are whole numbers in imshow
        for geometry in units.geometry
        if geometry is not None and not geometry.is_empty
        for part in shapely.get_parts(layers.grid.to_pixels(geometry))
        for ring in shapely.get_rings(part)
    ]
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.6, alpha=0.75))


def _scale_bar(axes: Axes, layers: Layers) -> None:
    rows, cols = layers.grid.shape
    metres = nice_limit(np.array([cols * layers.grid.step / 5]))
    length = metres / layers.grid.step
    y = rows * 1.015
    axes.plot([0, length], [y, y], color=INK, lw=2, clip_on=False, solid_capstyle="butt")
    axes.text(length + cols * 0.015, y, length_text(metres), va="center", fontsize=8.5, color=INK, clip_on=False)


def _observed_strip(axes: Axes, x: NDArray[np.integer], share: NDArray[np.floating]) -> None:
    axes.bar(x, np.ones(len(x)), width=0.62, color="#eef0f3", hatch="////", edgecolor="#c9ced7", lw=0)
    axes.bar(x, np.nan_to_num(share), width=0.62, color="#9fb9bb")
    for at, value in zip(x, share, strict=True):
        if len(x) <= 12:
            text = f"{100 * value:.0f} %" if np.isfinite(value) else "0 %"
            axes.text(at, 1.18, text, ha="center", va="bottom", fontsize=7.5, color=MUTED)
    axes.set(ylim=(0, 1.9), yticks=[])
    axes.set_ylabel("observed", rotation=0, ha="right", va="center", fontsize=8.5)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)


def _period_ticks(axes: Axes, periods: Sequence[str]) -> None:
    step = max(1, -(-len(periods) // 8))
    ticks = range(0, len(periods), step)
    axes.set_xticks(ticks, [str(periods[i])[:10] for i in ticks])
    axes.set_xlim(-0.45, max(len(periods) - 0.55, 0.45))


def _from_zero(axes: Axes, values: NDArray[np.floating]) -> None:
    """A scale that begins at 0: a change looks as large as it is."""
    finite = values[np.isfinite(values)]
    low, high = (min(0.0, finite.min()), max(finite.max(), 0.0)) if finite.size else (0.0, 1.0)
    axes.set_ylim(low * 1.08, high * 1.12 if high > 0 else 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _thousands(axes.yaxis)


def _thousands(axis: Axis) -> None:
    """Tick labels in one unit for the whole axis."""

    def label(value: float, _: object) -> str:
        top = max(abs(limit) for limit in axis.get_view_interval())
        divisor, letter = next((d, x) for d, x in ((1e9, "bn"), (1e6, "m"), (1e4, "k"), (0, "")) if top >= d)
        divisor = 1e3 if letter == "k" else divisor
        return f"{value / (divisor or 1):,.6g}{letter if value else ''}".replace("-", "\u2212")

    axis.set_major_formatter(FuncFormatter(label))


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]], last: int) -> None:
    """Names at the ends of lines, moved apart so that none covers another."""
    if not ends:
        return
    ends = sorted(ends)
    low, high = axes.get_ylim()
    gap = (high - low) * min(0.085, 1 / len(ends))
    # Moved as little as possible (least squares), each a gap above the one before.
    steps = gap * np.arange(len(ends))
    at = isotonic_regression(np.array([value for value, _, _ in ends]) - steps).x + steps
    at += max(low + gap / 2 - at.min(), 0) - max(at.max() - high, 0)
    for y, (value, colour, name) in zip(at, ends, strict=True):
        place = last + 0.03 * (last + 1) + 0.05, y
        line: Any = {"arrowstyle": "-", "color": colour, "lw": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 3}
        axes.annotate(
            name,
            (last, value),
            place,
            color=colour,
            va="center",
            fontsize=8.5,
            annotation_clip=False,
            parse_math=False,
            arrowprops=line if abs(y - value) > gap / 2 else None,
        )


def short(name: str, length: int = 18) -> str:
    """A name that fits beside a line."""
    name = " ".join(name.split())
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"
