"""Totals as labels: the loss, the calibration and the errors are those of sums over plots, and of nothing else."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from subpixmap.errors import InputError
from subpixmap.reference.patches import Patches, join
from subpixmap.training.batches import Batch, draw_batch
from subpixmap.training.calibrate import fit_calibration, fit_total
from subpixmap.training.config import TrainConfig
from subpixmap.training.evaluate import evaluate
from subpixmap.training.losses import loss_terms
from subpixmap.training.metrics import plot_sums
from subpixmap.training.train import train
from tests.helpers.patches import some_patches
from tests.helpers.trainings import a_card

FEW = TrainConfig(steps=2, batch=4, crop=16, threads=1, warmup=1)


def with_plots(n: int = 3, side: int = 9) -> Patches:
    """Places of which only the sum over a square in the middle is known; of the last, that it is empty."""
    patches = some_patches(n)
    share = np.zeros(patches.labelled.shape, np.float32)
    share[:, 8 : 8 + side, 8 : 8 + side] = 1
    share[:, 8, 8 : 8 + side] = 0.25
    totals = (patches.count * share[:, None, None]).sum(axis=(-2, -1), keepdims=True)
    totals[-1] = 0
    even = totals * (share / share.sum(axis=(1, 2), keepdims=True))[:, None, None]
    plots = tuple(f"plot {k}" for k in range(n))
    count = even.astype(np.float32)
    return dataclasses.replace(patches, count=count, labelled=share > 0, share=share, plots=plots)


def terms(density: torch.Tensor, batch: Batch, scale: float = 0.5) -> dict[str, torch.Tensor]:
    output = torch.stack([density, torch.zeros_like(density)], dim=1)
    return loss_terms(output, batch, torch.full((density.shape[1],), scale), FEW)


def a_batch(total: float, share: np.ndarray) -> Batch:
    y, x = share.shape
    even = torch.from_numpy(total * share / share.sum()).float()[None, None]
    return Batch(
        torch.zeros(1, 3, y, x),
        even,
        torch.zeros(1, 1, y, x),
        torch.ones(1),
        torch.from_numpy(share).float()[None, None],
    )


def test_where_objects_stand_in_a_plot_makes_no_difference() -> None:
    share = np.zeros((16, 16))
    share[2:10, 3:9] = 0.5
    rng = np.random.default_rng(0)
    for _ in range(3):
        density = rng.uniform(0, 1, (16, 16))
        density *= 12 / (density * share).sum()
        found = terms(torch.from_numpy(density).float()[None, None], a_batch(12.0, share))
        assert float(found["plot"]) == pytest.approx(0, abs=1e-9)
        assert float(found["mse"]) == 0


def test_the_error_of_a_sum_is_relative_to_its_scatter_and_stays_in_the_plot() -> None:
    share = np.zeros((16, 16))
    share[2:10, 3:9] = 0.5  # 24 pixels
    density = torch.full((1, 1, 16, 16), 1.0, requires_grad=True)
    found = terms(density, a_batch(12.0, share))
    # 24 counted, 12 true: an error of 0.5 a pixel, of scale 0.5; a count as dense as that scatters twice as much
    assert float(found["plot"]) == pytest.approx(1.0 * 0.5, rel=1e-6)
    (gradient,) = torch.autograd.grad(found["loss"], density)
    assert (gradient[0, 0][share == 0] == 0).all()
    assert (gradient[0, 0][share > 0] > 0).all()


def test_a_density_below_zero_does_not_hide_in_a_sum() -> None:
    share = np.ones((16, 16))
    density = torch.zeros(1, 1, 16, 16)
    density[..., :8], density[..., 8:] = -1.0, 1.0
    assert float(terms(density, a_batch(0.0, share))["plot"]) == pytest.approx(0.5 * (1 / 0.5) ** 2)


def test_a_crop_holds_whole_plots_and_clear_pixels_stand_for_the_others() -> None:
    patches = with_plots()
    pixels = float(patches.share[0].sum()) if patches.share is not None else 0.0
    clouds = patches.valid.copy()
    clouds[:, :, 8:10] = False
    for valid, wanted in ((patches.valid, {pixels}), (clouds, {pixels}), (np.zeros_like(clouds), {0.0})):
        seen = dataclasses.replace(patches, valid=valid)
        for k in range(4):
            batch = draw_batch(seen, FEW, np.random.default_rng(k))
            assert batch.share is not None
            sums = batch.share.sum(dim=(1, 2, 3))
            assert {round(float(one), 3) for one in sums} <= {round(one, 3) for one in wanted | {0.0}}
            assert bool(sums.any()) == valid.any()
            empty = batch.count.sum(dim=(1, 2, 3)) == 0
            assert (batch.weight.sum(dim=(1, 2, 3))[~empty] == 0).all()  # only of an empty plot every pixel is known


def test_patches_without_plots_are_drawn_as_ever() -> None:
    assert draw_batch(some_patches(), FEW, np.random.default_rng(0)).share is None


def test_patches_with_plots_are_kept_cut_and_joined(tmp_path: Any) -> None:
    patches = with_plots()
    patches.save(tmp_path)
    for one in (Patches.load(tmp_path), join([patches.take([0]), patches.take([1, 2])])):
        assert one.plots == patches.plots
        np.testing.assert_array_equal(one.share, patches.share)
    both = join([some_patches(2), patches])
    assert both.plots == ("", "", *patches.plots)
    assert both.is_plot.tolist() == [False, False, True, True, True]


def test_a_calibration_makes_plots_right_that_a_line_can_make_right() -> None:
    rng = np.random.default_rng(0)
    share = rng.uniform(0, 1, (6, 12, 12)).astype(np.float32)
    share[:, :3] = 0
    truth = np.where(np.arange(6) < 2, 0, rng.uniform(10, 40, 6))
    known = share > 0
    even = np.where(known, truth[:, None, None] * share / share.sum(axis=(1, 2), keepdims=True), np.nan)
    raw = np.where(known, 0.03 + even / np.where(known, share, 1) / 1.7, np.nan)
    background, slope = fit_calibration(raw * share, even, share)
    assert (background, slope) == pytest.approx((0.03, 1.7), rel=1e-5)
    factor = truth.sum() / np.nansum(raw * share, dtype=float)
    assert fit_total(raw * share, even, share) == pytest.approx((0.0, factor), rel=1e-5)


def test_sums_are_of_whole_plots() -> None:
    patches = dataclasses.replace(with_plots(), plots=("a", "a", "b"))
    assert patches.share is not None
    values, reference = np.full(patches.share.shape, 0.5), patches.count[:, 0, 0].astype(float)
    values[2, 8:14] = np.nan  # most of it is not seen
    predicted, true, pixels = plot_sums(values, reference, patches.share, patches.plots)
    each = float(patches.share[0].sum())
    np.testing.assert_allclose(pixels, [2 * each, each])
    assert predicted[0] == pytest.approx(each)
    assert true[0] == pytest.approx(reference[:2].sum())
    assert np.isnan(predicted[1])


def test_plots_that_no_crop_holds_are_refused() -> None:
    patches = with_plots(side=15)
    config = dataclasses.replace(FEW, crop=14, block=7)
    with pytest.raises(InputError, match="plots of up to 15 px are larger than a crop of 14"):
        train(patches, a_card(patches), config, progress=None)


def test_a_training_on_totals_is_measured_by_plot_and_repeats_itself() -> None:
    patches = with_plots(6)
    card = a_card(patches)
    one, two = (train(patches, card, FEW, progress=None) for _ in range(2))
    assert one.sha256 == two.sha256
    errors = evaluate(one, patches)
    assert (errors["plots"], errors["coconut"]["plot"]["n"]) == (6, 6)
    assert "1 ha" not in errors["coconut"]
    both = evaluate(one, join([some_patches(2), patches]))
    assert {"plot", "1 ha"} <= set(both["coconut"])
    assert both["places"] == 8
