"""A generated lock of a country: items of 109.8 km tiles, evenly over tiles and periods; no file exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import shapely

from subpixmap.grid import project
from subpixmap.scenes.items import Asset, Item

TILE_M, SPACING_M = 109_800.0, 100_000.0
BANDS = dict.fromkeys(("B02", "B03", "B04", "B08"), 10)
BANDS |= dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), 20)


def tiles_of(geometry: Any) -> Iterator[Any]:
    """(EPSG code, tile, west, north) of the tiles that touch a region: squares of 109.8 km, 100 km apart."""
    for epsg in (32650, 32651, 32652):
        middle = (epsg % 100) * 6 - 183
        strip = geometry.intersection(shapely.box(middle - 3.2, -90, middle + 3.2, 90))
        placed = project(strip, 4326, epsg)
        shapely.prepare(placed)
        west, south, east, north = placed.bounds
        for i in range(int(west // SPACING_M) - 1, int(east // SPACING_M) + 1):
            for j in range(int(south // SPACING_M), int(north // SPACING_M) + 2):
                x, y = i * SPACING_M, j * SPACING_M + 20
                if placed.intersects(shapely.box(x, y - TILE_M, x + TILE_M, y)):
                    yield epsg, f"{epsg % 100}{i:02d}{j:03d}", x, y


def generated_lock(region: Any, periods: Any, n: Any) -> Any:
    """About n items, evenly over tiles and periods."""
    tiles = list(tiles_of(region.geometry))
    dates = round(n / len(tiles) / len(periods))
    items = []
    for epsg, tile, x, y in tiles:
        grids = {band: ((float(m), 0.0, x, 0.0, -float(m), y), (int(TILE_M) // m,) * 2) for band, m in BANDS.items()}
        for period in periods:
            for k in range(dates):
                when = f"{period.label}-{1 + k % 12:02d}-{1 + k // 12:02d}T02:10:51.000000Z"
                name = f"S2A_T{tile}_{when}_L2A"
                assets = {band: Asset(f"https://example.org/{name}/{band}.tif", *grid) for band, grid in grids.items()}
                items.append(
                    Item(
                        id=name,
                        tile=tile,
                        acquisition=f"S2A_{when}_{i_orbit(tile)}",
                        datetime=when,
                        period=period.label,
                        epsg=epsg,
                        baseline="05.00",
                        offset_dn=0,
                        offset_reason="generated",
                        cloud_cover=20.0,
                        orbit=i_orbit(tile),
                        assets=assets,
                    )
                )
    return items


def i_orbit(tile: Any) -> Any:
    return int(tile[2:4]) % 4
