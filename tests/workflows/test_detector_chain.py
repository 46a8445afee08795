"""The chain from imagery to totals, small: no stage loses an object unseen. The networks are hardly trained."""

import json
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest

from subpixmap.grid import Lattice, transformer, utm_epsg
from subpixmap.reference.countmap import count_map
from subpixmap.reference.folder import read_reference
from subpixmap.reference.points import read_points

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import detector_chain


@pytest.fixture(scope="module")
def chain(country: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of the workflow: 60 steps of the detector, 3 of the model."""
    out = tmp_path_factory.mktemp("chain")
    (out / "country").symlink_to(country)
    with pytest.MonkeyPatch.context() as patch:
        options = ["--taught-places", "4", "--places", "6", "--side", "240", "--detector-steps", "60", "--steps", "3"]
        options += ["--blocks", "1"]
        patch.setattr("sys.argv", ["detector_chain.py", str(out), "--without-labels", "--workers", "0", *options])
        assert detector_chain.main() == 0
    return out


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
