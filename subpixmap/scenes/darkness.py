"""Checks the offset decision on pixels: dark ground tells whether 1000 was taken away never, once or twice.

Over vegetation, water and shadow the darkest reflectance of the red and short-wave infrared bands lies near 0.00 to
0.05. An offset that is still there puts it above 0.10, one that was taken away twice below -0.05. Read from overviews.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.scenes.dialect import SCL
from subpixmap.scenes.items import Item, several_problems
from subpixmap.scenes.radiometry import to_reflectance
from subpixmap.scenes.reader import ReadFailed, read_overview

_BANDS = ("B12", "B04", "B11", "B02")  # the first two that an item has
_DARK_CLASSES = (2, 4, 6)  # dark area, vegetation, water
_OVERVIEW = 343  # pixels of a side: an overview of 320 m of a whole tile
_LEAST = 300  # pixels of those classes, to say anything
_RANGE = (-0.03, 0.085)  # of the 5th percentile, reflectance


def check_darkness(items: Iterable[Item], *, threads: int = 8, refused: dict[str, str] | None = None) -> list[Item]:
    """Check the offset of every item on its pixels.

    Parameters
    ----------
    items
        Of a lock.
    threads
        Items that are looked at at once.
    refused
        If given, items that contradict their offset, or whose files cannot be read or are not what they should be, are
        left out and written here, {id: reason}. By default they raise.

    Returns
    -------
    list of Item
        In the same order, with `dark_check` and `dark_reflectance`.

    Raises
    ------
    InputError
        Names the items whose pixels contradict the decided offset, or whose files are not what they declare.
    ReadFailed
        An overview could not be read.
    """

    def look(item: Item) -> Item | str:
        try:
            seen = darkness(item)
        except InputError as error:  # a file's header is not what its item says
            return f"item {item.id}: {error}"
        except ReadFailed as error:
            if refused is None:
                raise
            return f"item {item.id}: {error}"
        if seen.dark_check != "contradicts":
            return seen
        return (
            f"item {item.id}: dark ground has reflectance {seen.dark_reflectance:.3f}, which contradicts the offset "
            "that its catalogue declares (see --offset-rule)"
        )

    locked = list(items)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(look, locked))
    problems = {item.id: seen for item, seen in zip(locked, found, strict=True) if isinstance(seen, str)}
    if refused is not None:
        refused.update(problems)
    elif problems:
        raise several_problems(list(problems.values()))
    return [seen for seen in found if isinstance(seen, Item)]


def darkness(item: Item) -> Item:
    """Read the overviews of one item and judge its offset; cloud, snow or desert cannot say."""
    dark = np.isin(_overview(item, SCL), _DARK_CLASSES)
    lowest: list[float] = []
    for band in [band for band in _BANDS if band in item.assets][:2]:
        values = to_reflectance(_overview(item, band), item.offset_dn)[dark]
        values = values[np.isfinite(values)]
        if values.size >= _LEAST:
            lowest.append(float(np.percentile(values, 5)))
    if not lowest:
        return replace(item, dark_check="cannot say", dark_reflectance=None)
    value = min(lowest)
    fine = _RANGE[0] <= value <= _RANGE[1]
    return replace(item, dark_check="agrees" if fine else "contradicts", dark_reflectance=round(value, 4))


def _overview(item: Item, band: str) -> NDArray[np.unsignedinteger]:
    """A band at about the same small size for all, nearest neighbour."""
    rows, cols = item.assets[SCL].shape
    return read_overview(item.assets[band], (min(_OVERVIEW, rows), min(_OVERVIEW, cols)), item.epsg)
