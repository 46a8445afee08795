"""Every pair of options goes through every verb: it ends with the exit code that is stated, and all adds up.

Tiny countries of four years with few acquisitions, so that blocks, periods and objects without any are common. `make
test` takes rows in which every pair of values occurs, `make chaos` every triple; SUBPIXMAP_COMBINE=10 takes them all.
"""

import json
import os
import re
from itertools import combinations, product
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from subpixmap.counts.accounts import read_accounts
from subpixmap.mapping.ledger import read_records
from subpixmap.mapping.plan import read_plan
from subpixmap.mapping.store import open_map
from subpixmap.tables import COUNTS, REGION, TREND, read_table
from tests.helpers.covering import covering

AXES = {
    "every": ("year", "quarter", "scene", "month"),
    "object": (None, "car", "coconut"),
    "months": (None, "12-2", "5-7"),
    "min_obs": (1, 2),
    "max_scenes": (10, 1),
    "block": (256, 512),
    "zones": ("one", "two"),
    "years": (1, 2, 3),
    "workers": (0, 2),
    "model": ("ten", "four"),
}
CENTERS = {"one": (119.507, 10.50985), "two": (120.0, 10.50985)}  # blocks meet in the one, zones in the other
FORMATS = ("csv", "geoparquet", "gpkg", "geojson", "stac")  # stac writes the files of cog
FIRST = 2020
ALL = int(os.environ.get("SUBPIXMAP_COMBINE", "3"))


def fits(row: Any) -> Any:
    """Whether a combination can be run: the others are refused, each by a test of its own."""
    none = (row.get("years"), row.get("months")) == (1, "12-2")  # the first winter has no acquisition
    return row.get("min_obs", 1) <= row.get("max_scenes", 10) and not none


PAIRS = covering(AXES, allowed=fits)


def told(row: Any) -> Any:
    return "-".join(str(value) for value in row.values())


def test_every_pair_of_values_occurs_and_few_rows_are_needed() -> None:
    for one, other in combinations(AXES, 2):
        for a, b in product(AXES[one], AXES[other]):
            if fits({one: a, other: b}):
                assert any(row[one] == a and row[other] == b for row in PAIRS), (one, a, other, b)
    assert all(fits(row) for row in PAIRS)
    assert len(PAIRS) <= 20
    assert covering(AXES, allowed=fits) == PAIRS
    small = {name: AXES[name] for name in ("every", "object", "min_obs", "max_scenes")}
    rows = {tuple(row.values()) for row in covering(small, 4, allowed=fits)}
    assert rows == {row for row in product(*small.values()) if fits(dict(zip(small, row, strict=True)))}


@pytest.fixture(scope="session")
def countries(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two countries of 1 km, in several blocks and in several zones, with other units than their own."""
    from subpixmap.simulate import simulate_country

    found = {}
    for name, center in CENTERS.items():
        folder = tmp_path_factory.mktemp(name)
        years = (FIRST, FIRST + 3)
        found[name] = simulate_country(folder, seed=77, size_km=1, years=years, acquisitions=3, center=center)
        lon, lat = center
        around = shapely.segmentize(shapely.box(lon - 0.1, lat - 0.1, lon + 0.1, lat + 0.1), 0.01)
        polygons = [around, shapely.box(lon - 0.002, lat - 0.002, lon + 0.002, lat + 0.002), None]
        polygons.append(shapely.box(lon + 0.09, lat, lon + 0.1, lat + 0.01))  # beyond the map
        units = {"unit_id": ["all", "inner", "none", "far"], "parent_id": [None, "all", None, "all"]}
        gpd.GeoDataFrame(units, geometry=polygons, crs=4326).to_parquet(folder / "other.parquet")
    return found


@pytest.fixture(scope="session")
def models(stand_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two untrained models: of ten bands, and of four."""
    import torch

    from subpixmap.model.card import Card
    from subpixmap.model.checkpoint import load_model, save_model

    ten = load_model(str(stand_in)).card
    torch.manual_seed(1)
    bands = ("B02", "B03", "B04", "B08")
    scaling = {name: getattr(ten, name)[:4] for name in ("input_mean", "input_std", "input_low", "input_high")}
    card = Card("four", bands, dict(ten.objects), dict(ten.measure), **scaling, evidence="simulated", width=16, mid=8)
    path = tmp_path_factory.mktemp("models") / "four.safetensors"
    save_model(path, card.build_net(), card)
    return {"ten": stand_in, "four": path}


def command(country: Any, model: Any, out: Any, row: Any, *, extra_years: Any = 0) -> Any:
    last = FIRST + row["years"] - 1 + extra_years
    options = {
        "--region": country / "region.geojson",
        "--source": country / "catalog.json",
        "--admin": country / "admin.parquet",
        "--years": f"{FIRST}-{last}" if last > FIRST else FIRST,
        "--model": model,
        "--out": out,
    }
    options |= {f"--{name.replace('_', '-')}": row[name] for name in AXES if name not in ("zones", "years", "model")}
    return ["run", *(part for key, value in options.items() if value is not None for part in (key, value))]


def require_sums(out: Any, n_units: Any) -> Any:
    """Rows for everything; units and what is outside them are the map; the map is what the ledger holds."""
    plan = read_plan(out)
    counts = read_table(out / "counts.parquet", COUNTS)
    assert len(counts) == (n_units + 1) * len(plan.objects) * len(plan.periods)
    assert len(read_table(out / "trend.parquet", TREND)) == (n_units + 1) * len(plan.objects)
    balance = read_accounts(out / "accounts.json")["balance"].set_index(["object", "period"]).astype(float)
    left = balance["units"] + balance["outside"] - balance["counted_twice"]
    assert left.to_numpy() == pytest.approx(balance["map"].to_numpy(), rel=1e-9, abs=1e-6)
    counts = counts.set_index(["object", "period"])
    region = counts["unit_id"] == REGION
    top = counts[~region & ~counts["parent_id"].isin(counts["unit_id"])]["map_total"].groupby(level=[0, 1]).sum()
    assert counts[region]["map_total"].fillna(0).to_numpy(float) == pytest.approx(top[counts[region].index].to_numpy())
    assert top[balance.index].to_numpy(float) == pytest.approx(balance["units"].to_numpy(), rel=1e-9, abs=1e-6)
    assert counts.loc[counts["observed_ha"] == 0, "map_total"].isna().all()
    return counts


def require_whole(out: Any) -> None:
    """The unit that holds everything has the totals of the ledger and of the map's pixels."""
    counts, records, maps = require_sums(out, 4), read_records(out, read_plan(out)), open_map(out)
    whole = counts[counts["unit_id"] == "all"]["map_total"].fillna(0).astype(float)
    for name, period in whole.index:
        ledger = sum(one.total[name] for one in records.values() if one.period == period)
        parts = [zone["count"].sel(object=name, period=period).to_numpy() for zone in maps.values()]
        pixels = sum(float(np.nansum(part, dtype=float)) for part in parts)
        assert (whole[name, period], pixels) == pytest.approx((ledger, ledger), rel=1e-9, abs=1e-6)


def through(
    row: Any, countries: Any, models: Any, out: Any, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """One combination through every verb."""
    country, model = countries[row["zones"]], models[row["model"]]
    n_units = len(gpd.read_parquet(country / "admin.parquet"))
    assert subpixmap(*command(country, model, out, row)) == 0
    require_sums(out, n_units)
    assert subpixmap("verify", out) == 0
    assert subpixmap(*command(country, model, out, row, extra_years=1), "-q") == 0
    require_sums(out, n_units)
    for verb in (["status", out], ["verify", out], ["count", out, "--admin", country / "other.parquet"]):
        assert subpixmap(*verb) == 0
    for verb in (["trend", out, "--background"], ["trend", out], ["report", out]):
        assert subpixmap(*verb) == 0
    require_whole(out)
    for format in FORMATS:
        assert subpixmap("export", out, "--format", format, "--to", out / "export" / format) == 0
    assert subpixmap("verify", out) == 0
    captured = capsys.readouterr()
    assert "all checks passed: " in captured.out
    for text in (captured.out, captured.err, (out / "report.html").read_text()):
        assert "Traceback" not in text
        assert ">nan<" not in text


@pytest.mark.parametrize("row", PAIRS, ids=told)
def test_every_pair_of_options_goes_through_every_verb(
    row: Any,
    countries: Any,
    models: Any,
    tmp_path: Path,
    subpixmap: Any,
    capsys: pytest.CaptureFixture[str],
    quick_processes: Any,
) -> None:
    through(row, countries, models, tmp_path / "run", subpixmap, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("row", covering(AXES, ALL, allowed=fits), ids=told)
def test_every_triple_of_options_goes_through_every_verb(
    row: Any,
    countries: Any,
    models: Any,
    tmp_path: Path,
    subpixmap: Any,
    capsys: pytest.CaptureFixture[str],
    quick_processes: Any,
) -> None:
    through(row, countries, models, tmp_path / "run", subpixmap, capsys)


def test_months_without_an_acquisition_are_refused_by_name(
    countries: Any, models: Any, tmp_path: Path, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for zones, country in countries.items():
        items = (country / "sentinel-2-l2a").glob("*/*.json")
        taken = {json.loads(path.read_text())["properties"]["datetime"][:7] for path in items}
        month = next(month for month in range(1, 13) if f"{FIRST}-{month:02d}" not in taken)
        row = {name: values[0] for name, values in AXES.items()} | {"months": month}
        out = tmp_path / zones
        assert subpixmap(*command(country, models["ten"], out, row)) == 2
        error = capsys.readouterr().err
        assert f"--years {FIRST} with --months {month};" in error
        assert error.count("\n") == 1
        for verb in ("map", "count", "trend", "report", "status", "verify"):
            assert subpixmap(verb, out) == 2
            assert re.search("holds no run|run subpixmap count or trend first", capsys.readouterr().err)


def test_what_is_only_planned_is_told_and_not_taken_for_damage(
    countries: Any, models: Any, tmp_path: Path, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    row, out = {name: values[0] for name, values in AXES.items()}, tmp_path / "run"
    options = command(countries["two"], models["ten"], out, row)
    assert subpixmap("plan", *options[1:], "-q") == 0
    for verb in (["count", out, "--allow-partial"], ["export", out, "--format", "cog"]):
        assert subpixmap(*verb) == 3
        assert "`subpixmap map" in capsys.readouterr().err
    assert subpixmap("verify", out) == 0
    assert "4 are not mapped yet" in capsys.readouterr().out
    assert subpixmap(*options) == 0
    later = command(countries["two"], models["ten"], out, row, extra_years=1)
    assert subpixmap("plan", *later[1:], "-q") == 0  # the second year is planned and not mapped
    for verb in (["count", out, "--allow-partial"], ["trend", out], ["report", out], ["verify", out]):
        assert subpixmap(*verb) == 0
    for format in (*FORMATS, "pmtiles"):
        assert subpixmap("export", out, "--format", format) == 0
    counts = require_sums(out, len(gpd.read_parquet(countries["two"] / "admin.parquet")))
    assert counts.xs("2021", level="period")["map_total"].isna().all()
    assert "Incomplete run" in (out / "report.html").read_text()


def test_another_model_is_refused_by_name_though_nothing_is_asked_for(
    countries: Any, models: Any, tmp_path: Path, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {name: values[0] for name, values in AXES.items()}
    first = command(countries["one"], models["ten"], tmp_path / "run", row)
    assert subpixmap("plan", *first[1:], "-q") == 0
    at = first.index("--model")
    del first[at : at + 2]  # the shipped models stand in for what was not said
    assert subpixmap(*first) == 4
    assert "model_sha256 is" in capsys.readouterr().err


def test_more_observations_than_scenes_are_refused(
    countries: Any, models: Any, tmp_path: Path, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {name: values[0] for name, values in AXES.items()} | {"min_obs": 2, "max_scenes": 1}
    assert subpixmap(*command(countries["one"], models["ten"], tmp_path / "run", row)) == 2
    error = capsys.readouterr().err
    assert error == "subpixmap: --min-obs 2: must lie between 1 and --max-scenes (1)\n"
