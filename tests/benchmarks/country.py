"""What grows with a country: memory, the plan, the map on disk, the count."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from subpixmap.counts.blocks import read_blocks
from subpixmap.counts.facts import read_facts
from subpixmap.counts.sums import _UnitsByBlock, block_sums
from subpixmap.counts.units import Ground, prepare_units
from subpixmap.mapping.metadata import create_map
from subpixmap.mapping.plan import write_plan
from subpixmap.mapping.store import read_block, shard_paths, write_block
from subpixmap.region.resolve import Region, resolve_region
from subpixmap.runfolder import RunFolder
from tests.benchmarks.alone import alone
from tests.benchmarks.figures import FULL_ONLY, Figure
from tests.benchmarks.scene import Scene
from tests.helpers.country_map import country_plan, write_country

PLANTED = 0.2  # share of the pixels of a plantation


def memory(scene: Scene, folder: Path, *, block: int) -> list[Figure]:
    """Peak memory of a process that maps a quarter of the region, and of one that maps all of it."""
    scene.save(folder)
    sides = scene.window.height // 2, scene.window.height
    small, large = (alone("mapping", folder, side, block)["peak_mb"] for side in sides)
    told = "megabytes of a process that maps {side} x {side} px in blocks of {block} px, libraries included"
    return [
        Figure(key="peak_rss_mb", value=small, meaning=told.format(side=sides[0], block=block)),
        Figure(key="peak_rss_mb_of_4_times_the_region", value=large, meaning=told.format(side=sides[1], block=block)),
        Figure(
            key="peak_rss_growth",
            value=large / small,
            goal=("<=", 1.10),
            meaning="memory for a region four times as large, divided by the memory for the smaller one",
        ),
    ]


def planning(n: int) -> list[Figure]:
    """The Philippines in six years from a generated lock; without items nothing is measured."""
    if not n:
        keys = {"plan_philippines_s": 10.0, "plan_philippines_rss_mb": 1000.0}
        return [Figure(key=key, value=None, goal=("<=", goal), meaning=FULL_ONLY) for key, goal in keys.items()]
    found = alone("planning", n)
    told = f"{found['items']:,.0f} generated items, {found['tasks']:,.0f} tasks"
    return [
        Figure(key="plan_philippines_s", value=found["seconds"], goal=("<=", 10), meaning=f"CPU seconds: {told}"),
        Figure(
            key="plan_philippines_rss_mb",
            value=found["peak_mb"],
            goal=("<=", 1000),
            meaning=f"peak of the process; {found['before_mb']:.0f} of it are PyTorch and the generated items",
        ),
    ]


def map_on_disk(folder: Path, *, blocks: int) -> list[Figure]:
    """Room of the map, and what its steps do to a total: predictions as of the demo, written and read back."""
    region = resolve_region("brunei")
    plan = country_plan(region, "2021")
    folder.mkdir()
    write_plan(folder, plan)
    create_map(folder, plan)
    rng, size, pixels, exact, kept = np.random.default_rng(0), 0, 0, 0.0, 0.0
    for one in [one for zone in plan.zones.values() for one in zone.blocks][:blocks]:
        values = _predicted(rng, one.block.size)[None]
        arrays = {"count": values, "presence": values, "sd_over_dates": values, "n_obs": values[0].astype(np.uint16)}
        write_block(folder, one.block, "2021", arrays)
        path = next(path for path in shard_paths(folder, one.block, "2021") if "count" in path.parts)
        size, pixels = size + os.path.getsize(path), pixels + values.size
        exact += values.sum(dtype=float)
        kept += read_block(folder, one.block, "2021", ["count"])["count"].sum(dtype=float)
    return [
        Figure(
            key="map_bits_per_px",
            value=8 * size / pixels,
            goal=("<=", 9),
            certain=True,
            meaning=f"`count` on disk: {pixels / 1e6:.1f} Mpx of generated plantations and noise",
        ),
        Figure(
            key="map_total_error",
            value=abs(kept / exact - 1),
            goal=("<=", 1e-6),
            certain=True,
            meaning="relative error of the total, read back from the map",
        ),
    ]


def _predicted(rng: np.random.Generator, side: int) -> Any:
    """(y, x) as the demo's model predicts: plantations, and everywhere else noise that is not quite around 0."""
    smooth = gaussian_filter(rng.standard_normal((side, side), np.float32), 12, mode="wrap")
    noise = rng.standard_normal((side, side), np.float32)
    return np.where(smooth > np.quantile(smooth, 1 - PLANTED), 0.55 + 0.3 * noise, 0.03 * noise - 0.0004)


def counting(folder: Path, *, years: str, every: int, rounds: int, admin: Path | None = None) -> Figure:
    """Every n-th block of a generated map of the Philippines is summed by unit, one after the other."""
    region = resolve_region("philippines", admin=admin)
    plan = country_plan(region, years)
    zones = {epsg: replace(zone, blocks=zone.blocks[::every]) for epsg, zone in plan.zones.items()}
    plan = replace(plan, zones=zones)
    write_country(folder, region, plan)
    spent, pixels = _sums(RunFolder.open(folder), region, rounds)
    return Figure(
        key="count_country_slice_ns_per_px",
        value=1e9 * sum(spent) / pixels,
        meaning=f"CPU per pixel and year; {len(spent)} blocks of a generated map of the Philippines, "
        f"{len(region.units)} units, {years}",
    )


def _sums(folder: RunFolder, region: Region, rounds: int) -> tuple[Sequence[float], int]:
    """CPU seconds of each block, and pixels x years in all."""
    facts, plan = read_facts(folder), folder.plan
    by_block, ground = _UnitsByBlock(prepare_units(region.units), plan.recipe.block), Ground(plan.geometry)
    spent, pixels = [], 0
    for block in read_blocks(folder):
        polygons, place = by_block.take(block.lattice, block.window)[1], ground.at(block.lattice, block.window)
        times = []
        for _ in range(rounds):
            began = time.process_time()
            block_sums(polygons, block, facts=facts, region=place)
            times.append(time.process_time() - began)
        spent.append(min(times))
        pixels += sum(chunk.height * chunk.width for chunk in block.chunks) * len(plan.periods)
    return spent, pixels
