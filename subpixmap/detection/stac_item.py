"""A detector and its card -> the STAC item beside them, as `model.stac_item` writes it of a model that counts."""

from __future__ import annotations

import contextlib
from datetime import date
from pathlib import Path

from subpixmap.detection.detector import Detector, DetectorCard
from subpixmap.errors import InputError
from subpixmap.model.stac_item import Context, input_of, write_item
from subpixmap.reference.reference import parse_image_date


def write_detector_item(path: Path, detector: Detector) -> Path:
    """Write the item of the detector at `path` beside it and its card; returns its path."""
    card = detector.card
    weights = card.training.get("weights", "random")
    pretrained = weights != "random"
    properties = {
        "title": f"{', '.join(card.objects)}: boxes on imagery of {card.resolution:g} m",
        "description": f"Finds {', '.join(card.objects)} on {card.dtype} images of the bands {' '.join(card.bands)}.",
        "gsd": card.resolution,
        "mlm:architecture": "RetinaNet",
        "mlm:tasks": ["object-detection"],
        "mlm:total_parameters": sum(one.numel() for one in detector.net.parameters()),
        "mlm:pretrained": pretrained,
        "mlm:pretrained_source": weights if pretrained else None,
        "mlm:input": [
            input_of(
                "image",
                f"pixels of {card.resolution:g} m, as they are in the file",
                card.bands,
                (mean * card.full_value for mean in card.input_mean),
                (std * card.full_value for std in card.input_std),
                data_type=card.dtype,
            )
        ],
        "mlm:output": [
            {
                "name": "boxes",
                "description": f"corners in pixels, each with a class and a score; kept from {card.score:g} on",
                "tasks": ["object-detection"],
                "result": {"shape": [-1, 4], "dim_order": ["object", "corner"], "data_type": "float32"},
                "classification:classes": [{"value": k, "name": name} for k, name in enumerate(card.objects)],
                "post_processing_function": None,
            }
        ],
        "subpixmap:evidence": card.evidence,
        "subpixmap:model_sha256": detector.sha256,
    }
    loader = "subpixmap.detection.detector.load_detector"
    return write_item(path, card.name, card.bands, _context(card), properties, loader=loader)


def _context(card: DetectorCard) -> Context:
    days: list[date] = []
    for text in card.training.get("image_dates", ()):
        with contextlib.suppress(InputError):  # not stated
            days += parse_image_date(text)
    found = (min(days).isoformat(), max(days).isoformat()) if days and card.evidence != "simulated" else None
    when = "time: that of the images" if found else "any time: the card names no days of real images"
    return Context(None, found, f"no geometry: the card names no land; {when}")
