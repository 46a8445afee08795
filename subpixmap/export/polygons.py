"""Tables of a run -> files that a geographic program opens: the rows with the polygons of their units.

In: counts and trends, and the units. Out: files that appear whole or not at all. counts.parquet has no geometry: each
polygon would stand in it for every object and period. units.parquet holds each polygon once; here both are joined.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from subpixmap.errors import InputError
from subpixmap.files import geoparquet_bytes
from subpixmap.tables import REGION

if TYPE_CHECKING:
    import geopandas as gpd

DRIVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "geoparquet": ("Parquet", {}),
    "gpkg": ("GPKG", {}),
    "geojson": ("GeoJSON", {"RFC7946": "YES", "SIGNIFICANT_FIGURES": 17, "COORDINATE_PRECISION": 9}),
}
"""Formats with polygons: the driver of GDAL and its options."""


def write_with_polygons(
    tables: Mapping[str, pd.DataFrame], units: gpd.GeoDataFrame, folder: Path, format: str
) -> list[Path]:
    """Write the rows with the polygons of their units.

    Parameters
    ----------
    tables
        `counts` and, if there, `trend`: rows with `unit_id`.
    units
        `unit_id` and polygons.
    folder
        Where `counts.gpkg` (a layer for each table), or `counts.geojson` and `trend.geojson`, or `counts.geo.parquet`
        and `trend.geo.parquet` go: other names than those of the tables without polygons.
    format
        One of `DRIVERS`.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        A row belongs to none of the units.
    """
    polygons = polygons_of(units)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        partial = Path(temporary)
        for name, table in tables.items():
            _write_layer(name, table, polygons, partial, format)
        paths = [folder / path.name for path in sorted(partial.iterdir())]
        for path in paths:
            os.replace(partial / path.name, path)
    return paths


def polygons_of(units: gpd.GeoDataFrame) -> gpd.GeoSeries:
    """Unit id -> its polygon, EPSG:4326."""
    return units[["unit_id", units.geometry.name]].dissolve("unit_id").geometry.to_crs(4326)


def _write_layer(name: str, table: pd.DataFrame, polygons: gpd.GeoSeries, folder: Path, format: str) -> None:
    """Write one table; a GeoPackage takes all tables as layers. The rows of all units together have no polygon."""
    import geopandas as gpd

    if missing := sorted(set(table["unit_id"]) - {*polygons.index, REGION}):
        raise InputError(f"unit {missing[0]!r} of the {name} is not in units.parquet; run subpixmap count again")
    rows = gpd.GeoDataFrame(table, geometry=gpd.GeoSeries(polygons.reindex(table["unit_id"]).to_numpy(), crs=4326))
    if format == "geoparquet":
        (folder / f"{name}.geo.parquet").write_bytes(geoparquet_bytes(rows))
        return
    driver, options = DRIVERS[format]
    path = folder / f"{'counts' if format == 'gpkg' else name}.{format}"
    append = {"append": True} if path.is_file() else {}
    rows.to_file(path, driver=driver, layer=name, engine="pyogrio", use_arrow=True, **append, **options)
