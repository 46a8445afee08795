"""One shard of the map -> the inner chunks that are wanted, without Zarr's machinery for each of them.

A shard as `store` writes it (Zarr v3, `sharding_indexed`): inner chunks compressed one by one, each with a checksum,
and at the end an index of their offsets and lengths with another. Zarr reads the same bytes with one asynchronous task
a chunk, which costs several times the decompression; the totals of a country read hundreds of thousands of chunks.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import decompress
from numpy.typing import NDArray

from subpixmap.grid import CHUNK, Window

_ABSENT = 2**64 - 1  # offset and length of a chunk that was never written


def read_shard(path: Path, lead: int, window: Window, chunks: Sequence[Window], dtype: Any, fill: Any) -> NDArray[Any]:
    """(lead, height, width) of a shard; `fill` outside the chunks.

    Parameters
    ----------
    path
        The shard's file.
    lead
        Length of the axis before y and x (objects, or 1).
    window
        The pixels of the shard, whole inner chunks.
    chunks
        Inner chunks that are read.
    dtype, fill
        Of the array.

    Raises
    ------
    ValueError, RuntimeError, struct.error
        The bytes are damaged; every chunk and the index carry a checksum.
    OSError
        The file cannot be read.
    """
    values = read_chunks(path, lead, window, chunks, dtype, fill)
    covers = len(set(chunks)) == window.height * window.width // CHUNK**2
    found = np.empty((lead, *window.shape), dtype) if covers else np.full((lead, *window.shape), fill, dtype)
    for i, chunk in enumerate(chunks):
        rows, cols = chunk.slices(window)
        found[:, rows, cols] = values[:, i]
    return found


def read_chunks(path: Path, lead: int, window: Window, chunks: Sequence[Window], dtype: Any, fill: Any) -> NDArray[Any]:
    """(lead, chunk, 256, 256): the inner chunks of a shard one after the other; for the rest see `read_shard`."""
    raw = memoryview(path.read_bytes())
    down, across = window.height // CHUNK, window.width // CHUNK
    index = _index(raw, lead * down * across).reshape(lead, down, across, 2)
    found = np.empty((lead, len(chunks), CHUNK, CHUNK), np.dtype(dtype).newbyteorder("<"))
    for layer, (i, chunk) in itertools.product(range(lead), enumerate(chunks)):
        rows, cols = chunk.slices(window)
        offset, length = (int(v) for v in index[layer, rows.start // CHUNK, cols.start // CHUNK])
        target = found[layer, i]
        if offset == length == _ABSENT:
            target[:] = fill
            continue
        values = _checked(raw[offset : offset + length], "an inner chunk")
        (size,) = struct.unpack_from("<I", values, 4)  # of Blosc's header: what comes out
        if size != target.nbytes:
            raise ValueError(f"an inner chunk holds {size} bytes instead of {target.nbytes}")
        decompress(values, target)
    return found


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
