"""Tables -> files: CSV and Parquet with the same columns and the same values, the same bytes every time.

In: a table of counts or trends. Out: files that appear whole or not at all. counts.parquet has no geometry: its columns
are those of the CSV, and repeating each polygon for every object and period would multiply the file. `units.parquet`
holds each polygon once; the export `geoparquet` joins both.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from subpixmap.errors import InputError
from subpixmap.files import make_folder, write_atomic, write_json

if TYPE_CHECKING:
    import geopandas as gpd

    from subpixmap.counts.count import Counted

VECTOR_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "geoparquet": ("Parquet", {}),
    "gpkg": ("GPKG", {}),
    "geojson": ("GeoJSON", {"RFC7946": "YES", "SIGNIFICANT_FIGURES": 17, "COORDINATE_PRECISION": 9}),
}
"""Formats with polygons: GDAL's driver and its options."""

# A spreadsheet runs a cell that starts with one of these as a formula. Such a text gets an apostrophe in front, which
# spreadsheets do not show; `read_table` takes it off again. A text that has apostrophes there already gets one more.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def write_table(table: pd.DataFrame, stem: Path, columns: dict[str, str]) -> tuple[Path, Path]:
    """Write `stem`.csv and `stem`.parquet.

    Parameters
    ----------
    table
        Holds the columns; others (a geometry) are left out.
    stem
        Path without its suffix.
    columns
        Name -> pandas type, in the order of the files.

    Returns
    -------
    tuple of Path
        The CSV and the Parquet file.
    """
    return write_csv(table, stem.with_suffix(".csv"), columns), write_parquet(
        table, stem.with_suffix(".parquet"), columns
    )


def write_csv(table: pd.DataFrame, path: Path, columns: dict[str, str]) -> Path:
    """Write one CSV file with these columns, in this order."""
    make_folder(path.parent)
    write_atomic(path, to_csv(pd.DataFrame(table)[list(columns)].astype(columns)))
    return path


def write_parquet(table: pd.DataFrame, path: Path, columns: dict[str, str]) -> Path:
    """Write one Parquet file with these columns, in this order."""
    buffer = io.BytesIO()
    pd.DataFrame(table)[list(columns)].astype(columns).to_parquet(buffer, index=False, compression="zstd")
    write_atomic(path, buffer.getvalue())
    return path


def read_table(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """Read a table that `write_table` wrote, from either file: the same values and types."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; make it first (subpixmap count or trend)")
    if path.suffix == ".parquet":
        table = pd.read_parquet(io.BytesIO(path.read_bytes()))
    else:
        kinds: dict[Hashable, Any] = dict(columns.items())
        texts = {name for name, kind in columns.items() if kind == "string"}
        table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""], float_precision="round_trip")
        for name in texts & set(table.columns):
            table[name] = table[name].map(_unguarded, na_action="ignore").astype("string")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; make it again (subpixmap count or trend)")
    return table[list(columns)].astype(columns)


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


def to_csv(table: pd.DataFrame) -> bytes:
    """CSV in UTF-8: texts quoted, numbers in the shortest form that reads back equal, unknown blank."""
    out = io.StringIO(newline="")
    out.write(",".join(f'"{name}"' for name in table.columns) + "\n")
    cells = [[_cell(value) for value in table[name].tolist()] for name in table.columns]
    out.writelines(",".join(row) + "\n" for row in zip(*cells, strict=True))
    return out.getvalue().encode("utf-8")


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value != value:  # NaN differs from itself
        return ""
    if isinstance(value, str):
        return '"' + ("'" + value if _FORMULA.match(value) else value).replace('"', '""') + '"'
    return repr(value) if isinstance(value, float) else str(value)


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
