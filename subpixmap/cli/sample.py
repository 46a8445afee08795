"""The commands of labelling and estimation: sample, estimate, calibrate, suggest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options
from subpixmap.cli.options import words
from subpixmap.errors import InputError

AssumeDisjoint = Annotated[
    bool,
    Option(
        "--assume-disjoint",
        help="accept a model whose card does not list its training areas (noted in the results)",
    ),
]


def design(
    out: options.Folder,
    cell: Annotated[float, Option(help="side of a cell, metres")] = 100.0,
    n: Annotated[
        int | None,
        Option("--n", help="number of cells to label  [default: as --target-cv needs; 300 without --target-cv]"),
    ] = None,
    by: Annotated[
        str | None, Option(help="stratify by units of this level: 1 (the highest), 2, ..., or lowest")
    ] = None,
    target_cv: Annotated[
        float | None, Option(help="target standard error, percent of the total (with --by, of each unit's total)")
    ] = None,
    periods: Annotated[str | None, Option(help="periods to label, such as 2018,2023  [default: the last one]")] = None,
    objects: options.Objects = None,
    interpreters: Annotated[int, Option(help="number of people who label each cell independently")] = 1,
    omission: Annotated[float, Option(help="expected share of objects where the map predicts none, 0 to 1")] = 0.1,
    map_error: Annotated[float, Option(help="expected map error in a cell, as a share of its count")] = 0.5,
    pilot: Annotated[
        bool, Option("--pilot", help="allocate cells by the labelled sample in the folder, and replace that sample")
    ] = False,
    seed: Annotated[int, Option(help="random seed of the draw")] = 0,
    model: options.RunModel = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw a probability sample of cells, for people to label.

    Writes OUT/sample/cells.gpkg (for QGIS), cells.kml (for Google Earth) and cells.csv. Fill in the columns n_objects
    (blank = not labelled, 0 = none), image_date and note. Then run subpixmap sample import.
    """
    from subpixmap.estimation.design import Wish
    from subpixmap.estimation.prior import Prior
    from subpixmap.verbs import sample as verbs

    wish = Wish(
        cell=cell,
        n=n,
        by=by,
        target_cv=target_cv,
        periods=words([periods or ""]),
        objects=words(objects),
        interpreters=interpreters,
        seed=seed,
        prior=Prior(omission=omission, error=map_error),
    )
    verbs.design_sample(out, wish, model=model, pilot=pilot, quiet=quiet)


def import_(
    out: options.Folder,
    sheet: Annotated[Path, typer.Argument(help="labelled cells: GeoPackage, GeoJSON, GeoParquet or CSV")],
    assume_disjoint: AssumeDisjoint = False,
    model: options.RunModel = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Check the labelled cells against the design, and store their counts."""
    from subpixmap.verbs import sample as verbs

    verbs.import_labels(out, sheet, model=model, assume_disjoint=assume_disjoint, quiet=quiet)


def estimate(
    out: options.Folder,
    level: Annotated[float, Option(help="confidence level of the intervals")] = 0.95,
    estimator: Annotated[
        str | None,
        Option(
            help="estimator: expansion, difference, regression or ratio  [default: regression from 50 cells on, "
            "else difference]"
        ),
    ] = None,
    min_cells: Annotated[
        int,
        Option(
            help="minimum number of labelled cells in a unit; with fewer, its estimate is synthetic, without "
            "an interval"
        ),
    ] = 30,
    max_cv: Annotated[
        float, Option(help="maximum coefficient of variation (se / estimate); larger ones are suppressed")
    ] = 0.33,
    rake: Annotated[bool, Option("--rake", help="scale the units so that they sum to their parent")] = False,
    unseen: Annotated[
        float,
        Option(
            help="largest share of objects that the map and the sample may both miss, 0 to 1; it widens the upper "
            "ends of the intervals"
        ),
    ] = 0.12,
    change: Annotated[
        list[str] | None,
        Option(
            help="change to estimate between two labelled periods, such as 2018,2023; may be repeated  [default: "
            "consecutive periods]"
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Estimate totals with intervals from the labelled sample.

    Fills columns of counts.csv, and writes the results of all estimators to estimates.csv.
    """
    from subpixmap.estimation.results import Rules
    from subpixmap.verbs import sample as verbs

    rules = Rules(level=level, estimator=estimator, min_cells=min_cells, max_cv=max_cv, rake=rake, unseen=unseen)
    verbs.estimate(out, rules, changes=_pairs(change), quiet=quiet)


def calibrate(
    model: Annotated[str, typer.Argument(help="shipped checkpoint, .safetensors file or its URL")],
    output: options.CheckpointFile,
    reference: options.ReferenceFolder = None,
    source: options.Source = None,
    collection: options.Collection = None,
    sample: Annotated[
        Path | None,
        Option(
            help="run folder mapped with this model; calibrate on its labelled sample (which then "
            "cannot validate the new model)"
        ),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Calibrate background and slope of a model on your own data.

    Does not train. Writes a new model: map again with it. Land used for calibration cannot be used to validate the new
    model: its sample must not touch that land.
    """
    from subpixmap.verbs import calibrate as verbs

    verbs.calibrate(
        model,
        output,
        reference=reference,
        source=tuple(source or ()),
        sample=sample,
        collection=collection,
        quiet=quiet,
    )


def _pairs(texts: list[str] | None) -> list[tuple[str, str]] | None:
    if not texts:
        return None
    pairs = []
    for text in texts:
        both = words([text])
        if len(both) != 2:
            raise InputError(f"--change {text}: write FIRST,LAST, such as 2018,2023")
        pairs.append((both[0], both[1]))
    return pairs


def suggest(
    out: options.Folder,
    output: Annotated[
        Path, Option("--output", "-o", help="FILE.gpkg to write; a picture FILE.png is written next to it")
    ],
    n: Annotated[int, Option("--n", help="number of areas to suggest")] = 20,
    side: Annotated[float, Option(help="side of an area, metres")] = 320.0,
    by: Annotated[str, Option(help="reason to suggest an area: disagreement, distance, share, or all")] = "all",
    period: Annotated[str | None, Option(help="period of the map to use  [default: the last mapped one]")] = None,
    objects: options.Objects = None,
    labelled: Annotated[
        Path | None, Option(help="polygons already labelled, in addition to those in the model's card")
    ] = None,
    looks: Annotated[
        int, Option(help="number of candidate areas, drawn at random; the imagery of each is read again")
    ] = 1000,
    seed: Annotated[int, Option(help="random seed of the draw")] = 0,
    model: options.RunModel = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Suggest areas to label next to improve the model.

    Gives a reason for each area: the networks of the model disagree, it is unlike the labelled areas, or it holds much
    of the total.
    """
    from subpixmap.verbs import suggest as verbs

    verbs.suggest(
        out,
        output,
        n=n,
        side=side,
        by=by,
        period=period,
        objects=words(objects),
        labelled=labelled,
        looks=looks,
        seed=seed,
        model=model,
        quiet=quiet,
    )
