"""Trees on real aerial imagery: a detector of some NEON tiles, measured on another, and its points as a count map.

    python workflows/neon_trees.py DIR OUT [--steps 800] [--detector FILE]

DIR holds tiles of the NEON tree evaluation data (0.1 m, RGB) with crown boxes. The detector learns from two tiles
without a georeference (YELL in Yellowstone, SOAP in the Sierra Nevada) and is measured on OSBS in Florida, another
forest far away, as far as its labelled crowns go. OUT gets the detector, points and neon.json.
"""

import argparse
import json
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np

from subpixmap.detection.config import DetectConfig
from subpixmap.detection.images import open_image
from subpixmap.detection.labels import read_labels
from subpixmap.grid import Lattice, transformer
from subpixmap.reference.countmap import count_map
from subpixmap.verbs.detect import BoxLabels, detect, evaluate_detections, train_detector

TAUGHT = ("2019_YELL_2_541000_4977000_image_crop.png", "SOAP_061.png")
TESTED = "OSBS_029"
EPSG = 32617
DISTANCE = 2.0
"""Metres within which a detection matches a crown."""


def on_the_ground(folder: Path, out: Path) -> Path:
    """The labelled crowns of the test tile, as points."""
    image = open_image(folder / f"{TESTED}.tif", image_date="2019")
    labels = read_labels(folder / f"{TESTED}.csv", [image], same_object="tree")[0]
    middle = (labels.boxes[:, :2] + labels.boxes[:, 2:]) / 2
    table = {"object": list(labels.names)}
    path = out / "crowns.gpkg"
    shapes = gpd.points_from_xy(*image.lonlat(middle[:, 0], middle[:, 1]))
    gpd.GeoDataFrame(table, geometry=shapes, crs=4326).to_file(path)
    return path


def kept_by_count_map(points: gpd.GeoDataFrame) -> dict[str, float]:
    """Points, and the sum of their count map."""
    lattice = Lattice(EPSG)
    x, y = transformer(4326, EPSG).transform(points.geometry.x.to_numpy(), points.geometry.y.to_numpy())
    window = lattice.window((x.min(), y.min(), x.max(), y.max())).padded(3)
    return {"points": float(len(points)), "on_count_map": float(np.sum(count_map(x, y, lattice, window)))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--detector", type=Path)
    options = parser.parse_args()
    data, out = options.data, options.out
    out.mkdir(parents=True, exist_ok=True)
    detector = options.detector
    if detector is None:
        detector = out / "neon.safetensors"
        labels = BoxLabels(same_object="tree", resolution=0.1, image_date="2019")
        config = DetectConfig(steps=options.steps, distance=DISTANCE)
        images = [data / name for name in TAUGHT]
        train_detector(images, data, detector, reading=labels, config=config, channels=32)
    points = out / "points.parquet"
    detect([data / f"{TESTED}.tif"], detector, points, image_date="2019", workers=0)
    facts = evaluate_detections(
        points, on_the_ground(data, out), labelled=points.with_suffix(".areas.geojson"), distance=DISTANCE, cell=10
    )
    facts["count_map"] = kept_by_count_map(gpd.read_parquet(points))
    (out / "neon.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts["count_map"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
