"""A tiny region with real files: tiles, items, an untrained network; for the tests of `subpixmap.mapping`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import shapely
import torch

from subpixmap.grid import Lattice, Window, project
from subpixmap.mapping.plan import Plan, make_plan
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model
from subpixmap.periods import Period, make_periods
from subpixmap.region.resolve import Region
from subpixmap.scenes.items import Item, lock_items
from subpixmap.scenes.lattices import lattices
from tests.helpers import scenes_data

BANDS = {"B02": 10, "B08": 10, "B11": 20}
CORNER = (300000.0, 1200000.0)

HOLD = """
import sys, time
from subpixmap.files import path_of
from subpixmap.mapping.owner import run_lock
from subpixmap.errors import Refused
try:
    with run_lock(path_of(sys.argv[1])):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except Refused:
    print("refused", flush=True)
"""
"""A program: hold the lock of a folder for some seconds (`run_lock`), and say whether it is held or refused."""


@dataclass(frozen=True)
class Tiny:
    """What a run needs."""

    region: Region
    periods: tuple[Period, ...]
    items: list[Item]
    model: Model

    def plan(self, **options: Any) -> Plan:
        return make_plan(self.region, self.periods, self.items, self.model, **{"block": 256, **options})

    def years(self, years: str) -> Tiny:
        """The same, of some of the years."""
        periods = tuple(make_periods(years))
        labels = {period.label for period in periods}
        return replace(self, periods=periods, items=[item for item in self.items if item.period in labels])


def raising(error: type[Exception]) -> Any:
    """A function with a mistake: whatever it is called with, it raises."""

    def mistaken(*args: Any, **options: Any) -> Any:
        raise error("a mistake of ours")

    return mistaken


def tiny_model(
    *, seed: int = 0, objects: tuple[str, ...] = ("coconut", "car"), blocks: int = 1, members: int = 1
) -> Model:
    n = len(BANDS)
    card = Card(
        name="tiny",
        bands=tuple(BANDS),
        objects={name: f"a {name}" for name in objects},
        measure=dict.fromkeys(objects, "count"),
        input_mean=(0.4,) * n,
        input_std=(0.25,) * n,
        input_low=(0.0,) * n,
        input_high=(0.75,) * n,
        evidence="simulated",
        width=8,
        mid=4,
        blocks=blocks,
        halo=blocks + 2,
        members=members,
        trimmed={objects[0]: (0.02, 1.25)},
    )
    torch.manual_seed(seed)
    return Model.of(card.build_net(), card)


def region_of(window: Window, lattice: Lattice) -> Region:
    """A region that covers a window of the lattice, less a hair at its edges."""
    west, south, east, north = lattice.bounds(window)
    outline = shapely.segmentize(shapely.box(west + 1, south + 1, east - 1, north - 1), 100)
    geometry = project(outline, lattice.epsg, 4326)
    units = gpd.GeoDataFrame(
        {"unit_id": ["1"], "unit_name": ["all"], "parent_id": [""]}, geometry=[geometry], crs="EPSG:4326"
    )
    return Region("tiny", geometry, units, "test", "1")


def tiny(
    folder: Path,
    *,
    years: str = "2021-2022",
    dates: int | tuple[int, ...] = 3,
    size_px: int = 400,
    region_px: tuple[int, int] = (420, 520),
    model: Model | None = None,
) -> Tiny:
    """Two overlapping tiles, acquisitions in each year; a region of 3 x 3 blocks that the tiles fill partly.

    A region of (340, 430) px has 2 x 2 blocks.
    """
    periods = make_periods(years)
    found = []
    for period, n in zip(periods, (dates,) * len(periods) if isinstance(dates, int) else dates, strict=True):
        for i in range(n):
            start = f"{period.label}{i + 1:02d}15T021051"
            for tile, corner, hole in (
                ("51PTT", CORNER, slice(360, 400)),
                ("51PUT", (CORNER[0] + 3000, CORNER[1]), None),
            ):
                seed = int(period.label) * 100 + i * 10 + (tile == "51PUT")
                found.append(
                    scenes_data.make_item(
                        folder,
                        tile=tile,
                        corner=corner,
                        start=start,
                        seed=seed,
                        bands=BANDS,
                        hole=hole,
                        size_px=size_px,
                    )
                )
    items = lock_items(found, periods, list(BANDS))
    (lattice,) = lattices(items).values()
    first = lattice.window((CORNER[0], CORNER[1] - 1, CORNER[0] + 1, CORNER[1]))
    window = Window(first.row + 20, first.col + 20, *region_px)
    return Tiny(region_of(window, lattice), tuple(periods), items, model or tiny_model())


def hashes(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Of all arrays of all blocks that are done, from what is on disk."""
    from subpixmap.mapping.ledger import array_sha256, read_records
    from subpixmap.mapping.plan import read_plan
    from subpixmap.mapping.store import read_block

    plan = read_plan(out)
    blocks = {one.block.id: one.block for zone in plan.zones.values() for one in zone.blocks}
    return {
        key: {
            name: array_sha256(values)
            for name, values in read_block(out, blocks[key[0]], key[1], record.sha256).items()
        }
        for key, record in read_records(out, plan).items()
    }
