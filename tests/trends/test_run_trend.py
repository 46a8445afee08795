"""A run folder -> its trends."""

from pathlib import Path

import pytest

from subpixmap.counts.count import count_run, write_counts
from subpixmap.errors import InputError
from subpixmap.runfolder import RunFolder
from subpixmap.trends.run_trend import trend_of_run
from tests.helpers.run_folders import make_plan, make_run


def test_trend_follows_the_comparable_series(tmp_path: Path) -> None:
    out = tmp_path / "run"
    make_run(out, make_plan())
    write_counts(out, count_run(out))
    followed = trend_of_run(RunFolder.open(out))
    table = followed.trend
    palms = table[table["object"] == "coconut"]
    assert palms["basis"].unique().tolist() == ["common_pixels"]
    assert palms["change_se"].gt(0).all()
    assert table[table["object"] == "car"]["note"].str.contains("has no trend").all()
    with pytest.raises(InputError):
        trend_of_run(RunFolder.open(out), unchanged=["01"], background=True)
