"""Blocks, periods, units and objects that hold nothing are counted, followed, told and written; nothing breaks."""

import io
from datetime import date, timedelta
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from subpixmap.counts.accounts import write_accounts
from subpixmap.counts.blocks import MapBlock
from subpixmap.counts.count import count_blocks
from subpixmap.counts.facts import Facts
from subpixmap.counts.noise import cell_noise
from subpixmap.export.polygons import DRIVERS, write_with_polygons
from subpixmap.grid import Block, Lattice, Window
from subpixmap.mapping.plan import ModelInfo, items_by_period, scene_periods
from subpixmap.periods import Period, make_periods
from subpixmap.report.plots import plot_counts, plot_trend
from subpixmap.scenes.items import Asset, Item
from subpixmap.tables import COUNTS, SERIES, TREND, read_table, to_csv, write_parquet
from subpixmap.trends.remarks import trend_remarks
from subpixmap.trends.shared_effects import background_effect, shared_steps
from subpixmap.trends.slopes import seasonal_slope
from subpixmap.trends.unit_trends import trend

LATTICE, SIZE, CELLS = Lattice(32651, 10.0), 256, 2
ROW, COL = 3452, 100  # near 120.8 E, 10.5 N: the zone owns all of it
OBJECTS = {"coconut": "count", "car": "occupancy", "olive": "count"}


# Single parts --------------------------------------------------------------------------------------------------------


def test_a_block_without_an_acquisition_has_no_noise() -> None:
    weights = np.arange(8.0).reshape(2, 4)
    deviations, informed = cell_noise(np.zeros((0, 2, 2), np.int32), np.zeros((0, 3, 2, 2), np.float32), weights)
    assert deviations.shape == (0, 2, 3)
    assert informed.tolist() == [0, 0]


def scenes(days: Any, *, unit: Any = "a", measure: Any = "count", name: Any = "coconut", totals: Any = None) -> Any:
    """Rows of counts of acquisitions on these days."""
    totals = np.arange(len(days), dtype=float) if totals is None else totals
    rows = [
        {"unit_id": unit, "unit_name": unit, "parent_id": None, "object": name, "measure": measure,
         "period": f"{day}T02:00:{i:02d}Z", "period_start": str(day), "period_end": str(day),
         "map_total_full": total, "area_ha": 100.0}
        for i, (day, total) in enumerate(zip(days, totals, strict=True))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def comparable(table: Any) -> Any:
    """A series that belongs to these rows."""
    known = {"common_frac": 1.0, "noise_se": np.nan, "n_noise_acquisitions": 1, "background_per_ha": 0.0}
    return table[["unit_id", "object", "period"]].assign(common_total=table["map_total_full"], **known)


def test_a_run_of_occupancy_alone_has_no_trend_and_no_shared_step() -> None:
    table = scenes([date(2020, 3, 10), date(2020, 5, 22), date(2021, 1, 6)], measure="occupancy", name="car")
    assert shared_steps(table, comparable(table)).empty
    followed = trend(table, comparable(table))
    assert followed["note"].tolist() == ["a measure of occupancy has no trend"]
    told = trend_remarks(followed, table.assign(density_per_ha=1.0), comparable(table), level=0.95)
    assert len(told) == 1
    assert told[0].startswith("car: no trend")


def test_acquisitions_of_one_day_are_steps_of_their_own_and_do_not_break_the_slope() -> None:
    days = [date(2020, 3, 10), date(2020, 3, 10), date(2020, 6, 1), date(2021, 3, 12), date(2021, 3, 12)]
    table = scenes(days, totals=[1.0, 3, 7, 4, 6])
    steps = shared_steps(table, comparable(table))
    assert list(zip(steps["before"], steps["after"], strict=True)) == list(
        zip(table["period"][:-1], table["period"][1:], strict=True)
    )
    row = trend(table, comparable(table)).iloc[0]
    assert row["p_method"] == "seasonal"
    assert row["slope_per_year"] == pytest.approx(3)  # from the mean of two in March to the mean of two a year later
    table = scenes(days[:3], totals=[1.0, 3, 7])
    few = trend(table, comparable(table)).iloc[0]  # less than a year: one season
    assert few["p_method"] == "exact"
    assert few["slope_per_year"] == pytest.approx((7 - 2) * 366 / 83)


def test_acquisitions_of_a_single_day_have_no_trend() -> None:
    table = scenes([date(2020, 3, 10)] * 3)
    row = trend(table, comparable(table)).iloc[0]
    assert row["note"] == "all that was observed is of 2020-03-10: no trend"
    assert pd.isna(row["change"])


def test_seasons_that_never_come_back_have_no_slope() -> None:
    table = scenes([date(2020, 1, 15), date(2020, 5, 1), date(2021, 8, 20)])
    row = trend(table, comparable(table)).iloc[0]
    assert row["note"] == "no slope, because no season was observed in two years"
    assert row[["slope_per_year", "tau", "p_value", "q_value"]].isna().all()
    assert pd.isna(row["change"])  # from January to August it is the season
    assert row["direction"] == "unclear"


def test_seasons_of_months_and_quarters_are_what_they_were() -> None:
    from pymannkendall import seasonal_test

    rng = np.random.default_rng(5)
    for step, n in ((12, 40), (4, 13)):
        years = 2020 + (np.arange(n) + 0.5) / step
        values = rng.gamma(2.0, 10.0, n)
        expected = seasonal_test(values, period=step)
        found = seasonal_slope(years, values)
        assert (found.per_year, found.tau, found.p_value) == (expected.slope, expected.Tau, expected.p)


def item(name: Any, tile: Any, when: Any) -> Any:
    asset = Asset("/nowhere/B02.tif", (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), (2, 2))
    return Item(name, tile, name, when, when[:4], 32651, "05.00", 0, "none", 1.0, 3, {"B02": asset, "SCL": asset})


def test_acquisitions_of_one_second_share_a_period() -> None:
    from types import SimpleNamespace

    when = "2025-02-01T02:00:00Z"
    items = [item("GS2A_1", "51PTS", when), item("GS2C_1", "51PTS", when), item("GS2B_2", "51PTS", "2025-02-03T02:00Z")]
    periods = scene_periods(items)
    assert [period.label for period in periods] == [when, "2025-02-03T02:00Z"]
    plan: Any = SimpleNamespace(periods=periods, recipe=SimpleNamespace(every="scene"))
    assert [len(found) for found in items_by_period(plan, items).values()] == [2, 1]


# Whole tables against numpy -------------------------------------------------------------------------------------------


class Map:
    """Four blocks held in memory, with holes in space, time and objects."""

    def __init__(self, seed: Any, periods: Any, objects: Any, holes: Any, undone: Any, empty: Any, alone: Any) -> None:
        rng = np.random.default_rng(seed)
        side = 2 * SIZE
        shape = (len(periods), 2, len(objects), side, side)
        seen = rng.random((len(periods), 2, 1, side, side)) < 0.7  # two acquisitions of every period
        values = (rng.gamma(0.4, 1.0, shape) - 0.1).astype(np.float32)
        for o in empty:
            values[:, :, o % len(objects)] = 0  # an object that is nowhere
        for p, b, cleared in holes:
            seen[p % len(periods), :cleared, :, *self.slices(b)] = False
        for p in alone:
            seen[p % len(periods), 1] = False
        self.seen, self.values = seen[:, :, 0], np.where(seen, values, np.nan)
        self.n_obs = self.seen.sum(axis=1).astype(np.uint16)
        total, n = np.nansum(self.values, axis=1, dtype=np.float64), self.n_obs[:, None]
        self.count = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0).astype(np.float32)
        self.undone = {(p % len(periods), b) for p, b in undone}
        for p, b in self.undone:
            self.count[p, :, *self.slices(b)] = np.nan
        self.labels, self.objects = [period.label for period in periods], objects

    @staticmethod
    def slices(b: Any) -> Any:
        row, col = divmod(b, 2)
        return slice(row * SIZE, (row + 1) * SIZE), slice(col * SIZE, (col + 1) * SIZE)

    def blocks(self) -> Any:
        for b in range(4):
            block = Block(LATTICE, ROW + b // 2, COL + b % 2, SIZE)
            yield MapBlock(LATTICE, block.window, tuple(block.chunks()), self.record(b), self.read(b))

    def record(self, b: Any) -> Any:
        def cells(values: Any) -> Any:
            return values.reshape(*values.shape[:-2], CELLS, 128, CELLS, 128).sum(axis=(-3, -1))

        def record(label: Any) -> Any:
            p = self.labels.index(label)
            if (p, b) in self.undone:
                return None
            used = [k for k in range(2) if self.seen[p, k, *self.slices(b)].any()]
            seen = cells(self.seen[p, used, *self.slices(b)])
            total = cells(np.nan_to_num(self.values[p, used, :, *self.slices(b)]))
            return {
                "observed_px": cells(self.n_obs[p, *self.slices(b)] > 0),
                "out_of_domain_px": np.zeros((CELLS, CELLS)),
                "acquisition_observed_px": seen.reshape(len(used), CELLS, CELLS),
                "acquisition_total": total.reshape(len(used), len(self.objects), CELLS, CELLS),
                "acquisitions": [f"{label}-{k}" for k in used],
            }

        return record

    def read(self, b: Any) -> Any:
        def read(labels: Any, wanted: Any) -> Any:
            for p in map(self.labels.index, labels):
                count = self.count[p, :, *self.slices(b)]
                found = {
                    "count": count,
                    "presence": np.where(np.isfinite(count), count > 0.5, np.nan).astype(np.float32),
                    "n_obs": self.n_obs[p, *self.slices(b)],
                }
                yield {name: found[name][..., None, :, :][..., : len(at), :, :] for name, at in wanted.items()}

        return read


def frame(boxes: Any) -> Any:
    """Units of whole pixels (row, col, height, width) of the map; the first is the parent of the second."""
    polygons = [shapely.box(*LATTICE.bounds(Window(ROW * SIZE + r, COL * SIZE + c, h, w))) for r, c, h, w in boxes]
    ids = [f"u{i}" for i in range(len(boxes))]
    parents = [None, "u0", *[None] * len(boxes)][: len(boxes)]
    return gpd.GeoDataFrame({"unit_id": ids, "unit_name": ids, "parent_id": parents}, geometry=polygons, crs=32651)


def facts_of(periods: Any, objects: Any) -> Any:
    return Facts(
        model=ModelInfo(
            name="m",
            sha256="a" * 64,
            evidence="simulated",
            halo=8,
            resolution=10.0,
            definitions=dict.fromkeys(objects, "seen from above"),
            measures={name: OBJECTS[name] for name in objects},
        ),
        objects=tuple(objects),
        periods=tuple(periods),
        resolution=10.0,
        unlike_card=False,
        items_sha256={},
        run_id="r",
        software_version="0",
        max_obs=2,
    )


def scene_days(n: Any) -> Any:
    days = [date(2020, 3, 10) + timedelta(days=97 * (i // 2)) for i in range(n)]  # two of each day
    return [Period(f"{day}T02:00:{i:02d}Z", day, day) for i, day in enumerate(days)]


PERIODS = {
    "a year": make_periods(2020),
    "years": make_periods("2020-2022"),
    "quarters": make_periods("2020-2021", "quarter", (1, 2, 7)),
    "months": make_periods("2020-2021", "month", (1, 2, 12)),
    "scenes": scene_days(6),
}
BLOCKS = st.integers(0, 3)
MAPS = {
    "seed": st.integers(0, 2**16),
    "when": st.sampled_from(sorted(PERIODS)),
    "objects": st.lists(st.sampled_from(sorted(OBJECTS)), min_size=1, unique=True),
    "holes": st.lists(st.tuples(st.integers(0, 5), BLOCKS, st.sampled_from([1, 2])), max_size=12),
    "undone": st.lists(st.tuples(st.integers(0, 5), BLOCKS), max_size=4),
    "empty": st.lists(st.integers(0, 2), max_size=2),
    "alone": st.lists(st.integers(0, 5), max_size=3),
    "boxes": st.lists(
        st.tuples(st.integers(0, 450), st.integers(0, 450), st.integers(1, 400), st.integers(1, 400)),
        min_size=1,
        max_size=4,
    ),
}
QUICK = settings(  # to shrink a failure would take minutes
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
NOTHING = [(p, b, 2) for p in range(6) for b in range(4)]


@settings(QUICK, max_examples=8)
@given(**MAPS)
@example(1, "scenes", ["car"], NOTHING, [], [], [], [(0, 0, 300, 300)])
@example(2, "months", ["coconut", "olive"], NOTHING[:6], [], [0, 1], [0], [(0, 0, 300, 300), (9, 9, 20, 20)])
@example(3, "years", ["coconut"], [], [(p, b) for p in range(3) for b in range(4)], [], [], [(5, 5, 9, 9)])
def test_any_holes_are_counted_as_numpy_counts_them(
    seed: Any, when: Any, objects: Any, holes: Any, undone: Any, empty: Any, alone: Any, boxes: Any
) -> None:
    periods = PERIODS[when]
    found = Map(seed, periods, objects, holes, undone, empty, alone)
    counted = count_blocks(found.blocks(), frame(boxes), facts_of(periods, objects), size=SIZE)
    assert len(counted.table) == len(boxes) * len(objects) * len(periods) == len(counted.series)
    keys = ["unit_id", "object", "period"]
    rows: Any = pd.DataFrame(counted.table).set_index(keys)[["map_total", "observed_ha"]]
    followed: Any = counted.series.set_index(keys)["common_total"]
    common = np.isfinite(found.count).all(axis=(0, 1))
    for u, (r, c, h, w) in enumerate(boxes):
        at = np.s_[r : r + h, c : c + w]  # a unit may reach beyond the map
        n_common = common[at].sum()
        for o, name in enumerate(objects):
            for p, period in enumerate(periods):
                values, row = found.count[p, o][at].astype(float), rows.loc[f"u{u}", name, period.label]
                known = np.isfinite(values)
                expected = values[known].sum() if known.any() else np.nan
                assert row["map_total"] == pytest.approx(expected, rel=1e-9, abs=1e-6, nan_ok=True)
                assert row["observed_ha"] == pytest.approx(known.sum() / 100, abs=1e-6)
                shared = values[common[at]].sum() / n_common * h * w if n_common else np.nan
                assert followed.loc[f"u{u}", name, period.label] == pytest.approx(
                    shared, rel=1e-6, abs=1e-4, nan_ok=True
                )
    balance = counted.accounts.balance
    whole = np.nansum(found.count, axis=(2, 3), dtype=float).T.ravel()  # object by object
    assert balance["map"].to_numpy() == pytest.approx(whole, rel=1e-9, abs=1e-6)
    left = balance["units"] + balance["outside"] - balance["counted_twice"]
    assert left.to_numpy() == pytest.approx(whole, rel=1e-9, abs=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("tables")


@settings(QUICK, max_examples=4)
@given(**MAPS)
@example(1, "scenes", ["car"], NOTHING, [], [], [], [(0, 0, 300, 300)])
@example(2, "months", ["coconut", "olive"], NOTHING[:6], [], [0, 1], [0], [(0, 0, 300, 300), (9, 9, 20, 20)])
@example(3, "a year", ["coconut"], NOTHING, [], [], [], [(0, 0, 300, 300)])
@example(4, "scenes", ["olive", "car"], NOTHING[5:], [], [0], [1, 2, 3], [(0, 0, 500, 300)])
def test_whatever_was_counted_is_followed_told_drawn_and_written(
    folder: Any, seed: Any, when: Any, objects: Any, holes: Any, undone: Any, empty: Any, alone: Any, boxes: Any
) -> None:
    periods, units = PERIODS[when], frame(boxes)
    found = Map(seed, periods, objects, holes, undone, empty, alone)
    counted = count_blocks(found.blocks(), units, facts_of(periods, objects), size=SIZE)
    for effect in (None, background_effect(counted.series)):
        followed = trend(counted.table, counted.series, year_effect=effect)
        assert len(followed) == len(boxes) * len(objects)
        assert (followed["slope_per_year"].notna() | followed["note"].notna()).all()
    trend_remarks(followed, counted.table, counted.series, level=0.95)
    tables = {"counts": (counted.table, COUNTS), "trend": (followed, TREND)}
    for name, (table, columns) in (tables | {"series": (counted.series, SERIES)}).items():
        plain = pd.DataFrame(table)[list(columns)]
        again = read_table(write_parquet(table, folder / f"{name}.parquet", columns), columns)
        pd.testing.assert_frame_equal(again, plain, check_exact=True)
        assert len(pd.read_csv(io.BytesIO(to_csv(plain)))) == len(table)
    write_accounts(folder / "accounts.json", counted.accounts)
    for format in DRIVERS:
        plain_tables = {name: pd.DataFrame(table)[list(columns)] for name, (table, columns) in tables.items()}
        for path in write_with_polygons(plain_tables, units, folder / format, format):
            assert path.stat().st_size
    plot_counts(counted.table)
    plot_trend(followed)
