"""Options of training: how a network is trained, and which kind of checkpoint is written.

An option that is None gets its value from the recipe (see `training.recipes`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from typer import Option

from subpixmap.cli.options import Baselines, words
from subpixmap.training.config import TrainConfig
from subpixmap.verbs.request import Shape


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a network is trained; the recipe decides where a field is None."""

    steps: Annotated[int | None, Option(min=1, help="number of training steps  [default: from the labelled area]")] = (
        None
    )
    members: Annotated[
        int | None,
        Option(help="number of networks (per fold); the model is their mean  [default: from the recipe]"),
    ] = None
    turns: Annotated[
        bool | None,
        Option(
            "--turns/--no-turns",
            help="average over rotations and reflections (8 times the cost)  [default: from the recipe]",
        ),
    ] = None
    patience: Annotated[
        int | None,
        Option(
            help="stop after this many steps without improvement on the calibration data; 0 = never  [default: from "
            "the recipe]"
        ),
    ] = None
    mixed: Annotated[
        bool | None,
        Option(
            "--mixed/--no-mixed",
            help="use bfloat16 in convolutions: faster on a GPU or a processor with AMX  [default: from the recipe]",
        ),
    ] = None
    compile: Annotated[
        bool | None,
        Option(
            "--compile/--no-compile",
            help="compile the network: faster, needs a C++ compiler  [default: from the recipe]",
        ),
    ] = None
    device: Annotated[str | None, Option(help="cpu or cuda  [default: cpu]")] = None

    def asked(self, seed: int) -> dict[str, Any]:
        """The options that were given, by the field names of `TrainConfig`."""
        return {name: value for name, value in vars(self).items() if value is not None} | {"seed": seed}

    def config(self, recipe: TrainConfig, *, seed: int) -> TrainConfig:
        """The recipe with the given options; a shorter training also has a shorter warm-up."""
        config = dataclasses.replace(recipe, **self.asked(seed))
        return config.for_land(0) if config.steps else config


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Bands and network of the checkpoint, and the evidence in its card."""

    bands: Annotated[str | None, Option(help="input bands, such as B02,B03,B04,B08  [default: all available]")] = None
    baselines: Baselines = None
    evidence: Annotated[
        str | None,
        Option(
            help="kind of evidence for the card: simulated, degraded-aerial or sentinel-2  [default: from the source]"
        ),
    ] = None
    width: Annotated[int | None, Option(help="channels of the network  [default: from the recipe]")] = None
    mid: Annotated[int | None, Option(help="channels inside a block of the network  [default: from the recipe]")] = None
    blocks: Annotated[
        int | None,
        Option(help="number of residual blocks; the receptive radius is this + 2 pixels  [default: from the recipe]"),
    ] = None

    def checkpoint(self) -> dict[str, Any]:
        """Keywords of the verb `train`."""
        return {
            "bands": words([self.bands or ""]),
            "baselines": words([self.baselines or ""]),
            "evidence": self.evidence,
            "shape": Shape(self.width, self.mid, self.blocks),
        }
