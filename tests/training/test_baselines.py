import dataclasses

import numpy as np
import pytest

from subpixmap import progress
from subpixmap.errors import InputError
from subpixmap.reference.patches import Patches
from subpixmap.training import baselines
from subpixmap.training.baselines import Pixelwise, features, fit_baseline
from subpixmap.training.config import BASELINES, TrainConfig
from tests.helpers.patches import BANDS, HALO, OBJECTS, some_patches

QUICK = TrainConfig(steps=4, batch=2, crop=40, warmup=1, threads=1)


def r2(predicted: np.ndarray, reference: np.ndarray) -> float:
    return float(1 - ((predicted - reference) ** 2).sum() / ((reference - reference.mean()) ** 2).sum())


def scenes(patches: Patches) -> np.ndarray:
    return patches.reflectance[:, 1].astype(np.float32)


@pytest.mark.parametrize("name", ["ridge", "random_forest"])
def test_pixelwise_baselines_learn_what_the_bands_show(name: str) -> None:
    training, unseen = some_patches(10, size=32), some_patches(5, size=32, seed=1)
    fitted = fit_baseline(name, training, samples=4000, trees=20)
    count = fitted.predict(scenes(unseen))
    reference = unseen.count[:, 1]
    assert count.shape == reference.shape
    for i in range(len(OBJECTS)):
        blocks = [a[:, i].reshape(5, 4, 8, 4, 8).sum((2, 4)) for a in (count, reference)]
        assert r2(*blocks) > 0.5
    again = fit_baseline(name, training, samples=4000, trees=20, workers=2)
    assert np.array_equal(again.predict(scenes(unseen)), count)


def test_a_forest_that_grows_in_parts_is_the_same_and_tells_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = some_patches(3, size=24)
    monkeypatch.setattr(progress, "_WORTH_A_LINE_S", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with progress.shown():
        grown = fit_baseline("random_forest", training, samples=500, trees=23)
    assert "random_forest: 3/3 parts" in capsys.readouterr().err
    assert isinstance(grown, Pixelwise)
    monkeypatch.setattr(baselines, "_TREES_AT_ONCE", 100)
    at_once = fit_baseline("random_forest", training, samples=500, trees=23)
    assert isinstance(at_once, Pixelwise)
    assert len(grown.estimator.estimators_) == len(at_once.estimator.estimators_) == 23
    assert np.array_equal(grown.predict(scenes(training)), at_once.predict(scenes(training)))


def test_the_strided_network_is_trained_alike() -> None:
    training, unseen = some_patches(4, size=24), some_patches(3, size=24, seed=1)
    fitted, again = (fit_baseline("strided", training, config=QUICK) for _ in range(2))
    count = fitted.predict(scenes(unseen))
    assert count.shape == unseen.count[:, 1].shape
    assert np.isfinite(count).all()
    assert np.array_equal(again.predict(scenes(unseen)), count)
    assert np.ptp(count) > 0


def test_the_mean_is_that_of_labelled_and_valid_pixels() -> None:
    training = some_patches(4)
    labelled = training.labelled.copy()
    labelled[:, :, :7] = False
    wild = np.where((training.valid & labelled[:, None])[:, :, None], training.count, 1e6).astype(np.float32)
    fitted = fit_baseline("mean", dataclasses.replace(training, labelled=labelled, count=wild))
    known = training.valid & labelled[:, None]
    got = fitted.predict(scenes(training))
    assert got.shape == training.count[:, 0].shape
    for i in range(len(OBJECTS)):
        assert got[:, i] == pytest.approx(training.count[:, :, i][known].mean(), rel=1e-5)


def test_ridge_ignores_what_is_not_labelled_and_fills_what_is_missing() -> None:
    training = some_patches(6, size=32)
    labelled = training.labelled.copy()
    labelled[:, 20:] = False
    wild = np.where(labelled[:, None, None], training.count, 1e6).astype(np.float32)
    fitted = fit_baseline("ridge", dataclasses.replace(training, labelled=labelled, count=wild), samples=5000)
    holed = scenes(training)
    holed[:, :, 10:14, 10:20] = np.nan
    got = fitted.predict(holed)
    assert np.isfinite(got).all()
    assert got.max() < 20


def test_features_are_of_the_pixel_and_its_neighbourhood() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (1, 2, 20, 22)).astype(np.float32)
    f = features(x, np.zeros(2, np.float32), 5)
    assert f.shape == (1, 10, 12, 9 * 2 + 2 * 2 * 2)
    row, col = 3, 7
    assert np.array_equal(f[0, row, col, 8:10], x[0, :, 5 + row, 5 + col])  # the middle of nine
    assert np.array_equal(f[0, row, col, :2], x[0, :, 4 + row, 4 + col])
    window = x[0, :, 5 + row - 4 : 5 + row + 5, 5 + col - 4 : 5 + col + 5]
    assert f[0, row, col, 22:24] == pytest.approx(window.mean((1, 2)), abs=1e-5)
    assert f[0, row, col, 24:26] == pytest.approx(window.std((1, 2)), abs=1e-4)
    # Context beyond the windows is not looked at, context within them is.
    assert np.array_equal(features(x[:, :, 1:-1, 1:-1], np.zeros(2, np.float32), 4), f)
    assert not np.array_equal(features(x[:, :, 2:-2, 2:-2], np.zeros(2, np.float32), 3), f)


def test_wrong_names_and_empty_references_are_refused() -> None:
    training = some_patches(2)
    with pytest.raises(InputError, match="magic"):
        fit_baseline("magic", training)
    empty = dataclasses.replace(training, labelled=np.zeros_like(training.labelled), names=("north", "south"))
    for name in ("ridge", "random_forest"):
        with pytest.raises(
            InputError, match=r"training patches \(north, south\) have no .* pixel: label more land there"
        ):
            fit_baseline(name, empty)
    assert set(BASELINES) == {"mean", "ridge", "random_forest", "strided"}
    assert training.bands == BANDS
    assert training.halo == HALO
