"""The truth about a country: the trees in its units in each year, and the cars parked in them in each acquisition.

In: a `Country` and its trees and stalls. Out: tables of truth, and their summary. Change happens on 1 January; an
object younger than its visible age is in the imagery but not in the truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from subpixmap.errors import InputError
from subpixmap.files import write_json
from subpixmap.simulate.country import Country
from subpixmap.simulate.noise import FloatArray
from subpixmap.simulate.placement import KIND, Lots, Trees, parked
from subpixmap.simulate.planting import Planted
from subpixmap.simulate.sensor import Acquisition
from subpixmap.simulate.worlds import OBJECTS, VISIBLE_AGE

_ROW_GROUP = 1 << 20


def write_truth(
    out: Path, country: Country, planted: Planted, dates: list[Acquisition], years: tuple[int, int]
) -> None:
    """Write truth.csv, truth_scene.csv, points.parquet, cars.parquet, admin.parquet and region.geojson."""
    truth_by_year(country, planted, years).to_csv(out / "truth.csv", index=False, lineterminator="\n")
    truth_by_scene(country, planted.lots, dates).to_csv(out / "truth_scene.csv", index=False, lineterminator="\n")
    _write_points(out / "points.parquet", (_tree_points(country, trees, years) for trees in planted.trees()))
    if "car" in country.landscape.objects:
        _write_points(out / "cars.parquet", (_car_points(country, planted.lots, date) for date in dates))
    unit_table(country).to_parquet(out / "admin.parquet", index=False)
    outline = shapely.geometry.mapping(country.polygon_lonlat(country.outline))
    feature = {"type": "Feature", "properties": {"name": "demo"}, "geometry": outline}
    write_json(out / "region.geojson", {"type": "FeatureCollection", "features": [feature]})


def summarise(folder: str | Path) -> pd.DataFrame:
    """The truth of a simulated country in a few lines.

    Returns
    -------
    pandas.DataFrame
        A row per object and a column per year: objects in the whole country; cars are the mean over the year's
        acquisitions.

    Raises
    ------
    InputError
        The folder is not a simulated country.
    """
    folder = Path(folder)
    if not (folder / "truth.csv").is_file():
        raise InputError(f"{folder} is not a simulated country: truth.csv is missing")
    top = set(gpd.read_parquet(folder / "admin.parquet").query("parent_id.isna()")["unit_id"])
    trees = pd.read_csv(folder / "truth.csv", dtype={"unit_id": str, "period": str})
    scenes = pd.read_csv(folder / "truth_scene.csv", dtype={"unit_id": str, "datetime": str, "count": "int64"})
    scenes = scenes[scenes["unit_id"].isin(top)].assign(period=scenes["datetime"].str[:4])
    cars = scenes.groupby(["object", "period", "acquisition"], as_index=False)["count"].sum()
    by_year = cars.groupby(["object", "period"])["count"].mean().round().astype("int64")
    whole = trees[trees["unit_id"].isin(top)].groupby(["object", "period"])["count"].sum()
    table: pd.DataFrame = pd.concat([whole, by_year]).unstack("period")
    return table.loc[[name for name in OBJECTS if name in table.index], :]


def leaf_of(country: Country, x: FloatArray, y: FloatArray) -> NDArray[np.int16]:
    """Index of the lowest unit that holds each place, or -1."""
    leaf = np.full(len(x), -1, np.int16)
    for number, (_, polygon) in enumerate(country.leaves):
        west, south, east, north = polygon.bounds
        near = np.flatnonzero((x >= west) & (x <= east) & (y >= south) & (y <= north))
        shapely.prepare(polygon)
        leaf[near[shapely.contains_xy(polygon, x[near], y[near])]] = number
    return leaf


def counted(trees: Trees, name: str, year: int) -> NDArray[np.bool_]:
    """Mask of the trees that count as objects of that name in a year."""
    old = trees.age(year) >= VISIBLE_AGE[name]
    result: NDArray[np.bool_] = (trees.kind == KIND[name]) & trees.standing(year) & old
    return result


def truth_by_year(country: Country, planted: Planted, years: tuple[int, int]) -> pd.DataFrame:
    """Trees per unit, object and year: columns unit_id, object, period, count."""
    names = [name for name in country.landscape.objects if name != "car"]
    none = np.zeros(len(country.leaves), np.int64)
    counts = {(name, year): none for name in names for year in range(years[0], years[1] + 1)}
    for trees in planted.trees():
        leaf = leaf_of(country, trees.x, trees.y)
        for name, year in counts:
            counts[name, year] = counts[name, year] + _per_leaf(country, leaf[counted(trees, name, year)])
    rows = [
        (unit, name, str(year), count)
        for (name, year), per_leaf in counts.items()
        for unit, count in _per_unit(country, per_leaf)
    ]
    return pd.DataFrame(rows, columns=["unit_id", "object", "period", "count"])


def truth_by_scene(country: Country, lots: Lots, acquisitions: list[Acquisition]) -> pd.DataFrame:
    """Cars per unit and acquisition: columns unit_id, object, acquisition, datetime, count."""
    leaf = leaf_of(country, lots.x, lots.y)
    rows = []
    for acquisition in acquisitions if "car" in country.landscape.objects else []:
        taken = parked(lots, country.seed, acquisition.number)
        for unit, count in _per_unit(country, _per_leaf(country, leaf[taken])):
            rows.append((unit, "car", acquisition.name, acquisition.iso, count))
    return pd.DataFrame(rows, columns=["unit_id", "object", "acquisition", "datetime", "count"])


def _per_leaf(country: Country, leaf: NDArray[np.int16]) -> NDArray[np.int64]:
    return np.bincount(leaf[leaf >= 0], minlength=len(country.leaves))


def _per_unit(country: Country, counts: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Counts of every unit: a parent's is the sum of its members."""
    leaves = {unit: int(n) for (unit, _), n in zip(country.leaves, counts, strict=True)}
    parent_of = {unit: parent for unit, _, parent, _ in country.units}
    return [
        (u, leaves[u] if u in leaves else sum(n for v, n in leaves.items() if parent_of[v] == u)) for u in parent_of
    ]


def unit_table(country: Country) -> gpd.GeoDataFrame:
    """unit_id, unit_name, parent_id, geometry (EPSG:4326)."""
    columns = {
        "unit_id": [unit for unit, *_ in country.units],
        "unit_name": [name for _, name, *_ in country.units],
        "parent_id": [parent for *_, parent, _ in country.units],
    }
    shapes = [country.polygon_lonlat(polygon) for *_, polygon in country.units]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=4326)


def _tree_points(country: Country, trees: Trees, years: tuple[int, int]) -> pa.Table:
    """Every counted kind of tree that stands in one of the years: object, year_planted, year_removed, geometry."""
    wanted = [KIND[name] for name in country.landscape.objects if name != "car"]
    trees = trees[np.isin(trees.kind, wanted) & (trees.planted <= years[1]) & (trees.removed > years[0])]
    kinds = pa.array(list(KIND))
    columns = {
        "object": pa.DictionaryArray.from_arrays(pa.array(trees.kind), kinds).dictionary_decode(),
        "year_planted": pa.array(trees.planted),
        # What happens after the last year stays unknown.
        "year_removed": pa.array(trees.removed, mask=trees.removed > years[1]),
    }
    return _with_geometry(columns, *country.to_lonlat(trees.x, trees.y))


def _car_points(country: Country, lots: Lots, date: Acquisition) -> pa.Table:
    """Every parked car of an acquisition: object, acquisition, datetime, geometry."""
    cars = lots[parked(lots, country.seed, date.number)]
    columns = {
        name: pa.repeat(pa.scalar(text), len(cars.x))
        for name, text in (("object", "car"), ("acquisition", date.name), ("datetime", date.iso))
    }
    return _with_geometry(columns, *country.to_lonlat(cars.x, cars.y))


def _with_geometry(columns: dict[str, pa.Array], lon: FloatArray, lat: FloatArray) -> pa.Table:
    """Add points in EPSG:4326 as WKB, without an object per point in memory."""
    wkb = np.zeros(len(lon), np.dtype([("order", "u1"), ("type", "<u4"), ("x", "<f8"), ("y", "<f8")]))
    wkb["order"], wkb["type"], wkb["x"], wkb["y"] = 1, 1, lon, lat
    geometry = pa.Array.from_buffers(pa.binary(21), len(lon), [None, pa.py_buffer(wkb.tobytes())]).cast(pa.binary())
    geo = {
        "version": "1.1.0", "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"], "crs": CRS(4326).to_json_dict()}},
    }  # fmt: skip
    return pa.table({**columns, "geometry": geometry}).replace_schema_metadata({"geo": json.dumps(geo)})


def _write_points(path: Path, parts: Iterator[pa.Table]) -> None:
    """Write a GeoParquet in row groups of a million points, however many there are in each part."""
    waiting = next(parts)
    with pq.ParquetWriter(path, waiting.schema) as writer:
        for part in parts:
            waiting = pa.concat_tables([waiting, part])
            while len(waiting) > _ROW_GROUP:
                writer.write_table(waiting.slice(0, _ROW_GROUP).combine_chunks())
                waiting = waiting.slice(_ROW_GROUP)
        writer.write_table(waiting.combine_chunks())
