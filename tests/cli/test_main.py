"""The command line: bad input is one line and an exit code before a pixel is read; a small run is a whole run."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from subpixmap.mapping.store import open_map


@pytest.fixture
def command(country: Path, stand_in: Path, tmp_path: Path) -> Any:
    """Options of a run that is right; a later option wins over an earlier one."""
    options = {
        "--region": country / "region.geojson",
        "--years": "2020",
        "--source": country / "catalog.json",
        "--model": stand_in,
        "--admin": country / "admin.parquet",
        "--out": tmp_path / "out",
        "--workers": "0",
        "--block": "256",
    }

    def with_(**changed: Any) -> Any:
        told = options | {f"--{key.replace('_', '-')}": value for key, value in changed.items()}
        return ["run", *(str(part) for key, value in told.items() if value is not None for part in (key, value))]

    return with_


@pytest.fixture
def files(tmp_path: Path, stand_in: Path) -> Any:
    """Files that are not what they should be."""
    whole = stand_in.read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(flipped)
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps({"weights": 1}))
    (tmp_path / "no-stac.json").write_text('{"hello": "world"}')
    (tmp_path / "html.json").write_text("<html></html>")
    unit = {"unit_id": ["1"], "geometry": [shapely.box(119.4, 10.4, 119.6, 10.6)]}
    gpd.GeoDataFrame(unit).to_parquet(tmp_path / "no-crs.parquet")
    gpd.GeoDataFrame(unit, crs=4326).to_parquet(tmp_path / "units.parquet")
    return tmp_path


VERBS = [
    "run",
    "plan",
    "map",
    "count",
    "trend",
    "report",
    "status",
    "verify",
    "export",
    "simulate",
    "reference",
    "train",
    "evaluate",
    "learn",
    "models",
    "regions",
    "doctor",
]

# option: value -> what the message must name
BAD: dict[str, Any] = {
    "unknown region": ({"region": "atlantis", "admin": None}, ["atlantis", "subpixmap regions"]),
    "near name": ({"region": "philipines", "admin": None}, ["Philippines"]),
    "box backwards": ({"region": "10,5,9,4", "admin": None}, ["10,5,9,4"]),
    "years backwards": ({"years": "2023-2018"}, ["2018-2023"]),
    "no years": ({"years": ""}, ["--years"]),
    "years without items": ({"years": "2016"}, ["2016"]),
    "unknown step": ({"every": "decade"}, ["decade", "quarter"]),
    "bad months": ({"months": "13"}, ["13"]),
    "unknown source": ({"source": "earthsearch"}, ["earthsearch", "earth-search", "planetary-computer"]),
    "no file": ({"source": "{}/nothing.json"}, ["nothing.json"]),
    "no STAC": ({"source": "{}/no-stac.json"}, ["no-stac.json", "STAC"]),
    "no JSON": ({"source": "{}/html.json"}, ["html.json"]),
    "region elsewhere": ({"region": "10,50,10.1,50.1", "admin": None}, ["10"]),
    "unknown object": ({"object": "mango"}, ["mango", "coconut", "car"]),
    "no model": ({"model": "palms"}, ["palms", "demo-s2"]),
    "truncated model": ({"model": "{}/truncated.safetensors"}, ["truncated.safetensors"]),
    "flipped bit": ({"model": "{}/flipped.safetensors"}, ["flipped.safetensors", "sha256"]),
    "pickle": ({"model": "{}/pickle.safetensors"}, ["pickle.safetensors", "pickle"]),
    "no CRS": ({"admin": "{}/no-crs.parquet"}, ["no-crs.parquet", "coordinate reference system"]),
    "no id column": ({"admin": "{}/units.parquet", "id_column": "PSGC"}, ["PSGC", "unit_id"]),
    "block": ({"block": "1000"}, ["1000", "256"]),
    "observations": ({"min_obs": "11"}, ["11", "--max-scenes"]),
    "cloud": ({"max_cloud": "120"}, ["120"]),
    "resolution": ({"resolution": "0"}, ["--resolution"]),
    "device": ({"device": "tpu"}, ["tpu", "cuda"]),
    "offset rule": ({"offset_rule": "always"}, ["always", "subtract"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_2_and_one_line(
    case: Any,
    command: Any,
    files: Any,
    subpixmap: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    no_pixels: Any,
) -> None:
    changed, named = BAD[case]
    changed = {key: value and str(value).replace("{}", str(files)) for key, value in changed.items()}
    assert subpixmap(*command(**changed)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2, error
    for text in named:
        assert text in error
    assert not (files / "out").exists()


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a pixel fails the test."""
    from subpixmap.scenes import cube

    def refuse(*_: object, **__: Any) -> None:
        raise AssertionError("a pixel was read")

    monkeypatch.setattr(cube, "_stack", refuse)


def test_bands_that_the_items_lack(
    command: Any,
    country: Path,
    tmp_path: Path,
    subpixmap: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    no_pixels: Any,
) -> None:
    items = []
    for path in sorted(country.rglob("*.json")):
        item = json.loads(path.read_text())
        if item.get("type") == "Feature" and "assets" in item:
            item["assets"] = {
                key: asset | {"href": str((path.parent / asset["href"]).resolve())}
                for key, asset in item["assets"].items()
                if key not in ("swir16", "nir08")
            }
            items.append(item)
    (tmp_path / "lacking.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert items
    assert subpixmap(*command(source=tmp_path / "lacking.json")) == 2
    error = capsys.readouterr().err
    assert "B11" in error
    assert "B8A" in error
    assert items[0]["id"].split("_")[0] in error


def test_an_offset_that_dark_ground_contradicts_is_refused_by_name(
    command: Any, country: Path, tmp_path: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Items that declare an offset which their pixels do not have; with --offset-rule they are taken."""
    from subpixmap.periods import make_periods
    from subpixmap.scenes.source import find_items

    everywhere = shapely.box(-180, -90, 180, 90)
    items = find_items(str(country / "catalog.json"), everywhere, make_periods("2020"))
    for item in items:
        properties = item["properties"]
        product = properties["s2:product_uri"]
        properties["s2:processing_baseline"] = "05.00"
        properties["s2:product_uri"] = re.sub(r"_N\d{4}_", "_N0500_", product)
        properties["s2:datatake_id"] = re.sub(r"_N\d\d\.\d\d$", "_N05.00", properties["s2:datatake_id"])
        properties["earthsearch:boa_offset_applied"] = False
        for asset in item["assets"].values():
            for band in asset.get("raster:bands", []):
                band["offset"] = -0.1
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert subpixmap(*command(source=tmp_path / "items.json")) == 2
    error = capsys.readouterr().err
    assert "contradict" in error
    assert any(item["id"] in error for item in items)
    assert subpixmap("plan", *command(source=tmp_path / "items.json", offset_rule="none")[1:]) == 0


def test_what_does_not_fit_is_planned_and_not_mapped(
    command: Any,
    stand_in: Path,
    tmp_path: Path,
    subpixmap: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("distributed.system.memory_limit", lambda: 10**9)
    assert subpixmap(*command(out=out, workers=4)) == 4
    assert not out.exists()
    assert subpixmap("plan", *command(out=out, workers=4)[1:]) == 0
    assert "1.0 GB" in capsys.readouterr().err
    assert subpixmap("map", out, "--workers", 4, "--model", stand_in) == 4
    assert "1.0 GB" in capsys.readouterr().err


def test_usage_errors_end_with_2(subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert subpixmap("run", "--years", "2020") == 2
    assert "--region" in capsys.readouterr().err
    assert subpixmap("fly") == 2


def test_a_folder_without_a_run(
    subpixmap: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("map", "count", "trend", "report", "status", "verify"):
        assert subpixmap(verb, tmp_path) == 2
        assert str(tmp_path) in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(country: Path, stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole small run of one year, and its options."""
    from subpixmap.verbs.request import Request
    from subpixmap.verbs.run import run

    request = Request(
        region=str(country / "region.geojson"),
        years="2020",
        source=(str(country / "catalog.json"),),
        model=str(stand_in),
        admin=country / "admin.parquet",
        out=tmp_path_factory.mktemp("finished") / "out",
        workers=0,
        block=256,
        quiet=True,
    )
    run(request)
    return request


def test_a_run_leaves_what_it_promises(finished: Any) -> None:
    names = {"plan.json", "items.parquet", "map.zarr", "ledger", "manifest.json", "counts.csv", "counts.parquet"}
    names |= {"trend.csv", "trend.parquet", "changes.csv", "tables.json", "report.html", "run.log"}
    assert names <= {path.name for path in finished.out.iterdir()}
    assert not (finished.out / "run.lock").exists()
    counts = pd.read_parquet(finished.out / "counts.parquet")
    text = pd.read_csv(finished.out / "counts.csv", dtype=str, keep_default_na=False)
    assert list(counts.columns) == list(text.columns)
    units = gpd.read_parquet(finished.admin)
    assert len(counts) == (len(units) + 1) * 2
    assert set(counts.unit_id) == {*units.unit_id.astype(str), "REGION"}
    page = (finished.out / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)


def test_not_observed_is_blank_never_zero(finished: Any) -> None:
    for zone in open_map(finished.out).values():
        unseen = zone.n_obs == 0
        assert bool(zone["count"].where(unseen).isnull().all())
        assert not bool((zone["count"] == 0).all())


def test_another_recipe_is_refused_and_names_the_field(
    command: Any, finished: Any, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert subpixmap(*command(out=finished.out, max_scenes=3)) == 4
    error = capsys.readouterr().err
    assert "max_scenes" in error
    assert "3" in error


def test_a_run_that_is_extended_equals_one_made_at_once(
    command: Any, finished: Any, country: Path, tmp_path: Path, subpixmap: Callable[..., int]
) -> None:
    import shutil

    extended = tmp_path / "extended"
    shutil.copytree(finished.out, extended)
    assert subpixmap(*command(years="2020-2021", out=extended), "-q") == 0
    assert subpixmap(*command(years="2020-2021", out=tmp_path / "once"), "-q") == 0
    for name in ("counts.csv", "counts.parquet", "trend.csv", "trend.parquet", "items.parquet"):
        assert (extended / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    assert set(pd.read_parquet(extended / "counts.parquet").period) == {"2020", "2021"}


def test_a_run_that_is_extended_or_repaired_keeps_how_it_is_counted(
    command: Any, country: Path, stand_in: Path, tmp_path: Path, subpixmap: Callable[..., int]
) -> None:
    """Units, --assign-nearest and --background were given to `count` and `trend`, not to the commands that follow."""
    out = tmp_path / "out"
    assert subpixmap(*command(admin=None), "-q") == 0
    west, south, east, north = gpd.read_file(country / "region.geojson").to_crs(4326).total_bounds
    west += (east - west) / 8  # what is left over lies within 1 km of the unit
    half = gpd.GeoDataFrame({"unit_id": ["half"]}, geometry=[shapely.box(west, south, east, north)], crs=4326)
    half.to_parquet(tmp_path / "half.parquet")
    assert subpixmap("count", out, "--admin", tmp_path / "half.parquet", "--assign-nearest", "-q") == 0
    assert subpixmap("trend", out, "--background", "-q") == 0

    def as_chosen() -> None:
        counts = pd.read_parquet(out / "counts.parquet")
        assert set(counts["unit_id"]) == {"half", "REGION"}
        assert counts["flag"].str.contains("nearest_assigned").all()
        effects = pd.read_parquet(out / "trend.parquet")["year_effect"]
        assert set(effects.dropna()) == {"background"}

    as_chosen()
    before = {name: (out / name).read_bytes() for name in ("counts.csv", "trend.csv")}
    (out / "counts.csv").write_text("unit_id\n")
    assert subpixmap("verify", out, "--repair", "--model", stand_in, "--workers", "0") == 0
    assert {name: (out / name).read_bytes() for name in before} == before
    assert subpixmap("count", out, "-q") == subpixmap("trend", out, "-q") == 0
    assert {name: (out / name).read_bytes() for name in before} == before
    assert subpixmap(*command(years="2020-2021", out=out, admin=None), "-q") == 0
    as_chosen()
    assert set(pd.read_parquet(out / "counts.parquet")["period"]) == {"2020", "2021"}
    (out / "choices.json").write_text("{}")
    assert subpixmap("verify", out, "--repair", "--model", stand_in) == 5  # nothing else knows what was chosen


def test_a_forced_run_stays_forced_when_it_is_extended(
    command: Any, tmp_path: Path, subpixmap: Callable[..., int]
) -> None:
    from subpixmap.mapping.plan import read_plan

    assert subpixmap("plan", *command(years="2020")[1:], "--force", "-q") == 0
    assert subpixmap("plan", *command(years="2020-2021")[1:], "-q") == 0
    plan = read_plan(tmp_path / "out")
    assert [period.label for period in plan.periods] == ["2020", "2021"]
    assert plan.forced


def test_units_and_outside_add_up_to_the_map(finished: Any) -> None:
    """Outside comes from its own polygon: the region less the units. A unit around all that is mapped holds it all."""
    from subpixmap.counts.count import count_run
    from subpixmap.runfolder import RunFolder

    balance = count_run(finished.out).accounts.balance
    assert (balance["counted_twice"].abs() <= 1e-7 * balance["map"].abs()).all()
    west, south, east, north = RunFolder.open(finished.out).units.table.total_bounds
    shape = shapely.segmentize(shapely.box(west - 0.1, south - 0.1, east + 0.1, north + 0.1), 0.01)
    around = gpd.GeoDataFrame({"unit_id": ["all"]}, geometry=[shape], crs="EPSG:4326")
    balance = count_run(finished.out, around).accounts.balance
    total = sum(float(zone["count"].sum()) for zone in open_map(finished.out).values())
    assert balance["map"].sum() == pytest.approx(total, rel=1e-6)


def test_plan_maps_nothing(
    command: Any, subpixmap: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pixels: Any
) -> None:
    assert subpixmap("plan", *command()[1:]) == 0
    shown = capsys.readouterr().out
    assert "acquisitions" in shown
    assert "blocks" in shown
    assert not list((tmp_path / "out").glob("ledger/*.json"))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(
    verb: Any, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert subpixmap(verb, "--help") == 0
    assert f"Example: subpixmap {verb}" in capsys.readouterr().out


def test_status_and_verify(
    finished: Any, stand_in: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(finished.out, out)
    assert subpixmap("status", out) == 0
    stated = re.match(r"(\d+) of (\d+)", capsys.readouterr().out)
    assert stated is not None
    done, total = stated.groups()
    assert done == total != "0"
    assert subpixmap("verify", out) == 0
    shard = next(path for path in sorted((out / "map.zarr").rglob("c/*")) if path.is_file())
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    shard.write_bytes(damaged)
    (out / "counts.csv").write_text("unit_id\n")
    assert subpixmap("verify", out) == 5
    assert "counts.csv" in capsys.readouterr().err
    assert subpixmap("verify", out, "--repair", "--model", stand_in, "--workers", "0") == 0
    assert (out / "counts.csv").read_bytes() == (finished.out / "counts.csv").read_bytes()


def test_default_folders_are_named_after_the_region(country: Path) -> None:
    from subpixmap.verbs.request import Request

    names = {
        "demo": "demo",
        "philippines/Palawan": "philippines-palawan",
        "15.7,45.85,16.0,46.2": "15.7-45.85-16.0-46.2",
    }
    names |= {str(country / "region.geojson"): "region"}
    for region, name in names.items():
        assert Request(region=region, years="2020").folder.as_posix() == f"runs/{name}"
