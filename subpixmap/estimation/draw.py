"""A well-spread probability sample of cells: order in space, segments, random cells of each.

In: places and strata of all cells of a frame. Out: which cells are drawn, and the segments they were drawn from. Cells
of a stratum are put in the order of a Hilbert curve, so that neighbours in the order are neighbours on the land, and
cut into segments of the same length; from each a few cells are drawn at random. So the sample is spread over the land,
and its variance has an unbiased estimate, which a systematic sample lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PER_SEGMENT = 2
"""Cells that are drawn from a segment; the last segment of a stratum may give one more."""
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

    1. Put all cells in the order of a Hilbert curve: neighbours in the order are neighbours on the land.
    2. Cut each stratum into segments along this order.
    3. Draw a few cells of each segment at random.

    Parameters
    ----------
    x, y
        (cell,) places, in any unit.
    stratum
        (cell,) number of its stratum.
    n
        Stratum -> cells to draw, at most as many as it holds. A stratum that is not named gives none.
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
            raise ValueError(f"stratum {one} holds {len(own)} cells, {n[one]} are wanted")
        for segment, wanted in segments_of(own, n[one]):  # 2.
            # 3. Without replacement, each cell as likely as any other: so the variance within a segment is known.
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
    """Cells of a stratum in order -> its segments, with the cells that each gives: two, and the last three if n is odd.

    A stratum that gives more than half of its cells is one segment.
    """
    if n <= 0:
        return []
    pairs = max(1, n // PER_SEGMENT)
    if 2 * n > len(ordered):
        return [(ordered, n)]
    wanted = [PER_SEGMENT] * pairs
    wanted[-1] = n - PER_SEGMENT * (pairs - 1)
    # A segment that gives three cells is longer, so that all cells have about the same chance.
    ends = np.rint(np.cumsum(wanted) / n * len(ordered)).astype(np.int64)
    return list(zip(np.split(ordered, ends[:-1]), wanted, strict=True))


def hilbert(x: NDArray[np.floating], y: NDArray[np.floating]) -> Ints:
    """(cell,) position along a Hilbert curve through the square that holds all places."""
    if not len(x):
        return np.zeros(0, np.int64)
    side = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
    top = 2**_BITS - 1
    col, row = (np.minimum((a - a.min()) / side * top, top).astype(np.int64) for a in (x, y))
    position = np.zeros(len(x), np.int64)
    # From the largest square to the smallest: number of the quarter, then turn so that the curve goes on.
    for bit in range(_BITS - 1, -1, -1):
        right, up = col >> bit & 1, row >> bit & 1
        position += (3 * right ^ up) << (2 * bit)
        flip = (up == 0) & (right == 1)
        col, row = np.where(flip, top - col, col), np.where(flip, top - row, row)
        col, row = np.where(up == 0, row, col), np.where(up == 0, col, row)
    return position
