"""The layout of a sample: strata, their segments, and the number of cells in each.

In: numbers of cells. Out: weights, and sums over strata and segments of values along the last axis. Plain numpy;
leading axes are free (units, or simulated samples), so that one code serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Layout of the labelled cells of a stratified sample. Cells are ordered by segment, segments by stratum.

    A segment is a group of neighbouring cells of one stratum from which cells, usually two, were drawn at random.
    Segments spread the sample in space. Within a segment it is a simple random sample, so its variance estimate is
    unbiased.
    """

    segment: NDArray[np.int64]
    """(cell,) the segment of every labelled cell, ascending, without gaps."""
    segment_size: NDArray[np.int64]
    """(segment,) cells of the frame in it."""
    segment_stratum: NDArray[np.int64]
    """(segment,) its stratum, ascending, without gaps."""
    mapped: NDArray[np.bool_]
    """(stratum,) whether its cells are observed in the map; if not, counts are expanded without the map."""

    def __post_init__(self) -> None:
        labelled = np.bincount(self.segment, minlength=len(self.segment_size))
        if len(labelled) != len(self.segment_size) or (labelled < 1).any():
            raise ValueError("every segment needs a labelled cell")
        if (labelled > self.segment_size).any():
            raise ValueError("a segment has more labelled cells than cells")
        if (np.diff(self.segment) < 0).any() or (np.diff(self.segment_stratum) < 0).any():
            raise ValueError("cells must be ordered by segment, segments by stratum")

    @cached_property
    def n_strata(self) -> int:
        """Strata."""
        return len(self.mapped)

    @cached_property
    def labelled(self) -> NDArray[np.int64]:
        """(segment,) labelled cells."""
        return np.bincount(self.segment, minlength=len(self.segment_size))

    @cached_property
    def weight(self) -> Array:
        """(cell,) cells of the frame represented by a labelled cell: the inverse of its inclusion probability."""
        return np.asarray((self.segment_size / self.labelled)[self.segment], float)

    @cached_property
    def stratum(self) -> NDArray[np.int64]:
        """(cell,)."""
        return self.segment_stratum[self.segment]

    @cached_property
    def stratum_size(self) -> Array:
        """(stratum,) cells of the frame."""
        return np.bincount(self.segment_stratum, self.segment_size, self.n_strata).astype(float)

    @cached_property
    def stratum_labelled(self) -> Array:
        """(stratum,) labelled cells."""
        return np.bincount(self.stratum, minlength=self.n_strata).astype(float)

    @cached_property
    def on_map(self) -> NDArray[np.bool_]:
        """(cell,) whether the cell's stratum is observed in the map."""
        return self.mapped[self.stratum]

    @cached_property
    def chance(self) -> Array:
        """(segment,) share of the cells that are not labelled: the finite population correction."""
        return 1.0 - self.labelled / self.segment_size

    def by_segment(self, values: NDArray[Any]) -> Array:
        """(..., cell) -> (..., segment) sums."""
        starts = np.flatnonzero(np.diff(self.segment, prepend=-1))
        return np.add.reduceat(np.asarray(values, float), starts, axis=-1)

    def by_stratum(self, values: NDArray[Any]) -> Array:
        """(..., cell) -> (..., stratum) sums; zero in a stratum without labelled cells."""
        values = np.asarray(values, float)
        sums = np.zeros((*values.shape[:-1], self.n_strata))
        starts = np.flatnonzero(np.diff(self.stratum, prepend=-1))
        sums[..., self.stratum[starts]] = np.add.reduceat(values, starts, axis=-1)
        return sums

    def means(self, values: NDArray[Any]) -> Array:
        """(..., cell) -> (..., stratum) estimated means; zero in a stratum without labelled cells."""
        return self.by_stratum(np.asarray(values, float) * self.weight) / np.maximum(self.stratum_size, 1)


def merged_segments(stratum: NDArray[np.int64], labelled: NDArray[np.int64]) -> NDArray[np.int64]:
    """New number of every segment, so that each has at least two labelled cells if its stratum has.

    A segment with too few labelled cells is merged with the next one of its stratum, the last one with the previous.

    Parameters
    ----------
    stratum, labelled
        (segment,) its stratum, ascending, and its labelled cells.
    """
    groups: list[list[int]] = []
    for one in np.unique(stratum):
        own: list[list[int]] = [[]]
        for segment in np.flatnonzero(stratum == one).tolist():
            if labelled[own[-1]].sum() >= 2:
                own.append([])
            own[-1].append(segment)
        if len(own) > 1 and labelled[own[-1]].sum() < 2:
            last = own.pop()
            own[-1] += last
        groups += own
    new = np.zeros(len(stratum), np.int64)
    for number, group in enumerate(groups):
        new[group] = number
    return new
