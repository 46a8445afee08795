"""Reads plots: polygons with known totals of objects.

Plots of an inventory, parcels of a cadastre, units of a census. A plot lies whole on the lattice of the zone that holds
its middle. Which share of a pixel it covers is exact, so that a sum over it is one of the plot and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, project, utm_epsg
from subpixmap.reference.reference import (
    MAX_PIXELS,
    Area,
    Reference,
    parse_image_date,
    refuse_overlaps,
    require_measure,
    unique_names,
)
from subpixmap.region.fractions import polygon_fractions
from subpixmap.region.outline import mended
from subpixmap.region.units import read_area
from subpixmap.region.vector import read_polygons


@dataclass(frozen=True)
class Totals:
    """Plots with what stands on each."""

    names: tuple[str, ...]
    outlines: tuple[BaseGeometry, ...]
    """EPSG:4326."""
    objects: tuple[str, ...]
    counts: NDArray[np.float64]
    """(plot, object)."""


def read_totals(
    path: str | Path,
    columns: Mapping[str, str],
    *,
    layer: str | None = None,
    encoding: str | None = None,
    layer_option: str = "--layer",
) -> Totals:
    """Plots and their totals of a file.

    Parameters
    ----------
    path
        Polygons with a CRS, a row a plot, in a format of `region.vector.read_polygons`.
    columns
        Object -> name of the column with its totals.
    layer, encoding, layer_option
        As in `region.vector.read_polygons`.

    Raises
    ------
    InputError
        No such column; rows without a polygon; totals that are missing, no numbers, or below zero.
    """
    name = Path(path).name
    table = read_polygons(path, dense=True, layer=layer, encoding=encoding, option=layer_option)
    if missing := [column for column in columns.values() if column not in table.columns]:
        there = ", ".join(str(column) for column in table.columns if column != table.geometry.name)
        raise InputError(f"--total-column: {name} has no column {', '.join(missing)}; it has {there}")
    units = read_area(path, layer=layer, encoding=encoding, layer_option=layer_option)["unit_name"]
    if (bare := table.geometry.is_empty.to_numpy()).any():
        raise InputError(
            f"{name}: {int(bare.sum())} of {len(table)} totals have no polygon (first: "
            f"{units[bare].iloc[0]}); draw it, or leave the row out"
        )
    counts = [_numbers(table[column], units, column, name) for column in columns.values()]
    names = tuple(str(one) for one in units)
    return Totals(names, tuple(table.geometry), tuple(columns), np.stack(counts, axis=1))


def reference_of_totals(
    totals: Totals,
    image_date: str,
    *,
    definitions: Mapping[str, str] | None = None,
    measure: str = "count",
    present_above: float = 0.25,
    max_per_pixel: float = 20.0,
    resolution: float = 10.0,
    source: Mapping[str, object] | None = None,
) -> Reference:
    """Reference data of totals alone; parameters as in `make_reference`.

    Raises
    ------
    InputError
        No total above zero, more objects than `max_per_pixel` allows, plots that overlap or are too large.
    """
    require_measure(measure)
    if unknown := set(definitions or {}) - set(totals.objects):
        raise InputError(f"--definition of {', '.join(sorted(unknown))}: the totals are of {', '.join(totals.objects)}")
    if none := [name for name, of_all in zip(totals.objects, totals.counts.T, strict=True) if not of_all.sum() > 0]:
        raise InputError(f"all {len(totals.names)} totals of {', '.join(none)} are 0: there is nothing to learn from")
    return Reference(
        objects={name: (definitions or {}).get(name, name.replace("_", " ")) for name in totals.objects},
        measure=dict.fromkeys(totals.objects, measure),
        image_date=parse_image_date(image_date),
        areas=make_plots(totals, resolution=resolution, max_per_pixel=max_per_pixel),
        resolution=resolution,
        border=0,
        present_above=present_above,
        max_per_pixel=max_per_pixel,
        source=source,
    )


def with_totals(reference: Reference, totals: Totals) -> Reference:
    """Reference data of points with plots beside its areas; they may lie within one another.

    Raises
    ------
    InputError
        The totals are of other objects than the points, or what `reference_of_totals` refuses of plots.
    """
    if set(totals.objects) != set(reference.objects):
        raise InputError(
            f"--total-column: the totals are of {', '.join(totals.objects)}, the points of "
            f"{', '.join(reference.objects)}; name a column for each (OBJECT=COLUMN), or leave objects out with "
            "--object"
        )
    order = [totals.objects.index(name) for name in reference.objects]
    totals = replace(totals, objects=tuple(reference.objects), counts=totals.counts[:, order])
    plots = make_plots(
        totals, resolution=reference.resolution, max_per_pixel=reference.max_per_pixel, taken=reference.names
    )
    return replace(reference, areas=(*reference.areas, *plots))


def make_plots(
    totals: Totals, *, resolution: float, max_per_pixel: float, taken: Sequence[str] = ()
) -> tuple[Area, ...]:
    """Each plot as an area.

    Parameters
    ----------
    totals
        Plots.
    resolution
        Of the lattice, metres.
    max_per_pixel
        More objects for each pixel of a plot are absurd.
    taken
        Names of other areas.
    """
    names = unique_names(totals.names, taken=taken)
    refuse_overlaps(names, np.array(totals.outlines, object), resolution, what="plots with totals")
    plots = tuple(
        _plot(name, outline, counts, resolution)
        for name, outline, counts in zip(names, totals.outlines, totals.counts, strict=True)
    )
    for plot in plots:
        assert plot.share is not None
        assert plot.totals is not None
        pixels = float(plot.share.sum())
        for name, number in zip(totals.objects, plot.totals.tolist(), strict=True):
            if number > max_per_pixel * pixels:
                raise InputError(
                    f"plot {plot.name}: {number:g} {name} on {pixels:.1f} pixels are {number / pixels:.1f} a pixel, "
                    f"more than {max_per_pixel:g}; correct the total or the polygon, or raise --max-per-pixel"
                )
    return plots


def _numbers(column: pd.Series, names: pd.Series, title: str, file: str) -> NDArray[np.float64]:
    """Totals as numbers, all of them known and none below zero."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(float)
    for wrong, why in ((~np.isfinite(values), "is not a number"), (values < 0, "is below zero")):
        if wrong.any():
            raise InputError(
                f"{file}: column {title} {why} in {int(wrong.sum())} of {len(values)} rows (first: "
                f"{names[wrong].iloc[0]}, {column[wrong].iloc[0]}); correct it, or leave the row out"
            )
    return values


def _plot(name: str, outline: BaseGeometry, totals: NDArray[np.float64], resolution: float) -> Area:
    middle = shapely.point_on_surface(outline)
    lattice = Lattice(int(utm_epsg(np.array([middle.x]), np.array([middle.y]))[0]), resolution)
    polygon = mended(project(outline, 4326, lattice.epsg))
    window = lattice.window(polygon.bounds)
    if window.height * window.width > MAX_PIXELS:
        raise InputError(f"plot {name} covers {window.height} x {window.width} px, more than {MAX_PIXELS:.0e}: cut it")
    ((pixels, fractions),) = polygon_fractions([polygon], lattice, window)
    share = np.zeros(window.height * window.width, np.float32)
    share[pixels] = fractions
    return Area.plot(name, lattice, window, outline, share.reshape(window.shape), totals)
