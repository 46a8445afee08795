"""All blocks of a map -> one set of sums: who needs which unit, what no block holds, and in which order it is added.

In: blocks and units. Out: `Sums`. Blocks are summed in this process or a few at a time on Dask workers, and added in
the order given, so the bits do not depend on the workers; memory holds a few blocks and the sums.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts.cells import EXTRA, NEAR
from subpixmap.counts.fractions import unmapped_area
from subpixmap.counts.rows import Facts
from subpixmap.counts.sums import MapBlock, Sums, block_sums
from subpixmap.counts.units import Ground, Units, cells_of, clipped
from subpixmap.grid import Lattice, Window

if TYPE_CHECKING:
    from distributed import Client


def sum_blocks(
    blocks: Iterable[MapBlock],
    units: Units,
    facts: Facts,
    *,
    size: int,
    region: BaseGeometry | None = None,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> Sums:
    """Sums over all blocks; the rows after the units are what lies outside all of them, near and far, and everything.

    `region` (EPSG:4326) is what is accounted for besides the units; all that is mapped without it.
    """
    labels, n = [period.label for period in facts.periods], len(units)
    sums = Sums.zeros(n + EXTRA, len(labels), len(facts.objects), facts.max_obs)
    walk, ground = _Walk(units, size), Ground(region)
    task = partial(
        block_sums,
        periods=labels,
        objects=len(facts.objects),
        max_obs=facts.max_obs,
        presence_threshold=facts.presence_threshold,
        assign_nearest=assign_nearest,
    )
    calls = (
        (at, polygons, block, ground.at(block.lattice, block.window))
        for block in blocks
        for at, polygons in [walk.take(block.lattice, block.window)]
    )
    for at, part in _in_order(task, calls, client):
        sums.add(np.append(at, n + np.arange(EXTRA)), part)
    sums.area[:n] += walk.rest(facts.resolution)
    return sums


Call = tuple[NDArray[np.int64], Sequence[BaseGeometry], MapBlock, BaseGeometry | None]


def _in_order(
    task: Callable[..., Sums], calls: Iterable[Call], client: Client | None
) -> Iterator[tuple[NDArray[np.int64], Sums]]:
    """(positions, sums) of every call, in the order of the calls; a few at a time on the workers of a client."""
    if client is None:
        for at, polygons, block, region in calls:
            yield at, task(polygons, block, region=region)
        return
    ahead = 4 * max(1, sum(client.ncores().values()))
    waiting: deque[tuple[NDArray[np.int64], Any]] = deque()
    for at, polygons, block, region in calls:
        waiting.append((at, client.submit(task, polygons, block, region=region, pure=False)))
        if len(waiting) >= ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


class _Walk:
    """Hands out the units of each block, and then the places of units that no block held."""

    def __init__(self, units: Units, size: int) -> None:
        self.n, self.polygons = len(units), units.by_zone()
        self.size = size
        self.lattices: dict[int, Lattice] = {}
        self.cells: dict[int, dict[tuple[int, int], list[int]]] = {}
        self.taken: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def take(self, lattice: Lattice, window: Window) -> tuple[NDArray[np.int64], list[BaseGeometry]]:
        cells = self._open(lattice)
        reach = math.ceil(NEAR / lattice.resolution) + 4
        cell = window.row // self.size, window.col // self.size
        self.taken[lattice.epsg].append(cell)
        positions = cells.pop(cell, [])
        return self._units(lattice, window.padded(reach), positions)

    def rest(self, resolution: float) -> NDArray[np.float64]:
        """(unit,) pixels that no block held, weighted by coverage and owned by their zone."""
        area = np.zeros(self.n)
        for epsg, polygons in self.polygons.items():
            lattice = self.lattices.get(epsg) or Lattice(epsg, resolution)
            held = [Window(row * self.size, col * self.size, self.size, self.size) for row, col in self.taken[epsg]]
            for position in sorted({one for positions in self._open(lattice).values() for one in positions}):
                extent = lattice.window(polygons[position].bounds).aligned(self.size)
                side = self.size << (max(extent.shape) // self.size - 1).bit_length()
                square = Window(extent.row, extent.col, side, side)
                area[position] += unmapped_area(polygons[position], lattice, square, held)
        return area

    def _open(self, lattice: Lattice) -> dict[tuple[int, int], list[int]]:
        if lattice.epsg not in self.cells:
            self.lattices[lattice.epsg] = lattice
            self.cells[lattice.epsg] = cells_of(
                self.polygons.get(lattice.epsg, []), lattice, self.size, reach=NEAR + 2 * lattice.resolution
            )
        return self.cells[lattice.epsg]

    def _units(
        self, lattice: Lattice, around: Window, positions: list[int]
    ) -> tuple[NDArray[np.int64], list[BaseGeometry]]:
        near = [clipped(self.polygons[lattice.epsg][position], lattice.bounds(around)) for position in positions]
        return np.array(positions, np.int64), near
