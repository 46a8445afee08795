"""The one reader of polygons: a file of any vector format -> a table in EPSG:4326, repaired, in the file's order.

Regions, labelled areas and administrative units are all read here. A file whose coordinates cannot be what its
coordinate reference system says is refused before anything else is read.
"""

from __future__ import annotations

import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyogrio
import pyproj
import shapely

from subpixmap.errors import InputError
from subpixmap.region.outline import densify, polygons, unfold, wrap

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

_log = logging.getLogger(__name__)

# What pyogrio, pyarrow, pyproj and shapely raise on a file that is damaged or of another kind.
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    pa.ArrowException,
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyproj.exceptions.ProjError,
    shapely.errors.ShapelyError,
)


def read_polygons(path: str | Path, *, dense: bool = False) -> gpd.GeoDataFrame:
    """All rows of a file, in EPSG:4326.

    Parameters
    ----------
    path
        GeoPackage, GeoParquet, GeoJSON, Shapefile and whatever else GDAL reads.
    dense
        Whether long edges get vertices, in the file's own CRS, before they are reprojected.

    Returns
    -------
    geopandas.GeoDataFrame
        All columns of the file. Geometries are valid polygons, cut at the date line; empty where a row has none.

    Raises
    ------
    InputError
        The file does not exist, cannot be read, has no polygons or no CRS, or its coordinates contradict its CRS.
    """
    path = Path(path)
    table = _open(path)
    if not isinstance(table, gpd.GeoDataFrame):  # a layer of attributes alone
        raise InputError(f"{path.name} has no polygons ({len(table)} rows)")
    if table.crs is None:
        raise InputError(f"{path.name} has no coordinate reference system; set one in the file and try again")
    _check_coordinates(table, path.name)
    if dense:
        step = 0.01 if table.crs.is_geographic else 1000.0 / table.crs.axis_info[0].unit_conversion_factor
        table = table.set_geometry(gpd.GeoSeries([densify(g, step) if g else g for g in table.geometry], crs=table.crs))
    table = table.to_crs(4326)
    fixed = [polygons(unfold(wrap(geometry) if geometry else geometry)) for geometry in table.geometry]
    table = table.set_geometry(gpd.GeoSeries(fixed, index=table.index, crs=4326)).reset_index(drop=True)
    if table.geometry.is_empty.all():
        raise InputError(f"{path.name} has no polygons ({len(table)} rows)")
    empty = table.index[table.geometry.is_empty]
    if len(empty):
        _log.warning("%s: %d rows have no polygon and stay empty (first: row %d)", path.name, len(empty), empty[0])
    return table


def _open(path: Path) -> gpd.GeoDataFrame:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            return gpd.read_parquet(path)
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) <= 1:
            return gpd.read_file(path, layer=layers[0] if layers else None)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path.name} cannot be read as a file of polygons: {reason}") from error
    raise InputError(f"{path.name} has several layers ({', '.join(layers)}); keep the one with the polygons")


def _check_coordinates(table: gpd.GeoDataFrame, name: str) -> None:
    bounds = table.geometry.total_bounds
    if not np.isfinite(bounds).all():
        if table.geometry.isna().all() or table.geometry.is_empty.all():
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
        raise InputError(f"{name} has latitudes up to {max(abs(south), abs(north)):.1f}: x and y look swapped")
    raise InputError(
        f"{name} is in degrees, but its coordinates reach {np.abs(bounds).max():.0f}: the CRS in it is wrong"
    )
