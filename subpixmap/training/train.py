"""The training loop: patches in, a network out. Deterministic by seed; an interrupted training resumes.

A step draws crops and acquisitions (crops with many objects more often, if configured), rotates and jitters them, and
updates the weights with AdamW and Muon (see `losses`). The rate follows a cosine, and weights are averaged. The last
steps may continue from the average with frozen statistics. Each network may stop early by its validation loss. Curves
are written to a CSV.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from subpixmap.errors import InputError
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model
from subpixmap.model.net import combined
from subpixmap.reference.patches import Patches
from subpixmap.training.batches import Batch, CropOdds, draw_batch
from subpixmap.training.config import TrainConfig
from subpixmap.training.inputs import density_scale
from subpixmap.training.lines import COLUMNS, Lines, loss_facts, mean_of
from subpixmap.training.losses import loss_terms
from subpixmap.training.process import reproducible, require_machine
from subpixmap.training.state import N, TrainingState, numbered, start, update_average

SAVE_EVERY_S = 30.0
"""A training that is ended loses no more; its state takes a few milliseconds to write."""


def train(
    patches: Patches,
    card: Card,
    config: TrainConfig,
    *,
    validation: Patches | None = None,
    state: str | Path | None = None,
    curves: str | Path | None = None,
    progress: TextIO | None = sys.stderr,
    check: Callable[[Model], str] | None = None,
) -> Model:
    """Train the networks of a card on patches.

    Parameters
    ----------
    patches
        Training split; with the card's bands and objects.
    card
        Shape, bands, objects and input statistics; `members` and `turns` become those of `config`.
    config
        The recipe.
    validation
        Places that no gradient sees: the weights at their lowest loss are kept, and `config.patience` stops there.
    state
        File from which training resumes if it exists, and to which it saves twice a minute and every `save_every`
        steps; of several members each has its own, numbered.
    curves
        CSV of step, rate and losses; likewise.
    progress
        Stream for lines of progress; None for none.
    check
        Called with the averaged model each time the state is saved; its text goes to `progress`.

    Returns
    -------
    Model
        With averaged weights, not calibrated; its card says how the loss fell (see `lines.loss_facts`).

    Raises
    ------
    InputError
        The patches lack bands or objects, are smaller than a crop, or the state is of another recipe.
    """
    config = config.for_land(patches.labelled.sum())
    patches = _matching(patches, card, config)
    validation = None if validation is None else _matching(validation, card, config)
    single = dataclasses.replace(card, members=1, turns=False)
    losses: list[list[float]] = [[] for _ in range(config.members)]
    members = [
        fit(
            single.build_member,
            patches,
            dataclasses.replace(config, seed=config.seed + k),
            validation=validation,
            state=numbered(state, k, config.members),
            curves=numbered(curves, k, config.members),
            progress=progress,
            check=None if check is None else lambda net: check(Model.of(copy.deepcopy(net), single)),
            title=f"network {k + 1} of {config.members}: " if config.members > 1 else "",
            losses=losses[k],
        )
        for k in range(config.members)
    ]
    training = dict(card.training) | {"loss": loss_facts(losses)}
    card = dataclasses.replace(card, members=config.members, turns=config.turns, training=training)
    return Model.of(combined(members, turns=config.turns), card)


def fit(
    build: Callable[[], N],
    patches: Patches,
    config: TrainConfig,
    *,
    validation: Patches | None = None,
    state: Path | None = None,
    curves: Path | None = None,
    progress: TextIO | None = sys.stderr,
    check: Callable[[N], str] | None = None,
    title: str = "",
    losses: list[float] | None = None,
) -> N:
    """Train one network of any kind that has `heads`; the rest is as in `train`.

    1. Start anew, or from the state of an interrupted training.
    2. Draw the batch of a step from (seed, step) only, so that a resumed training draws the same batches.
    3. Take the step.
    4. At intervals write a row of curves, evaluate the validation places, save the state.
    5. Return the averaged network, at its best validation loss if known.

    Parameters
    ----------
    build
        Makes the untrained network, after the seed is set.
    patches, config, validation, state, curves, progress, check
        As in `train`; patches have what the network wants, in its order.
    title
        Before every line of progress.
    losses
        Filled with the loss of every step.
    """
    if config.patience and validation is None:
        raise InputError("training: early stopping (patience) needs validation data; set patience to 0")
    require_machine(config)
    scale = density_scale(patches).to(config.device)
    odds = CropOdds.of(patches, scale.numpy(force=True), config) if config.importance else None
    with reproducible(config):
        run = start(build, config, scale)  # 1.
        if state is not None and state.exists():
            run.load(state)
        if config.compile:
            run.net.compile()
        drop_rows(curves, after=run.step)
        lines = Lines(progress, step=run.step, steps=config.all_steps, log_every=config.log_every, title=title)
        saved = time.monotonic()
        while run.step < config.all_steps and not run.is_stuck(config.patience):
            _freeze_when_due(run, patches, config, odds)
            now = config.at(run.step)
            batch = draw_batch(patches, now, np.random.default_rng([config.seed, run.step]), odds)  # 2.
            run.keep(take_step(run, batch.to(config.device), scale, now))  # 3.
            last = run.step == config.all_steps
            lines.after(run.step, run.rows)  # 4.
            if run.step % config.log_every == 0 or last:
                add_row(curves, mean_of(run.rows))
                run.rows = []
            round_one = run.step % config.save_every == 0 or last
            if round_one and validation is not None:
                run.watch(validation_loss(run.averaged, validation, scale, config), progress)
            if state is not None and (round_one or time.monotonic() - saved >= SAVE_EVERY_S):
                run.save(state)
                saved = time.monotonic()
            if round_one and check is not None and progress is not None:
                print(check(run.averaged), file=progress, flush=True)
        if losses is not None:
            losses += run.losses
        return _finished(run, patches, config, odds)  # 5.


def _freeze_when_due(run: TrainingState[N], patches: Patches, config: TrainConfig, odds: CropOdds | None) -> None:
    """After the steps that are not frozen: go on from the averaged weights, normalising as predictions do."""
    if run.step == config.steps:
        settle_statistics(run.averaged, patches, config, odds)
        run.net.load_state_dict(run.averaged.state_dict())
    if run.step >= config.steps:
        run.net.eval()


def _finished(run: TrainingState[N], patches: Patches, config: TrainConfig, odds: CropOdds | None) -> N:
    """The averaged network, at its best if that is known."""
    kept = run.step
    if run.best is not None:
        run.averaged.load_state_dict(run.best)
        kept = run.best_step
    if kept <= config.steps:  # frozen steps have settled them already
        settle_statistics(run.averaged, patches, config, odds)
    return run.averaged.requires_grad_(False).to("cpu")


def take_step(run: TrainingState[N], batch: Batch, scale: Tensor, config: TrainConfig) -> dict[str, float]:
    """Move the weights once and their average after them; the step's number and losses."""
    with torch.autocast(batch.count.device.type, torch.bfloat16, enabled=config.mixed):
        output = run.net(batch.reflectance)
    losses = loss_terms(output.float(), batch, scale, config)
    run.net.zero_grad(set_to_none=True)
    torch.autograd.backward(losses["loss"])
    nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(run.step, config)
        optimizer.step()
    update_average(run.averaged, run.net, min(config.average, (1 + run.step) / (10 + run.step)))
    run.step += 1
    return {"step": run.step} | {name: float(value.detach()) for name, value in losses.items()}


@torch.no_grad()
def validation_loss(net: nn.Module, places: Patches, scale: Tensor, config: TrainConfig, *, batches: int = 32) -> float:
    """Mean loss over the same crops each time, without jitter."""
    calm = dataclasses.replace(config, jitter_brightness=0.0, jitter_gain=0.0, jitter_offset=0.0)
    net.eval()
    total = 0.0
    for k in range(batches):
        batch = draw_batch(places, calm, np.random.default_rng([0, k])).to(config.device)
        total += float(loss_terms(net(batch.reflectance), batch, scale, config)["loss"])
    return total / batches


def _matching(patches: Patches, card: Card, config: TrainConfig) -> Patches:
    patches = patches.select_objects(card.object_names).select_bands(card.bands)
    if patches.halo != card.halo:
        raise InputError(f"patches have a halo of {patches.halo} px, but the network needs {card.halo}")
    if config.pair_weight and patches.valid.shape[1] < 2:
        raise InputError(
            "training: pairs (pair_weight) need patches with two acquisitions or more; set pair_weight to 0"
        )
    if min(patches.count.shape[-2:]) < config.crop:
        raise InputError(
            f"patches of {patches.size} useful px are smaller than a crop of {config.crop}; use a smaller crop"
        )
    if patches.share is not None and (widest := _widest(patches.share > 0)) > config.crop:
        raise InputError(
            f"plots of up to {widest} px are larger than a crop of {config.crop}, so their sums cannot "
            "be used; use a larger crop"
        )
    return patches


def _widest(covered: NDArray[np.bool_]) -> int:
    """Rows or columns from the first to the last that (place, y, x) covers, the most of all places."""
    spans = []
    for axis in (1, 2):
        touched: NDArray[np.bool_] = np.any(covered, axis=axis)
        before, after = np.argmax(touched, axis=1), np.argmax(touched[:, ::-1], axis=1)
        spans.append(int(np.where(touched.any(axis=1), touched.shape[1] - before - after, 0).max()))
    return max(spans)


def rate_factor(step: int, config: TrainConfig) -> float:
    """Learning rate relative to its peak: linear warm-up, half a cosine down to 1 %, a small one for frozen steps."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    if step >= config.steps and config.frozen_steps:
        return 0.05 * _half_cosine((step - config.steps) / config.frozen_steps)
    return _half_cosine((step - config.warmup) / max(1, config.steps - config.warmup))


def _half_cosine(along: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


@torch.no_grad()
def settle_statistics(
    net: nn.Module, patches: Patches, config: TrainConfig, odds: CropOdds | None = None, *, samples: int = 2048
) -> None:
    """Measure the running statistics of the averaged weights anew: those of the steps belong to other weights.

    Predictions then no longer lean on the few scenes of a training batch (Wu and Johnson 2021, arXiv 2105.07576). Crops
    are drawn with the odds of the training, whose statistics the weights know.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    for k in range(min(-(-samples // config.batch), config.steps)):  # a short training is not outweighed by it
        batch = draw_batch(patches, config, np.random.default_rng([config.seed, config.steps + k]), odds)
        net(batch.reflectance.to(config.device))
    net.eval()


def add_row(curves: Path | None, mean: dict[str, float]) -> None:
    """Mean losses of the latest steps as a row of the curves."""
    if curves is None:
        return
    fresh = not curves.exists()
    with curves.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerow({key: f"{value:.6g}" for key, value in mean.items()})


def drop_rows(curves: Path | None, *, after: int) -> None:
    """Drop rows of steps that an interrupted training has to do again."""
    if curves is not None and curves.is_file():
        header, *rows = curves.read_bytes().splitlines(keepends=True)
        curves.write_bytes(b"".join([header, *(row for row in rows if float(row.split(b",")[0]) <= after)]))
