"""From a map to numbers: `count` sums it, `trend` compares periods, `report` and `export` show the results."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.counts.choices import TREND_CHOICES, read_choices, write_choices
from subpixmap.errors import Incomplete
from subpixmap.periods import over_new_year
from subpixmap.verbs import console
from subpixmap.verbs.job import hold
from subpixmap.verbs.sample import estimate_again, remarks_on_sample

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from distributed import Client

    from subpixmap.mapping.plan import Plan
    from subpixmap.runfolder import RunFolder

WORTH_WORKERS = 500
"""Counting starts worker processes from this number of blocks x periods on; for fewer, starting them takes longer."""

log = logging.getLogger("subpixmap")


def count(
    out: Path,
    *,
    admin: Path | None = None,
    id_column: str | None = None,
    name_column: str | None = None,
    parent_column: str | None = None,
    layer: str | None = None,
    encoding: str | None = None,
    assign_nearest: bool | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    allow_partial: bool = False,
    quiet: bool = False,
) -> gpd.GeoDataFrame:
    """Sum the map per unit, object and period into counts.csv and counts.parquet.

    Given units replace those of the run for this and later counts. So does `assign_nearest` (count objects up to 1 km
    outside all units in the nearest unit); None means the previous choice, at first False.
    """
    from subpixmap import runpaths
    from subpixmap.counts.count import count_run, write_counts
    from subpixmap.export.dictionary import write_dictionary
    from subpixmap.mapping.manifest import announce, read_manifest, require_unchanged, write_manifest
    from subpixmap.region.resolve import given_units
    from subpixmap.runfolder import RunUnits, write_units

    with hold(out) as folder:
        _require_complete(folder, allow_partial)
        require_unchanged(folder.path, () if admin is not None else (runpaths.UNITS,))
        choices = read_choices(out).with_count(assign_nearest=assign_nearest)
        columns = {"id_column": id_column, "name_column": name_column, "parent_column": parent_column}
        units = folder.units
        if admin is not None:
            units = RunUnits(*given_units(admin, **columns, layer=layer, encoding=encoding))
        with _counting(folder.plan, scheduler, workers) as client:
            counted = count_run(
                folder,
                units.table,
                boundary_source=units.boundary_source,
                boundary_version=units.boundary_version,
                assign_nearest=choices.assign_nearest,
                client=client,
            )
        notes = [] if assign_nearest is not None else choices.notes("assign_nearest")
        # Only now, so that a failed count leaves the folder unchanged.
        written = (*runpaths.COUNTED, *(() if admin is None else (runpaths.UNITS,)))
        announce(folder.path, written)
        if admin is not None:
            choices, forgotten = choices.for_units(set(units.table["unit_id"]))
            notes += forgotten
            write_units(folder.path, units)
        write_choices(out, choices)
        paths = [*write_counts(folder.path, counted), write_dictionary(folder.path)]
        manifest = write_manifest(folder.path, written)
        if (folder.path / runpaths.SAMPLE_RULES).is_file():
            notes += estimate_again(folder.path)
            manifest = read_manifest(folder.path) or manifest
    console.show_remarks([*notes, *counted.accounts.remarks, *manifest.stale_remarks()], quiet=quiet)
    log.info("counted", extra={"units": len(units.table), "rows": len(counted.all_rows)})
    console.say_files(paths, quiet=quiet)
    return counted.all_rows


def trend(
    out: Path,
    *,
    level: float | None = None,
    steady_within: float | None = None,
    unchanged: Sequence[str] | None = None,
    background: bool | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Follow the counts over the periods into trend.csv, trend.parquet and changes.csv.

    `level` is the confidence of the intervals, at first 0.95; `steady_within` the share of the first total within which
    a unit counts as steady, at first 0.05. Deviations that all units share in a period are noted. They are removed with
    `unchanged` (ids of units known not to change) or `background` (the count where the object is never present). None
    means the previous choice; given values also apply to later recounts.
    """
    from subpixmap import runpaths
    from subpixmap.export.dictionary import write_dictionary
    from subpixmap.mapping.manifest import announce, require_unchanged, write_manifest
    from subpixmap.trends.remarks import trend_remarks
    from subpixmap.trends.run_trend import trend_of_run, write_trend

    with hold(out) as folder:
        require_unchanged(folder.path, (runpaths.COUNTS_PARQUET, runpaths.SERIES_PARQUET))
        choices = read_choices(out).with_trend(
            level=level,
            steady_within=steady_within,
            unchanged=None if unchanged is None else tuple(unchanged),
            background=background,
        )
        followed = trend_of_run(
            folder,
            level=choices.level,
            steady_within=choices.steady_within,
            unchanged=choices.unchanged,
            background=choices.background,
        )
        announce(folder.path, runpaths.TRENDED)
        write_choices(out, choices)
        paths = [*write_trend(folder.path, followed), write_dictionary(folder.path)]
        manifest = write_manifest(folder.path, runpaths.TRENDED)
    if not quiet:  # `run` shows them at its end, together with the notes of the counts
        given = any(one is not None for one in (level, steady_within, unchanged, background))
        notes = [] if given else choices.notes(*TREND_CHOICES)
        remarks = trend_remarks(followed.trend, folder.counts, folder.series, level=choices.level)
        console.show_remarks([*notes, *remarks, *manifest.stale_remarks()], quiet=quiet)
    console.say_files(paths, quiet=quiet)
    return followed.trend


def report(out: Path, *, quiet: bool = False) -> Path:
    """Write report.html, then manifest.json over everything that was made."""
    from subpixmap import runpaths
    from subpixmap.mapping.manifest import MADE_FROM, announce, require_unchanged, write_manifest
    from subpixmap.report.page import write_report
    from subpixmap.simulate.recognise import truth_of

    with hold(out) as folder:
        others = (runpaths.ITEMS, runpaths.MAP, runpaths.ESTIMATES_CSV, *runpaths.SAMPLED)
        require_unchanged(folder.path, (*MADE_FROM[runpaths.REPORT], *others))
        announce(folder.path, (runpaths.REPORT,))
        by_year = not over_new_year(folder.plan.recipe.months)  # as the truth of a simulated country is
        path = write_report(out, truth=truth_of(folder.plan.sources) if by_year else None)
        write_manifest(folder.path, (runpaths.REPORT,))
    console.say_files([path], quiet=quiet)
    return path


def export(out: Path, format: str, *, to: Path | None = None, quiet: bool = False) -> list[Path]:
    """Write counts or map in another format into OUT/export, or another folder."""
    from subpixmap import runpaths
    from subpixmap.export.formats import export_run
    from subpixmap.mapping.manifest import require_unchanged
    from subpixmap.runfolder import RunFolder

    with hold(out) if to is None else contextlib.nullcontext(RunFolder.open(out)) as folder:
        require_unchanged(folder.path, runpaths.EXPORTED)
        paths = export_run(folder, format, to=to)
    console.say_files(paths, quiet=quiet)
    return paths


def remarks_on(out: Path) -> list[str]:
    """Notes about the units and trends of a finished run."""
    from subpixmap import runpaths
    from subpixmap.counts.accounts import read_accounts
    from subpixmap.runfolder import RunFolder
    from subpixmap.trends.remarks import trend_remarks

    folder, choices = RunFolder.open(out), read_choices(out)
    assert folder.trend is not None, "a finished run has trends"
    return [
        *choices.notes("assign_nearest", *TREND_CHOICES),
        *read_accounts(folder.path / runpaths.ACCOUNTS).get("remarks", ()),
        *trend_remarks(folder.trend, folder.counts, folder.series, level=choices.level),
        *remarks_on_sample(folder.path),
    ]


@contextlib.contextmanager
def _counting(planned: Plan, scheduler: str | None, workers: int | None) -> Iterator[Client | None]:
    """Dask workers for a large map or if requested; None for a small map, which is summed in this process."""
    from subpixmap.mapping.cluster import connect

    if scheduler is None and (workers == 0 or (workers is None and planned.n_tasks < WORTH_WORKERS)):
        yield None
        return
    with connect(workers, scheduler) as client:
        yield client


def _require_complete(folder: RunFolder, allow_partial: bool) -> None:
    """Refuse to count an incomplete map, unless allowed."""
    out, done, total = folder.path, len(folder.done), folder.plan.n_tasks
    if done < total and not allow_partial:
        raise Incomplete(
            f"{total - done} of {total} blocks x periods of {out} are not mapped: run `subpixmap map {out}` first, "
            "or add --allow-partial to count the mapped ones"
        )
