"""A whole run of a small region, beside the loops that people would write for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
from distributed import Client, get_task_stream

from subpixmap.grid import Lattice, Window
from subpixmap.mapping.run import map_region
from subpixmap.model.backends import Arithmetic
from subpixmap.model.checkpoint import Model
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.items import Asset
from tests.benchmarks.figures import Figure, Timed, fastest
from tests.benchmarks.network import ways_to_compute
from tests.benchmarks.plain_loop import Tile, map_plainly, open_files, reflectance
from tests.benchmarks.scene import BANDS, Scene, narrow, without_network
from tests.benchmarks.usual_tools import map_with_stackstac, map_with_xbatcher

_TILE = (128, 128)
_SCL_MARGIN = 10  # pixels of 10 m whose scene classes can change the mask of a block


def around_the_network(scene: Scene, folder: Path, model: Model, *, block: int, rounds: int) -> list[Figure]:
    """CPU outside the network against that of a plain loop, and which pixels a run predicts.

    Both run the same narrow network, whose own time is taken off.
    """
    free = narrow(model)
    net = free.__dict__["folded"] = Timed(free.folded)
    told: list[Any] = []
    paths = (folder / f"run-{number}" for number in count())

    def ours() -> None:
        plan = scene.plan(free, block=block)
        told.append(map_region(next(paths), plan, list(scene.items), free, workers=0))

    plainly = partial(map_plainly, scene, free, net, folder / "plain.zarr", block=block, tile=_TILE)
    mine, plain = fastest(rounds, [(ours, net), (plainly, net)])
    pixels = scene.pixels * len(scene.items)
    ns = f"{1e9 * mine.around / pixels:.0f} against {1e9 * plain.around / pixels:.0f} ns a pixel and acquisition"
    return [
        Figure(
            key="useful_pixel_share",
            value=told[-1].used_px / told[-1].predicted_px,
            meaning="share of the predicted pixels that enter a mean; the others are clouds in partly clear tiles",
        ),
        Figure(
            key="overhead_vs_plain_loop",
            value=mine.around / plain.around,
            goal=("<=", 1.25),
            meaning=f"CPU outside the network, whole run: {ns}",
        ),
    ]


def usual_tools(scene: Scene, folder: Path, model: Model, *, rounds: int) -> list[Figure]:
    """The same figure of what people would write instead; chunks and tiles of 256 px, which suits both."""
    free = narrow(model)
    net = Timed(free.folded)
    works = {"plain": map_plainly, "stackstac_overlap": map_with_stackstac, "xbatcher": map_with_xbatcher}
    if not importlib.util.find_spec("xbatcher"):
        del works["xbatcher"]
    calls = [
        partial(work, scene, free, net, folder / f"{name}.zarr", block=256, tile=(256, 256))
        for name, work in works.items()
    ]
    spent = dict(zip(works, fastest(rounds, [(call, net) for call in calls]), strict=True))
    told = {"stackstac_overlap": "stackstac and Dask's `map_overlap`", "xbatcher": "xbatcher, stitched by hand"}
    missing = "not measured: xbatcher is not installed (`pip install 'subpixmap[bench]'`)"
    return [
        Figure(
            key=f"{name}_vs_plain_loop",
            value=spent[name].around / spent["plain"].around if name in spent else None,
            meaning=f"CPU outside the network of {how}, which makes the same map" if name in spent else missing,
        )
        for name, how in told.items()
    ]


def whole(scene: Scene, folder: Path, model: Model, *, block: int, rounds: int, tile: Tile) -> list[Figure]:
    """CPU of a whole map with its network, against the plain loop with eager PyTorch at its best tile."""
    paths, ways = (folder / f"whole-{number}" for number in count()), ways_to_compute()

    def ours(how: Arithmetic) -> None:
        plan = scene.plan(model, block=block, arithmetic=how)
        map_region(next(paths), plan, list(scene.items), model, workers=0)

    plainly = partial(map_plainly, scene, model, model.net, folder / "plain.zarr", block=block, tile=tile)
    runs = {"total": ways["fast"] or ways["default"], "total_bf16": ways["bf16"]}
    told = {"total": "as a run computes by default", "total_bf16": "in bfloat16 (goal: on AMX)"}
    goals = {"total": 0.8, "total_bf16": 0.3}
    works = {name: partial(ours, how) for name, how in runs.items() if how}
    plain, *mine = fastest(rounds, [(plainly, None), *((work, None) for work in works.values())])
    return [
        Figure(
            key=f"{name}_vs_plain_loop",
            value=spent.whole / plain.whole,
            goal=("<=", goals[name]),
            meaning=f"CPU of a whole map {told[name]}, against the plain loop with eager PyTorch",
        )
        for name, spent in zip(works, mine, strict=True)
    ]


def reading(scene: Scene, *, rounds: int) -> list[Figure]:
    """`read_reflectance` against windows of open files; small windows show what a call costs."""
    return [_reading(scene, side, rounds) for side in (scene.window.height, 256)]


def _reading(scene: Scene, side: int, rounds: int) -> Figure:
    windows, bands, sums = scene.blocks(side), list(BANDS), dict[str, float]()
    with ExitStack() as stack:
        opened = [open_files(stack, item) for item in scene.items]

        def plainly() -> None:
            sums["plain"] = sum(
                _total(reflectance(files, scene, window, item.offset_dn))
                for item, files in zip(scene.items, opened, strict=True)
                for window in windows
            )

        def ours() -> None:
            sums["ours"] = sum(
                _total(read_reflectance([item], scene.lattice, window, bands))
                for item in scene.items
                for window in windows
            )

        mine, plain = fastest(rounds, [(ours, None), (plainly, None)])
    assert np.isclose(sums["ours"], sums["plain"], rtol=1e-9), "the two loops do not read the same"
    pace = 1e9 * mine.whole / (len(windows) * side**2 * len(scene.items))
    return Figure(
        key=f"reading_{'block' if side == scene.window.height else 'small_windows'}_vs_plain_loop",
        value=mine.whole / plain.whole,
        meaning=f"ten bands in windows of {side} px; {pace:.0f} ns per pixel",
    )


def _total(values: Any) -> float:
    return float(np.nansum(values, dtype=float))


def decodes(scene: Scene, folder: Path, model: Model, *, block: int) -> list[Figure]:
    """Bytes that a run reads, by the bytes of the blocks of files that its tasks need.

    The system counts what is read, from its cache, too: a block that is decoded twice is read twice. What a run reads
    of its own map, to hash it, is taken off.
    """
    free, windows = without_network(model), scene.blocks(block)
    plan = scene.plan(free, block=block)
    before = psutil.Process().io_counters().read_chars
    out = folder / "decodes"
    map_region(out, plan, list(scene.items), free, workers=0)
    read = psutil.Process().io_counters().read_chars - before
    read -= sum(path.stat().st_size for path in (out / "map.zarr").rglob("c/**/*") if path.is_file())
    needed = [_blocks_of(scene, window, model.halo) for window in windows]
    by_task, once = (
        sum(sum(one.values()) for one in needed),
        sum({k: v for one in needed for k, v in one.items()}.values()),
    )
    return [
        Figure(
            key="decodes_per_block",
            value=read / by_task,
            goal=("<=", 1.05),
            certain=True,
            meaning="bytes read, divided by the bytes of the file blocks that a task needs (with headers and the lock)",
        ),
        Figure(
            key="decodes_per_block_over_tasks",
            value=read / once,
            meaning=f"the same over all {len(windows)} tasks: neighbours read file blocks on their borders again",
        ),
    ]


def _blocks_of(scene: Scene, window: Window, halo: int) -> dict[tuple[str, int, int], int]:
    """(file, row, column) of the blocks that a task needs -> their bytes."""
    found: dict[tuple[str, int, int], int] = {}
    for item in scene.items:
        for band, asset in item.assets.items():
            margin = _SCL_MARGIN if band == "SCL" else halo
            found |= {(asset.href, *at): size for at, size in _in_file(asset, scene.lattice, window.padded(margin))}
    return found


def _in_file(asset: Asset, lattice: Lattice, window: Window) -> Iterator[tuple[tuple[int, int], int]]:
    with rasterio.open(asset.href) as file:
        part = file.window(*lattice.bounds(window))
        (height, width), step = file.block_shapes[0], 1e-6
        rows = range(int((part.row_off + step) // height), int((part.row_off + part.height - step) // height) + 1)
        cols = range(int((part.col_off + step) // width), int((part.col_off + part.width - step) // width) + 1)
        for row in rows:
            for col in cols:
                yield (row, col), int(file.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=1))


def tasks(scene: Scene, folder: Path, model: Model) -> Figure:
    """Tasks that a Dask scheduler sees for a small run."""
    free = without_network(model)
    plan = scene.plan(free, block=256)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        with get_task_stream(client) as stream:
            map_region(folder / "tasks", plan, list(scene.items), free, client=client)
    return Figure(
        key="tasks_per_block_period",
        value=len({one["key"] for one in stream.data}) / plan.n_tasks,
        goal=("<=", 1.0),
        certain=True,
        meaning=f"tasks that the Dask scheduler sees, of {plan.n_tasks} blocks x periods",
    )
