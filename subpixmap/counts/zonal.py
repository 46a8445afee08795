"""Totals per unit, object and period, summed from the blocks of a map.

In: the blocks of a run and administrative units. Out: sums in float64, in a fixed order, of what was observed and of
what was not. Coverage fractions (exactextract) are computed once a block and used for every period and object; a block needs
the memory of its own pixels whatever the size of the country. `table` turns the sums into the published rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.units import clipped, polygonal
from subpixmap.grid import Lattice, Window, owned

CELL = 128
"""Side of a ledger cell, pixels."""
_SIDE = 1024  # windows of a block that are summed at once, pixels: fractions of more would only cost memory

Array = NDArray[np.float64]


class Fractions(NamedTuple):
    """Which share of which pixel belongs to which unit; sorted by unit, then by pixel."""

    unit: NDArray[np.int64]
    """(n,) position of the unit."""
    pixel: NDArray[np.int64]
    """(n,) row-major index of the pixel in the window."""
    fraction: Array
    """(n,) share of the pixel that the unit covers, 0-1 (exact to 3e-8: exactextract holds it in single precision)."""


@dataclass(frozen=True)
class MapBlock:
    """One block of a map, as the sums see it."""

    lattice: Lattice
    window: Window
    """The block's pixels."""
    chunks: tuple[Window, ...]
    """The inner chunks that the run computes; elsewhere the map says nothing."""
    read: Callable[[str], Mapping[str, NDArray] | None]
    """Period label -> `count` and `presence` (object, y, x), `n_obs` (y, x); None where no valid ledger record is."""
    cells: Callable[[str], Mapping[str, NDArray] | None]
    """Period label -> `observed_px` and `out_of_domain_px` on the 128 px grid of the block; None where not known."""


@dataclass(frozen=True)
class Sums:
    """Sums over pixels, each weighted by the share of it that the unit covers."""

    area: Array
    """(unit,) pixels that the unit's zones own."""
    mapped: Array
    """(unit,) of these, pixels in chunks that the run computes."""
    observed: Array
    """(unit, period) pixels observed."""
    total: Array
    """(unit, period, object) objects on observed pixels."""
    present: Array
    """(unit, period, object) pixels observed with presence at or above the threshold."""
    strange: Array
    """(unit, period) pixels observed whose inputs are unlike the training data, from the ledger's cells."""
    n_obs: Array
    """(unit, period, k) mapped pixels by number of clear observations; the last k holds all larger numbers."""
    extent: Array
    """(1,) pixels of the map: in computed chunks and owned."""
    whole: Array
    """(1, period, object) objects on all observed pixels of the map, summed without any unit: the check of the rest."""

    @classmethod
    def zeros(cls, units: int, periods: int, objects: int, max_obs: int) -> Sums:
        """Sums of nothing."""
        two, three = (units, periods), (units, periods, objects)
        shapes = [
            (units,),
            (units,),
            two,
            three,
            three,
            two,
            (units, periods, max_obs + 1),
            (1,),
            (1, periods, objects),
        ]
        return cls(*(np.zeros(shape) for shape in shapes))

    def add(self, at: NDArray[np.int64], part: Sums) -> None:
        """Add the sums of the units at these positions, in place."""
        for name in ("area", "mapped", "observed", "total", "present", "strange", "n_obs"):
            getattr(self, name)[at] += getattr(part, name)
        self.extent[:] += part.extent
        self.whole[:] += part.whole


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
        if unit.is_empty or not unit.intersects(box):
            continue
        if unit.contains(box):
            pixel = np.arange(window.height * window.width)
            parts.append(Fractions(np.full(pixel.size, position), pixel, np.ones(pixel.size)))
            continue
        pixel, fraction = _coverage(clipped(unit, near), lattice, window)
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


def block_sums(
    units: Sequence[BaseGeometry],
    block: MapBlock,
    periods: Sequence[str],
    objects: int,
    *,
    max_obs: int,
    presence_threshold: float = 0.5,
) -> Sums:
    """Sums of one block, for the units that touch it and, in one more row, for what lies outside all of them.

    Parameters
    ----------
    units
        Valid polygons in the CRS of the block's lattice.
    block
        The block.
    periods
        Labels, in the order of the result.
    objects
        Number of objects in the map.
    max_obs
        Largest number of clear observations told apart.
    presence_threshold
        A pixel holds the object at or above it.

    Returns
    -------
    Sums
        `len(units) + 1` rows; the last is the map's extent (its computed chunks) less the union of the units.
    """
    sums = Sums.zeros(len(units) + 1, len(periods), objects, max_obs)
    pieces = [_piece(units, block, window) for window in _windows(block.window)]
    for piece in pieces:
        layers = np.stack([piece.owned, piece.owned & piece.computed])
        area, mapped = zonal_sums(piece.fractions, layers, len(sums.area)).T
        sums.area[:] += area
        sums.mapped[:] += mapped
        sums.extent[:] += np.count_nonzero(piece.owned & piece.computed)
    for p, period in enumerate(periods):
        arrays = block.read(period)
        if arrays is None:
            sums.n_obs[:, p, 0] += sums.mapped
            continue
        cells = block.cells(period)
        for piece in pieces:
            _add_period(sums, p, piece, arrays, cells, block.window, presence_threshold)
    return sums


class _Piece(NamedTuple):
    """A window of a block with what does not depend on the period."""

    window: Window
    fractions: Fractions
    owned: NDArray[np.bool_]
    computed: NDArray[np.bool_]


def _piece(units: Sequence[BaseGeometry], block: MapBlock, window: Window) -> _Piece:
    near = block.lattice.bounds(window.padded(2))
    box = shapely.box(*block.lattice.bounds(window))
    local = [clipped(unit, near) if unit.intersects(box) else shapely.Polygon() for unit in units]
    computed = np.zeros(window.shape, bool)
    inside = [chunk for chunk in block.chunks if _overlaps(chunk, window)]
    for chunk in inside:
        computed[chunk.slices(window)] = True
    extent = shapely.union_all([shapely.box(*block.lattice.bounds(chunk)) for chunk in inside])
    outside = polygonal(shapely.difference(extent, shapely.union_all(local)))
    fractions = unit_fractions([*local, outside], block.lattice, window)
    return _Piece(window, fractions, owned(block.lattice, window), computed)


def _add_period(
    sums: Sums,
    p: int,
    piece: _Piece,
    arrays: Mapping[str, NDArray],
    cells: Mapping[str, NDArray] | None,
    block: Window,
    threshold: float,
) -> None:
    """Add one period of one window, in place."""
    rows, cols = piece.window.slices(block)
    count, presence = arrays["count"][:, rows, cols], arrays["presence"][:, rows, cols]
    n_obs, n_units = arrays["n_obs"][rows, cols], len(sums.area)
    observed = np.isfinite(count).all(axis=0) & piece.owned
    counts = np.where(observed, count, 0).astype(np.float64)
    sums.whole[0, p] += counts.sum(axis=(1, 2))
    layers = [observed, *counts, *(observed & (presence >= threshold))]
    found = zonal_sums(piece.fractions, layers, n_units)
    objects = len(count)
    sums.observed[:, p] += found[:, 0]
    sums.total[:, p] += found[:, 1 : 1 + objects]
    sums.present[:, p] += found[:, 1 + objects :]

    unit, pixel, fraction = piece.fractions
    bins = sums.n_obs.shape[2]
    clear = np.where(piece.computed & piece.owned, np.minimum(n_obs, bins - 1), bins).reshape(-1)[pixel]
    histogram = np.bincount(unit * (bins + 1) + clear, weights=fraction, minlength=n_units * (bins + 1))
    sums.n_obs[:, p] += histogram.reshape(n_units, bins + 1)[:, :bins]
    if cells is not None:
        strange, known = cells["out_of_domain_px"], cells["observed_px"]
        share = np.divide(strange, known, out=np.zeros(np.shape(known)), where=np.asarray(known) > 0)
        fine = np.kron(share, np.ones((CELL, CELL)))[rows, cols]
        sums.strange[:, p] += zonal_sums(piece.fractions, [np.where(observed, fine, 0)], n_units)[:, 0]


def _coverage(polygon: BaseGeometry, lattice: Lattice, window: Window) -> tuple[NDArray[np.int64], Array]:
    """(pixel index, fraction) of one polygon, by exactextract."""
    from exactextract import exact_extract
    from exactextract.feature import JSONFeatureSource
    from exactextract.raster import NumPyRasterSource

    if polygon.is_empty:
        return np.zeros(0, np.int64), np.zeros(0)
    # The values are not looked at: a broadcast zero stands for the raster. No CRS is given, because exactextract only
    # warns when they differ; the polygon is in the lattice's CRS by contract.
    raster = NumPyRasterSource(np.broadcast_to(np.uint8(0), window.shape), *_corners(lattice, window))
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(polygon)}
    found = exact_extract(raster, JSONFeatureSource([feature]), ["cell_id", "coverage"])[0]["properties"]
    pixel, fraction = np.asarray(found["cell_id"], np.int64), np.asarray(found["coverage"], np.float64)
    order = np.argsort(pixel, kind="stable")
    return pixel[order], fraction[order]


def _corners(lattice: Lattice, window: Window) -> tuple[float, float, float, float]:
    west, south, east, north = lattice.bounds(window)
    return west, south, east, north


def _windows(block: Window) -> Iterator[Window]:
    for row in range(block.row, block.row + block.height, _SIDE):
        for col in range(block.col, block.col + block.width, _SIDE):
            height = min(_SIDE, block.row + block.height - row)
            yield Window(row, col, height, min(_SIDE, block.col + block.width - col))


def _overlaps(a: Window, b: Window) -> bool:
    return a.row < b.row + b.height and b.row < a.row + a.height and a.col < b.col + b.width and b.col < a.col + a.width


def unmapped_area(units: Sequence[BaseGeometry], lattice: Lattice, window: Window) -> Array:
    """(unit,) pixels of a window that no block of the map holds, weighted by coverage and owned by the zone."""
    mask = owned(lattice, window)
    if mask.all():  # then the sum of the fractions is the area, and no pixel need be looked at
        near = lattice.bounds(window)
        return np.array([clipped(unit, near).area / lattice.pixel_area for unit in units])
    if not mask.any():
        return np.zeros(len(units))
    return zonal_sums(unit_fractions(units, lattice, window), mask[None], len(units))[:, 0]
