"""A season that crosses the year: one period from one year to the next; folders of earlier versions keep theirs."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from subpixmap.errors import Refused
from subpixmap.mapping.plan import read_plan
from subpixmap.model.checkpoint import save_model
from subpixmap.scenes.items import read_lock
from subpixmap.verbs import settle
from subpixmap.verbs.count import count
from subpixmap.verbs.request import Request
from subpixmap.verbs.run import run
from tests.helpers import mapping_data, scenes_data

WHERE: dict[str, Any] = {"bands": mapping_data.BANDS, "size_px": 256, "baseline": "02.14"}
DAYS = ("20200105", "20201205", "20210110", "20210703", "20211112", "20220214", "20220715", "20221220")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run over a tile of 2.5 km that was seen in three winters and two summers."""
    folder = tmp_path_factory.mktemp("winters")
    model = mapping_data.tiny_model()
    save_model(folder / "tiny.safetensors", model.net, model.card)
    items = [scenes_data.make_item(folder, start=f"{day}T021051", **WHERE) for day in DAYS]
    west, south, *_ = items[0]["bbox"]
    return {
        "region": f"{west + 0.01},{south + 0.01},{west + 0.012},{south + 0.012}",
        "model": str(folder / "tiny.safetensors"),
        "source": (str(scenes_data.write_collection(folder / "items.json", items)),),
        "workers": 0,
        "block": 256,
        "quiet": True,
    }


def days(out: Path) -> dict[str, list[str]]:
    """Period -> days of its items."""
    found: dict[str, list[str]] = {}
    for item in sorted(read_lock(out / "items.parquet"), key=lambda item: item.datetime):
        found.setdefault(item.period, []).append(item.datetime[:10])
    return found


def spans(out: Path) -> list[Any]:
    """Label, first and last day of the periods of a run's table."""
    counts = pd.read_csv(out / "counts.csv").drop_duplicates("period")
    return list(counts[["period", "period_start", "period_end"]].to_numpy().tolist())


def test_winters_are_not_mixed_and_extend_to_what_is_mapped_at_once(options: dict[str, Any], tmp_path: Path) -> None:
    run(Request(**options, out=tmp_path / "grown", years="2020", months="11-2"))
    run(Request(**options, out=tmp_path / "grown", years="2020-2021", months="11-2"))
    run(Request(**options, out=tmp_path / "once", years="2020-2021", months="11-2"))
    assert days(tmp_path / "once") == {"2020": ["2020-12-05", "2021-01-10"], "2021": ["2021-11-12", "2022-02-14"]}
    once, grown = (pd.read_csv(tmp_path / name / "counts.csv") for name in ("once", "grown"))
    pd.testing.assert_frame_equal(once, grown)
    spans = once.drop_duplicates("period")[["period", "period_start", "period_end"]].to_numpy().tolist()
    assert spans == [[2020, "2020-11-01", "2021-02-28"], [2021, "2021-11-01", "2022-02-28"]]
    assert read_plan(tmp_path / "once").recipe.months == (11, 12, 1, 2)


def test_a_folder_of_calendar_years_keeps_them(options: dict[str, Any], tmp_path: Path) -> None:
    """What `--months 11-2` meant before: the recipe and periods of such folders are those of `--months 1,2,11,12`."""
    old = dict(options, out=tmp_path / "old")
    run(Request(**old, years="2020", months="1,2,11,12"))
    assert days(tmp_path / "old") == {"2020": ["2020-01-05", "2020-12-05"]}
    before = (tmp_path / "old" / "plan.json").read_bytes()
    with pytest.raises(Refused, match="--months 1,2,11,12") as caught:
        run(Request(**old, years="2020-2021", months="11-2"))
    assert caught.value.exit_code == 4
    assert (tmp_path / "old" / "plan.json").read_bytes() == before
    run(Request(**old, years="2020-2021", months="1,2,11,12"))
    assert days(tmp_path / "old")["2021"] == ["2021-01-10", "2021-11-12"]


def test_a_season_within_a_year_has_its_true_dates(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "summer"
    run(Request(**options, out=out, years="2021", months="6-8"))
    assert spans(out) == [[2021, "2021-06-01", "2021-08-31"]]
    assert days(out) == {"2021": ["2021-07-03"]}


def test_a_folder_of_whole_years_keeps_their_dates_when_it_is_counted_and_extended(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions said 1 January to 31 December of every season within a year."""
    out = tmp_path / "old"
    with monkeypatch.context() as earlier:
        earlier.setattr(settle, "last_whole", lambda there: True)
        run(Request(**options, out=out, years="2021", months="6-8"))
    counts = (out / "counts.csv").read_bytes()
    count(out, quiet=True)
    assert (out / "counts.csv").read_bytes() == counts
    before = (out / "plan.json").read_bytes()
    run(Request(**options, out=out, years="2021", months="6-8"))
    assert (out / "plan.json").read_bytes() == before
    run(Request(**options, out=out, years="2021-2022", months="6-8"))
    assert spans(out) == [[2021, "2021-01-01", "2021-12-31"], [2022, "2022-01-01", "2022-12-31"]]
    assert days(out) == {"2021": ["2021-07-03"], "2022": ["2022-07-15"]}
