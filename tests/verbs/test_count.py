"""Counting, following and exporting a run folder as a user does: options, refusals, and what is said on the way."""

import json
import re
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from typer.testing import CliRunner

from subpixmap.cli.main import app
from subpixmap.counts.accounts import read_accounts
from subpixmap.counts.count import count_run
from subpixmap.counts.rows import FLAGS
from subpixmap.errors import InputError
from subpixmap.report.contents import read_contents
from subpixmap.runfolder import RunFolder, RunUnits, write_units
from subpixmap.tables import CHANGES, COUNTS, TREND, read_table
from subpixmap.verbs.count import count, trend
from tests.helpers.run_folders import PERIODS, REGION, make_plan, make_run

DOCS = Path(__file__).parents[2] / "docs" / "tables.md"


@pytest.fixture
def out(tmp_path: Path) -> Any:
    folder = tmp_path / "run"
    write_units(folder, RunUnits(make_run(folder, make_plan()), "a file", "v1"))
    return folder


def typed(*arguments: Any) -> Any:
    """Run a command line in this process; errors of ours come back as they are."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def save(polygons: Any, path: Any, ids: Any = None, **columns: Any) -> Any:
    ids = ids or [f"{i:02d}" for i in range(len(polygons))]
    gpd.GeoDataFrame({"unit_id": ids, **columns}, geometry=list(polygons), crs=4326).to_parquet(path)
    return path


def test_what_lies_outside_near_a_unit_is_told_and_can_be_assigned(out: Any, tmp_path: Path) -> None:
    west, south, east, north = REGION.bounds
    admin = save([shapely.box(west, south, east - 0.006, north)], tmp_path / "units.parquet")
    told = typed("count", out, "--admin", admin)
    assert "--assign-nearest" in told.stderr
    plain = read_table(out / "counts.parquet", COUNTS)[:4]  # the unit; then come all units together
    accounts = read_accounts(out / "accounts.json")
    assert accounts["outside"]["near_total"].gt(0).all()
    assert accounts["remarks"]
    told = typed("count", out, "--admin", admin, "--assign-nearest")
    assert "--assign-nearest" not in told.stderr
    given = read_table(out / "counts.parquet", COUNTS)[:4]
    gained = given["map_total"].to_numpy() - plain["map_total"].to_numpy()
    assert gained == pytest.approx(accounts["outside"]["near_total"].to_numpy(), rel=1e-9)
    assert given["flag"].str.contains("nearest_assigned").all()
    assert not plain["flag"].str.contains("nearest_assigned").any()


def test_given_units_keep_their_boundary_source_for_later_counts_and_the_report(out: Any, tmp_path: Path) -> None:
    typed("count", out, "--admin", save([REGION], tmp_path / "mine.parquet"))
    table = count_run(out).table
    assert set(table["boundary_source"]) == {"mine.parquet"}
    assert set(table["boundary_version"]) == set(read_table(out / "counts.csv", COUNTS)["boundary_version"])
    assert "mine.parquet" in read_contents(RunFolder.open(out)).provenance["Units"]
    assert RunFolder.open(out).units.boundary_source == "mine.parquet"


def test_units_elsewhere_or_with_swapped_axes_are_refused_and_change_nothing(out: Any, tmp_path: Path) -> None:
    west, south, east, north = REGION.bounds
    before = (out / "units.parquet").read_bytes()
    far = save([shapely.box(10, 40, 11, 41)], tmp_path / "far.parquet")
    with pytest.raises(InputError, match=r"far\.parquet.*here"):
        count(out, admin=far)
    assert (out / "units.parquet").read_bytes() == before
    beyond = save([shapely.box(south, west, north, east)], tmp_path / "swapped.parquet")
    with pytest.raises(InputError, match="120"):  # a latitude of 120 gives it away
        count(out, admin=beyond)


def test_axes_swapped_inside_the_range_of_degrees_are_found_by_the_region() -> None:
    from subpixmap.region.resolve import require_overlap

    right = gpd.GeoDataFrame(geometry=[shapely.box(12, 41, 13, 42), shapely.box(13, 41, 14, 42)], crs=4326)
    region = shapely.box(11.9, 40.9, 14.1, 42.1)  # Rome: longitude 12, latitude 42
    assert require_overlap(right, "u", region, "region italy").all()
    swapped = right.set_geometry(shapely.transform(right.geometry.to_numpy(), lambda xy: xy[:, ::-1]), crs=4326)
    with pytest.raises(InputError, match="region italy"):
        require_overlap(swapped, "u", region, "region italy")
    # Of a file with the units of many countries only some lie in the region: that is no mistake.
    world = gpd.GeoDataFrame(geometry=[*right.geometry, shapely.box(41, 12, 42, 13), shapely.box(0, 0, 1, 1)], crs=4326)
    assert require_overlap(world, "u", region, "region italy").tolist() == [True, True, False, False]


def test_trend_tells_how_sure_it_is_and_takes_effects_out_on_demand(out: Any) -> None:
    typed("count", out)
    told = typed("trend", out)
    assert re.search(r"2 periods.* 5 ", told.stderr)
    assert re.search("car.*no trend", told.stderr)
    table = read_table(out / "trend.csv", TREND)
    assert table["year_effect"].isna().all()
    assert table.loc[table["object"] == "coconut", "background_slope_per_year"].notna().all()
    typed("trend", out, "--unchanged", "01")
    table = read_table(out / "trend.csv", TREND)
    unchanged = table[(table["unit_id"] == "01") & (table["object"] == "coconut")].iloc[0]
    assert unchanged["change"] == pytest.approx(0, abs=1e-6)
    assert unchanged["year_effect"] == "1 unchanged units"
    typed("trend", out, "--background")
    assert set(read_table(out / "trend.csv", TREND)["year_effect"].dropna()) == {"background"}
    with pytest.raises(InputError, match="nowhere"):
        trend(out, unchanged=["nowhere"])
    with pytest.raises(InputError):
        trend(out, unchanged=["01"], background=True)
    with pytest.raises(InputError, match="--level 95"):
        trend(out, level=95)


def test_another_format_needs_no_map(out: Any, tmp_path: Path) -> None:
    import shutil

    typed("count", out)
    typed("trend", out)
    shutil.rmtree(out / "map.zarr")
    for format in ("csv", "geoparquet", "gpkg", "geojson"):
        typed("export", out, "--format", format, "--to", tmp_path / format)
    assert (tmp_path / "gpkg" / "counts.gpkg").is_file()


def test_counting_on_workers_gives_the_same_bytes(out: Any) -> None:
    typed("count", out, "--workers", "0")
    names = ("counts.csv", "counts.parquet", "series.parquet", "accounts.json")
    first = [(out / name).read_bytes() for name in names]
    typed("count", out, "--workers", "1")
    assert [(out / name).read_bytes() for name in names] == first


def test_accounts_hold_what_the_report_shows(out: Any) -> None:
    typed("count", out)
    accounts = read_accounts(out / "accounts.json")
    json.loads((out / "accounts.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    balance = accounts["balance"]
    assert balance["units"].to_numpy() + balance["outside"].to_numpy() == pytest.approx(balance["map"].to_numpy())
    assert list(balance["period"].unique()) == [period.label for period in PERIODS]
    assert read_accounts(out / "nothing.json") == {}


def test_every_column_and_flag_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in (*COUNTS, *TREND, *CHANGES, *FLAGS):
        assert f"`{name}`" in text, name
    for name, meaning in FLAGS.items():
        assert f"| `{name}` | {meaning} |" in text, name


def test_a_plot_of_counts_and_of_trends_is_one_line(out: Any) -> None:
    from subpixmap import count_by_unit, plot_counts, plot_trend, trend

    counts = count_by_unit(out)
    figure = plot_counts(counts)
    assert len(figure.axes) == 2  # one for each object
    assert len(figure.axes[0].lines) == 2  # one for each unit
    figure = plot_trend(trend(counts))
    assert {tick.get_text() for tick in figure.axes[0].get_yticklabels()} == {"=East", "West"}
    assert plot_trend(trend(counts), "coconut").axes
    with pytest.raises(InputError, match="olive"):
        plot_trend(trend(counts), "olive")
    assert np.isfinite(pd.DataFrame(counts)["map_total"].astype(float)).all()
