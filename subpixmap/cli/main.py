"""The command line: parses, calls the pipeline, turns errors into one line and an exit code.

Nothing heavy is imported here: `subpixmap --help` answers in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subpixmap.cli import teach as cli_learn
from subpixmap.errors import InputError, SubpixmapError
from subpixmap.files import path_of

if TYPE_CHECKING:
    from subpixmap.verbs.request import Request

app = typer.Typer(
    name="subpixmap",
    help="Count objects that are smaller than a satellite pixel, over countries and years, from Sentinel-2.",
    epilog="Start here: subpixmap run --region demo --years 2018-2023",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _place(path: Path | None) -> Path | None:
    """A run folder as it was typed; URLs of object stores are paths too."""
    return None if path is None else path_of(path)


# What run, plan and map share -----------------------------------------------------------------------------------------
Region = Annotated[
    str, typer.Option("--region", help="demo | country | country/unit | west,south,east,north | polygon file")
]
Years = Annotated[str, typer.Option(help="first-last, or one year")]
Every = Annotated[str, typer.Option(help="length of a period: year, quarter, month or scene")]
Months = Annotated[str | None, typer.Option(help="the same season every year, for example 3-5")]
Out = Annotated[
    Path | None,
    typer.Option(callback=_place, help="run folder, or s3://bucket/folder  [default: runs/<region>]"),
]
Objects = Annotated[list[str] | None, typer.Option("--object", help="object to count; may be repeated  [default: all]")]
Source = Annotated[
    list[str] | None,
    typer.Option(help="catalogue: name, URL or path; repeated = ordered fallback  [default: earth-search]"),
]
Collection = Annotated[str | None, typer.Option(help="STAC collection, for a catalogue given by URL")]
Offset = Annotated[str, typer.Option("--offset-rule", help="subtract 1000 from DN: auto (by evidence), subtract, none")]
Refresh = Annotated[list[str] | None, typer.Option(help="period to ask the catalogue for again, such as 2021")]
ModelOption = Annotated[str | None, typer.Option("--model", help="shipped checkpoint or path of a .safetensors file")]
Admin = Annotated[
    Path | None, typer.Option(help="units: GeoParquet, GeoPackage, GeoJSON, or geoboundaries:PHL:ADM2 (downloaded)")
]
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
Probe = Annotated[bool, typer.Option("--probe", help="map one block first, to tell time and room from it")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="go on without refused items and failed blocks")]
Force = Annotated[bool, typer.Option("--force", help="accept input unlike the model's card (marked in every row)")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="start without asking, however large the run")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="errors only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="details, and the traceback of an error")]
Folder = Annotated[Path, typer.Argument(callback=_place, help="run folder, or s3://bucket/folder")]


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
    offset_rule: Offset = "auto",
    refresh: Refresh = None,
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
    probe: Probe = False,
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
    from subpixmap.verbs import run as verbs

    if dry_run:
        verbs.plan(request)
    else:
        verbs.run(request)


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
    offset_rule: Offset = "auto",
    refresh: Refresh = None,
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
    probe: Probe = False,
    allow_partial: AllowPartial = False,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a run would read, compute and need; freeze its items and its plan, map nothing."""
    request = _request(locals())
    from subpixmap.verbs import run as verbs

    verbs.plan(request)


@app.command("map", epilog="Example: subpixmap map runs/philippines --workers 4")
def map_(
    out: Folder,
    model: Annotated[str | None, typer.Option(help="the run's model, if it is not a shipped one")] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    allow_partial: AllowPartial = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do the planned blocks that are not done yet."""
    from subpixmap.verbs import run as verbs

    verbs.map_planned(out, model=model, scheduler=scheduler, workers=workers, allow_partial=allow_partial, quiet=quiet)


@app.command(epilog="Example: subpixmap count runs/philippines --admin units.parquet --id-column PSGC")
def count(
    out: Folder,
    admin: Admin = None,
    id_column: IdColumn = None,
    name_column: NameColumn = None,
    parent_column: ParentColumn = None,
    assign_nearest: Annotated[
        bool, typer.Option("--assign-nearest", help="count what lies outside all units, within 1 km, in the nearest")
    ] = False,
    scheduler: Scheduler = None,
    workers: Workers = None,
    allow_partial: AllowPartial = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Sum the map per administrative unit, object and period: counts.csv, counts.parquet.

    Columns and values of `flag` are explained in docs/tables.md.
    """
    from subpixmap.verbs import count as verbs

    verbs.count(
        out,
        admin=admin,
        id_column=id_column,
        name_column=name_column,
        parent_column=parent_column,
        assign_nearest=assign_nearest,
        scheduler=scheduler,
        workers=workers,
        allow_partial=allow_partial,
        quiet=quiet,
    )


@app.command(epilog="Example: subpixmap trend runs/philippines")
def trend(
    out: Folder,
    level: Annotated[
        float, typer.Option(help="confidence of the intervals; 1 - level is the false discovery rate")
    ] = 0.95,
    unchanged: Annotated[
        list[str] | None, typer.Option(help="id of a unit known not to have changed: its year effect is taken out")
    ] = None,
    background: Annotated[
        bool, typer.Option("--background", help="take out what the map counts where the object is never present")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Follow the counts over the periods: trend.csv, trend.parquet."""
    from subpixmap.verbs import count as verbs

    verbs.trend(
        out,
        level=level,
        unchanged=_parts(unchanged),
        background=background,
        quiet=quiet,
    )


@app.command(epilog="Example: subpixmap report runs/philippines")
def report(out: Folder, quiet: Quiet = False, verbose: Verbose = False) -> None:
    """Write report.html: map, series, tables, provenance, in one self-contained page."""
    from subpixmap.verbs import count as verbs

    verbs.report(out, quiet=quiet)


@app.command(epilog="Example: subpixmap export runs/philippines --format cog")
def export(
    out: Folder,
    format: Annotated[str, typer.Option("--format", help="csv, geoparquet, gpkg, geojson, cog or stac")],
    to: Annotated[Path | None, typer.Option(help="folder for the files  [default: OUT/export]")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write counts and trends, or the map, in another format; no pixel is summed again."""
    from subpixmap.verbs import count as verbs

    verbs.export(out, format, to=to, quiet=quiet)


@app.command(epilog="Example: subpixmap status runs/philippines")
def status(out: Folder, verbose: Verbose = False) -> None:
    """Show how far a run is: blocks done by period, what failed and why, rate and time left."""
    from subpixmap.verbs import look as verbs

    verbs.status(out)


@app.command(epilog="Example: subpixmap verify runs/philippines --repair")
def verify(
    out: Folder,
    repair: Annotated[bool, typer.Option("--repair", help="make damaged blocks, tables and page again")] = False,
    model: Annotated[str | None, typer.Option(help="the run's model, if it is not a shipped one")] = None,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Hash map, ledger, lock, plan and tables again; 5 if anything is not what it was."""
    from subpixmap.verbs import look as verbs

    verbs.verify(out, repair=repair, model=model, workers=workers, quiet=quiet)


@app.command(
    epilog="Example: subpixmap simulate country --seed 7 --size-km 6 --years 2018-2023",
)
def simulate(
    folder: Annotated[Path, typer.Argument(help="folder to make")],
    seed: Annotated[int, typer.Option(help="another seed is another country; the same seed gives the same bytes")] = 7,
    size_km: Annotated[float, typer.Option(help="side of the country, km (1 to 50)")] = 6.0,
    years: Years = "2018-2023",
    objects: Annotated[list[str] | None, typer.Option("--objects", help="objects that exist  [default: all]")] = None,
    acquisitions: Annotated[int, typer.Option(help="overpasses a year")] = 4,
    center: Annotated[str, typer.Option(help="longitude,latitude in degrees")] = "119.5,10.5",
    world: Annotated[str, typer.Option(help="base or shifted (other spectra, blur, haze, spacing)")] = "base",
    dialect: Annotated[str, typer.Option(help="earth-search or planetary-computer")] = "earth-search",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Simulate a small country with known truth: imagery, STAC catalogue, units, points, counts."""
    from subpixmap.periods import parse_years
    from subpixmap.progress import Progress
    from subpixmap.simulate import OBJECTS, simulate_country, summarise

    try:
        lon, lat = (float(part) for part in center.split(","))
    except ValueError:
        raise InputError(f"--center {center!r} is not longitude,latitude in degrees") from None
    with Progress("simulate", 1, "pictures", quiet=quiet) as bar:
        simulate_country(
            folder,
            seed=seed,
            size_km=size_km,
            years=parse_years(years),
            objects=tuple(part for text in objects or OBJECTS for part in text.split(",")),
            acquisitions=acquisitions,
            center=(lon, lat),
            world=world,
            dialect=dialect,
            progress=bar.update,
        )
    if not quiet:
        print(summarise(folder).to_string(float_format=lambda value: f"{value:,.0f}"))


cli_learn.register(app)


@app.command(epilog="Example: subpixmap models")
def models(
    names: Annotated[list[str] | None, typer.Argument(help="checkpoints to show  [default: the shipped ones]")] = None,
    verbose: Verbose = False,
) -> None:
    """List checkpoints: bands, objects, evidence, training, measured error, limits."""
    from subpixmap.verbs import look as verbs

    verbs.models(names or ())


@app.command(epilog="Example: subpixmap regions philippines")
def regions(
    country: Annotated[str | None, typer.Argument(help="list this country's units")] = None, verbose: Verbose = False
) -> None:
    """List the countries that --region knows, or a country's first-level units."""
    from subpixmap.verbs import look as verbs

    verbs.regions(country)


def _request(arguments: dict[str, Any]) -> Request:
    """The typed request of a command's own arguments."""
    from subpixmap.verbs.request import DEFAULT_SOURCE, Request

    known = {key: value for key, value in arguments.items() if key in Request.__dataclass_fields__}
    known["objects"] = _parts(known["objects"])
    known["source"] = tuple(known["source"] or DEFAULT_SOURCE)
    known["refresh"] = _parts(known["refresh"])
    return Request(**known)


def _parts(texts: list[str] | None) -> tuple[str, ...]:
    """Values that may be repeated or written with commas."""
    return tuple(part for text in texts or [] for part in text.split(","))


class Interrupted(BaseException):
    """The user or the system asked for the end; no KeyboardInterrupt, which click would turn into exit code 1."""


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(signal.Signals(number).name)


@contextlib.contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """Ctrl-C, and SIGTERM, by which clusters end a job whose time is up."""
    here = threading.current_thread() is threading.main_thread()
    before = {one: signal.signal(one, _interrupt) for one in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def main() -> None:
    """Entry point of the `subpixmap` command."""
    verbose = "--verbose" in sys.argv or "-v" in sys.argv
    try:
        with _signals_end_the_run():
            app()
    except SubpixmapError as error:
        if verbose:
            traceback.print_exc()
        print(f"subpixmap: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a lost object store
        if verbose:
            traceback.print_exc()
        print(f"subpixmap: {str(error) or repr(error)}; once that is mended the same command goes on", file=sys.stderr)
        sys.exit(3)
    except Interrupted as end:
        print(f"subpixmap: interrupted by {end}; the same command resumes", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
