"""The commands that make a model: reference, train, evaluate, learn. Parse and call; nothing heavy at the top."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subpixmap.errors import InputError

if TYPE_CHECKING:
    from subpixmap.training.config import TrainConfig
    from subpixmap.training.from_reference import Scheme

# What the verbs share ------------------------------------------------------------------------------------------------
Points = Annotated[
    Path, typer.Argument(help="points or boxes: GeoParquet, GeoPackage, GeoJSON, or CSV (x, y or lon, lat) with --crs")
]
Labelled = Annotated[Path, typer.Option(help="polygons in which every object is in the points; a row an area")]
ImageDate = Annotated[str, typer.Option(help="when the labelled imagery was taken: 2021-03-14, 2021-03 or 2021")]
Crs = Annotated[str | None, typer.Option(help="coordinate reference system of files without one, such as EPSG:4326")]
Objects = Annotated[list[str] | None, typer.Option("--object", help="object to take; may be repeated  [default: all]")]
ObjectColumn = Annotated[str, typer.Option(help="column of the objects' names")]
Where = Annotated[str | None, typer.Option(help="points to keep, such as 'confidence > 0.5' (columns of the file)")]
Definition = Annotated[
    list[str] | None, typer.Option(help="what exactly was labelled: coconut='crown wider than 4 m'; may be repeated")
]
Measure = Annotated[str, typer.Option(help="count, or occupancy for things that move")]
Border = Annotated[int, typer.Option(help="strip along the edge of an area that is not used, pixels")]
Box = Annotated[float | None, typer.Option(help="spread a point over a box of this side, metres  [default: Gaussian]")]
MaxPerPixel = Annotated[float, typer.Option(help="more points than this in a pixel are refused")]
Source = Annotated[list[str] | None, typer.Option(help="catalogue: name, URL or path; repeated = ordered fallback")]
Collection = Annotated[str | None, typer.Option(help="STAC collection, for a catalogue given by URL")]
WithinDays = Annotated[int, typer.Option(help="days around the image date in which acquisitions may lie")]
Months = Annotated[str | None, typer.Option(help="months that may be used, for example 3-5")]
MaxScenes = Annotated[int, typer.Option(help="clearest acquisitions of an area, at most")]
CorrectShift = Annotated[bool, typer.Option("--correct-shift", help="move points onto Sentinel-2 by the found shift")]
SplitBy = Annotated[str, typer.Option(help="what is never split: area, tile, or auto (areas where there are enough)")]
TileSize = Annotated[int, typer.Option("--tile", help="side of a tile, pixels; 0 = by the size of the areas")]
TestAreas = Annotated[list[str] | None, typer.Option("--test", help="area to test in; may be repeated  [drawn]")]
CalibrationAreas = Annotated[
    list[str] | None, typer.Option("--calibrate", help="area to calibrate in; may be repeated  [drawn]")
]
TestYears = Annotated[
    str, typer.Option(help="test on acquisitions of these years only, teach on others (see --within-days)")
]
Bands = Annotated[str | None, typer.Option(help="bands that go in, such as B02,B03,B04,B08  [default: all there are]")]
Evidence = Annotated[
    str | None, typer.Option(help="simulated, degraded-aerial or sentinel-2  [default: by the source]")
]
Baselines = Annotated[str | None, typer.Option(help="measured on the same test land: mean,ridge,random_forest,strided")]
Output = Annotated[Path, typer.Option("--output", "-o", help="FILE.safetensors; its card is written beside it")]
Steps = Annotated[int | None, typer.Option(help="training steps  [default: those of TrainConfig]")]
Seed = Annotated[int, typer.Option(help="of the split and of the training")]
Members = Annotated[int, typer.Option(help="networks trained apart; the model predicts their mean")]
Turns = Annotated[bool, typer.Option("--turns", help="predict the mean over turns and mirrors (8 times the cost)")]
Patience = Annotated[int, typer.Option(help="stop when the calibration places got no better for so many steps; 0 = no")]
Mixed = Annotated[
    bool | None,
    typer.Option("--mixed/--no-mixed", help="convolve in bfloat16: fast on a GPU, or a processor with AMX  [recipe's]"),
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="fuse operations: faster, wants a C++ compiler  [recipe's]"),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda")]
Blocks = Annotated[int, typer.Option(help="residual blocks; the receptive radius is 2 pixels more")]
Width = Annotated[int, typer.Option(help="channels of the network")]
Mid = Annotated[int, typer.Option(help="channels inside a block")]
Workers = Annotated[int, typer.Option(help="processes that render simulated places")]
Cache = Annotated[Path | None, typer.Option(help="folder that keeps simulated places for the next time")]
Force = Annotated[bool, typer.Option("--force", help="accept reference data unlike the model's card")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="errors only")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="details, and the traceback of an error")]


def reference(
    points: Points,
    labelled: Labelled,
    image_date: ImageDate,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write")],
    crs: Crs = None,
    objects: Objects = None,
    object_column: ObjectColumn = "object",
    where: Where = None,
    definition: Definition = None,
    measure: Measure = "count",
    border: Border = 8,
    box: Box = None,
    max_per_pixel: MaxPerPixel = 20.0,
    resolution: Annotated[float, typer.Option(help="pixel of the lattice, metres")] = 10.0,
    source: Source = None,
    collection: Collection = None,
    within_days: WithinDays = 180,
    correct_shift: CorrectShift = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn points in labelled areas into count maps on the lattice of Sentinel-2."""
    from subpixmap.verbs import teach as learning

    learning.reference(
        points,
        labelled,
        image_date,
        output,
        crs=crs,
        objects=_words(objects),
        object_column=object_column,
        where=where,
        definitions=_definitions(definition),
        measure=measure,
        border=border,
        box=box,
        max_per_pixel=max_per_pixel,
        resolution=resolution,
        source=tuple(source or ()),
        collection=collection,
        within_days=within_days,
        correct_shift=correct_shift,
        quiet=quiet,
    )


def train(
    output: Output,
    folder: Annotated[
        Path | None, typer.Option("--reference", help="folder of subpixmap reference; with --source")
    ] = None,
    simulated: Annotated[
        str | None, typer.Option(help="shipped checkpoint to make again from simulated places")
    ] = None,
    source: Source = None,
    collection: Collection = None,
    bands: Bands = None,
    within_days: WithinDays = 180,
    months: Months = None,
    max_scenes: MaxScenes = 8,
    split_by: SplitBy = "auto",
    tile: TileSize = 0,
    test: TestAreas = None,
    calibrate: CalibrationAreas = None,
    test_years: TestYears = "",
    baselines: Baselines = None,
    evidence: Evidence = None,
    steps: Steps = None,
    members: Members = 1,
    turns: Turns = False,
    patience: Patience = 0,
    width: Width = 128,
    mid: Mid = 32,
    blocks: Blocks = 6,
    seed: Seed = 0,
    mixed: Mixed = None,
    compile: Compile = None,
    device: DeviceOption = "cpu",
    cache: Cache = None,
    workers: Workers = 2,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train, calibrate and evaluate a checkpoint, on reference data or on simulated places."""
    from subpixmap.training.config import SIMULATED, TrainConfig
    from subpixmap.verbs import teach as learning

    config = _config(TrainConfig() if simulated is None else SIMULATED, locals())
    if (simulated is None) == (folder is None):
        raise InputError("give either --reference with --source, or --simulated NAME")
    if simulated is not None:
        learning.train_simulated(simulated, output, config=config, cache=cache, workers=workers, quiet=quiet)
        return
    assert folder is not None  # one of the two is given
    learning.train(
        folder,
        _needed(source),
        output,
        scheme=_scheme(locals()),
        config=config,
        evidence=evidence,
        bands=_words([bands or ""]),
        baselines=_words([baselines or ""]),
        collection=collection,
        shape=(width, mid, blocks),
        quiet=quiet,
    )


def evaluate(
    model: Annotated[str, typer.Argument(help="shipped checkpoint, or a .safetensors file")],
    folder: Annotated[
        Path | None, typer.Option("--reference", help="folder of subpixmap reference; with --source")
    ] = None,
    source: Source = None,
    collection: Collection = None,
    split: Annotated[
        str | None, typer.Option(help="training, calibration, test or all  [default: test, or all of other references]")
    ] = None,
    simulated: Annotated[int | None, typer.Option(help="seed of simulated places to measure on instead")] = None,
    world: Annotated[str, typer.Option(help="base or shifted (other spectra, blur, haze, spacing)")] = "base",
    places: Annotated[int, typer.Option(help="simulated places")] = 100,
    objects: Annotated[
        list[str] | None, typer.Option("--objects", help="objects that exist there  [default: those of the model]")
    ] = None,
    baselines: Baselines = None,
    land_cover: Annotated[
        Path | None, typer.Option(help="raster of land cover (ESA WorldCover) to tell false background apart")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="metrics.json; figures are written beside it")
    ] = None,
    cache: Cache = None,
    workers: Workers = 2,
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure a checkpoint on reference data or on simulated places."""
    from subpixmap.verbs import teach as learning

    learning.evaluate(
        model,
        folder=folder,
        source=tuple(source or ()),
        simulated=simulated,
        world=world,
        places=places,
        objects=_words(objects),
        split=split,
        baselines=_words([baselines or ""]),
        land_cover=land_cover,
        collection=collection,
        cache=cache,
        workers=workers,
        force=force,
        output=output,
        quiet=quiet,
    )


def learn(
    points: Points,
    labelled: Labelled,
    image_date: ImageDate,
    output: Output,
    source: Source = None,
    collection: Collection = None,
    crs: Crs = None,
    objects: Objects = None,
    object_column: ObjectColumn = "object",
    where: Where = None,
    definition: Definition = None,
    measure: Measure = "count",
    border: Border = 8,
    box: Box = None,
    max_per_pixel: MaxPerPixel = 20.0,
    correct_shift: CorrectShift = False,
    bands: Bands = None,
    within_days: WithinDays = 180,
    months: Months = None,
    max_scenes: MaxScenes = 8,
    split_by: SplitBy = "auto",
    tile: TileSize = 0,
    test: TestAreas = None,
    calibrate: CalibrationAreas = None,
    test_years: TestYears = "",
    baselines: Baselines = None,
    evidence: Evidence = None,
    steps: Steps = None,
    members: Members = 1,
    turns: Turns = False,
    patience: Patience = 0,
    width: Width = 128,
    mid: Mid = 32,
    blocks: Blocks = 6,
    seed: Seed = 0,
    mixed: Mixed = None,
    compile: Compile = None,
    device: DeviceOption = "cpu",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a checkpoint from points in labelled areas: reference, train, calibrate, evaluate, card, in one go."""
    from subpixmap.training.config import TrainConfig
    from subpixmap.verbs import teach as learning

    config = _config(TrainConfig(), locals())
    learning.learn(
        points,
        labelled,
        image_date,
        _needed(source or ["earth-search"]),
        output,
        reference_options={
            "crs": crs,
            "objects": _words(objects),
            "object_column": object_column,
            "where": where,
            "definitions": _definitions(definition),
            "measure": measure,
            "border": border,
            "box": box,
            "max_per_pixel": max_per_pixel,
            "collection": collection,
            "within_days": within_days,
            "correct_shift": correct_shift,
        },
        train_options={
            "scheme": _scheme(locals()),
            "config": config,
            "evidence": evidence,
            "bands": _words([bands or ""]),
            "baselines": _words([baselines or ""]),
            "collection": collection,
            "shape": (width, mid, blocks),
        },
        quiet=quiet,
    )


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    area = "--labelled areas.geojson --image-date 2021-03"
    app.command(epilog=f"Example: subpixmap reference palms.gpkg {area} -o ref")(reference)
    app.command(epilog="Example: subpixmap train --reference ref --source earth-search -o palms.safetensors")(train)
    app.command(epilog="Example: subpixmap evaluate demo-s2 --simulated 4000 --world shifted -o metrics.json")(evaluate)
    app.command(epilog=f"Example: subpixmap learn palms.gpkg {area} --source earth-search -o palms.safetensors")(learn)


def _config(recipe: TrainConfig, arguments: dict[str, Any]) -> TrainConfig:
    """A recipe with what was asked for in a command's own arguments."""
    names = ("steps", "seed", "members", "turns", "patience", "mixed", "compile", "device")
    config = dataclasses.replace(recipe, **{k: arguments[k] for k in names if arguments[k] is not None})
    return dataclasses.replace(config, warmup=min(config.warmup, max(1, config.steps // 5)))


def _scheme(arguments: dict[str, Any]) -> Scheme:
    """How samples are drawn, from a command's own arguments."""
    from subpixmap.periods import parse_months
    from subpixmap.training.from_reference import Scheme

    return Scheme(
        within_days=arguments["within_days"],
        months=parse_months(arguments["months"]) if arguments["months"] else (),
        max_scenes=arguments["max_scenes"],
        split_by=arguments["split_by"],
        tile=arguments["tile"],
        test=tuple(arguments["test"] or ()),
        calibration=tuple(arguments["calibrate"] or ()),
        test_years=arguments["test_years"],
        seed=arguments["seed"],
    )


def _definitions(texts: list[str] | None) -> dict[str, str]:
    told = {}
    for text in texts or []:
        name, equals, words = text.partition("=")
        if not (equals and name.strip() and words.strip()):
            raise InputError(f"--definition {text!r}: write OBJECT=what was labelled")
        told[name.strip()] = words.strip()
    return told


def _words(texts: list[str] | None) -> tuple[str, ...]:
    """Values that may be repeated or written with commas."""
    return tuple(part.strip() for text in texts or [] for part in text.split(",") if part.strip())


def _needed(source: list[str] | None) -> tuple[str, ...]:
    if not source:
        raise InputError("--reference needs imagery: give --source, such as --source earth-search")
    return tuple(source)
