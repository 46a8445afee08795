"""Checks the offset decision on pixels: dark ground tells whether 1000 was taken away never, once or twice.

Over vegetation, water and shadow the darkest reflectance of the red and short-wave infrared bands lies near 0.00 to
0.05. An offset that is still there puts it above 0.10, one that was taken away twice below -0.05. Read from overviews.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from subpixmap.errors import InputError
from subpixmap.scenes.access import gdal_env
from subpixmap.scenes.dialect import SCL
from subpixmap.scenes.hrefs import redact, without_secrets
from subpixmap.scenes.lock import Item
from subpixmap.scenes.radiometry import to_reflectance
from subpixmap.scenes.reader import ReadFailed, check_header, open_raster

_BANDS = ("B12", "B04", "B11", "B02")  # the first two that an item has
_DARK_CLASSES = (2, 4, 6)  # dark area, vegetation, water
_OVERVIEW = 343  # pixels of a side: an overview of 320 m of a whole tile
_LEAST = 300  # pixels of those classes, to say anything
_RANGE = (-0.03, 0.085)  # of the 5th percentile, reflectance


@dataclass(frozen=True)
class Darkness:
    """What an item's dark ground says about its offset."""

    item: str
    """Its id."""
    reflectance: float | None
    """5th percentile over vegetation, water and shadow in the darkest band, after the offset; None if too few."""
    pixels: int
    """Pixels of these classes in the overview."""
    verdict: Literal["agrees", "contradicts", "cannot say"]
    """Cloud, snow or desert cannot say."""


def check_darkness(items: Iterable[Item], *, threads: int = 8) -> list[Darkness]:
    """Check the offset of every item on its pixels.

    Raises
    ------
    InputError
        Names the items whose pixels contradict the decided offset.
    ReadFailed
        An overview could not be read.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(darkness, items))
    if wrong := [one for one in found if one.verdict == "contradicts"]:
        told = "; ".join(f"item {one.item}: dark ground has reflectance {one.reflectance:.3f}" for one in wrong[:3])
        more = f" (and {len(wrong) - 3} more items)" if len(wrong) > 3 else ""
        raise InputError(
            f"{told}{more}; its pixels contradict the offset that its catalogue declares (see --offset-rule)"
        )
    return found


def darkness(item: Item) -> Darkness:
    """Read the overviews of one item and judge its offset."""
    classes = _overview(item, SCL)
    dark = np.isin(classes, _DARK_CLASSES)
    lowest: list[float] = []
    count = int(dark.sum())
    for band in [band for band in _BANDS if band in item.assets][:2]:
        values = to_reflectance(_overview(item, band), item.offset_dn)[dark]
        values = values[np.isfinite(values)]
        if values.size >= _LEAST:
            lowest.append(float(np.percentile(values, 5)))
    if not lowest:
        return Darkness(item.id, None, count, "cannot say")
    value = min(lowest)
    return Darkness(item.id, value, count, "agrees" if _RANGE[0] <= value <= _RANGE[1] else "contradicts")


def _overview(item: Item, band: str) -> NDArray[np.unsignedinteger]:
    """A band at about the same small size for all, nearest neighbour."""
    asset = item.assets[band]
    rows, cols = item.assets[SCL].shape
    try:
        with gdal_env(asset.href), open_raster(asset.href) as dataset:
            check_header(dataset, asset, item.epsg)
            found: NDArray[np.unsignedinteger] = dataset.read(1, out_shape=(min(_OVERVIEW, rows), min(_OVERVIEW, cols)))
            return found
    except (RasterioError, OSError) as error:
        raise ReadFailed(f"{redact(asset.href)} could not be read: {without_secrets(str(error))}") from None
