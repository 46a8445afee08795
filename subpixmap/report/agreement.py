"""Figures of model errors against reference data, from the results of `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from subpixmap.report.colours import ACCENT, MUTED, SERIES, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUPPORTS = ("pixel", "1 ha", "4 ha", "1 km2", "plot", "unit")


def plot_agreement(errors: Mapping[str, Any], name: str) -> Figure:
    """Mapped against reference by class of density, R2 by support, and the total of every method.

    Parameters
    ----------
    errors
        From `evaluate`, or read from metrics.json.
    name
        Object.
    """
    of_model = errors[name]
    methods = {"model": of_model} | {k: v[name] for k, v in errors.get("baselines", {}).items()}
    with style():
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        by_density, by_support, total = figure.subplots(1, 3)
        _draw_densities(by_density, of_model.get("by_density", []))
        _draw_supports(by_support, methods)
        _draw_totals(total, methods)
        figure.suptitle(f"{name.replace('_', ' ')}: {errors['places']} places, {errors['groups']} units")
    return figure


def _draw_densities(axes: Axes, classes: list[dict[str, float]]) -> None:
    """Means of classes of hectares; the bars are their mean absolute error."""
    reference = [row["reference"] for row in classes]
    mapped = [row["reference"] + row["bias"] for row in classes]
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.errorbar(reference, mapped, yerr=[row["mae"] for row in classes], fmt="o", color=ACCENT, capsize=2)
    axes.set(xlabel="reference, objects per hectare", ylabel="mapped", title="Hectares by density")


def _draw_supports(axes: Axes, methods: Mapping[str, Mapping[str, Any]]) -> None:
    for (method, of_method), colour in zip(methods.items(), SERIES, strict=False):
        r2 = {s: of_method[s]["r2"] for s in _SUPPORTS if isinstance(of_method.get(s, {}).get("r2"), float)}
        axes.plot(list(r2), list(r2.values()), "o-", color=colour, label=method)
    axes.set(ylim=(min(-0.05, axes.get_ylim()[0]), 1.02), title="R² by support")
    axes.legend(frameon=False)


def _draw_totals(axes: Axes, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Signed errors of totals, with the interval over places where there is one."""
    for row, (of_method, colour) in enumerate(zip(methods.values(), SERIES, strict=False)):
        if isinstance(of_method["total"]["error_pct"], float):
            axes.plot(of_method["total"]["error_pct"], -row, "o", color=colour)
        if interval := of_method.get("intervals_95", {}).get("error_pct"):
            axes.plot(interval, (-row, -row), color=colour)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set(yticks=[-row for row in range(len(methods))], yticklabels=list(methods), xlabel="percent")
    axes.set_title("Error of the total, 95 % over places")
    axes.grid(axis="x")
    axes.margins(y=0.3)
