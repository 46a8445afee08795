"""A card of a small network, and a network whose statistics are those of training."""

import dataclasses
from typing import Any

import torch

from subpixmap.model.card import Card


def small_card(**changes: Any) -> Card:
    card = Card(
        name="small",
        bands=("B02", "B08"),
        objects={"coconut": "crown over 2 m", "car": "parked car"},
        measure={"coconut": "count", "car": "occupancy"},
        input_mean=(0.05, 0.3),
        input_std=(0.02, 0.1),
        input_low=(0.0, 0.02),
        input_high=(0.3, 0.7),
        evidence="simulated",
        width=8,
        mid=4,
        blocks=2,
        halo=4,
        calibration={"coconut": (0.01, 1.1)},
        training={"seeds": [1, 2]},
        limits=("a test",),
    )
    return dataclasses.replace(card, **changes)


def lively(net: Any, seed: int = 0) -> Any:
    """Give batch normalisation statistics as training would, so that folding and clipping have something to do."""
    gen = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.3, 0.3, generator=gen)
            module.running_var.uniform_(0.5, 2.0, generator=gen)
            module.weight.data.uniform_(0.5, 1.5, generator=gen)
            module.bias.data.uniform_(-0.2, 0.2, generator=gen)
    blocks: Any = net.blocks
    for block in blocks:
        block.bn3.weight.data *= 6  # as much from the block as from its skip: the whole receptive field matters
    return net.eval()
