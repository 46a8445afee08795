"""How well a model agrees with reference data: one picture an object, drawn from the numbers of `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from subpixmap.report.figures import ACCENT, MUTED, SERIES, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUPPORTS = ("pixel", "1 ha", "4 ha", "1 km2", "unit")


def plot_agreement(errors: Mapping[str, Any], name: str) -> Figure:
    """Found against reference by class of density, R2 by support, and the total of every method.

    Parameters
    ----------
    errors
        From `model.evaluate.evaluate`, or the same read from metrics.json.
    name
        Object.
    """
    told = errors[name]
    methods = {"model": told} | {k: v[name] for k, v in errors.get("baselines", {}).items()}
    with style():
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        by_density, by_support, total = figure.subplots(1, 3)
        _draw_densities(by_density, told["by_density"])
        _draw_supports(by_support, methods)
        _draw_totals(total, methods)
        figure.suptitle(f"{name.replace('_', ' ')}: {errors['places']} places, {errors['groups']} units")
    return figure


def _draw_densities(axes: Axes, classes: list[dict[str, float]]) -> None:
    """Means of classes of hectares; the bars are their mean absolute error."""
    reference = [row["reference"] for row in classes]
    found = [row["reference"] + row["bias"] for row in classes]
    axes.axline((0, 0), slope=1, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.errorbar(reference, found, yerr=[row["mae"] for row in classes], fmt="o", color=ACCENT, capsize=2)
    axes.set(xlabel="reference, objects per hectare", ylabel="found", title="Hectares by density")


def _draw_supports(axes: Axes, methods: Mapping[str, Mapping[str, Any]]) -> None:
    for (method, told), colour in zip(methods.items(), SERIES, strict=False):
        known = {s: told[s]["r2"] for s in _SUPPORTS if isinstance(told.get(s, {}).get("r2"), float)}
        axes.plot(list(known), list(known.values()), "o-", color=colour, label=method)
    axes.set(ylim=(min(-0.05, axes.get_ylim()[0]), 1.02), title="R² by support")
    axes.legend(frameon=False)


def _draw_totals(axes: Axes, methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Signed errors of totals, with the interval over places where there is one."""
    for row, (told, colour) in enumerate(zip(methods.values(), SERIES, strict=False)):
        if isinstance(told["total"]["error_pct"], float):
            axes.plot(told["total"]["error_pct"], -row, "o", color=colour)
        if interval := told.get("intervals_95", {}).get("error_pct"):
            axes.plot(interval, (-row, -row), color=colour)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set(yticks=[-row for row in range(len(methods))], yticklabels=list(methods), xlabel="percent")
    axes.set_title("Error of the total, 95 % over places")
    axes.grid(axis="x")
    axes.margins(y=0.3)
