"""A Reader for stackstac: aligned window reads from files that stay open; errors stay errors.

stackstac's own Reader warps whenever the grid is not exactly that of one file, and turns a missing file into no data.
Here a window of the lattice is a window of the file: it is read unchanged and padded outside; a failed read raises.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import Incomplete, InputError
from subpixmap.scenes.access import gdal_env, gdal_path, pin_of
from subpixmap.scenes.hrefs import driver, is_remote, redact, without_secrets
from subpixmap.scenes.items import Asset, Item
from subpixmap.scenes.pins import Changed, Pin, require_unchanged

OPEN_FILES = 256
"""Files kept open by one thread."""
SEEN_FILES = 100_000
"""Files whose version a process remembers."""
ATTEMPTS = 3
"""Attempts to read a remote window, each from a newly opened file with a new signature."""
BACKOFF_S = 0.5
"""Seconds before the second attempt; doubled for each further one."""
MAX_SIDE = 11_000
"""Most pixels of a raster's side: a tile of 10 m has 10980. A small file can declare far more in its header."""
MAX_BLOCK = 4096**2
"""Most pixels of a block, which is decoded as a whole."""

_threads = threading.local()
_seen: dict[str, Pin | None] = {}  # href -> its version when this process first opened it
_exchanged: set[str] = set()  # hrefs of which GDAL may have parts of another version in its cache


class ReadFailed(Incomplete):
    """A raster could not be read; it is never treated as no data."""


def read_window(asset: Asset, window: RasterWindow, epsg: int) -> NDArray[Any]:
    """Read a window inside a raster of one band, whose item declares it to be in `epsg`.

    Raises
    ------
    ReadFailed
        After all attempts; the message names the file.
    InputError
        The header of the file contradicts its item.
    Changed
        The file is not the one that was pinned, or was exchanged while it was read.
    """
    return _attempt(asset, epsg, lambda dataset: dataset.read(1, window=window))


def read_overview(asset: Asset, shape: tuple[int, int], epsg: int) -> NDArray[Any]:
    """Read the whole raster at a small size (rows, columns), nearest neighbour, from the file's own overviews."""
    return _attempt(asset, epsg, lambda dataset: dataset.read(1, out_shape=shape))


class _Open(NamedTuple):
    dataset: rasterio.DatasetReader
    path: str
    """Its `gdal_path`, perhaps signed."""
    version: Pin | None
    """When it was opened."""


def _attempt(asset: Asset, epsg: int, read: Callable[[rasterio.DatasetReader], NDArray[Any]]) -> NDArray[Any]:
    """Read from the open raster; a remote one that fails is opened anew and really requested again."""
    attempts = ATTEMPTS if is_remote(asset.href) else 1
    for attempt in range(attempts):
        renew = attempt > 0  # GDAL remembers failures: otherwise nothing would be requested again
        try:
            with gdal_env(asset.href, renew=renew):
                opened = _opened(asset, epsg, renew)
                values = read(opened.dataset)
            _require_version(asset, opened.version, pin_of(asset, opened.path))  # so all that was read is of one
            return values
        except (RasterioError, OSError) as error:
            _forget(asset)
            if attempt + 1 == attempts:
                reason = without_secrets(str(error))
                raise ReadFailed(f"{redact(asset.href)} could not be read in {attempts} attempts: {reason}") from None
            time.sleep(BACKOFF_S * 2**attempt)
    raise AssertionError("unreachable")


def _opened(asset: Asset, epsg: int, renew: bool) -> _Open:
    """The raster, opened once by each thread; when there are too many, the least recently used one is closed."""
    if not hasattr(_threads, "pool"):
        _threads.pool = OrderedDict()
    pool: OrderedDict[Asset, _Open] = _threads.pool
    if asset in pool:
        pool.move_to_end(asset)
        return pool[asset]
    while len(pool) >= OPEN_FILES:
        pool.popitem(last=False)[1].dataset.close()
    driver(asset.href)  # refuses what must not be opened, before any request
    path = gdal_path(asset.href, renew=renew)
    version = pin_of(asset, path)
    _require_version(asset, asset.pin, version)
    before = _seen.setdefault(asset.href, version)
    if asset.pin is None:
        _require_version(asset, before, version)
    elif before is not None and version is not None and before.difference(version):
        _exchanged.add(asset.href)  # the pin is of a later lock than what this process has read
        _seen[asset.href] = version
    while len(_seen) > SEEN_FILES:
        _seen.pop(next(iter(_seen)))
    with gdal_env(asset.href, renew=renew or asset.href in _exchanged):
        dataset = open_raster(asset.href, path)
    try:
        check_header(dataset, asset, epsg)
    except InputError:
        dataset.close()
        raise
    pool[asset] = _Open(dataset, path, version)
    return pool[asset]


def _require_version(asset: Asset, before: Pin | None, now: Pin | None) -> None:
    """Refuse a file that was exchanged; the next attempt, which a person starts, begins with the version of then."""
    try:
        require_unchanged(asset.href, before, now)
    except Changed:
        _forget(asset)
        _seen.pop(asset.href, None)
        _exchanged.add(asset.href)
        raise


def open_raster(href: str, path: str | None = None) -> rasterio.DatasetReader:
    """Open a raster with the driver of its extension; a remote one by its GDAL path, inside `gdal_env`."""
    return rasterio.open(path or href, driver=driver(href), sharing=False)


def seen(asset: Asset) -> Pin | None:
    """The version of a file that this process has read; None if it has not read it, or cannot know."""
    return _seen.get(asset.href)


def pin(items: Iterable[Item]) -> list[Item]:
    """Items whose assets hold the versions of now, as far as they are known without a request.

    These are the files of this machine, and those of servers that this process has read. The others are pinned when
    they are first opened.
    """
    return [
        replace(item, assets={band: replace(asset, pin=_version_of_now(asset)) for band, asset in item.assets.items()})
        for item in items
    ]


def _version_of_now(asset: Asset) -> Pin | None:
    if is_remote(asset.href):
        return seen(asset)
    try:
        return pin_of(asset)
    except OSError:
        return None  # a missing file is an error when it is read


def _forget(asset: Asset) -> None:
    opened = getattr(_threads, "pool", {}).pop(asset, None)
    if opened is not None:
        opened.dataset.close()


def check_header(dataset: rasterio.DatasetReader, asset: Asset, epsg: int) -> None:
    """Refuse an item that contradicts the file's own header, and an absurd header."""
    where = redact(asset.href)
    if max(dataset.shape) > MAX_SIDE or max(rows * cols for rows, cols in dataset.block_shapes) > MAX_BLOCK:
        raise InputError(
            f"{where} declares {dataset.shape} pixels in blocks of {dataset.block_shapes}: not a Sentinel-2 tile"
        )
    if dataset.shape != asset.shape or not dataset.transform.almost_equals(Affine(*asset.transform), 1e-6):
        raise InputError(
            f"{where} has {dataset.shape} pixels and transform {tuple(dataset.transform)[:6]}, "
            f"but its item declares {asset.shape} and {asset.transform}"
        )
    if dataset.crs is None or dataset.crs.to_epsg() != epsg:
        raise InputError(f"{where} lies in {dataset.crs or 'no coordinate system'}, but its item declares EPSG:{epsg}")
    if dataset.count != 1 or dataset.dtypes[0] not in ("uint8", "uint16"):
        raise InputError(
            f"{where} has {dataset.count} bands of {dataset.dtypes[0]}; one band of uint8 or uint16 is expected"
        )


class Rasters(dict[str, tuple[Asset, Asset]]):
    """href -> the file, and the same with its corner placed on the lattice (see `snap`)."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return tuple((href, placed.transform) for href, (_, placed) in self.items())  # ten times faster than dask's own


class AlignedReader:
    """Reads one asset for stackstac (see `stackstac.reader_protocol.Reader`)."""

    def __init__(
        self,
        *,
        rasters: Rasters,
        url: str,
        spec: Any,
        dtype: np.dtype[Any],
        fill_value: float,
        **_: Any,
    ) -> None:
        self.asset, placed = rasters[url]
        self.dtype, self.fill_value, self.epsg = dtype, fill_value, int(spec.epsg)
        step = placed.resolution
        # Upper left corner of the raster in the grid that is assembled, pixels.
        self.col = round((placed.bounds[0] - spec.bounds[0]) / step)
        self.row = round((spec.bounds[3] - placed.bounds[3]) / step)

    def read(self, window: RasterWindow) -> NDArray[Any]:
        """Read a window of the grid that is assembled; the fill value outside the raster."""
        height, width = int(window.height), int(window.width)
        row, col = int(window.row_off) - self.row, int(window.col_off) - self.col
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.asset.shape[0]), min(col + width, self.asset.shape[1])
        inside = RasterWindow(left, top, right - left, bottom - top)
        if (bottom - top, right - left) == (height, width):
            return read_window(self.asset, inside, self.epsg).astype(self.dtype, copy=False)
        out = np.full((height, width), self.fill_value, self.dtype)
        if bottom > top and right > left:
            out[top - row : bottom - row, left - col : right - col] = read_window(self.asset, inside, self.epsg)
        return out

    def close(self) -> None:
        """Files stay open for the thread's next window."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
