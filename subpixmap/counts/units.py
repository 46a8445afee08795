"""Prepares administrative units: valid polygons in the lattice of every zone they touch.

In: a GeoDataFrame of polygons of any quality. Out: one unit per id, in the given order, none dropped. Polygons are
reprojected vertex by vertex, never clipped at a zone's edge, so that neighbours keep their common border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window, project, utm_epsg
from subpixmap.region.outline import mended, polygonal, polygons, unfolded, wrap
from subpixmap.tables import REGION

if TYPE_CHECKING:
    import geopandas as gpd

_FAR = 30.0  # degrees from a zone beyond which polygons are cut before projecting; no owned pixel is near
_SQUARE = 8  # blocks
_EDGE = 0.05  # degrees added to a unit's extent to find its zones; more than any pixel


@dataclass(frozen=True)
class Units:
    """Units prepared for summing, in the given order."""

    table: pd.DataFrame
    """`unit_id`, `unit_name`, `parent_id` (text or None), one row per unit."""
    polygons: NDArray[np.object_]
    """(unit,) valid polygons in EPSG:4326 (longitude, latitude); empty where there is none."""
    flags: tuple[tuple[str, ...], ...]
    """Per unit what was wrong with the polygon: `repaired_polygon`, `repeated_id`, `no_polygon`."""

    def __len__(self) -> int:
        return len(self.table)

    def topmost(self) -> NDArray[np.int64]:
        """Positions of units whose parent is not itself a unit: together they contain each place once."""
        ids = set(self.table["unit_id"])
        return np.flatnonzero([parent not in ids for parent in self.table["parent_id"]])

    def by_zone(self) -> dict[int, NDArray[np.object_]]:
        """{EPSG: (unit,) polygons in the zone's CRS, metres}; empty where the zone can own no pixel of the unit."""
        zones: dict[int, NDArray[np.object_]] = {}
        for position, polygon in enumerate(self.polygons):
            for epsg in _zones_of(polygon):
                zones.setdefault(epsg, np.full(len(self), shapely.Polygon(), dtype=object))
                zones[epsg][position] = _projected(polygon, epsg)
        return dict(sorted(zones.items()))


class Ground:
    """The region of a run by block, in the CRS of a zone, to account for in addition to the units."""

    def __init__(self, region: BaseGeometry | None) -> None:
        """`region` in EPSG:4326; None for everything mapped."""
        self.region = region
        self.zones: dict[int, BaseGeometry] = {}
        self.parts: dict[tuple[int, int, int], BaseGeometry] = {}

    def at(self, lattice: Lattice, window: Window) -> BaseGeometry | None:
        """The region around a block (not cut exactly); None if it contains the whole block."""
        if self.region is None:
            return None
        if lattice.epsg not in self.zones:
            self.zones[lattice.epsg] = _projected(self.region, lattice.epsg)
            shapely.prepare(self.zones[lattice.epsg])
        whole, around = self.zones[lattice.epsg], lattice.bounds(window.padded(2))
        if whole.contains(shapely.box(*around)):
            return None
        # A country's outline has 100,000 vertices: it is cut into large squares first, and these into blocks.
        side = _SQUARE * max(window.height, window.width)
        square = Window(window.row // side * side, window.col // side * side, side, side)
        key = (lattice.epsg, square.row, square.col)
        if key not in self.parts:
            self.parts[key] = clipped(whole, lattice.bounds(square.padded(4)))
        return clipped(self.parts[key], around)


def prepare_units(units: gpd.GeoDataFrame) -> Units:
    """Prepare units for summing.

    Parameters
    ----------
    units
        Polygons with a CRS and the columns `unit_id` and, if known, `unit_name` and `parent_id`.

    Returns
    -------
    Units
        Rows with the same id become one unit (polygons united). Invalid polygons are repaired, missing ones are empty.

    Raises
    ------
    InputError
        No CRS, no `unit_id`, an empty id, coordinates not in degrees, or one id with two names or parents.
    """
    if "unit_id" not in units.columns:
        raise InputError(f"the units have no column unit_id (they have: {', '.join(map(str, units.columns))})")
    if units.crs is None:
        raise InputError("the units have no CRS; add it to the file (GeoDataFrame.set_crs) before counting")
    if not len(units):
        raise InputError("the table of units has no rows")
    degrees = units.geometry if units.crs.equals("EPSG:4326") else units.geometry.to_crs(4326)
    _refuse_wrong_axes(degrees.total_bounds)
    table = pd.DataFrame(
        {name: _texts(units, name) for name in ("unit_id", "unit_name", "parent_id")}, dtype=object
    )  # a missing column is None
    blank = table.index[table["unit_id"].isna()]
    if len(blank):
        raise InputError(f"units without unit_id: {len(blank)}, the first in row {blank[0] + 1}; give each unit an id")

    if (table["unit_id"] == REGION).any():
        raise InputError(f"a unit has the id {REGION}, which is reserved for the sum of all units; give it another id")

    rows: dict[str, list[int]] = {}
    for row, unit_id in enumerate(table["unit_id"]):
        rows.setdefault(unit_id, []).append(row)
    cleaned = [_clean(geometry) for geometry in degrees.array]
    polygons, flags, kept = [], [], []
    for unit_id, own in rows.items():
        polygon, notes = _unite(unit_id, [cleaned[row] for row in own])
        polygons.append(polygon)
        flags.append(notes)
        kept.append(_one_row(table.iloc[own]))
    return Units(pd.DataFrame(kept).reset_index(drop=True), np.array(polygons, dtype=object), tuple(flags))


def cells_of(
    polygons: Sequence[BaseGeometry] | NDArray[np.object_], lattice: Lattice, size: int, *, reach: float = 0.0
) -> dict[tuple[int, int], list[int]]:
    """Polygons (in the lattice's CRS) within `reach` metres of each cell of `size` pixels.

    Returns {(row, col): [positions]}, both in ascending order.
    """
    by_cell: dict[tuple[int, int], set[int]] = {}
    for position, polygon in enumerate(polygons):
        for part in getattr(polygon, "geoms", [polygon]):
            if part.is_empty:
                continue
            west, south, east, north = part.bounds
            extent = lattice.window((west - reach, south - reach, east + reach, north + reach)).aligned(size)
            cells = [
                (row, col)
                for row in range(extent.row // size, (extent.row + extent.height) // size)
                for col in range(extent.col // size, (extent.col + extent.width) // size)
            ]
            if len(cells) > 1:
                bounds = np.array([lattice.bounds(Window(row * size, col * size, size, size)) for row, col in cells])
                shapely.prepare(part)
                hits = shapely.dwithin(part, shapely.box(*bounds.T), reach)
                cells = [cell for cell, hit in zip(cells, hits, strict=True) if hit]
            for cell in cells:
                by_cell.setdefault(cell, set()).add(position)
    return {cell: sorted(by_cell[cell]) for cell in sorted(by_cell)}


def clipped(geometry: BaseGeometry, bounds: tuple[float, float, float, float]) -> BaseGeometry:
    """The part of a polygon inside (west, south, east, north); the polygon itself if it lies inside."""
    west, south, east, north = geometry.bounds
    if west >= bounds[0] and south >= bounds[1] and east <= bounds[2] and north <= bounds[3]:
        return geometry
    return polygonal(shapely.intersection(geometry, shapely.box(*bounds)))


def _texts(units: gpd.GeoDataFrame, column: str) -> list[str | None]:
    if column not in units.columns:
        return [None] * len(units)
    return [_text(value) for value in units[column]]


def _text(value: Any) -> str | None:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)  # a code column with gaps is read as floats: 1001301000.0 is the code 1001301000
    return str(value) if str(value).strip() else None


def _refuse_wrong_axes(bounds: NDArray[np.floating]) -> None:
    west, south, east, north = bounds
    if np.isnan(bounds).all():
        return
    if south < -90 or north > 90:
        raise InputError(
            f"the units reach from {south:g} to {north:g} in latitude: the axes are swapped or the CRS is wrong; "
            "write coordinates as (longitude, latitude)"
        )
    if west < -180.001 or east > 180.001:
        raise InputError(f"the units reach from {west:g} to {east:g} in longitude; cut them at the date line (+-180)")


def _clean(geometry: BaseGeometry | None) -> tuple[BaseGeometry, str | None]:
    if geometry is None or geometry.is_empty:
        return shapely.Polygon(), "no_polygon"
    flat = unfolded(shapely.force_2d(geometry))
    areal = wrap(polygons(flat))
    if areal.is_empty:
        return areal, "no_polygon"
    return areal, None if flat.is_valid and flat.geom_type in ("Polygon", "MultiPolygon") else "repaired_polygon"


def _unite(unit_id: str, parts: list[tuple[BaseGeometry, str | None]]) -> tuple[BaseGeometry, tuple[str, ...]]:
    notes = {note for _, note in parts if note}
    if len(parts) == 1:
        return parts[0][0], tuple(sorted(notes))
    polygon = polygonal(shapely.union_all([geometry for geometry, _ in parts]))
    if not polygon.is_empty:
        notes.discard("no_polygon")
    return polygon, tuple(sorted({*notes, "repeated_id"}))


def _one_row(rows: pd.DataFrame) -> dict[str, str | None]:
    row: dict[str, str | None] = {"unit_id": rows["unit_id"].iloc[0]}
    for column in ("unit_name", "parent_id"):
        values = list(dict.fromkeys(value for value in rows[column] if value is not None))
        if len(values) > 1:
            raise InputError(
                f"unit {row['unit_id']!r} has two values of {column}: {values[0]!r} and {values[1]!r}; keep one"
            )
        row[column] = values[0] if values else None
    return row


def _zones_of(polygon: BaseGeometry) -> tuple[int, ...]:
    if polygon.is_empty:
        return ()
    west, south, east, north = polygon.bounds
    if east - west > 180 and polygon.geom_type == "MultiPolygon":  # on both sides of the date line
        return tuple(sorted({epsg for part in polygon.geoms for epsg in _zones_of(part)}))
    lon = np.append(np.arange(west - _EDGE, east + _EDGE, 1.0), east + _EDGE)
    lat = np.append(np.arange(south - _EDGE, north + _EDGE, 1.0), north + _EDGE)
    xx, yy = np.meshgrid(lon, lat)
    return tuple(int(epsg) for epsg in np.unique(utm_epsg(xx, yy)))


def _projected(polygon: BaseGeometry, epsg: int) -> BaseGeometry:
    middle = (epsg % 100 - 1) * 6 - 177
    west, _, east, _ = polygon.bounds
    if west < middle - _FAR or east > middle + _FAR:
        polygon = clipped(polygon, (middle - _FAR, -90.0, middle + _FAR, 90.0))
    return mended(project(polygon, 4326, epsg))
