"""Points -> count map, presence map and labelled mask on the lattice of the imagery.

Rasterise at K times finer, blur with a Gaussian, sum K x K (Rodriguez & Wegner 2018). All three are linear and
separable, so a point's share of a pixel depends only on the fine pixel it lies in: the shares are tabulated once and no
fine raster is ever made. Every row of the table sums to 1: mass is conserved exactly, and a window sees what any other
window would.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import rasterio.features
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window

_TRUNCATE = 4.0  # the Gaussian is cut at this many sigma and renormalised, as in scipy.ndimage


def count_map(
    x: ArrayLike,
    y: ArrayLike,
    lattice: Lattice,
    window: Window,
    *,
    k: int = 10,
    sigma: float | None = None,
    box: float | None = None,
) -> NDArray[np.float64]:
    """Expected objects per pixel from points.

    1. Find each point's fine pixel: the share of a coarse pixel depends on nothing else.
    2. Look up the shares of the neighbouring rows and columns. The share of a pixel is their product, because a
       Gaussian and a square are separable.
    3. Add up the shares, one offset of row and column after the other, on a canvas wider than the window.
    4. Cut the window out: what blurred over its edge belongs to other windows.

    Parameters
    ----------
    x, y
        Easting and northing of the points in the lattice's CRS, metres; those outside the window blur into it.
    lattice, window
        Pixels of the result.
    k
        Fine pixels a side of a pixel.
    sigma
        Of the Gaussian, in fine pixels; default k / pi, 3.2 m on the ground at 10 m. 0 leaves each point in its pixel.
    box
        Side of a square, metres, over which each point is spread evenly instead of the Gaussian. The authors' later
        system took 20 m, which forgives imagery that does not lie exactly over the points.

    Returns
    -------
    numpy.ndarray
        (y, x) float64. Over the infinite lattice it sums to the number of points.

    Raises
    ------
    InputError
        A coordinate is not a number, or x and y differ in length.

    References
    ----------
    Rodriguez & Wegner, Counting the uncountable, GCPR 2018, arXiv 1809.07091.
    """
    # Bad numbers stop here: floor would turn a NaN into a pixel.
    px, py = np.asarray(x, float).ravel(), np.asarray(y, float).ravel()
    if px.size != py.size or not (np.isfinite(px).all() and np.isfinite(py).all()):
        raise InputError(f"{px.size} eastings and {py.size} northings: give the same number of both, all finite")
    sigma = k / math.pi if sigma is None else sigma
    if k < 1 or sigma < 0 or (box is not None and box <= 0):
        raise InputError(f"k is {k}, sigma {sigma} and box {box}: give k >= 1, sigma >= 0 and a positive box")
    shares = _shares(k, float(sigma)) if box is None else _box_shares(k, box / lattice.resolution)
    reach = shares.shape[1] // 2
    fine = lattice.resolution / k
    # 1. Fine columns count from the window's left edge, fine rows downwards from its upper edge. Points farther away
    #    than the blur reaches are dropped.
    west, _, _, north = lattice.bounds(window)
    fine_col = np.floor((px - west) / fine).astype(np.int64)
    fine_row = np.floor((north - py) / fine).astype(np.int64)
    row, col = fine_row // k, fine_col // k
    inside = (row >= -reach) & (row < window.height + reach) & (col >= -reach) & (col < window.width + reach)
    row, col = row[inside], col[inside]
    # 2. (point, offset) shares, by the place of the fine pixel in its pixel
    by_row, by_col = shares[fine_row[inside] % k], shares[fine_col[inside] % k]
    # 3. Twice the reach on every side: a point may lie one reach outside and blur one reach farther.
    wide = np.zeros((window.height + 4 * reach) * (window.width + 4 * reach))
    stride = window.width + 4 * reach
    for dr in range(-reach, reach + 1):
        for dc in range(-reach, reach + 1):
            at = (row + 2 * reach + dr) * stride + col + 2 * reach + dc
            wide += np.bincount(at, by_row[:, dr + reach] * by_col[:, dc + reach], minlength=wide.size)
    edge = 2 * reach  # 4.
    return wide.reshape(-1, stride)[edge : edge + window.height, edge : edge + window.width].copy()


def presence_map(count: NDArray[np.floating], *, threshold: float = 0.25) -> NDArray[np.bool_]:
    """True where a pixel holds more than `threshold` objects.

    What the article used is not known; the authors' code had 1, 0.5, 1e-5 and 0 at different times.
    """
    return np.asarray(count > threshold)


def labelled_mask(area: BaseGeometry, lattice: Lattice, window: Window, *, border: int = 0) -> NDArray[np.bool_]:
    """(y, x): True where the pixel lies wholly inside the labelled area, less a border of some pixels.

    Parameters
    ----------
    area
        Polygon in which every object was labelled, in the lattice's CRS.
    lattice, window
        Pixels of the result.
    border
        Pixels dropped along the edge of the area. Count maps are short of the objects just outside it, so at least 1.
    """
    if area.is_empty:
        return np.zeros(window.shape, bool)
    inside = area.buffer(-border * lattice.resolution)
    if inside.is_empty:
        return np.zeros(window.shape, bool)
    # Wholly inside: the centre is inside, and the outline does not pass through.
    touched = rasterio.features.rasterize(
        [inside.boundary], out_shape=window.shape, transform=lattice.transform(window), all_touched=True
    )
    centre = rasterio.features.rasterize([inside], out_shape=window.shape, transform=lattice.transform(window))
    return np.asarray((centre == 1) & (touched == 0))


@lru_cache(maxsize=16)
def _shares(k: int, sigma: float) -> NDArray[np.float64]:
    """Row i: how a point in fine pixel i of a pixel is shared among this pixel (middle column) and its neighbours.

    exp(-d^2 / (2 sigma^2)) at a distance of d fine pixels, cut at 4 sigma and summed over the k fine pixels of each.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2) if sigma > 0 else np.ones(1)
    kernel /= kernel.sum()
    reach = -(-radius // k)
    shares = np.zeros((k, 2 * reach + 1))
    for i in range(k):
        np.add.at(shares[i], (i + offset) // k + reach, kernel)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


@lru_cache(maxsize=16)
def _box_shares(k: int, side: float) -> NDArray[np.float64]:
    """As `_shares`, for a square of some pixels a side around the middle of the fine pixel."""
    reach = math.ceil(side / 2)
    middle = (np.arange(k)[:, None] + 0.5) / k
    pixel = np.arange(-reach, reach + 1)
    covered = np.minimum(middle + side / 2, pixel + 1) - np.maximum(middle - side / 2, pixel)
    shares = np.maximum(covered, 0)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
