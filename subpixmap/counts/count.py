"""Counts a run or a part of its opened map in units: blocks, sums, rows, and their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from shapely.geometry.base import BaseGeometry

from subpixmap import runpaths
from subpixmap.counts.accounts import Accounts, make_accounts, write_accounts
from subpixmap.counts.blocks import MapBlock, Maps, blocks_of, contents_of, folder_of, read_blocks
from subpixmap.counts.choices import read_choices
from subpixmap.counts.facts import Facts, read_facts
from subpixmap.counts.region_row import region_rows
from subpixmap.counts.rows import series_rows, unit_rows
from subpixmap.counts.sums import sum_blocks
from subpixmap.counts.units import prepare_units
from subpixmap.html import html_table
from subpixmap.model.mean import member_name
from subpixmap.region.resolve import require_overlap
from subpixmap.runfolder import RunFolder, RunUnits
from subpixmap.tables import COUNTS, SERIES, write_parquet, write_table

if TYPE_CHECKING:
    import geopandas as gpd
    from distributed import Client


@dataclass(frozen=True, repr=False)
class Counted:
    """The counts of a map."""

    table: gpd.GeoDataFrame
    """The rows (`tables.COUNTS`) of the units, with their polygons (EPSG:4326) as geometry."""
    series: pd.DataFrame
    """Values comparable between periods (`tables.SERIES`), with their standard errors."""
    accounts: Accounts
    """Counts outside the units, and checks that all sums agree."""
    region: gpd.GeoDataFrame
    """The rows of the sum of the topmost units, without a polygon."""
    region_series: pd.DataFrame

    def __repr__(self) -> str:
        units, objects, periods = (self.table[name].unique() for name in ("unit_id", "object", "period"))
        return (
            f"Counted({len(units):,} units x {', '.join(map(str, objects))} x {len(periods)} periods, "
            f"{periods[0]} to {periods[-1]})"
            if len(periods)
            else "Counted(nothing)"
        )

    def _repr_html_(self) -> str:
        totals = self.region.pivot_table(index="object", columns="period", values="map_total_full", sort=False)
        facts = {
            str(name): ", ".join(f"{period}: {value:,.0f}" for period, value in row.items())
            for name, row in totals.iterrows()
        }
        return html_table(f"{self!r}", facts)

    @property
    def all_rows(self) -> gpd.GeoDataFrame:
        """The rows of counts.parquet: the units and, last, their sum."""
        rows: gpd.GeoDataFrame = pd.concat([self.table, self.region], ignore_index=True)
        return rows

    @property
    def all_series(self) -> pd.DataFrame:
        """The rows of series.parquet, in the order of `all_rows`."""
        return pd.concat([self.series, self.region_series], ignore_index=True)


def count_by_unit(
    out: str | os.PathLike[str] | Maps,
    units: gpd.GeoDataFrame | None = None,
    *,
    boundary_source: str | None = None,
    boundary_version: str | None = None,
    assign_nearest: bool | None = None,
    client: Client | None = None,
) -> gpd.GeoDataFrame:
    """Totals of a run, or of an opened map, per unit, object and period.

    Parameters as in `count_run`, which also returns counts outside all units.

    Returns
    -------
    geopandas.GeoDataFrame
        The columns of counts.parquet, those of series.parquet (values comparable between periods, the input of `trend`)
        and the units' polygons.
    """
    counted = count_run(
        out,
        units,
        boundary_source=boundary_source,
        boundary_version=boundary_version,
        assign_nearest=assign_nearest,
        client=client,
    )
    keys = ["unit_id", "object", "period"]
    both = counted.all_rows.merge(counted.all_series, on=keys, how="left", validate="one_to_one")
    return both[[name for name in both.columns if name != "geometry"] + ["geometry"]]


def count_run(
    out: str | os.PathLike[str] | RunFolder | Maps,
    units: gpd.GeoDataFrame | None = None,
    *,
    boundary_source: str | None = None,
    boundary_version: str | None = None,
    assign_nearest: bool | None = None,
    client: Client | None = None,
) -> Counted:
    """Totals of a run, with its series and accounts.

    Parameters
    ----------
    out
        The run's folder, or the result of `open_map`, also a part of it or with values set to NaN.
    units
        Polygons with a CRS and `unit_id`, `unit_name`, `parent_id`; by default those of the run.
    boundary_source, boundary_version
        Origin of the units; known for those of the run.
    assign_nearest
        Count objects up to 1 km outside all units in the nearest unit; by default as stored in the run's folder.
    client
        A Dask client whose workers can read the folder; by default blocks are summed in this process.

    Raises
    ------
    InputError
        The folder holds no run, the units are not polygons of its region, or the map is not part of one run.
    VerificationFailed
        The map or its ledger is damaged.
    """
    maps = out if isinstance(out, Mapping) else None
    folder = RunFolder.open(folder_of(out) if isinstance(out, Mapping) else out)
    if units is None:
        given = folder.units
    else:
        given = RunUnits(units, boundary_source, boundary_version)
        _require_in_region(given, folder)
    facts = read_facts(
        folder,
        boundary_source=given.boundary_source,
        boundary_version=given.boundary_version,
        assign_nearest=read_choices(folder.path).assign_nearest if assign_nearest is None else assign_nearest,
    )
    blocks: Iterable[MapBlock] = read_blocks(folder)
    if maps is not None:
        facts, blocks, client = facts.of_part(*contents_of(maps)), blocks_of(maps, folder), None
        if not all(member_name(k) in dataset for dataset in maps.values() for k in range(facts.spread)):
            facts = replace(facts, spread=0)
    plan = folder.plan
    return count_blocks(blocks, given.table, facts, size=plan.recipe.block, region=plan.geometry, client=client)


def count_blocks(
    blocks: Iterable[MapBlock],
    units: gpd.GeoDataFrame,
    facts: Facts,
    *,
    size: int,
    region: BaseGeometry | None = None,
    client: Client | None = None,
) -> Counted:
    """Totals per unit, object and period from blocks of a map.

    Parameters
    ----------
    blocks
        Blocks of `size` pixels, in the order of summing.
    units
        Polygons with a CRS and `unit_id`, `unit_name`, `parent_id`.
    facts
        Information about the map for the rows.
    size
        Side of a block, pixels.
    region
        Region to account for in addition to the units, EPSG:4326; by default all chunks of the blocks.
    client
        A Dask client whose workers can read the map; the result does not depend on it.

    Returns
    -------
    Counted
    """
    ready = prepare_units(units)
    sums = sum_blocks(blocks, ready, facts, size=size, region=region, client=client)
    table, series = unit_rows(ready, sums, facts), series_rows(ready, sums, facts)
    accounts = make_accounts(ready, sums, table, facts)
    region, region_series = region_rows(ready, sums, facts, table, series)
    for rows, noise in ((table, series), (region, region_series)):
        rows["total_se"] = noise["noise_se"]  # the rows of both have the same order
    return Counted(table, series, accounts, region, region_series)


def write_counts(folder: Path, counted: Counted) -> list[Path]:
    """Write counts.csv, counts.parquet, series.parquet and accounts.json into a run folder; returns their paths."""
    return [
        *write_table(counted.all_rows, folder / runpaths.COUNTS_PARQUET, COUNTS),
        write_parquet(counted.all_series, folder / runpaths.SERIES_PARQUET, SERIES),
        write_accounts(folder / runpaths.ACCOUNTS, counted.accounts),
    ]


def _require_in_region(units: RunUnits, folder: RunFolder) -> None:
    """Refuse units if none lies in the region; other errors are found by `prepare_units`."""
    table, plan = units.table, folder.plan
    if table.crs is not None and len(table):
        name = units.boundary_source or "the table"
        require_overlap(table.to_crs(4326), name, plan.geometry, f"the map of {plan.region_name}")
