"""Prepares a detector from labelled images: objects, scale, anchors, statistics and tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.detection.detector import DetectorCard
from subpixmap.detection.images import require_alike
from subpixmap.detection.labels import LabelledImage
from subpixmap.detection.tiles import Tile, cut_tiles
from subpixmap.errors import InputError

_LEAST_PX = 10.0
"""Network pixels of nine in ten objects: more than two of the finest features, which lie 4 apart."""
_SCALES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


def prepare(
    labelled: Sequence[LabelledImage],
    *,
    name: str,
    evidence: str,
    tile: int | None = None,
    crop: int = 128,
    held_out: float = 0.3,
    test: Sequence[str] = (),
    channels: int = 64,
    seed: int = 0,
) -> tuple[DetectorCard, list[Tile]]:
    """The card of an untrained detector, and the tiles to train it on.

    Parameters
    ----------
    labelled
        From `read_labels`.
    name, evidence
        For the card.
    tile
        Side of a block, pixels; one and a half crops when None.
    crop
        Side of a crop, pixels.
    held_out, test, seed
        See `cut_tiles`.
    channels
        Of the heads.

    Raises
    ------
    InputError
        Images of different kinds, a type of which the largest value is not known, too little labelled land.
    """
    images = [one.image for one in labelled]
    require_alike(images)
    objects = tuple(sorted({name for one in labelled for name in one.names}))
    sides = np.concatenate([_sides(one) for one in labelled])
    names = np.concatenate([np.array(one.names, object) for one in labelled])
    resolution = float(np.median([image.resolution for image in images]))
    small = float(np.quantile(sides, 0.1))
    scale = next((one for one in _SCALES if one * small >= _LEAST_PX), _SCALES[-1])
    tiles = cut_tiles(labelled, objects, side=tile or crop * 3 // 2, held_out=held_out, test=test, seed=seed)
    mean, std = _statistics([t for t in tiles if t.split == "training"], images[0].dtype)
    if not (std > 0).all():
        raise InputError(f"a band of {images[0].path.name} has only one value and cannot be used; give other images")
    card = DetectorCard(
        name=name,
        objects=objects,
        bands=images[0].bands,
        dtype=images[0].dtype,
        resolution=round(resolution, 6),
        scale=scale,
        anchors=_anchors(sides * scale),
        input_mean=tuple(mean.round(6).tolist()),
        input_std=tuple(std.round(6).tolist()),
        sizes={one: round(float(np.median(sides[names == one])) * resolution, 3) for one in objects},
        largest=round(float(sides.max()) * resolution, 3),
        evidence=evidence,
        channels=channels,
        training=_facts(labelled, tiles),
    )
    return card, tiles


def _sides(one: LabelledImage) -> NDArray[np.float64]:
    """(object,) geometric mean of the sides of its box, pixels."""
    return np.asarray(np.sqrt(np.prod(one.boxes[:, 2:] - one.boxes[:, :2], axis=1)))


def _anchors(sides: NDArray[np.float64]) -> tuple[float, ...]:
    """Sides of boxes to start from, in steps of at most 1.6 over the middle nine tenths of the objects."""
    low, high = np.quantile(sides, [0.05, 0.95])
    n = max(1, int(np.ceil(np.log(high / low) / np.log(1.6))))
    return tuple(round(float(low * (high / low) ** ((k + 0.5) / n)), 2) for k in range(n))


def _statistics(tiles: Sequence[Tile], dtype: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    full = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}[dtype]
    pixels = np.concatenate([t.pixels[:, t.usable] for t in tiles], axis=1).astype(float) / full
    return pixels.mean(axis=1), pixels.std(axis=1)


def _facts(labelled: Sequence[LabelledImage], tiles: Sequence[Tile]) -> dict[str, Any]:
    """For the card: images, objects and blocks of each split."""
    return {
        "images": [one.image.path.name for one in labelled],
        "image_dates": sorted({one.image.image_date or "not stated" for one in labelled}),
        "objects": sum(len(one.boxes) for one in labelled),
        "empty_images": sum(not len(one.boxes) for one in labelled),
        "blocks": {split: sum(t.split == split for t in tiles) for split in ("training", "validation", "test")},
        "objects_in_blocks": {
            split: int(sum(t.own.sum() for t in tiles if t.split == split))
            for split in ("training", "validation", "test")
        },
    }
