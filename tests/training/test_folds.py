"""Little land: networks that take turns in calibrating, and the recipe that follows from how much is labelled."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import load_model
from subpixmap.model.land import taught_land
from subpixmap.reference.points import read_points
from subpixmap.reference.reference import Reference, make_reference
from subpixmap.reference.samples import Scheme
from subpixmap.reference.splits import in_folds, most_folds, split_tiles
from subpixmap.reference.tiles import require_apart
from subpixmap.region.units import read_area
from subpixmap.training import process, recipes
from subpixmap.training.config import TrainConfig
from subpixmap.training.from_reference import evaluate_on, learn_from
from subpixmap.training.recipes import LITTLE, LITTLE_HA, USUAL, recipe_for
from subpixmap.training.state import numbered, remove_states
from tests.helpers.reference_data import Painted, paint

FEW = TrainConfig(steps=40, batch=4, crop=16, rate=0.01, head_rate=0.5, warmup=5, average=0.9, threads=1, save_every=60)
SHAPE: dict[str, Any] = {"width": 8, "mid": 4, "blocks": 1}
HALO = 3


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Painted:
    return paint(tmp_path_factory.mktemp("painted"))


@pytest.fixture(scope="module")
def made(painted: Painted) -> Reference:
    return make_reference(read_points(painted.points), read_area(painted.labelled), "2021-03", border=3)


def test_every_unit_calibrates_once_and_no_pixel_serves_both(made: Reference) -> None:
    tiles = split_tiles(made, halo=HALO, by="tile", size=20, folds=3)
    assert {tile.split for tile in tiles} == {"training", "test"}  # none is set aside
    training = [tile for tile in tiles if tile.split == "training"]
    folds = in_folds(training, 3, halo=HALO)
    calibrating = [[tile.unit for tile in fold if tile.split == "calibration"] for fold in folds]
    assert sorted(unit for fold in calibrating for unit in fold) == sorted({tile.unit for tile in training})
    objects = []
    for fold in folds:
        require_apart(fold, HALO)
        assert [tile.window for tile in fold] == [tile.window for tile in training]
        for tile, whole in zip(fold, training, strict=True):
            assert not (tile.used & ~whole.used).any()
            if tile.split == "calibration":
                np.testing.assert_array_equal(tile.used, whole.used)  # the training keeps clear of it
        objects.append(sum((tile.count * tile.used).sum() for tile in fold if tile.split == "calibration"))
    assert max(objects) < 1.5 * min(objects)


def test_too_little_land_for_so_many_folds_is_refused(made: Reference) -> None:
    areas = [tile for tile in split_tiles(made, halo=HALO, test=("area 0",), folds=9) if tile.split == "training"]
    with pytest.raises(InputError, match=r"9 folds.* only 5 tiles with objects.*--folds 0"):
        in_folds(areas, 9, halo=HALO)


def test_few_units_are_shared_out_by_tile(made: Reference) -> None:
    two = [
        tile for tile in split_tiles(made, halo=HALO, size=20, test=("area 0",), folds=4) if tile.split == "training"
    ]
    two = [tile for tile in two if tile.unit in ("area 1", "area 3")]
    assert most_folds(two, 5) == 5
    folds = in_folds(two, 4, halo=HALO)
    assert sum(tile.split == "calibration" for fold in folds for tile in fold) == len(two)
    for fold in folds:
        require_apart(fold, HALO)


def test_options_of_folds() -> None:
    assert Scheme.stated({}).folds == 0  # cards of before set land aside
    for wrong in (1, -1):
        with pytest.raises(InputError, match="--folds"):
            Scheme(folds=wrong)
    with pytest.raises(InputError, match="--calibrate"):
        Scheme(folds=3, calibration=("a",))


def test_it_learns_in_turns_and_calibrates_on_all_that_taught_it(
    painted: Painted, made: Reference, tmp_path: Path
) -> None:
    path, state = tmp_path / "m.safetensors", tmp_path / "m.state"
    scheme = Scheme(tile=40, test=("area 1", "area 4"), folds=3)
    model, errors = learn_from(
        made, str(painted.source), path, reference_sha256="abc", scheme=scheme, config=FEW, state=state,
        evidence="simulated", progress=None, **SHAPE,
    )  # fmt: skip
    card = load_model(path).card
    assert card == model.card
    assert card.members == 3
    splits = card.training["splits"]
    assert splits["calibration"] == splits["training"]
    used = splits["training"]["km2"] + splits["test"]["km2"]  # in folds the same land calibrates
    assert f"{used:.2f} km2 used" in card.training["data"]
    assert len(splits["training"]["units"]) == 7
    kept = [name for name in made.names if name not in scheme.test]
    whole = sum(float(area.count[0][area.labelled == 2].sum()) for area in made.areas if area.name in kept)
    assert card.training["calibrated_on"]["coconut"]["objects"] == pytest.approx(whole, abs=0.2)
    assert any("one place" in text for text in card.limits)
    assert not any("one acquisition" in text for text in card.limits)
    assert card.calibration["coconut"][0] == 0  # by the total alone
    land = taught_land(card)
    assert len(land.polygons) >= 7
    assert abs(errors["coconut"]["total"]["error_pct"]) < 25
    again = evaluate_on(model, made, str(painted.source), reference_sha256="abc", progress=None)
    assert again["coconut"]["total"] == errors["coconut"]["total"]
    with pytest.raises(InputError, match="calibrated in folds"):
        evaluate_on(model, made, str(painted.source), reference_sha256="abc", split="calibration", progress=None)
    assert [numbered(state, k, 3).is_file() for k in range(3)] == [True] * 3  # type: ignore[union-attr]
    remove_states(state, 3, folds=3)
    assert not list(tmp_path.glob("*.state"))


def test_states_of_several_networks_of_a_fold_are_found(tmp_path: Path) -> None:
    files = [numbered(numbered(tmp_path / "m.state", k, 2), member, 3) for k in range(2) for member in range(3)]
    for file in files:
        assert file is not None
        file.touch()
    remove_states(tmp_path / "m.state", 6, folds=2)
    assert not list(tmp_path.iterdir())


def test_the_recipe_follows_from_the_land(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "is_fast", lambda: True)
    little, usual = recipe_for(LITTLE_HA, {}), recipe_for(LITTLE_HA + 1, {})
    assert (little.folds, little.width) == (LITTLE.folds, LITTLE.width)
    assert (usual.folds, usual.width) == (0, USUAL.width)
    assert usual.config == dataclasses.replace(USUAL.config, mixed=True, compile=True)
    asked = recipe_for(100, {"steps": 20, "seed": 3, "mixed": False})
    assert (asked.config.steps, asked.config.warmup, asked.config.seed) == (20, 4, 3)
    assert (asked.config.mixed, asked.config.compile) == (False, False)  # who chooses one chooses both
    assert not recipe_for(5000, {"steps": 20}).config.compile  # too short to be worth it
    monkeypatch.setattr(recipes, "is_fast", lambda: False)
    assert recipe_for(5000, {}).config == USUAL.config


def test_a_processor_or_a_compiler_that_lacks_it_is_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(config: TrainConfig) -> None:
        raise InputError("there is none")

    monkeypatch.setattr(process, "require_machine", no_compiler)
    for flags in ({}, {"avx512_bf16": True}):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda flags=flags: flags)
        assert not process.is_fast()
    monkeypatch.setattr(process, "require_machine", lambda config: None)
    assert process.is_fast()
