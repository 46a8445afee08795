"""Predictions of single acquisitions -> their mean without the extremes, their spread, and how many there were.

Running sums: memory does not depend on the number of acquisitions. Sums are float64 of float32 values, so that the mean
does not depend on how far apart they are. Maps, calibration and evaluation all take their mean from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRIM_FROM = 6
"""From this many observations on, the highest and the lowest prediction are left out of the mean."""


def fits_in_order(fits: Mapping[str, tuple[float, float]], objects: Iterable[str]) -> NDArray[np.float32]:
    """(object, 2): background and slope of each, from a card's `calibration` or `trimmed`."""
    return np.array([fits.get(name, (0.0, 1.0)) for name in objects], np.float32)


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
        self.out_of_domain = np.zeros(shape, np.uint16)

    def add(
        self,
        at: tuple[slice, slice],
        count: NDArray[np.float32],
        presence: NDArray[np.float32],
        observed: NDArray[np.bool_],
        out_of_domain: NDArray[np.bool_],
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
        out_of_domain
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
        self.out_of_domain[at] += observed & out_of_domain

    def result(
        self, *, min_obs: int, trim: bool = True, trimmed_fits: NDArray[np.floating] | None = None
    ) -> dict[str, NDArray[Any]]:
        """`count`, `presence`, `sd_over_dates` (object, y, x) float32 and `n_obs` (y, x); NaN below `min_obs`.

        Parameters
        ----------
        min_obs
            Observations below which a pixel counts as not observed.
        trim
            Leave the highest and the lowest value out of the mean of `TRIM_FROM` observations or more.
        trimmed_fits
            (object, 2): background and slope that make such a mean agree with one of all values, as on `Card`.

        Notes
        -----
        The spread is the sample standard deviation of all values, NaN below two.
        """
        n = self.n.astype(np.float64)
        enough, several = self.n >= min_obs, self.n >= 2
        many = trim & (self.n >= TRIM_FROM)
        background, slope = (np.zeros(1), np.ones(1)) if trimmed_fits is None else np.asarray(trimmed_fits, float).T
        with np.errstate(invalid="ignore", divide="ignore"):
            without = (self.sum - self.low - self.high) / (n - 2)
            without = (without - background[:, None, None]) * slope[:, None, None]
            count = np.where(many, without, self.sum / n)
            variance = np.maximum(self.squares - self.sum**2 / n, 0) / (n - 1)
            arrays = {
                "count": np.where(enough, count, np.nan).astype(np.float32),
                "presence": np.where(enough, self.presence / n, np.nan).astype(np.float32),
                "sd_over_dates": np.where(enough & several, np.sqrt(variance), np.nan).astype(np.float32),
            }
        return arrays | {"n_obs": self.n}

    def out_of_domain_share(self) -> NDArray[np.float64]:
        """(y, x): share of the observations that are unlike the training data; 0 where there is none."""
        return np.divide(self.out_of_domain, self.n, out=np.zeros(self.n.shape), where=self.n > 0)
