"""Review of detections in QGIS: draws cells, and turns accepted and corrected cells into reference data.

`review.gpkg` holds two layers with their styles: `cells` (status is to be filled: accept, correct or reject) and
`objects` (the detections in them, to be moved, deleted or added where a cell is corrected). The imagery of every cell
lies beside it as a small GeoTIFF. What is left blank was not looked at.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from subpixmap.detection.images import Image, moved
from subpixmap.detection.styles import CELLS_STYLE, OBJECTS_STYLE
from subpixmap.errors import InputError
from subpixmap.region.layers import UNREADABLE
from subpixmap.region.vector import without_shape

STATUS = ("accept", "correct", "reject")
LAYERS = ("cells", "objects")
_AROUND_M = 5.0
"""Of imagery shown around a cell."""


@dataclass(frozen=True)
class Reviewed:
    """The result of a review."""

    cells: gpd.GeoDataFrame
    """Cells that were accepted or corrected, EPSG:4326."""
    objects: gpd.GeoDataFrame
    """object and geometry of all objects in them, EPSG:4326."""
    rejected: int
    blank: int


def draw_cells(
    points: gpd.GeoDataFrame, images: Sequence[Image], land: gpd.GeoDataFrame, *, n: int, side: float, seed: int = 0
) -> gpd.GeoDataFrame:
    """Square cells of images, drawn at random from classes of the number of detections: none, few, many.

    Parameters
    ----------
    points
        Detections.
    images
        Those that they come from.
    land
        What was looked at, with `unit_name` (the image); cells lie wholly in it.
    n
        Cells.
    side
        Metres.
    seed
        Of the draw.

    Returns
    -------
    geopandas.GeoDataFrame
        cell_id, image_id, image_date, n_detected, probability (of the cell to be drawn), status, note; EPSG:4326.

    Raises
    ------
    InputError
        The images hold no whole cell.
    """
    parts = [_grid(image, land, side) for image in images]
    frame = gpd.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=4326)
    if not len(frame):
        raise InputError(f"no cell of {side:g} m lies completely inside the images: use a smaller --cell")
    at = shapely.STRtree(points.geometry.to_numpy()).query(frame.geometry.to_numpy(), predicate="contains")[0]
    frame["n_detected"] = np.bincount(at, minlength=len(frame))
    strata = _strata(frame["n_detected"].to_numpy())
    rng = np.random.default_rng(seed)
    drawn: list[int] = []
    present = np.unique(strata)
    for k, stratum in enumerate(present):
        here = np.flatnonzero(strata == stratum)
        wanted = min(len(here), -(-(n - len(drawn)) // (len(present) - k)))
        frame.loc[here, "probability"] = wanted / len(here)
        drawn += rng.permutation(here)[:wanted].tolist()
    cells = frame.iloc[sorted(drawn)].reset_index(drop=True)
    return cells.assign(status=pd.Series([None] * len(cells), dtype=object), note=None)


def write_review(path: Path, cells: gpd.GeoDataFrame, points: gpd.GeoDataFrame, images: Sequence[Image]) -> list[Path]:
    """Write the GeoPackage with its styles, and the imagery of every cell beside it.

    Raises
    ------
    InputError
        The file exists: people may have worked in it.
    """
    if path.exists():
        raise InputError(f"{path} already exists and may contain review work: give another name, or remove it")
    chips = path.with_suffix(".chips")
    chips.mkdir(parents=True, exist_ok=True)
    by_id = {image.id: image for image in images}
    names = []
    for row in cells.itertuples():
        names.append(f"{chips.name}/{row.cell_id}.tif")
        _write_chip(path.parent / names[-1], by_id[row.image_id], row.geometry)
    inside = gpd.sjoin(points, cells[["cell_id", "geometry"]], predicate="within").drop(columns="index_right")
    cells.assign(chip=names).to_file(path, layer="cells", driver="GPKG")
    inside[["cell_id", "object", "score", "size_m", "geometry"]].to_file(path, layer="objects", driver="GPKG")
    _add_styles(path)
    written = [path, chips]
    for layer, style in zip(LAYERS, (CELLS_STYLE, OBJECTS_STYLE), strict=True):
        beside = path.with_name(f"{path.stem}.{layer}.qml")
        beside.write_text(style, encoding="utf-8")
        written.append(beside)
    return written


def is_review(path: Path) -> bool:
    """Whether a file is a GeoPackage of `detect-review`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if path.suffix.lower() != ".gpkg":
        return False
    try:
        return set(LAYERS) <= {str(name) for name, _ in pyogrio.list_layers(path)}
    except UNREADABLE as error:
        raise InputError(f"{path.name} cannot be read: {' '.join(str(error).split())[:120]}") from error


def read_review(path: Path) -> Reviewed:
    """Cells and objects that people accepted or corrected.

    Raises
    ------
    InputError
        Not a review, a status that is unknown, no cell that was looked at, or an accepted cell whose objects changed.
    """
    if not is_review(path):
        raise InputError(f"{path.name} is not a GeoPackage of detect-review (layers cells and objects)")
    cells, objects = (gpd.read_file(path, layer=layer) for layer in LAYERS)
    status = cells["status"].fillna("").astype(str).str.strip().str.lower()
    if (wrong := ~status.isin(["", *STATUS])).any():
        first = cells.loc[wrong].iloc[0]
        raise InputError(
            f"{path.name}: cell {first['cell_id']} has status {first['status']!r}; use {', '.join(STATUS)}"
        )
    kept = cells[status.isin(["accept", "correct"])].reset_index(drop=True)
    if not len(kept):
        raise InputError(f"{path.name}: no cell is accepted or corrected ({int((status == '').sum())} are blank)")
    objects = objects[~without_shape(objects.geometry)].to_crs(4326)
    inside = gpd.sjoin(objects[["object", "geometry"]], kept[["cell_id", "n_detected", "geometry"]], predicate="within")
    inside = inside[~inside.index.duplicated()]
    if (nameless := inside["object"].isna() | (inside["object"].astype(str).str.strip() == "")).any():
        raise InputError(
            f"{path.name}: {int(nameless.sum())} objects of corrected cells have no name: fill in the column object"
        )
    number = inside.groupby("cell_id").size().reindex(kept["cell_id"], fill_value=0).to_numpy()
    accepted = (status[status.isin(["accept", "correct"])] == "accept").to_numpy()
    if (changed := accepted & (number != kept["n_detected"].to_numpy())).any():
        name = kept.loc[changed, "cell_id"].iloc[0]
        raise InputError(
            f"{path.name}: cell {name} is accepted, but its objects were changed: set its status to correct"
        )
    return Reviewed(
        kept.assign(n_true=number),
        inside[["object", "geometry"]].reset_index(drop=True),
        int((status == "reject").sum()),
        int((status == "").sum()),
    )


def write_reference_input(folder: Path, reviewed: Reviewed) -> list[Path]:
    """Points and labelled areas as `subpixmap reference` reads them; cells that touch become one area.

    Raises
    ------
    InputError
        No object stands in any of the cells.
    """
    if not len(reviewed.objects):
        raise InputError("the accepted cells have no object, but a reference needs some: review more cells")
    folder.mkdir(parents=True, exist_ok=True)
    metric = reviewed.cells.to_crs(reviewed.cells.estimate_utm_crs())
    areas: list[tuple[str, str, shapely.Geometry]] = []
    for (image, day), part in metric.groupby(["image_id", "image_date"]):
        for shape in shapely.get_parts(shapely.union_all(part.geometry.buffer(0.05).to_numpy())):
            areas.append((f"{image} {len(areas) + 1}", day, shape.buffer(-0.05)))
    table = gpd.GeoDataFrame(
        {"unit_name": [one[0] for one in areas], "image_date": [one[1] for one in areas]},
        geometry=[one[2] for one in areas],
        crs=metric.crs,
    )
    paths = [folder / "points.gpkg", folder / "labelled.gpkg"]
    reviewed.objects.to_file(paths[0], driver="GPKG")
    table.to_crs(4326).to_file(paths[1], driver="GPKG")
    return paths


def _grid(image: Image, land: gpd.GeoDataFrame, side: float) -> pd.DataFrame:
    """Cells of an image that lie wholly in the land that was looked at."""
    px = max(1, round(side / image.resolution))
    own = land[land["unit_name"] == image.id].geometry
    rows, cols = np.arange(0, image.height - px + 1, px), np.arange(0, image.width - px + 1, px)
    corner = np.array([(col, row) for row in rows for col in cols], float).reshape(-1, 2)
    boxes = shapely.box(corner[:, 0], corner[:, 1], corner[:, 0] + px, corner[:, 1] + px)
    shapes = shapely.transform(boxes, lambda xy: np.column_stack(image.lonlat(xy[:, 0], xy[:, 1])))
    whole = np.zeros(len(shapes), bool)
    if len(own):
        seen = shapely.buffer(shapely.union_all(own.to_numpy()), 1e-8)  # a millimetre: edges are the same
        whole = shapely.contains(seen, shapes)
    ids = [f"{image.id}-{int(row)}-{int(col)}" for col, row in corner[whole]]
    columns = {"cell_id": ids, "image_id": image.id, "image_date": image.image_date, "geometry": shapes[whole]}
    return pd.DataFrame(columns)


def _strata(numbers: NDArray[np.integer]) -> NDArray[np.int64]:
    """Classes of cells by their detections: none, and two halves of the rest."""
    some = numbers[numbers > 0]
    middle = np.median(some) if some.size else 0
    return np.where(numbers == 0, 0, np.where(numbers <= middle, 1, 2)).astype(np.int64)


def _write_chip(path: Path, image: Image, cell: shapely.Geometry) -> None:
    """The imagery of a cell and a little around it, as a tiled GeoTIFF with overviews (COG)."""
    xy = shapely.get_coordinates(cell)
    col, row = image.pixels(xy[:, 0], xy[:, 1])
    more = int(np.ceil(_AROUND_M / image.resolution))
    left, top = max(0, int(np.floor(col.min())) - more), max(0, int(np.floor(row.min())) - more)
    right, bottom = min(image.width, int(np.ceil(col.max())) + more), min(image.height, int(np.ceil(row.max())) + more)
    window = RasterWindow(left, top, right - left, bottom - top)
    with rasterio.open(image.path) as source:
        profile = {"driver": "COG", "height": window.height, "width": window.width, "count": len(image.bands)}
        west, north = moved(image.transform, left, top)
        transform = Affine(image.transform.a, 0, float(west), 0, image.transform.e, float(north))
        profile |= {"dtype": image.dtype, "crs": source.crs, "transform": transform}
        with rasterio.open(path, "w", nodata=image.nodata, compress="deflate", **profile) as chip:
            chip.write(source.read(range(1, len(image.bands) + 1), window=window))


def _add_styles(path: Path) -> None:
    """Styles inside the GeoPackage, which QGIS takes by itself."""
    with sqlite3.connect(path) as file:
        file.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT,"
            " f_table_schema TEXT, f_table_name TEXT, f_geometry_column TEXT, styleName TEXT, styleQML TEXT,"
            " styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT, ui TEXT, update_time DATETIME)"
        )
        file.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES "
            "('layer_styles', 'attributes', 'layer_styles')"
        )
        for layer, style in zip(LAYERS, (CELLS_STYLE, OBJECTS_STYLE), strict=True):
            file.execute(
                "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
                " styleQML, styleSLD, useAsDefault, description, owner) VALUES ('', '', ?, 'geom', 'review', ?, '', 1,"
                " 'subpixmap detect-review', '')",
                (layer, style),
            )
    file.close()
