"""Averages predictions of acquisitions: mean without extremes, spread, and number.

Running sums: memory does not depend on the number of acquisitions. Sums are float64 of float32 values, so that the mean
does not depend on how far apart they are. Maps, calibration and evaluation all take their mean from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TRIM_FROM = 6
"""From this many observations on, the highest and the lowest prediction are left out of the mean."""


def fits_in_order(fits: Mapping[str, tuple[float, float]], objects: Iterable[str]) -> NDArray[np.float32]:
    """(object, 2): background and slope of each, from a card's `calibration` or `trimmed`."""
    return np.array([fits.get(name, (0.0, 1.0)) for name in objects], np.float32)


def member_name(k: int) -> str:
    """Name of the array of counts of the k-th network, from 0."""
    return f"count_of_model_{k + 1}"


class _Trimmed:
    """Running sum, lowest and highest of values (object, y, x)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.sum = np.zeros(shape)
        self.low, self.high = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)

    def add(
        self, at: tuple[slice, slice, slice], values: NDArray[np.float32], observed: NDArray[np.bool_] | Literal[True]
    ) -> None:
        """Add the observed ones; others may be NaN."""
        np.add(self.sum[at], values, out=self.sum[at], where=observed)
        np.minimum(self.low[at], values, out=self.low[at], where=observed)
        np.maximum(self.high[at], values, out=self.high[at], where=observed)

    def mean(self, n: NDArray[np.float64], many: NDArray[np.bool_], fits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of n values; where there are many, without the lowest and the highest, and corrected by background, slope."""
        background, slope = fits.T
        without = (self.sum - self.low - self.high) / (n - 2)
        without = (without - background[:, None, None]) * slope[:, None, None]
        return np.where(many, without, self.sum / n)


class Accumulator:
    """Of one window.

    Parameters
    ----------
    objects
        Number of objects.
    shape
        (y, x) of the window.
    members
        Networks whose counts are averaged beside, each by itself; 0 for none.
    """

    def __init__(self, objects: int, shape: tuple[int, int], *, members: int = 0) -> None:
        full = (objects, *shape)
        self.n = np.zeros(shape, np.uint16)
        self.counts, self.squares = _Trimmed(full), np.zeros(full)
        self.members = tuple(_Trimmed(full) for _ in range(members))
        self.presence = np.zeros(full)
        self.out_of_domain = np.zeros(shape, np.uint16)

    def add(
        self,
        at: tuple[slice, slice],
        count: NDArray[np.float32],
        presence: NDArray[np.float32],
        observed: NDArray[np.bool_],
        out_of_domain: NDArray[np.bool_],
        *,
        by_member: Sequence[NDArray[np.float32]] = (),
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
        by_member
            Count of each network by itself.
        """
        layers = (slice(None), *at)
        squares, likely = self.squares[layers], self.presence[layers]
        seen: NDArray[np.bool_] | Literal[True] = True if observed.all() else observed  # no mask takes half the time
        self.n[at] += observed
        self.counts.add(layers, count, seen)
        np.add(squares, np.square(count, dtype=np.float64), out=squares, where=seen)
        np.add(likely, presence, out=likely, where=seen)
        for member, values in zip(self.members, by_member, strict=True):
            member.add(layers, values, seen)
        self.out_of_domain[at] += observed & out_of_domain

    def result(
        self, *, min_obs: int, trim: bool = True, trimmed_fits: NDArray[np.floating] | None = None
    ) -> dict[str, NDArray[Any]]:
        """`count`, `presence`, `sd_over_dates` (object, y, x) float32 and `n_obs` (y, x); NaN below `min_obs`.

        With members also `count_of_model_1` and so on, and `sd_over_models`, like `count`.

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
        The spreads are sample standard deviations, NaN below two values: of all dates, and of the members' counts.
        """
        n = self.n.astype(np.float64)
        enough, several = self.n >= min_obs, self.n >= 2
        many = trim & (self.n >= TRIM_FROM)
        fits = np.array([[0.0, 1.0]]) if trimmed_fits is None else np.asarray(trimmed_fits, float)
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = np.maximum(self.squares - self.counts.sum**2 / n, 0) / (n - 1)
            arrays = {
                "count": np.where(enough, self.counts.mean(n, many, fits), np.nan).astype(np.float32),
                "presence": np.where(enough, self.presence / n, np.nan).astype(np.float32),
                "sd_over_dates": np.where(enough & several, np.sqrt(variance), np.nan).astype(np.float32),
            }
            for k, member in enumerate(self.members):
                arrays[member_name(k)] = np.where(enough, member.mean(n, many, fits), np.nan).astype(np.float32)
        if self.members:
            apart = [arrays[member_name(k)] for k in range(len(self.members))]
            arrays["sd_over_models"] = np.std(apart, axis=0, ddof=1, dtype=np.float64).astype(np.float32)
        return arrays | {"n_obs": self.n}

    def out_of_domain_share(self) -> NDArray[np.float64]:
        """(y, x): share of the observations that are unlike the training data; 0 where there is none."""
        return np.divide(self.out_of_domain, self.n, out=np.zeros(self.n.shape), where=self.n > 0)
