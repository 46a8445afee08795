"""Provenance of a training for the card: land, acquisitions, and limits of the error."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Geod
from shapely.geometry.base import BaseGeometry

from subpixmap.grid import project
from subpixmap.model.card import Card
from subpixmap.model.land import USES, land_json
from subpixmap.reference.patches import Patches
from subpixmap.reference.reference import Reference
from subpixmap.reference.samples import Sample, Scheme
from subpixmap.reference.splits import SPLITS
from subpixmap.reference.tiles import AreaTile
from subpixmap.training.config import TrainConfig
from subpixmap.training.evaluate import brief
from subpixmap.training.lines import undertrained

log = logging.getLogger(__name__)

ONE_PLACE_KM = 25.0
"""Across; labelled land that lies closer together is one place."""


def labelled_objects(patches: Patches) -> NDArray[np.float64]:
    """(object,): objects on the labelled land of patches."""
    return np.asarray((patches.count[:, 0] * patches.labelled[:, None]).sum(axis=(0, 2, 3), dtype=float))


def labelled_pixels(patches: Patches) -> float:
    """Labelled pixels; pixels of plots count by the share that the plot covers."""
    if patches.share is None:
        return float(patches.labelled.sum())
    share = np.where(patches.is_plot[:, None, None], patches.share, 1)
    return float((patches.labelled * share).sum(dtype=float))


def training_facts(
    reference: Reference,
    tiles: Sequence[AreaTile],
    samples: Mapping[str, Sample],
    scheme: Scheme,
    config: TrainConfig,
    *,
    sha256: str,
    command: str,
) -> dict[str, Any]:
    """The facts about training for the card."""
    km2 = reference.resolution**2 / 1e6
    tiles_of = {split: "training" if scheme.folds and split == "calibration" else split for split in SPLITS}
    objects = {split: [round(float(n), 1) for n in labelled_objects(samples[split].patches)] for split in SPLITS}
    splits: dict[str, dict[str, Any]] = {
        split: {
            "units": sorted({tile.unit for tile in tiles if tile.split == tiles_of[split]}),
            "km2": round(labelled_pixels(samples[split].patches) * km2, 4),
            "objects": dict(zip(reference.objects, objects[split], strict=True)),
            "acquisitions": {area: list(names) for area, names in samples[split].acquisitions.items()},
        }
        for split in SPLITS
    }
    # With folds the same land trains and calibrates in turn: count it once.
    used = sum(one["km2"] for split, one in splits.items() if tiles_of[split] == split)
    source = dict(reference.source or {})
    first, last = reference.image_date
    return {
        "data": f"{source_name(reference)}, {_areas(reference)}, {used:.2f} km2 used, imagery of {first} to {last}",
        "command": command,
        "reference": source,
        "reference_sha256": sha256,
        "land": land_json({use: tile_land(tiles, tiles_of[use]) for use in USES}),
        "areas": {area.name: [round(v, 5) for v in area.bounds] for area in reference.areas},
        "splits": splits,
        "scheme": scheme.as_json(),
        "present_above": reference.present_above,
        "recipe": config.recipe,
    }


def source_name(reference: Reference) -> str:
    """The files that a reference was made of, in words."""
    source = dict(reference.source or {})
    named = [str(source[kind]) for kind in ("points", "totals") if kind in source]
    return " and ".join(named) or "reference data"


def _areas(reference: Reference) -> str:
    areas, plots = len({area.name for area in reference.labelled_areas}), len(reference.plots)
    texts = [f"{areas} labelled areas"] if areas or not plots else []
    return " and ".join([*texts, f"{plots} plots of known totals"] if plots else texts)


def tile_land(tiles: Sequence[AreaTile], split: str) -> list[BaseGeometry]:
    """The land of one split, EPSG:4326: its tiles inside their areas."""
    pieces = []
    for tile in tiles:
        if tile.split == split:
            square = shapely.box(*tile.area.lattice.bounds(tile.window))
            land = shapely.intersection(project(square, tile.area.lattice.epsg, 4326), tile.area.outline)
            pieces += [one for one in shapely.get_parts(land) if one.area > 0]
    return pieces


def limits(
    tiles: Sequence[AreaTile], evidence: str, *, level: str = "L2A", days: Sequence[date] = ()
) -> tuple[str, ...]:
    """Limits of the measured error, for the card."""
    areas = {split: {tile.area.name for tile in tiles if tile.split == split} for split in SPLITS}
    texts = []
    if evidence != "sentinel-2":
        texts.append(f"Trained and evaluated on {evidence} imagery: on real Sentinel-2 its numbers are not estimates.")
    if len(set(days)) == 1:
        texts.append(f"Trained on one acquisition ({days[0]}): other days, seasons and atmospheres are untested.")
    west, south, east, north = shapely.total_bounds([tile.area.outline for tile in tiles])
    if (km := Geod(ellps="WGS84").line_length([west, east], [south, north]) / 1000) <= ONE_PLACE_KM:
        texts.append(f"All labelled land lies within {km:.0f} km: one place, others are untested.")
    if level == "L1C":
        texts.append("Level-1C: clouds are not masked, and reflectance includes the atmosphere of the day.")
    if areas["test"] & areas["training"]:
        texts.append("Tested next to its training land, in the same areas: expect larger errors in other regions.")
    else:
        texts.append(f"Tested in {len(areas['test'])} areas that it was not trained in; other regions are untested.")
    texts.append(f"Trained in {len(areas['training'])} areas; other planting systems, seasons and soils are untested.")
    return tuple(texts)


def card_with_errors(card: Card, errors: Mapping[str, Any], steps: int) -> Card:
    """The card with its errors; warns if they or the losses show that the training was too short."""
    remarks = undertrained(card.training["loss"], errors, steps)
    for text in remarks:
        log.warning(text)
    return replace(card, error=brief(errors), limits=(*card.limits, *remarks))


def warn_of_training_land(card: Card, reference: Reference) -> None:
    """Warn if a model is evaluated on its training land."""
    taught = [shapely.box(*bounds) for bounds in dict(card.training.get("areas", {})).values()]
    again = [area.name for area in reference.areas if np.any(shapely.intersects(area.outline, taught))]
    if again:
        log.warning(
            "areas on training land of model %s: %d (%s), so these errors are not an independent test; use other areas",
            card.name, len(again), ", ".join(again[:5]),
        )  # fmt: skip
