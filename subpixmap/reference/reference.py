"""Points, labelled areas and an image date -> reference data on the lattice of the imagery, kept in a small folder.

Each area lies on the lattice of the UTM zone that owns it; one that crosses a seam is cut there, as a map is. A folder
holds, for each area, GeoTIFFs that QGIS and rasterio read, and `reference.json` that says what they mean.
"""

from __future__ import annotations

import calendar
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window, owned, project, transformer, utm_epsg
from subpixmap.reference.countmap import count_map, labelled_mask, presence_map
from subpixmap.reference.supports import block_means
from subpixmap.region.outline import mended, polygonal

UNLABELLED, LABELLED, USED = 0, 1, 2
"""Codes of the labelled mask: not labelled, so not known; labelled but in the border strip; used."""
EMPTY_SHARE = 0.2
"""Of the labelled land that should hold nothing, or false objects over empty land go unnoticed."""
MAX_PIXELS = 10**8
_WGS84 = pyproj.Geod(ellps="WGS84")
_MARGIN = 3  # pixels around an area that its count map keeps: the blur reaches at most 2
_LAST_MONTH, _FIRST_YEAR = 12, 1900


@dataclass(frozen=True)
class Area:
    """The part of a labelled area that one UTM zone owns."""

    name: str
    """The area's; of an area cut at a seam, both parts have the same."""
    lattice: Lattice
    window: Window
    outline: BaseGeometry
    """Of the whole area, in EPSG:4326."""
    count: NDArray[np.float32]
    """(object, y, x): expected objects per pixel; sums to the points of the area, also where they blur out of it."""
    labelled: NDArray[np.uint8]
    """(y, x): `UNLABELLED`, `LABELLED` or `USED`."""
    points: NDArray[np.int64]
    """(object,): points of the area that this zone owns."""
    share: NDArray[np.float32] | None = None
    """(y, x): of a plot, the share of each pixel that it covers, 0-1; None where every object is labelled."""
    totals: NDArray[np.float64] | None = None
    """(object,): of a plot, what stands on it. Its `count` is that, spread evenly: where it stands is not known."""

    @classmethod
    def plot(
        cls,
        name: str,
        lattice: Lattice,
        window: Window,
        outline: BaseGeometry,
        share: NDArray[np.float32],
        totals: NDArray[np.float64],
    ) -> Area:
        """An area of which the totals alone are known; all of it is used."""
        even = share / share.sum(dtype=float)
        count = (np.asarray(totals, float)[:, None, None] * even).astype(np.float32)
        used = np.where(share > 0, np.uint8(USED), np.uint8(UNLABELLED))
        number = np.rint(totals).astype(np.int64)
        return cls(name, lattice, window, outline, count, used, number, share, np.asarray(totals, float))

    @property
    def key(self) -> str:
        """Name of its files; unique in a reference."""
        return f"{_file_name(self.name)}_{self.lattice.epsg}"

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of the outline, degrees."""
        return tuple(float(v) for v in self.outline.bounds)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference data: what stands where, where that is known, and when."""

    objects: Mapping[str, str]
    """Object -> its definition in words."""
    measure: Mapping[str, str]
    """Object -> "count", or "occupancy" of things that move."""
    image_date: tuple[date, date]
    """First and last day on which the imagery that was labelled may have been taken."""
    areas: tuple[Area, ...]
    resolution: float = 10.0
    """Metres."""
    border: int = 8
    """Pixels along the edge of an area that are not used: the receptive radius of the network."""
    box: float | None = None
    """Side of the square that stands for a point, metres; None for the Gaussian."""
    present_above: float = 0.25
    """A pixel with more objects is a presence."""
    max_per_pixel: float = 20.0
    """More points in a pixel are absurd."""
    source: Mapping[str, object] | None = None
    """Files that it was made of."""
    shifts: Mapping[str, object] | None = None
    """Area -> estimated shift between imagery and Sentinel-2, and whether it was corrected."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the areas, each once."""
        return tuple(dict.fromkeys(area.name for area in self.areas))

    @property
    def plots(self) -> tuple[Area, ...]:
        """The areas of which the totals alone are known."""
        return tuple(area for area in self.areas if area.share is not None)

    @property
    def labelled_areas(self) -> tuple[Area, ...]:
        """The areas in which every object is labelled."""
        return tuple(area for area in self.areas if area.share is None)

    @property
    def used_px(self) -> int:
        """Labelled pixels inside the border strips."""
        return int(sum((area.labelled == USED).sum() for area in self.areas))

    @property
    def empty_share(self) -> float:
        """Share of the labelled land that holds nothing, at 1 ha; of plots alone, that of plots without objects."""
        if not self.labelled_areas:
            px = np.array([area.share.sum() for area in self.plots if area.share is not None])
            return float(px[[not area.count.any() for area in self.plots]].sum() / px.sum())
        return empty_share(self.labelled_areas, round(100 / self.resolution))

    @property
    def points(self) -> dict[str, int]:
        """Object -> points in all areas."""
        totals = sum((area.points for area in self.areas), np.zeros(len(self.objects), np.int64))
        return {name: int(n) for name, n in zip(self.objects, totals, strict=True)}

    def warnings(self) -> list[str]:
        """What a user should know before a training with it."""
        texts, of = [], "" if self.plots else " (at 1 ha)"
        if (share := self.empty_share) < EMPTY_SHARE:
            texts.append(
                f"{100 * share:.0f} % of the labelled land holds no object{of}; label at least "
                f"{100 * EMPTY_SHARE:.0f} % empty land, to train and test against false objects"
            )
        if len(self.names) < 2:
            texts.append(
                "there is only one labelled area, so a model cannot be tested on unseen land; label more areas"
            )
        texts += [f"the areas hold no {name}" for name, number in self.points.items() if not number]
        return texts


def make_reference(
    points: gpd.GeoDataFrame,
    labelled: gpd.GeoDataFrame,
    image_date: str,
    *,
    definitions: Mapping[str, str] | None = None,
    measure: str = "count",
    border: int = 8,
    box: float | None = None,
    present_above: float = 0.25,
    max_per_pixel: float = 20.0,
    resolution: float = 10.0,
    shifts: Mapping[str, tuple[float, float]] | None = None,
    source: Mapping[str, object] | None = None,
) -> Reference:
    """Count maps, presence and labelled masks of areas in which every object is labelled.

    1. Give each point to the area that holds it.
    2. Make the maps of each area, one for each UTM zone that owns a part: a pixel has one zone.
    3. Refuse what cannot be right: no points at all, or a crowd in one pixel.

    Parameters
    ----------
    points
        `object` and geometry, from `read_points`.
    labelled
        Polygons with `unit_name`, from `region.units.read_area`: a row an area.
    image_date
        Of the imagery that was labelled: "2021-03-14", "2021-03" or "2021".
    definitions
        Object -> what exactly was labelled, in words.
    measure
        "count", or "occupancy" of things that move.
    border, box, present_above, max_per_pixel, resolution
        See `Reference`.
    shifts
        Area -> metres (east, north) by which its points and its outline are moved onto Sentinel-2.
    source
        Files, for the record.

    Raises
    ------
    InputError
        No labelled area, no point in any, an absurd number of points in a pixel, an area too large for memory.
    """
    require_measure(measure)
    if labelled.empty or labelled.geometry.is_empty.all():
        raise InputError(f"--labelled: none of {len(labelled)} areas contains a pixel; give larger polygons")
    objects = tuple(dict.fromkeys(points["object"]))
    if unknown := set(definitions or {}) - set(objects):
        raise InputError(f"--definition of {', '.join(sorted(unknown))}: the points hold {', '.join(objects)}")
    lon, lat = points.geometry.x.to_numpy(), points.geometry.y.to_numpy()
    zones, free = utm_epsg(lon, lat), np.ones(len(points), bool)
    kinds = points["object"].map({name: i for i, name in enumerate(objects)}).to_numpy()
    areas: list[Area] = []
    names = unique_names(labelled["unit_name"])
    refuse_overlaps(names, labelled.geometry.to_numpy(), resolution)
    for name, outline in zip(names, labelled.geometry, strict=True):
        if outline.is_empty:
            continue
        shapely.prepare(outline)  # 1.
        inside = free & shapely.contains_xy(outline, lon, lat)
        free &= ~inside  # each point once, also on a common edge that rounding made overlap
        for epsg in _zones_of(outline):  # 2.
            lattice, here = Lattice(epsg, resolution), inside & (zones == epsg)
            east, north = transformer(4326, epsg).transform(lon[here], lat[here])
            move = (shifts or {}).get(name, (0.0, 0.0))
            xy = east + move[0], north + move[1]
            area = _area(name, outline, lattice, move, xy, kinds[here], len(objects), border=border, box=box)
            if area:
                _refuse_crowds(area, objects, xy, kinds[here], max_per_pixel)  # 3.
                areas.append(area)
    if not sum(int(area.points.sum()) for area in areas):
        raise InputError(
            f"none of the {len(points)} points lies in a labelled area (areas reach from "
            f"{_lonlat(labelled.total_bounds)}, points from {_lonlat(points.total_bounds)}); give matching files"
        )
    return Reference(
        objects={name: (definitions or {}).get(name, name.replace("_", " ")) for name in objects},
        measure=dict.fromkeys(objects, measure),
        image_date=parse_image_date(image_date),
        areas=tuple(areas),
        resolution=resolution,
        border=border,
        box=box,
        present_above=present_above,
        max_per_pixel=max_per_pixel,
        source=source,
    )


def parse_image_date(text: str) -> tuple[date, date]:
    """`2021-03-14`, `2021-03` or `2021` -> first and last day."""
    match = re.fullmatch(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?", str(text).strip())
    try:
        if match is None or int(match[1]) < _FIRST_YEAR:
            raise ValueError
        year, month, day = int(match[1]), match[2], match[3]
        first, last = (int(month), int(month)) if month else (1, _LAST_MONTH)
        if day:
            return date(year, first, int(day)), date(year, first, int(day))
        return date(year, first, 1), date(year, last, calendar.monthrange(year, last)[1])
    except ValueError:
        raise InputError(f"--image-date {text!r} is not a date such as 2021-03-14, 2021-03 or 2021") from None


def empty_share(areas: Sequence[Area], side: int) -> float:
    """Share of the labelled blocks of `side` pixels in which nothing stands."""
    blocks = []
    for area in areas:
        counts = np.where(area.labelled > UNLABELLED, area.count.sum(axis=0), np.nan)
        blocks.append(block_means(counts, side)[0].ravel())
    means = np.concatenate(blocks)
    means = means[np.isfinite(means)]
    return float((means == 0).mean()) if means.size else float("nan")


def presence(area: Area, above: float) -> NDArray[np.uint8]:
    """(object, y, x): 1 present, 0 absent, 255 not labelled."""
    present = presence_map(area.count, threshold=above).astype(np.uint8)
    return np.where(area.labelled > UNLABELLED, present, np.uint8(255)).astype(np.uint8)


def require_measure(measure: str) -> None:
    """Refuse an unknown measure."""
    if measure not in ("count", "occupancy"):
        raise InputError(
            f"--measure {measure!r} is unknown; choose what to predict: count, or occupancy (for objects that move)"
        )


def refuse_overlaps(
    names: Sequence[str], outlines: NDArray[np.object_], resolution: float, *, what: str = "labelled areas"
) -> None:
    """Refuse areas that share more than a pixel: their objects would be counted, and taught, twice."""
    pairs = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    overlaps = []
    for one, other in pairs.T[pairs[0] < pairs[1]]:
        shared = polygonal(shapely.intersection(outlines[one], outlines[other]))
        square_metres = abs(_WGS84.geometry_area_perimeter(shapely.orient_polygons(shared))[0])
        if square_metres > resolution**2:
            overlaps.append(f"{names[one]} and {names[other]} ({square_metres / 1e4:.2g} ha)")
    if overlaps:
        more = f" and {len(overlaps) - 5} more pairs" if len(overlaps) > 5 else ""
        raise InputError(
            f"{what} overlap: {', '.join(overlaps[:5])}{more}, so objects would count twice; merge or cut them"
        )


def _area(
    name: str,
    outline: BaseGeometry,
    lattice: Lattice,
    move: tuple[float, float],
    xy: tuple[NDArray[np.floating], NDArray[np.floating]],
    kinds: NDArray[np.integer],
    n_objects: int,
    *,
    border: int,
    box: float | None,
) -> Area | None:
    """The part of an area in one zone; None if the zone owns no pixel of it."""
    polygon = shapely.transform(mended(project(outline, 4326, lattice.epsg)), lambda c: c + np.array(move))
    window = lattice.window(polygon.bounds).padded(_MARGIN)
    if window.height * window.width > MAX_PIXELS:
        raise InputError(
            f"labelled area {name} covers {window.height} x {window.width} px; more than {MAX_PIXELS:.0e} is too much "
            "at once: cut it into several areas"
        )
    own = owned(lattice, window)
    inside = labelled_mask(polygon, lattice, window) & own
    if not inside.any() and not kinds.size:
        return None
    used = labelled_mask(polygon, lattice, window, border=border) & own
    x, y = xy
    count = [count_map(x[kinds == i], y[kinds == i], lattice, window, box=box) for i in range(n_objects)]
    return Area(
        name,
        lattice,
        window,
        outline,
        np.array(count, np.float32),
        (inside.astype(np.uint8) + used).astype(np.uint8),
        np.bincount(kinds, minlength=n_objects),
    )


def _refuse_crowds(
    area: Area,
    objects: Sequence[str],
    xy: tuple[NDArray[np.floating], NDArray[np.floating]],
    kinds: NDArray[np.integer],
    most: float,
) -> None:
    for i, name in enumerate(objects):
        raw = count_map(xy[0][kinds == i], xy[1][kinds == i], area.lattice, area.window, sigma=0)
        if (crowded := raw > most).any():
            row, col = np.unravel_index(int(raw.argmax()), raw.shape)
            x, y = area.lattice.coords(area.window)
            lon, lat = transformer(area.lattice.epsg, 4326).transform(x[col], y[row])
            raise InputError(
                f"area {area.name}: {int(crowded.sum())} pixels have more than {most:g} points of {name}, up to "
                f"{raw.max():.0f} at {lon:.5f}, {lat:.5f}; remove wrong points, or raise --max-per-pixel"
            )


def _zones_of(outline: BaseGeometry) -> list[int]:
    """UTM zones that own some of an area (at its vertices and on a grid over it)."""
    west, south, east, north = outline.bounds
    lon, lat = np.meshgrid(np.linspace(west, east, 201), np.linspace(south, north, 201))
    inside = shapely.intersects_xy(outline, lon, lat)
    vertices = shapely.get_coordinates(outline)
    codes = utm_epsg(np.append(lon[inside], vertices[:, 0]), np.append(lat[inside], vertices[:, 1]))
    return [int(code) for code in np.unique(codes)]


def unique_names(names: Sequence[object], *, taken: Sequence[str] = ()) -> list[str]:
    """Names of areas; one whose files would bear the name of an earlier one's, or a taken one, gets a number."""
    files, unique = {_file_name(name) for name in taken}, []
    for name in map(str, names):
        candidates = (name if number == 1 else f"{name} {number}" for number in itertools.count(1))
        unique.append(next(one for one in candidates if _file_name(one) not in files))
        files.add(_file_name(unique[-1]))
    return unique


def _file_name(name: str) -> str:
    """The name of an area as its files bear it."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "area"


def _lonlat(bounds: NDArray[np.floating]) -> str:
    west, south, east, north = bounds
    return f"{west:.4f}, {south:.4f} to {east:.4f}, {north:.4f}"
