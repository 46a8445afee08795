from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from subpixmap.errors import InputError
from subpixmap.reference.patches import Patches, join, make_patches

BANDS = ("B02", "B03", "B08")
OBJECTS = ("coconut", "car")
HALO = 4


def some_patches(n: int = 3, *, size: int = 24, acquisitions: int = 2, seed: int = 0) -> Patches:
    """Places whose reflectance shows their objects: the count, blurred as it is, darkens and greens a pixel."""
    rng = np.random.default_rng(seed)
    side = size + 2 * HALO

    def place() -> SimpleNamespace:
        palms = rng.uniform(0, side, (rng.integers(40, 120), 2))
        cars = [rng.uniform(0, side / 2, (rng.integers(1, 60), 2)) for _ in range(acquisitions)]
        palms_in = np.histogram2d(palms[:, 1], palms[:, 0], bins=side, range=[[0, side]] * 2)[0]
        scenes = []
        for i in range(acquisitions):
            cars_in = np.histogram2d(cars[i][:, 1], cars[i][:, 0], bins=side, range=[[0, side]] * 2)[0]
            scenes.append([0.1 + 0.05 * cars_in, 0.1 + 0.0 * cars_in, 0.2 + 0.1 * palms_in])
        reflectance = np.array(scenes, np.float32) + rng.normal(0, 0.004, (acquisitions, 3, side, side))
        valid = np.ones((acquisitions, side, side), bool)
        valid[0, : side // 4] = False
        points = {"coconut": (palms,) * acquisitions, "car": tuple(cars)}
        return SimpleNamespace(reflectance=reflectance.astype(np.float32), valid=valid, points=points)

    return make_patches([place() for _ in range(n)], bands=BANDS, objects=OBJECTS, halo=HALO)


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
    with pytest.raises(InputError, match="no patches here"):
        Patches.load(tmp_path)


def test_take_join_and_bands() -> None:
    patches = some_patches(4)
    both = join([patches.take(slice(0, 1)), patches.take([1, 2, 3])])
    assert np.array_equal(both.count, patches.count)
    few = patches.select_bands(["B08", "B02"])
    assert np.array_equal(few.reflectance[:, :, 0], patches.reflectance[:, :, 2])
    with pytest.raises(InputError, match="lack bands B11"):
        patches.select_bands(["B11"])
    with pytest.raises(InputError, match="differ"):
        join([patches, few])
    with pytest.raises(InputError, match="no places"):
        make_patches([], bands=BANDS, objects=OBJECTS, halo=4)


def test_arrays_that_do_not_fit_are_refused() -> None:
    p = some_patches()
    with pytest.raises(InputError, match="valid has shape"):
        Patches(p.reflectance, p.valid[:, :1], p.count, p.labelled, p.bands, p.objects)
