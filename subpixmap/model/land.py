"""The land that a model was taught on: polygons in its card, so that nothing is certified on them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Card

USES = ("training", "calibration")
"""Uses of land that decide a model's numbers."""
_DIGITS = 6  # of a degree, 0.1 m


def land_json(polygons: Mapping[str, Iterable[BaseGeometry]]) -> dict[str, list[str]]:
    """Use -> polygons (EPSG:4326) as a card keeps them, under `training["land"]`."""
    return {
        use: [shapely.to_wkt(one, rounding_precision=_DIGITS) for one in sorted(some, key=lambda one: one.bounds)]
        for use, some in polygons.items()
    }


def taught_land(card: Card) -> list[BaseGeometry] | None:
    """Polygons (EPSG:4326) that the model was trained or calibrated on; None where the card does not say.

    Raises
    ------
    InputError
        The card holds something else there.
    """
    land = card.training.get("land")
    if land is None:
        return None
    try:
        return [shapely.from_wkt(text) for use in USES for text in land.get(use, ())]
    except (AttributeError, TypeError, shapely.errors.GEOSException) as error:
        raise InputError(f"card {card.name!r}: the land it was taught on cannot be read ({error})") from error
