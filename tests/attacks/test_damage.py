"""What was changed after it was made, and still parses, is named by every verb that makes something from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from subpixmap import runpaths
from subpixmap.errors import VerificationFailed
from subpixmap.mapping.manifest import write_manifest
from subpixmap.mapping.owner import run_lock
from subpixmap.mapping.store import open_map
from tests.helpers.run_folders import make_plan, make_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with counts, trends and a page, and stand-ins for the files of a sample."""
    from subpixmap.verbs.count import count, report, trend

    out = tmp_path_factory.mktemp("whole") / "out"
    make_run(out, make_plan())
    count(out, quiet=True)
    trend(out, quiet=True)
    report(out, quiet=True)
    (out / runpaths.SAMPLE).mkdir()
    for name in runpaths.SAMPLED:
        (out / name).write_bytes(b"{}")
    with run_lock(out):
        write_manifest(out)
    return out


def as_table(change: Callable[[pd.DataFrame], Any]) -> Callable[[Path], None]:
    """Change a Parquet file and keep it whole."""
    import geopandas as gpd

    def act(path: Path) -> None:
        table = gpd.read_parquet(path) if path.name == runpaths.UNITS else pd.read_parquet(path)
        change(table)
        table.to_parquet(path, index=False)

    return act


def other_json(path: Path) -> None:
    """The same JSON with one null more."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"simulated": None}))


def blank(name: str) -> Callable[[Path], None]:
    return as_table(lambda table: table.__setitem__(name, table[name].where(table[name].isna())))


USED = {
    (runpaths.COUNTS_PARQUET, blank("map_total")): ("trend", "estimate", "report", "export --format csv"),
    (runpaths.SERIES_PARQUET, blank("noise_se")): ("trend", "report"),
    (runpaths.TREND_PARQUET, blank("because")): ("report", "export --format geojson"),
    (runpaths.UNITS, blank("unit_name")): ("count", "report", "export --format gpkg"),
    (runpaths.ACCOUNTS, other_json): ("report",),
    (runpaths.SAMPLE_DESIGN, other_json): ("report", "estimate"),
    (runpaths.SAMPLE_IMPORT, other_json): ("report", "estimate"),
    (f"{runpaths.MAP}/32650/zarr.json", other_json): ("report", "export --format cog"),
}


@pytest.mark.parametrize(("name", "verb"), [(name, verb) for (name, _), verbs in USED.items() for verb in verbs])
def test_a_changed_file_is_named(
    whole: Path, tmp_path: Path, name: str, verb: str, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (change,) = (act for (of, act) in USED if of == name)
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    change(out / name)
    command, *options = verb.split()
    assert subpixmap(command, out, *options) == 5
    told = capsys.readouterr().err
    assert told.startswith(f"subpixmap: {out / name} is damaged"), told
    assert told.count("\n") == 1


def test_counting_heals_what_it_makes_and_people_may_write_into_sheets(
    whole: Path, tmp_path: Path, subpixmap: Callable[..., int]
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    (out / runpaths.SAMPLE_CSV).write_bytes(b"cell_id\n")
    with run_lock(out):
        write_manifest(out)
    (out / runpaths.SAMPLE_CSV).write_bytes(b"cell_id\n1\n")
    other_json(out / runpaths.ACCOUNTS)
    assert subpixmap("count", out) == 0
    assert subpixmap("report", out) == 0


@pytest.mark.parametrize("where", ["", "32650/"])
def test_a_map_with_damaged_metadata_does_not_open(whole: Path, tmp_path: Path, where: str) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    path = out / runpaths.MAP / where / "zarr.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(VerificationFailed, match="damaged metadata"):
        open_map(out)
