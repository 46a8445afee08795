"""Outlines in degrees: repaired, cut at the date line, widened in metres, with edges short enough to reproject.

In and out: shapely geometries in EPSG:4326, x = longitude in [-180, 180], y = latitude.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

STEP = 0.01
"""Degrees; longest edge of an outline. A chord of that length leaves a parallel by less than 5 cm below 70 degrees."""

_STRIP = 6  # degrees; wide enough to be few, narrow enough for a transverse Mercator to be metric (0.14 % at the edge)
_SIMPLER = 0.002  # degrees; at most 225 m, which `widen` adds to the distance


def polygons(geometry: BaseGeometry | None) -> BaseGeometry:
    """Repair a geometry and keep its polygons; an empty polygon if there are none."""
    if geometry is None or geometry.is_empty:
        return shapely.Polygon()
    geometry = shapely.force_2d(geometry)
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def densify(geometry: BaseGeometry, step: float = STEP) -> BaseGeometry:
    """Add vertices so that no edge is longer than `step`, in the units of the geometry."""
    return shapely.segmentize(geometry, step)


def wrap(geometry: BaseGeometry) -> BaseGeometry:
    """Cut at the date line: longitudes in [-540, 540] -> longitudes in [-180, 180]."""
    west, _, east, _ = geometry.bounds if not geometry.is_empty else (0, 0, 0, 0)
    if west >= -180 and east <= 180:
        return geometry
    pieces = [
        shapely.transform(
            shapely.intersection(geometry, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)),
            lambda xy, turn=turn: np.column_stack([np.clip(xy[:, 0] - 360 * turn, -180, 180), xy[:, 1]]),
        )
        for turn in (-1, 0, 1)
    ]
    return polygons(shapely.union_all([polygons(piece) for piece in pieces]))


def unfold(geometry: BaseGeometry | None) -> BaseGeometry | None:
    """Repair polygons whose rings jump from 180 to -180 degrees; unrepaired they span the whole world.

    An edge longer than 180 degrees is such a jump. An edge along the date line itself may also be a side of the box of
    the world; it counts as a jump if the unfolded ring is narrower than half the world.
    """
    if geometry is None or geometry.is_empty:
        return geometry
    parts = [_unfold_part(part) for part in shapely.get_parts(geometry)]
    return wrap(parts[0] if len(parts) == 1 else shapely.union_all([polygons(part) for part in parts]))


def _unfold_part(part: BaseGeometry) -> BaseGeometry:
    if part.geom_type != "Polygon" or not any(map(_jumps, [part.exterior, *part.interiors])):
        return part
    return polygons(shapely.transform(part, _east_of_greenwich))


def _jumps(ring: BaseGeometry) -> bool:
    lon = shapely.get_coordinates(ring)[:, 0]
    far = np.abs(np.diff(lon)) > 180
    if not far.any():
        return False
    on_line = np.abs(lon) == 180
    if (far & ~(on_line[1:] & on_line[:-1])).any():
        return True
    unfolded = shapely.Polygon(shapely.transform(ring, _east_of_greenwich))
    west, _, east, _ = unfolded.bounds
    return bool(unfolded.area > 0 and east - west < 180)


def _east_of_greenwich(xy: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.column_stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]])


def widen(geometry: BaseGeometry, metres: float) -> BaseGeometry:
    """Buffer by at least `metres` on the ground, and by at most 3 % + 250 m more.

    The outline is cut into strips of 6 degrees. Each is buffered in its own transverse Mercator projection, which keeps
    lengths to 0.14 % there; the buffer of a union is the union of the buffers.
    """
    geometry = shapely.make_valid(shapely.simplify(geometry, _SIMPLER))
    west, south, east, north = geometry.bounds
    distance = metres * 1.01 + _SIMPLER * 111_320
    pieces = []
    for left in range(int(np.floor(west / _STRIP)) * _STRIP, int(np.ceil(east / _STRIP)) * _STRIP, _STRIP):
        piece = shapely.intersection(geometry, shapely.box(left, south, left + _STRIP, north))
        if not piece.is_empty:
            pieces.append(wrap(_widen_in_strip(piece, left + _STRIP / 2, distance)))
    return polygons(shapely.union_all(pieces))


def _widen_in_strip(piece: BaseGeometry, middle: float, metres: float) -> BaseGeometry:
    there = _mercator(middle)

    def back(xy: NDArray[np.floating]) -> NDArray[np.floating]:
        lon, lat = there.transform(xy[:, 0], xy[:, 1], direction="INVERSE")
        return np.column_stack([middle + (lon - middle + 180) % 360 - 180, lat])

    flat = shapely.transform(piece, lambda xy: np.column_stack(there.transform(xy[:, 0], xy[:, 1])))
    return polygons(shapely.transform(shapely.buffer(flat, metres, quad_segs=8), back))


@lru_cache(maxsize=64)
def _mercator(middle: float) -> Transformer:
    return Transformer.from_crs(4326, f"+proj=tmerc +lon_0={middle} +k=1 +datum=WGS84 +units=m", always_xy=True)
