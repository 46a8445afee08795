"""Which share of which pixel a unit covers (exactextract), and sums weighted by it. Plain numpy in and out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.polygons import clipped
from subpixmap.grid import Lattice, Window, owned

Array = NDArray[np.float64]


class Fractions(NamedTuple):
    """Which share of which pixel belongs to which unit; sorted by unit, then by pixel."""

    unit: NDArray[np.int64]
    """(n,) position of the unit."""
    pixel: NDArray[np.int64]
    """(n,) row-major index of the pixel in the window."""
    fraction: Array
    """(n,) share of the pixel that the unit covers, 0-1 (exact to 3e-8: exactextract holds it in single precision)."""

    def take(self, chosen: NDArray[np.bool_]) -> Fractions:
        """Some of them."""
        return Fractions(self.unit[chosen], self.pixel[chosen], self.fraction[chosen])


def unit_fractions(units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Fractions:
    """Share of every pixel of a window that each unit covers.

    Parameters
    ----------
    units
        Valid polygons in the lattice's CRS; empty ones cover nothing.
    lattice, window
        The pixels.

    Returns
    -------
    Fractions
        Only what is covered; unit positions follow the order of `units`.
    """
    near = lattice.bounds(window.padded(2))
    box = shapely.box(*lattice.bounds(window))
    parts: list[Fractions] = []
    for position, unit in enumerate(units):
        if unit.is_empty or not unit.intersects(box) or clipped(unit, near).is_empty:
            continue
        if unit.contains(box):
            pixel = np.arange(window.height * window.width)
            parts.append(Fractions(np.full(pixel.size, position), pixel, np.ones(pixel.size)))
            continue
        (pixel, fraction), *_ = polygon_fractions([clipped(unit, near)], lattice, window)
        parts.append(Fractions(np.full(pixel.size, position), pixel, fraction))
    if not parts:
        return Fractions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Fractions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def zonal_sums(fractions: Fractions, arrays: Sequence[NDArray] | NDArray, n_units: int) -> Array:
    """Coverage-weighted sums over each unit.

    Parameters
    ----------
    fractions
        Of one window.
    arrays
        (layer, y, x) on that window, without NaN.
    n_units
        Number of units that the positions count.

    Returns
    -------
    numpy.ndarray
        (n_units, layer) float64. Pixels are added in the order of `fractions`, so the same input gives the same bits.
    """
    sums = np.zeros((n_units, len(arrays)))
    starts = np.flatnonzero(np.diff(fractions.unit, prepend=-1))
    if not starts.size:
        return sums
    at = fractions.unit[starts]
    for layer, array in enumerate(arrays):
        weighted = np.asarray(array).reshape(-1)[fractions.pixel].astype(np.float64)
        weighted *= fractions.fraction
        for position, segment in zip(at, np.split(weighted, starts[1:]), strict=True):
            sums[position, layer] = segment.sum()  # pairwise: the error stays at a few ulp for any number of pixels
    return sums


def polygon_fractions(
    polygons: Sequence[BaseGeometry], lattice: Lattice, window: Window
) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """(pixel index in the window, fraction) of one polygon after the other, by exactextract; none of them is empty."""
    from exactextract import exact_extract
    from exactextract.feature import JSONFeatureSource
    from exactextract.raster import NumPyRasterSource

    if not polygons:
        return
    # The values are not looked at: a broadcast zero stands for the raster. No CRS is given, because exactextract only
    # warns when they differ; the polygon is in the lattice's CRS by contract. One call for all costs a third.
    raster = NumPyRasterSource(np.broadcast_to(np.uint8(0), window.shape), *_corners(lattice, window))
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(one)} for one in polygons]
    for found in exact_extract(raster, JSONFeatureSource(features), ["cell_id", "coverage"]):
        pixel = np.asarray(found["properties"]["cell_id"], np.int64)
        fraction = np.asarray(found["properties"]["coverage"], np.float64)
        order = np.argsort(pixel, kind="stable")
        yield pixel[order], fraction[order]


def _corners(lattice: Lattice, window: Window) -> tuple[float, float, float, float]:
    west, south, east, north = lattice.bounds(window)
    return west, south, east, north


def unmapped_area(units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Array:
    """(unit,) pixels of a window that no block of the map holds, weighted by coverage and owned by the zone."""
    mask = owned(lattice, window)
    if mask.all():  # then the sum of the fractions is the area, and no pixel need be looked at
        near = lattice.bounds(window)
        area = np.array([clipped(unit, near).area / lattice.pixel_area for unit in units])
        return np.where(area > 1e-6, area, 0)  # less is the rounding of a border that runs along the window's
    if not mask.any():
        return np.zeros(len(units))
    return zonal_sums(unit_fractions(units, lattice, window), mask[None], len(units))[:, 0]
