"""Makes the table of docs/scaling.md: needs of a country, two large ones and the world for six years.

    python scaling.py                          # the table, from the rates that `subpixmap plan` uses
    python scaling.py --measure philippines    # blocks, chunks and pixels of a region, as they stand in PLACES

`plan` counts the chunks of every block. Here two small regions are planned, one chunk and one block. What they need is
scaled by the blocks, chunks and pixels of the large regions, which are planned once and written down in PLACES.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cache

from shapely.geometry import box

from subpixmap.grid import CHUNK, Block, Lattice, Window, project
from subpixmap.mapping.needs import Needs, needs
from subpixmap.mapping.plan import Plan, make_plan
from subpixmap.mapping.zones import plan_zones
from subpixmap.model.checkpoint import Model, load_model
from subpixmap.periods import make_periods
from subpixmap.region.resolve import Region, resolve_region
from subpixmap.scenes.items import Asset, Item
from subpixmap.verbs.run import CPU_FLOPS

YEARS = 6
LOOKS = 73  # acquisitions of a place in a year: one each five days
OBJECT = "coconut"
CORES = 1000
PRICE_CORE_HOUR, PRICE_GB_MONTH = 0.04, 0.023  # examples
READ_NS = 104  # CPU of reading a pixel of ten bands, docs/benchmarks.md
GPU_READERS = 16  # cores that read for one GPU
BANDS = dict.fromkeys(("B02", "B03", "B04", "B08"), 10.0)
BANDS |= dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), 20.0)
ZONE, NORTH = 32651, 1_300_000.0  # where the small regions lie: beside the middle of a zone, on land


@dataclass(frozen=True)
class Place:
    """A region, as blocks of 1024 px are planned over it."""

    km2: float
    blocks: int
    chunks: int
    pixels: float
    """Of the windows that are read, with their halo."""

    def __add__(self, other: Place) -> Place:
        """Both regions, each in a folder of its own."""
        return Place(
            self.km2 + other.km2,
            self.blocks + other.blocks,
            self.chunks + other.chunks,
            self.pixels + other.pixels,
        )

    def scaled(self, km2: float) -> Place:
        """Another region whose outline is as long for its area."""
        k = km2 / self.km2
        return Place(km2, round(self.blocks * k), round(self.chunks * k), self.pixels * k)


PLACES = {
    "Philippines": Place(488_455, 5_692, 78_919, 5_498_579_968),
    "Indonesia + Malaysia": Place(2_453_162, 26_883, 388_970, 26_766_029_568)
    + Place(401_597, 4_286, 63_184, 4_336_041_472),
    "world": Place(72_497_588, 747_246, 11_286_855, 770_145_496_576).scaled(134_381_599),
}
"""Shipped outlines. World: 236 countries, all but the largest six, scaled to the land without Antarctica."""


@cache
def the_model() -> Model:
    """A shipped network of ten bands."""
    return load_model("demo-s2-v2")


def looks_at(epsg: int, bounds: tuple[float, float, float, float], n: int) -> list[Item]:
    """n acquisitions in 2021 that cover the bounds; nothing of them is ever read."""
    west, south, east, north = (round(value / 60) * 60.0 for value in bounds)
    grids = {
        band: ((m, 0.0, west, 0.0, -m, north), (int((north - south) / m), int((east - west) / m)))
        for band, m in BANDS.items()
    }
    days = [f"2021-{1 + k % 12:02d}-{1 + k // 12:02d}T02:10:51.000000Z" for k in range(n)]
    return [
        Item(
            id=day,
            tile="51PTT",
            acquisition=day,
            datetime=day,
            period="2021",
            epsg=epsg,
            baseline="05.00",
            offset_dn=0,
            offset_reason="generated",
            cloud_cover=20.0,
            orbit=1,
            assets={band: Asset(f"https://example.org/{band}.tif", *grid) for band, grid in grids.items()},
        )
        for day in days
    ]


def a_year(region: Region, items: list[Item]) -> tuple[Plan, Needs]:
    """A plan of one year with the package's own functions, and what it needs if whole chunks are computed."""
    plan = make_plan(region, make_periods(2021), items, the_model(), objects=(OBJECT,), mapped_by="chunk")
    return plan, needs(plan, items)


def pixels_of(plan: Plan) -> int:
    """Pixels of the windows that are read, with their halo."""
    windows = [one.window.padded(plan.model.halo) for zone in plan.zones.values() for one in zone.blocks]
    return sum(window.height * window.width for window in windows)


@cache
def small(chunks: int) -> tuple[Place, Needs]:
    """A year of chunks x chunks of one block."""
    lattice = Lattice(ZONE)
    block = Block(lattice, int((lattice.top - NORTH) / 10_240), 49, 1024).window
    west, south, east, north = lattice.bounds(Window(block.row, block.col, chunks * CHUNK, chunks * CHUNK))
    inner = project(box(west + 200, south + 200, east - 200, north - 200), ZONE, 4326)
    region = resolve_region(",".join(f"{value:.6f}" for value in inner.bounds))
    plan, found = a_year(region, looks_at(ZONE, (west - 6000, south - 6000, east + 6000, north + 6000), LOOKS))
    return Place((chunks * 2.56) ** 2, found.blocks, found.chunks, pixels_of(plan)), found


def needs_of(place: Place) -> Needs:
    """What `subpixmap plan` says of a year of a place: sums over blocks, chunks and pixels."""
    (one, of_one), (full, of_full) = small(1), small(4)
    per_chunk = (of_full.map_bytes - of_one.map_bytes) / (full.chunks - one.chunks)
    return replace(
        of_full,
        blocks=place.blocks,
        tasks=place.blocks,
        chunks=place.chunks,
        bytes_to_read=of_full.bytes_to_read / full.pixels * place.pixels,
        predicted_px=of_full.predicted_px / full.chunks * place.chunks,
        map_bytes=per_chunk * place.chunks + (of_one.map_bytes - per_chunk) * place.blocks,
    )


def measure(name: str) -> Place:
    """Blocks, chunks and pixels of a region by name."""
    from pyproj import Geod

    geometry, halo = resolve_region(name).geometry, the_model().halo
    blocks = [one for zone in plan_zones(geometry, {}, 10.0, 1024).values() for one in zone.blocks]
    windows = [one.window.padded(halo) for one in blocks]
    km2 = abs(Geod(ellps="WGS84").geometry_area_perimeter(geometry)[0]) / 1e6
    return Place(km2, len(blocks), sum(len(b.chunks) for b in blocks), sum(w.height * w.width for w in windows))


def column(place: Place) -> dict[str, str]:
    """The rows of the table, of one place in all years."""
    year = needs_of(place)
    px, read, kept = (YEARS * value for value in (year.predicted_px, year.bytes_to_read, year.map_bytes))
    core_hours = px * the_model().card.flops_per_pixel / CPU_FLOPS / 3600
    reading = px * READ_NS * 1e-9 / 3600
    return {
        "land and strip of coast, million km2": f"{place.km2 / 1e6:.3g}",
        "tasks (blocks of 1024 px x years)": f"{place.blocks * YEARS:,}",
        "network: trillion (10^12) pixels x acquisitions": f"{px / 1e12:,.3g}",
        "read, TB": three(read / 1e12),
        "map on disk, TB": three(kept / 1e12),
        "core-hours of the network": three(core_hours),
        "core-hours of reading and decoding": three(reading),
        f"days on {CORES:,} cores, network and reading": three((core_hours + reading) / CORES / 24),
        f"rate of reading meanwhile, Gbit/s on {CORES:,} cores": three(
            read * 8 / 1e9 / ((core_hours + reading) / CORES * 3600)
        ),
        f"GPU-hours, at least ({GPU_READERS} cores read for each)": three(reading / GPU_READERS),
        f"cost of the network at {PRICE_CORE_HOUR} a core-hour": three(core_hours * PRICE_CORE_HOUR),
        f"cost of the map at {PRICE_GB_MONTH} a GB and month": three(kept / 1e9 * PRICE_GB_MONTH),
    }


def three(value: float) -> str:
    """Three digits, the rest zeros."""
    return f"{float(f'{value:.3g}'):,.10g}"


def table() -> str:
    """All places, in Markdown."""
    columns = [column(place) for place in PLACES.values()]
    lines = [f"| {YEARS} years | {' | '.join(PLACES)} |", "|---|" + "---|" * len(PLACES)]
    lines += [f"| {name} | {' | '.join(one[name] for one in columns)} |" for name in columns[0]]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", metavar="REGION", help="blocks, chunks and pixels of a region")
    asked = parser.parse_args()
    print(measure(asked.measure) if asked.measure else table())
