"""The training loss and its parts. Add a new term here, and its weight to `TrainConfig`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from subpixmap.training.batches import Batch
from subpixmap.training.config import TrainConfig


def loss_terms(output: Tensor, batch: Batch, scale: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """The loss and its parts: a (mse + sums) + (1 - a) ce, with a = `config.mse_weight`.

    1. mse, ce: pixel by pixel, the density against the counts and the presence against the objects there.
    2. block, sample: the errors of means over blocks and crops. Small errors of one sign cost little by pixel and much
       in a total.
    3. pair: what two acquisitions of one place differ in, since the truth is the same.
    4. plot: places whose total alone is known.

    Parameters
    ----------
    output
        (n, 2, object, y, x) of the network.
    batch
        The targets.
    scale
        (object,) objects per pixel to scale errors by, so that dense olives do not dominate rare cars.
    config
        Weights of the parts.
    """
    # 1.
    density, logit = output.unbind(1)
    pixels = batch.weight.sum().clamp_min(1) * density.shape[1]
    error = (density - batch.count) / scale[:, None, None] * batch.weight
    present = (batch.count > config.present_above).to(logit.dtype)
    entropy = F.binary_cross_entropy_with_logits(logit, present, reduction="none") * batch.weight
    importance = batch.importance[:, None, None, None]
    mse, ce = ((importance * loss).sum() / pixels for loss in (error.square(), entropy))
    # 2.
    block, sample = (_square_of_means(error, batch, px) for px in (config.block, density.shape[-1]))
    sums = config.block_weight * block + config.sample_weight * sample
    parts = {"mse": mse, "ce": ce, "block": block, "sample": sample}
    if config.pair_weight:  # 3.
        parts["pair"] = _square_of_differences(error, batch)
        sums = sums + config.pair_weight * parts["pair"]
    if batch.share is not None:  # 4.
        parts["plot"], of_plots = _plots(density, logit, batch, batch.share, scale, config)
        sums, ce = sums + config.plot_weight * parts["plot"], ce + of_plots
    loss = config.mse_weight * (mse + sums) + (1 - config.mse_weight) * ce
    return {"loss": loss} | {name: value.detach() for name, value in parts.items()}


def _square_of_means(error: Tensor, batch: Batch, px: int) -> Tensor:
    """Mean square of the errors of means over `px` x `px` pixels, where labelled; hardly labelled blocks count less."""
    share = F.avg_pool2d(batch.weight, px)
    means = F.avg_pool2d(error, px) / share.clamp_min(1e-6)
    squares = batch.importance[:, None, None, None] * means.square() * share
    return squares.sum() / (share.sum().clamp_min(1e-6) * error.shape[1])


def _square_of_differences(error: Tensor, batch: Batch) -> Tensor:
    """Mean square of what the two samples of a pair differ in, halved: the variance of their mean errors."""
    both = batch.weight[0::2] * batch.weight[1::2]
    difference = ((error[0::2] - error[1::2]) * both).sum(dim=(2, 3)) / both.sum(dim=(2, 3)).clamp_min(1)
    return 0.5 * (batch.importance[0::2, None] * difference.square()).mean()


def _plots(
    density: Tensor, logit: Tensor, batch: Batch, share: Tensor, scale: Tensor, config: TrainConfig
) -> tuple[Tensor, Tensor]:
    """What plots say whose total alone is known: of the density its sum, of the presence nothing but the density.

    The error of a sum, per pixel of its plot and relative to `scale`, is weighted by the plot's pixels and by 1 over
    the variance of a count as dense as the total, floored by that of the usual density: a Poisson count, but for what
    the network does not know of sparse land. A density below zero, which sums could hide, is an error in itself.
    """
    each, dense = share.sum(dim=(2, 3)), scale[:, None, None]
    pixels = each.sum().clamp_min(1) * density.shape[1]
    truth = torch.where(each > 0, batch.count.sum(dim=(2, 3)), 0) / each.clamp_min(1e-6)
    error = ((density * share).sum(dim=(2, 3)) / each.clamp_min(1e-6) - truth) / scale
    weight = each * batch.importance[:, None] * scale / (truth + scale)
    below = (share * (-density / dense).clamp_min(0).square()).sum()
    present = (density.detach() > config.present_above).to(logit.dtype)
    entropy = F.binary_cross_entropy_with_logits(logit, present, reduction="none") * share
    return ((weight * error.square()).sum() + below) / pixels, entropy.sum() / pixels
