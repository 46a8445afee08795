"""GeoParquet that others read: version, covering and a part by its box, as pyarrow sees them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import shapely

from subpixmap.detection.detections import detection_facts, write_points
from subpixmap.export.polygons import write_with_polygons
from subpixmap.files import geoparquet_bytes
from subpixmap.region.layers import read_layer
from subpixmap.runfolder import RunUnits, write_units

PLACES = [(120.0, 10.0), (120.5, 10.0), (121.0, 11.0), (125.0, -3.0)]
BOX = (120.4, 9.9, 121.05, 11.05)
IN_BOX = {"u1", "u2"}


def units() -> gpd.GeoDataFrame:
    ids = [f"u{k}" for k in range(len(PLACES))]
    squares = [shapely.box(x, y, x + 0.1, y + 0.1) for x, y in PLACES]
    return gpd.GeoDataFrame({"unit_id": ids, "unit_name": ids, "parent_id": None}, geometry=squares, crs=4326)


def exported(folder: Path) -> Path:
    rows = pd.DataFrame({"unit_id": ["u0", "u1", "u2", "u3", "REGION"], "map_total": 1.0})
    (path,) = write_with_polygons({"counts": rows}, units(), folder, "geoparquet")
    assert path.name == "counts.geo.parquet"
    return path


def of_run(folder: Path) -> Path:
    write_units(folder, RunUnits(units(), "a file", "1"))
    return folder / "units.parquet"


def detected(folder: Path) -> Path:
    points = units().set_geometry(shapely.points(PLACES), crs=4326).drop(columns="parent_id")
    write_points(folder / "points.parquet", points, {"detector": "d"})
    assert detection_facts(folder / "points.parquet") == {"detector": "d"}
    return folder / "points.parquet"


@pytest.mark.parametrize("write", [exported, of_run, detected])
def test_what_is_written_can_be_read_by_its_box(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    geo = json.loads(pq.read_schema(path).metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    assert geo["version"] == "1.1.0"
    assert column["covering"]["bbox"] == {edge: ["bbox", edge] for edge in ("xmin", "ymin", "xmax", "ymax")}
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 4326}
    west, south, east, north = BOX
    meets = (
        (pc.field("bbox", "xmin") <= east)
        & (pc.field("bbox", "xmax") >= west)
        & (pc.field("bbox", "ymin") <= north)
        & (pc.field("bbox", "ymax") >= south)
    )
    by_arrow = ds.dataset(path).to_table(filter=meets).column("unit_id").to_pylist()
    whole = gpd.read_parquet(path)
    in_memory = whole[whole.intersects(shapely.box(*BOX))]["unit_id"]
    assert set(by_arrow) == set(in_memory) == set(gpd.read_parquet(path, bbox=BOX)["unit_id"]) == IN_BOX
    assert "bbox" not in whole.columns


def test_a_column_of_the_same_name_stays_the_users(tmp_path: Path) -> None:
    table = units().assign(bbox="mine")
    found = gpd.read_parquet(io.BytesIO(geoparquet_bytes(table)))
    assert found["bbox"].tolist() == ["mine"] * len(PLACES)


@pytest.mark.parametrize("suffix", [".parquet", ".geoparquet"])
def test_both_suffixes_are_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"units{suffix}"
    path.write_bytes(geoparquet_bytes(units()))
    found: Any = read_layer(path, "polygons")
    assert found["unit_id"].tolist() == units()["unit_id"].tolist()
    assert np.array_equal(found.geometry.bounds, units().geometry.bounds)
