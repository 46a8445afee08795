"""Trends of whole countries whose truth is known: from pixels and clouds to significance. All of it is synthetic: the
counts are the simulated truth, rasterised, with errors and clouds put on; no imagery and no network take part."""

from datetime import date
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from subpixmap.counts.count import count_blocks
from subpixmap.counts.units import cells_of
from subpixmap.grid import Block, Lattice
from subpixmap.mapping.ledger import cell_sums
from subpixmap.periods import Period, make_periods
from subpixmap.trends.slopes import theil_sen
from subpixmap.trends.unit_trends import trend
from tests.helpers.map_blocks import ZONE51, facts, frame, map_block

YEARS = range(2018, 2024)
PERIODS = tuple(Period(str(year), date(year, 1, 1), date(year, 12, 31)) for year in YEARS)
ACQUISITIONS = 6


def observed(
    rng: Any, truth: Any, *, cloud: Any, error: Any, pixel_error: Any, acquisitions: int = ACQUISITIONS
) -> Any:
    """A period's count, and what the ledger keeps of it, as a map makes them: a mean over clear acquisitions, each with
    an error that all its pixels share and one of each pixel's own. `cloud` (y, x) is the chance of being covered."""
    shape = (acquisitions, *truth.shape)
    seen = rng.random((acquisitions, truth.shape[0] // 8, truth.shape[1] // 8)).repeat(8, 1).repeat(8, 2) >= cloud
    shared = 1 + rng.normal(0, error, (acquisitions, 1, 1))
    each = np.where(seen, truth * shared + rng.normal(0, pixel_error, shape), 0)
    n = seen.sum(axis=0)
    count = np.where(n > 0, each.sum(axis=0) / np.maximum(n, 1), np.nan)
    cells = {
        "observed_px": cell_sums((n > 0).astype(np.int32)),
        "acquisition_observed_px": cell_sums(seen.astype(np.int32)),
        "acquisition_total": cell_sums(each[:, None]),
        "acquisitions": [f"a{i}" for i in range(acquisitions)],
    }
    return count[None], cells


def mapped(
    rng: Any,
    block: Any,
    truths: Any,
    clouds: Any,
    *,
    error: float = 0.02,
    pixel_error: float = 0.05,
    periods: Any = PERIODS,
    acquisitions: int = ACQUISITIONS,
) -> Any:
    noise: dict[str, Any] = {"error": error, "pixel_error": pixel_error, "acquisitions": acquisitions}
    found = [observed(rng, truth, cloud=cloud, **noise) for truth, cloud in zip(truths, clouds, strict=True)]
    labels = [period.label for period in periods]
    counts = dict(zip(labels, [count for count, _ in found], strict=True))
    return map_block(block, counts, cells=dict(zip(labels, [cells for _, cells in found], strict=True)))


@pytest.fixture(scope="module")
def country() -> Any:
    """A simulated country's units, its true palms a year and unit, and its counts under clouds."""
    from subpixmap.reference.countmap import count_map
    from subpixmap.simulate.country import make_country
    from subpixmap.simulate.placement import place_trees
    from subpixmap.simulate.truth import counted
    from subpixmap.simulate.worlds import get_world

    made = make_country(11, size_km=3, center=(119.5, 10.5), world=get_world("base"), objects=("coconut",))
    reach = made.reach()
    trees = place_trees(made.landscape, (-reach, -reach, reach, reach))
    east, north = made.origin
    shapes = [shapely.transform(shape, lambda xy: xy + np.array([east, north])) for *_, shape in made.units]
    ids, parents = [one[0] for one in made.units], [one[2] for one in made.units]
    units = gpd.GeoDataFrame({"unit_id": ids, "parent_id": parents}, geometry=shapes, crs=made.epsg)
    rows, rng, blocks = [], np.random.default_rng(5), []
    lattice = Lattice(made.epsg)
    x, y = trees.x + east, trees.y + north
    standing = [counted(trees, "coconut", year) for year in YEARS]
    for unit_id, shape in zip(ids, shapes, strict=True):
        inside = shapely.contains_xy(shape, x, y)
        rows += [(unit_id, str(year), int((now & inside).sum())) for year, now in zip(YEARS, standing, strict=True)]
    for row, col in cells_of(shapes, lattice, 256):
        block = Block(lattice, row, col, 256)
        truths = [count_map(x[now], y[now], lattice, block.window, k=4) for now in standing]
        clouds = [np.full((256, 256), share) for share in (0.2, 0.55, 0.3, 0.6, 0.4, 0.5)]
        blocks.append(mapped(rng, block, truths, clouds))
    truth = pd.DataFrame(rows, columns=["unit_id", "period", "truth"])
    return truth, count_blocks(blocks, units, facts(PERIODS), size=256)


def test_totals_agree_with_the_truth(country: Any) -> None:
    truth, counted = country
    both = counted.table.merge(truth, on=["unit_id", "period"])
    top = both[both["parent_id"].isna()].groupby("period")[["truth", "map_total_full"]].sum()
    assert top["truth"].min() > 2000
    assert (top["map_total_full"] / top["truth"] - 1).abs().max() < 0.03
    large = both[both["truth"] >= 500]
    assert len(large) > 20
    assert (large["map_total_full"] / large["truth"] - 1).abs().max() < 0.10
    assert counted.accounts.balance["units"].to_numpy() + counted.accounts.balance[
        "outside"
    ].to_numpy() == pytest.approx(counted.accounts.balance["map"].to_numpy(), rel=1e-6)
    gaps = counted.accounts.parents["difference"].abs() / counted.accounts.parents["parent_total"]
    assert gaps.max() < 1e-3  # municipalities share their borders: provinces are their sums


def test_known_trends_are_recovered_with_the_right_sign(country: Any) -> None:
    truth, counted = country
    table = trend(counted.table, counted.series).set_index("unit_id")
    middles = np.array([year + 0.5 for year in YEARS])
    known = truth.pivot(index="unit_id", columns="period", values="truth")
    slopes = {unit: theil_sen(middles, row.to_numpy(float)).per_year for unit, row in known.iterrows()}
    plain = {unit: slopes[unit] / known.loc[unit].mean() for unit in known.index if known.loc[unit].mean() > 100}
    clear = [unit for unit, share in plain.items() if abs(share) > 0.02]
    assert len(clear) >= 3  # units whose palms change by more than 2 % a year
    for unit in clear:
        assert np.sign(table.loc[unit, "slope_per_year"]) == np.sign(slopes[unit]), unit
    change = known.iloc[:, -1] - known.iloc[:, 0]
    told = {unit: 1 if table.loc[unit, "direction"] == "rise" else -1 for unit in known.index
            if table.loc[unit, "direction"] in ("rise", "fall")}  # fmt: skip
    assert len(told) >= 3
    for unit, sign in told.items():
        assert sign == np.sign(change[unit]), unit
    found = table.loc[list(plain), "slope_per_year"].to_numpy(float)
    assert np.corrcoef(found, [slopes[unit] for unit in plain])[0, 1] > 0.9


def squares(block: Any, step: Any) -> Any:
    west, _, _, north = ZONE51.bounds(block.window)
    at = np.arange(0, block.size * 10, step * 10)
    return [shapely.box(west + x, north - y - step * 10, west + x + step * 10, north - y) for y in at for x in at]


def test_no_change_under_unequal_clouds_raises_false_alarms_at_the_stated_rate_only() -> None:
    rng = np.random.default_rng(17)
    block = Block(ZONE51, 3268, 116, 256)
    units = frame(squares(block, 32))
    tables, naive = [], []
    for _ in range(6):
        palms = np.where(rng.random((64, 64)) < 0.4, 0.8, 0.0).repeat(4, 0).repeat(4, 1)
        # More and more cloud over the palms, year by year: what each year saw would look like felling.
        clouds = [np.where(palms > 0, 0.45 + 0.10 * i, 0.30) for i in range(len(PERIODS))]
        counted = count_blocks([mapped(rng, block, [palms] * 6, clouds)], units, facts(PERIODS), size=256)
        tables.append(trend(counted.table, counted.series))
        naive.append(trend(counted.table, counted.series.assign(common_total=counted.table["map_total_full"])))
    table, wrong = pd.concat(tables), pd.concat(naive)
    assert table["p_value"].notna().sum() > 350
    assert (table["p_value"] <= 0.05).mean() <= 0.05
    assert table["trend_significant"].mean() <= 0.01
    assert (table["change_p"] <= 0.05).mean() <= 0.08  # the t test of first against last, at 5 %
    assert (table["change_q"] <= 0.05).mean() <= 0.02
    assert table["direction"].isin(["rise", "fall"]).mean() <= 0.05
    # The check can fail: the totals that each year saw raise the alarm everywhere.
    assert (wrong["p_value"] <= 0.05).mean() > 0.5


@pytest.mark.parametrize(("every", "n", "acquisitions"), [("quarter", 4, 3), ("month", 12, 2)])
def test_quarters_and_months_are_followed_without_their_season(every: Any, n: int, acquisitions: int) -> None:
    """Twelve overpasses a year or more; the map sees 30 % more in one season and 30 % less in another."""
    rng = np.random.default_rng(23)
    block = Block(ZONE51, 3268, 116, 256)
    periods = tuple(make_periods("2018-2020", every))
    assert len(periods) == 3 * n
    palms = np.where(rng.random((64, 64)) < 0.4, 0.8, 0.0).repeat(4, 0).repeat(4, 1)
    felled = np.where(np.arange(256)[:, None] < 64, 0.6, 1.0)  # the four units in the north, at the end of 2019
    truths = [
        palms * (1 + 0.3 * np.sin(2 * np.pi * i / n)) * (felled if period.start.year == 2020 else 1)
        for i, period in enumerate(periods)
    ]
    clear = [np.zeros((256, 256))] * len(periods)  # only what all periods saw is compared
    made = mapped(rng, block, truths, clear, periods=periods, acquisitions=acquisitions)
    counted = count_blocks([made], frame(squares(block, 64)), facts(periods), size=256)
    table = trend(counted.table, counted.series)
    assert len(table) == 16
    north, rest = table.iloc[:4], table.iloc[4:]
    assert (table["first_period"] == "2018").all()
    assert (table["last_period"] == "2020").all()
    assert (north["direction"] == "fall").all()
    assert north["change_percent"].to_numpy(float) == pytest.approx(-40, abs=4)
    assert (north["step_from"] == "2019").all()
    assert not rest["direction"].isin(["rise", "fall"]).any()
    assert rest["change_percent"].to_numpy(float) == pytest.approx(0, abs=4)
    assert (table["p_method"] == "seasonal").all()
    # The check can fail: single periods differ by their season.
    wide = counted.series.pivot(index="unit_id", columns="period", values="common_total")
    autumn, spring = periods[3 * n // 4].label, periods[n // 4].label
    assert (wide[autumn] / wide[spring] < 0.7).all()


def test_intervals_of_a_table_hold_the_true_slopes_in_90_to_99_percent() -> None:
    rng = np.random.default_rng(21)
    rows, true = [], rng.normal(0, 8, 800)
    for unit, slope in enumerate(true):
        totals = 400 + slope * np.arange(6) + rng.normal(0, rng.uniform(2, 30), 6)
        rows += [(str(unit), str(year), total) for year, total in zip(YEARS, totals, strict=True)]
    counts = pd.DataFrame(rows, columns=["unit_id", "period", "map_total_full"])
    counts = counts.assign(object="coconut", measure="count", area_ha=10.0)
    counts = counts.assign(period_start=counts["period"] + "-01-01", period_end=counts["period"] + "-12-31")
    known = {"common_frac": 1.0, "noise_se": 10.0, "n_noise_acquisitions": 6, "background_per_ha": 0.0}
    series = counts[["unit_id", "object", "period"]].assign(common_total=counts["map_total_full"], **known)
    table = trend(counts, series)
    inside = (table["slope_low"].to_numpy(float) <= true) & (true <= table["slope_high"].to_numpy(float))
    assert 0.90 <= inside.mean() <= 0.99
    assert (table["slope_level"] == 0.95).all()
    sure = table["trend_significant"].to_numpy(bool)
    wrong = np.sign(table["slope_per_year"].to_numpy(float)) != np.sign(true)
    assert sure.sum() > 40
    assert wrong[sure].mean() <= 0.05  # what is called significant has the right sign
