"""Options of a training: how a network is trained, and what kind of checkpoint comes out.

What is None is left to the recipe, which follows from the labelled land (see `training.recipes`).
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

    steps: Annotated[int | None, Option(min=1, help="training steps  [default: by the labelled land]")] = None
    members: Annotated[
        int | None,
        Option(help="networks trained apart (in each fold), whose mean is the model  [default: the recipe's]"),
    ] = None
    turns: Annotated[
        bool | None,
        Option("--turns/--no-turns", help="average over turns and mirrors (8 times the cost)  [default: the recipe's]"),
    ] = None
    patience: Annotated[
        int | None,
        Option(
            help="stop when the calibration places got no better for so many steps; 0 = never  [default: the recipe's]"
        ),
    ] = None
    mixed: Annotated[
        bool | None,
        Option(
            "--mixed/--no-mixed",
            help="convolve in bfloat16: fast on a GPU, or a processor with AMX  [default: the recipe's]",
        ),
    ] = None
    compile: Annotated[
        bool | None,
        Option("--compile/--no-compile", help="fuse operations: faster, needs a C++ compiler  [default: the recipe's]"),
    ] = None
    device: Annotated[str | None, Option(help="cpu or cuda  [default: cpu]")] = None

    def asked(self, seed: int) -> dict[str, Any]:
        """What was asked for, by the names of `TrainConfig`."""
        return {name: value for name, value in vars(self).items() if value is not None} | {"seed": seed}

    def config(self, recipe: TrainConfig, *, seed: int) -> TrainConfig:
        """The recipe with what was asked for; a short training also warms up for a shorter time."""
        config = dataclasses.replace(recipe, **self.asked(seed))
        return config.for_land(0) if config.steps else config


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What kind of checkpoint comes out: its bands, its network, and what its card says of the evidence."""

    bands: Annotated[str | None, Option(help="input bands, such as B02,B03,B04,B08  [default: all there are]")] = None
    baselines: Baselines = None
    evidence: Annotated[
        str | None, Option(help="simulated, degraded-aerial or sentinel-2  [default: by the source]")
    ] = None
    width: Annotated[int | None, Option(help="channels of the network  [default: the recipe's]")] = None
    mid: Annotated[int | None, Option(help="channels inside a block  [default: the recipe's]")] = None
    blocks: Annotated[
        int | None, Option(help="residual blocks; the receptive radius is 2 pixels more  [default: the recipe's]")
    ] = None

    def checkpoint(self) -> dict[str, Any]:
        """Keywords of the verb `train`."""
        return {
            "bands": words([self.bands or ""]),
            "baselines": words([self.baselines or ""]),
            "evidence": self.evidence,
            "shape": Shape(self.width, self.mid, self.blocks),
        }
