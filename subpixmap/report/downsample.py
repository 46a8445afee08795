"""A map of any size -> a few hundred display pixels: mean density and clear observations; NaN where not observed.

For display only: densities are means over display pixels; a region with several zones is sampled to one projection.
Totals always come from the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

from subpixmap.progress import track

if TYPE_CHECKING:
    import xarray as xr

    Arrays = Mapping[int, xr.Dataset]

_TILE = 2048  # pixels read at once along each side: bounds the memory


@dataclass(frozen=True)
class DisplayGrid:
    """The display pixels of a picture: square, north up."""

    crs: CRS
    """The zone's UTM, or an equidistant cylindrical projection around the middle of a region with several zones."""
    west: float
    """Metres."""
    north: float
    """Metres."""
    step: float
    """Side of a display pixel, metres."""
    shape: tuple[int, int]
    """(rows, columns)."""

    def to_pixels(self, geometry: BaseGeometry) -> BaseGeometry:
        """A geometry in EPSG:4326 in display pixels, x to the right and y downwards."""
        there = _to(self.crs)

        def move(xy: NDArray[np.floating]) -> NDArray[np.floating]:
            x, y = there.transform(xy[:, 0], xy[:, 1])
            return np.column_stack([(x - self.west) / self.step, (self.north - y) / self.step])

        return shapely.transform(geometry, move)

    def centres(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Pixel centres (x, y), each (rows, columns), metres."""
        x = self.west + (np.arange(self.shape[1]) + 0.5) * self.step
        y = self.north - (np.arange(self.shape[0]) + 0.5) * self.step
        xx, yy = np.meshgrid(x, y)
        return xx, yy


@dataclass(frozen=True)
class Layers:
    """What the page and the figures draw."""

    grid: DisplayGrid
    objects: tuple[str, ...]
    periods: tuple[str, ...]
    density: NDArray[np.float32]
    """(object, period, y, x) objects per hectare, mean over the observed part of a display pixel; NaN: not observed."""
    n_obs: NDArray[np.float32]
    """(period, y, x) mean number of clear observations; NaN outside the map."""
    inside: NDArray[np.bool_]
    """(y, x) within the region."""


@lru_cache(maxsize=8)  # building one takes longer than moving the polygon of a unit
def _to(crs: CRS) -> Transformer:
    return Transformer.from_crs(4326, crs, always_xy=True)


def read_layers(maps: Arrays, geometry: BaseGeometry, *, size: int = 560) -> Layers:
    """Reduce a map to at most about `size` display pixels a side.

    Parameters
    ----------
    maps
        Zone datasets by EPSG code, as `open_map` returns them: `count` (object, period, y, x), `n_obs` (period, y, x).
    geometry
        The region, EPSG:4326: the picture's extent.
    size
        Display pixels along the longer side.
    """
    first = next(iter(maps.values()))
    resolution = float(abs(first.x[1] - first.x[0])) if first.sizes["x"] > 1 else 10.0
    corner = float(first.x[0]) - resolution / 2, float(first.y[0]) + resolution / 2
    grid, factor = make_display_grid(geometry, sorted(maps), corner, resolution, size)
    objects, periods = (tuple(str(name) for name in first[axis].values) for axis in ("object", "period"))
    density = np.full((len(objects), len(periods), *grid.shape), np.nan, np.float32)
    n_obs = np.full((len(periods), *grid.shape), np.nan, np.float32)
    places = {epsg: _cells_of(grid, epsg, data, resolution) for epsg, data in maps.items()}
    seen_zones = [epsg for epsg, (_, _, there) in places.items() if there.any()]
    for epsg, p in track([*product(seen_zones, range(len(periods)))], "read the map", "periods of a UTM zone"):
        data, (rows, cols, there) = maps[epsg], places[epsg]
        crop = (slice(rows[there].min() * factor, (rows[there].max() + 1) * factor),
                slice(cols[there].min() * factor, (cols[there].max() + 1) * factor))  # fmt: skip
        at = rows[there] - rows[there].min(), cols[there] - cols[there].min()
        count = block_means(data["count"].isel(period=p, y=crop[0], x=crop[1]), factor)  # (object, y, x)
        seen = block_means(data["n_obs"].isel(period=p, y=crop[0], x=crop[1]), factor)
        for o in range(len(objects)):
            _fill(density[o, p], there, count[o][at] / (resolution**2 / 1e4))
        _fill(n_obs[p], there, seen[at])
    inside = rasterised(grid.to_pixels(geometry), grid.shape)
    return Layers(grid, objects, periods, density, n_obs, inside)


def make_display_grid(
    geometry: BaseGeometry, epsgs: list[int], corner: tuple[float, float], resolution: float, size: int
) -> tuple[DisplayGrid, int]:
    """The display pixels of a region, and how many pixels of the map make one along each side.

    In a single zone the display pixels are whole pixels of the map, counted from `corner`, the map's upper left one.
    """
    crs = CRS.from_epsg(epsgs[0]) if len(epsgs) == 1 else _around(geometry)
    there = Transformer.from_crs(4326, crs, always_xy=True)
    x, y = there.transform(*shapely.get_coordinates(geometry).T)
    factor = max(1, math.ceil(max(np.ptp(x), np.ptp(y)) / resolution / size))
    step = factor * resolution
    west = corner[0] + math.floor((x.min() - corner[0]) / step) * step
    north = corner[1] + math.ceil((y.max() - corner[1]) / step) * step
    shape = max(1, math.ceil((north - y.min()) / step)), max(1, math.ceil((x.max() - west) / step))
    return DisplayGrid(crs, west, north, step, shape), factor


def block_means(array: xr.DataArray, factor: int) -> NDArray[np.float32]:
    """Mean of the finite values of factor x factor pixels, over the last two axes; edge blocks may be smaller."""
    height, width = array.shape[-2:]
    shape = (*array.shape[:-2], -(-height // factor), -(-width // factor))
    means = np.full(shape, np.nan, np.float32)
    side = max(1, _TILE // factor) * factor
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = array[..., top : top + side, left : left + side].to_numpy().astype(np.float64)
            means[..., top // factor : (top + side) // factor, left // factor : (left + side) // factor] = _means(
                part, factor
            )
    return means


def _means(part: NDArray[np.float64], factor: int) -> NDArray[np.float32]:
    height, width = part.shape[-2:]
    pad = [(0, 0)] * (part.ndim - 2) + [(0, -height % factor), (0, -width % factor)]
    part = np.pad(part, pad, constant_values=np.nan)
    cells = part.reshape(*part.shape[:-2], part.shape[-2] // factor, factor, part.shape[-1] // factor, factor)
    seen = np.isfinite(cells).sum(axis=(-3, -1))
    total = np.nansum(cells, axis=(-3, -1))
    means: NDArray[np.float64] = np.divide(total, seen, out=np.full(total.shape, np.nan), where=seen > 0)
    return means.astype(np.float32)


def rasterised(geometry: BaseGeometry, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Display pixels whose centre lies in a geometry given in display pixels."""
    from rasterio.features import geometry_mask

    if geometry.is_empty:
        return np.zeros(shape, bool)
    mask: NDArray[np.bool_] = geometry_mask([geometry], shape, Affine.identity(), invert=True)
    return mask


def _cells_of(
    grid: DisplayGrid, epsg: int, data: xr.Dataset, resolution: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Coarse row and column of a zone's dataset under each display pixel, and whether there is one."""
    x, y = Transformer.from_crs(grid.crs, epsg, always_xy=True).transform(*grid.centres())
    cols = np.floor((x - float(data.x[0]) + resolution / 2) / grid.step)
    rows = np.floor((float(data.y[0]) + resolution / 2 - y) / grid.step)
    factor = grid.step / resolution
    there = np.isfinite(cols) & np.isfinite(rows) & (cols >= 0) & (rows >= 0)
    there &= (cols * factor < data.sizes["x"]) & (rows * factor < data.sizes["y"])
    return np.where(there, rows, 0).astype(np.int64), np.where(there, cols, 0).astype(np.int64), there


def _fill(target: NDArray[np.float32], where: NDArray[np.bool_], values: NDArray[np.floating]) -> None:
    """Write the finite values; a pixel that another zone owns keeps the value of that zone."""
    old = target[where]
    target[where] = np.where(np.isfinite(values), values, old)


def _around(geometry: BaseGeometry) -> CRS:
    lon, lat = shapely.get_coordinates(geometry).T
    if np.ptp(lon) > np.ptp(lon % 360):  # both sides of the date line
        lon = lon % 360
    middle = (lon.min() + lon.max()) / 2
    true = (lat.min() + lat.max()) / 2
    return CRS.from_proj4(f"+proj=eqc +lon_0={middle} +lat_ts={true} +datum=WGS84 +units=m")
