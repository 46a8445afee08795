"""Writes tables.json: a data dictionary of all tables, as a Frictionless data package of the CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subpixmap import runpaths
from subpixmap.export.licence import NAME as LICENCE
from subpixmap.files import write_json
from subpixmap.tables import CHANGES, COUNTS, ESTIMATES, SERIES, TREND, Columns

TABLES: dict[str, tuple[str, Columns]] = {
    runpaths.COUNTS_CSV: ("a row per unit, object and period; unit_id REGION is the sum of the topmost units", COUNTS),
    runpaths.TREND_CSV: ("a row per unit and object: change, direction and slope over the periods", TREND),
    runpaths.CHANGES_CSV: ("a row per unit, object and pair of neighbouring periods", CHANGES),
    runpaths.ESTIMATES_CSV: ("a row per unit, object, period and estimator", ESTIMATES),
}
"""The CSV files of a run: what a row is, and its columns."""

_KEYS = {
    runpaths.COUNTS_CSV: ["unit_id", "object", "period"],
    runpaths.TREND_CSV: ["unit_id", "object"],
    runpaths.CHANGES_CSV: ["unit_id", "object", "from"],
}
_TYPES = {"string": "string", "float64": "number", "Int64": "integer", "int64": "integer", "boolean": "boolean"}


def write_dictionary(folder: Path) -> Path:
    """Write tables.json into a folder, for the tables that stand in it; returns its path.

    Every column has its name, type, unit and meaning. A blank cell is a missing value: not known, never zero.
    """
    path = folder / runpaths.TABLES
    write_json(path, data_package(folder))
    return path


def data_package(folder: Path) -> dict[str, Any]:
    """A Frictionless data package of the CSV files in a folder; `parquet` describes the columns of other tables."""
    resources = [
        _resource(name, what, columns) for name, (what, columns) in TABLES.items() if (folder / name).is_file()
    ]
    licence = (
        {"licenses": [{"path": LICENCE, "title": "Licences and citation"}]} if (folder / LICENCE).is_file() else {}
    )
    return {
        "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
        "name": "subpixmap-tables",
        "description": "Tables of a run of subpixmap. CSV files are rounded; Parquet files of the same name are not.",
        **licence,
        "resources": resources,
        "parquet": {runpaths.SERIES_PARQUET: _schema(SERIES)} if (folder / runpaths.SERIES_PARQUET).is_file() else {},
    }


def _resource(name: str, what: str, columns: Columns) -> dict[str, Any]:
    schema = _schema(columns) | ({"primaryKey": _KEYS[name]} if name in _KEYS else {})
    return {
        "name": Path(name).stem,
        "path": name,
        "description": what,
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "schema": schema,
    }


def _schema(columns: Columns) -> dict[str, Any]:
    return {"fields": [_field(name, columns) for name in columns], "missingValues": [""]}


def _field(name: str, columns: Columns) -> Mapping[str, Any]:
    column = columns[name]
    field: dict[str, Any] = {"name": name, "type": _TYPES[column.type], "description": column.meaning}
    if column.unit:
        field["unit"] = column.unit
    if column.type == "boolean":
        field |= {"trueValues": ["True"], "falseValues": ["False"]}
    return field
