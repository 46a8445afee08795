"""Trends: by hand, by what few periods allow, and by simulation."""

import math
from datetime import date
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subpixmap.errors import InputError, Refused
from subpixmap.tables import TREND, types_of
from subpixmap.trends.changes import Totals, between
from subpixmap.trends.shared_effects import background_effect, shared_steps, unchanged_effect
from subpixmap.trends.slopes import smallest_p, theil_sen
from subpixmap.trends.unit_trends import trend


def counts(series: Any, *, first: int = 2018, measure: str = "count", name: str = "coconut") -> Any:
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
            "area_ha": 100.0,
            "evidence": "simulated",
            "boundary_version": "1",
            "model_id": "demo-s2",
            "run_id": "r",
        }
        for unit, totals in series.items()
        for i, total in enumerate(totals)
    ]
    return pd.DataFrame(rows)


def comparable(
    table: Any, *, noise: float = 1.0, acquisitions: int = 6, common: float = 0.9, background: Any = None
) -> Any:
    """A series that belongs to counts; the totals on common pixels are those of the counts."""
    periods = list(dict.fromkeys(table["period"]))
    density = dict(zip(periods, background or [0.0] * len(periods), strict=True))
    return table[["unit_id", "object", "period"]].assign(
        common_frac=common,
        common_total=table["map_total_full"],
        noise_se=noise,
        n_noise_acquisitions=acquisitions,
        background_per_ha=table["period"].map(density),
    )


def followed(table: Any, **options: Any) -> Any:
    """Trends of totals that every period saw wholly."""
    return trend(table, comparable(table), **options)


def test_slope_change_and_p_by_hand() -> None:
    row = followed(counts({"a": [100.0, 103, 104, 108, 110, 112]})).iloc[0]
    assert row["slope_per_year"] == pytest.approx(2.4)  # the 8th of the 15 slopes between two years
    assert row["slope_low"] < 2.4 < row["slope_high"]
    assert (row["change"], row["change_percent"]) == (12, 12)
    assert (row["first_period"], row["last_period"], row["n_periods"]) == ("2018", "2023", 6)
    assert row["p_value"] == pytest.approx(2 / 720)
    assert row["tau"] == pytest.approx(1)
    assert pd.isna(row["note"])


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_exact_p_is_the_share_of_orders_at_least_as_monotonic(n: int) -> None:
    def score(order: Any) -> Any:
        return sum(np.sign(b - a) for i, a in enumerate(order) for b in order[i + 1 :])

    scores = np.abs([score(order) for order in permutations(range(n))])
    values = np.random.default_rng(n).permutation(n).astype(float)
    expected = np.mean(scores >= abs(score(values)))
    assert theil_sen(np.arange(float(n)), values).p_value == pytest.approx(expected)
    assert smallest_p(n) == pytest.approx(np.mean(scores >= scores.max()))


def test_few_periods_say_that_nothing_can_be_significant() -> None:
    note = followed(counts({"a": [1.0, 2, 3, 4]}))["note"].iloc[0]
    assert "4 periods are too few for a significant trend" in note
    assert "0.083" in note
    assert pd.isna(followed(counts({"a": [1.0, 2, 3, 4, 5]}))["note"].iloc[0])


def test_an_unobserved_period_is_left_out_not_zero() -> None:
    row = followed(counts({"a": [10.0, math.nan, 10, 10, 10, 10]})).iloc[0]
    assert row["slope_per_year"] == 0
    assert row["p_value"] == 1
    assert row["n_periods"] == 5
    assert row["note"] == "observed in 5 of 6 periods"


def test_units_keep_their_rows_and_order() -> None:
    table = followed(counts({"b": [1.0, 2], "a": [math.nan, math.nan], "c": [3.0, math.nan]}))
    assert table["unit_id"].tolist() == ["b", "a", "c"]
    assert table["slope_per_year"].isna().tolist() == [False, True, True]
    assert table["note"].iloc[1] == "observed in 0 of 2 periods: no trend"
    assert {name: str(kind) for name, kind in table.dtypes.items()} == types_of(TREND)


def test_a_change_on_land_unlike_the_training_data_says_so() -> None:
    table = counts({"a": [100.0, 103, 104, 108], "b": [100.0, 103, 104, 108]}).assign(flag=None, ood_frac=0.02)
    table.loc[1, ["flag", "ood_frac"]] = "tiny_unit;out_of_domain", 0.43
    table.loc[2, ["flag", "ood_frac"]] = "out_of_domain", 0.12
    both = followed(table)
    plain = followed(table.drop(columns=["flag", "ood_frac"]))
    added = "; up to 43% of the land is unlike the training data (2 of 4 periods, most of it in 2019)"
    assert both["because"].tolist() == [plain["because"].iloc[0] + added, plain["because"].iloc[1]]
    assert both["direction"].tolist() == plain["direction"].tolist()


def test_occupancy_has_no_trend() -> None:
    row = followed(counts({"a": [1.0, 2, 3, 4, 5, 6]}, measure="occupancy", name="car")).iloc[0]
    assert row[["slope_per_year", "p_value", "change"]].isna().all()
    assert row["note"] == "a measure of occupancy has no trend"


def test_growth_from_nothing_has_no_percentage() -> None:
    row = followed(counts({"a": [0.0, 1, 2, 3, 4]})).iloc[0]
    assert row["change"] == 4
    assert pd.isna(row["change_percent"])


def test_foreign_tables_are_refused() -> None:
    with pytest.raises(InputError, match="map_total_full"):
        trend(counts({"a": [1.0]}).drop(columns="map_total_full"))


# Comparable pixels, noise, years --------------------------------------------------------------------------------------


def test_common_pixels_are_followed_not_what_each_year_saw() -> None:
    table = counts({"a": [100.0, 90, 80, 70, 60]})
    series = comparable(table).assign(common_total=100.0)  # the same on the pixels that all years saw
    with pytest.raises(InputError, match="no totals on common pixels"):
        trend(table)
    row = trend(table, series).iloc[0]
    assert (row["slope_per_year"], row["p_value"], row["basis"]) == (0, 1, "common_pixels")


def test_units_without_common_pixels_have_no_trend() -> None:
    table = counts({"a": [1.0, 2, 3]})
    row = trend(table, comparable(table).assign(common_total=math.nan, common_frac=math.nan)).iloc[0]
    assert row["note"] == "no pixel was observed in all periods: no trend"
    few = trend(table, comparable(table, common=0.12)).iloc[0]
    assert "only 12% of the unit was observed in all periods" in few["note"]


def test_a_change_is_set_against_the_noise_within_its_periods() -> None:
    table = counts({"a": [100.0, 100, 130]})
    small = trend(table, comparable(table, noise=3.0)).iloc[0]
    large = trend(table, comparable(table, noise=30.0)).iloc[0]
    assert small["change_se"] == pytest.approx(3 * math.sqrt(2))
    assert small["change_p"] < 0.001 < 0.2 < large["change_p"]
    assert small["min_detectable_change"] < 30 < large["min_detectable_change"]


def two_periods(means: Any, noise: Any, n: int) -> Totals:
    """Totals of two periods whose noise comes from `n` acquisitions each."""
    freedom = np.full(2, n - 1.0)
    return Totals(("2018", "2019"), np.array([2018.5, 2019.5]), np.array(means), np.array(noise), freedom, 2 * n - 2.0)


def test_the_minimum_detectable_change_is_found_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(4)
    n, found, sigma, weights = 8, 0, 2.0, between(2, 0, 1)
    least = two_periods([50.0, 50.0], np.full(2, sigma / math.sqrt(n)), n).detectable(weights, 0.95)
    for _ in range(1500):
        samples = [rng.normal(mean, sigma, n) for mean in (50, 50 + least)]
        noise = np.array([sample.std(ddof=1) / math.sqrt(n) for sample in samples])
        found += two_periods([sample.mean() for sample in samples], noise, n).contrast(weights)[2] < 0.05
    assert found / 1500 == pytest.approx(0.8, abs=0.04)


def test_incomparable_rows_are_refused() -> None:
    table = counts({"a": [1.0, 2, 3]}).assign(model_sha256=["x", "x", "y"])
    with pytest.raises(Refused, match=r"model_sha256.*'x'.*'y'"):
        followed(table)
    with pytest.raises(Refused, match="boundary_version"):
        followed(counts({"a": [1.0, 2]}).assign(boundary_version=["2019", "2023"]))
    with pytest.raises(InputError, match=r"coconut.*2018"):
        followed(pd.concat([counts({"a": [1.0, 2]})] * 2))
    with pytest.raises(Refused, match=r"series\.parquet.*'a', coconut"):
        trend(counts({"a": [1.0, 2]}), comparable(counts({"b": [1.0, 2]})))


def test_flicker_is_not_persistent() -> None:
    table = followed(counts({"up": [1.0, 2, 3, 4], "odd": [1.0, 2, 9, 1.5], "down": [4.0, 3.5, 2, 1]}))
    assert table["persistent"].tolist() == [True, False, True]


def test_quarters_are_compared_with_the_same_quarter() -> None:
    season = np.array([100.0, 10, 50, 200])
    rows = counts({"a": np.concatenate([season + 2 * year for year in range(6)])})
    first_months = [(2018 + i // 4, 3 * (i % 4) + 1) for i in range(24)]
    rows["period"] = [f"{y}-Q{m // 3 + 1}" for y, m in first_months]
    rows["period_start"] = [f"{y}-{m:02d}-01" for y, m in first_months]
    rows["period_end"] = [f"{y}-{m + 2:02d}-28" for y, m in first_months]
    row = followed(rows).iloc[0]
    assert row["p_method"] == "seasonal"
    assert row["slope_per_year"] == pytest.approx(2)
    assert row["p_value"] < 1e-6
    gap = followed(rows.assign(map_total_full=rows["map_total_full"].where(rows.index != 7))).iloc[0]
    assert gap["slope_per_year"] == pytest.approx(2)


def test_effects_of_single_years_are_taken_out() -> None:
    rng = np.random.default_rng(1)
    effect = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1.0])
    truth = {f"same{i}": np.full(6, 100.0 + i) for i in range(8)} | {"grows": 100 + 10 * np.arange(6.0)}
    table = counts({unit: totals * effect * (1 + rng.normal(0, 1e-4, 6)) for unit, totals in truth.items()})
    series = comparable(table)
    found = unchanged_effect(series, [f"same{i}" for i in range(8)])
    assert found["factor"].to_numpy() == pytest.approx(effect, rel=1e-3)
    row = trend(table, series, year_effect=found).set_index("unit_id").loc["grows"]
    assert row["slope_per_year"] == pytest.approx(10, rel=1e-2)
    assert row["year_effect"] == "8 unchanged units"
    assert trend(table, series).set_index("unit_id").loc["grows", "slope_per_year"] != pytest.approx(10, rel=1e-2)
    with pytest.raises(InputError, match="other"):
        unchanged_effect(series, ["other"])


def test_background_is_taken_off_every_hectare() -> None:
    shift = [0.0, 0.02, 0.04, 0.06, 0.08]
    table = counts({"a": [50 + 100 * s for s in shift]})  # 100 ha
    series = comparable(table, background=shift)
    assert trend(table, series)["slope_per_year"].iloc[0] == pytest.approx(2)
    clean = trend(table, series, year_effect=background_effect(series)).iloc[0]
    assert clean["slope_per_year"] == pytest.approx(0, abs=1e-9)


def test_a_step_that_all_units_share_stands_out_where_the_processor_changed() -> None:
    rng = np.random.default_rng(3)
    steps = np.array([1, 1, 1, 1, 1.15, 1.15])  # from 2022 on
    table = counts({f"u{i}": rng.uniform(50, 500) * steps * rng.normal(1, 0.01, 6) for i in range(40)})
    found = shared_steps(table, comparable(table)).set_index("after")
    assert found["stands_out"].tolist() == [False, False, False, True, False]
    assert found.loc["2022", "join"] == "processing baseline 04.00"
    assert found.loc["2022", "shared_step_percent"] == pytest.approx(14, abs=1)
    assert found.drop("2022")["join"].isna().all()
    assert shared_steps(table, comparable(table), joins={"x": date(2020, 1, 1)})["join"].tolist() == [
        None,
        "x",
        None,
        None,
        None,
    ]


# Many simulations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 6, 8, 12])
def test_the_interval_holds_the_true_slope_in_90_to_99_percent(n: int) -> None:
    rng = np.random.default_rng(n)
    years, hits = np.arange(n), 0
    for _ in range(600):
        slope = theil_sen(years.astype(float), 3 * years + rng.normal(0, 5, n))
        hits += slope.low <= 3 <= slope.high
    assert 0.90 <= hits / 600 <= 0.99


def test_no_change_raises_false_alarms_at_the_stated_rate_only() -> None:
    rng = np.random.default_rng(8)
    table = followed(counts({f"u{i}": 100 + rng.normal(0, 3, 6) for i in range(300)}))
    assert (table["p_value"] <= 0.05).mean() <= 0.07
    assert table["trend_significant"].mean() <= 0.01


def test_true_trends_are_found_among_many_units() -> None:
    rng = np.random.default_rng(9)
    quiet = {f"u{i}": 100 + rng.normal(0, 1, 8) for i in range(60)}
    grow = {f"g{i}": 100 + 5 * np.arange(8) + rng.normal(0, 1, 8) for i in range(20)}
    table = followed(counts(quiet | grow, first=2016)).set_index("unit_id")
    assert table.loc[list(grow), "trend_significant"].mean() > 0.9
    assert (table.loc[list(grow), "slope_per_year"] > 0).all()
    assert table.loc[list(quiet), "trend_significant"].mean() <= 0.05
