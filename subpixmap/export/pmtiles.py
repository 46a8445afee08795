"""Counts of a run -> one file of vector tiles (PMTiles) for a map on the web: a feature for each unit.

In: counts and trends, and the units. Out: `counts.pmtiles` with the layer `units`. A web page reads the tiles that it
shows by ranges of bytes, from any server of files. GDAL's driver writes it.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from subpixmap.errors import InputError
from subpixmap.export.polygons import polygons_of
from subpixmap.tables import COUNTS, REGION, TREND, rounded

if TYPE_CHECKING:
    import geopandas as gpd

log = logging.getLogger("subpixmap")

LAYER = "units"
MOST_PERIODS = 60
"""Attributes for totals of periods, of all objects together: a tile holds those of all its units."""
MOST_TILES = 50_000
"""At the highest zoom: GDAL writes about a thousand a second."""
_STEPS = 4096  # of the coordinates along a side of a tile
_WORLD = 2 * math.pi * 6_378_137  # metres along a side of the square that tiles divide
_HIGHEST_LATITUDE = 85.05  # beyond it there are no tiles
_MOST_BYTES = 2_000_000  # of a tile; beyond, GDAL leaves units out
_LAST = {"density_per_ha": "per_ha", "estimate": "estimate", "ci_low": "ci_low", "ci_high": "ci_high", "flag": "flag"}
_TREND = {"direction": "direction", "change": "change", "change_percent": "change_percent"}


def write_pmtiles(
    counts: pd.DataFrame, trend: pd.DataFrame | None, units: gpd.GeoDataFrame, path: Path, *, name: str, about: str
) -> Path:
    """Write the units with their totals, whole or not at all.

    Parameters
    ----------
    counts, trend
        Rows with `unit_id`; those of all units together are left out.
    units
        `unit_id` and polygons. What lies beyond 85 degrees of latitude is cut off, as in every map of such tiles.
    path
        FILE.pmtiles.
    name, about
        Of the tile set, for viewers.

    Raises
    ------
    InputError
        This GDAL cannot write such files, no unit has a polygon, or all are too small to be drawn.
    """
    import geopandas as gpd

    require_driver()
    table = by_unit(counts, trend)
    shapes = _on_tiles(polygons_of(units).reindex(table["unit_id"]))
    table, shapes = table[~shapes.is_empty.to_numpy()], shapes[~shapes.is_empty]
    if not len(table):
        raise InputError("--format pmtiles: no unit has a polygon to draw; give units with polygons (--admin)")
    inner = table["unit_id"].isin(counts["parent_id"].dropna()).to_numpy()
    low, high = zooms(shapes, shapes if inner.all() else shapes[~inner])
    _require_visible(shapes, high)
    options: dict[str, Any] = {"MINZOOM": low, "MAXZOOM": high, "MAX_SIZE": _MOST_BYTES}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        partial = Path(folder) / path.name
        features = gpd.GeoDataFrame(table, geometry=shapes.to_numpy(), crs=3857)
        features.to_file(
            partial, driver="PMTiles", layer=LAYER, engine="pyogrio", NAME=name, DESCRIPTION=about, **options
        )
        os.replace(partial, path)
    return path


def require_driver() -> None:
    """Refuse the format where GDAL cannot write it."""
    import pyogrio

    if "w" not in pyogrio.list_drivers().get("PMTiles", ""):
        version = ".".join(map(str, pyogrio.__gdal_version__))
        raise InputError(
            f"--format pmtiles: GDAL {version} of pyogrio has no driver that writes PMTiles; install pyogrio from PyPI "
            "or conda-forge, or take geoparquet"
        )


def by_unit(counts: pd.DataFrame, trend: pd.DataFrame | None) -> pd.DataFrame:
    """A row for each unit; of each object the totals of its periods, and what is known of the last one.

    Columns are `<object>_<period>` (`map_total`; of many periods the last), `<object>_last`, `<object>_per_ha` and so
    on. Columns without any value are left out.
    """
    rows = rounded(counts[counts["unit_id"] != REGION], COUNTS)
    periods = list(dict.fromkeys(rows.sort_values("period_start", kind="stable")["period"]))
    objects = list(dict.fromkeys(rows["object"]))
    kept = periods[-max(1, MOST_PERIODS // max(1, len(objects))) :]
    wide = rows.drop_duplicates("unit_id").set_index("unit_id")[["unit_name", "parent_id", "evidence", "model_id"]]
    wide.insert(2, "level", _levels(wide["parent_id"]))
    wide["last_period"] = periods[-1] if periods else None
    parts = [wide]
    trends = None if trend is None else rounded(trend[trend["unit_id"] != REGION], TREND)
    for one in objects:
        mine = rows[rows["object"] == one]
        totals = mine.pivot(index="unit_id", columns="period", values="map_total").reindex(columns=kept)
        last = mine[mine["period"] == periods[-1]].set_index("unit_id")
        parts += [last["map_total"].rename(f"{one}_last"), _named(last, one, _LAST), totals.add_prefix(f"{one}_")]
        if trends is not None:
            parts.append(_named(trends[trends["object"] == one].set_index("unit_id"), one, _TREND))
    table = pd.concat(parts, axis=1).reindex(wide.index).dropna(axis=1, how="all")
    return table.reset_index(names="unit_id")


def _named(rows: pd.DataFrame, one: str, columns: Mapping[str, str]) -> pd.DataFrame:
    return rows[list(columns)].rename(columns={name: f"{one}_{short}" for name, short in columns.items()})


def _levels(parents: pd.Series) -> list[int]:
    """How many units stand above each: 0 for the highest."""
    above: Mapping[Any, Any] = parents.to_dict()
    levels = []
    for unit in parents.index:
        chain = [unit]
        while (parent := above.get(chain[-1])) in above and parent not in chain:
            chain.append(parent)
        levels.append(len(chain) - 1)
    return levels


def _require_visible(shapes: gpd.GeoSeries, zoom: int) -> None:
    """Name the units that are smaller than a step of the tiles' coordinates, because GDAL leaves them out."""
    step = _WORLD / 2**zoom / _STEPS
    small = [str(name) for name in shapes.index[shapes.area.to_numpy() < step**2]]
    if len(small) == len(shapes):
        raise InputError(
            f"--format pmtiles: every unit is smaller than {step:.2g} m, too small for tiles; use geoparquet"
        )
    if small:
        log.warning(
            "units smaller than %.0f m, which are missing in the tiles: %d (%s%s)",
            step, len(small), ", ".join(small[:3]), ", ..." if len(small) > 3 else "",
        )  # fmt: skip


def _on_tiles(polygons: gpd.GeoSeries) -> gpd.GeoSeries:
    """In the projection of web maps; empty where a unit has no polygon."""
    import geopandas as gpd

    drawn = np.where(polygons.isna(), shapely.Polygon(), polygons.to_numpy())
    cut = shapely.clip_by_rect(drawn, -180, -_HIGHEST_LATITUDE, 180, _HIGHEST_LATITUDE)
    return gpd.GeoSeries(cut, index=polygons.index, crs=4326).to_crs(3857)


def zooms(shapes: gpd.GeoSeries, lowest: gpd.GeoSeries) -> tuple[int, int]:
    """Lowest and highest zoom of the tiles for units and those of them that hold no others (EPSG:3857).

    At the highest, one of those, of median area, is a sixteenth of a tile wide, which is 256 steps of its coordinates;
    a viewer enlarges from there. It is 14 at most, and lower where that would make more than `MOST_TILES`. At the
    lowest, all units together are an eighth of a tile wide.
    """
    west, south, east, north = shapes.total_bounds
    side = math.sqrt(max(float(np.median(lowest.area)), 1.0))
    few = math.floor(math.log2(_WORLD * math.sqrt(MOST_TILES / max(float(shapes.area.sum()), 1.0))))
    high = max(0, min(14, few, math.ceil(math.log2(_WORLD / (16 * side)))))
    low = math.floor(math.log2(_WORLD / max(east - west, north - south, side))) - 3
    return min(max(0, low), high), high
