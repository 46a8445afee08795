"""A Reader for stackstac: aligned window reads from files kept open; errors stay errors.

stackstac's own Reader warps whenever the grid is not exactly one file's, and turns a missing file into no data. Here a
window of the lattice is a window of the file: it is read as it is, padded outside, and what cannot be read raises.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import Incomplete, InputError
from subpixmap.scenes.hrefs import driver
from subpixmap.scenes.lock import Asset

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_TIMEOUT": 60,  # GDAL has none: a stalled server would hang the read for ever
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif,.tiff,.jp2",
    "GDAL_CACHEMAX": 256,  # MB for each process; the default is 5 % of the machine for each
}
OPEN_FILES = 256
"""Files kept open by one thread."""
ATTEMPTS = 3
"""Times a window is asked for, from a freshly opened file."""

_threads = threading.local()


class ReadFailed(Incomplete):
    """A raster could not be read; it is never taken for no data."""


def read_window(asset: Asset, window: RasterWindow) -> NDArray[Any]:
    """Read a window of a raster's first band that lies inside the raster.

    Raises
    ------
    ReadFailed
        After all attempts; the message names the file.
    InputError
        The file's header is not what its item declares.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with rasterio.Env(**GDAL_OPTIONS):
                return _dataset(asset).read(1, window=window)
        except RasterioError as error:
            _forget(asset)
            if attempt == ATTEMPTS:
                raise ReadFailed(f"{asset.href} could not be read after {ATTEMPTS} attempts: {error}") from error
            time.sleep(0.5 * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _dataset(asset: Asset) -> rasterio.DatasetReader:
    """The raster, opened once for each thread; the least recently used one makes room."""
    if not hasattr(_threads, "pool"):
        _threads.pool = OrderedDict()
    pool: OrderedDict[Asset, rasterio.DatasetReader] = _threads.pool
    if asset in pool:
        pool.move_to_end(asset)
        return pool[asset]
    while len(pool) >= OPEN_FILES:
        pool.popitem(last=False)[1].close()
    dataset = rasterio.open(asset.href, driver=driver(asset.href), sharing=False)
    try:
        _check_header(dataset, asset)
    except InputError:
        dataset.close()
        raise
    pool[asset] = dataset
    return dataset


def _forget(asset: Asset) -> None:
    dataset = getattr(_threads, "pool", {}).pop(asset, None)
    if dataset is not None:
        dataset.close()


def _check_header(dataset: rasterio.DatasetReader, asset: Asset) -> None:
    """The file's own header is the truth: an item that says otherwise is refused."""
    if dataset.shape != asset.shape or not dataset.transform.almost_equals(Affine(*asset.transform), 1e-6):
        raise InputError(
            f"{asset.href} has {dataset.shape} pixels and transform {tuple(dataset.transform)[:6]}, "
            f"but its item declares {asset.shape} and {asset.transform}"
        )
    if dataset.count != 1 or dataset.dtypes[0] not in ("uint8", "uint16"):
        raise InputError(
            f"{asset.href} has {dataset.count} bands of {dataset.dtypes[0]}; one of uint8 or uint16 is expected"
        )


class AlignedReader:
    """Reads one asset for stackstac (see `stackstac.reader_protocol.Reader`)."""

    def __init__(
        self,
        *,
        rasters: Mapping[str, tuple[Asset, Asset]],
        url: str,
        spec: Any,
        dtype: np.dtype[Any],
        fill_value: float,
        **_: Any,
    ) -> None:
        self.asset, placed = rasters[url]
        self.dtype, self.fill_value = dtype, fill_value
        step = placed.resolution
        # Where the raster's upper left corner lies in the grid that is assembled, pixels.
        self.col = round((placed.bounds[0] - spec.bounds[0]) / step)
        self.row = round((spec.bounds[3] - placed.bounds[3]) / step)

    def read(self, window: RasterWindow) -> NDArray[Any]:
        """Read a window of the grid that is assembled; outside the raster lies the fill value."""
        height, width = int(window.height), int(window.width)
        row, col = int(window.row_off) - self.row, int(window.col_off) - self.col
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.asset.shape[0]), min(col + width, self.asset.shape[1])
        out = np.full((height, width), self.fill_value, self.dtype)
        if bottom > top and right > left:
            inside = RasterWindow(left, top, right - left, bottom - top)
            out[top - row : bottom - row, left - col : right - col] = read_window(self.asset, inside)
        return out

    def close(self) -> None:
        """Files stay open for the thread's next window."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
