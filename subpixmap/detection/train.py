"""Trains a detector: tiles in, a detector with card and errors out.

A step draws crops, turns them and changes their brightness, and moves the weights by AdamW down RetinaNet's losses
(focal and L1) along a cosine; the weights are averaged. Every so often the average is tried on validation blocks; the
best is kept, with the score that balances there. Test blocks are looked at once, at the end. A seed decides every bit
of a training, and an interrupted one goes on.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import torch
from torch import Tensor, nn

from subpixmap.detection.config import DetectConfig
from subpixmap.detection.detector import Detector, DetectorCard, load_weights, require_device
from subpixmap.detection.matching import NOTHING, Tally, match
from subpixmap.detection.predict import Boxes, network_input, predict_boxes
from subpixmap.detection.tiles import Crop, Tile, draw_crop
from subpixmap.errors import InputError

if TYPE_CHECKING:
    from torchvision.models.detection import RetinaNet

_COLUMNS = ("step", "loss", "classification", "bbox_regression", "f1", "count_bias", "score")
"""Of the curves; the last three are of the validation blocks."""
_LEAST_SCORE = 0.05
_SCORES = np.round(np.arange(0.1, 0.91, 0.02), 2)
_ENOUGH_F1 = 0.005
"""Loss of F1 accepted for a smaller count bias when the score is chosen."""


@dataclass
class _Run:
    """What changes while a detector trains."""

    net: RetinaNet
    averaged: RetinaNet
    optimizer: torch.optim.Optimizer
    recipe: dict[str, Any]
    step: int = 0
    best: dict[str, Tensor] | None = None
    best_f1: float = -1.0
    best_score: float = 0.5
    best_step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        content = {
            name: getattr(self, name) for name in ("recipe", "step", "best", "best_f1", "best_score", "best_step")
        }
        for name in ("net", "averaged", "optimizer"):
            content[name] = getattr(self, name).state_dict()
        partial = path.with_name(path.name + ".partial")
        torch.save(content, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        try:
            saved = torch.load(path, weights_only=True, map_location="cpu")  # tensors and plain values only
            recipe = saved["recipe"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
            why = type(error).__name__
            raise InputError(f"{path}: is not a training state of this program ({why}); delete it") from error
        if recipe != self.recipe:
            raise InputError(f"{path}: belongs to another training; delete it, or use another --output")
        for name in ("net", "averaged", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])
        for name in ("step", "best", "best_f1", "best_score", "best_step"):
            setattr(self, name, saved[name])


def train_detector(
    tiles: Sequence[Tile],
    card: DetectorCard,
    config: DetectConfig,
    *,
    weights: Path | None = None,
    state: Path | None = None,
    curves: Path | None = None,
    progress: TextIO | None = None,
) -> Detector:
    """Train a detector.

    Parameters
    ----------
    tiles
        Of all three splits, from `cut_tiles`.
    card
        What is known before: objects, bands, scaling, anchors.
    config
        The recipe.
    weights
        safetensors to start from, instead of random weights.
    state
        File from which the training resumes if it exists, and to which it saves.
    curves
        CSV of losses by step, and of what the validation blocks say.
    progress
        Where lines of progress go.

    Returns
    -------
    Detector
        Its card holds the score that was chosen and the error on the test blocks.
    """
    by_split = {split: [tile for tile in tiles if tile.split == split] for split in ("training", "validation", "test")}
    distance = config.distance or float(np.median(list(card.sizes.values()))) / 2
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        run, started_with = _start(card, config, weights)
        if state is not None and state.exists():
            run.load(state)
        began, first = time.monotonic(), run.step
        while run.step < config.steps:
            losses = _take_step(run, _batch(by_split["training"], config, run.step), card, config)
            run.rows.append(losses)
            if run.step % config.check_every and run.step != config.steps:
                continue
            told = _check(run, by_split["validation"], card, distance)
            left = (time.monotonic() - began) / (run.step - first) * (config.steps - run.step)
            _log(run, told, curves, progress, left=left, steps=config.steps)
            if state is not None:
                run.save(state)
    assert run.best is not None  # the last step looks at the validation blocks
    run.averaged.load_state_dict(run.best)
    card = dataclasses.replace(card, score=run.best_score)
    detector = Detector.of(run.averaged.cpu().requires_grad_(False), card)
    training = dict(card.training) | {"config": dataclasses.asdict(config), "kept_step": run.best_step}
    training |= {"weights": "random" if weights is None else weights.name, "tensors_taken": started_with}
    error: dict[str, Any] = {
        split: evaluate_tiles(detector, by_split[split], distance) for split in ("validation", "test")
    }
    error["matching_distance_m"] = round(distance, 3)
    return Detector.of(detector.net, dataclasses.replace(card, training=training, error=error))


def evaluate_tiles(detector: Detector, tiles: Sequence[Tile], distance: float) -> dict[str, Any]:
    """Recall, precision, F1 and count bias of all objects together and of each, on blocks."""
    card = detector.card
    by_kind = dict.fromkeys(card.objects, NOTHING)
    together = NOTHING
    for tile, boxes in _detected(detector, tiles, card.score):
        for kind, name in enumerate(card.objects):
            by_kind[name] += _tally(tile, boxes, distance / card.resolution, kind)
        together += _tally(tile, boxes, distance / card.resolution)
    facts: dict[str, Any] = {"blocks": len(tiles), "all": together.facts()}
    return facts | {name: tally.facts() for name, tally in by_kind.items()}


def _start(card: DetectorCard, config: DetectConfig, weights: Path | None) -> tuple[_Run, int]:
    net = card.build_net()
    taken = 0 if weights is None else load_weights(net, weights)
    require_device(config.device)
    net = net.to(config.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name != "device"}
    return _Run(net, copy.deepcopy(net).eval(), optimizer, {"config": kept, "card": card.to_json()}), taken


def _batch(tiles: Sequence[Tile], config: DetectConfig, step: int) -> list[Crop]:
    """Crops of a step; two thirds of blocks with objects, the rest of any."""
    rng = np.random.default_rng([config.seed, step])
    filled = [tile for tile in tiles if tile.own.any()] or list(tiles)
    chosen = [(filled if rng.random() < 2 / 3 else tiles) for _ in range(config.batch)]
    return [draw_crop(pool[int(rng.integers(len(pool)))], config.crop, rng) for pool in chosen]


def _take_step(run: _Run, crops: Sequence[Crop], card: DetectorCard, config: DetectConfig) -> dict[str, float]:
    images = [network_input(card, crop.pixels, crop.usable).to(config.device) for crop in crops]
    targets = [
        {
            "boxes": torch.from_numpy(crop.boxes * card.scale).float().reshape(-1, 4).to(config.device),
            "labels": torch.from_numpy(crop.kinds).to(config.device),
        }
        for crop in crops
    ]
    losses = run.net(images, targets)
    loss = losses["classification"] + losses["bbox_regression"]
    run.net.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.net.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = config.rate * _rate_factor(run.step, config)
    run.optimizer.step()
    decay = min(config.average, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        for mean, now in zip(run.averaged.state_dict().values(), run.net.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(now, 1 - decay)
    run.step += 1
    return {"step": run.step, "loss": float(loss.detach())} | {k: float(v.detach()) for k, v in losses.items()}


def _rate_factor(step: int, config: DetectConfig) -> float:
    """Linear warm-up, then half a cosine down to 1 %."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    along = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


def _check(run: _Run, tiles: Sequence[Tile], card: DetectorCard, distance: float) -> dict[str, float]:
    """Look at the validation blocks; keep the averaged weights if they are the best so far."""
    detector = Detector(run.averaged.eval(), card, "", 0)
    found = list(_detected(detector, tiles, _LEAST_SCORE))
    score, tally = choose_score(found, distance / card.resolution)
    f1 = 0.0 if math.isnan(tally.f1) else tally.f1
    if f1 >= run.best_f1:
        run.best_f1, run.best_score, run.best_step = f1, score, run.step
        run.best = copy.deepcopy(run.averaged.state_dict())
    return {"f1": f1, "count_bias": tally.bias, "score": score}


def choose_score(found: Sequence[tuple[Tile, Boxes]], distance: float) -> tuple[float, Tally]:
    """Of the scores whose F1 is nearly the best, the one whose number of detections is nearest to that of objects."""
    tallies = []
    for score in _SCORES:
        parts = [_tally(tile, boxes[boxes.score >= score], distance) for tile, boxes in found]
        tallies.append(sum(parts, NOTHING))
    f1 = np.nan_to_num([tally.f1 for tally in tallies])
    good = np.flatnonzero(f1 >= f1.max() - _ENOUGH_F1)
    chosen = min(good.tolist(), key=lambda k: abs(tallies[k].detected - tallies[k].true))
    return float(_SCORES[chosen]), tallies[chosen]


def _detected(detector: Detector, tiles: Sequence[Tile], score: float) -> Any:
    """(tile, its detections on usable pixels)."""
    for tile in tiles:
        yield tile, predict_boxes(detector, tile.pixels, tile.usable, score=score)


def _tally(tile: Tile, boxes: Boxes, distance: float, kind: int | None = None) -> Tally:
    """Objects of a tile against detections; of one kind, or of all with their kinds."""
    true, kinds = tile.boxes[tile.own], tile.kinds[tile.own]
    found, found_kinds = boxes.xyxy, boxes.kind
    if kind is not None:
        true, kinds, found, found_kinds = (a for pair in ((true, kinds), (found, found_kinds))
                                           for a in (pair[0][pair[1] == kind], pair[1][pair[1] == kind]))  # fmt: skip
    centres = [(one[:, :2] + one[:, 2:]) / 2 for one in (found, true)]
    pairs, _ = match(centres[0], centres[1], distance, found_kind=found_kinds, true_kind=kinds)
    return Tally(len(pairs), len(found), len(true))


def _log(
    run: _Run, told: dict[str, float], curves: Path | None, progress: TextIO | None, *, left: float, steps: int
) -> None:
    """A line of means since the last look, with what the validation blocks say."""
    mean = {name: float(np.mean([row[name] for row in run.rows])) for name in _COLUMNS[1:4]}
    run.rows = []
    row = {"step": float(run.step)} | mean | told
    if curves is not None:
        fresh = not curves.exists()
        with curves.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            if fresh:
                writer.writeheader()
            writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
    if progress is not None:
        text = f"loss {mean['loss']:.3f}, validation F1 {told['f1']:.3f}, count bias {100 * told['count_bias']:+.1f} %"
        print(f"step {run.step}/{steps} {text}, {left / 60:.1f} min left", file=progress, flush=True)
