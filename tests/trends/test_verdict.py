"""Verdicts: by hand, and their rates over many simulated units."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subpixmap.trends.change_points import find_step
from subpixmap.trends.changes import Totals, even_noise, noise_between_periods, relative_steps, shared_noise
from subpixmap.trends.seasons import by_year
from subpixmap.trends.unit_trends import follow
from subpixmap.trends.verdict import weigh


def totals(values: Any, se: Any = 10.0, freedom: float = 18.0) -> Totals:
    n = len(values)
    years = np.arange(2018.0, 2018 + n)
    return Totals(
        tuple(f"{year:.0f}" for year in years),
        years + 0.5,
        np.array(values, float),
        np.full(n, se),
        np.full(n, freedom),
        freedom,
    )


def country(truth: Any, *, share: float, rng: Any, acquisitions: int = 4) -> Any:
    """Counts and series of units whose acquisitions have independent errors of this share of the largest total."""
    rows, series = [], []
    for unit, values in truth.items():
        sigma = share * np.sqrt(acquisitions) * max(values)
        for year, value in enumerate(values, 2018):
            seen = rng.normal(value, sigma, acquisitions)
            key = {"unit_id": unit, "object": "coconut", "period": str(year)}
            rows.append(
                key
                | {
                    "unit_name": unit,
                    "parent_id": None,
                    "measure": "count",
                    "area_ha": 100.0,
                    "map_total_full": seen.mean(),
                    "period_start": f"{year}-01-01",
                    "period_end": f"{year}-12-31",
                }
            )
            noise = {"noise_se": seen.std(ddof=1) / np.sqrt(acquisitions), "n_noise_acquisitions": acquisitions}
            series.append(key | {"common_frac": 0.9, "common_total": seen.mean(), "background_per_ha": 0.0} | noise)
    return pd.DataFrame(rows), pd.DataFrame(series)


def verdicts(truth: Any, **options: Any) -> Any:
    return follow(*country(truth, **options)).trend.set_index("unit_id")


def test_a_felling_is_dated_and_told_in_words() -> None:
    found = find_step(totals([1000, 1000, 1010, 990, 500, 510]))
    assert found is not None
    assert (found.before, found.earliest, found.latest) == (3, 3, 3)
    assert found.change == pytest.approx(505 - 1000)
    assert found.se == pytest.approx(10 * math.sqrt(1 / 4 + 1 / 2))
    rng = np.random.default_rng(0)
    felled = {"f": [1000.0] * 4 + [500.0] * 2} | {f"same{i}": [800.0] * 6 for i in range(9)}
    row = verdicts(felled, share=0.01, rng=rng).loc["f"]
    assert row["direction"] == "fall"
    assert row["because"].startswith("fell by ")
    assert "most of it between 2021 and 2022" in row["because"]
    assert (row["step_from"], row["step_to"]) == ("2021", "2022")


def test_every_row_has_a_direction_and_a_reason() -> None:
    counts, series = country({"a": [100.0, 90, 80], "none": [0.0, 0, 0]}, share=0.02, rng=np.random.default_rng(1))
    series.loc[series["unit_id"] == "none", ["common_total", "common_frac"]] = math.nan
    followed = follow(counts, series)
    table = followed.trend.set_index("unit_id")
    assert table["direction"].isin(["rise", "fall", "steady", "unclear"]).all()
    assert table.loc["none", "because"] == "no pixel was observed in all periods: no trend"
    few = follow(counts, series.assign(common_frac=0.2)).trend.iloc[0]
    assert (few["direction"], few["because"]) == ("unclear", "only 20% of the unit was observed in all periods")
    assert followed.changes[["from", "to"]].to_numpy().tolist() == [["2018", "2019"], ["2019", "2020"]]
    assert followed.changes["change"].sum() == pytest.approx(table.loc["a", "change"])


def test_up_and_down_is_no_direction() -> None:
    found = weigh(series := totals([100, 100, 300, 300, 102, 100]), series, level=0.95, within=0.05)
    assert found.p_value < 0.01
    assert abs(found.change) <= found.margin
    same = {f"same{i}": [800.0] * 6 for i in range(9)}
    rng = np.random.default_rng(2)
    assert verdicts({"x": [500.0, 500, 900, 900, 500, 500]} | same, share=0.01, rng=rng).loc["x", "direction"] != "rise"


def test_noise_is_shared_between_periods_only_where_they_are_alike() -> None:
    rng = np.random.default_rng(3)
    n = np.full((200, 6), 4)
    alike = np.sqrt(rng.chisquare(3, (200, 6)) / 3) * 5
    se, freedom = shared_noise(alike, n)
    assert freedom.min() > 12
    assert se.std() < 0.5 * alike.std()
    se, freedom = shared_noise(alike * np.array([1, 1, 1, 1, 1, 20.0]), n)
    assert freedom.max() < 6
    assert np.median(se[:, 5] / se[:, 0]) > 3
    none, zero = shared_noise(np.full((1, 3), np.nan), np.zeros((1, 3)))
    assert np.isnan(none).all()
    assert (zero == 0).all()


def test_noise_between_periods_is_what_calm_units_differ_by() -> None:
    rng = np.random.default_rng(4)
    values = 100 + rng.normal(0, 3, (60, 6)) + 5 * np.arange(6)  # years differ by 3; a steady growth is no noise
    values[:20, 3:] += 80  # a third of the units change
    noise, n = np.full((60, 6), 4.0), np.full((60, 6), 4)
    se, freedom = even_noise(noise, n)
    assert se.mean() == pytest.approx(4)
    assert (freedom == 18).all()
    steps = relative_steps(values, se)
    assert len(steps) == 240
    assert noise_between_periods(steps) == pytest.approx(0.75 * 1.25, rel=0.15)  # they add a quarter
    assert noise_between_periods(steps / 100) == pytest.approx(0.5)  # never less than seasons explain
    assert noise_between_periods(steps * 2) > 1.5  # what acquisitions of a year share adds to it
    assert noise_between_periods(steps[:19]) == 1  # too few to tell


def joined(catalogues: Any) -> Any:
    """Inputs of a series from 2018 on."""
    rows = [{"baselines": {"05.00": 1.0}, "satellites": {"S2A": 1.0}, "catalogues": {name: 1.0}} for name in catalogues]
    return pd.DataFrame(rows).assign(
        period=[str(2018 + i) for i in range(len(rows))], dark_reflectance=math.nan, offsets=None
    )


def test_a_step_that_units_share_where_the_catalogue_changes_is_no_rise() -> None:
    rng = np.random.default_rng(8)
    join = np.array([1, 1, 1, 1.1, 1.1, 1.1])
    truth = {f"same{i}": rng.uniform(500, 5000) * join for i in range(40)}
    truth |= {f"felled{i}": rng.uniform(500, 5000) * join * np.array([1, 1, 0.6, 0.6, 0.6, 0.6]) for i in range(8)}
    truth |= {f"hidden{i}": rng.uniform(500, 5000) * join * np.linspace(1, 0.9, 6) for i in range(4)}
    counts, series = country(truth, share=0.01, rng=rng)
    known = follow(counts, series, inputs=joined(["old"] * 3 + ["new"] * 3)).trend.set_index("unit_id")
    same = known[known.index.str.startswith("same")]
    assert not same["direction"].isin(["rise", "fall"]).any()
    assert (same["direction"] == "unclear").all()
    assert same["because"].str.contains("without the common step at a change of the input").all()
    assert same["shared_step"].str.contains(r"input changed \(catalogue old -> new\)").all()
    assert (known[known.index.str.startswith("felled")]["direction"] == "fall").all()
    assert (known[known.index.str.startswith("hidden")]["direction"] != "steady").all()  # the join hides a loss of 10 %
    # The same step without a change of the input may be an event: it is told, and named as a question.
    event = follow(counts, series, inputs=joined(["old"] * 6)).trend.set_index("unit_id")
    rises = event[event.index.str.startswith("same")]
    assert (rises["direction"] == "rise").mean() > 0.6
    assert rises["shared_step"].str.contains("a real event").all()
    assert not rises["shared_step"].str.contains("input changed").any()


def test_nothing_cannot_rise_or_fall() -> None:
    counts, series = country({"none": [9.0, 9, 9, 1, 1, 1]} | {f"same{i}": [800.0] * 6 for i in range(9)},
                             share=0.01, rng=np.random.default_rng(9))  # fmt: skip
    area = np.where(counts["unit_id"] == "none", 0.02, 5.0)  # of 100 ha: two stray pixels
    assert follow(counts, series).trend.iloc[0]["direction"] == "fall"
    row = follow(counts.assign(object_area_ha=area), series).trend.iloc[0]
    assert (row["direction"], row["because"]) == (
        "unclear", "the map shows none here: its total of 1 is noise around zero")  # fmt: skip


def test_years_are_compared_in_the_seasons_that_all_have() -> None:
    season = np.array([100.0, 10, 50, 200])
    years = np.concatenate([2018 + (np.arange(4) + 0.5) / 4 + year for year in range(3)])
    values = np.concatenate([season, season + 4, season + 8])
    kept = np.array([i not in (3, 5) for i in range(12)])  # one lacks autumn, one spring
    series = Totals(tuple(map(str, range(10))), years[kept], values[kept], np.full(10, 2.0), np.full(10, 9.0), 90.0)
    found = by_year(series)
    assert found is not None
    assert found.periods == ("2018", "2019", "2020")
    assert np.diff(found.totals) == pytest.approx([4, 4])
    assert found.se == pytest.approx(2 / math.sqrt(2))
    apart = Totals(("a", "b", "c"), np.array([2018.1, 2018.35, 2019.6]), np.ones(3), np.ones(3), np.ones(3), 3.0)
    assert by_year(apart) is None


@pytest.mark.slow
def test_directions_over_twenty_seeds() -> None:
    """Above 20 %, 90 % are directed right and none wrongly; below 5 %, at most 5 % are called a change."""
    large, right, wrong, small, called, dated, steps = 0, 0, 0, 0, 0, 0, 0
    steady_wrong = steady = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth: dict[str, Any] = {}
        for i in range(25):
            base = rng.uniform(500, 5000)
            at, size = rng.integers(1, 6), rng.uniform(0.25, 0.8)
            truth[f"felled{i}"] = np.where(np.arange(6) < at, base, base * (1 - size))
            truth[f"ageing{i}"] = base * (1 - rng.uniform(0.2, 0.6) * np.arange(6) / 5)
            truth[f"planted{i}"] = np.where(np.arange(6) < at, base, base * (1 + size))
            truth[f"same{i}"] = base * (1 + rng.uniform(-0.05, 0.05) * np.arange(6) / 5)
            truth[f"still{i}"] = np.full(6, base)
            truth[f"tenth{i}"] = base * (1 + 0.1 * np.arange(6) / 5)
        table = verdicts(truth, share=0.03, rng=rng)
        change = pd.Series({unit: values[-1] / values[0] - 1 for unit, values in truth.items()})[table.index]
        told = pd.Series([{"rise": 1, "fall": -1}.get(one, 0) for one in table["direction"]], table.index)
        change.index = table.index
        big, little = change.abs() > 0.2, change.abs() < 0.05
        large, right = large + big.sum(), right + (told[big] == np.sign(change[big])).sum()
        wrong += ((told != 0) & (np.sign(change) != told) & (change != 0)).sum()
        small, called = small + little.sum(), called + (told[little] != 0).sum()
        step = table[table.index.str.startswith(("felled", "planted")) & big]
        true_at = [str(2018 + int(np.flatnonzero(np.diff(truth[unit]))[0])) for unit in step.index]
        steps, dated = steps + len(step), dated + (step["step_from"] == true_at).sum()
        calm = table["direction"] == "steady"
        steady, steady_wrong = steady + calm.sum(), steady_wrong + (calm & (change.abs() > 0.0501)).sum()
    assert right / large >= 0.9
    assert wrong == 0
    assert called / small <= 0.05
    assert dated / steps >= 0.9
    assert steady_wrong <= 0.05 * max(steady, 1)
