"""The pixels have the last word on the offset."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scenes_data

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes.darkness import check_darkness, darkness
from subpixmap.scenes.lock import lock_items

PERIODS = make_periods(2021)


def locked(folder, *, shift, scl=4):
    """An item whose vegetation has red reflectance 0.02 to 0.06, stored with `shift` added."""
    raw = scenes_data.make_item(folder, size_px=200, bands={"B04": 10})
    rng = np.random.default_rng(0)
    red, classes = raw["assets"]["red"], raw["assets"]["scl"]
    values = rng.integers(200 + shift, 600 + shift, (200, 200)).astype(np.uint16)
    scenes_data.write_raster(Path(red["href"]), values, tuple(red["proj:transform"]))
    values = np.full((100, 100), scl, np.uint8)
    scenes_data.write_raster(Path(classes["href"]), values, tuple(classes["proj:transform"]))
    return lock_items([raw], PERIODS, ["B04"])[0]


def test_an_offset_that_is_there_was_taken_away_or_is_missing(tmp_path):
    as_delivered = locked(tmp_path / "a", shift=1000)
    assert darkness(as_delivered).verdict == "agrees"
    assert darkness(dataclasses.replace(as_delivered, offset_dn=0)).verdict == "contradicts"
    harmonised = locked(tmp_path / "b", shift=0)
    assert darkness(harmonised).reflectance < -0.05
    with pytest.raises(InputError, match=f"{harmonised.id}: dark ground has reflectance -0"):
        check_darkness([as_delivered, harmonised])
    assert [one.verdict for one in check_darkness([as_delivered])] == ["agrees"]


def test_cloud_cannot_say(tmp_path):
    assert darkness(locked(tmp_path, shift=0, scl=9)).verdict == "cannot say"


@pytest.mark.realdata
def test_real_scenes_agree_with_the_catalogue_and_contradict_the_opposite(real_data):
    import shapely

    from subpixmap.scenes.source import find_items

    periods = make_periods(2023)
    path = real_data / "sentinel2_120m" / "items_120m_fixed.json"
    found = find_items(str(path), shapely.box(-180, -90, 180, 90), periods)
    for rule, verdict in (("auto", "agrees"), ("subtract", "contradicts")):
        items = lock_items(found, periods, ["B02", "B04"], offset_rule=rule)
        assert {darkness(item).verdict for item in items} == {verdict}
