"""The training land of a model: polygons in its card, which cannot be used to validate it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.model.card import Card

USES = ("training", "calibration")
"""Uses of land that decide a model's numbers."""
_DIGITS = 6  # of a degree, 0.1 m


@dataclass(frozen=True)
class TaughtLand:
    """Land that a model was trained or calibrated on."""

    polygons: tuple[BaseGeometry, ...]
    """EPSG:4326."""
    complete: bool
    """Whether that is all of it: cards of older versions do not say, nor do those of simulated places."""


def land_json(polygons: Mapping[str, Iterable[BaseGeometry]]) -> dict[str, Any]:
    """Use -> polygons (EPSG:4326) as a card keeps them, under `training["land"]`."""
    return {
        use: [shapely.to_wkt(one, rounding_precision=_DIGITS) for one in sorted(some, key=lambda one: one.bounds)]
        for use, some in polygons.items()
    }


def with_calibration_land(card: Card, polygons: Iterable[BaseGeometry]) -> dict[str, Any]:
    """The land of a card, with that of another calibration. A training whose land is not known stays so."""
    stated = dict(card.training.get("land", {"training": None}))
    stated["calibration"] = [*stated.get("calibration", ()), *land_json({"new": polygons})["new"]]
    return stated


def taught_land(card: Card) -> TaughtLand:
    """Land that the model was trained or calibrated on, as far as its card says.

    Raises
    ------
    InputError
        The card holds something else there.
    """
    land = card.training.get("land", {})
    try:
        polygons = tuple(shapely.from_wkt(text) for use in USES for text in land.get(use) or ())
        return TaughtLand(polygons, all(land.get(use) is not None for use in USES))
    except (AttributeError, TypeError, shapely.errors.GEOSException) as error:
        raise InputError(f"card {card.name!r}: the land it was taught on cannot be read ({error})") from error
