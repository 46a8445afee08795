"""Makes tiles of training, validation and test without common objects, and augmented crops.

Images are cut into square blocks; whole blocks are held out. A block next to one of another split is used without a
strip of one object along that side, so that no object is seen by two splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.detection.labels import LabelledImage
from subpixmap.errors import InputError
from subpixmap.grid import Window

SPLITS = ("training", "validation", "test")
_LEAST_LABELLED = 0.2
"""Share of a block's pixels that must be labelled for it to be used."""
_LEAST_SEEN = 0.4
"""Share of a box that must lie in a crop for the object to be taught there."""


@dataclass(frozen=True)
class Tile:
    """A block of an image with its objects."""

    image_id: str
    window: Window
    """In pixels of the image; that of the whole block."""
    split: str
    pixels: NDArray[np.float32]
    """(band, y, x) of the block."""
    usable: NDArray[np.bool_]
    """(y, x): valid, labelled, and not seen by another split."""
    boxes: NDArray[np.float64]
    """(object, 4) in pixels of the block; all that touch it."""
    kinds: NDArray[np.int64]
    """(object,) index of its name."""

    @property
    def own(self) -> NDArray[np.bool_]:
        """(object,) whether its centre lies on usable pixels of this block: there each object is once."""
        return centred_on(self.usable, self.boxes)


@dataclass(frozen=True)
class Crop:
    """What the network learns from once."""

    pixels: NDArray[np.float32]
    """(band, y, x)."""
    usable: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    kinds: NDArray[np.int64]


def cut_tiles(
    labelled: Sequence[LabelledImage],
    objects: Sequence[str],
    *,
    side: int,
    held_out: float = 0.3,
    test: Sequence[str] = (),
    seed: int = 0,
) -> list[Tile]:
    """Blocks of images, each of one split.

    Parameters
    ----------
    labelled
        Images of one kind.
    objects
        Names, in the order of the network's outputs.
    side
        Of a block, pixels.
    held_out
        Share of the blocks for validation and test, half of it each.
    test
        Ids of images that are wholly for test; then the other blocks held out are for validation.
    seed
        Of the draw.

    Raises
    ------
    InputError
        An unknown image, or too few blocks with objects for three splits.
    """
    if unknown := set(test) - {one.image.id for one in labelled}:
        raise InputError(f"--test {', '.join(sorted(unknown))}: no labelled image has this name")
    blocks = [block for one in labelled for block in _blocks(one, side)]
    numbers = np.array([len(_centres_in(one, window)) for one, window in blocks])
    splits = _draw(blocks, numbers, held_out, test, seed)
    for split in SPLITS:
        if not numbers[splits == split].sum():
            raise InputError(
                f"too little is labelled: of {len(blocks)} blocks of {side} px none with objects is left for "
                f"{split}; label more, or use a smaller --tile"
            )
    strip = int(np.ceil(max(_longest(one.boxes) for one in labelled)))
    return [_tile(*block, splits, k, blocks, objects, min(strip, side // 4)) for k, block in enumerate(blocks)]


def draw_crop(tile: Tile, size: int, rng: np.random.Generator) -> Crop:
    """A square of a tile, turned, mirrored and changed in brightness; filled up where the tile is smaller."""
    height, width = tile.usable.shape
    top, left = (int(rng.integers(min(0, extent - size), max(0, extent - size) + 1)) for extent in (height, width))
    pixels = np.zeros((len(tile.pixels), size, size), np.float32)
    usable = np.zeros((size, size), bool)
    want, has = Window(top, left, size, size), Window(0, 0, height, width)
    part = want.overlap(has)
    assert part is not None
    pixels[:, *part.slices(want)] = tile.pixels[:, *part.slices(has)]
    usable[part.slices(want)] = tile.usable[part.slices(has)]
    boxes = tile.boxes - np.array([left, top, left, top])
    clipped = np.clip(boxes, 0, size)
    seen = _areas(clipped) >= _LEAST_SEEN * _areas(boxes)
    seen &= centred_on(usable, clipped)
    pixels, usable, boxes = _turned(pixels, usable, clipped[seen], int(rng.integers(8)))
    gain = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.04, (len(pixels), 1, 1)))
    return Crop((pixels * gain).astype(np.float32), usable, boxes, tile.kinds[seen])


def centred_on(usable: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(object,) whether the pixel at the centre of its box is usable."""
    col, row = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2).astype(int).T
    height, width = usable.shape
    inside: NDArray[np.bool_] = (col >= 0) & (row >= 0) & (col < width) & (row < height)
    inside[inside] = usable[row[inside], col[inside]]
    return inside


def _blocks(one: LabelledImage, side: int) -> list[tuple[LabelledImage, Window]]:
    """Squares of an image that hold labelled land; a narrow rest at an edge belongs to its neighbour."""
    mask = one.mask()
    tops, lefts = (_cuts(extent, side) for extent in mask.shape)
    windows = [
        Window(top, left, bottom - top, right - left)
        for top, bottom in zip(tops, [*tops[1:], mask.shape[0]], strict=True)
        for left, right in zip(lefts, [*lefts[1:], mask.shape[1]], strict=True)
    ]
    return [(one, w) for w in windows if mask[w.slices(one.image.window)].mean() >= _LEAST_LABELLED]


def _cuts(extent: int, side: int) -> list[int]:
    return [k * side for k in range(max(1, round(extent / side)))]


def _centres_in(one: LabelledImage, window: Window) -> NDArray[np.int64]:
    col, row = np.floor((one.boxes[:, :2] + one.boxes[:, 2:]) / 2).T - np.array([[window.col], [window.row]])
    return np.flatnonzero((col >= 0) & (row >= 0) & (col < window.width) & (row < window.height))


def _draw(
    blocks: Sequence[tuple[LabelledImage, Window]],
    numbers: NDArray[np.integer],
    held_out: float,
    test: Sequence[str],
    seed: int,
) -> NDArray[np.object_]:
    """(block,) split: of many draws the one that shares out blocks and objects best."""
    rng = np.random.default_rng(seed)
    fixed = np.array([one.image.id in test for one, _ in blocks])
    free = np.flatnonzero(~fixed)
    shares = (1 - held_out, held_out if test else held_out / 2, 0.0 if test else held_out / 2)
    sizes = np.maximum(np.round(np.array(shares[1:]) * len(free)).astype(int), [1, 0 if test else 1])
    best, least = np.full(len(blocks), "test", object), np.inf
    for _ in range(200):
        order = rng.permutation(free)
        drawn = np.full(len(blocks), "test", object)
        drawn[order] = "training"
        drawn[order[: sizes[0]]] = "validation"
        drawn[order[sizes[0] : sizes.sum()]] = "test"
        held = [numbers[free][drawn[free] == split].sum() / max(numbers[free].sum(), 1) for split in SPLITS]
        off = float(np.abs(np.array(held) - np.array(shares)).sum())
        if off < least:
            best, least = drawn, off
    return best


def _tile(
    one: LabelledImage,
    window: Window,
    splits: NDArray[np.object_],
    number: int,
    blocks: Sequence[tuple[LabelledImage, Window]],
    objects: Sequence[str],
    strip: int,
) -> Tile:
    """A block without the strips beside blocks of other splits."""
    split = splits[number]
    pixels, valid = one.image.read(window)
    usable = valid & one.mask()[window.slices(one.image.window)]
    for k, (other, there) in enumerate(blocks):
        if splits[k] == split or other.image.id != one.image.id:
            continue
        near = Window(there.row - strip, there.col - strip, there.height + 2 * strip, there.width + 2 * strip)
        if (part := near.overlap(window)) is not None:
            usable[part.slices(window)] = False
    boxes = one.boxes - np.array([window.col, window.row, window.col, window.row])
    limits = np.array([window.width, window.height])
    touches = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < limits).all(axis=1)
    kinds = np.array([objects.index(name) for name in one.names], np.int64)
    return Tile(one.image.id, window, str(split), pixels, usable, boxes[touches], kinds[touches])


def _turned(
    pixels: NDArray[np.float32], usable: NDArray[np.bool_], boxes: NDArray[np.float64], turn: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """One of the eight turns and mirrors of a square."""
    size = usable.shape[0]
    x0, y0, x1, y1 = boxes.T
    if turn & 1:
        pixels, usable = pixels[..., ::-1], usable[:, ::-1]
        x0, x1 = size - x1, size - x0
    if turn & 2:
        pixels, usable = pixels[:, ::-1], usable[::-1]
        y0, y1 = size - y1, size - y0
    if turn & 4:
        pixels, usable = pixels.transpose(0, 2, 1), usable.T
        x0, y0, x1, y1 = y0, x0, y1, x1
    return np.ascontiguousarray(pixels), np.ascontiguousarray(usable), np.column_stack([x0, y0, x1, y1])


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))


def _longest(boxes: NDArray[np.float64]) -> float:
    return float((boxes[:, 2:] - boxes[:, :2]).max()) if len(boxes) else 0.0
