"""A plan and its items -> what the run will read, compute and need, before anything is read.

The figures are estimates from the geometry of items and blocks: nothing is opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subpixmap.grid import Window
from subpixmap.mapping.plan import Plan, items_by_period
from subpixmap.scenes.lock import Item

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model

COMPRESSED = 0.8
"""Bytes in a COG for each byte of its pixels (uint16, deflate)."""
CPU_FLOPS = 35e9
"""Of one core in this network, rounded down from 35-52 GF/s measured on an AMD Milan core."""


@dataclass(frozen=True)
class Needs:
    """What a run needs; the acquisitions are those that touch a block, up to the number that is used."""

    blocks: int
    tasks: int
    """Blocks x periods."""
    pixels: int
    """Useful pixels of one period."""
    acquisitions: int
    """Distinct acquisitions over all periods."""
    predictions: int
    """Useful pixels x acquisitions that are predicted."""
    read_bytes: float
    """Compressed."""
    flops: float
    map_bytes: float
    """Upper bound: the map uncompressed."""
    worker_bytes: float
    """Arrays of a worker at its peak, and 600 MB for the libraries."""
    hours: float
    """On the workers that were given, by the arithmetic alone, without waiting for the network."""


def needs(plan: Plan, items: Sequence[Item], model: Model, *, workers: int | None = None) -> Needs:
    """Estimate a run; `workers` processes of one core each, one a core when None."""
    cores = max(1, workers if workers is not None else os.cpu_count() or 1)
    ratio = [item.assets[band].resolution / plan.recipe.resolution for item in items[:1] for band in plan.recipe.bands]
    bytes_px = sum(2 / r**2 for r in ratio)
    predictions, read = 0, 0.0
    for locked in items_by_period(plan, items).values():
        for epsg, zone in plan.zones.items():
            mine = [item for item in locked if item.epsg == epsg]
            bounds = np.array([next(iter(item.assets.values())).bounds for item in mine]).reshape(-1, 4)
            names = np.array([item.acquisition for item in mine])
            for one in zone.blocks:
                west, south, east, north = zone.lattice.bounds(one.window)
                hit = (bounds[:, 0] < east) & (bounds[:, 2] > west) & (bounds[:, 1] < north) & (bounds[:, 3] > south)
                n = len(np.unique(names[hit]))
                used = min(n, plan.recipe.max_scenes)
                predictions += used * sum(c.height * c.width for c in one.chunks)
                read += _area(one.window.padded(model.halo)) * (used * bytes_px + n / 4)
    pixels = sum(c.height * c.width for zone in plan.zones.values() for one in zone.blocks for c in one.chunks)
    flops = predictions * flops_per_pixel(model)
    side = plan.recipe.block + 2 * model.halo
    arrays = side**2 * 4 * (3 * len(plan.recipe.bands) + 7 * len(plan.objects))
    return Needs(
        blocks=sum(len(zone.blocks) for zone in plan.zones.values()),
        tasks=plan.n_tasks,
        pixels=pixels,
        acquisitions=len({item.acquisition for item in items}),
        predictions=predictions,
        read_bytes=read * COMPRESSED,
        flops=flops,
        map_bytes=pixels * len(plan.periods) * (12 * len(plan.objects) + 2),
        worker_bytes=arrays + 6e8,
        hours=flops / CPU_FLOPS / cores / 3600,
    )


def flops_per_pixel(model: Model) -> float:
    """Floating point operations of the network for one useful pixel, halo not included."""
    card = model.card
    block = card.width * card.mid + 9 * card.mid**2 + card.mid * card.width
    heads = 9 * card.width * 2 * len(card.objects)
    return 2.0 * (9 * len(card.bands) * card.width + card.blocks * block + card.width**2 + heads)


def _area(window: Window) -> int:
    return window.height * window.width
