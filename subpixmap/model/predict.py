"""Predicts counts from reflectance: `predict_block` for arrays, `predict` for a lazy cube, with equal results.

`predict_block` cuts its window into tiles of one fixed shape, the last ones filled up, because the convolution library
picks its kernels, and with them its rounding, by shape. A pixel is therefore the same in any window it is computed in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from subpixmap.errors import InputError, Refused, VerificationFailed
from subpixmap.model.backends import TILE as TILE
from subpixmap.model.backends import USUAL, Arithmetic, Backend, Pixels, Place, Precision, network
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model, load_model
from subpixmap.model.mean import fits_in_order
from subpixmap.scenes.dialect import LEVELS, SENSOR
from subpixmap.scenes.lattices import coarse_bands

if TYPE_CHECKING:
    import xarray as xr


def predict_block(
    model: Model,
    reflectance: Pixels,
    *,
    arithmetic: Arithmetic = USUAL,
    wanted: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Objects per pixel and presence of a window.

    Parameters
    ----------
    model
        From `checkpoint.load_model`.
    reflectance
        (band, y + 2 halo, x + 2 halo) in the order of the card's bands; NaN where there is none (also outside the
        scene), which becomes the training mean. Or the same on its way to a GPU, from `backends.sent`.
    arithmetic
        What computes it; PyTorch in float32 on one thread of the processor by default. Within one arithmetic on a
        processor a pixel is bit-identical in any window.
    wanted
        (y, x): pixels that will be used. Tiles without any of them are not computed. By default all pixels.

    Returns
    -------
    tuple
        count (object, y, x): expected objects per pixel, calibrated and unclipped, so that background is 0 on average
        and may be negative at a pixel. presence (object, y, x): 0-1. Both NaN in tiles that were not computed, and
        finite everywhere else.

    Raises
    ------
    InputError
        Wrong number of bands, or a window not larger than its halo.
    """
    counts, presence = _predict_tiles(model, reflectance, arithmetic, wanted)
    return counts[0], presence


def predict_members(
    model: Model,
    reflectance: Pixels,
    *,
    arithmetic: Arithmetic = USUAL,
    wanted: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """As `predict_block`, and (member, object, y, x) what each network of the model would count if it were alone.

    The networks compute once: this takes no longer. Count and presence are the bits of `predict_block`, each member's
    counts those of a model that has this network only, calibrated as the whole is.
    """
    counts, presence = _predict_tiles(model, reflectance, arithmetic, wanted, members=True)
    return counts[0], presence, counts[1:]


def _predict_tiles(
    model: Model,
    reflectance: Pixels,
    arithmetic: Arithmetic,
    wanted: NDArray[np.bool_] | None,
    *,
    members: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Counts (prediction, object, y, x) of all that the network predicts side by side, and presence of the first."""
    halo, n_objects = model.halo, len(model.card.objects)
    shape = reflectance.shape
    rows, cols = (side - 2 * halo for side in shape[1:]) if len(shape) == 3 else (0, 0)
    if len(shape) != 3 or shape[0] != len(model.card.bands) or min(rows, cols) < 1:
        raise InputError(
            f"model {model.card.name!r} needs ({len(model.card.bands)} bands, y + {2 * halo}, x + {2 * halo}) "
            f"reflectance, not {shape}"
        )
    n = model.card.members + 1 if members else 1
    counts = np.full((n, n_objects, rows, cols), np.nan, np.float32)
    presence = counts[0].copy()
    places = _tiles((rows, cols), arithmetic.tile, wanted)
    with one_thread(), torch.inference_mode():
        run = network(model, arithmetic, members=members)
        for (r, c, h, w), out in zip(places, run(reflectance, places), strict=True):
            likely = torch.sigmoid(torch.from_numpy(out[0, 1])).numpy()  # of a part of a tile it would round otherwise
            counts[..., r : r + h, c : c + w] = _calibrated(model.card, out[:, 0, :, :h, :w])
            presence[:, r : r + h, c : c + w] = likely[:, :h, :w]
    return counts, presence


def n_predicted(wanted: NDArray[np.bool_], *, arithmetic: Arithmetic = USUAL) -> int:
    """Pixels of the tiles that `predict_block` computes for these (y, x)."""
    rows, cols = wanted.shape
    return sum(h * w for _, _, h, w in _tiles((rows, cols), arithmetic.tile, wanted))


def _tiles(shape: tuple[int, int], size: tuple[int, int], wanted: NDArray[np.bool_] | None) -> list[Place]:
    """First row and column, height and width of tiles that hold all wanted pixels of a window, strip by strip.

    A strip's tiles begin at the first wanted pixel that is left, and so do the strips themselves where this takes fewer
    tiles than strips at fixed rows: clouds leave holes that need not be computed.
    """
    wanted = np.ones(shape, bool) if wanted is None else wanted
    ways = range(0, shape[0], size[0]), _starts(np.any(wanted, axis=1), size[0])
    return min(([*_in_strips(wanted, tops, size)] for tops in ways), key=len)


def _in_strips(wanted: NDArray[np.bool_], tops: Iterable[int], size: tuple[int, int]) -> Iterator[Place]:
    """The tiles of strips that begin at these rows; what would reach beyond the window is moved back into it."""
    (rows, cols), (height, width) = wanted.shape, (min(pair) for pair in zip(size, wanted.shape, strict=True))
    for top in tops:
        for left in _starts(np.any(wanted[top : top + height], axis=0), width):
            yield min(top, rows - height), min(left, cols - width), height, width


def _starts(wanted: Any, length: int) -> list[int]:
    """Where stretches of a length begin that hold all wanted places: each at the first place that is left."""
    starts: list[int] = []
    for at in np.flatnonzero(wanted).tolist():
        if not starts or at >= starts[-1] + length:
            starts.append(at)
    return starts


def predict_patch(model: Model, reflectance: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As `predict_block`, in one call of the network: for patches smaller than a tile; the same but for rounding."""
    with one_thread(), torch.inference_mode():
        density, logit = model.folded(torch.from_numpy(reflectance)[None])[0]
        return _calibrated(model.card, density.numpy()), torch.sigmoid(logit).numpy()


def _calibrated(card: Card, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., object, y, x): from the network's density to counts."""
    background, slope = fits_in_order(card.calibration, card.objects).T[:, :, None, None]
    count: NDArray[np.float32] = (raw - background) * slope
    if not np.isfinite(count).all():
        raise VerificationFailed(
            f"model {card.name!r} returned NaN or infinity; its weights are damaged: get the file again"
        )
    return count


def check_input(
    card: Card,
    *,
    bands: tuple[str, ...],
    resolution: float,
    pixels: Mapping[str, float] | None = None,
    level: str | None = None,
    sensor: str = SENSOR,
    force: bool = False,
) -> None:
    """Refuse input that does not match the card.

    Parameters
    ----------
    card
        Of the model.
    bands
        That the input has.
    resolution
        Of the lattice, metres.
    pixels
        Band -> size of its largest pixels as delivered, metres (see `largest_pixels`); not checked when not given.
    level, sensor
        Of the input; the level is not checked when not given.
    force
        Accept another resolution, larger pixels, another level and another sensor.

    Raises
    ------
    InputError
        A band is missing.
    Refused
        Another resolution, sensor or level, or pixels larger than those of the sensor and the card, unless `force`.
    """
    if missing := [band for band in card.bands if band not in bands]:
        raise InputError(f"model {card.name!r} needs bands {', '.join(missing)}; the input has {', '.join(bands)}")
    if force:
        return
    if abs(resolution - card.resolution) > 1e-6 * card.resolution:
        raise Refused(
            f"model {card.name!r} was trained at {card.resolution:g} m, but the input has {resolution:g} m, so its "
            "counts would be wrong; use another model or --resolution, or add --force"
        )
    here, there = (sensor, level or card.level), (card.sensor, card.level)
    if here != there:
        again = f"; give --level {card.level}" if card.sensor == sensor and card.level in LEVELS else ""
        raise Refused(
            f"model {card.name!r} was trained on {', '.join(there)}, but the input is {', '.join(here)}, so its "
            f"counts would be wrong{again}; add --force to run it anyway"
        )
    if coarse := coarse_bands({band: (pixels or {}).get(band, 0.0) for band in card.bands}, card.resolution):
        sizes = ", ".join(f"{band} {size:g} m" for band, size in coarse.items())
        raise Refused(
            f"model {card.name!r} was trained at {card.resolution:g} m, but the files of the input have larger "
            f"pixels ({sizes}), so its counts would be wrong: give a --source with full resolution, or add --force"
        )


def predict(
    cube: xr.Dataset,
    model: Model | str | Path,
    *,
    backend: Backend = "torch",
    precision: Precision = "float32",
    force: bool = False,
) -> xr.Dataset:
    """Lazy counts of a lazy cube, acquisition by acquisition.

    Parameters
    ----------
    cube
        `reflectance` (time, band, y, x), NaN where there is none, and `valid` (time, y, x), from `scenes.open_cube`.
    model
        From `checkpoint.load_model`, or what that takes: the name of a shipped checkpoint, or a path.
    backend, precision
        What computes the network, and how exactly, as `--backend` and `--precision` of a run.
    force
        Predict although the resolution, the size of the files' pixels, the level or the sensor is not the card's.

    Returns
    -------
    xarray.Dataset
        `count` and `presence` (object, time, y, x) float32, NaN where a pixel is not valid; computed chunk by chunk
        with the model's halo.

    Raises
    ------
    InputError, Refused
        The cube lacks bands, or is unlike the card.
    """
    import dask.array as da
    import xarray as xr
    from dask.array.overlap import ensure_minimum_chunksize, overlap

    model = load_model(model) if isinstance(model, (str, Path)) else model
    if not isinstance(model, Model):
        raise TypeError(f"predict needs a model from load_model, or its name, not a {type(model).__name__}")
    card, halo = model.card, model.halo
    names = tuple(str(band) for band in cube["band"].values)
    pixels = dict(zip(names, cube["pixel_m"].values.tolist(), strict=True)) if "pixel_m" in cube.coords else None
    level, sensor = cube.attrs.get("level"), cube.attrs.get("sensor", card.sensor)
    check_input(card, bands=names, resolution=_resolution(cube), pixels=pixels, level=level, sensor=sensor, force=force)
    reflectance = cube["reflectance"].sel(band=list(card.bands)).transpose("time", "band", "y", "x").astype(np.float32)
    valid = cube["valid"].transpose("time", "y", "x") & reflectance.notnull().all("band")

    # Chunks of one acquisition with all bands, and a halo from their neighbours: NaN outside the scene, as in a block.
    arithmetic = Arithmetic.chosen(backend=backend, precision=precision)
    data = da.asarray(reflectance.data)
    chunks = [1, -1, *(ensure_minimum_chunksize(halo, side) for side in data.chunks[2:])]
    data = data.rechunk(chunks)
    padded = overlap(data, depth={2: halo, 3: halo}, boundary={2: np.nan, 3: np.nan}, allow_rechunk=False)
    # Count and presence in one array: two arrays would run the network twice.
    n = len(card.objects)
    both = padded.map_blocks(
        _predict_chunk,
        model=model,
        arithmetic=arithmetic,
        dtype=np.float32,
        drop_axis=1,
        new_axis=0,
        chunks=((2 * n,), data.chunks[0], *data.chunks[2:]),
        meta=np.empty((0, 0, 0, 0), np.float32),
    )
    coords = {k: v for k, v in reflectance.coords.items() if "band" not in v.dims and k != "band"}
    coords["object"] = xr.DataArray(list(card.objects), dims="object")
    dims = ("object", "time", "y", "x")
    out = xr.Dataset({"count": (dims, both[:n]), "presence": (dims, both[n:])}, coords=coords).where(valid)
    out["count"].attrs = {"long_name": "expected objects per pixel", "units": "1"}
    out["presence"].attrs = {"long_name": "presence of an object", "units": "1"}
    out.attrs = {"model": card.name, "model_sha256": model.sha256, "evidence": card.evidence}
    return out.transpose(*dims)


def _predict_chunk(reflectance: NDArray[np.float32], *, model: Model, arithmetic: Arithmetic) -> NDArray[np.float32]:
    """(time, band, y + 2 halo, x + 2 halo) -> (2 * object, time, y, x)."""
    both = [predict_block(model, one, arithmetic=arithmetic) for one in reflectance]
    return np.stack([np.concatenate(values) for values in both], axis=1)


def _resolution(cube: Any) -> float:
    if "resolution" in cube.attrs:
        return float(cube.attrs["resolution"])
    x = cube["x"].values if cube.sizes["x"] > 1 else cube["y"].values
    return abs(float(x[1] - x[0]))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: parallelism comes from processes, and the bits do not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
