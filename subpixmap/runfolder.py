"""A run folder as one object; its files are read once.

In: the path of a folder that holds a plan. Out: a `RunFolder` with plan, lock, units, ledger index and tables. Texts
and paths are converted once in `RunFolder.open`; later functions take a `RunFolder` or a `Path`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from subpixmap import runpaths
from subpixmap.errors import InputError
from subpixmap.files import geoparquet_bytes, path_of, write_atomic
from subpixmap.mapping.ledger import Record, read_records
from subpixmap.mapping.plan import Plan, items_by_period, read_plan
from subpixmap.scenes.items import Item, items_sha256, read_lock, read_notes
from subpixmap.tables import CHANGES, COUNTS, SERIES, TREND, damage_is_told, read_table

if TYPE_CHECKING:
    import geopandas as gpd

_BOUNDARY = ["boundary_source", "boundary_version"]


@dataclass(frozen=True)
class RunUnits:
    """The units of a run, with the source of their boundaries."""

    table: gpd.GeoDataFrame
    """`unit_id`, `unit_name`, `parent_id` and the polygons."""
    boundary_source: str | None
    boundary_version: str | None


@dataclass(frozen=True)
class RunFolder:
    """A run folder. Files are read once: open it again after writing into it."""

    path: Path
    """Path on a disk or in an object store."""
    plan: Plan

    @classmethod
    def open(cls, out: str | os.PathLike[str] | RunFolder) -> RunFolder:
        """Open a folder with a plan; an open RunFolder is returned unchanged.

        Raises
        ------
        InputError
            There is no plan in the folder, or it cannot be read.
        Refused
            Another version of this software made it, in another format.
        VerificationFailed
            The plan is damaged.
        """
        if isinstance(out, RunFolder):
            return out
        path = path_of(out)
        return cls(path, read_plan(path))

    @cached_property
    def items(self) -> list[Item]:
        """The lock: the items of all periods."""
        return read_lock(self.path / runpaths.ITEMS)

    @cached_property
    def lock_notes(self) -> dict[str, Any]:
        """Items missing in the catalogue when the items were locked."""
        return read_notes(self.path / runpaths.ITEMS)

    @cached_property
    def items_by_period(self) -> dict[str, list[Item]]:
        """Period label -> its locked items."""
        return items_by_period(self.plan, self.items)

    @cached_property
    def items_sha256(self) -> dict[str, str]:
        """Period label -> hash of its locked items."""
        return {label: items_sha256(items) for label, items in self.items_by_period.items()}

    @cached_property
    def units(self) -> RunUnits:
        """The units that the run is counted in, with the source and version of their boundaries.

        Raises
        ------
        InputError
            No units were given to the run.
        VerificationFailed
            The file is damaged.
        """
        return read_units(self.path, self.plan)

    @cached_property
    def done(self) -> frozenset[tuple[str, str]]:
        """The ledger's index: (block id, period label) of blocks mapped with this plan's recipe."""
        return frozenset(self.records())

    def records(self) -> dict[tuple[str, str], Record]:
        """All valid ledger records of this plan's recipe. They are large, so they are not kept."""
        return read_records(self.path, self.plan)

    @cached_property
    def counts(self) -> pd.DataFrame:
        """counts.parquet."""
        return read_table(self.path / runpaths.COUNTS_PARQUET, COUNTS)

    @cached_property
    def series(self) -> pd.DataFrame:
        """series.parquet: values comparable between periods."""
        return read_table(self.path / runpaths.SERIES_PARQUET, SERIES)

    @cached_property
    def trend(self) -> pd.DataFrame | None:
        """trend.parquet; None if there are no trends."""
        path = self.path / runpaths.TREND_PARQUET
        return read_table(path, TREND) if path.is_file() else None

    @cached_property
    def changes(self) -> pd.DataFrame | None:
        """changes.csv: changes from period to period; None if there are no trends."""
        path = self.path / runpaths.CHANGES_CSV
        return read_table(path, CHANGES) if path.is_file() else None


def read_units(folder: Path, plan: Plan) -> RunUnits:
    """The units of a run; if the file has no source, that of the plan is used."""
    import geopandas as gpd

    path = folder / runpaths.UNITS
    if not path.is_file():
        raise InputError(f"{path} does not exist; run subpixmap count {folder} --admin FILE")
    data = io.BytesIO(path.read_bytes())
    with damage_is_told(path, f"count with the units again (subpixmap count {folder} --admin FILE)"):
        table = gpd.read_parquet(data)
        if missing := {"unit_id", "unit_name", "parent_id"} - set(table.columns):
            raise ValueError(f"it lacks the columns {', '.join(sorted(missing))}")
    if not set(_BOUNDARY) <= set(table.columns) or not len(table):
        return RunUnits(table, plan.boundary_source, plan.boundary_version)
    first = table.iloc[0]
    return RunUnits(table.drop(columns=_BOUNDARY), *(_text_or_none(first[name]) for name in _BOUNDARY))


def write_units(folder: Path, units: RunUnits) -> None:
    """Write units.parquet: the units, with their source in every row."""
    origin: Mapping[str, str | None] = {name: getattr(units, name) for name in _BOUNDARY}
    write_atomic(folder / runpaths.UNITS, geoparquet_bytes(units.table.assign(**origin)))


def _text_or_none(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)
