"""The training loop: patches in, a network out. Deterministic with a seed, resumes from its own state, curves to CSV.

Step by step: draw crops and acquisitions, full crops more often if asked, turn and jitter them, 0.5 squared error of
density + 0.5 cross-entropy of presence over labelled and valid pixels, terms on sums against shrinkage and on what
acquisitions of a crop differ in, AdamW and Muon on a cosine, averaged weights, last steps with frozen statistics if
asked; as many networks as asked for, each stopped early if places for validation say so.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Card, Model
from subpixmap.model.net import DensityNet, StridedNet, combined
from subpixmap.reference.patches import Patches
from subpixmap.training.batches import Batch, CropOdds, draw_batch
from subpixmap.training.config import TrainConfig
from subpixmap.training.optimize import make_optimizers

FloatArray = NDArray[np.floating]
N = TypeVar("N", DensityNet, StridedNet)

_NO_RECIPE = ("threads", "device", "compile", "members", "turns")
"""Options in which a state on disk may differ: a member does not know of the others."""

_COLUMNS = ("step", "loss", "mse", "ce", "block", "sample", "pair")
"""Of the curves; what a recipe lacks stays empty."""


def input_statistics(patches: Patches, *, tail: float = 0.001, sample: int = 400, seed: int = 0) -> dict[str, Any]:
    """Card fields: mean, standard deviation and range of every band over valid training pixels.

    Parameters
    ----------
    patches
        Of the training split.
    tail
        Quantile beyond which an input counts as unlike the training data; the range is widened by a tenth of itself.
    sample
        Places that are looked at.
    seed
        Of the choice of places.
    """
    index = np.sort(np.random.default_rng(seed).permutation(len(patches))[:sample])
    h = patches.halo
    pixels = patches.reflectance[index][..., h : h + patches.size, h : h + patches.count.shape[-1]]
    pixels = np.moveaxis(pixels, 2, -1)[patches.valid[index]].astype(np.float32)
    low, high = np.quantile(pixels, [tail, 1 - tail], axis=0)
    margin = 0.1 * (high - low)
    return {
        "input_mean": _rounded(pixels.mean(axis=0, dtype=float)),
        "input_std": _rounded(pixels.std(axis=0, dtype=float)),
        "input_low": _rounded(low - margin),
        "input_high": _rounded(high + margin),
    }


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
        File from which training resumes if it exists, and to which it saves every `save_every` steps; of several
        members each has its own, numbered.
    curves
        CSV of step, rate and losses; likewise.
    progress
        Where lines of progress go; None for silence.
    check
        Called with the averaged model each time the state is saved; its text goes to `progress`.

    Returns
    -------
    Model
        With averaged weights, not calibrated.

    Raises
    ------
    InputError
        The patches lack bands or objects, are smaller than a crop, or the state is of another recipe.
    """
    patches = _matching(patches, card, config)
    validation = None if validation is None else _matching(validation, card, config)
    single = dataclasses.replace(card, members=1, turns=False)
    members = [
        fit(
            single.build_member,
            patches,
            dataclasses.replace(config, seed=config.seed + k),
            validation=validation,
            state=_numbered(state, k, config.members),
            curves=_numbered(curves, k, config.members),
            progress=progress,
            check=None if check is None else lambda net: check(Model.of(copy.deepcopy(net), single)),
        )
        for k in range(config.members)
    ]
    card = dataclasses.replace(card, members=config.members, turns=config.turns)
    return Model.of(combined(members, turns=config.turns), card)


def remove_states(state: str | Path, members: int) -> None:
    """Delete what a training of so many members saved to go on from, once its model is written."""
    for k in range(members):
        if (path := _numbered(state, k, members)) is not None:
            path.unlink(missing_ok=True)


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
) -> N:
    """Train one network of any kind that has `heads`; the rest is as in `train`.

    Parameters
    ----------
    build
        Makes the untrained network, after the seed is set.
    patches, config, validation, state, curves, progress, check
        As in `train`; patches have what the network wants, in its order.
    """
    if config.patience and validation is None:
        raise InputError("training: stopping early (patience) needs places for validation")
    if config.threads:
        torch.set_num_threads(config.threads)
    require_machine(config)
    torch.backends.cudnn.deterministic = True  # with it a seed decides every bit on a GPU, too
    torch.manual_seed(config.seed)
    scale = _density_scale(patches).to(config.device)
    odds = CropOdds.of(patches, scale.numpy(force=True), config) if config.importance else None
    run = _start(build, config, scale)
    if state is not None and state.exists():
        run.load(state)
    if config.compile:
        run.net.compile()
    rows: list[dict[str, float]] = []
    started, first = time.monotonic(), run.step
    while run.step < config.all_steps and not run.is_stuck(config.patience):
        _freeze_when_due(run, patches, config, odds)
        now = config.at(run.step)
        batch = draw_batch(patches, now, np.random.default_rng([config.seed, run.step]), odds)
        rows.append(_take_step(run, batch.to(config.device), scale, now))
        last = run.step == config.all_steps
        if run.step % config.log_every == 0 or last:
            speed = (time.monotonic() - started) / (run.step - first)
            _log(rows, curves, progress, left=speed * (config.all_steps - run.step), steps=config.all_steps)
            rows = []
        if run.step % config.save_every and not last:
            continue
        if validation is not None:
            run.watch(validation_loss(run.averaged, validation, scale, config), progress)
        if state is not None:
            run.save(state)
        if check is not None and progress is not None:
            print(check(run.averaged), file=progress, flush=True)
    return _finished(run, patches, config, odds)


def _freeze_when_due(run: _Run[N], patches: Patches, config: TrainConfig, odds: CropOdds | None) -> None:
    """After the steps that are not frozen: go on from the averaged weights, normalising as predictions do."""
    if run.step == config.steps:
        settle_statistics(run.averaged, patches, config, odds)
        run.net.load_state_dict(run.averaged.state_dict())
    if run.step >= config.steps:
        run.net.eval()


def _finished(run: _Run[N], patches: Patches, config: TrainConfig, odds: CropOdds | None) -> N:
    """The averaged network, at its best if that is known."""
    kept = run.step
    if run.best is not None:
        run.averaged.load_state_dict(run.best)
        kept = run.best_step
    if kept <= config.steps:  # later ones have statistics of their own
        settle_statistics(run.averaged, patches, config, odds)
    return run.averaged.requires_grad_(False).to("cpu")


def _take_step(run: _Run[N], batch: Batch, scale: Tensor, config: TrainConfig) -> dict[str, float]:
    """Move the weights once and their average after them; the step's number and losses."""
    with torch.autocast(batch.count.device.type, torch.bfloat16, enabled=config.mixed):
        output = run.net(batch.reflectance)
    losses = loss_terms(output.float(), batch, scale, config)
    run.net.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(run.step, config)
        optimizer.step()
    _update_average(run.averaged, run.net, min(config.average, (1 + run.step) / (10 + run.step)))
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


def loss_terms(output: Tensor, batch: Batch, scale: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """The loss and its parts.

    Parameters
    ----------
    output
        (n, 2, object, y, x) of the network.
    batch
        What it should have been.
    scale
        (object,) objects per pixel by which errors are divided, so that dense olives do not drown rare cars.
    config
        Weights of the parts.
    """
    density, logit = output.unbind(1)
    pixels = batch.weight.sum().clamp_min(1) * density.shape[1]
    error = (density - batch.count) / scale[:, None, None] * batch.weight
    present = (batch.count > config.present_above).to(logit.dtype)
    entropy = F.binary_cross_entropy_with_logits(logit, present, reduction="none") * batch.weight
    importance = batch.importance[:, None, None, None]
    mse, ce = ((importance * loss).sum() / pixels for loss in (error.square(), entropy))
    block, sample = (_square_of_means(error, batch, px) for px in (config.block, density.shape[-1]))
    sums = config.block_weight * block + config.sample_weight * sample
    told = {"mse": mse, "ce": ce, "block": block, "sample": sample}
    if config.pair_weight:
        told["pair"] = _square_of_differences(error, batch)
        sums = sums + config.pair_weight * told["pair"]
    loss = config.mse_weight * (mse + sums) + (1 - config.mse_weight) * ce
    return {"loss": loss} | {name: value.detach() for name, value in told.items()}


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


def _matching(patches: Patches, card: Card, config: TrainConfig) -> Patches:
    patches = patches.select_objects(card.object_names).select_bands(card.bands)
    if patches.halo != card.halo:
        raise InputError(f"patches have a halo of {patches.halo} px, the network needs {card.halo}")
    if config.pair_weight and patches.valid.shape[1] < 2:
        raise InputError("training: pairs (pair_weight) need patches of two acquisitions or more")
    if min(patches.count.shape[-2:]) < config.crop:
        raise InputError(f"patches of {patches.size} useful px are smaller than a crop of {config.crop}")
    return patches


def _density_scale(patches: Patches) -> Tensor:
    """Per object, root mean square of the count: finding nothing has an error of 1 for the rare and for the common."""
    squares = [np.square(patches.count[:, 0, i][patches.labelled], dtype=float) for i in range(len(patches.objects))]
    for name, square in zip(patches.objects, squares, strict=True):
        if not square.any():
            raise InputError(f"the training patches hold no {name}")
    return torch.tensor([float(np.sqrt(square.mean())) for square in squares])


def rate_factor(step: int, config: TrainConfig) -> float:
    """Learning rate relative to its peak: linear warm-up, half a cosine down to 1 %, a small one for frozen steps."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    if step >= config.steps and config.frozen_steps:
        return 0.05 * _half_cosine((step - config.steps) / config.frozen_steps)
    return _half_cosine((step - config.warmup) / max(1, config.steps - config.warmup))


def _half_cosine(along: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


@dataclass
class _Run(Generic[N]):
    """What changes while training, and how it is kept on disk."""

    net: N
    averaged: N
    optimizers: list[torch.optim.Optimizer]
    recipe: dict[str, Any]
    """What a state on disk must agree in."""
    step: int = 0
    best_loss: float = math.inf
    """Lowest of the validation places, if there are any."""
    best_step: int = 0
    best: dict[str, Tensor] | None = None
    """Averaged weights at that step."""

    def is_stuck(self, patience: int) -> bool:
        """Whether the loss of the validation places has not fallen for so many steps."""
        return 0 < patience <= self.step - self.best_step

    def watch(self, loss: float, progress: TextIO | None) -> None:
        """Keep the averaged weights if they are the best so far."""
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = copy.deepcopy(self.averaged.state_dict())
        if progress is not None:
            best = f"lowest {self.best_loss:.4f} at step {self.best_step}"
            print(f"step {self.step} validation loss {loss:.4f}, {best}", file=progress, flush=True)

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        content: dict[str, Any] = {"recipe": self.recipe, "step": self.step}
        content |= {"net": self.net.state_dict(), "averaged": self.averaged.state_dict()}
        content |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        content |= {"best_loss": self.best_loss, "best_step": self.best_step, "best": self.best}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        torch.save(content, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on where a state was saved."""
        try:
            # Tensors and plain values only: nothing is executed.
            saved = torch.load(path, weights_only=True, map_location="cpu")
            recipe, step = saved["recipe"], int(saved["step"])
        except Exception as error:
            why = type(error).__name__
            raise InputError(f"{path}: not a training state of this program ({why}); delete it") from error
        if recipe != self.recipe:
            raise InputError(f"{path}: belongs to another training recipe; delete it or name another")
        self.net.load_state_dict(saved["net"])
        self.averaged.load_state_dict(saved["averaged"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.best_loss, self.best_step, self.best = saved["best_loss"], saved["best_step"], saved["best"]
        self.step = step


def _start(build: Callable[[], N], config: TrainConfig, scale: Tensor) -> _Run[N]:
    """A fresh network that finds next to nothing, with its optimizer and average."""
    net: N = build().to(scale.device).to(memory_format=torch.channels_last).train()
    with torch.no_grad():
        net.heads.weight[: net.n_objects] *= scale[:, None, None, None]
        net.heads.bias[: net.n_objects] = 0.0  # type: ignore[index]
    kept = {k: v for k, v in config.recipe.items() if k not in _NO_RECIPE}
    shape = {name: list(value.shape) for name, value in net.state_dict().items()}
    scaling = [*net.mean.flatten().tolist(), *net.scale.flatten().tolist(), *scale.tolist()]
    recipe = {"config": kept, "shape": shape, "scaling": scaling}
    return _Run(net, copy.deepcopy(net), make_optimizers(net, config), recipe)


@torch.no_grad()
def _update_average(averaged: nn.Module, net: nn.Module, decay: float) -> None:
    """Weights and running statistics alike."""
    for mean, now in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)


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
    for k in range(-(-samples // config.batch)):
        batch = draw_batch(patches, config, np.random.default_rng([config.seed, config.steps + k]), odds)
        net(batch.reflectance.to(config.device))
    net.eval()


def require_machine(config: TrainConfig) -> None:
    """Refuse a training for which this machine lacks a GPU or a compiler; the first time, a compiler takes seconds."""
    if config.device not in ("cpu", "cuda"):
        raise InputError(f"training: device {config.device!r} is neither cpu nor cuda")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("training: no GPU is usable here; use --device cpu")
    if config.compile:
        try:
            torch.compile(torch.sin)(torch.zeros(16, device=config.device))
        except Exception as error:  # of many kinds, as many things can be missing
            what = "a C++ compiler, with the headers of Python" if config.device == "cpu" else "Triton"
            raise InputError(f"training: --compile needs {what}; install it or give --no-compile") from error


def _numbered(path: str | Path | None, member: int, members: int) -> Path | None:
    if path is None:
        return None
    path = Path(path)
    return path if members == 1 else path.with_name(f"{path.stem}-{member + 1}{path.suffix}")


def _log(
    rows: list[dict[str, float]], curves: Path | None, progress: TextIO | None, *, left: float, steps: int
) -> None:
    """One line of means over the last steps, to the curves and to the screen."""
    told = {key: [row[key] for row in rows if key in row] for key in _COLUMNS}
    mean = {key: float(np.mean(values)) for key, values in told.items() if values} | {"step": rows[-1]["step"]}
    if curves is not None:
        fresh = not curves.exists()
        with curves.open("a", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            if fresh:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in mean.items()})
    if progress is not None:
        text = " ".join(f"{key} {value:.4f}" for key, value in mean.items() if key != "step")
        print(f"step {mean['step']:.0f}/{steps} {text} {left / 60:.1f} min left", file=progress, flush=True)


def _rounded(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
