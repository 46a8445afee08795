"""Gaps in a lock: areas without items, months without an acquisition, tiles with incomplete series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.grid import mgrs_square, project, transformer, utm_epsg
from subpixmap.periods import Period
from subpixmap.region.outline import densify, polygonal, unfold
from subpixmap.scenes.items import Item
from subpixmap.scenes.search import month_spans

_SQUARE = 100_000.0  # metres


@dataclass(frozen=True)
class Completeness:
    """Contents and gaps of a lock."""

    acquisitions: Counter[tuple[str, str]]
    """(tile, month such as 2021-03) -> acquisitions."""
    baselines: dict[str, dict[str, int]]
    """Year -> processing baseline -> items."""
    squares_without: list[str]
    """MGRS squares in which a part of the region has no item."""
    months_without: list[str]
    """Months of the periods, up to today, without any acquisition."""
    gaps: list[tuple[str, str]]
    """(tile, month): tiles with acquisitions, but none in that month."""

    def lines(self) -> dict[str, str]:
        """Lines to show: {label: text}."""
        baselines = [f"{year}: {', '.join(f'{n} of {b}' for b, n in c.items())}" for year, c in self.baselines.items()]
        lines = {"per tile": self._per_tile(), "baselines": "; ".join(baselines)}
        if self.squares_without:
            lines["no items for"] = (
                f"{_some(self.squares_without)}: MGRS squares of the region have no item, or only in parts"
            )
        if self.months_without:
            lines["no items in"] = _some(self.months_without)
        return lines

    def table(self) -> list[str]:
        """Acquisitions of each tile and year, month by month; a dot where there is none."""
        lines = ["tile   year " + "".join(f"{month:>4}" for month in range(1, 13))]
        for tile, year in sorted({(tile, month[:4]) for tile, month in self.acquisitions}):
            counts = [self.acquisitions[tile, f"{year}-{month:02d}"] for month in range(1, 13)]
            lines.append(f"{tile}  {year} " + "".join(f"{n or '.':>4}" for n in counts))
        return lines

    def missing(self) -> dict[str, Any]:
        """Missing items as plain values."""
        return {
            "squares_without": self.squares_without,
            "months_without": self.months_without,
            "tile_months_without": [list(gap) for gap in self.gaps],
        }

    def _per_tile(self) -> str:
        tiles = Counter(tile for tile, _ in self.acquisitions.elements())
        if not tiles:
            return "none"
        counts = sorted(self.acquisitions.values())
        text = f"tiles: {len(tiles)}; acquisitions per tile and month: {counts[0]} to {counts[-1]}"
        text += f" (median {counts[len(counts) // 2]}, without empty months)"
        least = min(tiles, key=lambda tile: (tiles[tile], tile))
        text += f"; fewest in all: {least} ({tiles[least]})"
        if self.gaps:
            without = Counter(tile for tile, _ in self.gaps)
            worst = _some([f"{tile} {n}" for tile, n in without.most_common()])
            text += f"; tiles with empty months: {worst}"
        return text


def completeness(
    items: Iterable[Item], geometry: BaseGeometry, periods: Sequence[Period], *, today: date | None = None
) -> Completeness:
    """Compare a lock with its region and periods.

    Parameters
    ----------
    items
        Of all periods.
    geometry
        Region in EPSG:4326.
    periods
        Periods of the run.
    today
        Later months are not expected.
    """
    locked = list(items)
    seen = {(item.acquisition, item.tile): item for item in locked}
    acquisitions = Counter((item.tile, item.datetime[:7]) for item in seen.values())
    baselines: dict[str, Counter[str]] = {}
    for item in sorted(seen.values(), key=lambda item: item.datetime):
        baselines.setdefault(item.datetime[:4], Counter())[item.baseline or "unknown"] += 1
    months = [f"{first:%Y-%m}" for first, _ in month_spans(periods, today or datetime.now(UTC).date())]
    have = {month for _, month in acquisitions}
    tiles = sorted({tile for tile, _ in acquisitions})
    return Completeness(
        acquisitions=Counter(dict(sorted(acquisitions.items()))),
        baselines={year: dict(sorted(counts.items())) for year, counts in baselines.items()},
        squares_without=squares_of(shapely.difference(geometry, _reach(locked))),
        months_without=[month for month in months if month not in have],
        gaps=[
            (tile, month) for tile in tiles for month in months if month in have and (tile, month) not in acquisitions
        ],
    )


def _some(names: Sequence[str], most: int = 8) -> str:
    return f"{len(names)} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"


def _reach(items: Sequence[Item]) -> BaseGeometry:
    """Extents of the items' rasters, EPSG:4326, grown by 20 m against rounding at common edges."""
    extents = {(item.epsg, item.bounds) for item in items}
    boxes = [
        project(shapely.segmentize(shapely.box(*bounds).buffer(20, join_style="mitre"), 20_000), epsg, 4326)
        for epsg, bounds in sorted(extents)
    ]
    return shapely.union_all([unfold(box) for box in boxes])


def squares_of(geometry: BaseGeometry) -> list[str]:
    """Names of the 100 km MGRS squares that intersect a geometry in EPSG:4326, by their UTM zone."""
    names: set[str] = set()
    for strip in range(60):
        part = shapely.intersection(geometry, shapely.box(strip * 6 - 180, -80, strip * 6 - 174, 84))
        if part.is_empty or part.area == 0:
            continue
        for south in (False, True):
            side = shapely.intersection(
                part, shapely.box(-180, -80, 180, 0) if south else shapely.box(-180, 0, 180, 84)
            )
            if not side.is_empty and side.area > 0:
                names |= _squares_of_zone(side, (32700 if south else 32600) + strip + 1)
    return sorted(names)


def _squares_of_zone(part: BaseGeometry, epsg: int) -> set[str]:
    there = project(densify(polygonal(part), 0.2), 4326, epsg)
    west, south, east, north = there.bounds
    names = set()
    for x in np.arange(west // _SQUARE, east // _SQUARE + 1) * _SQUARE:
        for y in np.arange(south // _SQUARE, north // _SQUARE + 1) * _SQUARE:
            inside = shapely.intersection(there, shapely.box(x, y, x + _SQUARE, y + _SQUARE))
            if inside.area > 0:
                place = inside.representative_point()
                if int(utm_epsg(*_lonlat(epsg, place.x, place.y))) == epsg:
                    names.add(mgrs_square(epsg, place.x, place.y))
    return names


def _lonlat(epsg: int, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    lon, lat = transformer(epsg, 4326).transform(x, y)
    return np.asarray(lon), np.asarray(lat)
