"""Verbs that write hold the folder, vouch for what they wrote, and name what no longer belongs together."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest

from subpixmap.errors import Incomplete, InputError, Refused, VerificationFailed
from subpixmap.mapping.ledger import read_records, write_record
from subpixmap.mapping.manifest import read_manifest, write_manifest
from subpixmap.mapping.owner import FolderLost, run_lock
from subpixmap.model.checkpoint import save_model
from subpixmap.runpaths import LOCK
from subpixmap.scenes.pins import Changed
from subpixmap.verbs import count as verbs
from subpixmap.verbs import look
from subpixmap.verbs.request import Request
from subpixmap.verbs.run import map_planned, plan, run
from tests.helpers import mapping_data, scenes_data
from tests.helpers.run_folders import make_plan, make_run

WHERE: dict[str, Any] = {"bands": mapping_data.BANDS, "size_px": 256, "baseline": "02.14"}
SOMEBODY = {"host": "elsewhere", "pid": 5, "born": "1", "since": 1.0, "token": "t", "system": "another"}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("held") / "run"
    make_run(out, make_plan())
    verbs.count(out, quiet=True)
    verbs.trend(out, quiet=True)
    verbs.report(out, quiet=True)
    return out


@pytest.fixture
def out(counted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(counted, tmp_path / "run")


@pytest.fixture
def imagery(tmp_path: Path) -> dict[str, Any]:
    """Options of a run over one small tile and two years, in a folder that may be moved."""
    place = tmp_path / "place"
    place.mkdir()
    model = mapping_data.tiny_model()
    save_model(tmp_path / "tiny.safetensors", model.net, model.card)
    items = [scenes_data.make_item(place, start=f"{year}0305T021051", **WHERE) for year in (2020, 2021)]
    west, south, *_ = items[0]["bbox"]
    return {
        "region": f"{west + 0.01},{south + 0.01},{west + 0.012},{south + 0.012}",
        "years": "2020-2021",
        "model": str(tmp_path / "tiny.safetensors"),
        "source": (str(scenes_data.write_collection(place / "items.json", items)),),
        "workers": 0,
        "block": 256,
        "out": tmp_path / "out",
    }


def other_units(out: Path, path: Path) -> Path:
    units = gpd.read_parquet(out / "units.parquet")
    units.assign(unit_id=[f"new {one}" for one in units["unit_id"]]).to_parquet(path)
    return path


# Row 13: two writers --------------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path], object]] = {
    "count": lambda out: verbs.count(out, quiet=True),
    "trend": lambda out: verbs.trend(out, quiet=True),
    "report": lambda out: verbs.report(out, quiet=True),
    "export": lambda out: verbs.export(out, "csv", quiet=True),
    "map": lambda out: map_planned(out, workers=0, quiet=True),
}


@pytest.mark.parametrize("verb", WRITERS)
def test_a_verb_that_writes_is_refused_while_somebody_holds_the_folder(out: Path, verb: str) -> None:
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / LOCK).write_text(json.dumps(SOMEBODY))
    with pytest.raises(Refused, match="process 5 on elsewhere"):
        WRITERS[verb](out)
    (out / LOCK).unlink()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_repair_changes_nothing_of_a_live_run(out: Path) -> None:
    record = next((out / "ledger").glob("*.json"))
    record.write_bytes(b"torn")
    (out / LOCK).write_text(json.dumps(SOMEBODY))
    for repair in (False, True):
        with pytest.raises(Incomplete, match="is running"):
            look.verify(out, repair=repair, quiet=True)
    assert record.read_bytes() == b"torn"


def test_a_count_whose_folder_was_taken_over_writes_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from subpixmap.counts import count as counts

    summed = counts.count_run

    def slow(*args: Any, **options: Any) -> Any:
        (out / LOCK).write_text(json.dumps(SOMEBODY))  # we were held up for minutes, and somebody took the folder
        return summed(*args, **options)

    before = (out / "counts.csv").read_bytes(), (out / "units.parquet").read_bytes()
    monkeypatch.setattr(counts, "count_run", slow)
    with pytest.raises(FolderLost, match="elsewhere"):
        verbs.count(out, admin=other_units(out, out.parent / "new.parquet"), quiet=True)
    assert ((out / "counts.csv").read_bytes(), (out / "units.parquet").read_bytes()) == before


def test_a_folder_without_a_run_is_not_touched(tmp_path: Path) -> None:
    for verb in WRITERS.values():
        with pytest.raises(InputError, match="holds no run"):
            verb(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


# Rows 9 and 12: what belongs together ---------------------------------------------------------------------------------


def test_a_page_of_former_tables_is_named_until_it_is_made_again(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look.verify(out, quiet=True)
    verbs.count(out, admin=other_units(out, tmp_path / "new.parquet"))
    said = capsys.readouterr().err
    assert "note: trend.parquet is out of date, because counts.parquet" in said
    assert "report.html is out of date" in said
    look.status(out)
    assert "stale: report.html" in capsys.readouterr().out
    with pytest.raises(VerificationFailed, match=r"trend\.parquet.*subpixmap trend.*report\.html.*subpixmap report"):
        look.verify(out, quiet=True)
    verbs.trend(out)
    assert "note: report.html is out of date" in capsys.readouterr().err
    verbs.report(out, quiet=True)
    look.verify(out, quiet=True)
    verbs.trend(out, background=True)
    assert "note: report.html is out of date, because trend.parquet has changed" in capsys.readouterr().err
    with pytest.raises(VerificationFailed, match=r"report\.html"):
        look.verify(out, quiet=True)


def test_a_folder_of_an_earlier_version_learns_what_is_stale(out: Path, tmp_path: Path) -> None:
    manifest = read_manifest(out)
    assert manifest is not None
    (out / "manifest.json").write_text(replace(manifest, made_from={}).to_json())  # as earlier versions wrote it
    look.verify(out, quiet=True)
    verbs.count(out, admin=other_units(out, tmp_path / "new.parquet"), quiet=True)
    with pytest.raises(VerificationFailed, match=r"report\.html"):
        look.verify(out, quiet=True)


@pytest.mark.parametrize("name", ["counts.parquet", "trend.csv", "report.html", "accounts.json", "units.parquet"])
def test_no_later_verb_vouches_for_what_somebody_changed(out: Path, name: str) -> None:
    (out / name).write_bytes((out / name).read_bytes() + b" ")
    write_manifest(out, ["choices.json"])
    with pytest.raises(VerificationFailed, match=name):
        look.verify(out, quiet=True)


def test_tables_without_a_manifest_are_damage(out: Path) -> None:
    (out / "manifest.json").unlink()
    with pytest.raises(VerificationFailed, match=r"manifest\.json: is missing.*counts\.csv.*report\.html"):
        look.verify(out, quiet=True)


def test_a_count_of_records_from_before_a_refresh_is_refused(out: Path) -> None:
    key, record = next(iter(read_records(out).items()))
    write_record(out, replace(record, items_sha256="0" * 64))
    with pytest.raises(VerificationFailed, match=rf"{key[0]}, period {key[1]}.*other items"):
        verbs.count(out, quiet=True)


def test_an_interrupted_run_is_unfinished_and_a_finished_map_is_vouched_for(imagery: dict[str, Any]) -> None:
    out = imagery["out"]
    plan(Request(**imagery | {"years": "2020"}))
    look.verify(out)
    map_planned(out, workers=0, model=imagery["model"], quiet=True)
    look.verify(out)
    (out / "manifest.json").unlink()
    with pytest.raises(Incomplete, match="subpixmap map"):
        look.verify(out)
    run(Request(**imagery | {"years": "2020", "quiet": True}))
    (out / "mine.txt").write_text("a user's own file")
    look.verify(out)
    (out / "mine.txt").write_text("changed")
    plan(Request(**imagery))  # a year more
    look.verify(out)


# Rows 2 and 15: imagery that is not the one of the lock ---------------------------------------------------------------


def test_imagery_that_changed_between_plan_and_map_is_refused_by_name(imagery: dict[str, Any]) -> None:
    import rasterio

    plan(Request(**imagery))
    path = next(path for path in (imagery["out"].parent / "place").rglob("*B02*.tif") if "2021" in str(path))
    with rasterio.open(path) as file:
        values, profile = file.read(), file.profile
    with rasterio.open(path, "w", **profile) as file:
        file.write(values + 1000)
    with pytest.raises(Changed, match=rf"{path.name} has changed.*--refresh") as caught:
        map_planned(imagery["out"], workers=0, model=imagery["model"], quiet=True)
    assert caught.value.exit_code == 4
    assert {period for _, period in read_records(imagery["out"])} <= {"2020"}


def test_a_catalogue_that_moved_is_told_and_the_advice_helps(
    imagery: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plan(Request(**imagery))
    place = imagery["out"].parent / "place"
    new = str(place.rename(place.with_name("moved")) / "items.json")
    items = json.loads(Path(new).read_text().replace(str(place), str(place.with_name("moved"))))
    Path(new).write_text(json.dumps(items))
    moved = imagery | {"source": (new,)}
    with pytest.raises(InputError, match=r"does not exist.*was moved.*--source NEW --refresh 2020"):
        run(Request(**moved))
    said = capsys.readouterr().err
    assert f"note: --source {new} is not searched for 2020, 2021" in said
    assert "--refresh 2020 --refresh 2021" in said
    run(Request(**moved, refresh=("2020", "2021"), quiet=True))
    look.verify(imagery["out"], quiet=True)
    run(Request(**moved))
    assert "is not searched for" not in capsys.readouterr().err


def test_the_holder_may_verify_its_own_folder(out: Path) -> None:
    with run_lock(out):
        look.verify(out, quiet=True)
