"""Level-1C: admitted if asked for, every pixel with data valid, never mixed with what a model was not taught on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subpixmap.errors import InputError, Refused
from subpixmap.grid import Window
from subpixmap.mapping.plan import make_plan, read_plan, write_plan
from subpixmap.mapping.recipe import Recipe
from subpixmap.model.checkpoint import Model
from subpixmap.model.predict import check_input
from subpixmap.periods import make_periods
from subpixmap.reference.question import Question
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.cube import open_cube, read_reflectance, read_valid
from subpixmap.scenes.darkness import darkness
from subpixmap.scenes.items import Item, items_sha256, lock_items, read_lock, write_lock
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import CATALOGUES
from subpixmap.verbs.request import Request
from subpixmap.verbs.run import plan
from tests.helpers.mapping_data import BANDS, region_of, tiny_model
from tests.helpers.scenes_data import make_item, write_collection

PERIODS = make_periods(2021)
SIDE = 400
HOLE = slice(100, 140)


def level_1c(folder: Path) -> dict[str, Any]:
    """An item of Level-1C: it says so, and has no scene classes."""
    item = make_item(folder, size_px=SIDE, bands=BANDS, hole=HOLE)
    del item["assets"]["scl"]
    item["collection"] = "sentinel-2-l1c"
    item["properties"]["s2:product_uri"] = item["properties"]["s2:product_uri"].replace("MSIL2A", "MSIL1C")
    item["properties"]["s2:product_type"] = "S2MSI1C"
    return item


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return level_1c(tmp_path_factory.mktemp("level"))


@pytest.fixture(scope="module")
def item(raw: dict[str, Any]) -> Item:
    return lock_items([raw], PERIODS, list(BANDS), level="L1C")[0]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


def of_level(model: Model, level: str) -> Model:
    return Model.of(model.net, dataclasses.replace(model.card, level=level))


def test_a_level_is_admitted_when_it_is_asked_for(raw: dict[str, Any], item: Item, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is S2MSI1C, not Sentinel-2 L2A.*--level L1C"):
        lock_items([raw], PERIODS, list(BANDS))
    with pytest.raises(InputError, match="is not marked as Sentinel-2 L1C"):
        lock_items([make_item(tmp_path, size_px=40, bands=BANDS)], PERIODS, list(BANDS), level="L1C")
    assert (item.level, set(item.assets)) == ("L1C", set(BANDS))
    assert item.offset_dn == -1000  # since baseline 04.00 ESA adds it to both levels


def test_without_scene_classes_every_pixel_with_data_is_valid(item: Item) -> None:
    (lattice,) = lattices([item]).values()
    west, _, _, north = item.bounds
    first = lattice.window((west, north - 10, west + 10, north))
    window = Window(first.row - 5, first.col + 60, 60, 120)
    valid = read_valid([item], lattice, window, MaskRule())
    reflectance = read_reflectance([item], lattice, window, list(BANDS))
    np.testing.assert_array_equal(valid, np.isfinite(reflectance).all(axis=0))
    assert valid.sum() == 55 * 80
    assert darkness(item).dark_check == "cannot say"


def test_the_lock_keeps_the_level_and_older_locks_their_hash(item: Item, tmp_path: Path) -> None:
    write_lock(tmp_path / "items.parquet", [item])
    assert read_lock(tmp_path / "items.parquet") == [item]
    other = dataclasses.replace(item, level="L2A")
    assert items_sha256([item]) != items_sha256([other])
    write_lock(tmp_path / "other.parquet", [other])
    assert b"subpixmap:level" not in (tmp_path / "other.parquet").read_bytes()
    assert read_lock(tmp_path / "other.parquet") == [other]


def test_input_of_another_level_or_sensor_is_refused(model: Model) -> None:
    options: dict[str, Any] = {"bands": tuple(BANDS), "resolution": 10.0}
    check_input(model.card, level="L2A", **options)
    with pytest.raises(Refused, match=r"trained on sentinel-2, L2A, but the input is sentinel-2, L1C.*--level L2A"):
        check_input(model.card, level="L1C", **options)
    other = dataclasses.replace(model.card, sensor="an aeroplane")
    with pytest.raises(Refused, match=r"trained on an aeroplane, L2A, but the input is sentinel-2, L2A"):
        check_input(other, level="L2A", **options)
    check_input(other, level="L1C", force=True, **options)


def test_a_card_without_the_fields_means_level_2a(model: Model) -> None:
    fields = json.loads(model.card.to_json())
    del fields["level"], fields["sensor"]
    card = type(model.card).from_json(json.dumps(fields))
    assert (card.sensor, card.level) == ("sentinel-2", "L2A")


def test_recipe_plan_and_rows_know_the_level(item: Item, model: Model, tmp_path: Path) -> None:
    (lattice,) = lattices([item]).values()
    west, _, _, north = item.bounds
    first = lattice.window((west, north - 10, west + 10, north))
    region = region_of(Window(first.row, first.col, 40, 40), lattice)
    made = make_plan(region, PERIODS, [item], of_level(model, "L1C"), block=256)
    assert (made.recipe.level, made.recipe.sensor, made.model.level) == ("L1C", "sentinel-2", "L1C")
    write_plan(tmp_path, made)
    assert read_plan(tmp_path).recipe == made.recipe
    usual = dataclasses.replace(made.recipe, level="L2A")
    assert not {"level", "sensor"} & set(usual.to_json())  # older folders keep their run_id
    assert Recipe.from_json(usual.to_json()) == usual
    assert usual.run_id != made.run_id
    both = [item, dataclasses.replace(item, level="L2A")]
    with pytest.raises(InputError, match=r"levels L1C and L2A.*--level"):
        make_plan(region, PERIODS, both, model, block=256)


def test_a_run_refuses_a_model_of_another_level_before_it_asks_anything(raw: dict[str, Any], tmp_path: Path) -> None:
    source = write_collection(tmp_path / "items.json", [raw])
    options: dict[str, Any] = {"region": "1,2,3,4", "years": "2021", "source": (str(source),), "model": "demo-rgbn"}
    with pytest.raises(Refused, match=r"the input is sentinel-2, L1C"):
        plan(Request(**options, level="L1C", out=tmp_path / "out"))
    with pytest.raises(InputError, match=r"--level 'L1A' is unknown; choose L1C or L2A"):
        Request(**options, level="L1A")  # type: ignore[arg-type]


def test_a_cube_knows_its_level(raw: dict[str, Any], tmp_path: Path) -> None:
    source = write_collection(tmp_path / "items.json", [raw])
    cube = open_cube(raw["bbox"], 2021, source=str(source), level="L1C")
    assert (cube.attrs["sensor"], cube.attrs["level"]) == ("sentinel-2", "L1C")


def test_an_answer_for_one_level_does_not_answer_for_another() -> None:
    asked = Question.from_json(
        {"sources": [], "first": "2021-01-01", "last": "2021-01-02", "months": [1], "bands": [], "collection": None,
         "areas": {}}
    )  # fmt: skip
    assert asked.level == "L2A"
    assert "level" not in asked.as_json()
    other = dataclasses.replace(asked, level="L1C")
    assert Question.from_json(other.as_json()) == other
    assert not other.answered_by(asked, [])


def test_a_catalogue_without_the_level_is_refused() -> None:
    assert CATALOGUES["cdse"].of("L1C") == "sentinel-2-l1c"
    with pytest.raises(InputError, match=r"--level L1C.*one of earth-search, cdse"):
        CATALOGUES["planetary-computer"].of("L1C")
