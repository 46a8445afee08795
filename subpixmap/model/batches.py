"""What a training step sees: random crops of random acquisitions, turned, mirrored and jittered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpixmap.model.config import TrainConfig
from subpixmap.reference.patches import Patches

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Batch:
    """Tensors of one step."""

    reflectance: Tensor
    """(n, band, y + 2 halo, x + 2 halo)."""
    count: Tensor
    """(n, object, y, x)."""
    weight: Tensor
    """(n, 1, y, x): 1 where labelled and valid, else 0."""

    def to(self, device: str) -> Batch:
        """The same on a device."""
        return Batch(self.reflectance.to(device), self.count.to(device), self.weight.to(device))


def draw_batch(patches: Patches, config: TrainConfig, rng: np.random.Generator) -> Batch:
    """Random crops of random acquisitions, turned, mirrored and jittered; samples 2 k and 2 k + 1 may be a pair."""
    n, crop, halo = config.batch, config.crop, patches.halo
    rows, cols = patches.count.shape[-2:]
    acquisitions = patches.valid.shape[1]
    images: list[FloatArray] = []
    counts: list[FloatArray] = []
    weights: list[FloatArray] = []
    while len(images) < n:
        for _ in range(5):  # a cloudy crop teaches little: draw again, a few times
            place, scene = rng.integers(len(patches)), rng.integers(acquisitions)
            r, c = rng.integers(rows - crop + 1), rng.integers(cols - crop + 1)
            scenes = [scene, (scene + rng.integers(1, acquisitions)) % acquisitions] if config.pair_weight else [scene]
            inner = (slice(r, r + crop), slice(c, c + crop))
            seen = patches.valid[place, scenes][:, *inner] & patches.labelled[place][inner]
            if seen.mean(axis=(1, 2)).min() > 0.7:
                break
        turn, mirror = int(rng.integers(4)), bool(rng.integers(2))
        wide = (slice(r, r + crop + 2 * halo), slice(c, c + crop + 2 * halo))
        for scene, weight in zip(scenes, seen, strict=True):
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


def _turned(array: FloatArray, turn: int, mirror: bool) -> FloatArray:
    array = np.rot90(array, turn, axes=(1, 2))
    return array[:, :, ::-1] if mirror else array
