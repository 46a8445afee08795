"""The commands that map and count: run and its stages. Parse and call; nothing heavy at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options
from subpixmap.cli.options import RunOptions, refuse_given, words


def run(
    asked: RunOptions,
    dry_run: Annotated[bool, Option("--dry-run", help="plan only (= subpixmap plan)")] = False,
) -> None:
    """Plan, map, count, follow over time, and report.

    The same command resumes where it stopped, and extends the folder with more years.
    """
    from subpixmap.verbs import run as verbs

    if dry_run:
        verbs.plan(asked.request())
    else:
        verbs.run(asked.request())


def plan(asked: RunOptions) -> None:
    """Show what a run would read and need; map nothing.

    Its items and its plan are frozen: a later run reads what was planned.
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
    """Map the planned blocks that are not mapped yet."""
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
            help="count what lies outside all units, within 1 km, in the nearest  [default: as last time, first no]",
        ),
    ] = None,
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    allow_partial: options.AllowPartial = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Sum the map per unit, object and period: counts.csv.

    counts.parquet holds the same rows.     The columns, and the values of `flag`, are explained in docs/tables.md.
    """
    from subpixmap.verbs import count as verbs

    options.require_one_place(context, scheduler)
    if admin is None:
        of_a_file = ("id_column", "name_column", "parent_column", "layer", "encoding")
        refuse_given(context, *of_a_file, because="of which file? give --admin")
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
            help="confidence of intervals; 1 - level is the false discovery rate  [default: as last time, first 0.95]"
        ),
    ] = None,
    steady_within: Annotated[
        float | None,
        Option(
            help="share of the first total within which a unit counts as steady  [default: as last time, first 0.05]"
        ),
    ] = None,
    unchanged: Annotated[
        list[str] | None,
        Option(
            help="id of a unit that has not changed; what its counts share in a year is removed from all units; "
            "may be repeated; '' = none  [default: as last time]"
        ),
    ] = None,
    background: Annotated[
        bool | None,
        Option(
            "--background/--no-background",
            help="remove what the map counts where the object is never present  [default: as last time, first no]",
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Follow the counts over the periods: trend.csv.

    trend.parquet holds the same rows, changes.csv those from period to period.
    """
    from subpixmap.verbs import count as verbs

    ids = None if unchanged is None else words(unchanged)
    verbs.trend(out, level=level, steady_within=steady_within, unchanged=ids, background=background, quiet=quiet)


def report(out: options.Folder, quiet: options.Quiet = False, verbose: options.Verbose = False) -> None:
    """Write report.html, one page that needs no other file.

    It shows map, series, tables and provenance.
    """
    from subpixmap.verbs import count as verbs

    verbs.report(out, quiet=quiet)


def export(
    out: options.Folder,
    format: Annotated[str, Option("--format", help="csv, xlsx, geoparquet, gpkg, geojson, pmtiles, cog or stac")],
    to: Annotated[Path | None, Option(help="folder for the files  [default: OUT/export]")] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write counts and trends, or the map, in another format.

    No pixel is summed again.
    """
    from subpixmap.verbs import count as verbs

    verbs.export(out, format, to=to, quiet=quiet)


def simulate(
    folder: Annotated[Path, typer.Argument(help="folder to make")],
    seed: Annotated[int, Option(help="another seed is another country; the same seed gives the same bytes")] = 7,
    size_km: Annotated[float, Option(help="side of the country, km (1 to 50)")] = 6.0,
    years: options.Years = "2018-2023",
    objects: Annotated[list[str] | None, Option("--objects", help="objects that exist  [default: all]")] = None,
    acquisitions: Annotated[int, Option(help="overpasses a year")] = 4,
    center: Annotated[str, Option(help="longitude,latitude in degrees")] = "119.5,10.5",
    world: options.World = "base",
    dialect: Annotated[str, Option(help="catalogue to imitate: earth-search or planetary-computer")] = "earth-search",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Simulate a small country with known truth.

    It leaves imagery, a STAC catalogue, units, points and true counts.
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
