"""Computes the share of each pixel covered by a unit (exactextract), and sums weighted by it; numpy in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.units import clipped
from subpixmap.grid import CHUNK, Lattice, Window, owned, owns
from subpixmap.region.fractions import Array, polygon_fractions

_ROUNDING = 1e-6  # pixels; smaller values are rounding along the window's border
_SMALL = 128  # pixels; smaller windows are not halved


class Fractions(NamedTuple):
    """The share of pixels covered by units; sorted by unit, then by pixel."""

    unit: NDArray[np.int64]
    """(n,) position of the unit."""
    pixel: NDArray[np.int64]
    """(n,) row-major index of the pixel in the window."""
    fraction: Array
    """(n,) share of the pixel that the unit covers, 0-1 (exact to 3e-8: exactextract holds it in single precision)."""

    @classmethod
    def none(cls) -> Fractions:
        """No fractions."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def take(self, chosen: NDArray[np.bool_]) -> Fractions:
        """A selection of the fractions."""
        return Fractions(self.unit[chosen], self.pixel[chosen], self.fraction[chosen])


def unit_fractions(units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Fractions:
    """The share of each pixel of a window that each unit covers.

    Parameters
    ----------
    units
        Valid polygons in the lattice's CRS; empty ones cover nothing.
    lattice, window
        The pixels.

    Returns
    -------
    Fractions
        Covered pixels only; unit positions follow the order of `units`.
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
        return Fractions.none()
    return Fractions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def in_stack(fractions: Fractions, window: Window, stack: Sequence[Window], chunk: int) -> Fractions:
    """Fractions of pixels of one chunk, numbered in the block -> numbered through the stack of chunks."""
    y, x = row_col(fractions.pixel, window)
    inside = (y + window.row - stack[chunk].row) * CHUNK + x + window.col - stack[chunk].col
    return Fractions(fractions.unit, chunk * CHUNK**2 + inside, fractions.fraction)


def row_col(pixel: NDArray[np.int64], window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column in the window of pixels that are numbered row by row."""
    row = pixel // window.width
    return row, pixel - row * window.width


def zonal_sums(fractions: Fractions, arrays: Sequence[NDArray[Any]] | NDArray[Any], n_units: int) -> Array:
    """Coverage-weighted sums over each unit.

    Parameters
    ----------
    fractions
        Of one window.
    arrays
        (layer, y, x) on that window, without NaN.
    n_units
        Number of units.

    Returns
    -------
    numpy.ndarray
        (n_units, layer) float64. Pixels are added in the order of `fractions`, so the result is deterministic.
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


def owned_area(unit: BaseGeometry, lattice: Lattice, window: Window) -> float:
    """Pixels of a window that the zone owns, weighted by coverage; the window may be as large as a zone.

    Where the zone owns all pixels, the covered shares add up to the polygon's area without testing pixels. Pixels are
    tested only along the zone's border.
    """
    inside = clipped(unit, lattice.bounds(window))
    if inside.is_empty or (whole := owns(lattice, window)) is False:
        return 0.0
    if whole:
        area = float(inside.area) / lattice.pixel_area
        return area if area > _ROUNDING else 0.0
    if min(window.shape) > _SMALL:
        return sum(owned_area(inside, lattice, part) for part in window.quarters())
    return float(zonal_sums(unit_fractions([inside], lattice, window), owned(lattice, window)[None], 1)[0, 0])


def unmapped_area(unit: BaseGeometry, lattice: Lattice, square: Window, mapped: Sequence[Window]) -> float:
    """`owned_area` of a square without the windows `mapped`, which are parts of it by halving."""
    held = [window for window in mapped if window.overlap(square)]
    if not held:
        return owned_area(unit, lattice, square)
    inside = clipped(unit, lattice.bounds(square))
    if held == [square] or inside.is_empty:
        return 0.0
    return sum(unmapped_area(inside, lattice, part, held) for part in square.quarters())
