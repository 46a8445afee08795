"""A card -> a STAC item beside the checkpoint, with the Machine Learning Model extension: catalogues find models by it.

In: a checkpoint and its card. Out: `FILE.stac.json`. Nothing of ours reads it, so a model without one works as well. It
follows version 1.4.0 of the extension, the newest that `pystac` knows. The same files give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.files import file_sha256, write_atomic
from subpixmap.model.card import Card, Stored, card_path
from subpixmap.model.land import USES, taught_land

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
ANY_TIME = ("1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
"""What the extension recommends where no range is known: STAC wants one."""
_DIGITS = 6  # of a degree, 0.1 m, as in the card


@dataclass(frozen=True)
class Context:
    """Where and when the land and imagery are from that a model was taught on."""

    land: BaseGeometry | None
    """EPSG:4326."""
    days: tuple[str, str] | None
    """First and last, ISO."""
    note: str
    """What land and days are, or why they are not known, in words."""


def item_path(path: Path) -> Path:
    """The item that stands beside a checkpoint."""
    return path.with_suffix(".stac.json")


def write_model_item(model: Stored) -> Path:
    """Write the item of a model that counts beside it and its card; returns its path."""
    card = model.card
    properties = {
        "title": f"{', '.join(card.objects)}: counts per pixel of {card.resolution:g} m",
        "description": _description(card),
        "gsd": card.resolution,
        **({"constellation": "sentinel-2"} if card.sensor == "sentinel-2" else {}),
        "mlm:architecture": "DensityNet",
        "mlm:tasks": ["regression", "segmentation"],
        "mlm:total_parameters": card.n_values,
        "mlm:pretrained": False,
        "mlm:pretrained_source": None,
        "mlm:hyperparameters": _hyperparameters(card),
        "mlm:input": [_input(card)],
        "mlm:output": [_output(card, "count"), _output(card, "presence")],
        "subpixmap:evidence": card.evidence,
        "subpixmap:objects": dict(card.objects),
        "subpixmap:measure": dict(card.measure),
        "subpixmap:model_sha256": model.sha256,
    }
    return write_item(model.path, card.name, card.bands, context_of(card), properties, loader="subpixmap.load_model")


def write_item(
    path: Path, name: str, bands: Sequence[str], context: Context, properties: Mapping[str, Any], *, loader: str
) -> Path:
    """Write an item of the checkpoint `path` and the card beside it, with what all models have in common.

    Parameters
    ----------
    path
        The checkpoint; the item names it and its card by relative addresses, with size and checksum.
    name
        Of the model.
    bands
        Of its input.
    context
        Where and when it was taught.
    properties
        What is the model's own.
    loader
        The function of Python that loads it.
    """
    first, last = ANY_TIME
    if context.days is not None:
        first, last = f"{context.days[0]}T00:00:00Z", f"{context.days[1]}T23:59:59Z"
    named = [{"name": band} for band in bands]
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [FILE, MLM],
        "id": name,
        "geometry": None if context.land is None else shapely.geometry.mapping(context.land),
        **({} if context.land is None else {"bbox": list(context.land.bounds)}),
        "properties": {
            "datetime": None,
            "start_datetime": first,
            "end_datetime": last,
            "bands": named,  # for the extension
            "mlm:name": _mlm_name(name),
            "mlm:framework": "PyTorch",
            "mlm:framework_version": version("torch").partition("+")[0],
            "mlm:accelerator": None,
            "mlm:accelerator_constrained": False,
            "mlm:accelerator_summary": "a processor is enough; NVIDIA GPUs are used where there are any",
            **properties,
            "subpixmap:context": context.note,
        },
        "links": [],
        "assets": _assets(path, named, loader),
    }
    to = item_path(path)
    write_atomic(to, (json.dumps(item, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return to


def _assets(path: Path, bands: Sequence[Mapping[str, str]], loader: str) -> dict[str, Any]:
    return {
        "model": {
            **_file(path),
            "type": "application/octet-stream; framework=pytorch",
            "title": "weights, with the card in their metadata",
            "roles": ["mlm:model", "mlm:weights"],
            "bands": bands,  # STAC allows them above only where an asset has them
            "mlm:artifact_type": "safetensors.torch.save_file",
        },
        "card": {
            **_file(card_path(path)),
            "type": "application/json",
            "title": "what the model is, was taught on, and how wrong it is",
            "roles": ["metadata"],
        },
        "code": {
            "href": "https://github.com/subpixmap/subpixmap",
            "type": "text/html",
            "title": f"the Python package that runs it: {loader}",
            "roles": ["code"],
        },
    }


def context_of(card: Card) -> Context:
    """The land that a model was trained and calibrated on, and the days of the imagery, as far as its card says."""
    if card.evidence == "simulated":
        return Context(None, None, "no place and time: it was taught on a simulated country")
    land, days = _land(card), _days(card)
    notes = [
        "geometry: the land it was trained and calibrated on"
        if land
        else "no geometry: its card names no land that can be drawn",
        "time: first and last acquisition it was taught on" if days else "any time: its card names no acquisitions",
    ]
    return Context(land, days, "; ".join(notes))


def _land(card: Card) -> BaseGeometry | None:
    try:
        united = shapely.union_all(shapely.make_valid(list(taught_land(card).polygons)), grid_size=10.0**-_DIGITS)
    except (InputError, shapely.errors.GEOSException):  # a model is not lost for a line in its item
        return None
    if united.area == 0:
        return None
    rounded = shapely.transform(shapely.normalize(united), lambda xy: np.round(xy, _DIGITS))
    return shapely.orient_polygons(rounded)


def _days(card: Card) -> tuple[str, str] | None:
    """From the names of the acquisitions, which begin with platform and start."""
    splits = card.training.get("splits")
    used = [splits.get(use) for use in USES] if isinstance(splits, Mapping) else []
    days = sorted(re.findall(r"_(\d{4})(\d{2})(\d{2})T\d{6}", json.dumps(used)))
    return ("-".join(days[0]), "-".join(days[-1])) if days else None


def _mlm_name(name: str) -> str:
    """A name that the extension allows: it begins with a letter and has three characters or more, few of them marks."""
    plain = re.sub(r"[^a-zA-Z0-9_.\- ]+", "-", name).strip("-_. ")
    return plain if re.fullmatch(r"[a-zA-Z].+[a-zA-Z0-9]", plain) else f"model-{plain}".rstrip("-")


def _description(card: Card) -> str:
    what = "; ".join(f"{name}: {words}" for name, words in card.objects.items())
    return (
        f"Counts per pixel, from {' '.join(card.bands)} of {card.sensor} {card.level}. {what}. {' '.join(card.limits)}"
    )


def _hyperparameters(card: Card) -> dict[str, Any]:
    shape = {name: getattr(card, name) for name in ("width", "mid", "blocks", "members", "turns", "halo")}
    recipe = card.training.get("recipe")
    own = dict(recipe) if isinstance(recipe, Mapping) else {}
    return shape | {name: value for name, value in own.items() if re.fullmatch(r"[0-9a-zA-Z_.-]+", name)}


def _input(card: Card) -> dict[str, Any]:
    what = "reflectance" if card.sensor == "sentinel-2" else "values"
    words = (
        f"{what} from 0 to 1 in pixels of {card.resolution:g} m, not resampled; a pixel without data has the mean of "
        f"its band. The network reads {card.halo} px around a pixel"
    )
    return input_of(f"{card.sensor} {card.level}", words, card.bands, card.input_mean, card.input_std)


def input_of(
    name: str,
    description: str,
    bands: Sequence[str],
    mean: Iterable[float],
    std: Iterable[float],
    *,
    data_type: str = "float32",
) -> dict[str, Any]:
    """An entry of `mlm:input`: batches of images whose bands are scaled by mean and standard deviation."""
    return {
        "name": name,
        "description": description,
        "bands": list(bands),
        "input": _array(len(bands), "bands", data_type),
        "value_scaling": [
            {"type": "z-score", "mean": middle, "stddev": spread} for middle, spread in zip(mean, std, strict=True)
        ],
        "resize_type": None,
        "pre_processing_function": None,
    }


def _output(card: Card, kind: str) -> dict[str, Any]:
    words, task = {
        "count": ("expected objects per pixel, may be negative; then (value - background) x slope, both in the card",
                  "regression"),
        "presence": (f"chance that a pixel holds an object; present from {card.presence_threshold:g} on",
                     "segmentation"),
    }[kind]  # fmt: skip
    return {
        "name": kind,
        "description": f"{words}. Order: {', '.join(card.objects)}",
        "tasks": [task],
        "result": _array(len(card.objects), "object"),
        "classification:classes": [],
        "post_processing_function": None,
    }


def _array(n: int, what: str, data_type: str = "float32") -> dict[str, Any]:
    return {"shape": [-1, n, -1, -1], "dim_order": ["batch", what, "height", "width"], "data_type": data_type}


def _file(path: Path) -> dict[str, Any]:
    checksum = f"1220{file_sha256(path)}"  # 1220 = multihash: sha2-256, 32 bytes
    return {"href": f"./{quote(path.name)}", "file:checksum": checksum, "file:size": path.stat().st_size}
