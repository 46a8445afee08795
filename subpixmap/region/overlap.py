"""Do units and map lie in the same place? Units elsewhere, or with their axes swapped, are refused before counting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError

if TYPE_CHECKING:
    import geopandas as gpd


def require_overlap(units: gpd.GeoDataFrame, source: str, geometry: BaseGeometry, where: str) -> NDArray[np.bool_]:
    """Which units overlap a region; some must, and more than would with their axes swapped.

    Parameters
    ----------
    units
        EPSG:4326, x = longitude.
    source
        Name of the units' file, for messages.
    geometry
        The region, EPSG:4326.
    where
        Its name, for messages: `region demo`.

    Raises
    ------
    InputError
        No unit overlaps, or all of them do once x and y are exchanged and not all do as they are: coordinates written
        as (latitude, longitude) need not leave the range of degrees.
    """
    shapes = np.array([shape if shape is not None else shapely.Polygon() for shape in units.geometry], dtype=object)
    near = _overlapping(shapes, geometry)
    if near.all():
        return near
    full = ~shapely.is_empty(shapes)
    swapped = _overlapping(shapely.transform(shapes[full], lambda xy: xy[:, ::-1]), geometry)
    west, south, east, north = units.total_bounds
    if swapped.size and swapped.all() and not near[full].all():
        raise InputError(
            f"the units of {source} span {west:.2f} to {east:.2f} in longitude and {south:.2f} to {north:.2f} in "
            f"latitude; {where} holds them all once x and y are exchanged: write them as (longitude, latitude)"
        )
    if not near.any():
        raise InputError(
            f"no unit of {source} lies in {where}: the units span {west:.2f},{south:.2f},"
            f"{east:.2f},{north:.2f} (west,south,east,north)"
        )
    return near


def _overlapping(shapes: NDArray[np.object_], geometry: BaseGeometry) -> NDArray[np.bool_]:
    shapely.prepare(geometry)
    found: NDArray[np.bool_] = shapely.intersects(geometry, shapes) & ~shapely.touches(geometry, shapes)
    return found
