"""Reads labels as boxes in pixels of each image, with the labelled land.

An image in which nothing stands and an image that nobody labelled are two different things. A table says the first by
naming the image without a box: a CSV row without coordinates, a VOC file without objects, an entry of COCO's `images`
without annotations, a labelled polygon without points. An image that the labels do not name is not labelled, and not
used.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio.features
import shapely
from numpy.typing import NDArray

from subpixmap.detection.images import Image, moved
from subpixmap.errors import InputError
from subpixmap.region.layers import PARQUET, UNREADABLE, read_layer
from subpixmap.region.vector import without_shape

BOX = ("xmin", "ymin", "xmax", "ymax")
_IMAGE = ("image_path", "image", "filename", "file", "image_id")
_NAME = ("object", "label", "class", "category", "name")
_SIZES = {"size_m": 1.0, "diameter_m": 1.0, "radius_m": 2.0}
_EDGE = 1.5
"""Pixels by which a box may reach out of its image: what labelling tools round."""
_MAP_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb", *PARQUET)


@dataclass(frozen=True)
class LabelledImage:
    """An image with all objects of its labelled land."""

    image: Image
    boxes: NDArray[np.float64]
    """(object, 4): xmin, ymin, xmax, ymax in pixels."""
    names: tuple[str, ...]
    """(object,) what each is."""
    labelled: shapely.Geometry
    """Where every object is in `boxes`, in pixels."""

    def mask(self) -> NDArray[np.bool_]:
        """(y, x) True where labelled."""
        size = self.image.height, self.image.width
        return np.asarray(rasterio.features.rasterize([self.labelled], out_shape=size, dtype="uint8") == 1)


@dataclass(frozen=True)
class _Table:
    """Rows in pixels: image (a file name), object, xmin ... ymax; and all images that are labelled."""

    rows: pd.DataFrame
    named: frozenset[str]


def read_labels(
    path: Path,
    images: Sequence[Image],
    *,
    objects: Sequence[str] = (),
    same_object: str | None = None,
    size: float | None = None,
    areas: Path | None = None,
    object_column: str | None = None,
    layer: str | None = None,
) -> list[LabelledImage]:
    """Labels of images.

    Parameters
    ----------
    path
        CSV (image, xmin, ymin, xmax, ymax, or x, y), VOC XML or COCO JSON in pixels; GeoPackage, GeoParquet, GeoJSON or
        Shapefile with boxes or points on the ground; or a folder of CSV, XML and COCO files.
    images
        Those that may be labelled.
    objects
        Names to keep; others count as background. All when empty.
    same_object
        One name for all objects, whatever the labels call them.
    size
        Side of the box around a point, metres, where the table has no `size_m`, `diameter_m` or `radius_m`.
    areas
        Polygons in which every object is labelled; needed for a map without them that leaves images out.
    object_column, layer
        Of the names; and of a file that has several layers.

    Returns
    -------
    list of LabelledImage
        In the order of `images`, without those that are not labelled.

    Raises
    ------
    InputError
        No such file, another format, no image named, a box outside its image, points without a size.
    """
    if not path.exists():
        raise InputError(f"file of labels {path} does not exist")
    pixels = path.is_dir() or path.suffix.lower() in (".csv", ".xml") or _is_coco(path)
    options: dict[str, Any] = {"size": size, "object_column": object_column}
    if pixels:
        found = _in_pixels(path, images, areas=areas, **options)
    else:
        found = _on_the_ground(path, images, areas=areas, layer=layer, **options)
    if not found:
        raise InputError(f"{path.name} has no label of the {len(images)} images (such as {images[0].path.name})")
    found = [_renamed(one, objects, same_object) for one in found]
    if not any(len(one.boxes) for one in found):
        kept = f" {', '.join(objects)}" if objects else ""
        raise InputError(f"{path.name} holds no object{kept} in {len(found)} labelled images; give labels with objects")
    return found


def _renamed(one: LabelledImage, objects: Sequence[str], same: str | None) -> LabelledImage:
    names = np.array(one.names, object)
    keep = np.isin(names, list(objects)) if objects else np.ones(len(names), bool)
    kept = tuple(str(same or name) for name in names[keep])
    return LabelledImage(one.image, one.boxes[keep], kept, one.labelled)


def _in_pixels(
    path: Path, images: Sequence[Image], *, size: float | None, object_column: str | None, areas: Path | None
) -> list[LabelledImage]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    tables = [_read_table(one, object_column) for one in files if _is_table(one)]
    if not tables:
        raise InputError(f"{path} contains no labels: give CSV, VOC XML or COCO JSON files")
    filled = [table.rows for table in tables if len(table.rows)]
    rows = pd.concat(filled, ignore_index=True) if filled else tables[0].rows
    named = frozenset().union(*(table.named for table in tables))
    found = []
    for image in images:
        if not {image.path.name, image.id} & named:
            continue
        own = rows[rows["image"].isin([image.path.name, image.id])]
        boxes = _boxes(own, image, size, path.name)
        _require_inside(boxes, image, path.name)
        drawn = None if areas is None else _areas_in(image, _read_areas(areas))
        whole = shapely.box(0, 0, image.width, image.height)
        found.append(LabelledImage(image, boxes, tuple(own["object"]), whole if drawn is None else drawn))
    return found


def _on_the_ground(
    path: Path,
    images: Sequence[Image],
    *,
    size: float | None,
    object_column: str | None,
    areas: Path | None,
    layer: str | None,
) -> list[LabelledImage]:
    """Boxes or points with a coordinate reference system; without areas an image is labelled if it holds any."""
    if path.suffix.lower() not in _MAP_SUFFIXES:
        raise InputError(f"{path.name}: give labels as CSV, VOC XML, COCO JSON, or a map format such as GeoPackage")
    table = read_layer(path, "boxes or points", layer=layer)
    if not isinstance(table, gpd.GeoDataFrame) or table.crs is None:
        raise InputError(f"{path.name} has no geometry with a coordinate reference system")
    table = table[~without_shape(table.geometry)]
    polygons = None if areas is None else _read_areas(areas)
    found, used = [], np.zeros(len(table), bool)
    for image in images:
        boxes = _bounds_in(image, table)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        labelled = _areas_in(image, polygons) if polygons is not None else None
        land = shapely.box(0, 0, image.width, image.height) if labelled is None else labelled
        inside = shapely.contains_xy(land, middle[:, 0], middle[:, 1])
        used |= inside
        if (labelled is None and not inside.any()) or land.is_empty:
            continue
        own = table[inside].drop(columns=table.geometry.name).assign(**dict(zip(BOX, boxes[inside].T, strict=True)))
        names = own[_column(own, _NAME, object_column, path.name)] if len(own) else pd.Series([], dtype=object)
        found.append(LabelledImage(image, _boxes(own, image, size, path.name), tuple(map(str, names)), land))
    if found and not used.all():
        raise InputError(
            f"{path.name}: {int((~used).sum())} of {len(used)} labels lie outside the labelled images"
            f"{' and areas' if areas else ''} (first: row {int(np.argmin(used))}); leave them out, or give their images"
        )
    return found


def _bounds_in(image: Image, table: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """(row, 4) of shapes in pixels of an image; a point has no extent."""
    if image.crs is None:
        raise InputError(
            f"{image.path.name} has no georeference, but the labels have map coordinates: give labels in pixels"
        )
    shapes = table.to_crs(image.crs).geometry.to_numpy()
    back = ~image.transform
    pixels = shapely.transform(shapes, lambda xy: np.column_stack(moved(back, xy[:, 0], xy[:, 1])))
    return np.asarray(shapely.bounds(pixels))


def _boxes(rows: pd.DataFrame, image: Image, size: float | None, name: str) -> NDArray[np.float64]:
    """(object, 4) pixels; boxes without an extent are points, which get their size."""
    boxes = rows[list(BOX)].to_numpy(float)
    point = (boxes[:, 2] <= boxes[:, 0]) & (boxes[:, 3] <= boxes[:, 1])
    if point.any():
        column = next((one for one in _SIZES if one in rows), None)
        if column is None and size is None:
            raise InputError(
                f"{name}: {int(point.sum())} labels are points without a size: give it with --size, metres, or in a "
                "column size_m, diameter_m or radius_m"
            )
        side = rows[column].to_numpy(float) * _SIZES[column] if column else np.full(len(rows), float(size or 0))
        if not (np.isfinite(side[point]) & (side[point] > 0)).all():
            raise InputError(f"{name}: column {column} has sizes that are not positive numbers; correct them")
        half = np.where(point, side / image.resolution / 2, 0)[:, None]
        boxes = boxes + half * np.array([-1, -1, 1, 1])
    if ((boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])).any():
        raise InputError(
            f"{name}: a box of {image.path.name} has no area; correct it so that xmin < xmax and ymin < ymax"
        )
    return boxes


def _require_inside(boxes: NDArray[np.float64], image: Image, name: str) -> None:
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = (centre < -_EDGE).any(axis=1) | (centre > np.array([image.width, image.height]) + _EDGE).any(axis=1)
    if outside.any():
        first = ", ".join(f"{value:g}" for value in boxes[int(outside.argmax())])
        raise InputError(
            f"{name}: {int(outside.sum())} of {len(boxes)} labels lie outside {image.path.name} "
            f"({image.width} x {image.height} px; first: {first}); check that they belong to this image"
        )


def _read_areas(path: Path) -> shapely.Geometry:
    from subpixmap.region.units import read_area

    return shapely.union_all(read_area(path, layer_option="--labelled-layer").geometry.to_numpy())


def _areas_in(image: Image, areas: shapely.Geometry) -> shapely.Geometry:
    """Labelled land of an image, in its pixels; empty where there is none."""
    here = shapely.intersection(areas, image.footprint)
    moved = shapely.transform(here, lambda xy: np.column_stack(image.pixels(xy[:, 0], xy[:, 1])))
    return shapely.intersection(shapely.make_valid(moved), shapely.box(0, 0, image.width, image.height))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".xml") or _is_coco(path)


def _is_coco(path: Path) -> bool:
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path.name} is not JSON: {error}") from error
    return isinstance(content, dict) and "annotations" in content and "images" in content


def _read_table(path: Path, object_column: str | None) -> _Table:
    try:
        if path.suffix.lower() == ".csv":
            return _read_csv(path, object_column)
        return _read_voc(path) if path.suffix.lower() == ".xml" else _read_coco(path)
    except InputError:
        raise
    except (*UNREADABLE, ElementTree.ParseError, AttributeError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path.name} cannot be read as labels ({type(error).__name__}: {reason})") from error


def _read_csv(path: Path, object_column: str | None) -> _Table:
    table = pd.read_csv(path)
    lower = {str(column).lower(): column for column in table.columns}
    image = lower[_column(table, _IMAGE, None, path.name).lower()]
    rows = pd.DataFrame({"image": [Path(str(text)).name for text in table[image]]})
    if not set(BOX) <= set(lower) and not {"x", "y"} <= set(lower):
        raise InputError(f"{path.name} needs the columns xmin, ymin, xmax, ymax or x, y, in pixels of the image")
    for name, short in zip(BOX, ("x", "y", "x", "y"), strict=True):
        rows[name] = pd.to_numeric(table[lower[name if set(BOX) <= set(lower) else short]], errors="raise")
    for column in set(_SIZES) & set(lower):
        rows[column] = pd.to_numeric(table[lower[column]])
    empty = rows[list(BOX)].isna().all(axis=1) | ((rows[list(BOX)] == 0).all(axis=1) & (set(BOX) <= set(lower)))
    if (half := rows[list(BOX)].isna().any(axis=1) & ~empty).any():
        raise InputError(f"{path.name}: row {int(half.argmax()) + 2} lacks some of its coordinates")
    filled = rows[~empty].copy()
    filled["object"] = table[_column(table, _NAME, object_column, path.name)][~empty].astype(str) if len(filled) else ""
    return _Table(filled, frozenset(rows["image"]))


def _read_voc(path: Path) -> _Table:
    root = ElementTree.parse(path).getroot()
    if root.tag != "annotation":
        raise InputError(f"{path.name} is not a VOC file, which begins with <annotation>")
    name = root.findtext("filename") or f"{path.stem}"
    rows = [
        {"image": name, "object": one.findtext("name", "object")}
        | {key: float(one.findtext(f"bndbox/{key}", "")) for key in BOX}
        for one in root.iter("object")
    ]
    return _Table(pd.DataFrame(rows, columns=["image", "object", *BOX]), frozenset([name]))


def _read_coco(path: Path) -> _Table:
    content = json.loads(path.read_text(encoding="utf-8"))
    names = {one["id"]: Path(one["file_name"]).name for one in content["images"]}
    kinds = {one["id"]: str(one["name"]) for one in content.get("categories", [])}
    rows = []
    for one in content["annotations"]:
        x, y, width, height = map(float, one["bbox"])
        row = (names[one["image_id"]], kinds.get(one["category_id"], str(one["category_id"])))
        rows.append((*row, x, y, x + width, y + height))
    return _Table(pd.DataFrame(rows, columns=["image", "object", *BOX]), frozenset(names.values()))


def _column(table: pd.DataFrame, wanted: Sequence[str], given: str | None, name: str) -> str:
    """The first column of some names; the given one if there is one."""
    lower = {str(column).lower(): str(column) for column in table.columns}
    for one in [given] if given else wanted:
        if one.lower() in lower:
            return lower[one.lower()]
    columns = ", ".join(map(str, table.columns))
    raise InputError(f"{name} has no column {given or ' or '.join(wanted)}; it has {columns}")
