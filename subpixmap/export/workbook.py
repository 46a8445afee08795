"""Writes one workbook: a sheet per table, and one that explains the columns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from subpixmap.errors import InputError
from subpixmap.files import write_atomic
from subpixmap.tables import Columns, rounded

if TYPE_CHECKING:
    from openpyxl import Workbook

MOST_ROWS = 1_048_575
"""Largest number of rows of a sheet below its header."""


def write_workbook(tables: Mapping[str, tuple[pd.DataFrame, Columns]], licence: str, path: Path) -> Path:
    """Write the tables, rounded as in the CSV files, as sheets of one workbook.

    Parameters
    ----------
    tables
        Name of the sheet -> rows and their columns.
    licence
        What stands in the sheet `licence`, line by line.
    path
        Of the workbook.

    Raises
    ------
    InputError
        A table has more rows than a sheet holds.
    """
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    for name, (table, columns) in tables.items():
        if len(table) > MOST_ROWS:
            raise InputError(f"{name} has {len(table):,} rows, but a sheet has at most {MOST_ROWS:,}; use --format csv")
        values = rounded(table, columns).astype(object)
        rows = ([None if pd.isna(value) else value for value in row] for row in values.itertuples(index=False))
        _sheet(book, name, list(columns), rows)
    meanings = [
        (name, key, column.type, column.unit, column.meaning)
        for name, (_, columns) in tables.items()
        for key, column in columns.items()
    ]
    _sheet(book, "columns", ["table", "column", "type", "unit", "meaning"], meanings)
    _sheet(book, "licence", ["licence and citation"], [(line,) for line in licence.splitlines() if line])
    buffer = io.BytesIO()
    book.save(buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return path


def _sheet(book: Workbook, name: str, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """A sheet with a fixed header. Texts stay texts, even if they begin with =."""
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    sheet = book.create_sheet(name)
    sheet.freeze_panes = "A2"
    sheet.append(list(header))
    for row in rows:
        cells: list[Any] = []
        for value in row:
            if isinstance(value, str):
                cell = WriteOnlyCell(sheet, value=ILLEGAL_CHARACTERS_RE.sub(" ", value))
                cell.data_type = "s"
                cells.append(cell)
            else:
                cells.append(value)
        sheet.append(cells)
