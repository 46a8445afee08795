"""Batches of a training step: random crops of random acquisitions, rotated, mirrored and jittered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpixmap.reference.patches import Patches
from subpixmap.training.config import TrainConfig

FloatArray = NDArray[np.floating]


_SEEN = 0.7  # smallest share of a crop or plot that must be clear in an acquisition
_STEP = 8  # pixels between crops with known odds


@dataclass(frozen=True)
class Batch:
    """Tensors of one step."""

    reflectance: Tensor
    """(n, band, y + 2 halo, x + 2 halo)."""
    count: Tensor
    """(n, object, y, x)."""
    weight: Tensor
    """(n, 1, y, x): 1 where labelled and valid, else 0."""
    importance: Tensor
    """(n,): what undoes the odds with which a sample was drawn; 1 where all had the same."""
    share: Tensor | None = None
    """(n, 1, y, x): share of each pixel that a plot covers, so that it sums to the whole plot: pixels that are seen
    stand for those that are not. Zero without a plot, and where too little of it is seen. None without any plots."""

    def to(self, device: str) -> Batch:
        """The same on a device."""
        share = None if self.share is None else self.share.to(device)
        reflectance, count, weight, importance = (
            t.to(device) for t in (self.reflectance, self.count, self.weight, self.importance)
        )
        return Batch(reflectance, count, weight, importance, share)


@dataclass(frozen=True)
class CropOdds:
    """Sampling probability of each crop, higher for crops with more objects. Weights keep expected losses unchanged.

    Few crops of a country have dense stands, which dominate the squared error. Uniform sampling makes gradients noisy
    (importance sampling, Katharopoulos and Fleuret 2018, arXiv 1803.00942).
    """

    cumulative: NDArray[np.float64]
    """Over places, rows and columns of crops, up to 1."""
    importance: NDArray[np.float32]
    """(place, row, column): mean odds over odds."""
    last: tuple[int, int]
    """Row and column, in pixels, of the last crop in a place."""

    @classmethod
    def of(cls, patches: Patches, scale: FloatArray, config: TrainConfig) -> CropOdds:
        """Odds of 1 + `config.importance` times the root mean square of a crop's counts, each relative to `scale`."""
        rows, cols = patches.count.shape[-2:]
        last = rows - config.crop, cols - config.crop
        top, left = (np.arange(0, end + 1, _STEP) for end in last)
        squares = np.empty((len(patches), len(top), len(left)))
        for place, labelled in enumerate(patches.labelled):
            counts = patches.count[place, 0].astype(np.float32) / scale[:, None, None]
            sums = np.pad(np.where(labelled, np.square(counts).mean(axis=0), 0), ((1, 0), (1, 0)))
            sums = sums.cumsum(axis=0, dtype=float).cumsum(axis=1)
            below, right = top + config.crop, left + config.crop
            squares[place] = sums[np.ix_(below, right)] - sums[np.ix_(top, right)]
            squares[place] += sums[np.ix_(top, left)] - sums[np.ix_(below, left)]
        odds = 1 + config.importance * np.sqrt(np.maximum(squares, 0)) / config.crop
        cumulative = odds.cumsum()
        return cls(cumulative / cumulative[-1], (odds.mean() / odds).astype(np.float32), last)

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int, float]:
        """Place, row and column of a crop, and its importance."""
        index = np.searchsorted(self.cumulative, rng.random(), side="right")
        place, *cell = np.unravel_index(index, self.importance.shape)
        row, col = (min(_STEP * int(k) + int(rng.integers(_STEP)), end) for k, end in zip(cell, self.last, strict=True))
        return int(place), row, col, float(self.importance[(place, *cell)])


def draw_batch(patches: Patches, config: TrainConfig, rng: np.random.Generator, odds: CropOdds | None = None) -> Batch:
    """Random crops of random acquisitions, turned, mirrored and jittered; samples 2 k and 2 k + 1 may be a pair.

    Without `odds` all crops have equal probability.
    """
    n, crop, halo = config.batch, config.crop, patches.halo
    rows, cols = patches.count.shape[-2:]
    acquisitions = patches.valid.shape[1]
    images: list[FloatArray] = []
    counts: list[FloatArray] = []
    weights: list[FloatArray] = []
    shares: list[FloatArray] = []
    importances: list[float] = []
    while len(images) < n:
        for _ in range(5):  # draw a cloudy crop again, a few times
            if odds is None:
                place, scene = int(rng.integers(len(patches))), rng.integers(acquisitions)
                r, c, importance = int(rng.integers(rows - crop + 1)), int(rng.integers(cols - crop + 1)), 1.0
            else:
                place, r, c, importance = odds.draw(rng)
                scene = rng.integers(acquisitions)
            if patches.plots and patches.plots[place]:
                r, c = _around_plot(patches, place, crop, rng)
            scenes = [scene, (scene + rng.integers(1, acquisitions)) % acquisitions] if config.pair_weight else [scene]
            inner = (slice(r, r + crop), slice(c, c + crop))
            seen = patches.valid[place, scenes][:, *inner] & patches.labelled[place][inner]
            if _seen_share(patches, place, inner, seen).min() > _SEEN:
                break
        turn, mirror = int(rng.integers(4)), bool(rng.integers(2))
        wide = (slice(r, r + crop + 2 * halo), slice(c, c + crop + 2 * halo))
        for scene, clear in zip(scenes, seen, strict=True):
            weight, share = _known(patches, place, inner, clear)
            images.append(_turned(patches.reflectance[place, scene][:, *wide], turn, mirror))
            counts.append(_turned(patches.count[place, scene][:, *inner], turn, mirror))
            weights.append(_turned(weight[None].astype(np.float32), turn, mirror))
            shares.append(_turned(share[None].astype(np.float32), turn, mirror))
            importances.append(importance)
    reflectance = np.stack(images).astype(np.float32)
    shape = (n, reflectance.shape[1], 1, 1)
    reflectance *= np.exp(rng.normal(0, config.jitter_brightness, (n, 1, 1, 1))).astype(np.float32)
    reflectance *= rng.normal(1, config.jitter_gain, shape).astype(np.float32)
    reflectance += rng.normal(0, config.jitter_offset, shape).astype(np.float32)
    return Batch(
        torch.from_numpy(reflectance),
        torch.from_numpy(np.stack(counts).astype(np.float32)),
        torch.from_numpy(np.stack(weights).astype(np.float32)),
        torch.tensor(importances, dtype=torch.float32),
        None if patches.share is None else torch.from_numpy(np.stack(shares)),
    )


def _around_plot(patches: Patches, place: int, crop: int, rng: np.random.Generator) -> tuple[int, int]:
    """Row and column of a random crop that holds the whole plot."""
    assert patches.share is not None
    covered = patches.share[place] > 0
    corner = []
    for axis in (0, 1):
        at = np.flatnonzero(covered.any(axis=1 - axis))
        first, last = max(0, int(at[-1]) + 1 - crop), min(int(at[0]), covered.shape[axis] - crop)
        corner.append(int(rng.integers(first, max(first, last) + 1)))
    return corner[0], corner[1]


def _seen_share(
    patches: Patches, place: int, inner: tuple[slice, slice], seen: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """(acquisition,) how much of a crop, or of the plot in it, is seen."""
    if patches.share is None or not patches.plots[place]:
        return np.asarray(seen.mean(axis=(1, 2)))
    share = patches.share[place][inner]
    return np.asarray((seen * share).sum(axis=(1, 2)) / share.sum())


def _known(
    patches: Patches, place: int, inner: tuple[slice, slice], seen: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where the count is known pixel by pixel, and shares of a plot that sum to all of it (see `Batch`)."""
    if patches.share is None or not patches.plots[place]:
        return seen, np.zeros(seen.shape)
    share = patches.share[place][inner]
    clear = seen * share
    empty = not patches.count[place].any()  # a plot without objects says so of each of its pixels
    weight = seen & (share >= 1) & empty
    enough = clear.sum() > _SEEN * share.sum()
    return weight, clear * (share.sum() / clear.sum()) if enough else np.zeros(seen.shape)


def _turned(array: FloatArray, turn: int, mirror: bool) -> FloatArray:
    array = np.rot90(array, turn, axes=(1, 2))
    return array[:, :, ::-1] if mirror else array
