"""A table of detected points on the ground with metadata, in one GeoParquet file.

Beside it lies `<name>.areas.geojson`: the land that was looked at, an outline an image. Land without valid pixels is
not in it, because what nobody saw is not empty.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from subpixmap.detection.detector import Detector
from subpixmap.detection.images import Image
from subpixmap.detection.predict import Boxes
from subpixmap.detection.windows import CELL
from subpixmap.errors import InputError
from subpixmap.files import geoparquet_bytes, write_atomic
from subpixmap.grid import transformer, utm_epsg

COLUMNS = ("object", "score", "size_m", "image_date", "image_id")
_KEY = b"subpixmap_detection"
_KEPT = ("detector", "detector_sha256", "score", "evidence", "error_on_held_out_blocks")
_MEASURED = ("matching_distance_m", "checked_ha", "all", "by_object", "correction")
"""Of an evaluation, what reference data and cards keep."""


def points_of(image: Image, boxes: Boxes, detector: Detector) -> gpd.GeoDataFrame:
    """Boxes of an image -> points in EPSG:4326 with the columns of `COLUMNS`."""
    objects = np.array(detector.card.objects, object)
    sides = np.sqrt(np.prod(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], axis=1)) * image.resolution
    centre = boxes.centre.astype(float)
    lon, lat = image.lonlat(centre[:, 0], centre[:, 1]) if len(boxes) else (np.zeros(0), np.zeros(0))
    columns = {
        "object": objects[boxes.kind],
        "score": boxes.score.round(4),
        "size_m": sides.astype(np.float32).round(2),
        "image_date": np.full(len(boxes), image.image_date, object),
        "image_id": np.full(len(boxes), image.id, object),
    }
    return gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(lon, lat), crs=4326)


def area_of(image: Image, known: NDArray[np.bool_]) -> shapely.Geometry:
    """Land of an image with valid pixels, in EPSG:4326."""
    if known.all():
        return image.footprint
    shapes = rasterio.features.shapes(known.astype("uint8"), mask=known, transform=Affine.scale(CELL))
    drawn = [shapely.geometry.shape(shape) for shape, _ in shapes]
    cut = shapely.intersection(shapely.union_all(drawn), shapely.box(0, 0, image.width, image.height))
    return shapely.transform(cut, lambda xy: np.column_stack(image.lonlat(xy[:, 0], xy[:, 1])))


def share_land(
    points: Sequence[gpd.GeoDataFrame], areas: Sequence[shapely.Geometry]
) -> tuple[gpd.GeoDataFrame, list[shapely.Geometry], int]:
    """Where images overlap, the first one counts; an object that an edge cuts in two counts once.

    Returns
    -------
    tuple
        All points, the land of each image without that of earlier ones, and the number of points left out.
    """
    own, kept, taken, n = [], [], shapely.MultiPolygon(), 0
    for table, area in zip(points, areas, strict=True):
        mine = shapely.difference(area, taken) if shapely.intersects(area, taken) else area
        free = np.ones(len(table), bool)
        if mine is not area:
            free = ~shapely.contains_xy(taken, table.geometry.x.to_numpy(), table.geometry.y.to_numpy())
        own.append(mine)
        kept.append(table[free])
        n += int((~free).sum())
        taken = shapely.union(taken, area)
    together = gpd.GeoDataFrame(pd.concat(kept, ignore_index=True), crs=4326)
    doubles = _cut_in_two(together)
    return together[~doubles].reset_index(drop=True), own, n + int(doubles.sum())


def write_points(path: Path, points: gpd.GeoDataFrame, about: Mapping[str, Any]) -> None:
    """Write points with what is known of them, whole or not at all."""
    table = pq.read_table(pa.BufferReader(geoparquet_bytes(points)))
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: text.encode()}), out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, out.getvalue())


def read_detections(path: Path) -> tuple[gpd.GeoDataFrame, dict[str, Any]]:
    """Points and what is known of them.

    Raises
    ------
    InputError
        No such file, or not one of `subpixmap detect`.
    """
    about = detection_facts(path)
    if about is None:
        raise InputError(f"{path.name} is not a points.parquet written by subpixmap detect")
    return gpd.read_parquet(path), about


def detection_facts(path: Path) -> dict[str, Any] | None:
    """What is known of the detections in a file; None if it is not one of `subpixmap detect`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if path.suffix.lower() not in (".parquet", ".geoparquet"):
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path.name} cannot be read as Parquet: {' '.join(str(error).split())[:120]}") from error
    return dict(json.loads(metadata[_KEY])) if _KEY in metadata else None


def known_of_detections(path: Path) -> dict[str, Any] | None:
    """What reference data made of a file of detections says of the detector; None for points of another kind."""
    facts = detection_facts(path)
    if facts is None:
        return None
    evaluation = facts["evaluation"]
    measured = None if evaluation is None else {k: evaluation[k] for k in _MEASURED if k in evaluation}
    return {name: facts[name] for name in _KEPT if name in facts} | {"evaluation": measured}


def areas_path(points: Path) -> Path:
    """The file of the land that was looked at, beside the points."""
    return points.with_suffix(".areas.geojson")


def write_areas(path: Path, images: Sequence[Image], areas: Sequence[shapely.Geometry]) -> None:
    """Outlines as `subpixmap reference --labelled` reads them; an image without valid pixels has none."""
    table = gpd.GeoDataFrame(
        {"unit_name": [image.id for image in images], "image_date": [image.image_date for image in images]},
        geometry=list(areas),
        crs=4326,
    )
    write_atomic(path, table[~table.geometry.is_empty].to_json(drop_id=True).encode())


def in_metres(points: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """(point, 2) metres in the UTM zone of the middle of the points: near places keep their distances."""
    lon, lat = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
    if not len(points):
        return np.zeros((0, 2))
    zone = int(utm_epsg(np.median(lon)[None], np.median(lat)[None])[0])
    return np.column_stack(transformer(4326, zone).transform(lon, lat))


def _cut_in_two(points: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    """Points whose half of an object stands in another image too, with a higher score."""
    doubles = np.zeros(len(points), bool)
    if points["image_id"].nunique() < 2:
        return doubles
    xy, size = in_metres(points), points["size_m"].to_numpy(float)
    image, score = pd.factorize(points["image_id"])[0], points["score"].to_numpy(float)
    pairs = cKDTree(xy).query_pairs(float(size.max()) / 2, output_type="ndarray")
    pairs = pairs[image[pairs[:, 0]] != image[pairs[:, 1]]]
    near = np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T) <= np.minimum(size[pairs[:, 0]], size[pairs[:, 1]]) / 2
    for one, other in pairs[near]:
        doubles[other if score[one] >= score[other] else one] = True
    return doubles
