"""The network on a GPU: a window goes there once, in few bytes, and comes back in large batches of tiles.

In: reflectance of a window and the places of its tiles. Out: densities and logits, tile by tile.

Three things run at the same time, each on its own stream: the next window is copied to the device, a batch of this
window is computed, and the batch before it is copied back. Where memory runs out, the batch is halved and the work goes
on. The same code runs on the processor, where it is tested; there each step ends before the next one begins.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpixmap.model.packing import Phase, in_squares, once, packed, repeated_bands, unpacked

BATCH_PX = 2**21
"""Pixels of a batch at first; fewer once memory ran out."""

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


@dataclass(frozen=True)
class Streams:
    """Where copies run; the network runs on the current stream."""

    module: Any
    """`torch.cuda`, or `torch.cpu`, which has the same functions."""
    there: Any
    """From the host to the device."""
    back: Any


@cache
def streams_of(device: str) -> Streams:
    """Of this process."""
    module = torch.get_device_module(torch_device(device))
    return Streams(module, module.Stream(), module.Stream())


def torch_device(name: str) -> str:
    """The device of PyTorch that computes for a device of a recipe; tests put the processor in the place of a GPU."""
    return name


@dataclass(frozen=True)
class Part:
    """Bands of a window on the device."""

    bands: tuple[int, ...]
    values: Tensor
    """(band, y, x), or fewer rows and columns with a phase."""
    phase: Phase | None
    """Of pixels that were sent once and stand for 2 x 2."""


@dataclass(frozen=True)
class Sent:
    """A window on its way to the device. Keep it until its outputs are back: they are computed from its memory."""

    shape: tuple[int, int, int]
    """(band, y, x) of the whole window."""
    parts: tuple[Part, ...]
    arrived: Any
    """Event."""

    def window(self) -> Tensor:
        """(band, y, x) on the device, for the current stream; in 16 bits (see `unpacked`) or float32."""
        self.arrived.wait()
        first = self.parts[0].values
        window = torch.empty(self.shape, dtype=first.dtype, device=first.device)
        for part in self.parts:
            values = part.values if part.phase is None else in_squares(part.values, part.phase, self.shape)
            for band, layer in zip(part.bands, values, strict=True):
                window[band] = layer
        return window

    @property
    def nbytes(self) -> int:
        """Bytes that travelled."""
        return sum(part.values.nbytes for part in self.parts)


def send(reflectance: NDArray[np.float32], device: str) -> Sent:
    """Start to copy a window to the device, in as few bytes as hold it exactly.

    1. Bands that repeat every pixel 2 x 2 times (20 m, on a lattice of 10 m) travel with each pixel once.
    2. Digital numbers travel in 16 bits: with 1., 11 bytes a pixel for the ten bands of Sentinel-2, instead of 40.
    3. The copy has its own stream, and leaves from pinned memory, so nothing waits for it but who needs the window.

    Parameters
    ----------
    reflectance
        (band, y, x); NaN where missing.
    device
        Of the recipe, such as "cuda".

    Returns
    -------
    Sent
        Bit-identical to the reflectance once it has arrived.

    Raises
    ------
    torch.OutOfMemoryError
        The device cannot hold it.
    """
    coarse, phase = repeated_bands(reflectance)  # 1.
    fine = tuple(band for band in range(len(reflectance)) if band not in coarse)
    groups = [(bands, first) for bands, first in ((fine, None), (coarse, phase)) if bands]
    values = [reflectance[list(bands)] if first is None else once(reflectance, bands, first) for bands, first in groups]
    small = [packed(one) for one in values]  # 2.
    whole = [one.view(np.int16) for one in small if one is not None]
    hosts = whole if len(whole) == len(values) else values
    streams = streams_of(device)
    with streams.module.stream(streams.there):  # 3.
        copies = [_copied(host, torch_device(device)) for host in hosts]
    arrived = streams.module.Event()
    arrived.record(streams.there)
    parts = (Part(bands, copy, first) for (bands, first), copy in zip(groups, copies, strict=True))
    return Sent(reflectance.shape, tuple(parts), arrived)


def _copied(values: NDArray[Any], device: str) -> Tensor:
    """On the device, or on its way there."""
    host = torch.from_numpy(values)
    return (host if device == "cpu" else host.pin_memory()).to(device, non_blocking=True)


def outputs(
    net: torch.nn.Module,
    window: NDArray[np.float32] | Sent,
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
    window
        Reflectance (band, y + 2 halo, x + 2 halo), or what `send` made of it.
    places
        Of the tiles.
    device, tile, halo
        Such as "cuda"; useful (rows, columns) of a tile; pixels around it.
    batches
        Tiles at once; halved when memory runs out.
    tf32
        Let float32 convolutions round their operands to 10 bits.
    """
    sent = window if isinstance(window, Sent) else send(window, device)
    streams = streams_of(device)
    with _exact_convolutions(not tf32):
        pixels = sent.window()
        coming: deque[_Coming] = deque()
        left = deque(places)
        while left or coming:
            if left:
                some = [left.popleft() for _ in range(min(batches.tiles, len(left)))]
                coming.append(_started(net, pixels, some, tile, halo, batches, streams))
            if len(coming) > 1 or not left:  # one batch is computed while the one before it is taken
                yield from coming.popleft().taken()


@dataclass(frozen=True)
class _Coming:
    """Outputs of a batch on their way to the host."""

    values: Tensor
    """In memory of the host."""
    there: Tensor
    """On the device; kept until it is copied, because its memory would be used again."""
    copied: Any
    """Event."""

    def taken(self) -> NDArray[np.float32]:
        """Waits for the copy."""
        self.copied.synchronize()
        values: NDArray[np.float32] = self.values.numpy()
        return values


def _started(
    net: torch.nn.Module,
    window: Tensor,
    places: Sequence[Place],
    tile: tuple[int, int],
    halo: int,
    batches: Batches,
    streams: Streams,
) -> _Coming:
    """A batch under way: computed on the current stream, copied back on another."""
    try:
        out = net(torch.stack([_cut(window, place, tile, halo) for place in places]))
    except torch.OutOfMemoryError:
        if len(places) == 1:
            raise
        out = None
    if out is None:  # after the exception, which holds the memory of what it interrupted
        middle = (len(places) + 1) // 2
        batches.no_more_than(middle)
        if window.is_cuda:
            torch.cuda.empty_cache()
        halves = [
            _started(net, window, some, tile, halo, batches, streams) for some in (places[:middle], places[middle:])
        ]
        values = torch.from_numpy(np.concatenate([half.taken() for half in halves]))
        return _Coming(values, values, halves[-1].copied)
    computed = streams.module.Event()
    computed.record()
    with streams.module.stream(streams.back):
        computed.wait()
        host = torch.empty(out.shape, dtype=out.dtype, pin_memory=out.is_cuda)
        host.copy_(out, non_blocking=True)
    copied = streams.module.Event()
    copied.record(streams.back)
    return _Coming(host, out, copied)


def _cut(window: Tensor, place: Place, tile: tuple[int, int], halo: int) -> Tensor:
    """A tile with its halo, float32, filled up with missing pixels where the window ends."""
    row, col, _, _ = place
    height, width = tile[0] + 2 * halo, tile[1] + 2 * halo
    part = window[:, row : row + height, col : col + width]
    if part.dtype == torch.int16:
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
