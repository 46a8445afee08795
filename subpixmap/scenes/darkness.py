"""Checks the offset on pixels: dark ground shows whether 1000 was subtracted never, once or twice.

Over vegetation, water and shadow the darkest reflectance of the red and short-wave infrared bands lies near 0.00 to
0.05. An offset that was not subtracted lifts it above 0.10; one subtracted twice puts it below -0.05. Overviews are
enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError, several_problems
from subpixmap.machine import thread_pool
from subpixmap.progress import track
from subpixmap.scenes.dialect import SCL
from subpixmap.scenes.items import Item
from subpixmap.scenes.radiometry import to_reflectance
from subpixmap.scenes.reader import ReadFailed, read_overview

_BANDS = ("B12", "B04", "B11", "B02")  # the first two that an item has are used
_DARK_CLASSES = (2, 4, 6)  # dark area, vegetation, water
_OVERVIEW = 343  # pixels of a side: an overview of 320 m of a whole tile
_LEAST = 300  # pixels of those classes; fewer do not allow a decision
_RANGE = (-0.03, 0.085)  # of the 5th percentile, reflectance


def check_darkness(items: Iterable[Item], *, threads: int = 8, refused: dict[str, str] | None = None) -> list[Item]:
    """Check the offset of every item on its pixels.

    Parameters
    ----------
    items
        Of a lock.
    threads
        Number of items read at the same time.
    refused
        If given, items are left out and written here, {id: reason}, if their pixels contradict the offset or their
        files cannot be read or contradict the item. By default they raise.

    Returns
    -------
    list of Item
        In the same order, with `dark_check` and `dark_reflectance`.

    Raises
    ------
    InputError
        Pixels contradict the decided offset, or files contradict their items; the message names the items.
    ReadFailed
        An overview could not be read.
    """

    def look(item: Item) -> Item | str:
        try:
            checked = darkness(item)
        except InputError as error:  # the header of a file contradicts its item
            return f"item {item.id}: {error}"
        except ReadFailed as error:
            if refused is None:
                raise
            return f"item {item.id}: {error}"
        if checked.dark_check != "contradicts":
            return checked
        return (
            f"item {item.id}: dark ground has reflectance {checked.dark_reflectance:.3f}, which contradicts the "
            "offset that its catalogue declares; check the imagery, then give --offset-rule"
        )

    locked = list(items)
    with thread_pool(threads) as pool:
        looked = track(pool.map(look, locked), "look at dark ground", "items", total=len(locked))
        results = list(looked)
    problems = {item.id: result for item, result in zip(locked, results, strict=True) if isinstance(result, str)}
    if refused is not None:
        refused.update(problems)
    elif problems:
        raise several_problems(list(problems.values()))
    return [result for result in results if isinstance(result, Item)]


def darkness(item: Item) -> Item:
    """Read the overviews of one item and check its offset; impossible under cloud, snow or in desert."""
    if SCL not in item.assets:  # Level-1C has no scene classes to find dark ground
        return replace(item, dark_check="cannot say", dark_reflectance=None)
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
    """A band at a small size that is about the same for all bands, nearest neighbour."""
    rows, cols = item.assets[SCL].shape
    return read_overview(
        item.assets[band], (min(_OVERVIEW, rows), min(_OVERVIEW, cols)), item.epsg, classes=band == SCL
    )
