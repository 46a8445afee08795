from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from subpixmap.errors import InputError
from subpixmap.reference.patches import Patches, join, make_patches
from tests.helpers.patches import BANDS, OBJECTS, some_patches


def test_counts_lie_under_their_pixels() -> None:
    points = {"coconut": (np.array([[10.5, 6.5], [3.9, 20.5], [0.5, 0.5]]),)}
    place = SimpleNamespace(
        reflectance=np.full((1, 3, 32, 28), 0.2, np.float32), valid=np.ones((1, 32, 28), bool), points=points
    )
    patches = make_patches([place], bands=BANDS, objects=OBJECTS, halo=4)
    count = patches.count[0, 0]
    assert count.shape == (2, 24, 20)
    assert np.unravel_index(count[0].argmax(), count[0].shape) == (2, 6)
    assert 1 < count[0].sum() < 1.6  # one whole, the part of another that blurs in from the context, none of the third
    assert count[0, 16, 0] > 0.2
    assert not count[1].any()


def test_acquisitions_have_their_own_cars() -> None:
    patches = some_patches()
    assert np.array_equal(patches.count[:, 0, 0], patches.count[:, 1, 0])
    assert not np.array_equal(patches.count[:, 0, 1], patches.count[:, 1, 1])
    assert patches.count[:, :, 0].sum() > 100


def test_a_pixel_without_data_is_not_valid() -> None:
    place = SimpleNamespace(
        reflectance=np.full((1, 3, 20, 20), 0.2, np.float32), valid=np.ones((1, 20, 20), bool), points={}
    )
    place.reflectance[0, 1, 9, 9] = np.nan
    patches = make_patches([place], bands=BANDS, objects=OBJECTS, halo=4)
    assert np.argwhere(~patches.valid[0, 0]).tolist() == [[5, 5]]


def test_save_and_load(tmp_path: Path) -> None:
    patches = some_patches()
    patches.save(tmp_path / "p")
    again = Patches.load(tmp_path / "p")
    for name in ("reflectance", "valid", "count", "labelled"):
        assert np.array_equal(getattr(again, name), getattr(patches, name), equal_nan=name == "reflectance")
    assert (again.bands, again.objects, again.halo, again.size, len(again)) == (BANDS, OBJECTS, 4, 24, 3)
    with pytest.raises(InputError, match=r"patches\.json"):
        Patches.load(tmp_path)


def test_take_join_and_bands() -> None:
    patches = some_patches(4)
    both = join([patches.take(slice(0, 1)), patches.take([1, 2, 3])])
    assert np.array_equal(both.count, patches.count)
    few = patches.select_bands(["B08", "B02"])
    assert np.array_equal(few.reflectance[:, :, 0], patches.reflectance[:, :, 2])
    with pytest.raises(InputError, match="B11"):
        patches.select_bands(["B11"])
    with pytest.raises(InputError, match="differ"):
        join([patches, few])
    with pytest.raises(InputError):
        make_patches([], bands=BANDS, objects=OBJECTS, halo=4)


def test_arrays_that_do_not_fit_are_refused() -> None:
    p = some_patches()
    with pytest.raises(InputError, match="valid"):
        Patches(p.reflectance, p.valid[:, :1], p.count, p.labelled, p.bands, p.objects)
