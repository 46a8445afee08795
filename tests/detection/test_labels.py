"""Labels of every format give the same boxes; what is not labelled is not empty; bad labels are refused by name."""

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from subpixmap.detection.images import Image, moved, open_image
from subpixmap.detection.labels import LabelledImage, read_labels
from subpixmap.errors import InputError
from tests.detection.conftest import paint

BOXES = np.array([[10.0, 20.0, 30.0, 44.0], [100.0, 90.0, 120.0, 110.0]])


@pytest.fixture
def images(tmp_path: Path) -> list[Image]:
    for name, west in (("one", 500_000.0), ("empty", 500_400.0), ("other", 500_800.0)):
        paint(tmp_path / f"{name}.tif", n=0, west=west)
    return [open_image(tmp_path / f"{name}.tif", image_date="2021") for name in ("one", "empty", "other")]


def on_the_ground(image: Image, boxes: np.ndarray) -> gpd.GeoSeries:
    corners = [moved(image.transform, x, y) for x, y in [*boxes[:, :2], *boxes[:, 2:]]]
    n = len(boxes)
    shapes = [shapely.box(*corners[k], *corners[k + n]) for k in range(n)]
    return gpd.GeoSeries(shapes, crs=image.crs)


def write(folder: Path, kind: str, images: list[Image]) -> tuple[Path, dict[str, object]]:
    """Labels of `one` in a format; `empty` is named as empty."""
    path = folder / f"labels.{kind}"
    if kind == "csv":
        rows = [("one.tif", *box, "palm") for box in BOXES.tolist()] + [("empty.tif", *[None] * 5)]
        pd.DataFrame(rows, columns=["image_path", "xmin", "ymin", "xmax", "ymax", "label"]).to_csv(path, index=False)
    elif kind == "json":
        boxes = [[x, y, a - x, b - y] for x, y, a, b in BOXES.tolist()]
        content = {
            "images": [{"id": 7, "file_name": "one.tif"}, {"id": 8, "file_name": "empty.tif"}],
            "annotations": [{"id": k, "image_id": 7, "category_id": 1, "bbox": box} for k, box in enumerate(boxes)],
            "categories": [{"id": 1, "name": "palm"}],
        }
        path.write_text(json.dumps(content))
    elif kind == "xml":
        path = folder / "xml"
        path.mkdir()
        keys = ("xmin", "ymin", "xmax", "ymax")
        objects = ""
        for box in BOXES.tolist():
            inside = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, box, strict=True))
            objects += f"<object><name>palm</name><bndbox>{inside}</bndbox></object>"
        for name, text in (("one", objects), ("empty", "")):
            (path / f"{name}.xml").write_text(f"<annotation><filename>{name}.tif</filename>{text}</annotation>")
    else:
        areas = folder / "areas.geojson"
        land = gpd.GeoSeries([image.footprint for image in images[:2]], crs=4326)
        gpd.GeoDataFrame({"name": ["one", "empty"]}, geometry=land).to_file(areas)
        shapes = on_the_ground(images[0], BOXES)
        gpd.GeoDataFrame({"object": ["palm", "palm"]}, geometry=shapes, crs=images[0].crs).to_file(path)
        return path, {"areas": areas}
    return path, {}


@pytest.mark.parametrize("kind", ["csv", "json", "xml", "gpkg"])
def test_every_format_gives_the_same_boxes_and_tells_empty_from_unlabelled(
    kind: str, tmp_path: Path, images: list[Image]
) -> None:
    path, options = write(tmp_path, kind, images)
    found = read_labels(path, images, **options)  # type: ignore[arg-type]
    assert [one.image.id for one in found] == ["one", "empty"]  # `other` is not labelled
    assert found[0].boxes == pytest.approx(BOXES, abs=1e-3)
    assert found[0].names == ("palm", "palm")
    assert len(found[1].boxes) == 0
    assert found[1].mask().mean() > 0.98


def test_points_get_the_size_that_is_given_or_that_they_state(tmp_path: Path, images: list[Image]) -> None:
    middle = on_the_ground(images[0], BOXES).centroid
    table = gpd.GeoDataFrame({"object": ["palm", "palm"], "radius_m": [3.0, 5.0]}, geometry=middle)
    table.to_parquet(tmp_path / "p.parquet")
    table.drop(columns="radius_m").to_parquet(tmp_path / "q.parquet")

    def sides(path: str, **options: float) -> list[float]:
        found: LabelledImage = read_labels(tmp_path / path, images, **options)[0]  # type: ignore[arg-type]
        return list((found.boxes[:, 2] - found.boxes[:, 0]).round(3))

    assert sides("p.parquet") == [6.0, 10.0]
    assert sides("q.parquet", size=8.0) == [8.0, 8.0]
    with pytest.raises(InputError, match=r"2 labels are points without a size.*--size"):
        sides("q.parquet")


def test_names_are_chosen_or_made_one(tmp_path: Path, images: list[Image]) -> None:
    rows = [("one.tif", 1, 1, 9, 9, "live"), ("one.tif", 21, 1, 29, 9, "dead")]
    path = tmp_path / "l.csv"
    pd.DataFrame(rows, columns=["image", "xmin", "ymin", "xmax", "ymax", "label"]).to_csv(path, index=False)
    assert read_labels(path, images, objects=["dead"])[0].names == ("dead",)
    assert read_labels(path, images, same_object="tree")[0].names == ("tree", "tree")


def bad_labels() -> Iterator[tuple[str, str, str]]:
    head = "image_path,xmin,ymin,xmax,ymax,label\n"
    yield "l.csv", head + "one.tif,500,10,520,30,palm\n", "1 of 1 labels lie outside one.tif"
    yield "l.csv", head + "nobody.tif,5,10,20,30,palm\n", "has no label of the 3 images"
    yield "l.csv", head + "one.tif,,,,,\n", "holds no object"
    yield "l.csv", head + "one.tif,5,,20,30,palm\n", "row 2 lacks some of its coordinates"
    yield "l.csv", head + "one.tif,20,10,5,30,palm\n", "has no area"
    yield "l.csv", "image_path,left,label\none.tif,5,palm\n", "needs the columns xmin"
    yield "l.csv", "xmin,ymin,xmax,ymax,label\n5,5,9,9,palm\n", "no column image_path"
    yield "l.xml", "<html></html>", "is not a VOC file"
    yield "l.xml", "<annotation><object>", "cannot be read as labels"
    yield "l.json", '{"images": [{"id": 1}], "annotations": []}', "cannot be read as labels"
    yield "l.txt", "1 2 3", "give labels as CSV"


@pytest.mark.parametrize(("name", "text", "message"), list(bad_labels()))
def test_bad_labels_are_refused_by_name(
    name: str, text: str, message: str, tmp_path: Path, images: list[Image], refused: Callable[..., str]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    told = refused("detect-train", *(one.path for one in images), path, "-o", tmp_path / "d.safetensors")
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "d.safetensors").exists()


def test_labels_on_the_ground_outside_all_images_are_refused(tmp_path: Path, images: list[Image]) -> None:
    shapes = on_the_ground(images[0], BOXES + np.array([[0], [300]]))
    gpd.GeoDataFrame({"object": "palm"}, index=[0, 1], geometry=shapes).to_file(tmp_path / "l.gpkg")
    with pytest.raises(InputError, match="1 of 2 labels lie outside the labelled images"):
        read_labels(tmp_path / "l.gpkg", images)


def test_bad_images_are_refused_by_name(tmp_path: Path, painted: Path, refused: Callable[..., str]) -> None:
    paint(tmp_path / "nowhere.tif", epsg=None)
    paint(tmp_path / "four.tif", bands=4)
    paint(tmp_path / "wide.tif", dtype="uint16")
    paint(tmp_path / "signed.tif", dtype="int32")
    paint(tmp_path / "coarse.tif", resolution=2.0)
    (tmp_path / "text.tif").write_text("no image")
    out = ("-o", tmp_path / "d.safetensors")
    for name, message in {
        "nowhere": "nowhere.tif has no georeference",
        "four": "four.tif has 4 bands and a.tif 3",
        "wide": "wide.tif is of type uint16 and a.tif of uint8",
        "signed": "signed.tif is of type int32",
        "coarse": "coarse.tif has pixels of 2 m, not of 1 m",
        "text": "text.tif cannot be read as an image",
    }.items():
        labels = tmp_path / f"{name}.csv"
        rows = [f"{one},20,20,38,38,disc" for one in ("a.tif", f"{name}.tif")]
        labels.write_text("\n".join(["image_path,xmin,ymin,xmax,ymax,label", *rows]))
        assert message in refused("detect-train", painted / "a.tif", tmp_path / f"{name}.tif", labels, *out)
    assert "none.tif does not exist" in refused("detect-train", tmp_path / "none.tif", painted / "labels.csv", *out)
    assert "none.csv does not exist" in refused("detect-train", painted / "a.tif", tmp_path / "none.csv", *out)
    assert "end in .safetensors" in refused("detect-train", painted, painted / "labels.csv", "-o", tmp_path / "d.pt")


def test_weights_that_are_a_pickle_or_do_not_fit_are_refused(
    tmp_path: Path, painted: Path, refused: Callable[..., str]
) -> None:
    import torch
    from safetensors.torch import save_file

    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"a": 1}))
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    train = (
        "detect-train",
        painted,
        painted / "labels.csv",
        "-o",
        tmp_path / "d.safetensors",
        "--tile",
        96,
        "--crop",
        64,
    )
    assert "this is a pickle" in refused(*train, "--weights", tmp_path / "w.pth")
    assert "this is a pickle" in refused(*train, "--weights", tmp_path / "v.pkl")
    assert "0 of its tensors fit" in refused(*train, "--weights", tmp_path / "w.safetensors")
