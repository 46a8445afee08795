"""Background and slope from labelled cells: exact where the map is off by both, and what the card says of it."""

import dataclasses

import numpy as np
import pytest
import shapely

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model
from subpixmap.model.land import land_json, taught_land
from subpixmap.training.recalibrate import CalibrationCells, fit_cells, recalibrate
from tests.helpers.mapping_data import tiny_model

RNG = np.random.default_rng(0)
COUNT = np.where(RNG.random(60) < 0.4, 0.0, RNG.poisson(20.0, 60)).astype(float)
CELLS = CalibrationCells(COUNT / 1.5 + 3.0, COUNT, RNG.uniform(1, 5, 60), 100, 1.0)
LAND = [shapely.box(0, 0, 1, 1)]


def test_what_was_added_and_scaled_is_found() -> None:
    background, slope = fit_cells(CELLS)
    assert background == pytest.approx(0.03, abs=1e-12)
    assert slope == pytest.approx(1.5, abs=1e-12)


@pytest.mark.parametrize("trimmed", [{}, {"coconut": (0.02, 1.1)}])
def test_a_calibrated_model_predicts_the_corrected_map(trimmed: dict[str, tuple[float, float]]) -> None:
    first = tiny_model(objects=("coconut",))
    card = dataclasses.replace(first.card, calibration={"coconut": (0.1, 2.0)}, trimmed=trimmed)
    model = Model.of(first.net, card)
    made = recalibrate(model, {"coconut": CELLS}, LAND, name="mine", source="my cells")
    raw = np.linspace(0, 3, 7)

    def mean(one: Model, *, without_extremes: bool) -> np.ndarray:
        background, slope = one.card.calibration["coconut"]
        value = (raw - background) * slope
        if without_extremes and trimmed:
            lower, factor = one.card.trimmed["coconut"]
            value = (value - lower) * factor
        return value

    for without_extremes in (False, True):
        before, after = (mean(one, without_extremes=without_extremes) for one in (model, made))
        assert np.allclose(after, (before - 0.03) * 1.5)


def test_the_card_keeps_what_it_rests_on() -> None:
    model = tiny_model(objects=("coconut",))
    made = recalibrate(model, {"coconut": CELLS}, LAND, name="mine", source="my cells")
    training = made.card.training
    assert training["calibrated_on"]["coconut"]["ha"] == 60
    low, high = training["calibrated_on"]["coconut"]["slope_95"]
    assert low <= 1.5 <= high
    assert training["calibrated_from"]["sha256"] == model.sha256
    assert made.sha256 != model.sha256
    assert "my cells" in made.card.limits[-1]
    land = taught_land(made.card)
    assert land.polygons == tuple(LAND)
    assert not land.complete  # which land it was trained on is still not known
    known = dataclasses.replace(model.card, training={"land": land_json({"training": LAND, "calibration": []})})
    again = recalibrate(Model.of(model.net, known), {"coconut": CELLS}, LAND, name="mine", source="my cells")
    assert taught_land(again.card).complete
    assert len(taught_land(again.card).polygons) == 2


def test_too_little_is_refused() -> None:
    model = tiny_model(objects=("coconut",))
    few = CalibrationCells(CELLS.mapped[:9], CELLS.count[:9], CELLS.weight[:9], 100, 1.0)
    with pytest.raises(InputError, match="needs at least 10 places, but there are 9"):
        recalibrate(model, {"coconut": few}, LAND, name="mine", source="my cells")
    with pytest.raises(InputError, match="0 objects in labelled cells"):
        fit_cells(dataclasses.replace(CELLS, count=np.zeros(60)))
    with pytest.raises(InputError, match="cannot be read"):
        taught_land(dataclasses.replace(model.card, training={"land": {"training": ["POLYGON nonsense"]}}))
