"""Plots in one line: one level of units at a time, and room for many of them."""

import itertools

import pandas as pd
import pytest
from matplotlib.text import Text

from subpixmap.errors import InputError
from subpixmap.report.plots import plot_counts, plot_trend
from subpixmap.tables import REGION

UNITS = [("C", ""), *((f"P{i}", "C") for i in range(3)), *((f"M{i}", f"P{i % 3}") for i in range(40)), (REGION, None)]


@pytest.fixture(scope="module")
def counts() -> pd.DataFrame:
    """A country of 3 provinces and 40 municipalities, and the row of all; four objects, two years."""
    rows = [
        (unit, f"name of {unit}", parent, one, year, f"{year}-01-01", 100.0 * (1 + len(unit)) + i, "count")
        for i, (unit, parent) in enumerate(UNITS)
        for one in ("coconut", "oil_palm", "olive", "car")
        for year in ("2020", "2021")
    ]
    columns = ["unit_id", "unit_name", "parent_id", "object", "period", "period_start", "map_total_full", "measure"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture(scope="module")
def trends(counts: pd.DataFrame) -> pd.DataFrame:
    rows = counts[counts["period"] == "2021"]
    return rows.assign(change=rows["map_total_full"] - 300, change_se=10.0, direction="rise")


def names_in(figure: object) -> set[str]:
    axes = figure.axes[0]  # type: ignore[attr-defined]
    return {text.get_text() for text in axes.texts}


def test_counts_show_units_of_one_level(counts: pd.DataFrame) -> None:
    figure = plot_counts(counts, "coconut")
    assert len(figure.axes[0].lines) == 6
    assert all(name.startswith("name of M") for name in names_in(figure))
    assert figure.axes[0].get_xlabel() == "the largest 6 of 40 units"
    figure = plot_counts(counts, "coconut", level=2)
    assert names_in(figure) == {"name of P0", "name of P1", "name of P2"}
    assert figure.axes[0].get_xlabel() == ""
    assert names_in(plot_counts(counts, "coconut", level=1)) == {"name of C"}
    with pytest.raises(InputError, match="1 to 3"):
        plot_counts(counts, level=4)


def test_panels_of_many_objects_stand_in_two_columns(counts: pd.DataFrame) -> None:
    figure = plot_counts(counts[counts["object"] != "car"], top=18)
    assert len(figure.axes) == 3
    assert figure.get_figwidth() < 10
    figure.canvas.draw()
    axes = figure.axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 18
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without its line
    heights = sorted(box.y0 for box in boxes)
    least = min(b - a for a, b in itertools.pairwise(heights))
    assert least > 0.7 * boxes[0].height  # no name covers another


def test_trends_show_units_of_one_level(trends: pd.DataFrame) -> None:
    figure = plot_trend(trends, "olive", top=10)
    assert {tick.get_text()[:9] for tick in figure.axes[0].get_yticklabels()} == {"name of M"}
    assert "the largest changes, 10 of 40 units" in figure.axes[0].get_xlabel()
    assert len(plot_trend(trends, level=2).axes[0].get_yticklabels()) == 3
