"""Measures the speed of a GPU: with tensors on the device, from memory, and from COGs on disk.

    python bench_gpu.py --json gpu.json                   networks 64/16, 128/32 and 256/64, float32 and bfloat16
    python bench_gpu.py --device cpu --small              the same code without a GPU, to see that it runs: seconds
    python bench_gpu.py --dry-run                         print what would be measured

Needs an installed `subpixmap`, and nothing else: imagery is made here, networks have random weights (they compute as
long as trained ones). Each rate is the best of some rounds, in million useful pixels a second.

- device: the network alone, over and over on tiles that lie on the device. Nothing can be faster.
- memory: `predict_block` on a window in memory: sent, cut and scaled on the device, taken back.
- files: the same with the window read from COGs (deflate, blocks of 512 px), the next one while one is computed.

`busy` is the share of the time of the last in which the GPU computes or copies.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from subpixmap.machine import in_order
from subpixmap.model.backends import Arithmetic, Precision, sent
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model
from subpixmap.model.device import batches_for, exact_convolutions, on_device
from subpixmap.model.predict import predict_block

BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
N_10M = 4
"""Bands of 10 m, the first ones; the others have 20 m."""
NETWORKS = ((64, 16), (128, 32), (256, 64))

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured, and where."""

    device: str = "cuda"
    side: int = 4096
    """Of the window, pixels."""
    readers: int = 8
    rounds: int = 5
    networks: tuple[tuple[int, int], ...] = NETWORKS
    """Width and bottleneck of each."""


SMALL = Size(device="cpu", side=128, readers=1, rounds=1, networks=NETWORKS[:1])
"""A processor takes a minute for one window of the usual size."""


def a_model(width: int, mid: int) -> Model:
    card = Card(
        name=f"{width}/{mid}",
        bands=BANDS,
        objects={"thing": "an untrained stand-in"},
        measure={"thing": "count"},
        input_mean=(0.1,) * 10,
        input_std=(0.1,) * 10,
        input_low=(0.0,) * 10,
        input_high=(1.0,) * 10,
        evidence="simulated",
        width=width,
        mid=mid,
    )
    torch.manual_seed(0)
    return Model.of(card.build_net(), card)


def rate(pixels: int, work: Callable[[], object], device: str, rounds: int) -> float:
    """Million pixels a second of the fastest round; a first one is not counted."""
    best = np.inf
    for number in range(rounds + 1):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began) if number else best
    return pixels / best / 1e6


def alone(model: Model, how: Arithmetic, rounds: int) -> float:
    """The network alone, on one batch that lies there."""
    net = on_device(model.folded if how.precision == "float32" else model.rounded, how.device)
    n = batches_for(how.device, how.tile).tiles if how.device != "cpu" else 1
    tiles = torch.rand(n, 10, *(side + 2 * model.halo for side in how.tile), device=how.device)
    with torch.inference_mode(), exact_convolutions(not how.tf32):
        return rate(n * how.tile[0] * how.tile[1], lambda: net(tiles), how.device, rounds)


def write_bands(folder: Path, side: int) -> list[Path]:
    """One COG for each band, of 10 or 20 m: noise on a smooth ground."""
    rng = np.random.default_rng(0)
    profile = {"driver": "COG", "dtype": "uint16", "count": 1, "compress": "deflate", "crs": "EPSG:32651"}
    paths = []
    for number, band in enumerate(BANDS):
        step = 1 if number < N_10M else 2
        n = side // step
        smooth = np.repeat(np.repeat(rng.integers(800, 3000, (n // 16 + 1,) * 2), 16, 0), 16, 1)[:n, :n]
        placed = {
            "width": n,
            "height": n,
            "transform": rasterio.Affine(10 * step, 0, 300_000, 0, -10 * step, 1_200_000),
        }
        paths.append(folder / f"{band}.tif")
        with rasterio.open(paths[-1], "w", **profile, **placed, blocksize=512, predictor=2) as file:
            file.write((smooth + rng.integers(0, 200, (n, n))).astype(np.uint16), 1)
    return paths


def read(paths: list[Path], window: Window) -> np.ndarray:
    """Reflectance of a window of 10 m; a pixel of 20 m counts for 2 x 2."""
    bands = []
    for path in paths:
        with rasterio.open(path) as file:
            step = round(file.res[0] / 10)
            first = window.row_off // step, window.col_off // step
            last = -(-(window.row_off + window.height) // step), -(-(window.col_off + window.width) // step)
            around = Window.from_slices(*(slice(*ends) for ends in zip(first, last, strict=True)), boundless=True)
            whole = file.read(1, window=around, boundless=True, fill_value=0).repeat(step, 0).repeat(step, 1)
        row, col = window.row_off - first[0] * step, window.col_off - first[1] * step
        bands.append(whole[row : row + window.height, col : col + window.width])
    numbers = np.stack(bands).astype(np.float32)
    return np.where(numbers > 0, numbers / np.float32(10000), np.float32(np.nan))


def from_files(model: Model, how: Arithmetic, paths: list[Path], size: Size) -> tuple[int, Callable[[], None]]:
    """Pixels and work of windows one after the other, each read and sent while the one before it is computed."""
    side, window = size.side, around(model, size.side)

    def work() -> None:
        calls = [lambda: sent(read(paths, window), how)] * (size.readers + 1)
        for pixels in in_order(calls, size.readers, {"read": 0.0, "wait": 0.0}, "read"):
            predict_block(model, pixels, arithmetic=how)

    return (size.readers + 1) * side**2, work


def around(model: Model, side: int) -> Window:
    """The window with its halo."""
    return Window(-model.halo, -model.halo, side + 2 * model.halo, side + 2 * model.halo)


def busy(work: Callable[[], object], device: str) -> float | None:
    """Share of the time in which the GPU computes or copies."""
    if device == "cpu":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    on_gpu = [one.time_range for one in trace.events() if one.device_type.name == "CUDA"]
    return union((one.start, one.end) for one in on_gpu) / 1e6 / seconds


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what spans of time cover together; copies and the network overlap."""
    covered, until = 0.0, -np.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def measured(model: Model, how: Arithmetic, paths: list[Path], size: Size) -> Row:
    """Rates of one network in one precision, and how far its total is from that of float32."""
    window = read(paths, around(model, size.side))
    exact = Arithmetic.chosen(backend="torch", device=how.device)
    totals = [predict_block(model, window, arithmetic=one)[0].sum(dtype=float) for one in (how, exact)]
    pixels, work = from_files(model, how, paths, size)
    predict = partial(predict_block, model, window, arithmetic=how)
    return {
        "network": model.card.name,
        "precision": how.precision,
        "device": alone(model, how, size.rounds),
        "memory": rate(size.side**2, predict, how.device, size.rounds),
        "files": rate(pixels, work, how.device, size.rounds),
        "busy": busy(work, how.device),
        "error of the total": abs(float(totals[0] / totals[1]) - 1),
    }


def measure(size: Size) -> list[Row]:
    """A row for each network and precision."""
    rows = []
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_bands(Path(folder), size.side)
        for width, mid in size.networks:
            model = a_model(width, mid)
            for precision in precisions:
                how = Arithmetic.chosen(backend="torch", precision=precision, device=size.device)
                rows.append(measured(model, how, paths, size))
                print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--side", type=int, default=4096, help="side of the window, pixels")
    parser.add_argument("--readers", type=int, default=8, help="number of reading threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="one network on 128 x 128 px, whatever else is asked for")
    parser.add_argument("--json", type=Path, help="JSON file for the numbers")
    parser.add_argument("--dry-run", action="store_true")
    asked = parser.parse_args()
    size = Size(device=asked.device, side=asked.side, readers=asked.readers, rounds=asked.rounds)
    size = replace(SMALL, device=asked.device) if asked.small else size
    if asked.dry_run:
        names = ", ".join(f"{width}/{mid}" for width, mid in size.networks)
        print(f"measure {names} in float32 and bfloat16 on {size.device}")
        print(f"windows of {size.side} px, {size.readers} readers, {size.rounds} rounds")
        return
    if size.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench_gpu.py: torch finds no GPU here; --device cpu --small tries the same code without one")
    name = torch.cuda.get_device_name() if size.device == "cuda" else "the processor"
    print(f"{name}, torch {torch.__version__}; million pixels a second")
    rows = measure(size)
    if asked.json:
        asked.json.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
