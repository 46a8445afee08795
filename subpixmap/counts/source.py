"""A run folder -> its counts. Only blocks with a valid ledger record hold numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.accounts import write_accounts
from subpixmap.counts.blocks import Maps, blocks_of, facts_of, folder_of
from subpixmap.counts.count import Counted, count_blocks
from subpixmap.counts.rows import Facts
from subpixmap.counts.sums import MapBlock
from subpixmap.errors import VerificationFailed
from subpixmap.files import path_of
from subpixmap.grid import Block, Window
from subpixmap.mapping.ledger import Record, record_path
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.store import Shards, open_shards, read_stored
from subpixmap.region import require_overlap
from subpixmap.runfolder import RunFolder
from subpixmap.tables import COUNTS, SERIES, read_table, write_parquet, write_table

if TYPE_CHECKING:
    import geopandas as gpd
    from distributed import Client


def read_facts(folder: RunFolder, *, assign_nearest: bool = False) -> Facts:
    """What the rows of a run say about its map."""
    plan = folder.plan
    return Facts(
        objects=dict(plan.model.definitions),
        measures=dict(plan.model.measures),
        periods=plan.periods,
        resolution=plan.recipe.resolution,
        evidence=plan.model.evidence,
        model_id=plan.model.name,
        model_sha256=plan.model.sha256,
        items_sha256=folder.items_sha256,
        run_id=plan.run_id,
        software_version=plan.versions["subpixmap"],
        max_obs=plan.recipe.max_scenes,
        presence_threshold=plan.model.presence_threshold,
        unlike_card=plan.recipe.resolution != plan.model.resolution,
        assign_nearest=assign_nearest,
    )


def read_blocks(out: str | os.PathLike[str], plan: Plan) -> Iterator[MapBlock]:
    """The blocks of a run, zone by zone, in row-major order; nothing is read before it is asked for."""
    for epsg, zone in sorted(plan.zones.items()):
        shards = open_shards(out, epsg)
        for one in zone.blocks:
            stored = _Stored(shards, plan.run_id, one.block)
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

    shards: Shards
    run_id: str
    block: Block

    def record(self, period: str) -> Mapping[str, Any] | None:
        """The ledger's cells, or None where the block is not done. One record is read at a time: a country has many."""
        path = record_path(self.shards.out, self.block.id, period)
        if not path.is_file():
            return None
        try:
            record = Record.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError) as error:
            raise VerificationFailed(f"{path} is damaged ({error}); look with subpixmap verify") from error
        if record.run_id != self.run_id or record.key != (self.block.id, period):
            return None
        return {**record.cells, "acquisitions": [used.id for used in record.acquisitions]}

    def read(
        self, periods: Sequence[str], wanted: Mapping[str, Sequence[Window]]
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """The chunks of one period after the other, as they are stored."""
        return read_stored(self.shards, self.block, periods, wanted)


def count_run(
    out: str | os.PathLike[str] | Maps,
    units: gpd.GeoDataFrame | None = None,
    *,
    boundary_source: str | None = None,
    boundary_version: str | None = None,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> Counted:
    """Totals of a run, with all that the report tells about them.

    Parameters
    ----------
    out
        The run's folder, or what `open_map` returned, also a part of it or with values set to NaN.
    units
        Polygons with a CRS and `unit_id`, `unit_name`, `parent_id`; those of the run when not given.
    boundary_source, boundary_version
        Where the units come from; known for those of the run.
    assign_nearest
        Count what lies outside all units, within 1 km of one, in the nearest.
    client
        A Dask client whose workers see the folder; without one, the blocks are summed in this process.
    """
    maps = out if isinstance(out, Mapping) else None
    folder = RunFolder.open(folder_of(out) if isinstance(out, Mapping) else out)
    plan = folder.plan
    if units is None:
        units, boundary = folder.units.table, (folder.units.boundary_source, folder.units.boundary_version)
    else:
        boundary = boundary_source, boundary_version
        if units.crs is not None and len(units):
            require_overlap(
                units.to_crs(4326), boundary_source or "the table", plan.geometry, f"region {plan.region_name}"
            )
    facts = read_facts(folder, assign_nearest=assign_nearest)
    facts = replace(facts, boundary_source=boundary[0], boundary_version=boundary[1])
    blocks = read_blocks(folder.path, plan)
    if maps is not None:
        facts, blocks, client = facts_of(maps, facts), blocks_of(maps, blocks, plan.objects), None
    return count_blocks(
        blocks,
        units,
        facts,
        size=plan.recipe.block,
        region=plan.geometry,
        assign_nearest=assign_nearest,
        client=client,
    )


def count_by_unit(
    out: str | os.PathLike[str] | Maps,
    units: gpd.GeoDataFrame | None = None,
    *,
    boundary_source: str | None = None,
    boundary_version: str | None = None,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> gpd.GeoDataFrame:
    """Totals of a run, or of what `open_map` returned, per unit, object and period.

    The parameters are those of `count_run`, which also tells what lies outside all units.

    Returns
    -------
    geopandas.GeoDataFrame
        The columns of counts.parquet, those of series.parquet (what may be compared over the periods: `trend` follows
        it) and the units' polygons.
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
    both = counted.table.merge(counted.series, on=keys, how="left", validate="one_to_one")
    return both[[name for name in both.columns if name != "geometry"] + ["geometry"]]


def write_counts(out: str | os.PathLike[str], counted: Counted) -> list[Path]:
    """Write counts.csv, counts.parquet, series.parquet and accounts.json into a run folder; returns their paths."""
    folder = path_of(out)
    paths = list(write_table(counted.table, folder / "counts", COUNTS))
    series = write_parquet(counted.series, folder / "series.parquet", SERIES)
    return [*paths, series, write_accounts(folder / "accounts.json", counted)]


def read_counts(out: str | os.PathLike[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """counts.parquet and series.parquet of a run folder."""
    folder = path_of(out)
    return read_table(folder / "counts.parquet", COUNTS), read_table(folder / "series.parquet", SERIES)
