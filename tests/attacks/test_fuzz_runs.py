"""Run folders at random: a file that is cut, flipped or exchanged is found and named in one line, by every verb."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subpixmap import runpaths
from tests.helpers.fuzz import FEW, LONG, command, damaged_bytes, damaged_json
from tests.helpers.run_folders import make_plan, make_run

VERBS = ("status", "verify", "count", "trend", "report", "export", "estimate", "sample design", "plan")
TABLES = (runpaths.COUNTS_PARQUET, runpaths.SERIES_PARQUET, runpaths.TREND_PARQUET, runpaths.ACCOUNTS, runpaths.UNITS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with tables and a page."""
    out = tmp_path_factory.mktemp("whole") / "out"
    make_run(out, make_plan())
    for verb in ("count", "trend", "report"):
        assert command(verb, out)[0] == 0
    return out


def vouched(whole: Path, name: Path) -> bool:
    """Whether something in the folder holds the hash of a file."""
    files = json.loads((whole / runpaths.MANIFEST).read_text())["files"]
    return str(name) in files or name.parts[0] in (runpaths.LEDGER, runpaths.MANIFEST)


def attack(whole: Path, folder: Path, data: Any) -> None:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file() and path.name != "run.log")
    few = [name for name in files if len(name.parts) == 1] + files[:: max(len(files) // 20, 1)]
    name = data.draw(st.sampled_from(few))
    path = out / name
    before = path.read_bytes()
    if path.suffix == ".json" and data.draw(st.booleans()):
        path.write_text(json.dumps(data.draw(damaged_json(json.loads(before)))))
    elif data.draw(st.integers(0, 9)):
        path.write_bytes(data.draw(damaged_bytes(before, (b"", *((out / one).read_bytes() for one in TABLES)))))
    else:
        path.unlink()
        if data.draw(st.booleans()):
            path.mkdir()
    changed = not path.is_file() or path.read_bytes() != before
    verb = data.draw(st.sampled_from(VERBS))
    arguments = {
        "export": ["--format", data.draw(st.sampled_from(["csv", "geojson", "stac", "cog", "xlsx"]))],
        "sample design": ["--n", 4],
        "plan": [],
    }
    if verb == "plan":
        command("status", out)
        command("trend", out)
    else:
        command(*verb.split(), out, *arguments.get(verb, []))
    code = command("verify", out)[0]
    if changed and verb in ("status", "verify", "export"):  # the others may have made the file again
        assert code or not vouched(whole, name), f"{name} is changed, and verify says nothing"


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@FEW
@given(data=st.data())
def test_run_folders(whole: Path, tmp_path: Path, data: Any) -> None:
    attack(whole, tmp_path, data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@LONG
@given(data=st.data())
def test_run_folders_for_long(whole: Path, tmp_path: Path, data: Any) -> None:
    attack(whole, tmp_path, data)
