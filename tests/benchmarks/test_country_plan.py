"""A country is planned before anything is read: the Philippines 2018-2023 from a lock of 52,000 items."""

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import shapely

from subpixmap.grid import project
from subpixmap.mapping.needs import needs
from subpixmap.mapping.plan import make_plan
from subpixmap.mapping.run import pending_tasks
from subpixmap.periods import make_periods
from subpixmap.region.resolve import resolve_region
from subpixmap.scenes.items import Asset, Item
from tests.helpers.mapping_data import tiny_model

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


@pytest.mark.slow
def test_the_philippines_are_planned_from_a_lock_of_52_000_items(tmp_path: Path) -> None:
    region, periods, model = resolve_region("philippines"), make_periods("2018-2023"), tiny_model()
    items = generated_lock(region, periods, 52_000)
    assert 50_000 < len(items) < 54_000
    before, took, clock = rss(), SimpleNamespace(), time.process_time  # other load on the machine does not count
    start = clock()
    plan = make_plan(region, periods, items, model)
    took.plan = clock() - start
    found = needs(plan, items)
    took.needs = clock() - start - took.plan
    tasks = pending_tasks(tmp_path, plan, items)
    took.tasks = clock() - start - took.plan - took.needs
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in vars(took).items())
    print(f"{len(items)} items, {found.blocks} blocks, {len(tasks)} tasks; CPU: {told}")
    print(f"peak memory {rss() / 1e6:.0f} MB, of which {before / 1e6:.0f} MB before the plan")
    assert len(tasks) == found.tasks < 50_000
    assert rss() - before < 1e9


def rss() -> Any:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
