"""Options of `reference`, `train` and `learn`: points, labels, and how they become samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from subpixmap.cli.options import Encoding, Level, Months, words
from subpixmap.errors import InputError
from subpixmap.verbs.request import Labelling

if TYPE_CHECKING:
    from subpixmap.reference.samples import Scheme

Points = Annotated[
    Path,
    typer.Argument(
        help="points or boxes (GeoParquet, GeoPackage, GeoJSON, or CSV with x, y or lon, lat and --crs); without "
        "--labelled, polygons with totals (see --total-column)"
    ),
]
Labelled = Annotated[
    Path | None, Option(help="polygons in which every object is labelled, one row per area  [required with points]")
]
ImageDate = Annotated[str, Option(help="date of the labelled imagery: 2021-03-14, 2021-03 or 2021")]
WithinDays = Annotated[int, Option(help="maximum time between acquisition and image date, days")]
CorrectShift = Annotated[
    bool, Option("--correct-shift", help="correct the points by their measured shift against Sentinel-2")
]


@dataclass(frozen=True, kw_only=True)
class LabellingOptions:
    """Options of how points become count maps."""

    crs: Annotated[
        str | None, Option(help="coordinate reference system of files that have none, such as EPSG:4326")
    ] = Labelling.crs
    objects: Annotated[list[str] | None, Option("--object", help="object to use; may be repeated  [default: all]")] = (
        None
    )
    object_column: Annotated[str, Option(help="column with the object names")] = Labelling.object_column
    layer: Annotated[str | None, Option(help="layer of the file that holds the points")] = Labelling.layer
    labelled_layer: Annotated[str | None, Option(help="layer of the file that holds the labelled areas")] = (
        Labelling.labelled_layer
    )
    total_column: Annotated[
        list[str] | None,
        Option(help="column with the number of objects in each polygon: palms, or coconut=palms; may be repeated"),
    ] = None
    totals: Annotated[
        Path | None, Option(help="polygons with known totals, used in addition to points in labelled areas")
    ] = Labelling.totals
    totals_layer: Annotated[str | None, Option(help="layer of the --totals file that holds the polygons")] = (
        Labelling.totals_layer
    )
    encoding: Encoding = Labelling.encoding
    where: Annotated[
        str | None, Option(help="keep only these points: an expression of columns, such as 'confidence > 0.5'")
    ] = Labelling.where
    definition: Annotated[
        list[str] | None,
        Option(help="definition of the labelled object: coconut='crown wider than 4 m'; may be repeated"),
    ] = None
    measure: Annotated[str, Option(help="what to predict: count, or occupancy (for objects that move)")] = (
        Labelling.measure
    )
    border: Annotated[int, Option(help="unused strip along the edge of each area, pixels")] = Labelling.border
    box: Annotated[
        float | None,
        Option(help="spread each point over a box with this side, metres  [default: spread by a Gaussian]"),
    ] = Labelling.box
    max_per_pixel: Annotated[
        float, Option(help="maximum number of points in one pixel; more are refused as an error")
    ] = Labelling.max_per_pixel

    def labelling(self, resolution: float = Labelling.resolution) -> Labelling:
        """The noun for the verbs `reference` and `learn`."""
        values = dict(vars(self), objects=words(self.objects), resolution=resolution)
        values["definitions"] = _definitions(values.pop("definition"))
        values["total_columns"] = _columns_of(values.pop("total_column"))
        return Labelling(**values)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options of how a reference is split into training, calibration and test samples."""

    within_days: WithinDays = 180
    level: Level = "L2A"
    months: Months = None
    max_scenes: Annotated[
        int, Option(help="maximum number of acquisitions per area: clear, and spread over months and orbits")
    ] = 8
    split_by: Annotated[str, Option(help="unit of the split: area, tile, or auto (areas if there are enough)")] = "auto"
    tile: Annotated[
        int, Option("--tile", help="side of a tile of the split, pixels; 0 = derive from the size of the areas")
    ] = 0
    test: Annotated[
        list[str] | None, Option("--test", help="area to use for the test; may be repeated  [default: random]")
    ] = None
    calibrate: Annotated[
        list[str] | None, Option("--calibrate", help="area to use for calibration; may be repeated  [default: random]")
    ] = None
    folds: Annotated[
        int | None,
        Option(
            help="number of cross-validation folds for the calibration; 0 = set land aside for it instead  [default: "
            "from the recipe]"
        ),
    ] = None
    test_years: Annotated[
        str, Option(help="years whose acquisitions are only used for the test, such as 2021 (see --within-days)")
    ] = ""
    seed: Annotated[int, Option(help="random seed of the split and the training")] = 0
    mask: Annotated[
        str,
        Option(help="cloud mask: scl (scene classes), learned (needs subpixmap[clouds]) or both; stored in the card"),
    ] = "scl"

    def scheme(self) -> Scheme:
        """The noun for the verbs `train` and `learn`."""
        from subpixmap.periods import parse_months
        from subpixmap.reference.samples import Scheme

        values = dict(vars(self), test=tuple(self.test or ()), calibration=tuple(self.calibrate or ()))
        values["months"] = parse_months(self.months) if self.months else ()
        del values["calibrate"]
        return Scheme(**values)


def _columns_of(texts: list[str] | None) -> dict[str, str]:
    """Object -> column, from OBJECT=COLUMN or from COLUMN, which then is the object's name."""
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
