"""The network on a GPU: a window goes there once, in few bytes, and comes back in large batches of tiles.

In: reflectance of a window and the places of its tiles. Out: densities and logits, tile by tile.

Three things run at the same time, each on its own stream: the next window is copied to the device, a batch of this
window is computed, and the batch before it is copied back. Where memory runs out, the batch is halved and the work goes
on. The same code runs on the processor, where it is tested; there each step ends before the next one begins.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpixmap.model.packing import Phase, in_squares, pack, unpacked

BATCH_PX = 2**21
"""Pixels of a batch at first; fewer once memory ran out."""
_AHEAD = 3
"""Windows on a device: one is computed, and two wait; more of them wait in the host's memory."""
_ROOM = threading.BoundedSemaphore(_AHEAD)
_NO_MEMORY = ("out of memory", "ALLOC_FAILED", "unable to find an engine")
"""CUDA's, cuBLAS's and cuDNN's words for it: cuDNN finds no way to compute a batch without memory for its workspace."""

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
    """Bands of a window."""

    bands: tuple[int, ...]
    values: Tensor
    """(band, y, x), or fewer rows and columns with a phase."""
    phase: Phase | None
    """Of pixels that stand for 2 x 2."""


class DeviceWindow:
    """A window for a device: packed in pinned memory of the host, then copied, on its own stream, without a processor.

    Keep it until its outputs are back: they are computed from its memory on the device.

    Parameters
    ----------
    reflectance
        (band, y, x); NaN where missing.
    device
        Of the recipe, such as "cuda".
    """

    def __init__(self, reflectance: NDArray[np.float32], device: str) -> None:
        self.shape, self.device = reflectance.shape, device
        self.parts = tuple(
            Part(bands, _pinned(values, torch_device(device)), phase) for bands, values, phase in pack(reflectance)
        )
        self._there: tuple[Part, ...] = ()
        self._arrived: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes that travel."""
        return sum(part.values.nbytes for part in self.parts)

    def copy_early(self) -> None:
        """Start to copy now, unless `_AHEAD` other windows lie on the device or its memory is full."""
        if not _ROOM.acquire(blocking=False):
            return
        weakref.finalize(self, _ROOM.release)
        try:
            self._copy()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

    def tensor(self) -> Tensor:
        """(band, y, x) on the device, for the current stream: int16 (see `unpacked`) or float32.

        Raises
        ------
        torch.OutOfMemoryError
            The device cannot hold it.
        """
        if self._arrived is None:
            self._copy()
        self._arrived.wait()
        first = self._there[0].values
        window = torch.empty(self.shape, dtype=first.dtype, device=first.device)
        for part in self._there:
            values = part.values if part.phase is None else in_squares(part.values, part.phase, self.shape)
            for band, layer in zip(part.bands, values, strict=True):
                window[band] = layer
        return window

    def _copy(self) -> None:
        streams = streams_of(self.device)
        with streams.module.stream(streams.there):
            there = [_copied(part.values, torch_device(self.device)) for part in self.parts]
        arrived = streams.module.Event()
        arrived.record(streams.there)
        self._there = tuple(replace(part, values=values) for part, values in zip(self.parts, there, strict=True))
        self._arrived = arrived


def _pinned(values: NDArray[Any], device: str) -> Tensor:
    host = torch.from_numpy(values)
    return host if device == "cpu" else host.pin_memory()


def _copied(host: Tensor, device: str) -> Tensor:
    """On the device, or on its way there."""
    return host.to(device, non_blocking=True)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device ran out of memory; libraries below PyTorch say it in other words than PyTorch does."""
    return isinstance(error, torch.OutOfMemoryError) or any(told in str(error) for told in _NO_MEMORY)


_ON_DEVICE: WeakKeyDictionary[torch.nn.Module, dict[str, torch.nn.Module]] = WeakKeyDictionary()


def on_device(net: torch.nn.Module, device: str) -> torch.nn.Module:
    """A copy of a network on a device, made once in a process; the network itself stays where it is."""
    copies = _ON_DEVICE.setdefault(net, {})
    if device not in copies:
        copies[device] = copy.deepcopy(net).to(torch_device(device))
    return copies[device]


def outputs(
    net: torch.nn.Module,
    window: NDArray[np.float32] | DeviceWindow,
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
        Reflectance (band, y + 2 halo, x + 2 halo), or what `DeviceWindow` made of it.
    places
        Of the tiles.
    device, tile, halo
        Such as "cuda"; useful (rows, columns) of a tile; pixels around it.
    batches
        Tiles at once; halved when memory runs out.
    tf32
        Let float32 convolutions round their operands to 10 bits.
    """
    window = window if isinstance(window, DeviceWindow) else DeviceWindow(window, device)
    streams = streams_of(device)
    with exact_convolutions(not tf32):
        pixels = window.tensor()
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
        cut = torch.stack([_cut(window, place, tile, halo) for place in places])
        out = net(unpacked(cut) if cut.dtype == torch.int16 else cut).contiguous()  # else the copy back needs memory
    except RuntimeError as error:
        if len(places) == 1 or not is_out_of_memory(error):
            raise
        out = cut = None
    if out is None:  # not in the except clause: there the exception still keeps the memory of the failed batch
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
    """A tile with its halo, filled up with missing pixels where the window ends."""
    row, col, _, _ = place
    height, width = tile[0] + 2 * halo, tile[1] + 2 * halo
    part = window[:, row : row + height, col : col + width]
    beyond = (0, width - part.shape[2], 0, height - part.shape[1])
    missing = 0 if part.dtype == torch.int16 else torch.nan
    return torch.nn.functional.pad(part, beyond, value=missing)


@contextlib.contextmanager
def exact_convolutions(exact: bool) -> Iterator[None]:
    """Float32 convolutions on a GPU in float32, not in TF32, which is the usual; then as before."""
    flags = torch.backends.cudnn
    before = flags.allow_tf32
    flags.allow_tf32 = before and not exact
    try:
        yield
    finally:
        flags.allow_tf32 = before
