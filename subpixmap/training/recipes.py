"""Training recipes by the amount of labelled land: the defaults of `learn` and `train`.

docs/real-sentinel-2.md has the parts of the recipe for little land and the gain of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subpixmap.training.config import LEAST_STEPS, TrainConfig
from subpixmap.training.process import is_fast

LITTLE_HA = 1000.0
"""Labelled land up to which a reference is little land."""
_WORTH_COMPILING = 1e5  # steps x features x networks, from which on a compilation (half a minute) pays


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    config: TrainConfig
    folds: int
    """Parts of the land that calibrate in turn (see `folds.learn_in_folds`); 0 sets land aside for calibration."""
    width: int = 128
    mid: int = 32
    blocks: int = 6

    def asked_for(self, asked: Mapping[str, Any]) -> Recipe:
        """The recipe with other options of `TrainConfig`."""
        config = dataclasses.replace(self.config, **asked)
        return dataclasses.replace(self, config=config.for_land(0) if config.steps else config)

    def on_this_machine(self, asked: Mapping[str, Any]) -> Recipe:
        """The recipe with the faster arithmetic where the processor has it and the training is long enough."""
        if {"mixed", "compile"} & set(asked) or self.config.device != "cpu":
            return self
        work = (self.config.steps or LEAST_STEPS) * self.width * self.config.members * max(self.folds, 1)
        fast = work >= _WORTH_COMPILING and is_fast()
        return dataclasses.replace(self, config=dataclasses.replace(self.config, mixed=fast, compile=fast))


USUAL = Recipe(TrainConfig(), folds=0)
"""For land enough to set some aside; its steps follow from the land (see `config.steps_for`)."""
LITTLE = Recipe(
    TrainConfig(steps=200, crop=40, average=0.98, jitter_brightness=0.03, jitter_gain=0.01, jitter_offset=0.001),
    folds=5,
    width=32,
    mid=8,
    blocks=2,
)
"""For a few hundred hectares, on which a usual training learns single objects by heart."""


def recipe_for(hectares: float, asked: Mapping[str, Any]) -> Recipe:
    """The recipe for an amount of labelled land.

    Parameters
    ----------
    hectares
        Labelled, inside the border strips.
    asked
        Options of `TrainConfig` that were chosen instead.
    """
    recipe = LITTLE if hectares <= LITTLE_HA else USUAL
    return recipe.asked_for(asked).on_this_machine(asked)
