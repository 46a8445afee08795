"""The files that a user labelled -> reference data: points in areas, plots with totals, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpixmap.errors import InputError
from subpixmap.files import file_sha256
from subpixmap.verbs.request import Labelling

if TYPE_CHECKING:
    import geopandas as gpd

    from subpixmap.reference.reference import Reference
    from subpixmap.reference.totals import Totals

_OF_TOTALS = ("definitions", "measure", "present_above", "max_per_pixel", "resolution")
_OPTIONS = (*_OF_TOTALS, "border", "box")


@dataclass(frozen=True)
class Labels:
    """The labels read from the files."""

    points: gpd.GeoDataFrame | None
    areas: gpd.GeoDataFrame | None
    totals: Totals | None
    options: Mapping[str, Any]
    """Of `make_reference`."""

    def reference(self, image_date: str, *, shifts: Mapping[str, tuple[float, float]] | None = None) -> Reference:
        """Make reference data; `shifts` move points, as in `make_reference`."""
        from subpixmap.reference.reference import make_reference
        from subpixmap.reference.totals import reference_of_totals, with_totals

        if self.points is None or self.areas is None:
            assert self.totals is not None  # read_labels sets one of the two
            return reference_of_totals(
                self.totals, image_date, **{name: self.options[name] for name in (*_OF_TOTALS, "source")}
            )
        made = make_reference(self.points, self.areas, image_date, **self.options, shifts=shifts)
        return made if self.totals is None else with_totals(made, self.totals)

    @property
    def n_points(self) -> int:
        """Number of points read."""
        return 0 if self.points is None else len(self.points)

    def outside(self, made: Reference) -> int:
        """Number of points outside all labelled areas."""
        return self.n_points - sum(int(area.points.sum()) for area in made.labelled_areas)


def read_labels(points: Path, labelled: Path | None, labelling: Labelling) -> Labels:
    """Read the files. The first one holds points if labelled areas are given, else plots with totals.

    Raises
    ------
    InputError
        Files and columns do not fit together, or a reader refuses a file.
    """
    _require_pair(labelled, labelling)
    totals, of_totals = _read_totals(points, labelling)
    options = {name: getattr(labelling, name) for name in _OPTIONS}
    if labelled is None:
        return Labels(None, None, totals, {**options, "source": of_totals})
    table, areas, of_points = _read_points(points, labelled, labelling)
    return Labels(table, areas, totals, {**options, "source": of_points | of_totals})


def _require_pair(labelled: Path | None, labelling: Labelling) -> None:
    """Refuse files and columns that do not fit together."""
    totals, columns = labelling.totals is not None, bool(labelling.total_columns)
    problems = {
        "give --labelled (polygons in which every object is labelled), or --total-column if the file holds polygons "
        "with a number each": labelled is None and not columns,
        "--totals needs --total-column: give the name of the column with the totals": totals and not columns,
        "--total-column together with --labelled needs --totals: give the file of plots": columns
        and bool(labelled)
        and not totals,
        "--totals needs --labelled; without points, give the file of plots as the first argument": totals
        and labelled is None,
    }
    if wrong := [text for text, is_so in problems.items() if is_so]:
        raise InputError(wrong[0])


def _read_totals(first: Path, labelling: Labelling) -> tuple[Totals | None, dict[str, Any]]:
    """Totals from the first file, or from --totals, and the record of that file."""
    from subpixmap.reference.totals import read_totals
    from subpixmap.region.layers import fixes_encoding

    if not labelling.total_columns:
        return None, {}
    path, layer, option = labelling.totals, labelling.totals_layer, "--totals-layer"
    if path is None:
        path, layer, option = first, labelling.layer, "--layer"
    encoding = None if fixes_encoding(path) else labelling.encoding
    read = read_totals(path, labelling.total_columns, layer=layer, layer_option=option, encoding=encoding)
    return read, {
        "totals": path.name,
        "totals_sha256": file_sha256(path),
        "total_columns": dict(labelling.total_columns),
    }


def _read_points(
    points: Path, labelled: Path, labelling: Labelling
) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, dict[str, Any]]:
    """Points, labelled areas, and the records of both files."""
    from subpixmap.detection.detections import known_of_detections
    from subpixmap.reference.points import read_points
    from subpixmap.region.layers import fixes_encoding, require_encoding
    from subpixmap.region.units import read_area

    encoding = labelling.encoding
    if fixes_encoding(points) and fixes_encoding(labelled):
        require_encoding(points, encoding)
    table = read_points(
        points,
        crs=labelling.crs,
        objects=labelling.objects,
        object_column=labelling.object_column,
        where=labelling.where,
        layer=labelling.layer,
        encoding=None if fixes_encoding(points) else encoding,
    )
    areas = read_area(
        labelled,
        layer=labelling.labelled_layer,
        layer_option="--labelled-layer",
        encoding=None if fixes_encoding(labelled) else encoding,
    )
    detection = known_of_detections(points)
    return (
        table,
        areas,
        {
            **({"detection": detection} if detection else {}),
            "points": points.name,
            "points_sha256": file_sha256(points),
            "rows": len(table),
            "where": labelling.where or "",
            "labelled": labelled.name,
            "labelled_sha256": file_sha256(labelled),
        },
    )
