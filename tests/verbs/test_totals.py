"""A model from totals alone, in painted scenes: from a file of plots to a checkpoint, and a calibration by plots."""

import dataclasses
import json
from pathlib import Path

import geopandas as gpd
import pytest
import shapely

from subpixmap.errors import Refused
from subpixmap.grid import project
from subpixmap.model.checkpoint import Model, load_model
from subpixmap.reference.folder import read_reference
from subpixmap.reference.samples import Scheme
from subpixmap.training.from_reference import calibrate_on, evaluate_on
from subpixmap.verbs.request import Labelling, Shape
from subpixmap.verbs.teach import learn
from tests.helpers.reference_data import CORNER, EPSG, Painted, paint

SIDE = 187.0  # metres: plots cut through pixels


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Painted:
    return paint(tmp_path_factory.mktemp("painted"))


@pytest.fixture(scope="module")
def plots(painted: Painted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 plots with the number of the points in each."""
    path, shapes, totals = tmp_path_factory.mktemp("plots") / "plots.gpkg", [], []
    for k in range(64):
        west, north = CORNER[0] + 41.3 + 190 * (k % 8), CORNER[1] - 38.9 - 190 * (k // 8)
        inside = (painted.x >= west) & (painted.x < west + SIDE) & (painted.y <= north) & (painted.y > north - SIDE)
        shapes.append(project(shapely.box(west, north - SIDE, west + SIDE, north), EPSG, 4326))
        totals.append(int(inside.sum()))
    gpd.GeoDataFrame({"palms": totals}, geometry=shapes, crs=4326).to_file(path)
    return path


@pytest.fixture(scope="module")
def taught(painted: Painted, plots: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("taught") / "m.safetensors"
    asked = {"steps": 60, "threads": 1, "save_every": 60, "rate": 0.01, "head_rate": 0.5}
    labelling = Labelling(total_columns={"coconut": "palms"})
    learn(
        plots, None, "2021-03", (str(painted.source),), path, labelling=labelling, scheme=Scheme(folds=2), asked=asked,
        shape=Shape(8, 4, 1), baselines=("mean",), quiet=True,
    )  # fmt: skip
    return path


def test_the_card_says_what_taught_it_and_states_errors_of_plots_alone(taught: Path, plots: Path) -> None:
    card = load_model(taught).card
    assert "plots.gpkg, 64 plots of known totals" in card.training["data"]
    assert card.training["reference"]["total_columns"] == {"coconut": "palms"}
    assert card.training["recipe"]["crop"] == 24
    assert {"total", "plot"} <= set(card.error["coconut"])
    assert not {"pixel", "1 ha", "presence"} & set(card.error["coconut"])
    metrics = json.loads(taught.with_suffix(".metrics.json").read_text())
    splits = card.training["splits"]
    assert 0 < metrics["plots"] < 64
    assert metrics["baselines"]["mean"]["coconut"]["plot"]["n"] == metrics["plots"]
    areas = [splits[split]["km2"] for split in ("training", "test")]
    assert sum(areas) <= 64 * SIDE**2 / 1e6 * 1.001
    totals = gpd.read_file(plots)["palms"].sum()
    assert sum(splits[split]["objects"]["coconut"] for split in ("training", "test")) <= totals + 0.5


def test_a_calibration_by_plots_makes_their_total_right(painted: Painted, taught: Path) -> None:
    model = load_model(taught)
    reference = read_reference(taught.with_suffix(".reference"))
    with pytest.raises(Refused, match="lie on land that model"):
        calibrate_on(model, reference, str(painted.source), name="mine", progress=None)
    training = {key: value for key, value in model.card.training.items() if key not in ("land", "areas")}
    spoiled = Model.of(model.net, dataclasses.replace(model.card, training=training, calibration={"coconut": (0.3, 3)}))
    again = calibrate_on(spoiled, reference, str(painted.source), name="mine", progress=None)
    assert again.card.training["calibrated_on"]["coconut"]["ha"] == pytest.approx(64 * SIDE**2 / 1e4, rel=1e-3)
    errors = evaluate_on(again, reference, str(painted.source), progress=None)
    assert errors["plots"] == 64
    assert errors["coconut"]["total"]["error_pct"] == pytest.approx(0, abs=0.1)
