"""Reads polygons of any vector format as a table in EPSG:4326, repaired, in the file's order.

Regions, labelled areas and administrative units are all read here. A file whose coordinates cannot be what its
coordinate reference system says is refused before anything else is read.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.region.layers import read_layer, require_placed
from subpixmap.region.outline import STEP, densify, jumps, mended, polygons, unfold, unfolded, wrap

SUFFIXES = (
    ".geojson",
    ".json",
    ".gpkg",
    ".parquet",
    ".geoparquet",
    ".shp",
    ".fgb",
    ".kml",
    ".gml",
    ".zip",
    ".topojson",
)

_FAR = 1e7
"""Metres; a longer edge that crosses the date line goes round the other side of the map, not across."""
_TOLD = 1e-3
"""Relative; a difference of area that a user is told."""

_log = logging.getLogger(__name__)


def read_polygons(
    path: str | Path,
    *,
    dense: bool = False,
    layer: str | None = None,
    encoding: str | None = None,
    option: str = "--layer",
) -> gpd.GeoDataFrame:
    """All rows of a file, in EPSG:4326.

    Parameters
    ----------
    path
        GeoPackage, GeoParquet, GeoJSON, Shapefile and the other formats of `formats.FORMATS`.
    layer, encoding, option
        As in `read_layer`.
    dense
        Whether long edges get vertices, in the file's own CRS, before they are reprojected.

    Returns
    -------
    geopandas.GeoDataFrame
        All columns of the file. Geometries are valid polygons, cut at the date line; empty where a row has none.

    Raises
    ------
    InputError
        As `read_layer`; or the file has no polygons or no CRS, or its coordinates contradict its CRS.
    """
    path = Path(path)
    table = read_layer(path, "polygons", layer=layer, encoding=encoding, option=option, whole=True)
    if not isinstance(table, gpd.GeoDataFrame) or table.active_geometry_name is None:  # attributes alone
        raise InputError(f"{path.name} has no polygons ({len(table)} rows)")
    if table.crs is None:
        raise InputError(f"{path.name} has no coordinate reference system; set one in the file and try again")
    require_placed(table.crs, path.name)
    _check_coordinates(table, path.name)
    table = table.reset_index(drop=True)
    table = table.set_geometry(_in_degrees(table.geometry, path.name, dense))
    if table.geometry.is_empty.all():
        raise InputError(f"{path.name} has no polygons ({len(table)} rows)")
    empty = table.index[table.geometry.is_empty]
    if len(empty):
        _log.warning("%s: rows without a polygon, which are kept: %d (first: row %d)", path.name, len(empty), empty[0])
    return table


def _in_degrees(drawn: gpd.GeoSeries, name: str, dense: bool) -> gpd.GeoSeries:
    """Outlines as drawn -> valid polygons in EPSG:4326, cut at the date line.

    1. Unfold at the date line and repair first, because later steps change vertices.
    2. Add vertices, in the file's own CRS.
    3. Reproject. Rounding may make an outline cross itself; repair it so that it keeps its area.
    """
    drawn = gpd.GeoSeries([g if g else shapely.Polygon() for g in drawn], crs=drawn.crs)
    step, metre = STEP, 1.0
    if not drawn.crs.is_geographic:
        metre = 1 / drawn.crs.axis_info[0].unit_conversion_factor
        step, lonlat = 1000 * metre, drawn.to_crs(4326)
        if any(jumps(*shapes, far=_FAR * metre) for shapes in zip(lonlat, drawn, strict=True)):
            drawn, step = lonlat, STEP  # the projection cuts an outline in two; only in degrees can it be unfolded
    flat = [unfolded(g) if drawn.crs.is_geographic else g for g in drawn]
    whole = [g if g.is_valid else polygons(g) for g in flat]
    wide = [densify(g, step) if dense else g for g in whole]
    moved = [unfolded(g) for g in gpd.GeoSeries(wide, crs=drawn.crs).to_crs(4326)]
    cut = [polygons(unfold(wrap(mended(g)))) for g in moved]
    told = [
        f"row {row} ({_hectares(final):,.1f} ha now)"
        for row, (as_drawn, repaired, before, final) in enumerate(zip(flat, whole, moved, cut, strict=True))
        if not (math.isclose(as_drawn.area, repaired.area, rel_tol=_TOLD)
                and math.isclose(before.area, final.area, rel_tol=_TOLD))
    ]  # fmt: skip
    if told:
        shown = ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")
        _log.warning("%s: self-crossing outlines were repaired and now have another area: %s", name, shown)
    return gpd.GeoSeries(cut, crs=4326)


def _hectares(shape: BaseGeometry) -> float:
    return float(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(shape))[0]) / 1e4


def without_shape(geometry: gpd.GeoSeries) -> NDArray[np.bool_]:
    """(row,) rows without a geometry, or with an empty one; geopandas itself warns where it finds empty ones."""
    shapes = geometry.to_numpy()
    blank: NDArray[np.bool_] = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    return blank


def _check_coordinates(table: gpd.GeoDataFrame, name: str) -> None:
    bounds = table.geometry.total_bounds
    if not np.isfinite(bounds).all():
        if without_shape(table.geometry).all():
            raise InputError(f"{name} has no polygons ({len(table)} rows)")
        raise InputError(f"{name} has coordinates that are not finite numbers")
    if not table.crs.is_geographic:
        west, south, east, north = table.to_crs(4326).geometry.total_bounds
        if not np.isfinite([west, south, east, north]).all():
            raise InputError(f"{name} has coordinates outside its CRS ({table.crs.to_string()[:40]})")
        return
    west, south, east, north = bounds
    if -90 <= south and north <= 90 and -360 <= west and east <= 360:
        return
    if max(abs(west), abs(east)) <= 90 and max(abs(south), abs(north)) <= 180:
        raise InputError(
            f"{name} has latitudes up to {max(abs(south), abs(north)):.1f}: x and y seem to be swapped; "
            "write (longitude, latitude)"
        )
    raise InputError(f"{name} has a CRS in degrees, but coordinates up to {np.abs(bounds).max():.0f}: correct its CRS")
