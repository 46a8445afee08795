"""Tables with their units' polygons -> the formats of geographic software; and the accounts of a count as JSON.

In: a table of counts or trends. Out: files that appear whole or not at all. counts.parquet has no geometry: its columns
are those of the CSV, and repeating each polygon for every object and period would multiply the file. `units.parquet`
holds each polygon once; the export `geoparquet` joins both.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from subpixmap.errors import InputError
from subpixmap.files import write_json

if TYPE_CHECKING:
    import geopandas as gpd

    from subpixmap.counts.count import Counted

VECTOR_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "geoparquet": ("Parquet", {}),
    "gpkg": ("GPKG", {}),
    "geojson": ("GeoJSON", {"RFC7946": "YES", "SIGNIFICANT_FIGURES": 17, "COORDINATE_PRECISION": 9}),
}
"""Formats with polygons: GDAL's driver and its options."""


def write_vector(tables: Mapping[str, pd.DataFrame], units: gpd.GeoDataFrame, folder: Path, format: str) -> list[Path]:
    """Write the rows with their units' polygons.

    Parameters
    ----------
    tables
        `counts` and, if there, `trend`: rows with `unit_id`.
    units
        `unit_id` and polygons.
    folder
        Where `counts.gpkg` (a layer for each table), or `counts.geojson` and `trend.geojson`, or `counts.geoparquet`
        and `trend.geoparquet` go.
    format
        `geoparquet`, `gpkg` or `geojson`.

    Returns
    -------
    list of Path
    """
    import geopandas as gpd

    if format not in VECTOR_FORMATS:
        known = ", ".join(["csv", *VECTOR_FORMATS, "cog", "stac"])
        raise InputError(f"--format {format!r} is unknown; choose {known}")
    polygons = units[["unit_id", units.geometry.name]].dissolve("unit_id").geometry.to_crs(4326)
    folder.mkdir(parents=True, exist_ok=True)
    driver, options = VECTOR_FORMATS[format]
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        partial = Path(temporary)
        for name, table in tables.items():
            if lost := sorted(set(table["unit_id"]) - set(polygons.index)):
                raise InputError(
                    f"unit {lost[0]!r} of the counts is not in units.parquet; count again (subpixmap count)"
                )
            rows = gpd.GeoDataFrame(table, geometry=gpd.GeoSeries(polygons.loc[table["unit_id"]].to_numpy(), crs=4326))
            if format == "geoparquet":
                rows.to_parquet(partial / f"{name}.{format}", index=False, compression="zstd")
            else:
                path = partial / f"{'counts' if format == 'gpkg' else name}.{format}"
                more = {"append": True} if path.is_file() else {}
                rows.to_file(path, driver=driver, layer=name, engine="pyogrio", use_arrow=True, **more, **options)
        paths = [folder / path.name for path in sorted(partial.iterdir())]
        for path in paths:
            os.replace(partial / path.name, path)
    return paths


def write_accounts(path: Path, counted: Counted) -> Path:
    """Write what lies outside the units and whether all adds up: the tables of `Counted` beside its rows, as JSON."""
    tables: dict[str, Any] = {
        name: _known(getattr(counted, name)).to_dict("split", index=False)
        for name in ("outside", "balance", "parents", "background")
    }
    raw = {**tables, "overlap_ha": counted.overlap_ha, "remarks": list(counted.remarks)}
    write_json(path, raw)
    return path


def read_accounts(path: Path) -> dict[str, Any]:
    """The tables of `write_accounts`, with `overlap_ha` and `remarks`; empty where there is no such file."""
    if not path.is_file():
        return {}
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: pd.DataFrame(value["data"], columns=value["columns"]) if isinstance(value, dict) else value
        for name, value in raw.items()
    }


def _known(table: pd.DataFrame) -> pd.DataFrame:
    """JSON has no NaN: unknown is null."""
    return table.astype(object).where(table.notna(), None)  # type: ignore[call-overload]
