"""A training of a few steps: its settings, the card of its network and the weights it ends with."""

from typing import Any

import torch

from subpixmap.model.card import Card
from subpixmap.reference.patches import Patches
from subpixmap.training.config import TrainConfig
from subpixmap.training.inputs import input_statistics
from tests.helpers.cards import small_card
from tests.helpers.patches import BANDS, OBJECTS

SMALL = TrainConfig(steps=6, batch=4, crop=16, warmup=2, threads=1, log_every=2, save_every=3)


def a_card(patches: Patches, **changes: Any) -> Card:
    return small_card(
        bands=BANDS, objects=dict.fromkeys(OBJECTS, ""), calibration={}, **input_statistics(patches), **changes
    )


def weights(model: object) -> list[torch.Tensor]:
    return [v.clone() for k, v in model.net.state_dict().items() if "num_batches" not in k]  # type: ignore[attr-defined]
