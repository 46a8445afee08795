"""Outlines in degrees: repaired, cut at the date line, widened in metres, with edges short enough to reproject.

In and out: shapely geometries in EPSG:4326, x = longitude in [-180, 180], y = latitude.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

COAST_BUFFER = 10_000.0
"""Buffer around the outline of a named region, metres, so that a coarse coastline does not cut off trees at the
shore."""
STEP = 0.01
"""Degrees; longest edge of an outline. A chord of that length leaves a parallel by less than 5 cm below 70 degrees."""

_SAME_AREA = 1e-6  # relative; what rounding may change
_STRIP = 6  # degrees; wide enough to be few, narrow enough for a transverse Mercator to be metric (0.14 % at the edge)
_SIMPLER = 0.002  # degrees; at most 225 m, which `widen` adds to the distance


def polygons(geometry: BaseGeometry | None) -> BaseGeometry:
    """Repair a geometry as it was drawn and keep its polygons; an empty polygon if there are none.

    What an outline encloses an odd number of times is land: both halves of a figure of eight. Parts that overlap are
    united.
    """
    if geometry is None or geometry.is_empty:
        return shapely.Polygon()
    geometry = shapely.force_2d(geometry)
    if not geometry.is_valid:
        parts = [polygonal(shapely.make_valid(part)) for part in shapely.get_parts(geometry)]
        geometry = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    return polygonal(geometry)


def polygonal(geometry: BaseGeometry) -> BaseGeometry:
    """The polygons of a valid geometry, without the points and lines that a repair or an overlay may leave."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = shapely.get_parts(geometry)
    while any(part.geom_type == "GeometryCollection" for part in parts):
        parts = shapely.get_parts(parts)
    parts = [part for part in parts if part.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts) if parts else shapely.Polygon()


def mended(geometry: BaseGeometry) -> BaseGeometry:
    """Repair polygons that were valid before rounding moved their vertices, keeping their area.

    Where an outline touches itself, rounding makes it cross itself. No method of repair keeps the land of all such
    outlines, so the result is compared with the area that the outline has as it is.
    """
    if geometry.is_valid:
        return geometry
    found = [polygonal(shapely.make_valid(geometry, method=method)) for method in ("linework", "structure")]
    found.append(polygonal(shapely.buffer(geometry, 0)))
    kept = [one for one in found if math.isclose(one.area, geometry.area, rel_tol=_SAME_AREA)]
    return kept[0] if kept else min(found, key=lambda one: abs(one.area - geometry.area))


def densify(geometry: BaseGeometry, step: float = STEP) -> BaseGeometry:
    """Add vertices to valid polygons so that no edge is longer than `step`, in the units of the geometry."""
    dense = shapely.segmentize(geometry, step)
    if math.isclose(dense.area, geometry.area, rel_tol=_SAME_AREA):
        return dense
    # GEOS buffers by 0 what rounding made invalid, and may drop land: add the vertices ring by ring instead.
    parts = [
        shapely.Polygon(
            shapely.segmentize(part.exterior, step), [shapely.segmentize(ring, step) for ring in part.interiors]
        )
        for part in shapely.get_parts(geometry)
    ]
    return mended(parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts))


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
    """Polygons without jumps (see `unfolded`), repaired part by part and cut at the date line."""
    if geometry is None or geometry.is_empty:
        return geometry
    parts = shapely.get_parts(unfolded(geometry))
    return wrap(polygons(parts[0]) if len(parts) == 1 else shapely.union_all([polygons(part) for part in parts]))


def unfolded(geometry: BaseGeometry) -> BaseGeometry:
    """Polygons whose rings jump from 180 to -180 degrees, without the jump: longitudes up to 360, nothing repaired.

    An edge longer than 180 degrees is such a jump. An edge along the date line itself may also be a side of the box of
    the world; it counts as a jump if the unfolded ring is narrower than half the world. With the jump, an outline spans
    the world; this comes before it is repaired or gets vertices.
    """
    parts = shapely.get_parts(geometry)
    if not any(map(_folded, parts)):
        return geometry
    flat = [shapely.transform(part, _east_of_greenwich) if _folded(part) else part for part in parts]
    return flat[0] if geometry.geom_type == "Polygon" else type(geometry)(flat)


def jumps(lonlat: BaseGeometry, drawn: BaseGeometry, far: float) -> bool:
    """Whether an edge crosses the date line, and is longer than `far` in the projection in which it was drawn.

    Parameters
    ----------
    lonlat, drawn
        The same vertices in degrees and in the projection.
    far
        In the units of the projection.
    """
    if drawn.is_empty or drawn.length < far:
        return False
    there, here = (shapely.get_rings(shapely.get_parts(shape)) for shape in (lonlat, drawn))
    xy, ring = shapely.get_coordinates(here, return_index=True)
    long = (np.hypot(*np.diff(xy, axis=0).T) > far) & (np.diff(ring) == 0)
    across = np.abs(np.diff(shapely.get_coordinates(there)[:, 0])) > 180
    return bool((across & long).any())


def _folded(part: BaseGeometry) -> bool:
    if part.geom_type != "Polygon" or part.is_empty or part.bounds[2] - part.bounds[0] <= 180:
        return False
    return any(map(_jumps, [part.exterior, *part.interiors]))


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


def widen(geometry: BaseGeometry, metres: float = COAST_BUFFER) -> BaseGeometry:
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
    return mended(shapely.transform(shapely.buffer(flat, metres, quad_segs=8), back))


@lru_cache(maxsize=64)
def _mercator(middle: float) -> Transformer:
    return Transformer.from_crs(4326, f"+proj=tmerc +lon_0={middle} +k=1 +datum=WGS84 +units=m", always_xy=True)
