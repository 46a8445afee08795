"""Offsets by evidence, reflectance without wrap, masks that any window agrees on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subpixmap.errors import InputError
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.scenes.radiometry import decide_offset, to_reflectance
from tests.helpers import scenes_data


def test_reflectance_does_not_wrap_and_keeps_dark_pixels() -> None:
    dn = np.array([[0, 1, 999, 1000, 1001, 65535]], np.uint16)
    for offset in (0, -1000):
        expected = (dn.astype(np.float64) + offset) / 10000
        expected[dn == 0] = np.nan
        got = to_reflectance(dn, offset)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("resolution", "distance"), [(20.0, 100.0), (20.0, 20.0), (10.0, 45.0), (120.0, 100.0), (20.0, 0.0)]
)
def test_mask_is_what_distances_between_centres_say(resolution: float, distance: float) -> None:
    scl = np.random.default_rng(1).choice(
        np.array([4, 6, 0, 3, 9, 10, 12], np.uint8), (40, 50), p=[0.5, 0.3, 0.05, 0.01, 0.01, 0.03, 0.1]
    )
    rule = MaskRule(dilate_m=distance)
    rows, cols = np.indices(scl.shape)
    expected = ~np.isin(scl, (*rule.drop, 12))  # nobody has said what class 12 is
    for row, col in np.argwhere(np.isin(scl, rule.dilate)):
        expected &= np.hypot(rows - row, cols - col) * resolution > distance
    np.testing.assert_array_equal(scl_valid(scl, resolution, rule), expected)
    assert expected.any()


def test_a_margin_makes_any_window_agree_and_a_smaller_one_does_not() -> None:
    rule = MaskRule()
    scl = np.full((60, 60), 4, np.uint8)
    scl[30, 30] = 9
    whole = scl_valid(scl, 20.0, rule)
    for margin, same in ((rule.margin(20.0), True), (rule.margin(20.0) - 1, False)):
        window = scl_valid(scl[:, 35 - margin :], 20.0, rule)[:, margin:]
        assert (window == whole[:, 35:]).all() == same


def item(tmp_path: Path, **properties: Any) -> Any:
    return scenes_data.make_item(tmp_path, size_px=20, bands={"B02": 10}, **properties)


def test_offset_by_baseline_and_flag(tmp_path: Path) -> None:
    flag = {"earthsearch:boa_offset_applied": True}
    assert decide_offset(item(tmp_path)).dn == -1000
    assert decide_offset(item(tmp_path, baseline="03.01")).dn == 0
    assert decide_offset(item(tmp_path, **flag)).dn == 0  # although raster:bands says -0.1
    assert decide_offset(item(tmp_path, **{"earthsearch:boa_offset_applied": False})).dn == -1000
    # The date decides nothing: an old scene, newly processed, has the offset.
    assert decide_offset(item(tmp_path, start="20180105T021051", baseline="05.00")).dn == -1000


def test_contradictions_are_refused_by_name_unless_told(tmp_path: Path) -> None:
    wrong = item(tmp_path, baseline="02.14", **{"earthsearch:boa_offset_applied": True})
    with pytest.raises(InputError, match=wrong["id"]):
        decide_offset(wrong)
    assert decide_offset(wrong, rule="none").dn == 0
    assert decide_offset(wrong, rule="subtract").dn == -1000
    zero = item(tmp_path)
    zero["assets"]["blue"]["raster:bands"][0]["offset"] = -0.7
    with pytest.raises(InputError, match=r"-0\.7"):
        decide_offset(zero)


@pytest.mark.parametrize("bad", [{"dilate_m": -1}, {"drop": (300,)}])
def test_absurd_masks_are_refused(bad: Any) -> None:
    with pytest.raises(InputError):
        MaskRule(**bad)


CARD_MASK = {"drop": [0, 3, 8, 9], "dilate": [3, 9], "dilate_m": 40.0}
OF_CARS = CARD_MASK | {"objects": {"car": {"drop": [0, 3], "dilate": [3]}}}


def test_a_card_may_mask_one_object_in_another_way() -> None:
    assert MaskRule.stated({}) == MaskRule()
    shared = MaskRule((0, 3, 8, 9), (3, 9), 40.0)
    for objects in ((), ("coconut",), ("coconut", "olive")):
        assert MaskRule.stated(OF_CARS, objects) == MaskRule.stated(CARD_MASK, objects) == shared
    cars = MaskRule.stated(OF_CARS, ("car",))
    assert cars == MaskRule((0, 3), (3,), 40.0)
    assert MaskRule.stated(CARD_MASK | {"objects": {"car": CARD_MASK}}, ("car", "olive")) == shared
    lot = np.full((9, 9), 5, np.uint8)
    lot[3:6, 3:6] = 9  # packed cars
    assert scl_valid(lot, 20.0, cars).all()
    assert scl_valid(lot, 20.0, shared).sum() < 49


def test_objects_with_several_masks_are_not_mixed_and_unknown_fields_are_named() -> None:
    with pytest.raises(InputError, match=r"coconut, olive and car.*--object"):
        MaskRule.stated(OF_CARS, ("coconut", "car", "olive"))
    for mask in ({"drops": [9]}, {"objects": {"car": {"drops": [9]}}}):
        with pytest.raises(InputError, match="drops"):
            MaskRule.stated(mask, ("car",))
