"""The pixel lattice of a UTM zone, its blocks and windows, and the ownership of pixels by zones.

In: an EPSG code, a resolution and the phase read from the items. Out: pixel windows that are the same for any region,
so that a place is computed once and counts are never resampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from subpixmap.sizes import BLOCK as BLOCK
from subpixmap.sizes import CHUNK as CHUNK

CELL = 128
"""Side of a cell, pixels: the ledger keeps sums by cell. A chunk is a whole number of cells."""

_SMALL = 32  # pixels; smaller windows are not halved
_MGRS_COLUMNS = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")  # by zone modulo 3
_MGRS_ROWS = "ABCDEFGHJKLMNPQRSTUV"
_MGRS_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of 8 degrees of latitude, from 80 S
_NORTHING_TOP = 10_000_000.0  # rows are numbered downwards from here; it bounds every UTM northing


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels of a lattice; row and column may be negative."""

    row: int
    """First row, counted downwards."""
    col: int
    """First column."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""

    def __post_init__(self) -> None:
        if self.height <= 0 or self.width <= 0:
            raise ValueError(f"an empty window: {self}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def padded(self, halo: int) -> Window:
        """Grow by `halo` pixels on every side."""
        return Window(self.row - halo, self.col - halo, self.height + 2 * halo, self.width + 2 * halo)

    def slices(self, inside: Window) -> tuple[slice, slice]:
        """Index this window in an array that covers `inside`."""
        row, col = self.row - inside.row, self.col - inside.col
        if row < 0 or col < 0 or row + self.height > inside.height or col + self.width > inside.width:
            raise ValueError(f"{self} is not inside {inside}")
        return slice(row, row + self.height), slice(col, col + self.width)

    def overlap(self, other: Window) -> Window | None:
        """The common pixels; None if there are none."""
        top, left = max(self.row, other.row), max(self.col, other.col)
        bottom = min(self.row + self.height, other.row + other.height)
        right = min(self.col + self.width, other.col + other.width)
        return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None

    def quarters(self) -> tuple[Window, Window, Window, Window]:
        """Upper left, upper right, lower left, lower right; of at least 2 x 2 pixels."""
        down, right = self.height // 2, self.width // 2
        rows = (self.row, down), (self.row + down, self.height - down)
        cols = (self.col, right), (self.col + right, self.width - right)
        upper_left, upper_right, lower_left, lower_right = (
            Window(row, col, height, width) for row, height in rows for col, width in cols
        )
        return upper_left, upper_right, lower_left, lower_right

    def aligned(self, multiple: int) -> Window:
        """Grow to the smallest window whose edges are multiples of `multiple` pixels."""
        row, col = self.row // multiple * multiple, self.col // multiple * multiple
        bottom = -(-(self.row + self.height) // multiple) * multiple
        right = -(-(self.col + self.width) // multiple) * multiple
        return Window(row, col, bottom - row, right - col)


@dataclass(frozen=True)
class Lattice:
    """The pixel lattice common to all Sentinel-2 tiles of a UTM zone at one resolution."""

    epsg: int
    """326zz (north) or 327zz (south)."""
    resolution: float = 10.0
    """Metres."""
    x_phase: float = 0.0
    """Easting of any pixel corner, modulo the resolution, metres."""
    y_phase: float = 0.0
    """Northing of any pixel corner, modulo the resolution, metres."""

    def __post_init__(self) -> None:
        if not (32601 <= self.epsg <= 32660 or 32701 <= self.epsg <= 32760):
            raise ValueError(f"EPSG:{self.epsg} is not a UTM zone of WGS 84 (32601-32660, 32701-32760)")
        if not self.resolution > 0:
            raise ValueError(f"resolution is {self.resolution} m; it must be positive")
        if not (0 <= self.x_phase < self.resolution and 0 <= self.y_phase < self.resolution):
            raise ValueError(f"phase ({self.x_phase}, {self.y_phase}) m is outside [0, {self.resolution})")

    @classmethod
    def of_transform(cls, epsg: int, transform: Affine, resolution: float | None = None) -> Lattice:
        """The lattice on which a north-up raster with this transform lies."""
        if transform.b != 0 or transform.d != 0 or transform.a != -transform.e or transform.a <= 0:
            raise ValueError(f"the raster is not north-up with square pixels: {tuple(transform)[:6]}")
        step = float(resolution or transform.a)
        return cls(epsg, step, float(transform.c) % step, float(transform.f) % step)

    @property
    def top(self) -> float:
        """Northing of the upper edge of row 0, metres."""
        return self.y_phase + self.resolution * math.ceil(_NORTHING_TOP / self.resolution)

    @property
    def pixel_area(self) -> float:
        """Square metres on the lattice."""
        return self.resolution**2

    def bounds(self, window: Window) -> tuple[float, float, float, float]:
        """(west, south, east, north) of the window's pixel edges, metres."""
        west = self.x_phase + window.col * self.resolution
        north = self.top - window.row * self.resolution
        return (
            west,
            north - window.height * self.resolution,
            west + window.width * self.resolution,
            north,
        )

    def transform(self, window: Window) -> Affine:
        """Affine transform from (column, row) of the window to the upper left pixel corner."""
        west, _, _, north = self.bounds(window)
        return Affine(self.resolution, 0, west, 0, -self.resolution, north)

    def window(self, bounds: tuple[float, float, float, float]) -> Window:
        """The smallest window that covers (west, south, east, north), metres; edges are snapped to 1e-6 px."""
        west, south, east, north = bounds
        left = math.floor(round((west - self.x_phase) / self.resolution, 6))
        right = math.ceil(round((east - self.x_phase) / self.resolution, 6))
        upper = math.floor(round((self.top - north) / self.resolution, 6))
        lower = math.ceil(round((self.top - south) / self.resolution, 6))
        return Window(upper, left, max(lower - upper, 1), max(right - left, 1))

    def coords(self, window: Window) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Pixel centres (x (width,), y (height,)), metres."""
        west, _, _, north = self.bounds(window)
        x = west + (np.arange(window.width) + 0.5) * self.resolution
        y = north - (np.arange(window.height) + 0.5) * self.resolution
        return x, y


@dataclass(frozen=True)
class Block:
    """A square of `size` pixels numbered from its lattice's own origin: the unit of work and of storage."""

    lattice: Lattice
    row: int
    """Block row, counted downwards from the lattice's origin."""
    col: int
    """Block column."""
    size: int
    """Pixels; a multiple of `CHUNK`."""

    def __post_init__(self) -> None:
        if self.size <= 0 or self.size % CHUNK:
            raise ValueError(f"block size {self.size} px is not a multiple of {CHUNK}")

    @property
    def id(self) -> str:
        """Name used in the ledger, in logs and in messages."""
        return f"{self.lattice.epsg}-r{self.row:05d}-c{self.col:05d}"

    @property
    def window(self) -> Window:
        """The block's pixels."""
        return Window(self.row * self.size, self.col * self.size, self.size, self.size)

    def chunks(self) -> Iterator[Window]:
        """The inner chunks, row by row."""
        for row in range(self.window.row, self.window.row + self.size, CHUNK):
            for col in range(self.window.col, self.window.col + self.size, CHUNK):
                yield Window(row, col, CHUNK, CHUNK)


def utm_epsg(lon: NDArray[np.floating], lat: NDArray[np.floating]) -> NDArray[np.int64]:
    """EPSG code of the UTM zone that owns each place.

    Parameters
    ----------
    lon, lat
        Degrees (WGS 84), any shape.

    Returns
    -------
    numpy.ndarray
        326zz or 327zz, same shape. Strips are 6 degrees wide, closed in the west, with the exceptions of the Military
        Grid Reference System for Norway and Svalbard, which the Sentinel-2 tiles follow.
    """
    lon = (np.asarray(lon, float) + 180) % 360 - 180
    lat = np.asarray(lat, float)
    zone = np.floor((lon + 180) / 6).astype(np.int64) + 1
    zone = np.where((lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12), 32, zone)
    svalbard = (lat >= 72) & (lon >= 0) & (lon < 42)
    zone = np.where(svalbard, np.select([lon < 9, lon < 21, lon < 33], [31, 33, 35], 37), zone)
    return np.where(lat >= 0, 32600, 32700) + zone


def mgrs_square(epsg: int, x: float, y: float, *, columns_east: int = 0) -> str:
    """Name of the 100 km square of the Military Grid Reference System that holds a place, such as 33TWL.

    Parameters
    ----------
    epsg
        UTM zone.
    x, y
        Metres.
    columns_east
        Take the square this many columns further east; at the zone's edge the last one stays.
    """
    zone = epsg % 100
    lat = transformer(epsg, 4326).transform(x, y)[1]
    band = _MGRS_BANDS[int(np.clip((lat + 80) // 8, 0, 19))]
    column = _MGRS_COLUMNS[zone % 3][int(np.clip(x // 1e5 - 1 + columns_east, 0, 7))]
    row = _MGRS_ROWS[(int(y // 1e5) + (5 if zone % 2 == 0 else 0)) % 20]
    return f"{zone:02d}{band}{column}{row}"


def owned(lattice: Lattice, window: Window) -> NDArray[np.bool_]:
    """Mask (height, width): True where the lattice's zone owns the pixel's centre, so that each place is owned once."""
    x, y = lattice.coords(window)
    to_lonlat = transformer(lattice.epsg, 4326)
    # Longitude and latitude have no extremum inside a window: if its outline is owned, all of it is.
    outline_x = np.concatenate([x, x, np.full(y.size, x[0]), np.full(y.size, x[-1])])
    outline_y = np.concatenate([np.full(x.size, y[0]), np.full(x.size, y[-1]), y, y])
    on_outline = utm_epsg(*to_lonlat.transform(outline_x, outline_y)) == lattice.epsg
    if on_outline.all() or not on_outline.any():  # a strip is wider than any window
        return np.full(window.shape, on_outline[0])
    if min(window.shape) >= 2 * _SMALL:  # the border runs through few of the parts
        upper_left, upper_right, lower_left, lower_right = (owned(lattice, part) for part in window.quarters())
        return np.block([[upper_left, upper_right], [lower_left, lower_right]])
    xx, yy = np.meshgrid(x, y)
    mask: NDArray[np.bool_] = utm_epsg(*to_lonlat.transform(xx, yy)) == lattice.epsg
    return mask


def owns(lattice: Lattice, window: Window) -> bool | None:
    """Whether the lattice's zone owns all pixels of a window of any size (True) or none (False); None where some.

    Looks at pixels of the outline at most 128 apart: over that distance a zone's border bends by less than 2 cm.
    """
    rows, cols = (
        np.unique(np.append(np.arange(first, first + n, CHUNK // 2), first + n - 1))
        for first, n in ((window.row, window.height), (window.col, window.width))
    )
    across, down = np.tile(cols, 2), np.tile(rows, 2)
    row = np.concatenate([np.repeat(rows[[0, -1]], cols.size), down])
    col = np.concatenate([across, np.repeat(cols[[0, -1]], rows.size)])
    x = lattice.x_phase + (col + 0.5) * lattice.resolution
    y = lattice.top - (row + 0.5) * lattice.resolution
    mine = utm_epsg(*transformer(lattice.epsg, 4326).transform(x, y)) == lattice.epsg
    return None if mine.any() and not mine.all() else bool(mine[0])


@lru_cache(maxsize=256)
def transformer(from_epsg: int, to_epsg: int) -> Transformer:
    """A transformer in (x, y) = (longitude, latitude) order."""
    return Transformer.from_crs(from_epsg, to_epsg, always_xy=True)


def project(geometry: BaseGeometry, from_epsg: int, to_epsg: int) -> BaseGeometry:
    """Reproject a geometry vertex by vertex."""
    if from_epsg == to_epsg:
        return geometry
    move = transformer(from_epsg, to_epsg).transform
    return shapely.transform(geometry, lambda xy: np.column_stack(move(xy[:, 0], xy[:, 1])))
