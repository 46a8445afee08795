"""Reads one layer of a vector file unchanged: points, polygons, or attributes only.

Layer and encoding are never chosen silently: several layers need `--layer`, and a guessed encoding is reported.
Integers stay integers, also in an id column with gaps.
"""

from __future__ import annotations

import codecs
import logging
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import pyproj
import shapely

from subpixmap.errors import InputError
from subpixmap.region.formats import gdal_source, no_network, require_table

PARQUET = (".parquet", ".geoparquet")
_ANY_ENCODING = (".shp", ".dbf", ".zip", ".csv", ".txt", ".tab", ".mif")
_WHOLE = {"integer_object_nulls": True}
_EXACT = 2.0**53
"""Floating point holds every whole number below."""

# What pyogrio, pyarrow, pyproj and shapely raise on a file that is damaged or of another kind.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    zipfile.BadZipFile,
    pa.ArrowException,
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyproj.exceptions.ProjError,
    shapely.errors.ShapelyError,
)

_log = logging.getLogger(__name__)


def read_layer(
    path: Path,
    holds: str,
    *,
    layer: str | None = None,
    encoding: str | None = None,
    option: str = "--layer",
    whole: bool = False,
) -> Any:
    """The table of a layer; a GeoDataFrame where it has geometry.

    Parameters
    ----------
    path
        GeoPackage, GeoParquet, GeoJSON, Shapefile and the other formats of `formats.FORMATS`.
    holds
        Expected content, for messages: "polygons" or "points".
    layer
        Its name; needed where the file has several layers with geometry.
    encoding
        Of the texts, for formats that do not fix it (Shapefile, CSV).
    option
        Option of the command line that names the layer, for messages.
    whole
        Whether a column of whole numbers with gaps stays one (of Python's numbers), as ids need it.

    Raises
    ------
    InputError
        The file does not exist or cannot be read, has several layers or not the one that was named, or `encoding` is
        unknown or of no use.
    """
    require_file(path)
    require_encoding(path, encoding)
    try:
        if path.suffix.lower() in PARQUET:
            if layer:
                raise InputError(f"{option} {layer}: {path.name} has no layers; leave the option out")
            return gpd.read_parquet(path, to_pandas_kwargs=_WHOLE if whole else None)
        source = gdal_source(path)
        with no_network():
            chosen = _layer(path, source, holds, layer, option)
            if not fixes_encoding(path):
                texts = encoding or _guess(path)  # GDAL knows fewer spellings than Python
                return gpd.read_file(
                    source, layer=chosen, encoding=codecs.lookup(texts).name.upper() if texts else None
                )
            if not whole:
                return gpd.read_file(source, layer=chosen)
            return gpd.read_file(source, layer=chosen, use_arrow=True, arrow_to_pandas_kwargs=_WHOLE)
    except InputError:
        raise
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path.name} cannot be read as a file of {holds}: {reason}") from error


def require_placed(crs: Any, name: str) -> None:
    """Refuse a coordinate reference system without places on the map: a local one, one of heights alone."""
    if not (crs.is_geographic or crs.is_projected):
        raise InputError(
            f"{name} lies in {crs.name!r} ({crs.type_name}), which has no position on Earth: convert it to another "
            "coordinate reference system"
        )


def require_encoding(path: Path, encoding: str | None) -> None:
    """Refuse an encoding that does not exist, or that is given for a file whose format fixes it."""
    if not encoding:
        return
    try:
        "".encode(encoding)
    except LookupError as error:
        raise InputError(f"--encoding {encoding!r} is unknown; give one such as utf-8, latin-1 or cp1252") from error
    if fixes_encoding(path):
        raise InputError(f"--encoding {encoding}: the format of {path.name} has a fixed encoding; leave the option out")


def fixes_encoding(path: Path) -> bool:
    """Whether the format of a file says how its texts are encoded."""
    return path.suffix.lower() not in _ANY_ENCODING


def require_exact(values: pd.Series, column: str, file: str) -> None:
    """Refuse whole numbers that floating point has rounded: ids of 16 digits and more."""
    floats = np.array([value for value in values if isinstance(value, (float, np.floating))], float)
    rounded = floats[np.isfinite(floats) & (np.abs(floats) >= _EXACT)]
    if rounded.size:
        raise InputError(
            f"{file}: column {column} holds {len(rounded)} numbers too long for the file's floating point (such as "
            f"{rounded[0]:.0f}), so their last digits are lost; write the column as text"
        )


def require_file(path: Path) -> None:
    """Refuse a path at which there is no file."""
    if path.is_dir():
        geodatabase = "an Esri file geodatabase: export its layer as GeoPackage, and give that file"
        raise InputError(f"{path} is a folder" if path.suffix.lower() != ".gdb" else f"{path} is {geodatabase}")
    if not path.is_file():
        raise InputError(f"{path} does not exist")


def _layer(path: Path, source: str, holds: str, layer: str | None, option: str) -> str | None:
    layers = {str(name): kind for name, kind in pyogrio.list_layers(source)}
    spatial = [name for name, kind in layers.items() if kind is not None]
    if layer:
        if layer not in layers:
            raise InputError(f"{option} {layer}: {path.name} has no such layer; it has {', '.join(layers)}")
        require_table(path, layer)
        return layer
    if not layers:
        raise InputError(f"{path.name} has no {holds}: the file is empty")
    if len(spatial) > 1:
        kinds = ", ".join(f"{name} ({layers[name]})" for name in spatial)
        raise InputError(f"{path.name} has several layers: {kinds}; choose the one with the {holds} by {option}")
    require_table(path, spatial[0] if spatial else None)
    return spatial[0] if spatial else None


def _guess(path: Path) -> str | None:
    """Of a Shapefile that does not say its encoding: UTF-8 if it holds that, else Latin-1; told. None for others."""
    table = _undeclared(path)
    if table is None or table.isascii():
        return None
    try:
        table.decode("utf-8")  # text of another encoding is hardly ever UTF-8 by chance
        guess = "utf-8"
    except UnicodeDecodeError:
        guess = "latin-1"
    _log.warning(
        "%s does not state its encoding (no .cpg file), so %s is assumed; if names look wrong, give --encoding",
        path.name,
        guess.upper(),
    )
    return guess


def _undeclared(path: Path) -> bytes | None:
    """The rows of the .dbf of a Shapefile without .cpg; None for any other file."""
    if path.suffix.lower() == ".shp":
        beside = {one.suffix.lower(): one for one in path.parent.glob(f"{path.stem}.*")}
        table = beside[".dbf"].read_bytes() if ".dbf" in beside and ".cpg" not in beside else None
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            tables = [name for name in archive.namelist() if name.lower().endswith(".dbf")]
            declared = any(name.lower().endswith(".cpg") for name in archive.namelist())
            table = archive.read(tables[0]) if len(tables) == 1 and not declared else None
    else:
        table = None
    return table[int.from_bytes(table[8:10], "little") :] if table and len(table) > 32 else None
