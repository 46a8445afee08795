"""The training loop: patches in, a network out. Deterministic with a seed, resumes from its own state, curves to CSV.

Step by step: draw places and acquisitions, turn and jitter them, 0.5 squared error of density + 0.5 cross-entropy of
presence over labelled and valid pixels, a term on block sums against shrinkage, AdamW on a cosine, averaged weights.
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
from typing import Any, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Card, Model
from subpixmap.model.net import DensityNet
from subpixmap.reference.patches import Patches

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights besides the patches."""

    steps: int = 7500
    batch: int = 8
    """Samples a step; a sample is one acquisition of one place."""
    crop: int = 40
    """Useful pixels a side of a sample."""
    rate: float = 2e-3
    """Peak learning rate of AdamW."""
    head_rate: float = 0.1
    """That of the heads relative to `rate`: nothing normalises their output, which their many inputs all move."""
    weight_decay: float = 1e-4
    warmup: int = 100
    """Steps."""
    mse_weight: float = 0.5
    """Of the squared error; the rest is the weight of the cross-entropy."""
    block_weight: float = 1.0
    """Of the squared error of block means, which keeps sums right where pixels are uncertain."""
    block: int = 8
    """Pixels a side of such a block."""
    sample_weight: float = 4.0
    """Of the squared error of sample means: a scene is seen under one sky, so its errors are shared and add up."""
    present_above: float = 0.25
    """A reference pixel with more objects is a presence."""
    jitter_brightness: float = 0.1
    """Standard deviation of the logarithm of a gain per sample, the same in all bands. View and sun change a scene:
    its pixels hardly feel it, totals do (without this, a gain of 3 % moved the total of a scene by 17 %)."""
    jitter_gain: float = 0.04
    """Standard deviation of a gain per sample and band."""
    jitter_offset: float = 0.003
    """Standard deviation of a reflectance offset per sample and band."""
    average: float = 0.998
    """Decay of the exponential average of weights; 0 keeps the last weights."""
    seed: int = 0
    threads: int = 0
    """Of torch; 0 leaves its default. Another number may change the last bits."""
    log_every: int = 20
    save_every: int = 100

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.crop, self.block, self.log_every, self.save_every) < 1:
            raise InputError("training: steps, batch, crop, block, log_every and save_every must be at least 1")
        if not (0 <= self.mse_weight <= 1 and 0 <= self.average < 1 and self.rate > 0):
            raise InputError("training: want mse_weight in 0-1, average in [0, 1) and a positive rate")


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
    state: str | Path | None = None,
    curves: str | Path | None = None,
    progress: TextIO | None = sys.stderr,
    check: Callable[[Model], str] | None = None,
) -> Model:
    """Train the network of a card on patches.

    Parameters
    ----------
    patches
        Training split; with the card's bands and objects.
    card
        Shape, bands, objects and input statistics.
    config
        The recipe.
    state
        File from which training resumes if it exists, and to which it saves every `save_every` steps.
    curves
        CSV of step, rate and losses.
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
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    scale = _density_scale(patches)
    run = _start(card, config, scale)
    if state is not None and Path(state).exists():
        run.load(Path(state))
    rows: list[dict[str, float]] = []
    started, first = time.monotonic(), run.step
    while run.step < config.steps:
        batch = draw_batch(patches, config, np.random.default_rng([config.seed, run.step]))
        losses = loss_terms(run.net(batch.reflectance), batch, scale, config)
        for group in run.optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(run.step, config)
        run.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)
        run.optimizer.step()
        _update_average(run.averaged, run.net, min(config.average, (1 + run.step) / (10 + run.step)))
        run.step += 1
        rows.append({"step": run.step} | {name: float(value.detach()) for name, value in losses.items()})
        last = run.step == config.steps
        if run.step % config.log_every == 0 or last:
            speed = (time.monotonic() - started) / (run.step - first)
            _log(rows, curves, progress, left=speed * (config.steps - run.step), steps=config.steps)
            rows = []
        if state is not None and (run.step % config.save_every == 0 or last):
            run.save(Path(state))
        if check is not None and progress is not None and (run.step % config.save_every == 0 or last):
            print(check(Model.of(copy.deepcopy(run.averaged), card)), file=progress, flush=True)
    settle_statistics(run.averaged, patches, config)
    return Model.of(run.averaged.requires_grad_(False), card)


@dataclass(frozen=True)
class Batch:
    """Tensors of one step."""

    reflectance: Tensor
    """(n, band, y + 2 halo, x + 2 halo)."""
    count: Tensor
    """(n, object, y, x)."""
    weight: Tensor
    """(n, 1, y, x): 1 where labelled and valid, else 0."""


def draw_batch(patches: Patches, config: TrainConfig, rng: np.random.Generator) -> Batch:
    """Random crops of random acquisitions, turned, mirrored and jittered."""
    n, crop, halo = config.batch, config.crop, patches.halo
    rows, cols = patches.count.shape[-2:]
    images: list[FloatArray] = []
    counts: list[FloatArray] = []
    weights: list[FloatArray] = []
    for _ in range(n):
        for _ in range(5):  # a cloudy crop teaches little: draw again, a few times
            place, scene = rng.integers(len(patches)), rng.integers(patches.valid.shape[1])
            r, c = rng.integers(rows - crop + 1), rng.integers(cols - crop + 1)
            inner = (slice(r, r + crop), slice(c, c + crop))
            weight = patches.valid[place, scene][inner] & patches.labelled[place][inner]
            if weight.mean() > 0.7:
                break
        turn, mirror = int(rng.integers(4)), bool(rng.integers(2))
        wide = (slice(r, r + crop + 2 * halo), slice(c, c + crop + 2 * halo))
        images.append(_turned(patches.reflectance[place, scene][:, *wide], turn, mirror))
        counts.append(_turned(patches.count[place, scene][:, *inner], turn, mirror))
        weights.append(_turned(weight[None].astype(np.float32), turn, mirror))
    reflectance = np.stack(images).astype(np.float32)
    shape = (n, reflectance.shape[1], 1, 1)
    reflectance *= np.exp(rng.normal(0, config.jitter_brightness, (n, 1, 1, 1))).astype(np.float32)
    reflectance *= rng.normal(1, config.jitter_gain, shape).astype(np.float32)
    reflectance += rng.normal(0, config.jitter_offset, shape).astype(np.float32)
    return Batch(
        torch.from_numpy(reflectance),
        torch.from_numpy(np.stack(counts).astype(np.float32)),
        torch.from_numpy(np.stack(weights).astype(np.float32)),
    )


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
    mse, ce = error.square().sum() / pixels, entropy.sum() / pixels
    block, sample = (_square_of_means(error, batch.weight, px) for px in (config.block, density.shape[-1]))
    sums = config.block_weight * block + config.sample_weight * sample
    loss = config.mse_weight * (mse + sums) + (1 - config.mse_weight) * ce
    return {"loss": loss, "mse": mse.detach(), "ce": ce.detach(), "block": block.detach(), "sample": sample.detach()}


def _square_of_means(error: Tensor, weight: Tensor, px: int) -> Tensor:
    """Mean square of the errors of means over `px` x `px` pixels, where labelled; hardly labelled blocks count less."""
    share = F.avg_pool2d(weight, px)
    means = F.avg_pool2d(error, px) / share.clamp_min(1e-6)
    return (means.square() * share).sum() / (share.sum().clamp_min(1e-6) * error.shape[1])


def _matching(patches: Patches, card: Card, config: TrainConfig) -> Patches:
    if missing := set(card.objects) - set(patches.objects):
        raise InputError(f"patches lack objects {', '.join(sorted(missing))}")
    patches = patches.select_bands(card.bands)
    if patches.halo != card.halo:
        raise InputError(f"patches have a halo of {patches.halo} px, the network needs {card.halo}")
    if min(patches.count.shape[-2:]) < config.crop:
        raise InputError(f"patches of {patches.size} useful px are smaller than a crop of {config.crop}")
    index = [patches.objects.index(name) for name in card.objects]
    return dataclasses.replace(patches, count=patches.count[:, :, index], objects=card.object_names)


def _density_scale(patches: Patches) -> Tensor:
    """Per object, root mean square of the count: finding nothing has an error of 1 for the rare and for the common."""
    squares = [np.square(patches.count[:, 0, i][patches.labelled], dtype=float) for i in range(len(patches.objects))]
    for name, square in zip(patches.objects, squares, strict=True):
        if not square.any():
            raise InputError(f"the training patches hold no {name}")
    return torch.tensor([float(np.sqrt(square.mean())) for square in squares])


def rate_factor(step: int, config: TrainConfig) -> float:
    """Learning rate relative to its peak: linear warm-up, then half a cosine down to 1 %."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    along = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


@dataclass
class _Run:
    """What changes while training, and how it is kept on disk."""

    net: DensityNet
    averaged: DensityNet
    optimizer: torch.optim.Optimizer
    recipe: dict[str, Any]
    """What a state on disk must agree in."""
    step: int = 0

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        content: dict[str, Any] = {"recipe": self.recipe, "step": self.step}
        content |= {"net": self.net.state_dict(), "averaged": self.averaged.state_dict()}
        content |= {"optimizer": self.optimizer.state_dict()}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        torch.save(content, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on where a state was saved."""
        try:
            saved = torch.load(path, weights_only=True)  # tensors and plain values only: nothing is executed
            recipe, step = saved["recipe"], int(saved["step"])
        except Exception as error:
            why = type(error).__name__
            raise InputError(f"{path}: not a training state of this program ({why}); delete it") from error
        if recipe != self.recipe:
            raise InputError(f"{path}: belongs to another training recipe; delete it or name another")
        self.net.load_state_dict(saved["net"])
        self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = step


def _start(card: Card, config: TrainConfig, scale: Tensor) -> _Run:
    """A fresh network that finds next to nothing, with its optimizer and average."""
    net = card.build_net().to(memory_format=torch.channels_last).train()
    with torch.no_grad():
        net.heads.weight[: net.n_objects] *= scale[:, None, None, None]
        net.heads.bias[: net.n_objects] = 0.0  # type: ignore[index]
    groups = [
        {"params": list(part), "weight_decay": decay, "peak": peak}
        for heads, peak in ((True, config.rate * config.head_rate), (False, config.rate))
        for decay, matrices in ((config.weight_decay, True), (0.0, False))  # biases and normalisation do not decay
        if (part := [p for n, p in net.named_parameters() if (p.ndim > 1, n.startswith("heads")) == (matrices, heads)])
    ]
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("threads", "log_every", "save_every")}
    shape = [*card.bands, *card.objects, card.width, card.mid, card.blocks, *card.input_mean, *card.input_std]
    return _Run(net, copy.deepcopy(net), torch.optim.AdamW(groups, lr=config.rate), {"config": kept, "card": shape})


@torch.no_grad()
def _update_average(averaged: DensityNet, net: DensityNet, decay: float) -> None:
    """Weights and running statistics alike."""
    for mean, now in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)


@torch.no_grad()
def settle_statistics(net: DensityNet, patches: Patches, config: TrainConfig, *, batches: int = 64) -> None:
    """Measure the running statistics of the averaged weights anew: those of the steps belong to other weights.

    Predictions then no longer lean on the few scenes of a training batch (Wu and Johnson 2021, arXiv 2105.07576).
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    for k in range(batches):
        net(draw_batch(patches, config, np.random.default_rng([config.seed, config.steps + k])).reflectance)
    net.eval()


def _turned(array: FloatArray, turn: int, mirror: bool) -> FloatArray:
    array = np.rot90(array, turn, axes=(1, 2))
    return array[:, :, ::-1] if mirror else array


def _log(
    rows: list[dict[str, float]], curves: str | Path | None, progress: TextIO | None, *, left: float, steps: int
) -> None:
    """One line of means over the last steps, to the curves and to the screen."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} | {"step": rows[-1]["step"]}
    if curves is not None:
        fresh = not Path(curves).exists()
        with Path(curves).open("a", newline="") as file:
            writer = csv.DictWriter(file, list(mean))
            if fresh:
                writer.writeheader()
            writer.writerow({key: f"{value:.6g}" for key, value in mean.items()})
    if progress is not None:
        text = " ".join(f"{key} {value:.4f}" for key, value in mean.items() if key != "step")
        print(f"step {mean['step']:.0f}/{steps} {text} {left / 60:.1f} min left", file=progress, flush=True)


def _rounded(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
