"""`make bench`: what we cost against plain code, as ratios of process CPU time in one run on one core.

The two sides of a ratio alternate, the fastest of several rounds counts, and both must give the same numbers.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window as FileWindow

from subpixmap.grid import Window
from subpixmap.model.checkpoint import load_model
from subpixmap.model.net import DensityNet
from subpixmap.model.predict import predict_block
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.items import Asset, Item
from subpixmap.scenes.lattices import lattices
from subpixmap.training.batches import Batch
from subpixmap.training.config import TrainConfig
from subpixmap.training.process import require_machine
from subpixmap.training.state import start
from subpixmap.training.train import take_step

os.environ["GDAL_CACHEMAX"] = "48"  # MB, before the first raster is read

pytestmark = pytest.mark.slow
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def fastest(rounds: Any, *functions: Any) -> Any:
    """Least CPU seconds of each function, and its result."""
    seconds, results = [np.inf] * len(functions), [None] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            start = time.process_time()
            results[i] = function()
            seconds[i] = min(seconds[i], time.process_time() - start)
    return seconds, results


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_network_against_eager(capsys: pytest.CaptureFixture[str]) -> None:
    """Folded, channels last, in tiles, against the same network as it was trained, in the same tiles."""
    model = load_model("demo-s2")
    rng = np.random.default_rng(0)
    mean = np.array(model.card.input_mean, np.float32)[:, None, None]
    std = np.array(model.card.input_std, np.float32)[:, None, None]
    inputs = mean + std * rng.standard_normal((10, 512 + 16, 512 + 16)).astype(np.float32)
    inputs = inputs.astype(np.float32)
    tiles = [(row, col) for row in (0, 256) for col in (0, 256)]

    def eager() -> Any:
        out = np.empty((len(model.card.objects), 512, 512), np.float32)
        with torch.inference_mode():
            for row, col in tiles:
                tile = torch.from_numpy(inputs[None, :, row : row + 272, col : col + 272])
                out[:, row : row + 256, col : col + 256] = model.net(tile)[0, 0].numpy()
        return out

    (ours, plain), ((count, _), raw) = fastest(5, lambda: predict_block(model, inputs), eager)
    fit = np.array([model.card.calibration.get(name, (0.0, 1.0)) for name in model.card.objects])
    expected = (raw - fit[:, :1, None]) * fit[:, 1:, None]
    error = np.abs(count.sum(dtype=float) / expected.sum(dtype=float) - 1)
    with capsys.disabled():
        print(
            f"\nnetwork: {plain / ours:.2f} x eager PyTorch ({ours / 0.262144:.2f} s a Mpx), total differs {error:.1e}"
        )
    assert error <= 1e-6
    assert plain / ours > 1


def test_training_steps_against_eager(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of the default network, compiled, in bfloat16, and both, against eager float32; on the same batch."""
    torch.manual_seed(0)
    count = torch.rand(8, 1, 40, 40)
    batch = Batch(torch.rand(8, len(BANDS), 56, 56), count, torch.ones_like(count), torch.ones(8))
    losses = {}

    def five_steps_of(mixed: Any, compiled: Any) -> Any:
        config = TrainConfig(mixed=mixed, compile=compiled)
        torch.manual_seed(0)
        run = start(lambda: DensityNet(len(BANDS), 1), config, torch.ones(1))
        if compiled:
            require_machine(config)
            run.net.compile()

        def five_steps() -> None:
            for _ in range(5):
                losses[mixed, compiled, run.step] = take_step(run, batch, torch.ones(1), config)["loss"]

        five_steps()  # which compiles
        return five_steps

    kinds = {"compiled": (False, True), "bfloat16": (True, False), "both": (True, True)}
    (plain, *ours), _ = fastest(3, *(five_steps_of(*kind) for kind in [(False, False), *kinds.values()]))
    told = ", ".join(f"{name} {plain / seconds:.2f} x" for name, seconds in zip(kinds, ours, strict=True))
    with capsys.disabled():
        print(f"\ntraining steps: {told} eager float32 ({plain / 5:.2f} s of CPU a step)")
    for kind in kinds.values():
        assert losses[*kind, 4] == pytest.approx(losses[False, False, 4], rel=0.02)


def written(folder: Any, band: Any, step: Any, size: Any) -> Any:
    """A band of a tile: patches and noise, compressed as COGs are."""
    n = size * 10 // step
    rng = np.random.default_rng([*band.encode()])
    values = np.kron(rng.normal(1500, 500, (n // 8, n // 8)), np.ones((8, 8))) + rng.normal(0, 60, (n, n))
    place = (float(step), 0.0, 300_000.0, 0.0, -float(step), 1_200_000.0)
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "predictor": 2, "nodata": 0}
    shape = {"width": n, "height": n, "count": 1, "dtype": "uint16"}
    path = folder / f"{band}.tif"
    with rasterio.open(path, "w", "GTiff", crs="EPSG:32651", transform=Affine(*place), **shape, **blocks) as dataset:
        dataset.write(np.clip(values, 1, 10_000).astype(np.uint16), 1)
    return Asset(str(path), place, (n, n))


@pytest.mark.parametrize("side", [1040, 260])
def test_reading_against_a_plain_loop(side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`read_reflectance` against rasterio windows of files that are kept open, 20 m bands repeated, scaled alike.

    Windows of a block of 1024 px with its halo, and small ones. The tile is larger than GDAL's cache: every round
    decodes every block.
    """
    size = 3120
    native = {band: 10 if band in ("B02", "B03", "B04", "B08") else 20 for band in BANDS}
    assets = {band: written(tmp_path, band, step, size) for band, step in native.items()}
    told: dict[str, Any] = {"datetime": "2021-01-05T02:00:00Z", "period": "2021", "epsg": 32651, "baseline": "05.00"}
    item = Item(
        id="tile", tile="51PTT", acquisition="GS2A", offset_dn=-1000, offset_reason="", cloud_cover=None, orbit=1,
        assets=assets, **told,
    )  # fmt: skip
    (lattice,) = lattices([item]).values()
    whole = lattice.window(assets["B02"].bounds)
    windows = [
        Window(whole.row + row, whole.col + col, side, side)
        for row in range(0, whole.height, side)
        for col in range(0, whole.width, side)
    ]
    with ExitStack() as stack:
        files = {band: stack.enter_context(rasterio.open(item.assets[band].href)) for band in BANDS}

        def plain() -> Any:
            total = 0.0
            for window in windows:
                layers = []
                for band in BANDS:
                    times = round(item.assets[band].resolution / 10)
                    row, col = window.row - whole.row, window.col - whole.col
                    part = FileWindow(col // times, row // times, side // times, side // times)
                    dn = files[band].read(1, window=part)
                    layers.append(dn.repeat(times, 0).repeat(times, 1) if times > 1 else dn)
                stacked = np.stack(layers)
                values = (stacked.astype(np.float32) + np.float32(item.offset_dn)) / np.float32(10_000)
                values[stacked == 0] = np.nan
                total += float(np.nansum(values, dtype=float))
            return total

        def ours() -> Any:
            return sum(float(np.nansum(read_reflectance([item], lattice, w, BANDS), dtype=float)) for w in windows)

        (a, b), (mine, theirs) = fastest(5, ours, plain)
    pixels = len(windows) * side**2
    with capsys.disabled():
        print(
            f"\nreading windows of {side} px: {a / b:.2f} x the CPU of a plain rasterio loop "
            f"({1e9 * a / pixels:.0f} ns a pixel of 10 bands)"
        )
    assert mine == pytest.approx(theirs, rel=1e-9)
