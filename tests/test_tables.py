"""Tables written and read back: equal values in every file, equal bytes every time."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subpixmap.errors import InputError
from subpixmap.tables import (
    COUNTS,
    ESTIMATES,
    SERIES,
    read_table,
    rounded,
    to_csv,
    typed,
    types_of,
    write_csv,
    write_parquet,
    write_table,
)

NAMES = [
    "plain",
    "a,b",
    'say "so"',
    "Ñuñoa",
    "two\nlines",
    "=1+1",
    "-x",
    "'=quoted",
    "''@twice",
    " 'mid=",
    "@at",
    "+63",
    "\tt",
]


def make_table() -> Any:
    n = len(NAMES)
    rng = np.random.default_rng(2)
    data: dict[str, Any] = {name: [None] * n for name in COUNTS}
    data["unit_id"] = [f"{i:04d}" for i in range(n)]
    data["unit_name"] = NAMES
    data["map_total"] = rng.normal(size=n) * 10.0 ** rng.integers(-12, 12, n)
    data["map_total"][3] = np.nan
    data["observed_frac"] = rng.random(n)
    data["n_ref"] = [3, *[None] * (n - 1)]
    data["suppressed"] = [True, False, *[None] * (n - 2)]
    return pd.DataFrame(data).astype(types_of(COUNTS))


def test_both_files_read_back_equal(tmp_path: Path) -> None:
    table = make_table()
    paths = write_table(table.assign(geometry="left out"), tmp_path / "counts.parquet", COUNTS)
    assert [path.name for path in paths] == ["counts.csv", "counts.parquet"]
    for path in paths:
        expected = rounded(table, COUNTS) if path.suffix == ".csv" else table
        pd.testing.assert_frame_equal(read_table(path, COUNTS), expected, check_exact=True)
    assert list(pd.read_parquet(paths[1]).columns) == list(pd.read_csv(paths[0], dtype=str).columns) == list(COUNTS)


def test_same_table_same_bytes_and_nothing_else_left(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_table(make_table(), tmp_path / "counts.parquet", COUNTS)]
    again = [path.read_bytes() for path in write_table(make_table(), tmp_path / "counts.parquet", COUNTS)]
    assert first == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.csv", "counts.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv, _ = write_table(make_table(), tmp_path / "counts.parquet", COUNTS)
    before = csv.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_table(make_table().iloc[:1], tmp_path / "counts.parquet", COUNTS)
    assert csv.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_csv_is_safe_to_open_in_a_spreadsheet() -> None:
    text = to_csv(make_table()[["unit_id", "unit_name", "map_total"]]).decode()
    assert text.startswith('"unit_id","unit_name","map_total"\n')
    assert '"0000","plain",' in text  # an id keeps its leading zeros, and is quoted as text
    assert '"\'=1+1"' in text
    assert '"=1+1"' not in text
    assert text.count("\n") == len(NAMES) + 2  # one name holds a line break; no carriage returns
    assert "\r" not in text


def test_unknown_is_blank_in_the_csv() -> None:
    line = to_csv(make_table().iloc[3:4]).decode().splitlines()[1]
    assert line.startswith('"0003","Ñuñoa",,')
    assert "nan" not in line.lower()


def test_a_missing_or_foreign_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"counts\.csv"):
        read_table(tmp_path / "counts.csv", COUNTS)
    (tmp_path / "counts.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"counts\.csv.*unit_id"):
        read_table(tmp_path / "counts.csv", COUNTS)


def test_a_column_of_an_older_version_is_read_under_its_present_name(tmp_path: Path) -> None:
    table = pd.DataFrame({name: [None] for name in SERIES}).assign(unit_id="a", n_noise_acquisitions=3)
    path = write_parquet(table, tmp_path / "series.parquet", SERIES)
    pd.read_parquet(path).rename(columns={"n_noise_acquisitions": "n_acquisitions"}).to_parquet(path)
    assert read_table(path, SERIES)["n_noise_acquisitions"].tolist() == [3]


def test_a_column_that_came_later_is_blank_in_an_older_file(tmp_path: Path) -> None:
    table = pd.DataFrame([dict.fromkeys(ESTIMATES)]).assign(unit_id="a", n_ref=5, n_zero=1)
    old = {name: column for name, column in ESTIMATES.items() if name != "unseen"}
    write_csv(typed(table, old), tmp_path / "old.csv", old)
    assert read_table(tmp_path / "old.csv", ESTIMATES)["unseen"].isna().all()
    cut = {name: column for name, column in ESTIMATES.items() if name != "note"}
    write_csv(typed(table, cut), tmp_path / "cut.csv", cut)
    with pytest.raises(InputError, match="lacks the columns note"):
        read_table(tmp_path / "cut.csv", ESTIMATES)
