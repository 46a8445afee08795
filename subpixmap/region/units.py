"""Reads polygons with ids: administrative units, and features of an area.

In: a file of polygons (see `vector`). Out: a table of units in EPSG:4326, in the file's order; ids are text and no unit
is dropped. What is ambiguous is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from subpixmap.errors import InputError
from subpixmap.region.layers import require_exact
from subpixmap.region.outline import polygons
from subpixmap.region.vector import read_polygons

COLUMNS = ["unit_id", "unit_name", "parent_id", "geometry"]
# Id columns of the usual sources, the most specific first. A number is the level; the deepest level is taken.
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
    layer: str | None = None,
    encoding: str | None = None,
) -> gpd.GeoDataFrame:
    """Administrative units of a file, in its order.

    Parameters
    ----------
    path
        A file with polygons and a coordinate reference system.
    id_column, name_column, parent_column
        Columns to use; by default they are guessed: `unit_id`, `shapeID`, `ADM3_PCODE`, `adm2_psgc`, `GID_2`, `id`, ...
    layer, encoding
        Layer of a file with several, and encoding of a Shapefile that does not say it.

    Returns
    -------
    geopandas.GeoDataFrame
        Columns unit_id, unit_name, parent_id (text) and geometry (EPSG:4326, valid, cut at the date line; empty where
        the file has no polygon for a unit).

    Raises
    ------
    InputError
        As `read_polygons`; or there is no id column, an id is missing, rounded by floating point, or occurs twice.
    """
    table = read_polygons(path, layer=layer, encoding=encoding)
    name = Path(path).name
    id_column = _column(table, id_column, name) if id_column else guess(table, _ID_PATTERNS)
    if id_column is None:
        raise InputError(
            f"{name} has no column that looks like a unit id; choose one with --id-column: {_columns(table)}"
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
    layer: str | None = None,
    encoding: str | None = None,
    layer_option: str = "--layer",
) -> gpd.GeoDataFrame:
    """Features of an area of interest as units; the row numbers are the ids where no column has unique ones.

    Unlike in `read_units`, long edges get vertices in the file's own CRS: a box stays a box after reprojection.
    """
    table = read_polygons(path, dense=True, layer=layer, encoding=encoding, option=layer_option)
    name = Path(path).name
    column = _column(table, id_column, name) if id_column else guess(table, _ID_PATTERNS)
    if id_column is None and (column is None or table[column].isna().any() or _text(table[column]).duplicated().any()):
        column = None
        table = table.assign(unit_id=[str(number) for number in range(len(table))])
    units = _named(table, column or "unit_id", name_column, parent_column, name)
    _check_ids(units.unit_id, table[column or "unit_id"].isna(), column or "unit_id", name)
    return units


def guess(table: pd.DataFrame, patterns: tuple[str, ...], level: int | None = None) -> str | None:
    """Name of the first column that fits the patterns, in their order; of several levels, the deepest column."""
    for pattern in patterns:
        matches = [(re.fullmatch(pattern, str(column), re.IGNORECASE), column) for column in table.columns]
        hits = [(int(m.group(1)) if m.groups() else -1, str(column)) for m, column in matches if m]
        hits = [hit for hit in hits if level is None or hit[0] in (-1, level)]
        if hits:
            return max(hits, key=lambda hit: hit[0])[1]
    return None


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
    for column in {id_column, name_column, parent_column} - {None}:
        require_exact(table[column], str(column), file)
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
            f"{file}: column {column} is blank in {int(blank.sum())} rows (first: {rows}); fill in an id for every unit"
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
