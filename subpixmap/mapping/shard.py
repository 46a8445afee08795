"""Reads inner chunks of a shard of the map directly, without the overhead of Zarr per chunk.

A shard (Zarr v3, `sharding_indexed`) holds inner chunks, each compressed and with a checksum, and at its end an index
of offsets and lengths with a checksum. Zarr reads it with one asynchronous task per chunk, which takes several times as
long as the decompression; the totals of a country read hundreds of thousands of chunks.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import decompress
from numpy.typing import NDArray

from subpixmap.grid import CHUNK, Window

_ABSENT = 2**64 - 1  # offset and length of a chunk that was never written


@dataclass(frozen=True)
class Shard:
    """A shard's file, and how its inner chunks are stored."""

    path: Path
    window: Window
    """Its pixels, whole inner chunks."""
    layers: int
    """Length of the axis before y and x: objects, or 1."""
    dtype: str
    """Of the stored values."""
    fill: int
    """The stored value of a chunk that was never written."""


def spread(shard: Shard, chunks: Sequence[Window], stored: NDArray[Any]) -> NDArray[Any]:
    """(layer, chunk, 256, 256) of the given inner chunks -> (layer, y, x) of the whole shard, filled elsewhere."""
    height, width = shard.window.shape
    whole = len(set(chunks)) == height * width // CHUNK**2
    shape = (shard.layers, height, width)
    values = np.empty(shape, shard.dtype) if whole else np.full(shape, shard.fill, shard.dtype)
    for i, chunk in enumerate(chunks):
        rows, cols = chunk.slices(shard.window)
        values[:, rows, cols] = stored[:, i]
    return values


def decode_chunks(shard: Shard, content: bytes, chunks: Sequence[Window]) -> NDArray[Any]:
    """(layer, chunk, 256, 256): inner chunks of a shard's bytes, one after the other.

    Raises
    ------
    ValueError, RuntimeError, struct.error
        The bytes are damaged; every chunk and the index carry a checksum.
    """
    raw = memoryview(content)
    down, across = shard.window.height // CHUNK, shard.window.width // CHUNK
    index = _index(raw, shard.layers * down * across).reshape(shard.layers, down, across, 2)
    stored = np.empty((shard.layers, len(chunks), CHUNK, CHUNK), np.dtype(shard.dtype).newbyteorder("<"))
    for layer, (i, chunk) in itertools.product(range(shard.layers), enumerate(chunks)):
        rows, cols = chunk.slices(shard.window)
        offset, length = (int(v) for v in index[layer, rows.start // CHUNK, cols.start // CHUNK])
        target = stored[layer, i]
        if offset == length == _ABSENT:
            target[:] = shard.fill
            continue
        values = _checked(raw[offset : offset + length], "an inner chunk")
        (size,) = struct.unpack_from("<I", values, 4)  # Blosc's header says how many bytes come out
        if size != target.nbytes:
            raise ValueError(f"an inner chunk holds {size} bytes instead of {target.nbytes}")
        decompress(values, target)
    return stored


def _index(raw: memoryview, n: int) -> NDArray[np.uint64]:
    """(n, 2) offset and length of every inner chunk."""
    start = len(raw) - 16 * n - 4
    if start < 0:
        raise ValueError(f"a shard of {len(raw)} bytes is too short for its index")
    return np.frombuffer(_checked(raw[start:], "the index"), "<u8").reshape(n, 2)


def _checked(raw: memoryview, what: str) -> bytes:
    """The bytes before the checksum at their end."""
    content, (checksum,) = bytes(raw[:-4]), struct.unpack("<I", raw[-4:])
    if google_crc32c.value(content) != checksum:
        raise ValueError(f"{what} does not fit its checksum")
    return content
