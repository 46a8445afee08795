"""Predictions of single acquisitions -> their mean without the extremes, their spread, and how many there were.

Running sums: memory does not depend on the number of acquisitions. Sums are float64 of float32 values, so that the mean
does not depend on how far apart they are. Maps, calibration and evaluation all take their mean from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIM_FROM = 6
"""From this many observations on, the highest and the lowest prediction are left out of the mean."""


class Accumulator:
    """Of one window.

    Parameters
    ----------
    objects
        Number of objects.
    shape
        (y, x) of the window.
    """

    def __init__(self, objects: int, shape: tuple[int, int]) -> None:
        full = (objects, *shape)
        self.n = np.zeros(shape, np.uint16)
        self.sum, self.squares = np.zeros(full), np.zeros(full)
        self.low, self.high = np.full(full, np.inf, np.float32), np.full(full, -np.inf, np.float32)
        self.presence = np.zeros(full)
        self.strange = np.zeros(shape, np.uint16)

    def add(
        self,
        at: tuple[slice, slice],
        count: NDArray[np.float32],
        presence: NDArray[np.float32],
        observed: NDArray[np.bool_],
        strange: NDArray[np.bool_],
    ) -> None:
        """Add one acquisition in a part of the window.

        Parameters
        ----------
        at
            The part.
        count, presence
            (object, y, x).
        observed
            (y, x); elsewhere nothing is added.
        strange
            (y, x): the input is unlike the training data.
        """
        where = (slice(None), *at)
        wide = np.where(observed, count, 0).astype(np.float64)
        self.n[at] += observed
        self.sum[where] += wide
        self.squares[where] += wide * wide
        self.presence[where] += np.where(observed, presence, 0)
        np.minimum(self.low[where], np.where(observed, count, np.inf), out=self.low[where])
        np.maximum(self.high[where], np.where(observed, count, -np.inf), out=self.high[where])
        self.strange[at] += observed & strange

    def result(self, *, min_obs: int, trimmed: Sequence[bool] | None = None) -> dict[str, NDArray[Any]]:
        """`count`, `presence`, `sd_over_dates` (object, y, x) float32 and `n_obs` (y, x); NaN below `min_obs`.

        The mean leaves out the highest and the lowest value from `TRIM_FROM` observations on, unless `trimmed` says
        not to for an object. The spread is the sample standard deviation of all values, NaN below two.
        """
        n = self.n.astype(np.float64)
        enough, several = self.n >= min_obs, self.n >= 2
        trim = np.broadcast_to(self.n >= TRIM_FROM, self.sum.shape)
        if trimmed is not None:
            trim = trim & np.asarray(trimmed)[:, None, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            kept = np.where(trim, self.sum - self.low - self.high, self.sum)
            count = kept / np.where(trim, n - 2, n)
            variance = np.maximum(self.squares - self.sum**2 / n, 0) / (n - 1)
            found = {
                "count": np.where(enough, count, np.nan).astype(np.float32),
                "presence": np.where(enough, self.presence / n, np.nan).astype(np.float32),
                "sd_over_dates": np.where(enough & several, np.sqrt(variance), np.nan).astype(np.float32),
            }
        return found | {"n_obs": self.n}

    def strange_share(self) -> NDArray[np.float64]:
        """(y, x): share of the observations that are unlike the training data; 0 where there is none."""
        return np.divide(self.strange, self.n, out=np.zeros(self.n.shape), where=self.n > 0)
