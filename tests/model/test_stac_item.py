"""The STAC item beside a model: `pystac` reads it, and it says what file and card say."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely
import torch
from pystac.extensions.mlm import MLMExtension, TaskType, ValueScaling
from pystac.validation import validate_dict

from subpixmap.model.card import Card, read_stored, shipped_models
from subpixmap.model.checkpoint import load_model, save_model
from subpixmap.model.stac_item import ANY_TIME, item_path, write_model_item
from tests.helpers.cards import small_card

SQUARE = "POLYGON ((120 10, 120.1 10, 120.1 10.1, 120 10.1, 120 10))"
BESIDE = "POLYGON ((120.1 10, 120.2 10, 120.2 10.1, 120.1 10.1, 120.1 10))"
TAUGHT = {
    "land": {"training": [SQUARE], "calibration": [BESIDE]},
    "splits": {
        "training": {"acquisitions": {"a": ["S2A_20210304T021341", "S2B_20210629T021341"]}},
        "calibration": {"acquisitions": {"b": ["S2A_20210101T021341"]}},
        "test": {"acquisitions": {"c": ["S2A_20221231T021341"]}},
    },
    "recipe": {"steps": 7},
}


def save(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    card = small_card(**changes)
    save_model(folder / "small.safetensors", card.build_net(), card)
    return folder / "small.safetensors"


def read_item(path: Path) -> pystac.Item:
    """The item of a checkpoint, valid by the core schema; those of the extensions are not at hand offline."""
    content = json.loads(item_path(path).read_text(encoding="utf-8"))
    validate_dict(content, extensions=[])
    item = pystac.Item.from_dict(content)
    item.set_self_href(str(item_path(path)))
    return item


def require_true_to(card: Card, path: Path) -> None:
    """What `pystac` reads of the model is what its card and files hold."""
    item = read_item(path)
    model = MLMExtension.ext(item)
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", model.mlm_name)
    assert (model.architecture, model.framework, model.pretrained) == ("DensityNet", "PyTorch", False)
    assert model.tasks == [TaskType.REGRESSION, TaskType.SEGMENTATION]
    stored = read_stored(path)
    assert model.total_parameters == sum(values.size for values in stored.tensors.values())
    (given,) = model.input
    assert given.bands == list(card.bands) == [band["name"] for band in item.properties["bands"]]
    assert given.input.shape == [-1, len(card.bands), -1, -1]
    assert given.input.dim_order.index("bands") == 1
    scaling = [ValueScaling(one) for one in item.properties["mlm:input"][0]["value_scaling"]]
    assert [(one.mean, one.stddev) for one in scaling] == list(zip(card.input_mean, card.input_std, strict=True))
    assert [one.name for one in model.output] == ["count", "presence"]
    for one in model.output:
        assert one.result.shape == [-1, len(card.objects), -1, -1]
    assert item.properties["gsd"] == card.resolution
    assert item.properties["subpixmap:objects"] == dict(card.objects)
    assert item.properties["subpixmap:evidence"] == card.evidence
    assert item.properties["subpixmap:model_sha256"] == stored.sha256
    assert all(limit in item.properties["description"] for limit in card.limits)
    assert [name for name, asset in item.assets.items() if "mlm:model" in (asset.roles or [])] == ["model"]
    for name in ("model", "card"):
        content = Path(str(item.assets[name].get_absolute_href())).read_bytes()
        fields = item.assets[name].extra_fields
        assert fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
        assert fields["file:size"] == len(content)


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_has_the_item_that_would_be_written_today(name: str, tmp_path: Path) -> None:
    stored = read_stored(name)
    require_true_to(stored.card, stored.path)
    shipped = json.loads(item_path(stored.path).read_text(encoding="utf-8"))
    for end in (".safetensors", ".card.json"):
        (tmp_path / f"{name}{end}").write_bytes(stored.path.with_suffix(end).read_bytes())
    again = json.loads(write_model_item(read_stored(tmp_path / f"{name}.safetensors")).read_text(encoding="utf-8"))
    again["properties"]["mlm:framework_version"] = shipped["properties"]["mlm:framework_version"]
    assert again == shipped, "the card or the code changed: write the item anew (subpixmap/data/README.md)"


def test_an_item_names_the_land_and_the_days_that_taught(tmp_path: Path) -> None:
    path = save(tmp_path, evidence="sentinel-2", training=TAUGHT, name="olives, Puglia/2")
    require_true_to(read_stored(path).card, path)
    item = read_item(path)
    land = shapely.geometry.shape(item.geometry)
    assert land.is_valid
    assert land.equals(shapely.box(120, 10, 120.2, 10.1))
    assert item.bbox == [120, 10, 120.2, 10.1]
    assert shapely.is_ccw(land.exterior)
    when = item.common_metadata
    assert (str(when.start_datetime)[:10], str(when.end_datetime)[:10]) == ("2021-01-01", "2021-06-29")
    assert item.id == "olives, Puglia/2"
    assert MLMExtension.ext(item).mlm_name == "olives- Puglia-2"
    assert item.properties["mlm:hyperparameters"]["steps"] == 7


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"training": TAUGHT}, "simulated"),
        ({"evidence": "sentinel-2"}, "no geometry: its card names no land that can be drawn; any time: its card names"),
        (
            {"evidence": "sentinel-2", "training": {"land": {"training": ["POLYGON ((0"]}}},
            "no geometry: its card names",
        ),
        (
            {"evidence": "sentinel-2", "training": {"land": {}, "splits": "?"}},
            "any time: its card names no acquisitions",
        ),
    ],
)
def test_an_item_says_why_it_has_no_place(changes: dict[str, Any], note: str, tmp_path: Path) -> None:
    item = read_item(save(tmp_path, **changes))
    assert item.geometry is None
    assert item.bbox is None
    assert (item.properties["start_datetime"], item.properties["end_datetime"]) == ANY_TIME
    assert note in item.properties["subpixmap:context"]


def test_the_same_model_gives_the_same_item(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = (item_path(save(tmp_path / folder, training=TAUGHT)) for folder in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()


def test_a_model_without_an_item_loads(tmp_path: Path) -> None:
    path = save(tmp_path)
    item_path(path).unlink()
    assert load_model(path).card == small_card()


@pytest.mark.parametrize("name", ["x", "7", "été", "a.b", "-", "demo-s2", "b_", "  "])
def test_any_name_becomes_one_that_the_extension_allows(name: str, tmp_path: Path) -> None:
    model = MLMExtension.ext(read_item(save(tmp_path, name=name)))
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", model.mlm_name)


def test_scaling_is_that_of_the_network(tmp_path: Path) -> None:
    """What the item says of its input is what the network does: one z-score a band."""
    path = save(tmp_path)
    scaling = read_item(path).properties["mlm:input"][0]["value_scaling"]
    net: Any = load_model(path).net
    assert np.allclose([one["mean"] for one in scaling], net.mean.ravel())
    assert np.allclose([one["stddev"] for one in scaling], 1 / net.scale.ravel())
