"""A run folder as one object: what stands in it, read back as it was written."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from subpixmap import runpaths
from subpixmap.counts.count import count_run, write_counts
from subpixmap.errors import InputError
from subpixmap.mapping.ledger import read_records
from subpixmap.mapping.plan import items_by_period, write_plan
from subpixmap.runfolder import RunFolder, RunUnits, write_units
from subpixmap.scenes.items import items_sha256, read_lock
from tests.helpers.run_folders import make_plan, make_run


@pytest.fixture
def out(tmp_path: Path) -> Any:
    make_run(tmp_path / "run", make_plan())
    return tmp_path / "run"


def test_everything_in_the_folder_is_read_back(out: Any) -> None:
    counted = count_run(out)
    write_counts(out, counted)
    folder = RunFolder.open(str(out))
    assert folder.path == out
    assert folder.plan.run_id == make_plan().run_id
    assert folder.items == read_lock(out / runpaths.ITEMS)
    assert folder.done == read_records(out).keys()
    locked = items_by_period(folder.plan, folder.items)
    assert folder.items_sha256 == {label: items_sha256(items) for label, items in locked.items()}
    pd.testing.assert_frame_equal(folder.counts, pd.DataFrame(counted.all_rows).drop(columns="geometry"))
    pd.testing.assert_frame_equal(folder.series, counted.all_series)
    assert folder.trend is None


def test_what_was_read_is_not_read_again(out: Any) -> None:
    folder = RunFolder.open(out)
    items, units = folder.items, folder.units
    (out / runpaths.ITEMS).unlink()
    (out / runpaths.UNITS).unlink()
    assert folder.items is items
    assert folder.units is units


def test_units_are_read_back_with_their_boundary_source(out: Any) -> None:
    folder = RunFolder.open(out)
    write_units(out, RunUnits(folder.units.table, "mine.gpkg", None))
    units = RunFolder.open(out).units
    assert (units.boundary_source, units.boundary_version) == ("mine.gpkg", None)
    pd.testing.assert_frame_equal(units.table, folder.units.table)


def test_units_that_do_not_say_where_they_come_from_are_those_of_the_plan(out: Any) -> None:
    units = RunFolder.open(out).units
    assert (units.boundary_source, units.boundary_version) == ("a file", "v1")


def test_a_folder_without_a_plan_or_units_says_what_is_missing(out: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=runpaths.PLAN):
        RunFolder.open(tmp_path)
    write_plan(tmp_path / "bare", make_plan())
    with pytest.raises(InputError, match=runpaths.UNITS):
        RunFolder.open(tmp_path / "bare").units  # noqa: B018
