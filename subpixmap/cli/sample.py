"""The commands by which people label what a map needs: sample, estimate, calibrate, suggest. Parse and call."""

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
        help="accept a model whose card does not say which land it was taught on (kept in the record)",
    ),
]


def design(
    out: options.Folder,
    cell: Annotated[float, Option(help="side of a cell, metres")] = 100.0,
    n: Annotated[
        int | None, Option("--n", help="cells to label  [default: what --target-cv needs, 300 without one]")
    ] = None,
    by: Annotated[
        str | None, Option(help="every unit of this level gets cells of its own: 1 (the highest), 2, ..., or lowest")
    ] = None,
    target_cv: Annotated[
        float | None, Option(help="standard error that is wanted, percent of the total (of each unit with --by)")
    ] = None,
    periods: Annotated[
        str | None, Option(help="periods to label, such as 2018,2023  [default: the last of the run]")
    ] = None,
    objects: options.Objects = None,
    interpreters: Annotated[int, Option(help="people who label each cell, independently")] = 1,
    omission: Annotated[
        float, Option(help="share of the objects that is expected where the map predicts nothing")
    ] = 0.1,
    map_error: Annotated[float, Option(help="expected error of the map in a cell, as a share of its count")] = 0.5,
    pilot: Annotated[
        bool, Option("--pilot", help="let the labelled sample of the folder say how cells are shared out; replaces it")
    ] = False,
    seed: Annotated[int, Option(help="another seed draws other cells")] = 0,
    model: options.RunModel = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Draw a probability sample of cells, for people to label.

    It is written three times: OUT/sample/cells.gpkg (QGIS), cells.kml (Google Earth) and cells.csv. Fill n_objects
    (blank = not labelled, 0 = none), image_date and note, then run subpixmap sample import.
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
    sheet: Annotated[Path, typer.Argument(help="labelled sheet: GeoPackage, GeoJSON, GeoParquet or CSV")],
    assume_disjoint: AssumeDisjoint = False,
    model: options.RunModel = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Check a labelled sheet against the design, and keep its counts."""
    from subpixmap.verbs import sample as verbs

    verbs.import_labels(out, sheet, model=model, assume_disjoint=assume_disjoint, quiet=quiet)


def estimate(
    out: options.Folder,
    level: Annotated[float, Option(help="confidence of the intervals")] = 0.95,
    estimator: Annotated[
        str | None,
        Option(help="expansion, difference, regression, ratio  [default: regression from 50 cells on, or difference]"),
    ] = None,
    min_cells: Annotated[
        int, Option(help="labelled cells of a unit below which its estimate is synthetic, without an interval")
    ] = 30,
    max_cv: Annotated[float, Option(help="estimates with a larger se / estimate are suppressed")] = 0.33,
    rake: Annotated[bool, Option("--rake", help="scale units so that they sum to their parent")] = False,
    unseen: Annotated[
        float,
        Option(
            help="share of all objects that may stand where the map predicts nothing without having been seen; the "
            "upper ends allow for it as far as the labelled cells do not rule it out"
        ),
    ] = 0.12,
    change: Annotated[
        list[str] | None,
        Option(help="change between two labelled periods, such as 2018,2023; may be repeated  [default: neighbours]"),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Estimate totals with intervals from the labelled sample.

    They fill columns of counts.csv; estimates.csv holds every estimator.
    """
    from subpixmap.estimation.results import Rules
    from subpixmap.verbs import sample as verbs

    rules = Rules(level=level, estimator=estimator, min_cells=min_cells, max_cv=max_cv, rake=rake, unseen=unseen)
    verbs.estimate(out, rules, changes=_pairs(change), quiet=quiet)


def calibrate(
    model: Annotated[str, typer.Argument(help="shipped checkpoint, .safetensors file or its address")],
    output: options.CheckpointFile,
    reference: options.ReferenceFolder = None,
    source: options.Source = None,
    collection: options.Collection = None,
    sample: Annotated[
        Path | None, Option(help="run folder of this model, whose labelled sample is used up for the calibration")
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Fit background and slope of a model on your own places.

    Nothing is trained. Another model comes out: map anew with it. Places that calibrate cannot certify: no sample may
    touch them.
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
    output: Annotated[Path, Option("--output", "-o", help="FILE.gpkg; a picture FILE.png is written beside it")],
    n: Annotated[int, Option("--n", help="areas to suggest")] = 20,
    side: Annotated[float, Option(help="side of an area, metres")] = 320.0,
    by: Annotated[str, Option(help="all, or one reason: disagreement, distance or share")] = "all",
    period: Annotated[str | None, Option(help="period of the map  [default: the last that is mapped]")] = None,
    objects: options.Objects = None,
    labelled: Annotated[
        Path | None, Option(help="polygons that are labelled already, beside those in the model's card")
    ] = None,
    looks: Annotated[
        int, Option(help="areas of the map that are looked at, drawn at random; each is read again")
    ] = 1000,
    seed: Annotated[int, Option(help="another seed looks at other areas")] = 0,
    model: options.RunModel = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Suggest areas whose labels would teach the model most.

    Each comes with its reason: networks disagree there, it is unlike what is labelled, or it holds much of the total.
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
