"""One shard of the map -> the inner chunks that are wanted, without Zarr's machinery for each of them.

A shard as `store` writes it (Zarr v3, `sharding_indexed`): inner chunks compressed one by one, and at the end an index
of their offsets and lengths with a checksum. Zarr reads the same bytes with one asynchronous task a chunk, which costs
several times the decompression; the totals of a country read hundreds of thousands of chunks.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
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
    ValueError, RuntimeError
        The bytes are damaged; every chunk and the index carry a checksum.
    OSError
        The file cannot be read.
    """
    raw = memoryview(path.read_bytes())
    down, across = window.height // CHUNK, window.width // CHUNK
    index = _index(raw, lead * down * across).reshape(lead, down, across, 2)
    covers = len(set(chunks)) == down * across
    found = np.empty((lead, *window.shape), dtype) if covers else np.full((lead, *window.shape), fill, dtype)
    decoder, size = Zstd(), CHUNK * CHUNK * found.itemsize
    for layer, chunk in itertools.product(range(lead), chunks):
        rows, cols = chunk.slices(window)
        offset, length = (int(v) for v in index[layer, rows.start // CHUNK, cols.start // CHUNK])
        if offset == length == _ABSENT:
            found[layer, rows, cols] = fill
            continue
        values = decoder.decode(raw[offset : offset + length])
        if len(values) != size:
            raise ValueError(f"an inner chunk holds {len(values)} bytes instead of {size}")
        found[layer, rows, cols] = np.frombuffer(values, found.dtype.newbyteorder("<")).reshape(CHUNK, CHUNK)
    return found


def _index(raw: memoryview, n: int) -> NDArray[np.uint64]:
    """(n, 2) offset and length of every inner chunk."""
    start = len(raw) - 16 * n - 4
    if start < 0:
        raise ValueError(f"a shard of {len(raw)} bytes is too short for its index")
    content, (checksum,) = bytes(raw[start:-4]), struct.unpack("<I", raw[-4:])
    if google_crc32c.value(content) != checksum:
        raise ValueError("the index of the shard does not fit its checksum")
    return np.frombuffer(content, "<u8").reshape(n, 2)
