"""The chain from imagery to totals, small: no stage loses an object unseen. The model is hardly trained."""

import json
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import torch

from subpixmap.detection.detections import COLUMNS, areas_path, read_detections, write_areas, write_points
from subpixmap.detection.images import open_image
from subpixmap.files import file_sha256
from subpixmap.grid import Lattice, transformer, utm_epsg
from subpixmap.model.card import Card
from subpixmap.model.net import DensityNet
from subpixmap.reference.countmap import count_map
from subpixmap.reference.folder import read_reference
from subpixmap.reference.points import read_points

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import detector_chain

POOR, DROPPED, DOUBLED = ("place_1", "place_3", "place_5"), 5, 4
"""In these places each fifth palm is missed; in the others each fourth is found twice."""


@pytest.fixture(scope="module")
def elsewhere(country: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imagery and labels of six places, in a folder OUT of the workflow."""
    out = tmp_path_factory.mktemp("chain")
    (out / "country").symlink_to(country)
    return detector_chain.see_elsewhere(out, places=6, side=240)


@pytest.fixture(scope="module")
def points(elsewhere: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a detector with known errors finds there, as `subpixmap detect` writes it: no network decides it."""
    path = tmp_path_factory.mktemp("points") / "points.parquet"
    images = [open_image(tif, image_date="2021-12-20") for tif in sorted(elsewhere.glob("*.tif"))]
    labels = gpd.read_parquet(elsewhere / "labels.parquet")
    palms = labels[labels["object"].isin(detector_chain.OBJECTS)].reset_index(drop=True)
    poor = palms["place"].isin(POOR)
    twice = palms[~poor].iloc[::DOUBLED]
    inward = twice.assign(geometry=twice.translate(*(2e-6, 2e-6)))  # 0.3 m, more than doubles that are refused
    seen = pd.concat([palms.drop(palms[poor].index[::DROPPED]), inward], ignore_index=True)
    columns = {"score": 0.9, "size_m": 2 * seen["radius_m"], "image_date": "2021-12-20", "image_id": seen["place"]}
    seen = seen.assign(**columns)[[*COLUMNS, "geometry"]]
    about = {
        "detector": "known errors",
        "objects": list(detector_chain.OBJECTS),
        "images": [{"image_id": one.id, "sha256": file_sha256(one.path)} for one in images],
        "evaluation": None,
    }
    write_points(path, seen, about)
    write_areas(areas_path(path), images, [one.footprint for one in images])
    return path


def follow(out: Path, points: Path) -> int:
    """The workflow with these points, and a model of 3 steps, which see objects everywhere from the start."""
    options = ["--train", "--steps", "3", "--blocks", "1", "--without-labels", "--workers", "0"]
    build = Card.build_member

    def build_hopeful(card: Card) -> DensityNet:
        net = build(card)
        assert net.heads.bias is not None
        torch.nn.init.constant_(net.heads.bias, 3.0)  # else the sign of the total is luck, and a calibration may refuse
        return net

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Card, "build_member", build_hopeful)
        patch.setattr("sys.argv", ["detector_chain.py", str(out), "--points", str(points), *options])
        return detector_chain.main()


@pytest.fixture(scope="module")
def chain(elsewhere: Path, points: Path) -> Path:
    """OUT of the workflow."""
    assert follow(elsewhere.parent, points) == 0
    return elsewhere.parent


def test_what_the_detector_misses_and_invents_is_told(chain: Path, elsewhere: Path) -> None:
    labels = gpd.read_parquet(elsewhere / "labels.parquet")
    result = json.loads((chain / "chain.json").read_text())
    palms = labels[labels["object"].isin(detector_chain.OBJECTS)]
    poor = palms["place"].isin(POOR)
    dropped, doubled = -(-poor.sum() // DROPPED), -(-(~poor).sum() // DOUBLED)
    assert min(dropped, doubled) > 0
    places = [stages["places"] for stages in result.values()]
    assert sum(place["true"] for place in places) == len(palms)
    assert sum(place["matched"] for place in places) == len(palms) - dropped
    assert sum(place["detected"] for place in places) == len(palms) - dropped + doubled


def test_every_stage_says_how_many_objects_it_passed_on(chain: Path) -> None:
    result = json.loads((chain / "chain.json").read_text())
    points = gpd.read_parquet(chain / "points.parquet")
    labels = gpd.read_file(chain / "true.gpkg")
    assert len(result) >= 1
    for name, stages in result.items():
        places, reference = stages["places"], stages["reference"]
        assert places["true"] == (labels["object"] == name).sum()
        assert places["detected"] == (points["object"] == name).sum() == reference["points_in_areas"]
        assert reference["on_count_maps"] == pytest.approx(reference["points_in_areas"], rel=1e-6)  # of float32
        assert np.isfinite(stages["country"]["detected"])
        assert stages["error"]["total"] == pytest.approx(stages["country"]["detected"] / stages["country"]["true"] - 1)
        factor = places["true"] / places["detected"]
        assert stages["country"]["corrected"] == pytest.approx(factor * stages["country"]["detected"])


def test_points_to_count_map_keep_their_number(chain: Path) -> None:
    points = read_points(chain / "points.parquet")
    lon, lat = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
    epsg = int(utm_epsg(lon[:1], lat[:1])[0])
    x, y = transformer(4326, epsg).transform(lon, lat)
    lattice = Lattice(epsg)
    window = lattice.window((x.min(), y.min(), x.max(), y.max())).padded(3)
    assert abs(count_map(x, y, lattice, window).sum() / len(points) - 1) < 1e-9


def test_what_was_measured_stands_in_the_reference_and_in_the_card(chain: Path) -> None:
    from subpixmap.model.checkpoint import load_model

    source = read_reference(chain / "detected").source
    assert source is not None
    detection = json.loads(json.dumps(source["detection"]))
    assert detection["evaluation"]["all"]["n"] > 0
    assert detection["evaluation"]["correction"]["applied"] is False
    card = load_model(chain / "detected.safetensors").card
    assert card.training["reference"]["detection"] == detection


def test_points_of_other_imagery_are_refused(
    chain: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, about = read_detections(points)
    other = tmp_path / "other.parquet"
    write_points(other, table, about | {"images": [one | {"sha256": "0"} for one in about["images"]]})
    assert follow(chain, other) == 2
    assert "not points of the imagery" in capsys.readouterr().err
