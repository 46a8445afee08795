"""The network on a GPU: a window goes there once, in 16 bits, and comes back in large batches of tiles.

In: reflectance of a window and the places of its tiles. Out: densities and logits, tile by tile. While one batch is
computed, the one before it travels back; where memory runs out the batch is halved and the work goes on. The same code
runs on the processor, where it is tested.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BATCH_PX = 2**21
"""Pixels of a batch at first; fewer once memory ran out."""
_LOWEST = -1001
"""Of the whole numbers that 16 bits hold, 1/10000 of reflectance: 0 stands for a missing pixel, 1 for -1000."""

Place = tuple[int, int, int, int]
"""First row and column, height and width of a tile, without halo."""


@dataclass
class Batches:
    """How many tiles go through the network at once; shared by all windows of a process."""

    tiles: int

    def no_more_than(self, tiles: int) -> None:
        """After memory ran out with more."""
        self.tiles = min(self.tiles, tiles)


_BATCHES: dict[tuple[str, tuple[int, int]], Batches] = {}


def batches_for(device: str, tile: tuple[int, int]) -> Batches:
    """Of this process."""
    return _BATCHES.setdefault((device, tile), Batches(max(1, BATCH_PX // (tile[0] * tile[1]))))


def packed(reflectance: NDArray[np.float32]) -> NDArray[np.uint16] | None:
    """Reflectance of digital numbers as whole numbers, exact; None where it is of anything else."""
    with np.errstate(invalid="ignore"):
        numbers = np.rint(reflectance * np.float32(10000))
        numbers -= np.float32(_LOWEST)
        known = np.isfinite(numbers)
        if not ((numbers[known] >= 1) & (numbers[known] <= np.iinfo(np.uint16).max)).all():
            return None
        small: NDArray[np.uint16] = np.where(known, numbers, 0).astype(np.uint16)
    back = unpacked(torch.from_numpy(small)).numpy()
    return small if np.array_equal(back, reflectance, equal_nan=True) else None


def unpacked(small: Tensor) -> Tensor:
    """As float32, on the device where it lies; NaN where a pixel is missing."""
    numbers = small.to(torch.int32)  # few operations know 16 bits without a sign
    reflectance = (numbers + _LOWEST).to(torch.float32) / 10000
    return torch.where(numbers == 0, torch.nan, reflectance)


def outputs(
    net: torch.nn.Module,
    reflectance: NDArray[np.float32],
    places: Sequence[Place],
    *,
    device: str,
    tile: tuple[int, int],
    halo: int,
    batches: Batches,
    tf32: bool = False,
) -> Iterator[NDArray[np.float32]]:
    """Outputs of the network for each tile, in the order of the places.

    Parameters
    ----------
    net
        On the device.
    reflectance
        (band, y + 2 halo, x + 2 halo).
    places
        Of the tiles.
    device, tile, halo
        Such as "cuda"; useful (rows, columns) of a tile; pixels around it.
    batches
        Tiles at once; halved when memory runs out.
    tf32
        Let float32 convolutions round their operands to 10 bits.
    """
    with _exact_convolutions(not tf32):
        window = _sent(reflectance, device)
        coming: deque[tuple[Tensor, Any]] = deque()
        left = deque(places)
        while left or coming:
            if left:
                some = [left.popleft() for _ in range(min(batches.tiles, len(left)))]
                coming.append(_started(net, window, some, tile, halo, batches))
            if len(coming) > 1 or not left:  # one batch is computed while the one before it is taken
                values, done = coming.popleft()
                if done is not None:
                    done.synchronize()
                yield from values.numpy()


def _sent(reflectance: NDArray[np.float32], device: str) -> Tensor:
    """The window on the device: 2 bytes a pixel and band where they say all, else 4."""
    small = packed(reflectance)
    host = torch.from_numpy(np.ascontiguousarray(reflectance) if small is None else small)
    if device != "cpu":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def _started(
    net: torch.nn.Module, window: Tensor, places: Sequence[Place], tile: tuple[int, int], halo: int, batches: Batches
) -> tuple[Tensor, Any]:
    """A batch under way, in memory of the host, and the event that says when it is there (None: it is)."""
    try:
        out = net(torch.stack([_cut(window, place, tile, halo) for place in places]))
    except torch.OutOfMemoryError:
        if len(places) == 1:
            raise
        middle = (len(places) + 1) // 2
        batches.no_more_than(middle)
        if window.is_cuda:
            torch.cuda.empty_cache()
        parts = [_started(net, window, some, tile, halo, batches) for some in (places[:middle], places[middle:])]
        for _, done in parts:
            if done is not None:
                done.synchronize()
        return torch.cat([values for values, _ in parts]), None
    if not out.is_cuda:
        return out, None
    host = torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
    host.copy_(out, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return host, done


def _cut(window: Tensor, place: Place, tile: tuple[int, int], halo: int) -> Tensor:
    """A tile with its halo, float32, filled up with missing pixels where the window ends."""
    row, col, _, _ = place
    height, width = tile[0] + 2 * halo, tile[1] + 2 * halo
    part = window[:, row : row + height, col : col + width]
    if part.dtype == torch.uint16:
        part = unpacked(part)
    beyond = (0, width - part.shape[2], 0, height - part.shape[1])
    return torch.nn.functional.pad(part, beyond, value=torch.nan)


@contextlib.contextmanager
def _exact_convolutions(exact: bool) -> Iterator[None]:
    """Float32 convolutions on a GPU in float32, not in TF32, which is the usual; then as before."""
    flags = torch.backends.cudnn
    before = flags.allow_tf32
    flags.allow_tf32 = before and not exact
    try:
        yield
    finally:
        flags.allow_tf32 = before
