"""Figure of a detector's training curves: loss and validation results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from subpixmap.report.colours import ACCENT, MUTED, style


def plot_curves(rows: Sequence[Mapping[str, float | None]]) -> Figure:
    """Loss, F1 and count bias by step.

    Parameters
    ----------
    rows
        step, loss, f1 and count_bias, as `detect-train` writes them.
    """
    with style():
        figure = Figure(figsize=(9, 3), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, (name, title) in zip(
            panels, (("loss", "loss"), ("f1", "F1, validation"), ("count_bias", "count bias, validation")), strict=True
        ):
            known = [(row["step"], row[name]) for row in rows if row[name] is not None and row["step"] is not None]
            axes.plot([step for step, _ in known], [value for _, value in known], color=ACCENT)
            axes.set_title(title)
            axes.set_xlabel("step")
            if name == "count_bias":
                axes.axhline(0, color=MUTED, linewidth=0.8)
    return figure
