"""The network alone: how fast it is against eager PyTorch, how much it computes twice, how exact it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from subpixmap.model.backends import Arithmetic
from subpixmap.model.checkpoint import Model, load_model
from subpixmap.model.predict import predict_block, predict_patch
from subpixmap.region.resolve import resolve_region
from subpixmap.scenes.cube import open_cube
from subpixmap.simulate import simulate_country
from tests.benchmarks.figures import FULL_ONLY, Figure, Spent, fastest
from tests.benchmarks.plain_loop import Tile, in_tiles

Array = NDArray[Any]
TILES: tuple[Tile, ...] = ((64, 64), (64, 128), (128, 128), (256, 256))
"""Of eager PyTorch; the fastest is the opponent."""
_NO_OPENVINO = "not measured: OpenVINO is not installed (`pip install 'subpixmap[fast]'`)"
_KM, _FEW = 100, 100  # pixels; objects a km2 below which a share of them says little


def ways_to_compute() -> dict[str, Arithmetic | None]:
    """PyTorch as every installation has it, OpenVINO, and OpenVINO in bfloat16; None what is not installed."""
    has = Arithmetic.chosen().backend == "openvino"
    return {
        "default": Arithmetic.chosen(backend="torch"),
        "fast": Arithmetic.chosen(backend="openvino") if has else None,
        "bf16": Arithmetic.chosen(backend="openvino", precision="bfloat16") if has else None,
    }


def network(model: Model, *, side: int, rounds: int) -> tuple[list[Figure], Tile]:
    """Speed of each arithmetic on one window against eager PyTorch at its best tile, which is returned, too."""
    inputs, found = noise(model, side), ways_to_compute()
    ours = {name: how for name, how in found.items() if how is not None}
    tiles = [tile for tile in TILES if max(tile) <= side]
    works: list[Callable[[], object]] = [partial(_eager, model, inputs, tile) for tile in tiles]
    works += [partial(predict_block, model, inputs, arithmetic=how) for how in ours.values()]
    spent = fastest(rounds, [(work, None) for work in works])
    eager, mine = spent[: len(tiles)], dict(zip(ours, spent[len(tiles) :], strict=True))
    best = min(range(len(tiles)), key=lambda i: eager[i].whole)
    told = f"eager PyTorch in float32 in tiles of {tiles[best][0]} x {tiles[best][1]}"
    goals = {"default": 1.25, "fast": 1.5, "bf16": 3.5}
    names = {"default": "PyTorch, folded", "fast": "OpenVINO in float32", "bf16": "OpenVINO in bfloat16 (goal: on AMX)"}
    figures = [
        Figure(
            key=f"network_speedup_{name}",
            value=eager[best].whole / mine[name].whole if name in mine else None,
            goal=(">=", goal),
            meaning=f"{names[name]}, against {told}" if name in mine else _NO_OPENVINO,
        )
        for name, goal in goals.items()
    ]
    usual = "fast" if "fast" in mine else "default"
    how = ours[usual]
    return [*figures, _rate(model, how, mine[usual], side), _halo_waste(model, how)], tiles[best]


def _eager(model: Model, inputs: Array, tile: Tile) -> object:
    with torch.inference_mode():
        return in_tiles(model, model.net, inputs, tile)


def noise(model: Model, side: int) -> Array:
    """(band, y, x) reflectance of a window of side x side px with its halo."""
    shape, rng = (len(model.card.bands), 1, 1), np.random.default_rng(0)
    mean, std = (
        np.array(values, np.float32).reshape(shape) for values in (model.card.input_mean, model.card.input_std)
    )
    return np.asarray(mean + std * rng.standard_normal((shape[0],) + (side + 2 * model.halo,) * 2, np.float32))


def _rate(model: Model, how: Arithmetic, spent: Spent, side: int) -> Figure:
    tiles = -(-side // how.tile[0]) * -(-side // how.tile[1])
    pace = 1e9 * spent.whole / side**2
    return Figure(
        key="network_gflops_per_core",
        value=tiles * _flops(model, how.tile) / spent.whole / 1e9,
        meaning=f"billion (10^9) operations per second, {how.backend}; {pace:,.0f} ns of a core per useful pixel",
    )


def _halo_waste(model: Model, how: Arithmetic) -> Figure:
    return Figure(
        key="halo_waste",
        value=_flops(model, how.tile) / (how.tile[0] * how.tile[1] * model.card.flops_per_pixel),
        goal=("<=", 1.10),
        meaning=f"operations of a tile of {how.tile[0]} x {how.tile[1]} px, divided by those without its halo",
    )


def _flops(model: Model, tile: Tile) -> float:
    """Operations of one tile with its halo, as PyTorch counts them."""
    inputs = torch.zeros(1, len(model.card.bands), *(side + 2 * model.halo for side in tile))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.folded(inputs)
    return float(counter.get_total_flops())


def exactness(model: Model, *, side: int) -> Figure:
    """Windows of a window, each with its halo, against all of it in one call of the network."""
    halo, inputs, cut = model.halo, noise(model, side), side // 2 - 5
    whole = predict_patch(model, inputs)[0]
    worst = 0.0
    for rows in (slice(0, cut), slice(cut, side)):
        for cols in (slice(0, cut), slice(cut, side)):
            part = inputs[:, rows.start : rows.stop + 2 * halo, cols.start : cols.stop + 2 * halo]
            worst = max(worst, float(np.abs(predict_block(model, part)[0] - whole[:, rows, cols]).max()))
    return Figure(
        key="max_abs_error_vs_whole_image",
        value=worst,
        goal=("<=", 1e-6),
        certain=True,
        meaning="objects per pixel: blocks with their halo, against the whole image in one call",
    )


def bf16_on_this_processor(*, size_km: float) -> Figure:
    """OpenVINO in bfloat16 against float32; nothing is measured on 0 km."""
    if not size_km:
        return Figure(key="bf16_error_per_km2", value=None, goal=("<=", 1e-3), meaning=FULL_ONLY)
    found = ways_to_compute()
    if found["fast"] is None or found["bf16"] is None:
        return Figure(key="bf16_error_per_km2", value=None, goal=("<=", 1e-3), meaning=_NO_OPENVINO)
    return bf16_error(found["fast"], found["bf16"], size_km=size_km)


def bf16_error(exact: Arithmetic, rounded: Arithmetic, *, size_km: float) -> Figure:
    """bfloat16 against float32 on a simulated acquisition, square by square."""
    model = load_model("demo-s2")
    with tempfile.TemporaryDirectory() as folder:
        country = Path(folder) / "country"
        simulate_country(country, seed=3, size_km=size_km, years=(2021, 2021), acquisitions=1)
        region = resolve_region(str(country / "region.geojson"))
        cube = open_cube(region, 2021, source=str(country), bands=list(model.card.bands))
        inputs = cube["reflectance"].isel(time=0).values
    rows, cols = ((n - 2 * model.halo) // _KM * _KM + 2 * model.halo for n in inputs.shape[1:])
    inputs = np.ascontiguousarray(inputs[:, :rows, :cols])
    before, after = (_by_km2(predict_block(model, inputs, arithmetic=how)[0]) for how in (exact, rounded))
    mean = before.mean(axis=(1, 2))
    errors = np.where(mean > _FEW, np.sqrt(((after - before) ** 2).mean(axis=(1, 2))) / mean, 0)
    worst = int(errors.argmax())
    return Figure(
        key="bf16_error_per_km2",
        value=float(errors[worst]),
        goal=("<=", 1e-3),
        meaning=f"{rounded.backend} on {rounded.device}: root mean square over {before[0].size} simulated km2, "
        f"divided by the mean of a km2, for the worst object ({tuple(model.card.objects)[worst]})",
    )


def _by_km2(count: Array) -> Array:
    """(object, km, km) totals."""
    n, rows, cols = count.shape
    return np.asarray(count.reshape(n, rows // _KM, _KM, cols // _KM, _KM).sum(axis=(2, 4), dtype=float))
