"""Calibrates a model without training, from reference data or labelled cells of a map.

In: a model and ground data. Out: a new model. Its card has the basis of the calibration, its range when places are
resampled, the former values, and the land that can no longer validate the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model
from subpixmap.model.land import with_calibration_land

MIN_PLACES = 10
"""Places that a calibration rests on, at least."""
_DRAWS = 200

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationCells:
    """Cells of a map that were labelled."""

    mapped: Array
    """(cell,) what the map says, objects."""
    count: Array
    """(cell,) what was counted."""
    weight: Array
    """(cell,) cells that each stands for."""
    pixels: int
    """Of a cell."""
    ha: float
    """Of a cell."""


def require_places(n: int, what: str) -> None:
    """Refuse a calibration with too few places."""
    if n < MIN_PLACES:
        raise InputError(f"{what}: a calibration needs at least {MIN_PLACES} places, but there are {n}; label more")


def fit_cells(cells: CalibrationCells) -> tuple[float, float]:
    """Background (objects per pixel) and slope that fit the map to labelled cells.

    As in `fit_calibration`: the background is the mean of the map in empty cells, the slope corrects the total
    of the other cells. Cells are weighted.

    Raises
    ------
    InputError
        No objects were counted, or the map does not increase with the counts.
    """
    empty, full = cells.count == 0, cells.count > 0
    background = float(np.average(cells.mapped[empty], weights=cells.weight[empty])) if empty.any() else 0.0
    above = float((cells.weight * (cells.mapped - background))[full].sum())
    truth = float((cells.weight * cells.count)[full].sum())
    if not (above > 0 and truth > 0):
        raise InputError(f"cannot calibrate: {truth:.0f} objects in labelled cells, {above:.0f} in the map: label more")
    return background / cells.pixels, truth / above


def recalibrate(
    model: Model, cells: Mapping[str, CalibrationCells], land: Sequence[BaseGeometry], *, name: str, source: str
) -> Model:
    """Apply background and slope on top of the model's calibration.

    Parameters
    ----------
    model
        That made the map.
    cells
        Object -> labelled cells; objects without them stay as they are.
    land
        Outlines of the cells, EPSG:4326.
    name, source
        Of the new card; where the labels come from, in words.
    """
    calibration, trimmed, facts = dict(model.card.calibration), dict(model.card.trimmed), {}
    for one, labelled in cells.items():
        require_places(len(labelled.count), one)
        background, slope = fit_cells(labelled)
        facts[one] = _basis(labelled)
        old, old_trimmed = calibration.get(one, (0.0, 1.0)), trimmed.get(one, (0.0, 1.0))
        # count = (raw - b0) s0, and now (count - b) s: in terms of raw it is a background and a slope again. The means
        # without extremes are corrected on top of that, and must come out moved by the same b and s.
        calibration[one] = old[0] + background / old[1], old[1] * slope
        if one in trimmed:
            lower = slope * (old_trimmed[0] - background) + background * slope / old_trimmed[1]
            trimmed[one] = lower, old_trimmed[1]
    card = dataclasses.replace(
        model.card,
        name=name,
        calibration=calibration,
        trimmed=trimmed,
        training=_account(model, facts, land, source),
        error={},
        limits=(*model.card.limits, limit(source)),
    )
    return Model.of(model.net, card)


def accounted(model: Model, before: Model, land: Sequence[BaseGeometry], *, name: str, source: str) -> Model:
    """A model that `calibrate` made of another one, with the account of that in its card."""
    training = _account(before, model.card.training.get("calibrated_on", {}), land, source)
    limits = (*before.card.limits, limit(source))
    card = dataclasses.replace(model.card, name=name, training=training, error={}, limits=limits)
    return Model.of(model.net, card)


def limit(source: str) -> str:
    """What a card says of its error after a calibration."""
    return f"Calibrated on {source}: its error has not been evaluated since. Map again with it."


def _account(model: Model, facts: Mapping[str, Any], land: Sequence[BaseGeometry], source: str) -> dict[str, Any]:
    """What the card says of a calibration."""
    return {
        **model.card.training,
        "land": with_calibration_land(model.card, land),
        "calibrated_on": dict(facts),
        "calibration_source": source,
        "calibrated_from": {
            "name": model.card.name,
            "sha256": model.sha256,
            "calibration": {one: list(pair) for one, pair in model.card.calibration.items()},
            "error": model.card.error,
        },
    }


def _basis(cells: CalibrationCells) -> dict[str, Any]:
    """Hectares behind a calibration, and its range when cells are resampled."""
    rng, n = np.random.default_rng(0), len(cells.count)
    moved = []
    for _ in range(_DRAWS):
        drawn = rng.integers(n, size=n)
        part = CalibrationCells(cells.mapped[drawn], cells.count[drawn], cells.weight[drawn], cells.pixels, cells.ha)
        try:
            moved.append(fit_cells(part))
        except InputError:  # a draw without objects
            continue
    basis: dict[str, Any] = {
        "objects": round(float(cells.count.sum()), 1),
        "places": n,
        "ha": round(n * cells.ha, 2),
        "empty_ha": round(float((cells.count == 0).sum() * cells.ha), 2),
    }
    if moved:
        for name, values in zip(("background_95", "slope_95"), np.transpose(moved), strict=True):
            basis[name] = [round(float(q), 6) for q in np.quantile(values, [0.025, 0.975])]
    return basis
