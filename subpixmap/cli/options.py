"""Options that several commands share: name, type and help.

An option of a single verb is defined in that verb. Options that belong together form a group: a dataclass that a
command takes as one parameter and that builds the noun for the verb. Defaults come from the noun.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer import Option
from typer.core import TyperCommand

from subpixmap.errors import InputError, in_one_line
from subpixmap.files import path_of
from subpixmap.progress import shown
from subpixmap.verbs.request import DEFAULT_SOURCE, Request


@dataclass
class Session:
    """What `main` needs to know when a command ends with an error."""

    verbose: bool = False


def in_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every group of options in its signature replaced by the options of the group."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _options_of(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def call(**values: Any) -> None:
        quiet = bool(values.get("quiet"))
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        with shown(quiet):
            command(**values)

    # Required options have no default; in a signature they must come first.
    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _options_of(group: Any) -> list[inspect.Parameter]:
    """The fields of a group as parameters of a command."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
        )
        for field in dataclasses.fields(group)
    ]


_PATHS = ("out", "output", "to", "admin", "cache", "labelled", "points", "folder", "land_cover", "region", "model")
"""Parameters that are a path or a name: an empty text would mean the current folder."""


class Command(TyperCommand):
    """A command that refuses repeated options that may be given once: click would silently keep the last one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args`, which the parser empties."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        if blank := [one.name for one in order if one.name in _PATHS and values.get(one.name) in ("", [""])]:
            raise InputError(f"--{blank[0].replace('_', '-')} '' is empty; give a path or a name, or leave it out")
        once = [one for one in order if one.param_type_name == "option" and not (one.multiple or _is_switch(one))]
        if twice := [one.opts[0] for one in dict.fromkeys(once) if once.count(one) > 1]:
            raise InputError(f"{', '.join(twice)} given more than once; give it once")
        return super().parse_args(ctx, args)


def _is_switch(option: Any) -> bool:
    """Whether it is a switch that can only be on; giving it twice has the same meaning."""
    return bool(option.is_flag and not option.secondary_opts)


def refuse_given(context: typer.Context, *names: str, because: str) -> None:
    """Refuse given options that this use of the command does not need."""
    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and is_given(context, parameter.name)
    ]
    if typed:
        raise InputError(f"{', '.join(typed)}: {because}")


def require_one_place(context: typer.Context, scheduler: str | None) -> None:
    """Refuse --workers together with --scheduler, whose cluster has its own workers."""
    if scheduler is not None:
        refuse_given(
            context, "workers", because="the cluster of --scheduler has its own workers; leave out one of the two"
        )


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def words(texts: list[str] | None) -> tuple[str, ...]:
    """Values of an option that may be repeated or written with commas."""
    return tuple(part.strip() for text in texts or [] for part in text.split(",") if part.strip())


def _folder(path: Path | None) -> Path | None:
    """The run folder as a path; also for URLs of object stores."""
    if path is None:
        return None
    folder = path_of(path)
    try:
        folder.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself; a folder that does not exist any more
        raise InputError(f"{folder} cannot be opened ({in_one_line(error)}); give another path") from error
    return folder


def _remember_verbose(context: typer.Context, value: bool) -> bool:
    """Set the flag for `main` at once, so that it holds even if a later option is refused."""
    if isinstance(session := context.find_root().obj, Session):
        session.verbose = value
    return value


# Of several verbs -----------------------------------------------------------------------------------------------------
Folder = Annotated[Path, typer.Argument(callback=_folder, help="run folder, local or s3://bucket/folder")]
Years = Annotated[str, Option(help="first and last year, such as 2018-2023, or one year")]
Objects = Annotated[list[str] | None, Option("--object", help="object to count; may be repeated  [default: all]")]
Months = Annotated[
    str | None,
    Option(help="months of each year to use, such as 3-5; 11-2 is one winter, named by its first year  [default: all]"),
]
_SOURCE = "STAC catalogue: name, URL or path; may be repeated, later ones fill gaps of the first"
Source = Annotated[list[str] | None, Option(help=_SOURCE)]
SourceOrDefault = Annotated[
    list[str] | None, Option("--source", help=f"{_SOURCE}  [default: {' '.join(DEFAULT_SOURCE)}]")
]
Collection = Annotated[str | None, Option(help="STAC collection to search in a catalogue given by URL")]
Level = Annotated[
    str, Option(help="processing level: L2A, or L1C (has no scene classes: all pixels with data are valid)")
]
Resolution = Annotated[float, Option(help="pixel size of the grid, metres")]
RunModel = Annotated[str | None, Option("--model", help="model file of the run, if it is not a shipped model")]
Admin = Annotated[
    Path | None,
    Option(help="file of units (GeoParquet, GeoPackage, GeoJSON), or geoboundaries:PHL:ADM2 to download them"),
]
IdColumn = Annotated[str | None, Option(help="column with the unit ids")]
NameColumn = Annotated[str | None, Option(help="column with the unit names")]
ParentColumn = Annotated[str | None, Option(help="column with the ids of the parent units")]
Layer = Annotated[
    str | None, Option(help="layer to read from the file of --admin, or of --region if --admin is not given")
]
Encoding = Annotated[str | None, Option(help="text encoding of a Shapefile or CSV file, such as utf-8 or cp1252")]
Scheduler = Annotated[str | None, Option(help="address or scheduler file of a running Dask cluster")]
Workers = Annotated[
    int | None, Option(help="number of worker processes; 0 = no extra process  [default: one per core]")
]
AllowPartial = Annotated[bool, Option("--allow-partial", help="continue without refused items and failed blocks")]
ReferenceFolder = Annotated[
    Path | None, Option("--reference", help="folder written by subpixmap reference; needs --source")
]
Baselines = Annotated[
    str | None, Option(help="baselines to evaluate on the same test data: mean,ridge,random_forest,strided")
]
World = Annotated[str, Option(help="simulated world: base, or shifted (other spectra, blur, haze and spacing)")]
Cache = Annotated[Path | None, Option(help="folder that caches simulated data")]
Renderers = Annotated[int, Option("--workers", help="number of processes that render simulated data")]
CheckpointFile = Annotated[
    Path, Option("--output", "-o", help="FILE.safetensors to write; its card is written next to it")
]
Quiet = Annotated[bool, Option("--quiet", "-q", help="print errors only")]
Verbose = Annotated[
    bool,
    Option(
        "--verbose",
        "-v",
        callback=_remember_verbose,
        is_eager=True,
        help="print details, and the traceback of an error",
    ),
]


# Of run and plan ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The fields of `Request`."""

    region: Annotated[
        str, Option(help="demo, COUNTRY, COUNTRY/UNIT, WEST,SOUTH,EAST,NORTH in degrees, or a polygon file")
    ]
    years: Years
    every: Annotated[str, Option(help="length of a period: year, quarter, month, or scene (each acquisition)")] = (
        Request.every
    )
    months: Months = Request.months
    out: Annotated[
        Path | None, Option(callback=_folder, help="run folder, or s3://bucket/folder  [default: runs/<region>]")
    ] = Request.out
    objects: Objects = None
    source: SourceOrDefault = None
    collection: Collection = Request.collection
    level: Level = Request.level
    offset_rule: Annotated[
        str, Option(help="offset of 1000 in the digital numbers: auto (decide for each item), subtract or none")
    ] = Request.offset_rule
    refresh: Annotated[
        list[str] | None, Option(help="period to search in the catalogue again, such as 2021; may be repeated")
    ] = None
    model: Annotated[str | None, Option(help="model: name of a shipped checkpoint, file, or https, s3 or hf URL")] = (
        Request.model
    )
    admin: Admin = Request.admin
    id_column: IdColumn = Request.id_column
    name_column: NameColumn = Request.name_column
    parent_column: ParentColumn = Request.parent_column
    layer: Layer = Request.layer
    encoding: Encoding = Request.encoding
    resolution: Resolution = Request.resolution
    block: Annotated[int, Option(help="side of a block, pixels; a multiple of 256")] = Request.block
    max_scenes: Annotated[
        int,
        Option(help="maximum number of acquisitions per block and period: clear, and spread over months and orbits"),
    ] = Request.max_scenes
    min_obs: Annotated[int, Option(help="minimum number of clear observations of a counted pixel")] = Request.min_obs
    max_cloud: Annotated[
        float | None, Option(help="leave out items with more clouds than this, percent  [default: keep all]")
    ] = Request.max_cloud
    mask: Annotated[
        str | None,
        Option(
            help="cloud mask: scl (scene classes), learned (a network, needs subpixmap[clouds]) or both  "
            "[default: from the model's card]"
        ),
    ] = Request.mask
    spread: Annotated[
        bool, Option("--spread", help="also store the count of each network of the model, and their standard deviation")
    ] = Request.spread
    scheduler: Scheduler = Request.scheduler
    workers: Workers = Request.workers
    probe: Annotated[bool, Option("--probe", help="map one block first, to predict time and disk space")] = (
        Request.probe
    )
    price: Annotated[
        list[str] | None, Option(help="prices to estimate the cost, such as core-hour=0.04,gb-month=0.023")
    ] = None
    device: Annotated[str, Option(help="cpu, cuda or auto")] = Request.device
    backend: Annotated[
        str | None,
        Option(
            help="library that runs the network: torch or openvino  [default: as in the run folder, else the "
            "faster one installed]"
        ),
    ] = Request.backend
    precision: Annotated[
        str | None,
        Option(
            help="float32, or bfloat16: less exact, faster on hardware that supports it  [default: as in the run "
            "folder, else float32]"
        ),
    ] = Request.precision
    allow_partial: AllowPartial = Request.allow_partial
    force: Annotated[
        bool, Option("--force", help="accept input that does not match the model's card (flagged in every row)")
    ] = Request.force
    yes: Annotated[bool, Option("--yes", "-y", help="start without confirmation, even if the run is very large")] = (
        Request.yes
    )
    quiet: Quiet = Request.quiet
    verbose: Verbose = Request.verbose

    def request(self) -> Request:
        """The noun for the verbs `run` and `plan`."""
        values = dict(vars(self))
        for name in ("objects", "refresh", "price"):
            values[name] = words(values[name])
        values["source"] = tuple(self.source or ())
        return Request(**values)
