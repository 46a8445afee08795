"""`make bench`: what we cost against plain code, as ratios of process CPU time in one run on one core.

The two sides of a ratio alternate, the fastest of several rounds counts, and both must give the same numbers.
"""

import time
from contextlib import ExitStack

import numpy as np
import pytest
import rasterio
import torch
from rasterio.windows import Window as FileWindow

from subpixmap.grid import Window
from subpixmap.model.checkpoint import load_model
from subpixmap.model.predict import predict_block
from subpixmap.periods import make_periods
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.lock import by_acquisition, lattices, lock_items
from subpixmap.scenes.source import find_items

pytestmark = pytest.mark.slow
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def fastest(rounds, *functions):
    """Least CPU seconds of each function, and its result."""
    seconds, results = [np.inf] * len(functions), [None] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            start = time.process_time()
            results[i] = function()
            seconds[i] = min(seconds[i], time.process_time() - start)
    return seconds, results


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_network_against_eager(capsys):
    """Folded, channels last, in tiles, against the same network as it was trained, in the same tiles."""
    model = load_model("demo-s2")
    rng = np.random.default_rng(0)
    mean = np.array(model.card.input_mean, np.float32)[:, None, None]
    std = np.array(model.card.input_std, np.float32)[:, None, None]
    inputs = mean + std * rng.standard_normal((10, 512 + 16, 512 + 16)).astype(np.float32)
    inputs = inputs.astype(np.float32)
    tiles = [(row, col) for row in (0, 256) for col in (0, 256)]

    def eager():
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


def test_reading_against_a_plain_loop(tmp_path, capsys):
    """`read_reflectance` against rasterio windows of files that are kept open, 20 m bands repeated, scaled alike."""
    from subpixmap.simulate import simulate_country

    country = simulate_country(tmp_path / "country", seed=5, size_km=10, years=(2021, 2021), acquisitions=1)
    periods = make_periods(2021)
    from subpixmap.region import resolve_region

    region = resolve_region(str(country / "region.geojson"))
    items = lock_items(find_items(str(country / "catalog.json"), region.geometry, periods), periods, BANDS)
    (lattice,) = lattices(items).values()
    item = max(next(iter(by_acquisition(items).values())), key=lambda one: one.assets["B02"].shape)
    west, south, east, north = item.assets["B02"].bounds
    whole = lattice.window((west, south, east, north))
    side = 256
    windows = [
        Window(whole.row + row, whole.col + col, side, side)
        for row in range(8, whole.height - side - 8, side)
        for col in range(8, whole.width - side - 8, side)
    ]
    with ExitStack() as stack:
        files = {band: stack.enter_context(rasterio.open(item.assets[band].href)) for band in BANDS}

        def plain():
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

        def ours():
            return sum(float(np.nansum(read_reflectance([item], lattice, w, BANDS), dtype=float)) for w in windows)

        (a, b), (mine, theirs) = fastest(5, ours, plain)
    pixels = len(windows) * side**2
    with capsys.disabled():
        print(
            f"\nreading: {a / b:.2f} x the CPU of a plain rasterio loop ({1e9 * a / pixels:.0f} ns a pixel of 10 bands)"
        )
    assert mine == pytest.approx(theirs, rel=1e-9)
