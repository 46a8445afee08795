"""The command line: parses, calls the pipeline, turns errors into one line and an exit code.

Nothing heavy is imported here: `subpixmap --help` answers in a fraction of a second.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subpixmap.errors import SubpixmapError

if TYPE_CHECKING:
    from subpixmap.pipeline import Request

app = typer.Typer(
    name="subpixmap",
    help="Count objects that are smaller than a satellite pixel, over countries and years, from Sentinel-2.",
    epilog="Start here: subpixmap run --region demo --years 2018-2023",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What run, plan and map share -----------------------------------------------------------------------------------------
Region = Annotated[
    str, typer.Option("--region", help="demo | country | country/unit | west,south,east,north | polygon file")
]
Years = Annotated[str, typer.Option(help="first-last, or one year")]
Every = Annotated[str, typer.Option(help="length of a period: year, quarter, month or scene")]
Months = Annotated[str | None, typer.Option(help="the same season every year, for example 3-5")]
Out = Annotated[Path | None, typer.Option(help="run folder  [default: runs/<region>]")]
Objects = Annotated[list[str] | None, typer.Option("--object", help="object to count; may be repeated  [default: all]")]
Source = Annotated[
    list[str] | None,
    typer.Option(help="catalogue: name, URL or path; repeated = ordered fallback  [default: earth-search]"),
]
Collection = Annotated[str | None, typer.Option(help="STAC collection, for a catalogue given by URL")]
ModelOption = Annotated[str | None, typer.Option("--model", help="shipped checkpoint or path of a .safetensors file")]
Admin = Annotated[Path | None, typer.Option(help="administrative units: GeoParquet, GeoPackage or GeoJSON")]
IdColumn = Annotated[str | None, typer.Option(help="column of the units' ids")]
NameColumn = Annotated[str | None, typer.Option(help="column of the units' names")]
ParentColumn = Annotated[str | None, typer.Option(help="column of the parents' ids")]
Resolution = Annotated[float, typer.Option(help="pixel of the lattice, metres")]
BlockSize = Annotated[int, typer.Option("--block", help="side of a block, pixels; a multiple of 256")]
MaxScenes = Annotated[int, typer.Option(help="clearest acquisitions used per block and period, at most")]
MinObs = Annotated[int, typer.Option(help="clear observations a pixel needs to be counted")]
MaxCloud = Annotated[float | None, typer.Option(help="leave out items cloudier than this, percent")]
Scheduler = Annotated[str | None, typer.Option(help="address or file of a running Dask scheduler")]
Workers = Annotated[int | None, typer.Option(help="worker processes; 0 = in this process  [default: one a core]")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="count and report even if blocks failed")]
Force = Annotated[bool, typer.Option("--force", help="accept input unlike the model's card (marked in every row)")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="start without asking, however large the run")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="errors only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="details, and the traceback of an error")]
Folder = Annotated[Path, typer.Argument(help="run folder")]


@app.command(
    epilog="Example: subpixmap run --region philippines/palawan --years 2018-2023 --out runs/palawan",
)
def run(
    region: Region,
    years: Years,
    every: Every = "year",
    months: Months = None,
    out: Out = None,
    objects: Objects = None,
    source: Source = None,
    collection: Collection = None,
    model: ModelOption = None,
    admin: Admin = None,
    id_column: IdColumn = None,
    name_column: NameColumn = None,
    parent_column: ParentColumn = None,
    resolution: Resolution = 10.0,
    block: BlockSize = 1024,
    max_scenes: MaxScenes = 10,
    min_obs: MinObs = 1,
    max_cloud: MaxCloud = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    device: Device = "auto",
    allow_partial: AllowPartial = False,
    force: Force = False,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="plan only (= subpixmap plan)")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Plan, map, count, follow and report, in one go; resumes where it stopped, extends with more years."""
    request = _request(locals())
    from subpixmap import pipeline

    if dry_run:
        pipeline.plan(request)
    else:
        pipeline.run(request)


@app.command(epilog="Example: subpixmap plan --region philippines --years 2018-2023")
def plan(
    region: Region,
    years: Years,
    every: Every = "year",
    months: Months = None,
    out: Out = None,
    objects: Objects = None,
    source: Source = None,
    collection: Collection = None,
    model: ModelOption = None,
    admin: Admin = None,
    id_column: IdColumn = None,
    name_column: NameColumn = None,
    parent_column: ParentColumn = None,
    resolution: Resolution = 10.0,
    block: BlockSize = 1024,
    max_scenes: MaxScenes = 10,
    min_obs: MinObs = 1,
    max_cloud: MaxCloud = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a run would read, compute and need; freeze its items and its plan, map nothing."""
    request = _request(locals())
    from subpixmap import pipeline

    pipeline.plan(request)


@app.command("map", epilog="Example: subpixmap map runs/philippines --workers 4")
def map_(
    out: Folder,
    scheduler: Scheduler = None,
    workers: Workers = None,
    device: Device = "auto",
    allow_partial: AllowPartial = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do the planned blocks that are not done yet."""
    from subpixmap import pipeline

    pipeline.map_planned(
        out, scheduler=scheduler, workers=workers, device=device, allow_partial=allow_partial, quiet=quiet
    )


@app.command(epilog="Example: subpixmap count runs/philippines --admin units.parquet --id-column PSGC")
def count(
    out: Folder,
    admin: Admin = None,
    id_column: IdColumn = None,
    name_column: NameColumn = None,
    parent_column: ParentColumn = None,
    allow_partial: AllowPartial = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Sum the map per administrative unit, object and period: counts.csv, counts.parquet."""
    from subpixmap import pipeline

    pipeline.count(
        out,
        admin=admin,
        id_column=id_column,
        name_column=name_column,
        parent_column=parent_column,
        allow_partial=allow_partial,
        quiet=quiet,
    )


@app.command(epilog="Example: subpixmap trend runs/philippines")
def trend(out: Folder, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Follow the counts over the periods: trend.csv, trend.parquet."""
    from subpixmap import pipeline

    pipeline.trend(out, quiet=quiet)


@app.command(epilog="Example: subpixmap report runs/philippines")
def report(out: Folder, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Write report.html: map, series, tables, provenance, in one self-contained page."""
    from subpixmap import pipeline

    pipeline.report(out, quiet=quiet)


def _request(arguments: dict[str, Any]) -> Request:
    """The typed request of a command's own arguments."""
    from subpixmap.pipeline import Request

    known = {key: value for key, value in arguments.items() if key in Request.__dataclass_fields__}
    for key in ("objects", "source"):
        texts = known.get(key) or []
        known[key] = tuple(part for text in texts for part in text.split(",")) if key == "objects" else tuple(texts)
    return Request(**known)


def main() -> None:
    """Entry point of the `subpixmap` command."""
    verbose = "--verbose" in sys.argv or "-v" in sys.argv
    try:
        app()
    except SubpixmapError as error:
        if verbose:
            traceback.print_exc()
        print(f"subpixmap: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("subpixmap: interrupted; the same command resumes", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
