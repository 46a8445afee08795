"""A map -> its numbers: `count` sums it, `trend` follows the sums, `report` and `export` show them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.errors import Incomplete, InputError
from subpixmap.verbs import console

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from distributed import Client

    from subpixmap.mapping.plan import Plan

WORTH_WORKERS = 500
"""Blocks x periods from which counting starts worker processes: below, starting them takes longer."""

log = logging.getLogger("subpixmap")


def count(
    out: Path,
    *,
    admin: Path | None = None,
    id_column: str | None = None,
    name_column: str | None = None,
    parent_column: str | None = None,
    assign_nearest: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    allow_partial: bool = False,
    quiet: bool = False,
) -> gpd.GeoDataFrame:
    """Sum the map per unit, object and period into counts.csv and counts.parquet.

    Units that are given replace those of the run for this and later counts.
    """
    from subpixmap.counts.source import count_run, write_counts
    from subpixmap.mapping.plan import read_plan
    from subpixmap.mapping.verify import write_manifest
    from subpixmap.region import given_units, require_overlap
    from subpixmap.runfolder import RunUnits, read_units, write_units

    _require_complete(out, allow_partial)
    planned = read_plan(out)
    if admin is not None:
        units = RunUnits(*given_units(admin, id_column=id_column, name_column=name_column, parent_column=parent_column))
        require_overlap(units.table, str(units.boundary_source), planned.geometry, f"the map of {planned.region_name}")
    else:
        units = read_units(out, planned)
    with _counting(planned, scheduler, workers) as client:
        counted = count_run(
            out,
            units.table,
            boundary_source=units.boundary_source,
            boundary_version=units.boundary_version,
            assign_nearest=assign_nearest,
            client=client,
        )
    if admin is not None:
        write_units(out, units)  # only now: a count that fails leaves the folder as it was
    paths = write_counts(out, counted)
    console.show_remarks(counted.remarks, quiet=quiet)
    write_manifest(out)
    log.info("counted", extra={"units": len(units.table), "rows": len(counted.table)})
    console.say_files(paths, quiet=quiet)
    return counted.table


def trend(
    out: Path,
    *,
    level: float = 0.95,
    unchanged: Sequence[str] = (),
    background: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Follow the counts over the periods into trend.csv and trend.parquet.

    What all units share in a period is told; it is taken out with `unchanged` (ids of units known not to have changed)
    or `background` (what the map counts where the object is never present).
    """
    from subpixmap import runpaths
    from subpixmap.mapping.verify import write_manifest
    from subpixmap.runfolder import RunFolder
    from subpixmap.tables import TREND, write_table
    from subpixmap.trends.remarks import trend_remarks
    from subpixmap.trends.run_trend import trend_of_run

    if not 0.5 <= level < 1:
        raise InputError(f"--level {level:g}: the confidence of an interval lies between 0.5 and 1")
    folder = RunFolder.open(out)
    table = trend_of_run(folder, level=level, unchanged=unchanged, background=background)
    paths = list(write_table(table, (folder.path / runpaths.TREND_CSV).with_suffix(""), TREND))
    if not quiet:  # `run` shows them at its end, with those of the counts
        console.show_remarks(trend_remarks(table, folder.counts, folder.series, level=level), quiet=quiet)
    write_manifest(out)
    console.say_files(paths, quiet=quiet)
    return table


def report(out: Path, *, quiet: bool = False) -> Path:
    """Write report.html, then manifest.json over everything that was made."""
    from subpixmap.mapping.plan import read_plan
    from subpixmap.mapping.verify import write_manifest
    from subpixmap.report.page import write_report
    from subpixmap.simulate.recognise import truth_of

    path = write_report(out, truth=truth_of(read_plan(out).sources))
    write_manifest(out)
    console.say_files([path], quiet=quiet)
    return path


def export(out: Path, format: str, *, to: Path | None = None, quiet: bool = False) -> list[Path]:
    """Write counts or map in another format into OUT/export, or another folder."""
    from subpixmap.export.formats import export_run
    from subpixmap.runfolder import RunFolder

    paths = export_run(RunFolder.open(out), format, to=to)
    console.say_files(paths, quiet=quiet)
    return paths


def remarks_on(out: Path) -> list[str]:
    """What a reader should know of the units and trends of a finished run."""
    from subpixmap import runpaths
    from subpixmap.counts.accounts import read_accounts
    from subpixmap.runfolder import RunFolder
    from subpixmap.trends.remarks import trend_remarks

    folder = RunFolder.open(out)
    assert folder.trend is not None, "a finished run has trends"
    return [
        *read_accounts(folder.path / runpaths.ACCOUNTS).get("remarks", ()),
        *trend_remarks(folder.trend, folder.counts, folder.series, level=0.95),
    ]


@contextlib.contextmanager
def _counting(planned: Plan, scheduler: str | None, workers: int | None) -> Iterator[Client | None]:
    """Dask workers for a large map, or for whoever asks for them; a small one is summed in this process."""
    from subpixmap.mapping.cluster import connect

    if scheduler is None and (workers == 0 or (workers is None and planned.n_tasks < WORTH_WORKERS)):
        yield None
        return
    with connect(workers, scheduler) as client:
        yield client


def _require_complete(out: Path, allow_partial: bool) -> None:
    """Refuse to count a map with holes, unless that is allowed."""
    from subpixmap.mapping.ledger import read_records
    from subpixmap.mapping.plan import read_plan

    plan = read_plan(out)
    done = len(read_records(out, plan))
    if done < plan.n_tasks and not allow_partial:
        raise Incomplete(
            f"{plan.n_tasks - done} of {plan.n_tasks} blocks x periods of {out} are not mapped: `subpixmap map {out}` "
            "goes on, --allow-partial counts what is there"
        )
