"""A map and units -> counts, with all that a report tells about them: the verbs of this package."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from subpixmap.counts import accounts
from subpixmap.counts.export import write_parquet, write_table
from subpixmap.counts.polygons import prepare_units
from subpixmap.counts.source import read_blocks, read_facts, read_run_units
from subpixmap.counts.table import COLUMNS, SERIES_COLUMNS, Facts, unit_rows
from subpixmap.counts.walk import sum_blocks
from subpixmap.counts.zonal import MapBlock
from subpixmap.mapping.plan import read_plan

if TYPE_CHECKING:
    import geopandas as gpd
    from distributed import Client


@dataclass(frozen=True)
class Counted:
    """The counts of a map."""

    table: gpd.GeoDataFrame
    """The rows, with the units' polygons (EPSG:4326) as geometry."""
    series: pd.DataFrame
    """`SERIES_COLUMNS`: what may be compared over the periods, and how sure each period is."""
    outside: pd.DataFrame
    """What the map holds outside all units: `object, period, map_total, near_total, area_ha, near_ha, observed_ha,
    observed_frac`; near is within 1 km of a unit (a coarse coastline). With `assign_nearest`, near is in the units."""
    balance: pd.DataFrame
    """`object, period, map, units, outside, counted_twice`: objects. Of several levels only the topmost is in `units`;
    `counted_twice` = units + outside - map is what overlapping units share."""
    parents: pd.DataFrame
    """`parent_id, object, period, parent_total, children_total, difference, parent_ha, children_ha`: for each parent
    that is itself a unit. A positive difference lies in no child."""
    background: pd.DataFrame
    """`object, period, density_per_ha, area_ha`: what the map counts where the object was never present; it should be
    nothing, and a year in which it is more is an effect of that year."""
    overlap_ha: float
    """Mapped area that belongs to several topmost units, once for each unit too many."""


def count_blocks(
    blocks: Iterable[MapBlock],
    units: gpd.GeoDataFrame,
    facts: Facts,
    *,
    size: int,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> Counted:
    """Totals per unit, object and period from blocks of a map.

    Parameters
    ----------
    blocks
        Blocks of `size` pixels, in the order in which they are to be summed.
    units
        Polygons with a CRS and `unit_id`, `unit_name`, `parent_id`.
    facts
        What the rows say about the map.
    size
        Side of a block, pixels.
    assign_nearest
        Count what lies outside all units, within 1 km of one, in the nearest.
    client
        A Dask client whose workers see the map; in this process without one. The result does not depend on it.

    Returns
    -------
    Counted
    """
    ready = prepare_units(units)
    sums = sum_blocks(blocks, ready, facts, size=size, assign_nearest=assign_nearest, client=client)
    top = accounts.topmost(ready)
    table = unit_rows(ready, sums, facts)
    return Counted(
        table=table,
        series=accounts.series(ready, sums, facts),
        outside=accounts.outside(sums, facts),
        balance=accounts.balance(sums, facts, top),
        parents=accounts.parents(table),
        background=accounts.background(sums, facts),
        overlap_ha=max(0.0, float(sums.mapped[top].sum() + sums.mapped[-2:].sum() - sums.extent[0]) * facts.px_ha),
    )


def count_run(
    out: str | os.PathLike[str],
    units: gpd.GeoDataFrame | None = None,
    *,
    boundary_source: str | None = None,
    boundary_version: str | None = None,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> Counted:
    """Totals of a run folder, with all that the report tells about them.

    Parameters
    ----------
    out
        The run's folder.
    units
        Polygons with a CRS and `unit_id`, `unit_name`, `parent_id`; those of the run when not given.
    boundary_source, boundary_version
        Where the units come from; known for those of the run.
    assign_nearest
        Count what lies outside all units, within 1 km of one, in the nearest.
    client
        A Dask client whose workers see the folder; without one, the blocks are summed in this process.
    """
    plan = read_plan(out)
    facts = read_facts(out, plan)
    if units is None:
        units = read_run_units(out)
    else:
        facts = replace(facts, boundary_source=boundary_source, boundary_version=boundary_version)
    return count_blocks(
        read_blocks(out, plan), units, facts, size=plan.recipe.block, assign_nearest=assign_nearest, client=client
    )


def count_by_unit(
    out: str | os.PathLike[str],
    units: gpd.GeoDataFrame | None = None,
    *,
    boundary_source: str | None = None,
    boundary_version: str | None = None,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> gpd.GeoDataFrame:
    """Totals of a run folder per unit, object and period: the columns of counts.parquet and the units' polygons.

    The parameters are those of `count_run`, which also tells what lies outside all units.
    """
    return count_run(
        out,
        units,
        boundary_source=boundary_source,
        boundary_version=boundary_version,
        assign_nearest=assign_nearest,
        client=client,
    ).table


def write_counts(out: str | os.PathLike[str], counted: Counted) -> list[Path]:
    """Write counts.csv, counts.parquet and series.parquet into a run folder; returns their paths."""
    folder = Path(out)
    paths = list(write_table(counted.table, folder / "counts", COLUMNS))
    return [*paths, write_parquet(counted.series, folder / "series.parquet", SERIES_COLUMNS)]
