"""What people would write instead: stackstac with Dask's overlap, and xbatcher with stitching by hand.

Both make the map of `plain_loop`, with the settings that their documentation leads to. The first does not look beyond
the region, so it differs from the others near the edge.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import stackstac
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from subpixmap.grid import Window
from subpixmap.model.checkpoint import Model
from subpixmap.model.mean import TRIM_FROM, fits_in_order
from tests.benchmarks.plain_loop import BAD, SPREAD_PX, SPREADING, RunningMean, Tile, in_tiles
from tests.benchmarks.scene import BANDS, EPSG, Scene

Array = NDArray[Any]


def map_with_stackstac(scene: Scene, model: Model, net: torch.nn.Module, out: Path, *, block: int, tile: Tile) -> None:
    """A lazy cube, `map_overlap` with the network, and reductions over time."""
    names, halo = list(model.card.objects), model.halo
    cube = _cube(scene, scene.window, list(BANDS), 10, block).data.rechunk({1: -1})
    bad = da.isin(_cube(scene, scene.window, ["SCL"], 20, block // 2).data[:, 0], BAD)
    spreads = da.isin(_cube(scene, scene.window, ["SCL"], 20, block // 2).data[:, 0], SPREADING)
    near = da.map_overlap(_near, spreads, depth=(0, 2 * SPREAD_PX, 2 * SPREAD_PX), boundary=False, dtype=bool)
    valid = da.repeat(da.repeat(~bad & ~near, 2, 1), 2, 2).rechunk((1, block, block))

    def predict(part: Array) -> Array:
        with torch.inference_mode():
            return np.concatenate(in_tiles(model, net, part[0], tile))[None]

    both = da.map_overlap(
        predict, cube, depth=(0, 0, halo, halo), boundary=np.nan, trim=False, dtype=np.float32,
        chunks=((1,) * cube.shape[0], (2 * len(names),), *cube.chunks[2:]), meta=np.empty((0,) * 4, np.float32),
    )  # fmt: skip
    both = da.where((valid & da.isfinite(cube).all(axis=1))[:, None], both, np.nan)
    arrays = _reduced(both[:, : len(names)], both[:, len(names) :], fits_in_order(model.card.trimmed, names))
    data = {name: (("object", "y", "x")[-values.ndim :], values) for name, values in arrays.items()}
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pixels that were never seen
        xr.Dataset(data).to_zarr(out, mode="w", consolidated=False)


def _reduced(count: Any, presence: Any, fits: Array) -> dict[str, Any]:
    background, slope = fits.T[:, :, None, None]
    n = da.isfinite(count[:, 0]).sum(axis=0)
    without = (da.nansum(count, axis=0, dtype=float) - da.nanmin(count, axis=0) - da.nanmax(count, axis=0)) / (n - 2.0)
    mean = da.where(n >= TRIM_FROM, (without - background) * slope, da.nanmean(count, axis=0, dtype=float))
    return {
        "count": mean.astype(np.float32),
        "presence": da.nanmean(presence, axis=0, dtype=float).astype(np.float32),
        "sd_over_dates": da.where(n >= 2, da.nanstd(count, axis=0, ddof=1, dtype=float), np.nan).astype(np.float32),
        "n_obs": n.astype(np.uint16),
    }


def map_with_xbatcher(scene: Scene, model: Model, net: torch.nn.Module, out: Path, *, block: int, tile: Tile) -> None:
    """Batches of one tile with its halo from a lazy cube, put into place by hand."""
    import xbatcher

    names, halo, (height, width) = list(model.card.objects), model.halo, scene.window.shape
    cube = _cube(scene, scene.window.padded(halo), list(BANDS), 10, block)
    scl = _cube(scene, scene.window.padded(2 * SPREAD_PX), ["SCL"], 20, block // 2)[:, 0]
    mean = RunningMean(len(names), (height, width))
    with dask.config.set(scheduler="synchronous"), torch.inference_mode():
        for number in range(len(scene.items)):
            count, presence = np.empty((2, len(names), height, width), np.float32)
            known = np.empty((height, width), bool)
            places = ((r, c) for r in range(0, height, tile[0]) for c in range(0, width, tile[1]))
            batches = xbatcher.BatchGenerator(
                cube[number].drop_vars([name for name in cube.coords if name not in ("band", "y", "x")]),
                input_dims={"band": len(BANDS), "y": tile[0] + 2 * halo, "x": tile[1] + 2 * halo},
                input_overlap={"y": 2 * halo, "x": 2 * halo}, preload_batch=False,
            )  # fmt: skip
            for (r, c), batch in zip(places, batches, strict=True):
                at, inputs = (slice(r, r + tile[0]), slice(c, c + tile[1])), np.ascontiguousarray(batch.values)
                count[:, *at], presence[:, *at] = in_tiles(model, net, inputs, tile)
                known[at] = np.isfinite(inputs[:, halo:-halo, halo:-halo]).all(axis=0)
            classes, margin = scl[number].values, 2 * SPREAD_PX
            clear = ~np.isin(classes, BAD) & ~_near(np.isin(classes, SPREADING)[None])[0]
            clear = clear.repeat(2, 0).repeat(2, 1)[margin:-margin, margin:-margin]
            mean.add(count, presence, clear & known)
    arrays = {**mean.result(fits_in_order(model.card.trimmed, names)), "n_obs": mean.n}
    data = {name: (("object", "y", "x")[-values.ndim :], values) for name, values in arrays.items()}
    xr.Dataset(data).to_zarr(out, mode="w", consolidated=False)


def _near(spreading: Array) -> Array:
    """(time, y, x): within 100 m of a cloud or a shadow."""
    return np.stack([distance_transform_edt(~one) <= SPREAD_PX for one in spreading])


def _cube(scene: Scene, window: Window, assets: Sequence[str], resolution: int, chunk: int) -> xr.DataArray:
    """(time, band, y, x) reflectance, or scene classes; NaN where there is none."""
    items = [
        {
            "id": item.id, "type": "Feature", "properties": {"datetime": item.datetime},
            "assets": {
                name: {"href": asset.href, "proj:epsg": EPSG, "proj:bbox": asset.bounds, "proj:shape": asset.shape,
                       "proj:transform": [*asset.transform, 0, 0, 1]}
                for name, asset in item.assets.items()
            },
        }
        for item in scene.items
    ]  # fmt: skip
    cube: xr.DataArray = stackstac.stack(
        items, assets=list(assets), epsg=EPSG, bounds=scene.lattice.bounds(window), resolution=resolution,
        snap_bounds=False, chunksize=chunk, dtype=np.dtype("float32"), fill_value=np.float32(np.nan), rescale=False,
        xy_coords="center",
    )  # fmt: skip
    return cube if "SCL" in assets else (cube + np.float32(scene.items[0].offset_dn)) / np.float32(10_000)
