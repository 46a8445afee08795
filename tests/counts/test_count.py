"""A run folder -> counts: only ledgered blocks, facts of the plan, the same bytes twice and with workers."""

from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from subpixmap.counts.choices import Choices, write_choices
from subpixmap.counts.count import count_by_unit, count_run, write_counts
from subpixmap.counts.facts import read_facts
from subpixmap.errors import InputError, VerificationFailed
from subpixmap.grid import owned, project
from subpixmap.mapping.ledger import record_path
from subpixmap.mapping.plan import write_plan
from subpixmap.periods import Period
from subpixmap.runfolder import RunFolder
from subpixmap.scenes.items import items_sha256, write_lock
from subpixmap.tables import COUNTS, SERIES, read_table, rounded
from subpixmap.tables import REGION as REGION_ID
from subpixmap.trends.unit_trends import trend
from tests.helpers.country_map import make_items
from tests.helpers.run_folders import PERIODS, REGION, make_plan, make_run

AROUND = gpd.GeoDataFrame({"unit_id": ["all"]}, geometry=[shapely.segmentize(REGION.buffer(0.1), 0.01)], crs=4326)
"""A unit that holds all that is mapped, also beyond the region."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    plan = make_plan()
    out = tmp_path_factory.mktemp("counts") / "run"
    make_run(out, plan)
    return out, plan


def test_a_period_in_which_nothing_was_observed_leaves_the_others_to_be_compared(run: Any, tmp_path: Path) -> None:
    out, plan = run
    clouded = Period("2020", date(2020, 1, 1), date(2020, 12, 31))
    make_run(tmp_path / "longer", make_plan(periods=(*PERIODS, clouded)), clouded=("2020",))
    counted, longer = count_run(out), count_run(tmp_path / "longer")
    seen = longer.all_series[longer.all_series["period"] != "2020"].reset_index(drop=True)
    pd.testing.assert_frame_equal(seen, counted.all_series)
    assert seen["common_total"].notna().all()
    blank = longer.all_series[longer.all_series["period"] == "2020"]
    assert blank["common_total"].isna().all()
    assert blank["background_per_ha"].isna().all()
    # A block that is missing is no cloud: then nothing can be compared yet.
    first = next(iter(plan.zones.values())).blocks[0].block.id
    make_run(tmp_path / "part", make_plan(periods=(*PERIODS, clouded)), clouded=("2020",), skip={(first, "2020")})
    assert read_facts(RunFolder.open(tmp_path / "longer")).unobserved == {"2020"}
    assert not read_facts(RunFolder.open(tmp_path / "part")).unobserved


def test_totals_are_those_of_the_ledger(run: Any) -> None:
    out, plan = run
    counted, everything = count_run(out), count_run(out, AROUND)
    from subpixmap.mapping.ledger import read_records

    records = read_records(out, plan).values()
    row: Any
    whole: Any
    for row, whole in zip(counted.accounts.balance.itertuples(), everything.accounts.balance.itertuples(), strict=True):
        ledger = sum(record.total[row.object] for record in records if record.period == row.period)
        assert whole.map == pytest.approx(ledger, rel=1e-7)
        assert row.units + row.outside == pytest.approx(row.map, rel=1e-7)
        assert row.map < 0.3 * ledger  # whole chunks are mapped; the region is what is accounted for
    assert counted.accounts.overlap_ha == pytest.approx(0, abs=1e-3)


def test_rows_carry_the_facts_of_the_run(run: Any) -> None:
    out, plan = run
    table = count_by_unit(out)
    assert list(table.columns) == [*COUNTS, *(name for name in SERIES if name not in COUNTS), "geometry"]
    assert len(table) == 3 * 2 * 2  # two units and their sum
    row = table.iloc[0]
    assert row["items_sha256"] == items_sha256(make_items(PERIODS)[:1])
    assert (row["run_id"], row["model_id"], row["model_sha256"]) == (plan.run_id, "demo-s2", "m" * 64)
    assert (row["boundary_source"], row["boundary_version"], row["evidence"]) == ("a file", "v1", "simulated")
    assert set(table["measure"]) == {"count", "occupancy"}
    assert table["observed_frac"].between(0.94, 0.98).all()  # 1 - 0.2**2
    assert table["n_obs_median"].eq(2).all()


def test_other_units_have_their_own_source(run: Any) -> None:
    out, _ = run
    units = gpd.GeoDataFrame({"unit_id": ["x"]}, geometry=[REGION], crs=4326)
    whole = count_by_unit(out, units, boundary_source="mine.gpkg")
    units = count_by_unit(out)
    halves = units[units["unit_id"] != REGION_ID].groupby(["object", "period"], sort=False)["map_total"].sum()
    for unit in ("x", REGION_ID):
        assert whole.loc[whole["unit_id"] == unit, "map_total"].to_numpy() == pytest.approx(halves.to_numpy(), rel=1e-6)
    assert units.loc[units["unit_id"] == REGION_ID, "map_total"].to_numpy() == pytest.approx(
        halves.to_numpy(), rel=1e-12
    )
    assert whole["boundary_source"].unique().tolist() == ["mine.gpkg"]
    assert whole["boundary_version"].isna().all()


# rioxarray still multiplies Affine with `*`, which the affine package announces to drop.
affine_star = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@affine_star
def test_an_opened_map_counts_like_its_folder(run: Any) -> None:
    from subpixmap import open_map

    out, _ = run
    maps, expected = open_map(out), count_by_unit(out)
    pd.testing.assert_frame_equal(pd.DataFrame(count_by_unit(maps)), pd.DataFrame(expected), check_exact=True)
    some = {epsg: one.sel(period=["2019"], object=["coconut"]) for epsg, one in maps.items()}
    part = count_by_unit(some, gpd.read_parquet(out / "units.parquet"))
    same = expected[(expected["period"] == "2019") & (expected["object"] == "coconut")]
    for name in ("map_total", "observed_ha", "n_obs_median", "noise_se"):
        np.testing.assert_array_equal(part[name].to_numpy(float), same[name].to_numpy(float), err_msg=name)
    assert part["common_frac"].to_numpy() == pytest.approx(part["observed_frac"].to_numpy())
    table = trend(expected)
    assert set(table.loc[table["object"] == "coconut", "basis"]) == {"common_pixels"}
    series = count_run(out).all_series
    pd.testing.assert_frame_equal(table, trend(pd.DataFrame(expected)[list(COUNTS)], series))


@affine_star
def test_what_is_masked_or_cut_off_an_opened_map_is_not_observed(run: Any) -> None:
    from subpixmap import open_map

    out, plan = run
    maps = {epsg: one.isel(y=slice(100, 300), x=slice(0, 400)) for epsg, one in open_map(out).items()}
    masked = {epsg: one.assign(count=one["count"].where(one["n_obs"] >= 2)) for epsg, one in maps.items()}
    cut, clear = (
        count_run(one, AROUND).accounts.balance.set_index(["object", "period"])["map"] for one in (maps, masked)
    )
    for counts, given in ((cut, maps), (clear, masked)):
        expected = sum(float(np.nansum(one["count"].sel(object="coconut", period="2018").values.astype(float)))
                       for one in given.values())  # fmt: skip
        assert counts[("coconut", "2018")] == pytest.approx(expected, rel=1e-12)
    assert 0 < clear[("coconut", "2018")] < cut[("coconut", "2018")]
    with pytest.raises(InputError, match="open_map"):
        count_run({epsg: one.drop_attrs() for epsg, one in maps.items()})
    with pytest.raises(InputError, match=r"EPSG:3265\d"):
        count_run({epsg: one.isel(x=[0, 1, 2, 5]) for epsg, one in maps.items()})
    assert plan.run_id


@affine_star
def test_an_opened_map_knows_which_pixels_lie_in_the_region(run: Any) -> None:
    from subpixmap import open_map

    out, plan = run
    inside = whole = pixels = 0.0
    for epsg, one in open_map(out).items():
        lattice, extent = plan.zones[epsg].lattice, plan.zones[epsg].extent
        assert one["region"].dtype == bool
        assert one["region"].chunks == one["n_obs"].chunks[1:]  # type: ignore[index]
        xx, yy = np.meshgrid(*lattice.coords(extent))
        expected = shapely.contains_xy(project(plan.geometry, 4326, epsg), xx, yy) & owned(lattice, extent)
        np.testing.assert_array_equal(one["region"].values, expected)
        count = one["count"].sel(object="coconut", period="2018").astype(float)
        inside += float(count.where(one["region"]).sum())
        whole += float(count.sum())
        pixels += float(expected.sum())
    balance = count_run(out).accounts.balance.set_index(["object", "period"])
    assert inside == pytest.approx(balance.loc[("coconut", "2018"), "map"], rel=0.005)  # pixels cut by the border
    assert whole > 1.2 * inside  # whole chunks are mapped
    assert pixels > 1e4


@affine_star
def test_an_opened_map_is_counted_as_the_folder_was_chosen_to_be(run: Any, tmp_path: Path) -> None:
    from subpixmap import open_map

    _, plan = run
    out = tmp_path / "nearest"
    units = make_run(out, plan)
    smaller = shapely.buffer(units.geometry.to_numpy(), -0.002)
    units.assign(geometry=smaller).to_parquet(out / "units.parquet")
    plain = count_by_unit(open_map(out))
    write_choices(out, Choices(assign_nearest=True))
    chosen = count_by_unit(open_map(out))
    pd.testing.assert_frame_equal(pd.DataFrame(chosen), pd.DataFrame(count_by_unit(out, assign_nearest=True)))
    assert (chosen["map_total"] > plain["map_total"]).all()
    pd.testing.assert_frame_equal(pd.DataFrame(plain), pd.DataFrame(count_by_unit(out, assign_nearest=False)))


def test_blocks_without_a_record_are_not_observed(run: Any, tmp_path: Path) -> None:
    _, plan = run
    zone = plan.zones[32651]
    done = tmp_path / "partial"
    make_run(done, plan, skip={(one.block.id, "2019") for one in zone.blocks})
    table = count_by_unit(done).set_index(["unit_id", "object", "period"])
    assert table.loc[("02", "coconut", "2018"), "map_total"] > 0
    assert table.loc[("02", "coconut", "2019"), "observed_frac"] < 0.01
    assert "partly_observed" in table.loc[("02", "coconut", "2019"), "flag"]


def test_two_runs_and_workers_give_the_same_bytes(run: Any, tmp_path: Path) -> None:
    from distributed import Client

    out, _ = run
    first = [path.read_bytes() for path in write_counts(tmp_path / "a", count_run(out))]
    with Client(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as client:
        again = [path.read_bytes() for path in write_counts(tmp_path / "b", count_run(out, client=client))]
    assert first == again
    for name, columns in (("counts.csv", COUNTS), ("counts.parquet", COUNTS), ("series.parquet", SERIES)):
        assert len(read_table(tmp_path / "a" / name, columns)) == 12
    exact = read_table(tmp_path / "a" / "counts.parquet", COUNTS)
    pd.testing.assert_frame_equal(read_table(tmp_path / "a" / "counts.csv", COUNTS), rounded(exact, COUNTS))


def test_the_region_is_the_sum_of_the_highest_units_and_its_noise_knows_what_they_share(run: Any) -> None:
    out, _ = run
    counted = count_run(out)
    keys = ["object", "period"]
    for name in ("map_total", "map_total_full", "area_ha", "observed_ha"):
        sums = counted.table.groupby(keys, sort=False)[name].sum().to_numpy()
        assert counted.region[name].to_numpy() == pytest.approx(sums, rel=1e-12), name
    noise = counted.table.groupby(keys, sort=False)["total_se"]
    assert (counted.region["total_se"].to_numpy() <= noise.sum().to_numpy() * (1 + 1e-9)).all()
    # One unit of the same ground has the same noise: what its halves share is not taken for independent.
    ground = gpd.GeoDataFrame({"unit_id": ["x"]}, geometry=[REGION], crs=4326)
    assert counted.region["total_se"].to_numpy() == pytest.approx(
        count_run(out, ground).table["total_se"].to_numpy(), rel=0.02
    )
    assert counted.region["below_zero"].eq(False).all()
    units = gpd.GeoDataFrame({"unit_id": [REGION_ID]}, geometry=[REGION], crs=4326)
    with pytest.raises(InputError, match="REGION"):
        count_run(out, units)


def test_noise_is_known_where_two_acquisitions_saw_a_place(run: Any) -> None:
    out, _ = run
    series = count_run(out).series
    assert series["n_noise_acquisitions"].eq(2).all()
    assert (series["noise_se"] > 0).all()
    assert series["common_frac"].between(0.9, 0.95).all()  # 0.96**2


def test_a_damaged_record_is_named(run: Any, tmp_path: Path) -> None:
    _, plan = run
    out = tmp_path / "damaged"
    make_run(out, plan)
    one = next(iter(plan.zones.values())).blocks[0].block
    path = record_path(out, one.id, "2018")
    path.write_text(path.read_text().replace('"2018"', '"2017"', 1))
    with pytest.raises(VerificationFailed, match=one.id):
        count_run(out)


def test_a_folder_without_units_says_what_to_do(run: Any, tmp_path: Path) -> None:
    _, plan = run
    (tmp_path / "bare").mkdir()
    write_plan(tmp_path / "bare", plan)
    write_lock(tmp_path / "bare" / "items.parquet", make_items(PERIODS))
    with pytest.raises(InputError, match="--admin"):
        count_run(tmp_path / "bare")
