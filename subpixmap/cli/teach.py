"""The commands that make and evaluate a model: reference, train, evaluate, learn.

Only parses options and calls the verbs; heavy imports stay inside functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options, reference_options
from subpixmap.cli.options import refuse_given, words
from subpixmap.cli.reference_options import LabellingOptions, SamplingOptions
from subpixmap.cli.training_options import CheckpointOptions, TrainingOptions
from subpixmap.errors import InputError
from subpixmap.training.config import SIMULATED
from subpixmap.verbs.request import DEFAULT_SOURCE, Labelling

NEEDS_IMAGERY = "only used with imagery; give --source, or leave it out"
OF_A_REFERENCE = "only used with --reference, not with --simulated; leave it out"
OF_POINTS = "only used for points in labelled areas; give --labelled, or leave it out"
OF_THE_SIMULATOR = "only used with --simulated, not with --reference; leave it out"


def reference(
    context: typer.Context,
    points: reference_options.Points,
    image_date: reference_options.ImageDate,
    output: Annotated[Path, Option("--output", "-o", help="folder to write")],
    labelling: LabellingOptions,
    labelled: reference_options.Labelled = None,
    resolution: options.Resolution = Labelling.resolution,
    source: options.Source = None,
    collection: options.Collection = None,
    within_days: reference_options.WithinDays = SamplingOptions.within_days,
    level: options.Level = SamplingOptions.level,
    correct_shift: reference_options.CorrectShift = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Turn labelled points into reference count maps.

    The maps lie on the Sentinel-2 grid. Instead of points, polygons with the number of objects in each also work
    (--total-column).
    """
    from subpixmap.verbs import teach as verbs

    _refuse_of_points(context, labelled)
    if not source:
        refuse_given(context, "collection", "within_days", "level", "correct_shift", because=NEEDS_IMAGERY)
    verbs.reference(
        points,
        labelled,
        image_date,
        output,
        labelling=labelling.labelling(resolution),
        source=tuple(source or ()),
        collection=collection,
        within_days=within_days,
        level=level,
        correct_shift=correct_shift,
        quiet=quiet,
    )


def train(
    context: typer.Context,
    output: options.CheckpointFile,
    sampling: SamplingOptions,
    training: TrainingOptions,
    checkpoint: CheckpointOptions,
    folder: options.ReferenceFolder = None,
    simulated: Annotated[str | None, Option(help="shipped checkpoint to reproduce from simulated data")] = None,
    source: options.Source = None,
    collection: options.Collection = None,
    cache: options.Cache = None,
    workers: options.Renderers = 2,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train, calibrate and evaluate a checkpoint.

    Uses reference data (--reference) or simulated data (--simulated).
    """
    from subpixmap.verbs import teach as verbs

    if simulated is not None and folder is None:
        of_a_reference = [*vars(sampling), *vars(checkpoint), "source", "collection"]
        of_a_reference.remove("seed")
        refuse_given(context, *of_a_reference, because=OF_A_REFERENCE)
        config = training.config(SIMULATED, seed=sampling.seed)
        verbs.train_simulated(simulated, output, config=config, cache=cache, workers=workers, quiet=quiet)
    elif folder is not None and simulated is None:
        refuse_given(context, "cache", "workers", because=OF_THE_SIMULATOR)
        verbs.train(
            folder,
            _needed(source),
            output,
            scheme=sampling.scheme(),
            asked=training.asked(sampling.seed),
            collection=collection,
            quiet=quiet,
            **checkpoint.checkpoint(),
        )
    else:
        raise InputError("give either --reference with --source, or --simulated NAME")


def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="shipped checkpoint, .safetensors file or its URL")],
    folder: options.ReferenceFolder = None,
    source: options.Source = None,
    collection: options.Collection = None,
    split: Annotated[
        str | None,
        Option(
            help="part to evaluate on: training, calibration, test or all  [default: test; all if the model was "
            "trained on another reference]"
        ),
    ] = None,
    simulated: Annotated[int | None, Option(help="random seed of simulated data to evaluate on")] = None,
    world: options.World = "base",
    places: Annotated[int, Option(help="number of simulated patches")] = 100,
    objects: Annotated[
        list[str] | None,
        Option("--objects", help="objects in the simulated data; may be repeated  [default: those of the model]"),
    ] = None,
    baselines: options.Baselines = None,
    land_cover: Annotated[
        Path | None, Option(help="land cover raster (ESA WorldCover) to report false counts per land cover class")
    ] = None,
    output: Annotated[
        Path | None, Option("--output", "-o", help="metrics.json to write; figures are written next to it")
    ] = None,
    cache: options.Cache = None,
    workers: options.Renderers = 2,
    force: Annotated[
        bool, Option("--force", help="accept reference data that does not match the model's card")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Evaluate a checkpoint on data it was not trained on.

    Uses reference data (--reference) or simulated data (--simulated).
    """
    from subpixmap.verbs import teach as verbs

    if simulated is None:
        refuse_given(context, "world", "places", "objects", "cache", "workers", because=OF_THE_SIMULATOR)
    else:
        refuse_given(context, "source", "collection", "split", "land_cover", "force", because=OF_A_REFERENCE)
    verbs.evaluate(
        model,
        folder=folder,
        source=tuple(source or ()),
        simulated=simulated,
        world=world,
        places=places,
        objects=words(objects),
        split=split,
        baselines=words([baselines or ""]),
        land_cover=land_cover,
        collection=collection,
        cache=cache,
        workers=workers,
        force=force,
        output=output,
        quiet=quiet,
    )


def learn(
    context: typer.Context,
    points: reference_options.Points,
    image_date: reference_options.ImageDate,
    output: options.CheckpointFile,
    labelling: LabellingOptions,
    sampling: SamplingOptions,
    training: TrainingOptions,
    checkpoint: CheckpointOptions,
    labelled: reference_options.Labelled = None,
    source: options.SourceOrDefault = None,
    collection: options.Collection = None,
    correct_shift: reference_options.CorrectShift = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Make a checkpoint from labelled points or totals.

    Does all steps: reference, imagery, training, calibration, evaluation and card.
    """
    from subpixmap.verbs import teach as verbs

    _refuse_of_points(context, labelled)
    verbs.learn(
        points,
        labelled,
        image_date,
        tuple(source or DEFAULT_SOURCE),
        output,
        labelling=labelling.labelling(),
        correct_shift=correct_shift,
        scheme=sampling.scheme(),
        asked=training.asked(sampling.seed),
        collection=collection,
        quiet=quiet,
        **checkpoint.checkpoint(),
    )


def _refuse_of_points(context: typer.Context, labelled: Path | None) -> None:
    """Refuse options of points where plots with totals are given."""
    if labelled is None:
        of_points = ("crs", "objects", "object_column", "labelled_layer", "where", "border", "box", "correct_shift")
        refuse_given(context, *of_points, because=OF_POINTS)


def _needed(source: list[str] | None) -> tuple[str, ...]:
    if not source:
        raise InputError("--reference needs imagery: give --source, such as --source earth-search")
    return tuple(source)
