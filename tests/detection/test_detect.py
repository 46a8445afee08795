"""Detection in windows: the number does not depend on them; an interrupted one goes on; points lie on the ground."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import torch
from affine import Affine
from pystac.extensions.mlm import MLMExtension, TaskType
from pystac.validation import validate_dict

from subpixmap.detection.detections import detection_facts, share_land
from subpixmap.detection.detector import Detector, load_detector, measure_halo
from subpixmap.detection.images import moved, open_image
from subpixmap.detection.predict import predict_boxes
from subpixmap.detection.windows import detect_window, join_windows, margin_of, tasks_of
from subpixmap.errors import Incomplete, Refused
from subpixmap.model.stac_item import item_path
from subpixmap.verbs.detect import detect
from tests.detection.conftest import EPSG, paint

SCORE = 0.3


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """288 x 288 px with 60 discs, taken in March 2021."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    paint(path, side=288, n=60, seed=5, tags={"TIFFTAG_DATETIME": "2021:03:14 10:20:30"})
    return path


def count(scene: Path, detector: Detector, side: int) -> int:
    tasks = list(tasks_of(open_image(scene), detector, side=side, score=SCORE))
    return len(join_windows([(task.core, detect_window(task, detector)) for task in tasks], detector))


def test_the_number_does_not_change_with_the_window(scene: Path, detector: Detector) -> None:
    """Within 0.5 % (DeepForest's issue 1400 is of 300 px against 1200 px)."""
    whole = count(scene, detector, 288)
    assert whole > 20  # of 60: how many it finds is the training's matter
    for side in (96, 144):
        assert abs(count(scene, detector, side) - whole) <= 0.005 * whole, side


def test_without_a_margin_the_number_does_change(
    scene: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = count(scene, detector, 288)
    monkeypatch.setattr("subpixmap.detection.windows.margin_of", lambda _: 0)
    assert abs(count(scene, detector, 32) - whole) > 0.005 * whole


def test_nothing_beyond_the_halo_changes_what_is_seen(detector: Detector) -> None:
    """The measured halo against the network itself: pixels outside are exchanged."""
    rng = np.random.default_rng(0)
    halo, core = detector.halo, 16
    side = 2 * (halo + 64) + core
    pixels = rng.uniform(0, 255, (3, side, side)).astype(np.float32)
    other = rng.uniform(0, 255, pixels.shape).astype(np.float32)
    inside = slice(64, side - 64)
    other[:, inside, inside] = pixels[:, inside, inside]
    with torch.inference_mode():
        one, two = (detector.net.backbone(torch.from_numpy(p)[None] / 255)["0"][0] for p in (pixels, other))
        one, two = (detector.net.head.classification_head.conv(f[None])[0] for f in (one, two))
    middle = slice((side // 2 - 8) // 4, (side // 2 + 8) // 4)
    assert torch.allclose(one[:, middle, middle], two[:, middle, middle], atol=1e-5)
    assert measure_halo(detector.net, detector.card) == halo <= margin_of(detector)


def test_points_stand_where_the_discs_do(scene: Path, detector: Detector, detector_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "points.parquet"
    found = detect([scene], detector_file, out, score=SCORE, workers=0, quiet=True)
    points = gpd.read_parquet(out)
    assert len(points) == found.points == found.by_object["disc"]
    assert list(points.columns) == ["object", "score", "size_m", "image_date", "image_id", "geometry"]
    assert set(points["image_date"]) == {"2021-03-14"}
    assert set(points["image_id"]) == {"scene"}
    xy = points.to_crs(EPSG).geometry
    with rasterio.open(scene) as file:
        red = file.read(1)
        col, row = moved(~file.transform, xy.x, xy.y)
    assert np.median(red[row.astype(int), col.astype(int)]) > 120  # discs are 160, the ground 70
    assert points["size_m"].median() == pytest.approx(18, rel=0.3)
    areas = gpd.read_file(tmp_path / "points.areas.geojson")
    assert areas.to_crs(EPSG).area.sum() == pytest.approx(288 * 288, rel=1e-3)
    facts = detection_facts(out)
    assert facts is not None
    assert facts["detector_sha256"] == detector.sha256
    assert facts["evaluation"] is None


def test_an_interrupted_detection_goes_on_and_ends_alike(
    scene: Path, detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = tmp_path / "whole.parquet", tmp_path / "again.parquet"
    options: dict[str, Any] = {"window": 144, "score": SCORE, "workers": 0, "quiet": True}
    detect([scene], detector_file, whole, **options)
    done: list[str] = []

    def stops(task: Any, model: Detector) -> Any:
        if len(done) == 2:
            raise OSError("the disk is gone")
        done.append(task.name)
        return detect_window(task, model)

    with monkeypatch.context() as patch:
        patch.setattr("subpixmap.detection.windows.detect_window", stops)
        with pytest.raises(Incomplete, match=r"2 of 4 windows failed.*the disk is gone"):
            detect([scene], detector_file, again, **options)
    assert not again.exists()
    with pytest.raises(Refused, match="unfinished detection of other images"):
        detect([scene], detector_file, again, **options | {"window": 64})
    before = len(done)
    detect([scene], detector_file, again, **options)
    assert len(done) == before == 2
    assert gpd.read_parquet(again).equals(gpd.read_parquet(whole))
    assert not list(tmp_path.glob("*.parts"))


def test_no_detection_is_a_result(painted: Path, detector_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "points.parquet"
    found = detect([painted / "empty.tif"], detector_file, out, image_date="2021", score=0.97, workers=0, quiet=True)
    assert found.points == 0
    points = gpd.read_parquet(out)
    assert len(points) == 0
    assert points.crs == 4326
    assert len(gpd.read_file(tmp_path / "points.areas.geojson")) == 1


def test_where_images_overlap_each_object_counts_once(scene: Path, detector_file: Path, tmp_path: Path) -> None:
    """Two halves of the scene that overlap by 60 px find what the whole finds."""
    with rasterio.open(scene) as file:
        pixels, transform = file.read(), file.transform
        for name, part in {"left": slice(0, 170), "right": slice(110, 288)}.items():
            west = transform.c + part.start
            shifted = Affine(transform.a, 0, west, 0, transform.e, transform.f)
            options = {"height": 288, "width": part.stop - part.start, "count": 3, "dtype": "uint8"}
            with rasterio.open(
                tmp_path / f"{name}.tif", "w", driver="GTiff", crs=file.crs, transform=shifted, **options
            ) as half:
                half.write(pixels[:, :, part])
    options = {"image_date": "2021", "score": SCORE, "workers": 0, "quiet": True}
    whole = detect([scene], detector_file, tmp_path / "w.parquet", **options)  # type: ignore[arg-type]
    halves = [tmp_path / "left.tif", tmp_path / "right.tif"]
    both = detect(halves, detector_file, tmp_path / "b.parquet", **options)  # type: ignore[arg-type]
    assert both.left_out > 0
    assert abs(both.points - whole.points) <= 0.01 * whole.points
    areas = gpd.read_file(tmp_path / "b.areas.geojson").to_crs(EPSG)
    assert areas.area.sum() == pytest.approx(288 * 288, rel=1e-3)


def test_land_without_pixels_was_not_looked_at(detector_file: Path, tmp_path: Path) -> None:
    paint(tmp_path / "half.tif", side=192, n=20, seed=3)
    with rasterio.open(tmp_path / "half.tif", "r+") as file:
        pixels = file.read()
        pixels[:, :, 96:] = 0
        file.nodata = 0
        file.write(pixels)
    out = tmp_path / "p.parquet"
    detect([tmp_path / "half.tif"], detector_file, out, image_date="2021", score=SCORE, workers=0, quiet=True)
    points = gpd.read_parquet(out).to_crs(EPSG)
    assert len(points) > 0
    assert (points.geometry.x < 500_000 + 96).all()
    area = gpd.read_file(tmp_path / "p.areas.geojson").to_crs(EPSG).area.sum()
    assert area == pytest.approx(192 * 96, rel=1e-2)


def test_images_that_do_not_fit_are_refused_by_name(
    painted: Path, detector_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    paint(tmp_path / "nowhere.tif", epsg=None)
    paint(tmp_path / "four.tif", bands=4)
    paint(tmp_path / "wide.tif", dtype="uint16")
    paint(tmp_path / "fine.tif", resolution=0.5)
    out = ("--model", detector_file, "-o", tmp_path / "p.parquet", "--workers", 0)
    dated = ("--image-date", "2021-03")
    assert "nowhere.tif has no georeference" in refused("detect", tmp_path / "nowhere.tif", *out, *dated)
    assert "has 4 bands, but the detector needs 3" in refused("detect", tmp_path / "four.tif", *out, *dated)
    assert "of type uint16, but the detector needs uint8" in refused("detect", tmp_path / "wide.tif", *out, *dated)
    assert "0.5 m, but the detector was trained on 1 m" in refused("detect", tmp_path / "fine.tif", *out, *dated)
    assert "has no date: give --image-date" in refused("detect", painted / "a.tif", *out)
    assert "'yesterday' is not a date" in refused("detect", painted / "a.tif", *out, "--image-date", "yesterday")
    assert "multiple of 16" in refused("detect", painted / "a.tif", *out, *dated, "--window", 100)
    assert "ends in .parquet" in refused(
        "detect", painted / "a.tif", "--model", detector_file, "-o", tmp_path / "p.csv", *dated
    )
    assert not (tmp_path / "p.parquet").exists()


def test_detectors_of_another_kind_are_refused(
    painted: Path, detector_file: Path, stand_in: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "d.pt")
    whole = detector_file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    flipped = bytearray(whole)
    flipped[-7] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(bytes(flipped))
    for path, message in {
        tmp_path / "d.pt": "this is a pickle",
        stand_in: "without a subpixmap-detector card",
        tmp_path / "cut.safetensors": "not a complete safetensors file",
        tmp_path / "flipped.safetensors": "sha256 differs",
        tmp_path / "none.safetensors": "none.safetensors does not exist",
    }.items():
        told = refused("detect", painted / "a.tif", "--model", path, "-o", tmp_path / "p.parquet", "--image-date", 2021)
        assert message in told


def test_a_detector_is_the_same_after_loading(detector: Detector, detector_file: Path, painted: Path) -> None:
    pixels, valid = (image := open_image(painted / "a.tif", needs_date=False)).read(image.window)
    one, two = (predict_boxes(d, pixels, valid, score=SCORE) for d in (detector, load_detector(detector_file)))
    assert len(one) > 5
    assert np.array_equal(one.xyxy, two.xyxy)
    card = json.loads(detector_file.with_suffix(".card.json").read_text())
    assert card["objects"] == ["disc"]
    assert card["training"]["empty_images"] == 1
    item = json.loads(item_path(detector_file).read_text(encoding="utf-8"))
    validate_dict(item, extensions=[])
    model = MLMExtension.ext(pystac.Item.from_dict(item))
    assert model.tasks == [TaskType.OBJECT_DETECTION]
    assert model.input[0].bands == card["bands"]
    assert item["assets"]["model"]["file:size"] == detector_file.stat().st_size
    scaling = item["properties"]["mlm:input"][0]["value_scaling"]
    assert [one["mean"] for one in scaling] == pytest.approx([255 * mean for mean in card["input_mean"]])
    for end in (".metrics.json", ".curves.json", ".curves.png", ".curves.csv"):
        assert detector_file.with_suffix(end).is_file()
    assert not detector_file.with_suffix(".state").exists()


def test_land_is_shared_out_once() -> None:
    one = gpd.GeoDataFrame({"image_id": ["a"], "score": [0.9], "size_m": [9.0]}, geometry=gpd.points_from_xy([1], [1]))
    two = gpd.GeoDataFrame({"image_id": ["b"], "score": [0.8], "size_m": [9.0]}, geometry=gpd.points_from_xy([1], [1]))
    from shapely import box

    points, areas, left = share_land([one.set_crs(4326), two.set_crs(4326)], [box(0, 0, 2, 2), box(1, 0, 3, 2)])
    assert len(points) == left == 1
    assert [area.area for area in areas] == [4, 2]
