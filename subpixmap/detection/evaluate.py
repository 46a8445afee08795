"""Evaluates detections against a hand-checked sample: recall, precision and count bias with intervals.

A detector is not the truth. What it misses and invents is measured where people looked, and goes with the points as
metadata. A factor that would correct the number is offered, never applied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from subpixmap.detection.detections import in_metres
from subpixmap.detection.matching import Tally, match
from subpixmap.errors import InputError

LEVEL = 0.95
_CELL_M = 50.0
_ENOUGH = 5
"""Cells from which an interval comes from the cells; with fewer, objects are taken for independent."""
_RESAMPLES = 2000
_UNBOUNDED = 1e6
"""A ratio beyond comes from resamples without objects: its interval has no end."""


@dataclass(frozen=True)
class Checked:
    """A checked sample: checked areas and all objects in them."""

    areas: gpd.GeoDataFrame
    """Polygons, EPSG:4326; where known, with `image_id`."""
    objects: gpd.GeoDataFrame
    """object and geometry (points, EPSG:4326)."""


def read_checked(path: Path, areas: Path | None, *, names: Sequence[str], images: Sequence[str] = ()) -> Checked:
    """A hand-checked sample.

    Parameters
    ----------
    path
        Reviewed cells of `detect-review`; or points or boxes of all objects, with `areas`.
    areas
        Polygons in which they stand.
    names
        Of the objects of the detector.
    images
        Ids of the detector's images: areas that bear their names are of these images.

    Raises
    ------
    InputError
        Nothing was checked, or points come without areas.
    """
    from subpixmap.detection.review import is_review, read_review
    from subpixmap.reference.points import read_points
    from subpixmap.region.units import read_area

    if is_review(path):
        reviewed = read_review(path)
        return Checked(reviewed.cells, reviewed.objects)
    if areas is None:
        raise InputError(f"{path.name}: give with --labelled the areas in which these are all objects")
    try:
        points = read_points(path, objects=() if len(names) > 1 else tuple(names))
    except InputError as error:
        if "holds no points" not in str(error):
            raise
        points = gpd.GeoDataFrame({"object": []}, geometry=[], crs=4326)
    table = read_area(areas)
    if set(table["unit_name"]) <= set(images):
        table = table.assign(image_id=table["unit_name"])
    return Checked(table, points)


def evaluate_points(
    points: gpd.GeoDataFrame,
    checked: Checked,
    *,
    distance: float | None = None,
    cell: float = _CELL_M,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Recall, precision, F1 and count bias of detections in checked areas.

    Parameters
    ----------
    points
        Of `subpixmap detect`.
    checked
        Areas and their objects.
    distance
        Metres within which a detection matches an object; half the median size of the detections when None.
    cell
        Side of the cells by which density is told and from which intervals come, metres.
    level
        Confidence of the intervals.

    Returns
    -------
    dict
        n, recall, precision, f1 and count_bias with `..._ci`, for all objects together (`all`), by object, by image and
        by class of density; the matching distance; `correction`, a factor that is not applied.

    Raises
    ------
    InputError
        No detection file's image lies in the checked areas and nothing was checked there.
    """
    land = shapely.union_all(checked.areas.geometry.to_numpy())
    found, true = (_inside(table, land) for table in (points, checked.objects))
    if not len(found) and not len(true):
        raise InputError("no detection and no object lies in the checked areas; give areas of these images")
    distance = distance or (float(points["size_m"].median()) / 2 if len(points) else cell / 10)
    places = pd.concat([found[["geometry"]], true[["geometry"]]], ignore_index=True)
    xy = in_metres(gpd.GeoDataFrame(places, geometry="geometry", crs=4326))
    a, b = xy[: len(found)], xy[len(found) :]
    kinds = [table["object"].to_numpy(object) for table in (found, true)]
    pairs = match(a, b, distance, found_kind=kinds[0], true_kind=kinds[1])
    image = _image_of(found, true, pairs, checked)
    # A pair counts in the cell of its object: a detection just beyond a border is no error.
    at = a.copy()
    at[pairs[0]] = b[pairs[1]]
    table = _cells(at, b, pairs, kinds, image, cell)
    groups: dict[str, Any] = {"all": _facts(table, level)}
    names = sorted({*kinds[0], *kinds[1]})
    if len(names) > 1:
        groups["by_object"] = {name: _facts(table[table["object"] == name], level) for name in names}
    groups["by_image"] = {str(name): _facts(part, level) for name, part in table.groupby("image_id")}
    groups["by_density"] = _by_density(table, cell, level)
    return {
        "matching_distance_m": round(distance, 3),
        "cell_m": cell,
        "level": level,
        "checked_ha": round(_hectares(checked.areas), 4),
        **groups,
        "correction": _correction(table, level),
    }


def _inside(table: gpd.GeoDataFrame, land: shapely.Geometry) -> gpd.GeoDataFrame:
    shapely.prepare(land)
    inside = shapely.contains_xy(land, table.geometry.x.to_numpy(), table.geometry.y.to_numpy())
    return table[inside].reset_index(drop=True)


def _image_of(
    found: gpd.GeoDataFrame,
    true: gpd.GeoDataFrame,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    checked: Checked,
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Image of every detection and of every object: of its area, of its detection, or not known."""
    of_found = found["image_id"].to_numpy(object)
    if "image_id" in checked.areas and len(true):
        joined = gpd.sjoin(true[["geometry"]], checked.areas[["image_id", "geometry"]], how="left", predicate="within")
        of_true = joined[~joined.index.duplicated()]["image_id"].to_numpy(object)
    else:
        of_true = np.full(len(true), of_found[0] if len(set(of_found)) == 1 else "not known", object)
        of_true[pairs[1]] = of_found[pairs[0]]
    return of_found, of_true


def _cells(
    found: NDArray[np.float64],
    true: NDArray[np.float64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
    kinds: Sequence[NDArray[np.object_]],
    image: tuple[NDArray[np.object_], NDArray[np.object_]],
    cell: float,
) -> pd.DataFrame:
    """A row for each cell, image and object: matched, detected, true."""
    hit = np.zeros(len(found), int)
    hit[pairs[0]] = 1
    parts = []
    for xy, kind, of, numbers in (
        (found, kinds[0], image[0], {"matched": hit, "detected": 1, "true": 0}),
        (true, kinds[1], image[1], {"matched": 0, "detected": 0, "true": 1}),
    ):
        col, row = np.floor(xy / cell).astype(int).T
        parts.append(pd.DataFrame({"col": col, "row": row, "object": kind, "image_id": of, **numbers}))
    keys = ["col", "row", "image_id", "object"]
    return pd.concat(parts).groupby(keys, as_index=False, dropna=False).sum()


def _facts(table: pd.DataFrame, level: float) -> dict[str, Any]:
    """A tally with intervals: over cells where there are enough, else of single objects."""
    own = table.groupby(["col", "row"], as_index=False)[["matched", "detected", "true"]].sum()
    matched, detected, true = (own[name].to_numpy(float) for name in ("matched", "detected", "true"))
    tally = Tally(int(matched.sum()), int(detected.sum()), int(true.sum()))
    facts: dict[str, Any] = dict(tally.facts()) | {"cells": len(own)}
    few = len(own) < _ENOUGH
    facts["recall_ci"] = _share_ci(matched, true, level, few)
    facts["precision_ci"] = _share_ci(matched, detected, level, few)
    facts["count_bias_ci"] = None if few else _ratio_ci(detected, true, level, lambda ratio: ratio - 1)
    return facts


def _share_ci(above: NDArray[np.float64], below: NDArray[np.float64], level: float, few: bool) -> list[float] | None:
    if not below.sum():
        return None
    if few or above.sum() in (0, below.sum()):
        ends = binomtest(int(above.sum()), int(below.sum())).proportion_ci(level, method="wilson")
        return [round(float(ends.low), 4), round(float(ends.high), 4)]
    return _ratio_ci(above, below, level, lambda ratio: ratio)


def _ratio_ci(
    above: NDArray[np.float64], below: NDArray[np.float64], level: float, form: Callable[[Any], Any]
) -> list[float] | None:
    """Ends of an interval of a ratio of sums, by resampling cells: objects of a cell fail together."""
    if not below.sum():
        return None

    def ratio(one: NDArray[np.float64], other: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(one.sum(axis=axis) / np.maximum(other.sum(axis=axis), 1e-9))

    ends = bootstrap(
        (above, below), ratio, paired=True, vectorized=True, n_resamples=_RESAMPLES, batch=200, method="percentile",
        confidence_level=level, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    if not ends.high < _UNBOUNDED:
        return None
    return [round(float(form(ends.low)), 4), round(float(form(ends.high)), 4)]


def _by_density(table: pd.DataFrame, cell: float, level: float) -> list[dict[str, Any]]:
    """Empty cells, and three classes of cells with as many objects each as can be."""
    own = table.groupby(["col", "row"])["true"].sum()
    some = own[own > 0]
    edges = [0.0, *np.unique(np.quantile(some, [1 / 3, 2 / 3]))] if len(some) else [0.0]
    place = np.digitize(own, np.array(edges), right=True)  # 0: no objects
    classes = dict(zip(own.index, place.tolist(), strict=True))
    of = np.array([classes[key] for key in zip(table["col"], table["row"], strict=True)])
    rows = []
    for number in sorted(set(of.tolist())):
        part = table[of == number]
        per_ha = part["true"].sum() / (part.groupby(["col", "row"]).ngroups * cell**2 / 1e4)
        rows.append({"per_ha": round(float(per_ha), 2)} | _facts(part, level))
    return rows


def _correction(table: pd.DataFrame, level: float) -> dict[str, Any]:
    """Correction factor for the number of detections; not applied automatically."""
    own = table.groupby(["col", "row"])[["detected", "true"]].sum()
    true, detected = own["true"].to_numpy(float), own["detected"].to_numpy(float)
    factor = None if not detected.sum() else round(float(true.sum() / detected.sum()), 4)
    ends = _ratio_ci(true, detected, level, lambda ratio: ratio) if len(own) >= _ENOUGH else None
    return {"factor": factor, "factor_ci": ends, "applied": False}


def _hectares(areas: gpd.GeoDataFrame) -> float:
    return float(areas.to_crs(areas.estimate_utm_crs()).area.sum()) / 1e4
