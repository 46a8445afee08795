"""The commands of high-resolution imagery: detect-train, detect, detect-evaluate, detect-review. Parse and call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options
from subpixmap.cli.options import words
from subpixmap.detection.config import DetectConfig
from subpixmap.errors import InputError

Images = Annotated[list[Path], typer.Argument(help="GeoTIFF or COG files, or folders of them")]
Dated = Annotated[
    str | None,
    Option("--image-date", help="when images without a date were taken: 2021-03-14, or a CSV (image, image_date)"),
]


def train(
    images: Images,
    labels: Annotated[
        Path,
        typer.Argument(
            help="boxes: CSV, VOC XML or COCO JSON in pixels, or a folder of them; boxes or points on the ground: "
            "GeoPackage, GeoParquet, GeoJSON"
        ),
    ],
    output: Annotated[Path, Option("--output", "-o", help="FILE.safetensors; card, metrics and curves lie beside it")],
    labelled: Annotated[
        Path | None, Option(help="polygons in which every object is labelled  [default: whole images]")
    ] = None,
    objects: Annotated[
        list[str] | None, Option("--object", help="object to learn; others are background  [default: all]")
    ] = None,
    same_object: Annotated[str | None, Option("--as", help="one name for all objects, such as tree")] = None,
    object_column: Annotated[str | None, Option(help="column of the objects' names")] = None,
    layer: Annotated[str | None, Option(help="layer with the labels, of a file that has several")] = None,
    size: Annotated[float | None, Option(help="size of a crown or car around a point, metres")] = None,
    resolution: Annotated[float | None, Option(help="pixel size of images without a georeference, metres")] = None,
    image_date: Dated = None,
    weights: Annotated[
        Path | None, Option(help="weights to start from (safetensors)  [default: random weights]")
    ] = None,
    steps: Annotated[int, Option(help="training steps")] = DetectConfig.steps,
    batch: Annotated[int, Option(help="crops a step")] = DetectConfig.batch,
    crop: Annotated[int, Option(help="side of a crop, pixels")] = DetectConfig.crop,
    tile: Annotated[int | None, Option(help="side of a block, pixels  [default: 1.5 crops]")] = None,
    held_out: Annotated[float, Option(help="share of the blocks for validation and test")] = 0.3,
    test: Annotated[list[str] | None, Option("--test", help="image to test on; may be repeated")] = None,
    distance: Annotated[
        float | None, Option(help="metres within which a detection matches  [default: half an object]")
    ] = None,
    channels: Annotated[int, Option(help="channels of the heads: fewer are faster")] = 64,
    evidence: Annotated[str | None, Option(help="simulated or aerial  [default: by the images]")] = None,
    seed: Annotated[int, Option(help="seed of blocks, weights and crops")] = DetectConfig.seed,
    device: Annotated[str, Option(help="cpu or cuda")] = DetectConfig.device,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train a detector on labelled high-resolution images.

    It is measured on blocks held out.

    An image that the labels do not name is not labelled and not used; one that they name without an object is empty.
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
    model: Annotated[Path, Option(help="detector of detect-train")],
    output: Annotated[Path, Option("--output", "-o", help="points.parquet; points.areas.geojson lies beside it")],
    image_date: Dated = None,
    window: Annotated[int | None, Option(help="side of a window, pixels; changes memory, not the number")] = None,
    score: Annotated[float | None, Option(help="least score of a detection  [default: the detector's]")] = None,
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    device: Annotated[str, Option(help="cpu or cuda")] = "cpu",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run a detector over high-resolution images.

    They may have any size. Points come out, with score, size, image and its date.
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
    points: Annotated[Path, typer.Argument(help="points.parquet of subpixmap detect")],
    checked: Annotated[
        Path, typer.Argument(help="review.gpkg of detect-review; or all objects of some areas, with --labelled")
    ],
    labelled: Annotated[Path | None, Option(help="polygons in which every object was checked")] = None,
    distance: Annotated[
        float | None, Option(help="metres within which a detection matches  [default: half an object]")
    ] = None,
    cell: Annotated[
        float | None, Option(help="side of the cells that intervals and densities come from, metres  [default: 50]")
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="also write the numbers as JSON")] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure detections on a hand-checked sample.

    Recall, precision and count bias, which are kept with the points.
    """
    from subpixmap.verbs import detect as verbs

    verbs.evaluate_detections(
        points, checked, labelled=labelled, distance=distance, cell=cell, output=output, quiet=quiet
    )


def review(
    context: typer.Context,
    points: Annotated[Path, typer.Argument(help="points.parquet of subpixmap detect; with --finish, review.gpkg")],
    output: Annotated[Path, Option("--output", "-o", help="review.gpkg; with --finish, a folder")],
    images: Annotated[
        list[Path] | None, Option("--images", help="images of the points, or a folder of them; may be repeated")
    ] = None,
    n: Annotated[int, Option("--n", help="cells")] = 30,
    cell: Annotated[float, Option(help="side of a cell, metres")] = 100.0,
    seed: Annotated[int, Option(help="another seed draws other cells")] = 0,
    finish: Annotated[
        bool, Option("--finish", help="turn accepted and corrected cells into points and labelled areas")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw cells for people to review in QGIS.

    They accept, correct or reject detections; --finish makes input of `reference` of them.
    """
    from subpixmap.verbs import detect as verbs

    if finish:
        options.refuse_given(context, "images", "n", "cell", "seed", because="of no use with --finish")
        verbs.finish_review(points, output, quiet=quiet)
    elif not images:
        raise InputError("detect-review needs the imagery: give --images, or --finish for a review that is done")
    else:
        verbs.review_detections(points, images, output, n=n, cell=cell, seed=seed, quiet=quiet)
