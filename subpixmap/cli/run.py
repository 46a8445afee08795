"""The commands that map and count: run and its stages.

Only parses options and calls the verbs; heavy imports stay inside functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options
from subpixmap.cli.options import RunOptions, refuse_given, words


def run(
    asked: RunOptions,
    dry_run: Annotated[bool, Option("--dry-run", help="only plan, same as subpixmap plan")] = False,
) -> None:
    """Plan, map, count, compute trends, and report.

    Rerun the same command to resume it. Rerun it with more years to extend the folder.
    """
    from subpixmap.verbs import run as verbs

    if dry_run:
        verbs.plan(asked.request())
    else:
        verbs.run(asked.request())


def plan(asked: RunOptions) -> None:
    """Show what a run would read and need, without mapping.

    Saves the items and the plan in the run folder: a later run uses them.
    """
    from subpixmap.verbs import run as verbs

    verbs.plan(asked.request())


def map_(
    context: typer.Context,
    out: options.Folder,
    model: options.RunModel = None,
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    allow_partial: options.AllowPartial = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Map the planned blocks that are still missing."""
    from subpixmap.verbs import run as verbs

    options.require_one_place(context, scheduler)
    verbs.map_planned(out, model=model, scheduler=scheduler, workers=workers, allow_partial=allow_partial, quiet=quiet)


def count(
    context: typer.Context,
    out: options.Folder,
    admin: options.Admin = None,
    id_column: options.IdColumn = None,
    name_column: options.NameColumn = None,
    parent_column: options.ParentColumn = None,
    layer: options.Layer = None,
    encoding: options.Encoding = None,
    assign_nearest: Annotated[
        bool | None,
        Option(
            "--assign-nearest/--no-assign-nearest",
            help="count objects up to 1 km outside all units in the nearest unit  [default: same as last time, at "
            "first no]",
        ),
    ] = None,
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    allow_partial: options.AllowPartial = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Sum the map per unit, object and period: counts.csv.

    Writes the same rows to counts.parquet. docs/tables.md explains the columns and the values of `flag`.
    """
    from subpixmap.verbs import count as verbs

    options.require_one_place(context, scheduler)
    if admin is None:
        of_a_file = ("id_column", "name_column", "parent_column", "layer", "encoding")
        refuse_given(context, *of_a_file, because="only used with --admin; give --admin, or leave it out")
    verbs.count(
        out,
        admin=admin,
        id_column=id_column,
        name_column=name_column,
        parent_column=parent_column,
        layer=layer,
        encoding=encoding,
        assign_nearest=assign_nearest,
        scheduler=scheduler,
        workers=workers,
        allow_partial=allow_partial,
        quiet=quiet,
    )


def trend(
    out: options.Folder,
    level: Annotated[
        float | None,
        Option(
            help="confidence level of intervals; the false discovery rate is 1 - level  [default: same as last time, "
            "at first 0.95]"
        ),
    ] = None,
    steady_within: Annotated[
        float | None,
        Option(
            help="a unit is steady if its change is within this share of the first total  [default: same as last "
            "time, at first 0.05]"
        ),
    ] = None,
    unchanged: Annotated[
        list[str] | None,
        Option(
            help="id of a unit known not to change; its yearly deviations are removed from all units; may be "
            "repeated; '' = none  [default: same as last time]"
        ),
    ] = None,
    background: Annotated[
        bool | None,
        Option(
            "--background/--no-background",
            help="subtract the yearly count where the object is never present  [default: same as last time, at first "
            "no]",
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compute trends and changes from the counts: trend.csv.

    Writes the same rows to trend.parquet, and the changes between periods to changes.csv.
    """
    from subpixmap.verbs import count as verbs

    ids = None if unchanged is None else words(unchanged)
    verbs.trend(out, level=level, steady_within=steady_within, unchanged=ids, background=background, quiet=quiet)


def report(out: options.Folder, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Write report.html: a single self-contained page.

    It shows the map, time series, tables and provenance.
    """
    from subpixmap.verbs import count as verbs

    verbs.report(out, quiet=quiet)


def export(
    out: options.Folder,
    format: Annotated[
        str, Option("--format", help="output format: csv, xlsx, geoparquet, gpkg, geojson, pmtiles, cog or stac")
    ],
    to: Annotated[Path | None, Option(help="folder to write  [default: OUT/export]")] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write counts and trends, or the map, in another format.

    Uses the existing counts: nothing is counted again.
    """
    from subpixmap.verbs import count as verbs

    verbs.export(out, format, to=to, quiet=quiet)


def simulate(
    folder: Annotated[Path, typer.Argument(help="folder to write")],
    seed: Annotated[int, Option(help="random seed; the same seed gives identical files")] = 7,
    size_km: Annotated[float, Option(help="side of the country, km (1 to 50)")] = 6.0,
    years: options.Years = "2018-2023",
    objects: Annotated[
        list[str] | None, Option("--objects", help="object to simulate; may be repeated  [default: all]")
    ] = None,
    acquisitions: Annotated[int, Option(help="number of acquisitions per year")] = 4,
    center: Annotated[str, Option(help="center of the country: longitude,latitude in degrees")] = "119.5,10.5",
    world: options.World = "base",
    dialect: Annotated[str, Option(help="catalogue to imitate: earth-search or planetary-computer")] = "earth-search",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Simulate a small country with known truth.

    Writes imagery, a STAC catalogue, units, points and true counts.
    """
    from subpixmap.verbs.simulate import simulate as make

    make(
        folder,
        seed=seed,
        size_km=size_km,
        years=years,
        objects=words(objects),
        acquisitions=acquisitions,
        center=center,
        world=world,
        dialect=dialect,
        quiet=quiet,
    )
