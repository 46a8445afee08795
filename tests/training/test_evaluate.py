import dataclasses

import numpy as np
import pytest
import torch

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model
from subpixmap.training.calibrate import fit_calibration, fit_trimmed
from subpixmap.training.evaluate import (
    block_means,
    brief,
    density_errors,
    errors_by_object,
    evaluate,
    mean_over_dates,
    predict_patches,
    presence_errors,
    table,
)
from tests.helpers.cards import lively, small_card
from tests.helpers.patches import BANDS, HALO, OBJECTS, some_patches


def a_model() -> Model:
    torch.manual_seed(0)
    card = small_card(
        bands=BANDS,
        objects=dict.fromkeys(OBJECTS, ""),
        input_mean=(0.1,) * 3,
        input_std=(0.1,) * 3,
        input_low=(0.0,) * 3,
        input_high=(1.0,) * 3,
        calibration={},
    )
    return Model.of(lively(card.build_net()), card)


def test_block_means_ignore_what_is_not_observed() -> None:
    values = np.arange(48.0).reshape(1, 6, 8)
    values[0, 0, 0] = np.nan
    mean, number = block_means(values, 4)
    assert mean.shape == (1, 1, 2)
    assert number.tolist() == [[[15, 16]]]
    assert mean[0, 0, 0] == pytest.approx(np.nanmean(values[0, :4, :4]))
    values[0, :3, :4] = np.nan
    assert np.isnan(block_means(values, 4)[0][0, 0, 0])
    assert np.isfinite(block_means(values, 4, least=0.2)[0][0, 0, 0])


def test_errors_of_known_numbers() -> None:
    reference = np.array([0.0, 1.0, 2.0, 3.0, np.nan])
    errors = density_errors(2 * reference + 0.5, reference, per_ha=1)
    assert errors["n"] == 4
    assert errors["bias"] == errors["mae"] == pytest.approx(2.0)
    assert errors["rmse"] == pytest.approx(np.sqrt(np.mean([0.25, 2.25, 6.25, 12.25])))
    assert errors["slope"] == pytest.approx(0.5)
    assert errors["intercept"] == pytest.approx(-0.25)
    assert errors["r2"] == pytest.approx(1 - 21 / 5)
    perfect = density_errors(reference, reference)
    assert (perfect["mae"], perfect["r2"]) == (0, 1)
    assert perfect["slope"] == pytest.approx(1)
    assert density_errors(reference[4:], reference[4:]) == {"n": 0}


def test_presence() -> None:
    a, b = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert presence_errors(a, b) == {"iou": 0.5, "precision": 2 / 3, "recall": 2 / 3}
    assert np.isnan(presence_errors(a & ~a, b & ~b)["iou"])


def test_a_mean_over_dates_uses_valid_pixels_only() -> None:
    model, patches = a_model(), some_patches(2)
    count, presence, reference = predict_patches(model, patches)
    both = [
        predict_patches(model, type(patches)(**{**vars(patches), "valid": patches.valid & keep}))[0]
        for keep in (np.array([1, 0], bool)[:, None, None], np.array([0, 1], bool)[:, None, None])
    ]
    assert np.allclose(count, np.nanmean(both, axis=0), atol=1e-6)
    assert np.isfinite(count).all()
    first_only = ~patches.valid[:, 0]
    assert first_only.any()
    cars = reference[:, 1]
    assert np.allclose(cars[first_only], patches.count[:, 1, 1][first_only])
    assert np.isnan(both[0]).any()
    assert presence.shape == count.shape == reference.shape


def test_many_acquisitions_lose_their_extremes_as_in_a_map() -> None:
    patches = some_patches(2, acquisitions=7)
    rng = np.random.default_rng(0)
    of_date = rng.lognormal(size=(2, 7, 2, 24, 24)).astype(np.float32)
    valid = rng.random(patches.valid.shape) < 0.8
    patches = dataclasses.replace(patches, valid=valid)
    upcoming = iter(of_date.reshape(14, 2, 24, 24))
    fits = np.array([(0.0, 1.0), (0.25, 1.5)])
    count, _, reference = mean_over_dates(
        lambda scene: (next(upcoming), np.zeros((2, 24, 24))), patches, OBJECTS, trimmed_fits=fits
    )
    seen = np.where(valid[:, :, None], of_date, np.nan)
    plain, n = np.nanmean(seen, axis=1), valid.sum(axis=1)
    low, high = np.nanmin(seen, axis=1), np.nanmax(seen, axis=1)
    without = (np.nansum(seen, axis=1) - low - high) / np.maximum(n - 2, 1)[:, None]
    without[:, 1] = (without[:, 1] - 0.25) * 1.5
    assert (n >= 6).any()
    assert (n < 6).any()
    assert np.allclose(count, np.where(n[:, None] >= 6, without, plain), rtol=1e-5)
    assert np.allclose(reference, np.nanmean(np.where(valid[:, :, None], patches.count, np.nan), axis=1), rtol=1e-5)


def test_a_perfect_prediction_has_no_error() -> None:
    reference = some_patches(3, size=40).count[:, 0]
    errors = errors_by_object(OBJECTS, reference, reference, presence=(reference > 0.25).astype(float))
    for name in OBJECTS:
        assert errors[name]["total"]["error_pct"] == 0
        assert errors[name]["1 ha"]["r2"] == 1
        assert errors[name]["presence"]["iou"] == 1
        assert "1 km2" not in errors[name]
    assert errors["car"]["empty_land"]["n_ha"] > 0
    assert errors["car"]["empty_land"]["mean_per_ha"] == 0


def test_means_without_extremes_are_brought_back_to_means() -> None:
    rng = np.random.default_rng(0)
    reference = np.repeat([0.0, 2.0], 20)[:, None, None] * np.ones((40, 20, 20))
    # Skewed, as where a crown is in a pixel on few dates only; on empty land there is noise alone.
    dates = rng.exponential(reference, (8, 40, 20, 20)) + rng.normal(0.1, 0.02, (8, 40, 20, 20))
    trimmed = np.sort(dates, axis=0)[1:-1].mean(axis=0)
    mean = dates.mean(axis=0)
    background, slope = fit_trimmed(trimmed, mean, reference)
    assert background == pytest.approx(0, abs=1e-3)
    assert slope == pytest.approx(2 / (2 - 0.29), rel=0.05)  # what the exponential distribution's order statistics say
    assert ((trimmed - background) * slope)[20:].sum() == pytest.approx(mean[20:].sum())
    background, slope = fit_trimmed(trimmed[:20], mean[:20], reference[:20])
    assert background == pytest.approx(0, abs=1e-3)
    assert slope == 1.0
    assert fit_trimmed(np.full_like(mean, np.nan), mean, reference) == (0.0, 1.0)


def test_calibration_undoes_background_and_shrinkage() -> None:
    reference = some_patches(4, size=40).count[:, 0, 1].astype(float)
    raw = 0.02 + reference / 1.25
    background, slope = fit_calibration(raw, reference)
    assert background == pytest.approx(0.02, rel=1e-6)
    assert slope == pytest.approx(1.25, rel=1e-6)
    assert ((raw - background) * slope).sum() == pytest.approx(reference.sum(), rel=1e-6)
    with pytest.raises(InputError, match=r"0\.0 objects"):
        fit_calibration(raw, 0 * reference)


def test_evaluate_and_its_table() -> None:
    model, patches = a_model(), some_patches(2, size=24)
    errors = evaluate(model, patches)
    assert errors["places"] == 2
    assert set(errors["coconut"]) == {
        *("total", "intervals_95", "gated_total", "empty_land", "background", "by_density", "presence", "calibration"),
        *("pixel", "1 ha", "4 ha", "unit"),
    }
    assert len(table(errors).splitlines()) == 3
    assert set(brief(errors)["car"]) >= {"total", "1 ha", "calibration"}
    assert HALO == model.halo
