"""The tables of the page: typed columns, formatted cells, one markup.

The template draws every table in one way: it scrolls, sorts, searches, has a link of its own and a download as CSV.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from subpixmap.report.formatting import number, p_value, percent

SMALL = "\x1f"
"""Stands between a cell and what is written small behind it."""


@dataclass(frozen=True)
class Column:
    """One column."""

    label: str
    key: str
    """Of the rows that the cells are made of."""
    kind: str = "text"
    """`text`, or how a number is written: `0`, `1`, `2` decimals, `%`, `1%`, `+%`, `+1%`, `p` for probabilities, or
    `~` for differences of large sums, of which less than a tenth is rounding."""
    hint: str = ""
    """Read by the pointer and by screen readers."""

    @property
    def numeric(self) -> bool:
        """Whether its cells are numbers: they stand on the right and sort by value."""
        return self.kind != "text" or self.key in ("estimated", "interval")

    def cell(self, row: Mapping[str, Any]) -> str:
        """The cell of a row; a dash for a missing number."""
        value = row.get(self.key)
        if self.kind == "text":
            return "" if value is None or value != value else " ".join(str(value).split(" "))
        if self.kind == "p":
            return p_value(value)
        if self.kind == "~":
            return number(None if value is None else round(value, 1))
        if self.kind.endswith("%"):
            return percent(value, digits=int("1" in self.kind), sign="+" in self.kind)
        return number(value, digits=int(self.kind))


@dataclass(frozen=True)
class Row:
    """One row."""

    cells: list[str]
    unit: str = ""
    """Unit that the row is about: it is found on the map."""
    parent: bool = False
    """The unit contains other units of the table."""


@dataclass(frozen=True)
class Table:
    """One table of the page."""

    id: str
    """Of the page's element: the table's own link ends in it."""
    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    file: str = ""
    """The file of the run that holds these rows, with all columns."""
    spark: dict[str, str] = field(default_factory=dict)
    """Unit -> drawing of its series, behind the first cell."""


def make_table(
    id: str,
    title: str,
    columns: Iterable[Column],
    records: Iterable[Mapping[str, Any]],
    *,
    file: str = "",
    unit: str = "",
) -> Table | None:
    """A table with a row for each record; None without records. `unit` is the key of the unit's id, if any."""
    columns = tuple(columns)
    rows = [
        Row([column.cell(record) for column in columns], str(record[unit]) if unit else "", bool(record.get("parent")))
        for record in records
    ]
    return Table(id, title, columns, rows, file) if rows else None


def with_interval(record: Mapping[str, Any]) -> str:
    """An estimate with its interval in small print, or the reason for a missing one."""
    if record.get("suppressed"):
        return f"–{SMALL}too uncertain"
    text = number(record.get("estimate"))
    if record.get("ci_low") is None:
        return text
    return f"{text}{SMALL}{number(record['ci_low'])} to {number(record['ci_high'])}"


def named(record: Mapping[str, Any], *, name: str = "unit_name", id: str = "unit_id") -> str:
    """A unit's name with its id written small."""
    return f"{record[name] or record[id]}{SMALL}{record[id]}".replace("\n", " ")
