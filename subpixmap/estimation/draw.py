"""A well-spread probability sample of cells: order in space, segments, random cells of each.

In: places and strata of all cells of a frame. Out: drawn cells and their segments. Cells of a stratum are ordered along
a Hilbert curve, where neighbours in the order are neighbours in space, and split into segments of equal length. A few
cells of each segment are drawn at random. So the sample is well spread and has an unbiased variance estimate, unlike a
systematic sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PER_SEGMENT = 2
"""Number of cells drawn per segment; the last segment of a stratum may give one more."""
_BITS = 16  # of either coordinate in the Hilbert curve

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """A sample of cells, ordered by segment."""

    cell: Ints
    """(drawn,) position in the frame."""
    segment: Ints
    """(drawn,) its segment."""
    segment_size: Ints
    """(segment,) cells of the frame in it."""
    segment_stratum: Ints
    """(segment,)."""


def draw(x: NDArray[np.floating], y: NDArray[np.floating], stratum: Ints, n: Mapping[int, int], *, seed: int) -> Drawn:
    """Draw cells from every stratum.

    1. Order all cells along a Hilbert curve: neighbours in the order are neighbours in space.
    2. Split each stratum into segments along this order.
    3. Draw a few cells of each segment at random.

    Parameters
    ----------
    x, y
        (cell,) coordinates, in any unit.
    stratum
        (cell,) number of its stratum.
    n
        Stratum -> number of cells to draw, at most its size; 0 for strata not listed.
    seed
        The same seed draws the same cells from the same frame.
    """
    rng = np.random.default_rng(seed)
    place = hilbert(x, y)  # 1. One curve for all strata
    parts, sizes, strata = [], [], []
    for one in sorted(n):
        own = np.flatnonzero(stratum == one)
        own = own[np.argsort(place[own], kind="stable")]
        if n[one] > len(own):
            raise ValueError(f"stratum {one} has only {len(own)} cells, but {n[one]} are needed")
        for segment, wanted in segments_of(own, n[one]):  # 2.
            # 3. Without replacement and with equal probability, so that the variance within a segment can be estimated.
            parts.append(np.sort(rng.choice(segment, wanted, replace=False)))
            sizes.append(len(segment))
            strata.append(one)
    counts = [len(part) for part in parts]
    return Drawn(
        cell=np.concatenate(parts) if parts else np.zeros(0, np.int64),
        segment=np.repeat(np.arange(len(parts)), counts),
        segment_size=np.array(sizes, np.int64),
        segment_stratum=np.array(strata, np.int64),
    )


def segments_of(ordered: Ints, n: int) -> list[tuple[Ints, int]]:
    """Split the ordered cells of a stratum into segments, each with two drawn cells (the last with three if n is odd).

    A stratum with more than half of its cells drawn is one segment.
    """
    if n <= 0:
        return []
    pairs = max(1, n // PER_SEGMENT)
    if 2 * n > len(ordered):
        return [(ordered, n)]
    wanted = [PER_SEGMENT] * pairs
    wanted[-1] = n - PER_SEGMENT * (pairs - 1)
    # A segment with three drawn cells is longer, so that all cells have about the same probability.
    ends = np.rint(np.cumsum(wanted) / n * len(ordered)).astype(np.int64)
    return list(zip(np.split(ordered, ends[:-1]), wanted, strict=True))


def hilbert(x: NDArray[np.floating], y: NDArray[np.floating]) -> Ints:
    """(cell,) position along a Hilbert curve through the square that contains all places."""
    if not len(x):
        return np.zeros(0, np.int64)
    side = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
    top = 2**_BITS - 1
    col, row = (np.minimum((a - a.min()) / side * top, top).astype(np.int64) for a in (x, y))
    position = np.zeros(len(x), np.int64)
    # From the largest square to the smallest: number the quarter, then rotate so that the curve continues.
    for bit in range(_BITS - 1, -1, -1):
        right, up = col >> bit & 1, row >> bit & 1
        position += (3 * right ^ up) << (2 * bit)
        flip = (up == 0) & (right == 1)
        col, row = np.where(flip, top - col, col), np.where(flip, top - row, row)
        col, row = np.where(up == 0, row, col), np.where(up == 0, col, row)
    return position
