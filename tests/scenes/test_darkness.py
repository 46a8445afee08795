"""The pixels have the last word on the offset."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes.darkness import check_darkness, darkness
from subpixmap.scenes.items import items_sha256, lock_items, read_lock, read_notes, write_lock
from subpixmap.scenes.reader import ReadFailed
from tests.helpers import scenes_data

PERIODS = make_periods(2021)


def locked(folder: Any, *, shift: Any, scl: int = 4) -> Any:
    """An item whose vegetation has red reflectance 0.02 to 0.06, stored with `shift` added."""
    raw = scenes_data.make_item(folder, size_px=200, bands={"B04": 10})
    rng = np.random.default_rng(0)
    red, classes = raw["assets"]["red"], raw["assets"]["scl"]
    values = rng.integers(200 + shift, 600 + shift, (200, 200)).astype(np.uint16)
    scenes_data.write_raster(Path(red["href"]), values, tuple(red["proj:transform"]))
    values = np.full((100, 100), scl, np.uint8)
    scenes_data.write_raster(Path(classes["href"]), values, tuple(classes["proj:transform"]))
    return lock_items([raw], PERIODS, ["B04"])[0]


def test_an_offset_that_is_there_was_taken_away_or_is_missing(tmp_path: Path) -> None:
    as_delivered = locked(tmp_path / "a", shift=1000)
    assert darkness(as_delivered).dark_check == "agrees"
    assert darkness(dataclasses.replace(as_delivered, offset_dn=0)).dark_check == "contradicts"
    harmonised = dataclasses.replace(locked(tmp_path / "b", shift=0), id="harmonised")
    assert (darkness(harmonised).dark_reflectance or 0) < -0.05
    with pytest.raises(InputError, match=r"harmonised.*-0"):
        check_darkness([as_delivered, harmonised])


def test_what_was_seen_is_in_the_lock_and_what_cannot_be_taken_is_told(tmp_path: Path) -> None:
    good = locked(tmp_path / "a", shift=1000)
    bad = dataclasses.replace(locked(tmp_path / "b", shift=0), id="bad")
    gone = dataclasses.replace(locked(tmp_path / "c", shift=1000), id="gone")
    Path(gone.assets["B04"].href).unlink()
    moved = {"SCL": dataclasses.replace(good.assets["SCL"], shape=(99, 100))}
    other = dataclasses.replace(good, id="other", assets=good.assets | moved)
    with pytest.raises(ReadFailed, match=r"B04\.tif"):
        check_darkness([good, gone])
    refused: dict[str, str] = {}
    (kept,) = check_darkness([good, bad, gone, other], refused=refused)
    assert refused.keys() == {"bad", "gone", "other"}
    assert "(99, 100)" in refused["other"]
    assert (kept.id, kept.dark_check) == (good.id, "agrees")
    assert 0.02 <= (kept.dark_reflectance or 0) <= 0.03
    write_lock(tmp_path / "items.parquet", [kept], {"refused": refused})
    assert read_lock(tmp_path / "items.parquet") == [kept]
    assert read_notes(tmp_path / "items.parquet") == {"refused": refused}
    assert items_sha256([kept]) == items_sha256([good])  # it says what is read


def test_cloud_cannot_say(tmp_path: Path) -> None:
    assert darkness(locked(tmp_path, shift=0, scl=9)).dark_check == "cannot say"


@pytest.mark.realdata
def test_real_scenes_agree_with_the_catalogue_and_contradict_the_opposite(real_data: Path) -> None:
    import shapely

    from subpixmap.scenes.source import find_items

    periods = make_periods(2023)
    path = real_data / "sentinel2_120m" / "items_120m_fixed.json"
    found = find_items(str(path), shapely.box(-180, -90, 180, 90), periods)
    for rule, verdict in (("auto", "agrees"), ("subtract", "contradicts")):
        items = lock_items(found, periods, ["B02", "B04"], offset_rule=rule)  # type: ignore[arg-type]
        assert {darkness(item).dark_check for item in items} == {verdict}
