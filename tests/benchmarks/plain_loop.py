"""The opponent: a plain rasterio window loop that makes the same map, as one would write it for this scene alone.

Files stay open, windows are those of the blocks with their halo, the mean is a running sum; nothing is checked, nothing
is recorded, and nothing can be resumed.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import zarr
from numpy.typing import NDArray
from rasterio.windows import Window as FileWindow
from scipy.ndimage import distance_transform_edt

from subpixmap.grid import Window
from subpixmap.model.checkpoint import Model
from subpixmap.model.mean import TRIM_FROM, fits_in_order
from subpixmap.scenes.items import Item
from tests.benchmarks.scene import BANDS, MARGIN, NATIVE, Scene

Array = NDArray[Any]
Tile = tuple[int, int]
Files = dict[str, rasterio.DatasetReader]
BAD, SPREADING, SPREAD_PX = (0, 1, 3, 8, 9, 10, 11), (3, 8, 9), 5  # scene classes; 100 m of 20 m pixels


def map_plainly(scene: Scene, model: Model, net: torch.nn.Module, out: Path, *, block: int, tile: Tile) -> None:
    """Count, presence, spread over dates and number of observations of every pixel, in a Zarr group."""
    group, names = zarr.open_group(out, mode="w"), list(model.card.objects)
    full = len(names), *scene.window.shape
    arrays = {
        name: group.create_array(name, shape=full, chunks=(full[0], block, block), dtype="float32", fill_value=np.nan)
        for name in ("count", "presence", "sd_over_dates")
    }
    n_obs = group.create_array("n_obs", shape=full[1:], chunks=(block, block), dtype="uint16")
    with ExitStack() as stack, torch.inference_mode():
        opened = [open_files(stack, item) for item in scene.items]
        for window in scene.blocks(block):
            mean = RunningMean(len(names), (block, block))
            for item, files in zip(scene.items, opened, strict=True):
                valid = clear_pixels(files, scene, window)
                inputs = reflectance(files, scene, window.padded(model.halo), item.offset_dn)
                inner = inputs[:, model.halo : -model.halo, model.halo : -model.halo]
                mean.add(*in_tiles(model, net, inputs, tile), valid & np.isfinite(inner).all(axis=0))
            at = window.slices(scene.window)
            for name, values in mean.result(fits_in_order(model.card.trimmed, names)).items():
                arrays[name][:, *at] = values
            n_obs[at] = mean.n


def open_files(stack: ExitStack, item: Item) -> Files:
    """All files of an acquisition, until the stack closes them."""
    return {band: stack.enter_context(rasterio.open(item.assets[band].href)) for band in NATIVE}


def reflectance(files: Files, scene: Scene, window: Window, offset_dn: int) -> Array:
    """(band, y, x) of a window of the lattice; NaN where there is none; pixels of 20 m are repeated."""
    bands = []
    for band, step in BANDS.items():
        times = step // 10
        values = files[band].read(1, window=_in_file(scene, window, times))
        bands.append(values.repeat(times, 0).repeat(times, 1) if times > 1 else values)
    dn = np.stack(bands)
    scaled: Array = (dn.astype(np.float32) + np.float32(offset_dn)) / np.float32(10_000)
    scaled[dn == 0] = np.nan
    return scaled


def clear_pixels(files: Files, scene: Scene, window: Window) -> Array:
    """(y, x): neither cloud nor beside one."""
    margin = 2 * SPREAD_PX
    scl = files["SCL"].read(1, window=_in_file(scene, window.padded(margin), 2))
    near = distance_transform_edt(~np.isin(scl, SPREADING)) > SPREAD_PX
    valid: Array = near & ~np.isin(scl, BAD)
    return valid.repeat(2, 0).repeat(2, 1)[margin:-margin, margin:-margin]


def _in_file(scene: Scene, window: Window, times: int) -> FileWindow:
    row, col = window.row - scene.window.row + MARGIN, window.col - scene.window.col + MARGIN
    return FileWindow(col // times, row // times, window.width // times, window.height // times)


def in_tiles(model: Model, net: torch.nn.Module, inputs: Array, tile: Tile) -> tuple[Array, Array]:
    """Count and presence (object, y, x) of a padded window, tile by tile."""
    halo, n = model.halo, len(model.card.objects)
    rows, cols = (side - 2 * halo for side in inputs.shape[1:])
    count, presence = np.empty((n, rows, cols), np.float32), np.empty((n, rows, cols), np.float32)
    background, slope = fits_in_order(model.card.calibration, model.card.objects).T[:, :, None, None]
    for r in range(0, rows, tile[0]):
        for c in range(0, cols, tile[1]):
            part = torch.from_numpy(inputs[None, :, r : r + tile[0] + 2 * halo, c : c + tile[1] + 2 * halo])
            density, logit = net(part)[0]
            count[:, r : r + tile[0], c : c + tile[1]] = (density.numpy() - background) * slope
            presence[:, r : r + tile[0], c : c + tile[1]] = torch.sigmoid(logit).numpy()
    return count, presence


class RunningMean:
    """Running sums of one block; from six observations on, the mean is without the lowest and the highest."""

    def __init__(self, objects: int, shape: tuple[int, int]) -> None:
        self.n = np.zeros(shape, np.uint16)
        self.sum, self.squares, self.presence = (np.zeros((objects, *shape)) for _ in range(3))
        self.low = np.full((objects, *shape), np.inf, np.float32)
        self.high = np.full((objects, *shape), -np.inf, np.float32)

    def add(self, count: Array, presence: Array, seen: Array) -> None:
        known = np.where(seen, count, 0)
        self.n += seen
        self.sum += known
        self.squares += known.astype(float) ** 2
        self.presence += np.where(seen, presence, 0)
        self.low = np.minimum(self.low, np.where(seen, count, np.inf))
        self.high = np.maximum(self.high, np.where(seen, count, -np.inf))

    def result(self, fits: Array) -> dict[str, Array]:
        background, slope = fits.T[:, :, None, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            plain = self.sum / self.n
            trimmed = ((self.sum - self.low - self.high) / (self.n - 2.0) - background) * slope
            spread = np.sqrt(np.maximum(self.squares - self.sum**2 / self.n, 0) / (self.n - 1.0))
            return {
                "count": np.where(self.n >= TRIM_FROM, trimmed, plain).astype(np.float32),
                "presence": (self.presence / self.n).astype(np.float32),
                "sd_over_dates": np.where(self.n >= 2, spread, np.nan).astype(np.float32),
            }
