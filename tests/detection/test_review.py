"""A review: drawn cells, their imagery and styles; what people decide, and nothing else, becomes reference input."""

import sqlite3
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

from subpixmap.detection.detections import areas_path, points_of, write_areas, write_points
from subpixmap.detection.detector import Detector
from subpixmap.detection.images import open_image
from subpixmap.detection.predict import Boxes
from subpixmap.reference.points import read_points
from subpixmap.reference.reference import make_reference
from subpixmap.region.units import read_area
from subpixmap.verbs.detect import evaluate_detections, finish_review, review_detections
from tests.detection.conftest import EPSG, paint


@pytest.fixture
def detected(tmp_path: Path, detector: Detector) -> Path:
    """points.parquet of an image of 400 m: 60 detections in its western half."""
    paint(tmp_path / "scene.tif", side=400, n=0)
    image = open_image(tmp_path / "scene.tif", image_date="2021-03-14")
    x, y = (a.ravel() for a in np.meshgrid(np.arange(15, 195, 30.0), np.arange(15, 400, 40.0)))
    boxes = Boxes(
        np.column_stack([x - 5, y - 5, x + 5, y + 5]).astype(np.float32),
        np.full(len(x), 0.8, np.float32),
        np.zeros(len(x), np.int16),
    )
    out = tmp_path / "points.parquet"
    about = {
        "objects": ["disc"],
        "evaluation": None,
        "images": [{"image_id": "scene", "image_date": "2021-03-14", "file": "scene.tif", "sha256": ""}],
    }
    write_points(out, points_of(image, boxes, detector), about)
    write_areas(areas_path(out), [image], [image.footprint])
    return out


def test_cells_have_imagery_styles_and_probabilities(detected: Path, tmp_path: Path) -> None:
    review_detections(detected, [tmp_path / "scene.tif"], tmp_path / "r.gpkg", n=8, cell=100, quiet=True)
    cells, objects = (gpd.read_file(tmp_path / "r.gpkg", layer=layer) for layer in ("cells", "objects"))
    assert len(cells) == 8
    assert cells["status"].isna().all()
    assert (cells["n_detected"] == 0).any()
    assert (cells["n_detected"] > 0).any()
    assert cells["n_detected"].sum() == len(objects)
    assert (1 / cells["probability"]).sum() == pytest.approx(16)  # of 16 cells
    for row in cells.to_crs(EPSG).itertuples():
        with rasterio.open(tmp_path / row.chip) as chip:
            assert shapely.box(*chip.bounds).buffer(0.1).contains(row.geometry)
            assert chip.count == 3
            assert chip.profile["tiled"] or chip.width <= 512
    with sqlite3.connect(tmp_path / "r.gpkg") as file:
        styles = dict(file.execute("SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault = 1"))
    assert set(styles) == {"cells", "objects"}
    for layer, text in styles.items():
        assert ElementTree.fromstring(text.split("\n", 1)[1]).tag == "qgis"
        assert (tmp_path / f"r.{layer}.qml").read_text() == text


def decide(path: Path) -> tuple[str, str]:
    """Accept the cell with most detections, correct an empty one by two objects, reject one; the others stay blank."""
    cells, objects = (gpd.read_file(path, layer=layer) for layer in ("cells", "objects"))
    order = cells["n_detected"].to_numpy().argsort()
    accepted, corrected, rejected = order[-1], order[0], order[-2]
    cells["status"] = cells["status"].astype(object)
    cells.loc[accepted, "status"], cells.loc[corrected, "status"] = "accept", "Correct "
    cells.loc[rejected, "status"] = "reject"
    middle = cells.loc[corrected, "geometry"].centroid
    new = [middle, shapely.Point(middle.x + 1e-4, middle.y)]
    more = gpd.GeoDataFrame({"object": ["disc", "disc"]}, geometry=new, crs=cells.crs)
    cells.to_file(path, layer="cells")
    gpd.GeoDataFrame(gpd.pd.concat([objects, more], ignore_index=True), crs=cells.crs).to_file(path, layer="objects")
    return str(cells.loc[accepted, "cell_id"]), str(cells.loc[corrected, "cell_id"])


def test_what_people_decide_becomes_reference_input(detected: Path, tmp_path: Path) -> None:
    review = tmp_path / "r.gpkg"
    review_detections(detected, [tmp_path], review, n=8, cell=100, quiet=True)
    decide(review)
    cells = gpd.read_file(review, layer="cells")
    accepted = cells[cells["status"] == "accept"].iloc[0]
    finish_review(review, tmp_path / "input", quiet=True)
    points, areas = read_points(tmp_path / "input" / "points.gpkg"), read_area(tmp_path / "input" / "labelled.gpkg")
    assert len(points) == accepted["n_detected"] + 2
    assert areas.to_crs(EPSG).area.sum() == pytest.approx(2e4, rel=1e-3)
    reference = make_reference(points, areas, "2021-03-14", border=1)
    assert sum(reference.points.values()) == len(points)
    assert sum(float(area.count.sum()) for area in reference.areas) == pytest.approx(len(points), rel=1e-6)


def test_a_review_is_a_checked_sample(detected: Path, tmp_path: Path) -> None:
    review = tmp_path / "r.gpkg"
    review_detections(detected, [tmp_path], review, n=8, cell=100, quiet=True)
    decide(review)
    facts = evaluate_detections(detected, review, quiet=True)
    n = int(gpd.read_file(review, layer="cells").query("status == 'accept'")["n_detected"].iloc[0])
    assert facts["all"]["n"] == n + 2
    assert facts["all"]["matched"] == facts["all"]["detected"] == n
    assert set(facts["by_image"]) == {"scene"}


def test_bad_reviews_are_refused_by_name(
    detected: Path, tmp_path: Path, refused: Callable[..., str], subpixmap: Callable[..., int]
) -> None:
    review = tmp_path / "r.gpkg"
    draw = ("detect-review", detected, "--images", tmp_path / "scene.tif", "-o")
    finish = ("detect-review", review, "--finish", "-o", tmp_path / "input")
    assert "needs --images" in refused("detect-review", detected, "-o", review)
    assert "no cell of 900 m" in refused(*draw, review, "--cell", 900)
    assert "ends in .gpkg" in refused(*draw, tmp_path / "r.shp")
    paint(tmp_path / "other.tif", n=0)
    assert "images that --images does not contain, such as scene" in refused(
        "detect-review", detected, "--images", tmp_path / "other.tif", "-o", review
    )
    assert subpixmap(*draw, review, "--n", 6, "-q") == 0
    assert "may contain review work" in refused(*draw, review)
    assert "no cell is accepted or corrected (6 are blank)" in refused(*finish)
    cells = gpd.read_file(review, layer="cells")
    cells.assign(status="maybe").to_file(review, layer="cells")
    assert "has status 'maybe'" in refused(*finish)
    cells.assign(status="accept").to_file(review, layer="cells")
    objects = gpd.read_file(review, layer="objects")
    objects.iloc[1:].to_file(review, layer="objects")
    assert "is accepted, but its objects were changed" in refused(*finish)
    assert "not a GeoPackage of detect-review" in refused("detect-review", detected, "--finish", "-o", tmp_path / "x")
