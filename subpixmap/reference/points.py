"""A file of points or boxes -> a checked table of object centres in EPSG:4326.

Bad points are refused here, with the file, the number of rows and what to do: no coordinate reference system, no
objects, empty geometries, lines, doubles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely

from subpixmap.errors import InputError
from subpixmap.grid import transformer, utm_epsg
from subpixmap.region.layers import PARQUET, UNREADABLE, read_layer, require_encoding, require_file, require_placed
from subpixmap.region.vector import without_shape

_PAIRS = (("x", "y"), ("lon", "lat"), ("longitude", "latitude"), ("easting", "northing"), ("e", "n"))
_BOX = ("xmin", "ymin", "xmax", "ymax")
_DOUBLE_M = 0.1
"""Two points of an object nearer than this are one that was given twice."""
# What pandas raises on an expression: unknown columns, bad grammar, kinds that cannot be compared, no truth value.
_BAD_CONDITION = (NameError, SyntaxError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError)


def read_points(
    path: str | Path,
    *,
    crs: str | None = None,
    objects: Sequence[str] = (),
    object_column: str = "object",
    where: str | None = None,
    layer: str | None = None,
    encoding: str | None = None,
) -> gpd.GeoDataFrame:
    """Object centres of a file.

    Parameters
    ----------
    path
        GeoParquet, GeoPackage, GeoJSON, Shapefile or FlatGeobuf, with points or boxes (their centres are taken, in
        the file's own coordinates); or CSV with columns x, y (or lon, lat; easting, northing; xmin, ymin, xmax, ymax).
    crs
        Coordinate reference system, for files that hold none, such as "EPSG:32650".
    objects
        Names to keep; where the file has no column of names, the one name of all its points.
    object_column
        Column of the names.
    where
        Rows to keep, an expression over columns as in `pandas.DataFrame.query`, such as "confidence > 0.5".
    layer
        With the points, of a file that has several.
    encoding
        Of the texts of a Shapefile or CSV file, where it is not UTF-8.

    Returns
    -------
    geopandas.GeoDataFrame
        Columns object (text) and geometry (points, EPSG:4326), in the file's order.

    Raises
    ------
    InputError
        No such file, no CRS, no names, coordinates that are not on Earth, rows without a centre, doubles.
    """
    path = Path(path)
    if isinstance(objects, str):
        raise InputError(f"objects={objects!r} is one text; give a list, such as objects=[{objects!r}]")
    table = _read(path, layer, encoding)
    if where:
        table = _query(table, where, path.name)
    if table.empty:
        raise InputError(f"{path.name} holds no points" + (f" where {where}" if where else ""))
    table = _with_crs(table, crs, path.name)
    centres = _centres(table, path.name)
    names = _names(table, centres.index, tuple(objects), object_column, path.name)
    points = gpd.GeoDataFrame({"object": names}, geometry=list(centres), crs=table.crs)
    if objects:
        points = points[points["object"].isin(objects)]
        if absent := set(objects) - set(points["object"]):
            raise InputError(
                f"{path.name} has no {', '.join(sorted(absent))} in column {object_column}; check --object"
            )
    points = _in_degrees(points.reset_index(drop=True), path.name)
    _refuse_doubles(points, path.name)
    return points


def _read(path: Path, layer: str | None, encoding: str | None) -> Any:
    is_csv = path.suffix.lower() in (".csv", ".txt")
    if not is_csv and path.suffix.lower() not in PARQUET:
        return read_layer(path, "points", layer=layer, encoding=encoding)
    require_file(path)
    if layer:
        raise InputError(f"--layer {layer}: {path.name} has no layers; leave the option out")
    require_encoding(path, encoding)
    try:
        if is_csv:
            return pd.read_csv(path, encoding=encoding)
        try:
            return gpd.read_parquet(path)
        except ValueError:  # no geometry: a plain table of coordinates
            return pd.read_parquet(path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not {encoding or 'UTF-8'}: give its encoding with --encoding") from error
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path.name} cannot be read as a file of points: {reason}") from error


def _query(table: pd.DataFrame, where: str, name: str) -> pd.DataFrame:
    try:
        return table.query(where, engine="python")
    except _BAD_CONDITION as error:
        columns = ", ".join(str(column) for column in table.columns)
        raise InputError(f"--where {where!r} is not a condition on {name} ({error}); its columns: {columns}") from error


def _with_crs(table: pd.DataFrame, crs: str | None, name: str) -> gpd.GeoDataFrame:
    """A table with geometry and a coordinate reference system, from the file or from the user."""
    if not isinstance(table, gpd.GeoDataFrame):
        table = gpd.GeoDataFrame(table, geometry=_geometry(table, name))
    try:
        given = pyproj.CRS.from_user_input(crs) if crs else None
    except pyproj.exceptions.CRSError as error:
        raise InputError(f"--crs {crs!r} is not a coordinate reference system; give one such as EPSG:32650") from error
    if table.crs is None and given is None:
        raise InputError(
            f"{name} has no coordinate reference system ({len(table)} rows): give it with --crs, such as EPSG:4326"
        )
    if table.crs is not None and given is not None and not pyproj.CRS(table.crs).equals(given, True):
        raise InputError(
            f"{name} has the coordinate reference system {table.crs.to_string()[:40]}, but --crs is "
            f"{crs}: leave out --crs"
        )
    placed = table if table.crs is not None else table.set_crs(given)
    require_placed(placed.crs, name)
    return placed


def _geometry(table: pd.DataFrame, name: str) -> Any:
    lower = {str(column).lower(): column for column in table.columns}
    numbers: dict[str, pd.Series] = {
        key: pd.to_numeric(table[lower[key]], errors="coerce") for key in (*_BOX, *sum(_PAIRS, ())) if key in lower
    }
    if set(_BOX) <= set(numbers):
        return shapely.box(*(numbers[key] for key in _BOX))
    for x, y in _PAIRS:
        if x in numbers and y in numbers:
            return shapely.points(numbers[x], numbers[y])
    raise InputError(
        f"{name} has neither geometry nor columns x, y (lon, lat; easting, northing; xmin, ymin, xmax, ymax); it has "
        + ", ".join(str(column) for column in table.columns)
    )


def _centres(table: gpd.GeoDataFrame, name: str) -> gpd.GeoSeries:
    """Points, one a row, of points and of boxes."""
    shapes = table.geometry.reset_index(drop=True)
    if (bad := without_shape(shapes)).any():
        raise InputError(f"{name}: {bad.sum()} of {len(shapes)} rows have no geometry (first: row {bad.argmax()})")
    shapes = shapes.explode() if (shapes.geom_type == "MultiPoint").any() else shapes
    other = ~shapes.geom_type.isin(("Point", "Polygon", "MultiPolygon"))
    if other.any():
        kinds = ", ".join(sorted(shapes[other].geom_type.unique()))
        raise InputError(f"{name}: {int(other.sum())} rows are {kinds}; give points, or boxes around objects")
    bounds = shapes.bounds
    if (bad := ~np.isfinite(bounds).all(axis=1)).any():
        raise InputError(
            f"{name}: {int(bad.sum())} rows have coordinates that are NaN or infinity (first: "
            f"{bad.idxmax()}); correct or remove them"
        )
    middle = shapely.points((bounds.minx + bounds.maxx) / 2, (bounds.miny + bounds.maxy) / 2)
    return gpd.GeoSeries(middle, index=shapes.index, crs=table.crs)


def _names(
    table: gpd.GeoDataFrame, rows: pd.Index, objects: tuple[str, ...], column: str, name: str
) -> list[str] | str:
    if column not in table.columns:
        if len(objects) != 1:
            raise InputError(
                f"{name} has no column {column!r}: give the name of its objects with --object, such as --object coconut"
            )
        return [objects[0]] * len(rows)
    named = table[column].reset_index(drop=True)
    if named.isna().any() or (named.astype(str).str.strip() == "").any():
        raise InputError(f"{name}: column {column} is blank in {int(named.isna().sum())} of {len(named)} rows")
    return list(named.astype(str).str.strip().loc[rows])


def _in_degrees(points: gpd.GeoDataFrame, name: str) -> gpd.GeoDataFrame:
    moved = points.to_crs(4326)
    x, y = moved.geometry.x, moved.geometry.y
    bad = ~(np.isfinite(x) & np.isfinite(y) & (x.abs() <= 180) & (y.abs() <= 90))
    if bad.any():
        at = points.geometry.iloc[int(bad.to_numpy().argmax())]
        raise InputError(
            f"{name}: {int(bad.sum())} of {len(points)} points are not on Earth in {points.crs.to_string()[:40]} "
            f"(first: {at.x:g}, {at.y:g}); correct the coordinate reference system"
        )
    return moved


def _refuse_doubles(points: gpd.GeoDataFrame, name: str) -> None:
    """Points of an object within 10 cm of one another, counted in the zone that owns them."""
    lon, lat = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
    zones = utm_epsg(lon, lat)
    doubles = []
    for epsg in np.unique(zones):
        here = zones == epsg
        east, north = transformer(4326, int(epsg)).transform(lon[here], lat[here])
        for item, xy in pd.DataFrame({"x": east, "y": north}).groupby(points["object"].to_numpy()[here]):
            pairs = _near_pairs(xy.to_numpy())
            if pairs:
                first = points[here].iloc[xy.index[pairs[0]]].geometry
                doubles.append(f"{pairs[1]} of {item} (first at {first.x:.6f}, {first.y:.6f})")
    if doubles:
        raise InputError(
            f"{name}: points lie within {_DOUBLE_M} m of another of the same object: {'; '.join(doubles)}; "
            "remove doubles"
        )


def _near_pairs(xy: np.ndarray) -> tuple[int, int] | None:
    """(index of the first point that has another too near, number of such points but one each), or None."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(xy).query_pairs(_DOUBLE_M, output_type="ndarray")
    return (int(pairs[:, 0].min()), len(np.unique(pairs[:, 1]))) if len(pairs) else None
