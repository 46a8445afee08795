"""Training on little land in folds: each network leaves out a part of the land and is calibrated there.

Setting land aside for calibration costs training land, and a calibration on few hectares is noisy. In folds, every
labelled pixel trains most networks and calibrates the others; the model is the mean of all.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model
from subpixmap.model.net import Averaged, DensityNet, combined
from subpixmap.reference.patches import Patches
from subpixmap.reference.samples import Sample
from subpixmap.reference.splits import in_folds
from subpixmap.reference.tiles import AreaTile
from subpixmap.training.calibrate import calibrate_across
from subpixmap.training.config import TrainConfig
from subpixmap.training.lines import say
from subpixmap.training.state import numbered
from subpixmap.training.train import train


def learn_in_folds(
    sample: Sample,
    card: Card,
    config: TrainConfig,
    *,
    folds: int,
    state: str | Path | None = None,
    curves: str | Path | None = None,
    progress: TextIO | None = sys.stderr,
) -> Model:
    """Train `config.members` networks for each fold, and calibrate them together.

    Parameters
    ----------
    sample
        Of the land beside the test.
    card, config, state, curves, progress
        As in `train`; files are numbered by fold.
    folds
        Parts of the land.

    Returns
    -------
    Model
        The mean of all networks, calibrated with predictions of each on land outside its training.

    Raises
    ------
    InputError
        What `in_folds`, `train` and `calibrate` refuse.
    """
    nets: list[DensityNet] = []
    unseen: list[tuple[Model, Patches]] = []
    say(progress, f"2 of 4: training in {folds} folds")
    for k, tiles in enumerate(in_folds(sample.tiles, folds, halo=card.halo)):
        taught, kept = (_part(sample.patches, tiles, split) for split in ("training", "calibration"))
        member = train(
            taught,
            card,
            dataclasses.replace(config, seed=config.seed + k * config.members),
            validation=kept if config.patience else None,
            state=numbered(state, k, folds),
            curves=numbered(curves, k, folds),
            progress=progress,
        )
        parts = member.net.members if isinstance(member.net, Averaged) else [member.net]
        nets += [net for net in parts if isinstance(net, DensityNet)]
        unseen.append((member, kept))
    say(progress, "3 of 4: calibration")
    # The loss of the training says nothing here: little land is soon known by heart.
    facts = dict(card.training) | {"loss": {}}
    together = dataclasses.replace(card, members=len(nets), turns=config.turns, training=facts)
    return calibrate_across(Model.of(combined(nets, turns=config.turns), together), unseen)


def _part(patches: Patches, tiles: Sequence[AreaTile], split: str) -> Patches:
    """The places of a split, with its labelled pixels."""
    labelled = dataclasses.replace(patches, labelled=np.stack([tile.used for tile in tiles]))
    return labelled.take([at for at, tile in enumerate(tiles) if tile.split == split and tile.serves])
