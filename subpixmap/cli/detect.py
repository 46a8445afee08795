"""The commands of high-resolution imagery: detect-train, detect, detect-evaluate, detect-review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options
from subpixmap.cli.options import words
from subpixmap.detection.config import DetectConfig
from subpixmap.errors import InputError

Images = Annotated[list[Path], typer.Argument(help="GeoTIFF or COG files, or folders with them")]
Dated = Annotated[
    str | None,
    Option("--image-date", help="date of images that have none: 2021-03-14, or a CSV with columns image, image_date"),
]


def train(
    images: Images,
    labels: Annotated[
        Path,
        typer.Argument(
            help="boxes in pixels (CSV, VOC XML or COCO JSON, or a folder of them), or boxes or points on the ground "
            "(GeoPackage, GeoParquet, GeoJSON)"
        ),
    ],
    output: Annotated[
        Path,
        Option("--output", "-o", help="FILE.safetensors to write; card, metrics and curves are written next to it"),
    ],
    labelled: Annotated[
        Path | None, Option(help="polygons in which every object is labelled  [default: whole images]")
    ] = None,
    objects: Annotated[
        list[str] | None,
        Option("--object", help="object to detect; other labels count as background; may be repeated  [default: all]"),
    ] = None,
    same_object: Annotated[str | None, Option("--as", help="use one name for all objects, such as tree")] = None,
    object_column: Annotated[str | None, Option(help="column with the object names")] = None,
    layer: Annotated[str | None, Option(help="layer of the file that holds the labels")] = None,
    size: Annotated[float | None, Option(help="size of the object around a labelled point, metres")] = None,
    resolution: Annotated[float | None, Option(help="pixel size of images without georeference, metres")] = None,
    image_date: Dated = None,
    weights: Annotated[Path | None, Option(help="initial weights (.safetensors)  [default: random]")] = None,
    steps: Annotated[int, Option(help="number of training steps")] = DetectConfig.steps,
    batch: Annotated[int, Option(help="crops per step")] = DetectConfig.batch,
    crop: Annotated[int, Option(help="side of a crop, pixels")] = DetectConfig.crop,
    tile: Annotated[int | None, Option(help="side of a block of the split, pixels  [default: 1.5 crops]")] = None,
    held_out: Annotated[float, Option(help="share of blocks held out for validation and test, 0 to 1")] = 0.3,
    test: Annotated[list[str] | None, Option("--test", help="image kept for the test; may be repeated")] = None,
    distance: Annotated[
        float | None, Option(help="maximum distance of a match, metres  [default: half an object]")
    ] = None,
    channels: Annotated[int, Option(help="channels of the network heads; fewer are faster")] = 64,
    evidence: Annotated[
        str | None, Option(help="kind of evidence for the card: simulated or aerial  [default: from the images]")
    ] = None,
    seed: Annotated[int, Option(help="random seed of blocks, weights and crops")] = DetectConfig.seed,
    device: Annotated[str, Option(help="cpu or cuda")] = DetectConfig.device,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a detector on labelled high-resolution images.

    Evaluates it on held-out blocks.

    Images that the labels do not name are ignored. An image named without an object counts as empty.
    """
    from subpixmap.verbs import detect as verbs

    config = DetectConfig(steps=steps, batch=batch, crop=crop, distance=distance, seed=seed, device=device)
    reading = verbs.BoxLabels(
        labelled=labelled,
        objects=words(objects),
        same_object=same_object,
        object_column=object_column,
        layer=layer,
        size=size,
        resolution=resolution,
        image_date=image_date,
    )
    verbs.train_detector(
        images,
        labels,
        output,
        reading=reading,
        config=config,
        weights=weights,
        tile=tile,
        held_out=held_out,
        test=tuple(test or ()),
        channels=channels,
        evidence=evidence,
        quiet=quiet,
    )


def detect(
    context: typer.Context,
    images: Images,
    model: Annotated[Path, Option(help="detector written by detect-train")],
    output: Annotated[
        Path,
        Option(
            "--output",
            "-o",
            help="points.parquet to write; points.areas.geojson (the searched area) is written next to it",
        ),
    ],
    image_date: Dated = None,
    window: Annotated[
        int | None, Option(help="side of a processing window, pixels; affects memory, not the result")
    ] = None,
    score: Annotated[float | None, Option(help="minimum score of a detection  [default: from the detector]")] = None,
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    device: Annotated[str, Option(help="cpu or cuda")] = "cpu",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Detect objects in high-resolution images.

    Images may have any size. Writes one point per object, with score, size, image and date.
    """
    from subpixmap.verbs import detect as verbs

    options.require_one_place(context, scheduler)
    verbs.detect(
        images,
        model,
        output,
        image_date=image_date,
        window=window,
        score=score,
        scheduler=scheduler,
        workers=workers,
        device=device,
        quiet=quiet,
    )


def evaluate(
    points: Annotated[Path, typer.Argument(help="points.parquet written by detect")],
    checked: Annotated[
        Path,
        typer.Argument(help="review.gpkg of detect-review; or, with --labelled, a file with all objects of some areas"),
    ],
    labelled: Annotated[
        Path | None, Option(help="polygons in which every object was checked; needed unless checked is a review.gpkg")
    ] = None,
    distance: Annotated[
        float | None, Option(help="maximum distance of a match, metres  [default: half an object]")
    ] = None,
    cell: Annotated[
        float | None, Option(help="side of the cells used for intervals and densities, metres  [default: 50]")
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="JSON file to write as well")] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Evaluate detections against a hand-checked sample.

    Computes recall, precision and count bias, and stores them with the points.
    """
    from subpixmap.verbs import detect as verbs

    verbs.evaluate_detections(
        points, checked, labelled=labelled, distance=distance, cell=cell, output=output, quiet=quiet
    )


def review(
    context: typer.Context,
    points: Annotated[
        Path, typer.Argument(help="points.parquet written by detect; with --finish, the reviewed review.gpkg")
    ],
    output: Annotated[Path, Option("--output", "-o", help="review.gpkg to write; with --finish, the folder to write")],
    images: Annotated[
        list[Path] | None,
        Option("--images", help="image files that the points come from, or a folder with them; may be repeated"),
    ] = None,
    n: Annotated[int, Option("--n", help="number of cells to draw")] = 30,
    cell: Annotated[float, Option(help="side of a cell, metres")] = 100.0,
    seed: Annotated[int, Option(help="random seed of the draw")] = 0,
    finish: Annotated[bool, Option("--finish", help="turn a finished review into points and labelled areas")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw a sample of cells to review by hand in QGIS.

    Reviewers accept, correct or reject detections. --finish turns a finished review into input of `reference`.
    """
    from subpixmap.verbs import detect as verbs

    if finish:
        options.refuse_given(context, "images", "n", "cell", "seed", because="not used with --finish; leave it out")
        verbs.finish_review(points, output, quiet=quiet)
    elif not images:
        raise InputError("detect-review needs --images to draw a sample, or --finish to read a finished review")
    else:
        verbs.review_detections(points, images, output, n=n, cell=cell, seed=seed, quiet=quiet)
