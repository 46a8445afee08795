"""Where imagery lies and how it is rendered: a rectangle per UTM zone, painted in windows, cut into two MGRS tiles.

In: a `Country` and its acquisitions. Out: a `RenderedZone` per zone, with digital numbers and SCL of every acquisition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from subpixmap.grid import mgrs_square, transformer, utm_epsg
from subpixmap.machine import cores, thread_pool
from subpixmap.simulate.catalogue import DeliveredTile
from subpixmap.simulate.country import HALO_M, Country
from subpixmap.simulate.delivery import OFFSET
from subpixmap.simulate.ground import MARGIN, Frame
from subpixmap.simulate.noise import FloatArray
from subpixmap.simulate.placement import Bounds
from subpixmap.simulate.planting import Planted
from subpixmap.simulate.render import make_site, render
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.sky import digital_numbers
from subpixmap.simulate.spectra import BAND_FACTS, BANDS

CHUNK = 256
"""Largest side of a rendered window, pixels."""
IN_MEMORY = 400_000_000
"""Bytes of pixels above which they are stored in files instead of memory."""


@dataclass(frozen=True)
class Extent:
    """The rectangle of one UTM zone to render; its edges are multiples of 20 m."""

    epsg: int
    west: float
    north: float
    width: int
    """10 m pixels; even."""
    height: int

    def nbytes(self, acquisitions: int) -> int:
        """Bytes of all bands and SCL, uncompressed."""
        return round(self.width * self.height * acquisitions * (2 * (4 + 6 / 4) + 1 / 4))


@dataclass(frozen=True)
class RenderedZone:
    """An extent with the pixels of every acquisition."""

    extent: Extent
    acquisitions: int
    held: dict[str, NDArray[Any]]
    """Planes in memory; empty if they are stored in files."""
    folder: Path

    def plane(self, name: str) -> NDArray[Any]:
        """(acquisition, rows, columns) of a band (uint16: 10000 x reflectance + 1000, 0 = no data) or `SCL` (20 m).

        A plane in a file is mapped anew by each call, so that the pages of a window are released with it.
        """
        if self.held:
            return self.held[name]
        path = self.folder / f"{self.extent.epsg}_{name}.raw"
        shape, dtype = _layout(self.extent, self.acquisitions, name)
        return np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)


def _layout(extent: Extent, acquisitions: int, name: str) -> tuple[tuple[int, int, int], type[Any]]:
    """Shape and type of a plane."""
    gsd, dtype = (20, np.uint8) if name == "SCL" else (BAND_FACTS[name].gsd, np.uint16)
    return (acquisitions, extent.height * 10 // gsd, extent.width * 10 // gsd), dtype


def extents(country: Country) -> list[Extent]:
    """One extent for each UTM zone that owns a part of the country, the one of its centre first."""
    reach, (ox, oy) = country.reach(), country.origin
    zones = _zones(country)
    if len(zones) == 1:
        side = round(2 * reach / 10)
        return [Extent(country.epsg, ox - reach, oy + reach, side, side)]
    return [_extent(country, epsg, reach) for epsg in zones]


def _zones(country: Country) -> list[int]:
    """Zones that own a place of the country."""
    outline = country.outline
    west, south, east, north = outline.bounds
    xx, yy = np.meshgrid(np.linspace(west, east, 81), np.linspace(south, north, 81))
    shapely.prepare(outline)
    inside = shapely.contains_xy(outline, xx, yy)
    owners = {int(e) for e in np.unique(utm_epsg(*country.to_lonlat(xx[inside], yy[inside])))}
    return [country.epsg, *sorted(owners - {country.epsg})]


def _extent(country: Country, epsg: int, reach: float) -> Extent:
    """The zone's own part of the square that imagery covers, and a halo beyond the seam."""
    axis = np.linspace(-reach, reach, 161)
    xx, yy = (a.ravel() for a in np.meshgrid(axis, axis))
    own = utm_epsg(*country.to_lonlat(xx, yy)) == epsg
    to_zone = transformer(country.epsg, epsg).transform
    x, y = to_zone(xx[own] + country.origin[0], yy[own] + country.origin[1])
    more = HALO_M + (axis[1] - axis[0])
    west, south = (np.floor((v.min() - more) / 20) * 20 for v in (x, y))
    east, north = (np.ceil((v.max() + more) / 20) * 20 for v in (x, y))
    return Extent(epsg, float(west), float(north), round((east - west) / 10), round((north - south) / 10))


def frame_of(country: Country, extent: Extent, window: tuple[int, int, int, int]) -> Frame:
    """The frame of a window (row, column, height, width) of an extent.

    In the country's own zone the landscape is displaced only. In another zone the exact projection is replaced by its
    tangent at the frame's centre, which is within 0.1 m over a frame of 2.5 km.
    """
    row, col, height, width = window
    west, north = extent.west + 10 * col, extent.north - 10 * row
    ox, oy = country.origin
    if extent.epsg == country.epsg:
        return Frame(west, north, width, height, lambda x, y: (x - ox, y - oy), lambda x, y: (x + ox, y + oy))
    cx, cy, step = west + 5 * width, north - 5 * height, 500.0
    x, y = transformer(extent.epsg, country.epsg).transform(
        np.array([cx, cx + step, cx - step, cx, cx]), np.array([cy, cy, cy, cy + step, cy - step])
    )
    turn = np.array([[x[1] - x[2], x[3] - x[4]], [y[1] - y[2], y[3] - y[4]]]) / (2 * step)
    back = np.linalg.inv(turn)
    px, py = x.mean() - ox, y.mean() - oy

    def to_landscape(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        return (
            px + turn[0, 0] * (x - cx) + turn[0, 1] * (y - cy),
            py + turn[1, 0] * (x - cx) + turn[1, 1] * (y - cy),
        )

    def to_image(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        return (
            cx + back[0, 0] * (x - px) + back[0, 1] * (y - py),
            cy + back[1, 0] * (x - px) + back[1, 1] * (y - py),
        )

    return Frame(west, north, width, height, to_landscape, to_image)


def windows(extent: Extent) -> list[tuple[int, int, int, int]]:
    """(row, column, height, width) of windows of even size, at most CHUNK."""
    rows, cols = (_cuts(n) for n in (extent.height, extent.width))
    return [(top, left, bottom - top, right - left) for top, bottom in pairwise(rows) for left, right in pairwise(cols)]


def _cuts(pixels: int) -> list[int]:
    parts = -(-pixels // CHUNK)
    return [round(pixels / 2 * k / parts) * 2 for k in range(parts + 1)]


def landscape_bounds(country: Country, all_extents: list[Extent]) -> Bounds:
    """Bounds to plant so that every zone is full up to its margin, metres from the origin."""
    boxes = []
    for extent in all_extents:
        corners = [(0, 0, 2, 2), (extent.height - 2, extent.width - 2, 2, 2),
                   (0, extent.width - 2, 2, 2), (extent.height - 2, 0, 2, 2)]  # fmt: skip
        boxes += [frame_of(country, extent, corner).bounds() for corner in corners]
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    more = 10.0 * MARGIN
    return float(low[0] - more), float(low[1] - more), float(high[2] + more), float(high[3] + more)


def blank(extent: Extent, acquisitions: int, scratch: Path) -> RenderedZone:
    """An empty zone, in memory if it is small, otherwise in files of the scratch folder."""
    names = (*BANDS, "SCL")
    if extent.nbytes(acquisitions) <= IN_MEMORY:
        held = {name: np.zeros(*_layout(extent, acquisitions, name)) for name in names}
        return RenderedZone(extent, acquisitions, held, scratch)
    zone = RenderedZone(extent, acquisitions, {}, scratch)
    for name in names:
        zone.plane(name)
    return zone


def paint(
    zone: RenderedZone, country: Country, dates: list[Acquisition], planted: Planted, tick: Callable[[], None]
) -> None:
    """Render every window of a zone, all dates of a window together; `tick` is called for each of them."""

    def one(window: tuple[int, int, int, int]) -> None:
        row, col, height, width = window
        frame = frame_of(country, zone.extent, window)
        site = make_site(country.landscape, frame, planted.within(frame.bounds()), planted.lots)
        for number, picture in enumerate(render(site, dates)):
            layers = {band: digital_numbers(rho, OFFSET) for band, rho in picture.bands.items()} | {"SCL": picture.scl}
            for name, pixels in layers.items():
                k = width // pixels.shape[1]
                part = slice(row // k, (row + height) // k), slice(col // k, (col + width) // k)
                zone.plane(name)[number][part] = pixels
            tick()

    with thread_pool(threads()) as pool:
        list(pool.map(one, windows(zone.extent)))


def threads() -> int:
    """Number of threads that render and write."""
    return min(4, cores())


def tiles_of(extent: Extent) -> list[DeliveredTile]:
    """Two tiles, west and east, that overlap by a tenth of the width (200 m at least)."""
    middle, overlap = extent.width // 4 * 2, max(extent.width // 40 * 2, 10)
    x = extent.west + 10 * middle
    y = extent.north - 5 * extent.height
    east = 1 if x < 8e5 else 0  # names of neighbouring squares; at the zone's edge the western one is invented
    names = (mgrs_square(extent.epsg, x, y, columns_east=column) for column in (east - 1, east))
    parts = ((extent.west, middle + overlap), (x - 10 * overlap, extent.width - middle + overlap))
    return [
        DeliveredTile(name, extent.epsg, west, extent.north, width, extent.height)
        for name, (west, width) in zip(names, parts, strict=True)
    ]
