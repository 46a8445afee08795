"""Trends: by hand, by what few periods allow, and by simulation."""

import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from subpixmap.counts.trend import TREND_COLUMNS, smallest_p, theil_sen, trend
from subpixmap.errors import InputError


def counts(series, *, first=2018, measure="count", name="coconut"):
    """Rows of counts for {unit: totals by year}."""
    rows = [
        {
            "unit_id": unit,
            "unit_name": unit,
            "parent_id": None,
            "object": name,
            "measure": measure,
            "period": str(first + i),
            "period_start": f"{first + i}-01-01",
            "period_end": f"{first + i}-12-31",
            "map_total_full": total,
            "evidence": "simulated",
            "boundary_version": "1",
            "model_id": "demo-s2",
            "run_id": "r",
        }
        for unit, totals in series.items()
        for i, total in enumerate(totals)
    ]
    return pd.DataFrame(rows)


def test_slope_change_and_p_by_hand():
    row = trend(counts({"a": [100.0, 103, 104, 108, 110, 112]})).iloc[0]
    assert row["slope_per_year"] == pytest.approx(2.4)  # the 8th of the 15 slopes between two years
    assert row["slope_low"] < 2.4 < row["slope_high"]
    assert (row["change"], row["change_percent"]) == (12, 12)
    assert (row["first_period"], row["last_period"], row["n_periods"]) == ("2018", "2023", 6)
    assert row["p_value"] == pytest.approx(2 / 720)
    assert row["tau"] == pytest.approx(1)
    assert pd.isna(row["note"])


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_exact_p_is_the_share_of_orders_at_least_as_monotonic(n):
    def score(order):
        return sum(np.sign(b - a) for i, a in enumerate(order) for b in order[i + 1 :])

    scores = np.abs([score(order) for order in permutations(range(n))])
    values = np.random.default_rng(n).permutation(n).astype(float)
    expected = np.mean(scores >= abs(score(values)))
    assert theil_sen(np.arange(n), values).p_value == pytest.approx(expected)
    assert smallest_p(n) == pytest.approx(np.mean(scores >= scores.max()))


def test_few_periods_say_that_nothing_can_be_significant():
    note = trend(counts({"a": [1.0, 2, 3, 4]}))["note"].iloc[0]
    assert "4 periods cannot show a significant trend" in note
    assert "0.083" in note
    assert pd.isna(trend(counts({"a": [1.0, 2, 3, 4, 5]}))["note"].iloc[0])


def test_an_unobserved_period_is_left_out_not_zero():
    row = trend(counts({"a": [10.0, math.nan, 10, 10, 10, 10]})).iloc[0]
    assert row["slope_per_year"] == 0
    assert row["p_value"] == 1
    assert row["n_periods"] == 5
    assert row["note"] == "observed in 5 of 6 periods"


def test_units_keep_their_rows_and_order():
    table = trend(counts({"b": [1.0, 2], "a": [math.nan, math.nan], "c": [3.0, math.nan]}))
    assert table["unit_id"].tolist() == ["b", "a", "c"]
    assert table["slope_per_year"].isna().tolist() == [False, True, True]
    assert table["note"].iloc[1] == "observed in 0 of 2 periods: no trend"
    assert {name: str(kind) for name, kind in table.dtypes.items()} == TREND_COLUMNS


def test_occupancy_has_no_trend():
    row = trend(counts({"a": [1.0, 2, 3, 4, 5, 6]}, measure="occupancy", name="car")).iloc[0]
    assert row[["slope_per_year", "p_value", "change"]].isna().all()
    assert row["note"] == "a measure of occupancy has no trend"


def test_growth_from_nothing_has_no_percentage():
    row = trend(counts({"a": [0.0, 1, 2, 3, 4]})).iloc[0]
    assert row["change"] == 4
    assert pd.isna(row["change_percent"])


def test_foreign_tables_are_refused():
    with pytest.raises(InputError, match="lack the columns map_total_full"):
        trend(counts({"a": [1.0]}).drop(columns="map_total_full"))
