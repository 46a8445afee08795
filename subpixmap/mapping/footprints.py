"""Finds the locked items over a block; by footprint, because this is done for every block and period."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.mapping.plan import Plan, items_by_period
from subpixmap.scenes.items import Item


@dataclass(frozen=True)
class Footprints:
    """Items of one period and UTM zone with the rectangles that they cover."""

    items: tuple[Item, ...]
    footprints: NDArray[np.float64]
    """(footprint, 4): west, south, east, north, metres; the items of a tile share one."""
    of_item: NDArray[np.intp]
    """The footprint of each item."""
    acquisition: NDArray[np.intp]
    """Of each item, a number."""

    @classmethod
    def of(cls, items: Iterable[Item]) -> Footprints:
        """Gather the rectangles."""
        gathered = tuple(items)
        bounds = np.array([item.bounds for item in gathered]).reshape(-1, 4)
        footprints, of_item = np.unique(bounds, axis=0, return_inverse=True)
        _, acquisition = np.unique([item.acquisition for item in gathered], return_inverse=True)
        return cls(gathered, footprints, of_item.reshape(-1), acquisition)

    def over(self, bounds: tuple[float, float, float, float]) -> NDArray[np.intp]:
        """Indices of the items that touch (west, south, east, north), in the order of the lock."""
        west, south, east, north = bounds
        w, s, e, n = self.footprints.T
        return np.flatnonzero(((w < east) & (e > west) & (s < north) & (n > south))[self.of_item])


def footprints_by_period_and_zone(
    plan: Plan, items: Iterable[Item]
) -> Iterator[tuple[str, int, list[Item], Footprints]]:
    """For each period and UTM zone of the plan: label, EPSG code, all items of the period, those that may be read."""
    limit = plan.recipe.max_cloud
    by_period = items_by_period(plan, items)
    for period in (one.label for one in plan.periods):
        locked = by_period[period]
        for epsg in plan.zones:
            usable = (item for item in locked if item.epsg == epsg and is_usable(item, limit))
            yield period, epsg, locked, Footprints.of(usable)


def is_usable(item: Item, max_cloud: float | None) -> bool:
    """Whether an item's cloud cover is within the limit, percent; an item without a stated cover is within it."""
    return max_cloud is None or (item.cloud_cover or 0) <= max_cloud
