"""Every shared option of the command line, once: its name, type and help.

An option of one verb stands in that verb. Options that belong together are a group: a dataclass that a command takes as
one parameter, and that turns itself into the noun which the verb wants. A default is the noun's own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer import Option
from typer.core import TyperCommand

from subpixmap.errors import InputError, in_one_line
from subpixmap.files import path_of
from subpixmap.progress import shown
from subpixmap.verbs.request import DEFAULT_SOURCE, Labelling, Request

if TYPE_CHECKING:
    from subpixmap.reference.samples import Scheme


@dataclass
class Session:
    """What `main` must know of a command line that ended with an error."""

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

    # An option without a default has to be given; in a signature such parameters come first.
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
"""Parameters that are a path or a name: an empty text would be the folder that one works in."""


class Command(TyperCommand):
    """A command that refuses an option which is typed twice but may stand once: the parser would keep the last one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; `args` is used up by it."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        if blank := [one.name for one in order if one.name in _PATHS and values.get(one.name) in ("", [""])]:
            raise InputError(f"--{blank[0].replace('_', '-')} '' names nothing; give a path, or leave it out")
        once = [one for one in order if one.param_type_name == "option" and not (one.multiple or _is_switch(one))]
        if twice := [one.opts[0] for one in dict.fromkeys(once) if once.count(one) > 1]:
            raise InputError(
                f"{', '.join(twice)} may be given once, and was given twice or more: say which one is meant"
            )
        return super().parse_args(ctx, args)


def _is_switch(option: Any) -> bool:
    """Whether it can only be on: said twice, it means the same."""
    return bool(option.is_flag and not option.secondary_opts)


def refuse_given(context: typer.Context, *names: str, because: str) -> None:
    """Refuse options that were typed but that this use of the command does not need."""
    typed = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and is_given(context, parameter.name)
    ]
    if typed:
        raise InputError(f"{', '.join(typed)}: {because}")


def require_one_place(context: typer.Context, scheduler: str | None) -> None:
    """Refuse worker processes of this machine beside a scheduler, which has its own."""
    if scheduler is not None:
        refuse_given(context, "workers", because="worker processes of this machine, but a --scheduler has its own")


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def words(texts: list[str] | None) -> tuple[str, ...]:
    """Values of an option that may be repeated or written with commas."""
    return tuple(part.strip() for text in texts or [] for part in text.split(",") if part.strip())


def _folder(path: Path | None) -> Path | None:
    """A run folder as it was typed; URLs of object stores are paths too."""
    if path is None:
        return None
    folder = path_of(path)
    try:
        folder.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself; a folder that does not exist any more
        raise InputError(f"{folder} leads nowhere ({in_one_line(error)})") from error
    return folder


def _remember_verbose(context: typer.Context, value: bool) -> bool:
    """Tell `main` at once, so that it knows also when the next option is refused."""
    if isinstance(session := context.find_root().obj, Session):
        session.verbose = value
    return value


# Of several verbs -----------------------------------------------------------------------------------------------------
Folder = Annotated[Path, typer.Argument(callback=_folder, help="run folder, or s3://bucket/folder")]
Years = Annotated[str, Option(help="first-last, or one year")]
Objects = Annotated[list[str] | None, Option("--object", help="object to count; may be repeated  [default: all]")]
Months = Annotated[
    str | None,
    Option(
        help="the same months of every year, such as 3-5; 11-2 is one winter, named by its first year  [default: all]"
    ),
]
_SOURCE = "catalogue: name, URL or path; if repeated, the next ones fill gaps of the first"
Source = Annotated[list[str] | None, Option(help=_SOURCE)]
SourceOrDefault = Annotated[
    list[str] | None, Option("--source", help=f"{_SOURCE}  [default: {' '.join(DEFAULT_SOURCE)}]")
]
Collection = Annotated[str | None, Option(help="STAC collection, for a catalogue given by URL")]
Level = Annotated[
    str, Option(help="of the items: L2A, or L1C without scene classes, in which every pixel with data is valid")
]
Resolution = Annotated[float, Option(help="pixel size of the grid, metres")]
RunModel = Annotated[str | None, Option("--model", help="the run's model, if it is not a shipped one")]
Admin = Annotated[
    Path | None, Option(help="units: GeoParquet, GeoPackage, GeoJSON, or geoboundaries:PHL:ADM2 (downloaded)")
]
IdColumn = Annotated[str | None, Option(help="column of the units' ids")]
NameColumn = Annotated[str | None, Option(help="column of the units' names")]
ParentColumn = Annotated[str | None, Option(help="column of the parents' ids")]
Layer = Annotated[str | None, Option(help="layer of a file that has several: of --admin, or else of --region")]
Encoding = Annotated[str | None, Option(help="of the texts of a Shapefile or CSV file, such as utf-8 or cp1252")]
Scheduler = Annotated[str | None, Option(help="address or file of a running Dask scheduler")]
Workers = Annotated[int | None, Option(help="worker processes; 0 = in this process  [default: one per core]")]
AllowPartial = Annotated[bool, Option("--allow-partial", help="go on without refused items and failed blocks")]
ReferenceFolder = Annotated[Path | None, Option("--reference", help="folder of subpixmap reference; with --source")]
Baselines = Annotated[str | None, Option(help="also measured on the same test land: mean,ridge,random_forest,strided")]
World = Annotated[str, Option(help="base or shifted (other spectra, blur, haze, spacing)")]
Cache = Annotated[Path | None, Option(help="folder that keeps simulated places for the next time")]
Renderers = Annotated[int, Option("--workers", help="processes that render simulated places")]
CheckpointFile = Annotated[Path, Option("--output", "-o", help="FILE.safetensors; its card is written beside it")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="errors only")]
Verbose = Annotated[
    bool,
    Option("--verbose", "-v", callback=_remember_verbose, is_eager=True, help="details, and the traceback of an error"),
]


# Of run and plan ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The fields of `Request`."""

    region: Annotated[str, Option(help="demo | country | country/unit | west,south,east,north | polygon file")]
    years: Years
    every: Annotated[str, Option(help="length of a period: year, quarter, month or scene")] = Request.every
    months: Months = Request.months
    out: Annotated[
        Path | None, Option(callback=_folder, help="run folder, or s3://bucket/folder  [default: runs/<region>]")
    ] = Request.out
    objects: Objects = None
    source: SourceOrDefault = None
    collection: Collection = Request.collection
    level: Level = Request.level
    offset_rule: Annotated[
        str, Option(help="subtract 1000 from the digital numbers: auto (by evidence), subtract, none")
    ] = Request.offset_rule
    refresh: Annotated[list[str] | None, Option(help="period to ask the catalogue for again, such as 2021")] = None
    model: Annotated[str | None, Option(help="shipped checkpoint, file, or https, s3 or hf address")] = Request.model
    admin: Admin = Request.admin
    id_column: IdColumn = Request.id_column
    name_column: NameColumn = Request.name_column
    parent_column: ParentColumn = Request.parent_column
    layer: Layer = Request.layer
    encoding: Encoding = Request.encoding
    resolution: Resolution = Request.resolution
    block: Annotated[int, Option(help="side of a block, pixels; a multiple of 256")] = Request.block
    max_scenes: Annotated[int, Option(help="use at most so many acquisitions per block and period, the clearest")] = (
        Request.max_scenes
    )
    min_obs: Annotated[int, Option(help="clear observations that a pixel needs to be counted")] = Request.min_obs
    max_cloud: Annotated[float | None, Option(help="leave out items with more cloud than this, percent")] = (
        Request.max_cloud
    )
    mask: Annotated[
        str | None,
        Option(
            help="who finds clouds and shadows: scl (scene classes), learned (a network; subpixmap[clouds]) or both  "
            "[default: the model's, mostly scl]"
        ),
    ] = Request.mask
    spread: Annotated[
        bool, Option("--spread", help="also keep what each network of the model counts, and how far they spread")
    ] = Request.spread
    scheduler: Scheduler = Request.scheduler
    workers: Workers = Request.workers
    probe: Annotated[bool, Option("--probe", help="map one block first, and predict time and disk space from it")] = (
        Request.probe
    )
    price: Annotated[list[str] | None, Option(help="tell the money, such as core-hour=0.04,gb-month=0.023")] = None
    device: Annotated[str, Option(help="cpu, cuda or auto")] = Request.device
    backend: Annotated[
        str | None,
        Option(help="what computes the network: torch or openvino  [default: the folder's, else the faster installed]"),
    ] = Request.backend
    precision: Annotated[
        str | None,
        Option(help="float32, or bfloat16: faster where the processor or GPU has units for it, less exact"),
    ] = Request.precision
    allow_partial: AllowPartial = Request.allow_partial
    force: Annotated[bool, Option("--force", help="accept input unlike the model's card (marked in every row)")] = (
        Request.force
    )
    yes: Annotated[bool, Option("--yes", "-y", help="start without asking, however large the run is")] = Request.yes
    quiet: Quiet = Request.quiet
    verbose: Verbose = Request.verbose

    def request(self) -> Request:
        """What the verbs `run` and `plan` take."""
        values = dict(vars(self))
        for name in ("objects", "refresh", "price"):
            values[name] = words(values[name])
        values["source"] = tuple(self.source or ())
        return Request(**values)


# Of reference, train and learn ----------------------------------------------------------------------------------------
Points = Annotated[
    Path,
    typer.Argument(
        help="points or boxes: GeoParquet, GeoPackage, GeoJSON, or CSV (x, y or lon, lat) with --crs; without "
        "--labelled, polygons with totals (see --total-column)"
    ),
]
Labelled = Annotated[
    Path | None, Option(help="polygons in which every object is labelled; one row per area  [needed with points]")
]
ImageDate = Annotated[str, Option(help="when the labelled imagery was taken: 2021-03-14, 2021-03 or 2021")]
WithinDays = Annotated[int, Option(help="use acquisitions at most so many days from the image date")]
CorrectShift = Annotated[bool, Option("--correct-shift", help="move the points onto Sentinel-2 by the measured shift")]


@dataclass(frozen=True, kw_only=True)
class LabellingOptions:
    """How points become count maps."""

    crs: Annotated[str | None, Option(help="coordinate reference system of files without one, such as EPSG:4326")] = (
        Labelling.crs
    )
    objects: Annotated[list[str] | None, Option("--object", help="object to take; may be repeated  [default: all]")] = (
        None
    )
    object_column: Annotated[str, Option(help="column of the objects' names")] = Labelling.object_column
    layer: Annotated[str | None, Option(help="layer with the points, of a file that has several")] = Labelling.layer
    labelled_layer: Annotated[str | None, Option(help="layer with the labelled areas, of a file that has several")] = (
        Labelling.labelled_layer
    )
    total_column: Annotated[
        list[str] | None,
        Option(help="column with the number of objects in each polygon: palms, or coconut=palms; may be repeated"),
    ] = None
    totals: Annotated[
        Path | None, Option(help="polygons of which the totals alone are known, beside points in labelled areas")
    ] = Labelling.totals
    totals_layer: Annotated[str | None, Option(help="layer with them, of a file that has several")] = (
        Labelling.totals_layer
    )
    encoding: Encoding = Labelling.encoding
    where: Annotated[str | None, Option(help="points to keep, such as 'confidence > 0.5' (columns of the file)")] = (
        Labelling.where
    )
    definition: Annotated[
        list[str] | None, Option(help="what exactly was labelled: coconut='crown wider than 4 m'; may be repeated")
    ] = None
    measure: Annotated[str, Option(help="count, or occupancy for things that move")] = Labelling.measure
    border: Annotated[int, Option(help="width of the strip along the edge of an area that is not used, pixels")] = (
        Labelling.border
    )
    box: Annotated[float | None, Option(help="spread a point over a box of this side, metres  [default: Gaussian]")] = (
        Labelling.box
    )
    max_per_pixel: Annotated[float, Option(help="refuse more points than this in a pixel")] = Labelling.max_per_pixel

    def labelling(self, resolution: float = Labelling.resolution) -> Labelling:
        """What the verbs `reference` and `learn` take."""
        values = dict(vars(self), objects=words(self.objects), resolution=resolution)
        values["definitions"] = _definitions(values.pop("definition"))
        values["total_columns"] = _columns_of(values.pop("total_column"))
        return Labelling(**values)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a reference becomes samples of training, calibration and test."""

    within_days: WithinDays = 180
    level: Level = "L2A"
    months: Months = None
    max_scenes: Annotated[int, Option(help="use at most so many acquisitions of an area, the clearest")] = 8
    split_by: Annotated[str, Option(help="what is never split: area, tile, or auto (areas where there are enough)")] = (
        "auto"
    )
    tile: Annotated[int, Option("--tile", help="side of a tile, pixels; 0 = by the size of the areas")] = 0
    test: Annotated[list[str] | None, Option("--test", help="area to test in; may be repeated  [default: drawn]")] = (
        None
    )
    calibrate: Annotated[
        list[str] | None, Option("--calibrate", help="area to calibrate in; may be repeated  [default: drawn]")
    ] = None
    folds: Annotated[
        int | None,
        Option(
            help="parts of the land that calibrate in turn, each the networks that did not learn there; 0 = set land "
            "aside for calibration  [default: the recipe's]"
        ),
    ] = None
    test_years: Annotated[
        str, Option(help="test on acquisitions of these years only, train on the others (see --within-days)")
    ] = ""
    seed: Annotated[int, Option(help="seed of the split and of the training")] = 0
    mask: Annotated[
        str, Option(help="who finds clouds: scl, learned (subpixmap[clouds]) or both; kept in the card")
    ] = "scl"

    def scheme(self) -> Scheme:
        """What the verbs `train` and `learn` take."""
        from subpixmap.periods import parse_months
        from subpixmap.reference.samples import Scheme

        values = dict(vars(self), test=tuple(self.test or ()), calibration=tuple(self.calibrate or ()))
        values["months"] = parse_months(self.months) if self.months else ()
        del values["calibrate"]
        return Scheme(**values)


def _columns_of(texts: list[str] | None) -> dict[str, str]:
    """Object -> column, of OBJECT=COLUMN or of a column that bears the object's name."""
    columns: dict[str, str] = {}
    for text in texts or []:
        name, equals, column = (part.strip() for part in text.partition("="))
        if not name or (equals and not column) or name in columns:
            raise InputError(f"--total-column {text!r}: write COLUMN or OBJECT=COLUMN, each object once")
        columns[name] = column or name
    return columns


def _definitions(texts: list[str] | None) -> dict[str, str]:
    definitions = {}
    for text in texts or []:
        name, equals, meaning = text.partition("=")
        if not (equals and name.strip() and meaning.strip()):
            raise InputError(f"--definition {text!r}: write OBJECT=what was labelled")
        definitions[name.strip()] = meaning.strip()
    return definitions
