"""The needs of a run from plan and items, without reading pixels: tasks, bytes, computing, memory, disk space.

Memory and disk space are upper estimates. A run that cannot fit is refused, with options that would fit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from subpixmap.errors import Refused
from subpixmap.files import is_remote
from subpixmap.grid import CELL, CHUNK
from subpixmap.mapping.cluster import KEPT_BYTES
from subpixmap.mapping.footprints import footprints_by_period_and_zone
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.schema import ARRAYS, N_OBS, arrays_of
from subpixmap.mapping.task import readers_for
from subpixmap.mapping.zones import plan_zones
from subpixmap.model.clouds import NETWORK_BYTES, Cells, network_bands
from subpixmap.scenes.access import GDAL_CACHE_BYTES
from subpixmap.scenes.items import Item

_PROCESS = 850e6  # bytes of a worker after a tiny block: interpreter, torch, GDAL, zarr
_COMPRESSED = 0.8  # bytes in a COG for each byte of a band
_RECORD = 8e3  # bytes of a ledger record, and again for every acquisition and object below
_RECORD_CELL = 6.0


@dataclass(frozen=True)
class Needs:
    """Needs of a whole plan; includes blocks already done."""

    blocks: int
    tasks: int
    """Blocks x periods."""
    chunks: int
    """Inner chunks that hold what is computed, over all periods."""
    items: int
    """Locked items."""
    acquisitions: float
    """Mean number of acquisitions that are predicted for a block and period, at most."""
    bytes_to_read: float
    """Compressed, an estimate."""
    predicted_px: float
    """Pixels x acquisitions that go through the network, at most (clouds make it fewer)."""
    worker_memory: float
    """Peak of a worker process, bytes."""
    map_bytes: float
    """Map and ledger on disk, an estimate."""
    computed_px: float = 0.0
    """Pixels that are computed, over all periods: in cells of these chunks that come near the region."""
    mask_tiles: int = 0
    """Tiles that a cloud network sees, where clouds are as the scene classes say; 0 without one."""


def needs(plan: Plan, items: Iterable[Item]) -> Needs:
    """The needs of a plan, from the items over every block, without opening files."""
    items = list(items)
    recipe = plan.recipe
    tasks = chunks = computed = predicted = 0.0
    read = n_scenes = mask_tiles = 0.0
    per_px, cells = _bytes_per_pixel(plan, items), Cells.of(recipe.resolution)
    in_cells = {epsg: [int(one.computed.sum()) * CELL**2 for one in zone.blocks] for epsg, zone in plan.zones.items()}
    tiles_fit = max(recipe.arithmetic.tile) <= CELL
    for _, epsg, _, near in footprints_by_period_and_zone(plan, items):
        zone = plan.zones[epsg]
        for one, px in zip(zone.blocks, in_cells[epsg], strict=True):
            window = one.window
            seen = len(np.unique(near.acquisition[near.over(zone.lattice.bounds(window))]))
            used = min(seen, recipe.max_scenes)
            padded = window.padded(plan.model.halo)
            tasks, chunks, n_scenes = tasks + 1, chunks + len(one.chunks), n_scenes + used
            computed += px
            predicted += used * (px if tiles_fit else len(one.chunks) * CHUNK**2)
            read += padded.height * padded.width * (used * per_px["bands"] + seen * per_px["SCL"])
            if recipe.mask.by != "scl":
                looked, looked_px = cells.seen(window)
                mask_tiles += used * looked
                read += used * looked_px * per_px["clouds"]
    n = len(recipe.objects)
    sums = (recipe.block / CELL) ** 2 * _RECORD_CELL
    stored = computed * (ARRAYS[N_OBS].disk_bytes + n * _layer_bytes(recipe.spread))
    return Needs(
        blocks=sum(len(zone.blocks) for zone in plan.zones.values()),
        tasks=int(tasks),
        chunks=int(chunks),
        items=len(items),
        acquisitions=n_scenes / max(tasks, 1),
        bytes_to_read=read * _COMPRESSED,
        predicted_px=predicted,
        worker_memory=worker_memory(plan),
        map_bytes=stored + tasks * _RECORD + n_scenes * n * sums,
        computed_px=computed,
        mask_tiles=int(mask_tiles),
    )


def spread_bytes(plan: Plan, needed: Needs) -> float:
    """Estimated bytes on disk of the counts per network."""
    more = _layer_bytes(plan.recipe.spread) - _layer_bytes(0)
    return needed.computed_px * len(plan.recipe.objects) * more


def _layer_bytes(spread: int) -> float:
    """Bytes on disk of one pixel and object, over all arrays with objects."""
    return sum(one.disk_bytes for name, one in arrays_of(spread).items() if name != N_OBS)


def worker_memory(plan: Plan) -> float:
    """Peak memory of a worker process, bytes: base, GDAL's cache, kept memory, and arrays of the largest block."""
    recipe, n = plan.recipe, len(plan.recipe.objects)
    windows = [one.window for zone in plan.zones.values() for one in zone.blocks]
    window = max(w.height * w.width for w in windows)
    padded = max(p.height * p.width for p in (w.padded(plan.model.halo) for w in windows))
    block = recipe.block**2
    readers = readers_for(recipe.arithmetic.device)
    reading = padded * len(recipe.bands) * (4 + readers * (4 + 6))  # this acquisition, and the next ones with their DN
    if recipe.arithmetic.device != "cpu":  # the next one already predicted; windows that are copied to the GPU
        reading += padded * len(recipe.bands) * (4 + readers * 2) + window * n * (2 + recipe.spread) * 4
    # Sums, squares, presence; lowest, highest; of each network apart sum, lowest, highest; counts.
    running = window * (n * (3 * 8 + 4 * 4 + recipe.spread * (8 + 3 * 4)) + 4)
    stored = block * n * (len(arrays_of(recipe.spread)) - 1) * 4
    ending = window * n * 5 * 8 + stored * 2  # temporaries of the mean; the stored arrays, and encoded
    looking = 0.0
    if recipe.mask.by != "scl":  # one strip for each reader
        cells = Cells.of(recipe.resolution)
        strip = max(cells.side * (cells.over(w).width * cells.core + 2 * cells.margin) for w in windows)
        looking = NETWORK_BYTES + readers * strip * len(network_bands(recipe.bands)) * (4 + 6)
    return _PROCESS + GDAL_CACHE_BYTES + KEPT_BYTES + looking + running + max(reading, ending)


def require_fit(plan: Plan, needed: Needs, out: Path, *, memory: float | None, workers: int = 1) -> None:
    """Refuse a run that cannot fit into memory or on disk.

    Parameters
    ----------
    plan, needed
        The plan and its needs.
    out
        The run's folder; the size of the present map is subtracted.
    memory
        Bytes that all worker processes may use together; not checked when None.
    workers
        Number of worker processes.

    Raises
    ------
    Refused
        The run does not fit; the message names need, limit and options that would fit.
    """
    if memory is not None and needed.worker_memory * workers > memory:
        raise Refused(
            f"blocks of {plan.recipe.block} px need up to {needed.worker_memory / 1e9:.1f} GB in each of {workers} "
            f"workers, but the memory is {memory / 1e9:.1f} GB; "
            f"{_that_would_fit(plan, needed, memory, workers)}"
        )
    if is_remote(out):
        return  # an object store does not report its free space
    folder = Path(out).absolute()
    while not folder.exists():
        folder = folder.parent
    there = sum(f.stat().st_size for f in Path(out).rglob("*") if f.is_file()) if Path(out).exists() else 0
    free = shutil.disk_usage(folder).free + there
    if needed.map_bytes > free:
        raise Refused(
            f"the map needs about {needed.map_bytes / 1e9:.3g} GB and {folder} has {free / 1e9:.3g} GB; "
            "choose another --out, fewer --years or fewer --object"
        )


def _that_would_fit(plan: Plan, needed: Needs, memory: float, workers: int) -> str:
    """Options, in words."""
    options = []
    if fewer := int(memory / needed.worker_memory):
        options.append(f"--workers {fewer}")
    for block in sorted({plan.recipe.block // 2**k // CHUNK * CHUNK for k in range(1, 6)} - {0}, reverse=True):
        lattices = {epsg: zone.lattice for epsg, zone in plan.zones.items()}
        zones = plan_zones(plan.geometry, lattices, plan.recipe.resolution, block, plan.recipe.mapped_by)
        smaller = replace(plan, recipe=replace(plan.recipe, block=block), zones=zones)
        if worker_memory(smaller) * workers <= memory:
            options.append(f"--block {block}")
            break
    return (
        f"{' or '.join(options)} would fit"
        if options
        else "even the smallest block is too large; use a machine with more memory"
    )


def _bytes_per_pixel(plan: Plan, items: Iterable[Item]) -> dict[str, float]:
    """Raw bytes in the files per pixel of the lattice: coarser bands need less."""
    item = next(iter(items), None)
    share = (
        {name: (plan.recipe.resolution / asset.resolution) ** 2 for name, asset in item.assets.items()} if item else {}
    )
    classes = share.get("SCL", 2 * max(share.values(), default=0.125))  # without them a band says where data is
    read = {"bands": plan.recipe.bands, "clouds": network_bands(plan.recipe.bands)}
    return {name: sum(2 * share.get(band, 1.0) for band in bands) for name, bands in read.items()} | {"SCL": classes}
