"""Read polygons with ids from a file: the administrative units that totals are given for.

In: GeoPackage, GeoParquet, GeoJSON, Shapefile and whatever else GDAL reads. Out: a table of units in EPSG:4326 in the
file's order; ids are text, no unit is dropped, and what is ambiguous is refused before anything is read elsewhere.
"""

from __future__ import annotations

import logging
import re
from decimal import Decimal
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely

from subpixmap.errors import InputError
from subpixmap.region.outline import densify, polygons, unfold, wrap

COLUMNS = ["unit_id", "unit_name", "parent_id", "geometry"]
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

# Id columns of the usual sources, the most telling first. A number is the level; the deepest level is taken.
_ID_PATTERNS = (
    r"unit_?id",
    r"shapeid",
    r"adm(\d)_?(?:psgc|pcode|code|id)",
    r"(?:psgc|pcode)(?:_?code)?",
    r"gid_(\d)",
    r"nuts_id",
    r"geoid",
    r"geo_?code",
    r"iso_3166_2",
    r"code|id",
)
_NAME_PATTERNS = (r"unit_?name", r"shapename", r"adm(\d)_?(?:en|name|ref|es|fr|pt)", r"name_(\d)", r"name", r"name_en")
_PARENT_PATTERNS = (r"parent_?id", r"parent", r"adm(\d)_?(?:psgc|pcode|code|id)", r"gid_(\d)")


def read_units(
    path: str | Path,
    *,
    id_column: str | None = None,
    name_column: str | None = None,
    parent_column: str | None = None,
) -> gpd.GeoDataFrame:
    """Administrative units of a file, in its order.

    Parameters
    ----------
    path
        A file with polygons and a coordinate reference system.
    id_column, name_column, parent_column
        Columns to use; by default they are guessed: `unit_id`, `shapeID`, `ADM3_PCODE`, `adm2_psgc`, `GID_2`, `id`, ...

    Returns
    -------
    geopandas.GeoDataFrame
        Columns unit_id, unit_name, parent_id (text) and geometry (EPSG:4326, valid, cut at the date line; empty where
        the file has no polygon for a unit).

    Raises
    ------
    InputError
        No such file or no polygons in it, no CRS, coordinates that are not what the CRS says, no id column, ids that
        are missing or occur twice.
    """
    table = read_polygons(path)
    name = Path(path).name
    id_column = _column(table, id_column, name) if id_column else guess(table, _ID_PATTERNS)
    if id_column is None:
        raise InputError(
            f"{name} has no column that looks like a unit id; name one with --id-column: {_columns(table)}"
        )
    units = _named(table, id_column, name_column, parent_column, name)
    _check_ids(units.unit_id, table[id_column].isna(), id_column, name)
    return units


def read_area(
    path: str | Path,
    *,
    id_column: str | None = None,
    name_column: str | None = None,
    parent_column: str | None = None,
) -> gpd.GeoDataFrame:
    """Features of an area of interest as units; where no column gives unique ids the row numbers do.

    Unlike those of `read_units`, long edges get vertices in the file's own CRS: a box stays a box after reprojection.
    """
    table = read_polygons(path, dense=True)
    name = Path(path).name
    column = _column(table, id_column, name) if id_column else guess(table, _ID_PATTERNS)
    if id_column is None and (column is None or table[column].isna().any() or _text(table[column]).duplicated().any()):
        column = None
        table = table.assign(unit_id=[str(number) for number in range(len(table))])
    units = _named(table, column or "unit_id", name_column, parent_column, name)
    _check_ids(units.unit_id, table[column or "unit_id"].isna(), column or "unit_id", name)
    return units


def read_polygons(path: str | Path, *, dense: bool = False) -> gpd.GeoDataFrame:
    """All rows of a file, in EPSG:4326, repaired; `dense` adds vertices (in the file's CRS) before reprojection."""
    path = Path(path)
    table = _read(path)
    if table.crs is None:
        raise InputError(f"{path.name} has no coordinate reference system; write one into the file and try again")
    _check_coordinates(table, path.name)
    if dense:
        step = 0.01 if table.crs.is_geographic else 1000.0 / table.crs.axis_info[0].unit_conversion_factor
        table = table.set_geometry(gpd.GeoSeries([densify(g, step) if g else g for g in table.geometry], crs=table.crs))
    table = table.to_crs(4326)
    fixed = [polygons(unfold(wrap(geometry) if geometry else geometry)) for geometry in table.geometry]
    table = table.set_geometry(gpd.GeoSeries(fixed, index=table.index, crs=4326)).reset_index(drop=True)
    if table.geometry.is_empty.all():
        raise InputError(f"{path.name} holds no polygons ({len(table)} rows)")
    empty = table.index[table.geometry.is_empty]
    if len(empty):
        _log.warning(
            "%s: %d rows have no polygon and keep an empty unit (first: row %d)", path.name, len(empty), empty[0]
        )
    return table


def guess(table: pd.DataFrame, patterns: tuple[str, ...], level: int | None = None) -> str | None:
    """Name of the first column that fits the patterns, in their order; a level in the pattern takes the deepest one."""
    for pattern in patterns:
        matches = [(re.fullmatch(pattern, str(column), re.IGNORECASE), column) for column in table.columns]
        hits = [(int(m.group(1)) if m.groups() else -1, str(column)) for m, column in matches if m]
        hits = [hit for hit in hits if level is None or hit[0] in (-1, level)]
        if hits:
            return max(hits, key=lambda hit: hit[0])[1]
    return None


def _read(path: Path) -> gpd.GeoDataFrame:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            return gpd.read_parquet(path)
        layers = pyogrio.list_layers(path)
        spatial = [str(name) for name, kind in layers if kind is not None]
        if len(spatial) > 1:
            raise InputError(f"{path.name} holds several layers ({', '.join(spatial)}); keep the one with the units")
        return gpd.read_file(path, layer=spatial[0] if spatial else None)
    except InputError:
        raise
    except Exception as error:  # each driver has its own; what the user needs is the file and the reason
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path.name} cannot be read as a file of polygons: {reason}") from error


def _check_coordinates(table: gpd.GeoDataFrame, name: str) -> None:
    bounds = table.geometry.total_bounds
    if not np.isfinite(bounds).all():
        if table.geometry.isna().all() or table.geometry.is_empty.all():
            raise InputError(f"{name} holds no polygons ({len(table)} rows)")
        raise InputError(f"{name} holds coordinates that are not finite numbers")
    if not table.crs.is_geographic:
        west, south, east, north = table.to_crs(4326).geometry.total_bounds
        if not np.isfinite([west, south, east, north]).all():
            raise InputError(f"{name} holds coordinates outside its CRS ({table.crs.to_string()[:40]})")
        return
    west, south, east, north = bounds
    if -90 <= south and north <= 90 and -360 <= west and east <= 360:
        return
    if max(abs(west), abs(east)) <= 90 and max(abs(south), abs(north)) <= 180:
        raise InputError(f"{name} holds latitudes up to {max(abs(south), abs(north)):.1f}: x and y look swapped")
    raise InputError(
        f"{name} says degrees, but its coordinates reach {np.abs(bounds).max():.0f}: the CRS in it is wrong"
    )


def _named(
    table: gpd.GeoDataFrame, id_column: str, name_column: str | None, parent_column: str | None, file: str
) -> gpd.GeoDataFrame:
    level = _level(id_column)
    if name_column:
        name_column = _column(table, name_column, file)
    else:
        name_column = guess(table, _NAME_PATTERNS, level)
    if parent_column:
        parent_column = _column(table, parent_column, file)
    else:
        parent_column = guess(table, _PARENT_PATTERNS, -2 if level is None else level - 1)
    ids = _text(table[id_column])
    names = _text(table[name_column]) if name_column else ids
    parents = _text(table[parent_column]) if parent_column and parent_column != id_column else ids.map(lambda _: "")
    columns = {"unit_id": ids, "unit_name": names.where(names != "", ids), "parent_id": parents}
    return gpd.GeoDataFrame(columns, geometry=table.geometry, crs=table.crs)[COLUMNS]


def _level(column: str) -> int | None:
    match = re.fullmatch(r"(?:adm|gid_)(\d).*", column, re.IGNORECASE)
    return int(match[1]) if match else None


def _column(table: pd.DataFrame, wanted: str, file: str) -> str:
    if wanted in table.columns and wanted != table.geometry.name:
        return wanted
    same = [str(c) for c in table.columns if str(c).casefold() == wanted.casefold() and c != table.geometry.name]
    if len(same) == 1:
        return same[0]
    raise InputError(f"{file} has no column {wanted!r}; it has: {_columns(table)}")


def _columns(table: pd.DataFrame) -> str:
    return ", ".join(str(column) for column in table.columns if column != table.geometry.name) or "(none)"


def _text(column: pd.Series) -> pd.Series:
    """Ids and names as text: 12 and 12.0 -> "12", text keeps its leading zeros, missing -> ""."""
    return pd.Series([_one_text(value) for value in column], index=column.index, dtype=object)


def _one_text(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, (float, np.floating, Decimal)):
        if value != value:
            return ""
        return str(int(value)) if value == int(value) else str(value)
    return str(value).strip()


def _check_ids(ids: pd.Series, missing: pd.Series, column: str, file: str) -> None:
    blank = missing.to_numpy(bool) | (ids == "").to_numpy(bool)
    if blank.any():
        rows = ", ".join(str(row) for row in np.flatnonzero(blank)[:5])
        raise InputError(
            f"{file}: column {column} is blank in {int(blank.sum())} rows (first: {rows}); every unit needs an id"
        )
    twice = ids[ids.duplicated()].unique()
    if len(twice):
        shown = ", ".join(repr(unit) for unit in twice[:5])
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise InputError(
            f"{file}: unit ids occur more than once in column {column}: {shown}{more}; merge those polygons"
        )


def union(units: gpd.GeoDataFrame) -> shapely.Geometry:
    """All units as one geometry."""
    return polygons(shapely.union_all(units.geometry.to_numpy()))
