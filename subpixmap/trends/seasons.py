"""Averages months or quarters to years with the same seasons in each, so that only change remains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpixmap.trends.changes import Totals

MOST_SEASONS = 12
"""Share of a year: acquisitions of one month belong to one season."""


def is_seasonal(years: NDArray[np.floating]) -> bool:
    """Whether a series has several values a year, over more than one year."""
    apart = np.diff(np.unique(years))
    return bool(apart.size and apart.min() < 0.75 and years[-1] - years[0] >= 1)


def seasons_a_year(years: NDArray[np.floating]) -> int:
    """Number of seasons per year, from the shortest interval of values, at most twelve."""
    return round(1 / max(float(np.min(np.diff(np.unique(years)))), 1 / MOST_SEASONS))


def by_year(series: Totals) -> Totals | None:
    """Mean of each year over common seasons; None if no two years have a common season.

    Years at the ends without a common season (a run that begins in autumn) are left out.
    """
    seasons = seasons_a_year(series.years)
    year = np.floor(series.years).astype(int)
    season = np.minimum((series.years - year) * seasons, seasons - 1e-9).astype(int)
    first = year.min()
    seen = np.zeros((year.max() - first + 1, seasons), int)
    np.add.at(seen, (year - first, season), 1)
    kept = np.flatnonzero(seen.any(axis=1))
    shared = np.all(seen[kept] > 0, axis=0)
    while not shared.any() and len(kept) > 2:
        kept = np.delete(kept, int(np.argmin((seen[kept] > 0).sum(axis=1))))
        shared = np.all(seen[kept] > 0, axis=0)
    if not shared.any() or len(kept) < 2:
        return None
    weights = np.zeros((len(kept), len(year)))
    for row, one in enumerate(kept):
        at = (year - first == one) & shared[season]
        weights[row, at] = 1 / (seen[one, season[at]] * shared.sum())
    variance = (weights**2) @ np.nan_to_num(series.se**2)
    unknown = (weights > 0) @ np.isnan(series.se).astype(float) > 0
    spread = (weights**4) @ np.nan_to_num(series.se**4 / np.maximum(series.freedom, 1e-9))
    freedom = np.divide(variance**2, spread, out=np.zeros_like(variance), where=spread > 0)
    return Totals(
        periods=tuple(str(first + one) for one in kept),
        years=first + kept + 0.5,
        totals=weights @ series.totals,
        se=np.where(unknown, np.nan, np.sqrt(variance)),
        freedom=np.where(unknown, 0, np.minimum(freedom, series.most_freedom)),
        most_freedom=series.most_freedom,
    )
