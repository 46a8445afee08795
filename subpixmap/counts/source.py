"""A run folder -> its counts and trends. Only blocks with a valid ledger record hold numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.count import Counted, count_blocks
from subpixmap.counts.export import read_table, write_parquet, write_table, write_vector
from subpixmap.counts.table import COLUMNS, SERIES_COLUMNS, Facts
from subpixmap.counts.trend import TREND_COLUMNS, trend
from subpixmap.counts.zonal import MapBlock
from subpixmap.errors import InputError, VerificationFailed
from subpixmap.grid import Block
from subpixmap.mapping.ledger import Record, record_path
from subpixmap.mapping.plan import Plan, items_by_period, read_plan
from subpixmap.mapping.store import read_block
from subpixmap.scenes.lock import items_sha256, read_lock

if TYPE_CHECKING:
    import geopandas as gpd
    from distributed import Client


def read_facts(out: str | os.PathLike[str], plan: Plan) -> Facts:
    """What the rows of a run say about its map."""
    locked = items_by_period(plan, read_lock(Path(out) / "items.parquet"))
    return Facts(
        objects=dict(plan.model.definitions),
        measures=dict(plan.model.measures),
        periods=plan.periods,
        resolution=plan.recipe.resolution,
        evidence=plan.model.evidence,
        model_id=plan.model.name,
        model_sha256=plan.model.sha256,
        items_sha256={label: items_sha256(items) for label, items in locked.items()},
        run_id=plan.run_id,
        software_version=plan.versions["subpixmap"],
        boundary_source=plan.boundary_source,
        boundary_version=plan.boundary_version,
        max_obs=plan.recipe.max_scenes,
        presence_threshold=plan.model.presence_threshold,
        unlike_card=plan.recipe.resolution != plan.model.resolution,
    )


def read_blocks(out: str | os.PathLike[str], plan: Plan) -> Iterator[MapBlock]:
    """The blocks of a run, zone by zone, in row-major order; nothing is read before it is asked for."""
    for _, zone in sorted(plan.zones.items()):
        for one in zone.blocks:
            stored = _Stored(os.fspath(out), plan.run_id, one.block)
            yield MapBlock(
                lattice=zone.lattice,
                window=one.block.window,
                chunks=one.chunks,
                record=stored.record,
                read=stored.read,
                min_obs=plan.recipe.min_obs,
            )


@dataclass(frozen=True)
class _Stored:
    """One block on disk; small enough to be sent to a worker."""

    out: str
    run_id: str
    block: Block

    def record(self, period: str) -> Mapping[str, Any] | None:
        """The ledger's cells, or None where the block is not done. One record is read at a time: a country has many."""
        path = record_path(self.out, self.block.id, period)
        if not path.is_file():
            return None
        try:
            record = Record.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError) as error:
            raise VerificationFailed(f"{path} is damaged ({error}); look with subpixmap verify") from error
        if record.run_id != self.run_id or record.key != (self.block.id, period):
            return None
        return {**record.cells, "acquisitions": [used.id for used in record.acquisitions]}

    def read(self, period: str) -> Mapping[str, NDArray[Any]]:
        """The arrays of one period."""
        return read_block(self.out, self.block, period)


def read_run_units(out: str | os.PathLike[str]) -> gpd.GeoDataFrame:
    """The units given to the run."""
    import geopandas as gpd

    path = Path(out) / "units.parquet"
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the units (subpixmap count {out} --admin FILE)")
    return gpd.read_parquet(path)


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


def follow_run(out: str | os.PathLike[str], *, level: float = 0.95) -> pd.DataFrame:
    """Trends of a run's counts, on the pixels that every period observed; needs counts.parquet and series.parquet."""
    folder = Path(out)
    counts = read_table(folder / "counts.parquet", COLUMNS)
    return trend(counts, read_table(folder / "series.parquet", SERIES_COLUMNS), level=level)


def write_trend(out: str | os.PathLike[str], table: pd.DataFrame) -> list[Path]:
    """Write trend.csv and trend.parquet into a run folder; returns their paths."""
    return list(write_table(table, Path(out) / "trend", TREND_COLUMNS))


def export_counts(out: str | os.PathLike[str], format: str, *, to: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write a run's counts, or its map, in another format; no pixel is summed again.

    Parameters
    ----------
    out
        The run's folder.
    format
        `csv`, `geoparquet`, `gpkg` or `geojson`: the rows of counts.parquet, the last three with the units' polygons;
        `cog`: the map as rasters; `stac`: a catalogue of these.
    to
        Folder for the files; OUT/export when not given.

    Returns
    -------
    list of Path
    """
    folder = Path(to) if to is not None else Path(out) / "export"
    if format == "cog":
        from subpixmap.counts.raster import export_cogs

        return export_cogs(out, folder)
    if format == "stac":
        from subpixmap.counts.stac import export_stac

        return export_stac(out, folder)
    counts = read_table(Path(out) / "counts.parquet", COLUMNS)
    if format == "csv":
        return [write_table(counts, folder / "counts", COLUMNS)[0]]
    return [write_vector(counts, read_run_units(out), folder, format)]
