"""A Reader for stackstac: aligned window reads from files that stay open; failed reads raise.

stackstac's own reader warps unless the grid is exactly that of one file, and turns a missing file into no data. Here a
window of the lattice is a window of the file: read unchanged and padded outside; a failed read raises.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import Incomplete, InputError, Refused, SubpixmapError
from subpixmap.machine import thread_pool
from subpixmap.scenes.access import gdal_env, gdal_path, is_trusted, pin_of, signed_href
from subpixmap.scenes.dialect import SCALE
from subpixmap.scenes.hrefs import driver, is_remote, redact, require_own_overviews, without_secrets
from subpixmap.scenes.items import Asset, Item
from subpixmap.scenes.pins import Changed, Pin, require_unchanged
from subpixmap.scenes.radiometry import MOST_DN, Missing
from subpixmap.scenes.ranges import Checked, needs_checks
from subpixmap.scenes.tunnel import refused_since

OPEN_FILES = 256
"""Number of files that a thread keeps open."""
PIN_THREADS = 32
"""Number of files whose versions are requested at the same time."""
SEEN_FILES = 100_000
"""Number of file versions that a process remembers."""
ATTEMPTS = 3
"""Attempts to read a remote window; each opens the file again with a new signature."""
BACKOFF_S = 0.5
"""Seconds before the second attempt; doubled for each further attempt."""
MAX_SIDE = 11_000
"""Largest side of a raster, pixels (a tile of 10 m has 10980); a header can claim far more."""
MAX_BLOCK = 4096**2
"""Largest size of a block, which is decoded as a whole, pixels."""

_threads = threading.local()
_seen: dict[str, Pin | None] = {}  # href -> version of the first pixels that this process has read
_exchanged: set[str] = set()  # hrefs that may have parts of another version in GDAL's cache


class ReadFailed(Incomplete):
    """A raster could not be read; this never counts as no data."""


@dataclass(frozen=True)
class _Source:
    """A raster with its declared properties; its header must agree."""

    asset: Asset
    epsg: int
    classes: bool
    """Whether it holds scene classes; otherwise digital numbers of reflectance."""
    offset_dn: int | None
    """Number to add to its digital numbers; None if the header is ignored."""
    missing: Missing


class _Open(NamedTuple):
    dataset: rasterio.DatasetReader
    path: str
    """Its `gdal_path`, perhaps signed."""
    version: Pin | None
    """When it was opened."""
    nodata: int | None
    """Digital number that is missing, in addition to 0."""
    masked: bool
    """Whether the file contains a mask."""
    checked: Checked | None
    """The same raster with checked bytes, opened for each window; `dataset` is closed then."""


def read_window(
    asset: Asset,
    window: RasterWindow,
    epsg: int,
    *,
    classes: bool = False,
    offset_dn: int | None = None,
    missing: Missing = "stated",
) -> NDArray[Any]:
    """Read a window inside a raster of one band; missing pixels become 0.

    Parameters
    ----------
    asset, window
        The raster, and the window to read, pixels.
    epsg
        UTM zone declared by its item.
    classes
        Whether it holds scene classes; otherwise digital numbers of reflectance.
    offset_dn
        Offset decided for its item; if given, the header must not contradict it.
    missing
        "stated": nodata of the header or the item, pixels hidden by a mask of the file, and digital numbers above
        `MOST_DN`. "zero": only 0; a file that declares anything else is refused.

    Raises
    ------
    ReadFailed
        All attempts failed; the message names the file.
    InputError
        The file's header contradicts its item, or its values are not digital numbers of Sentinel-2.
    Changed, Refused
        The file is not the pinned version or changed while it was read; it declares other missing values than 0, where
        only 0 is allowed.
    """
    source = _Source(asset, epsg, classes, offset_dn, missing)
    return _attempt(source, window=window)


def read_overview(asset: Asset, shape: tuple[int, int], epsg: int, *, classes: bool = False) -> NDArray[Any]:
    """Read the whole raster at a small size (rows, columns), nearest neighbour, from the file's own overviews."""
    return _attempt(_Source(asset, epsg, classes, None, "stated"), out_shape=shape)


def _attempt(source: _Source, **where: Any) -> NDArray[Any]:
    """Read from the open raster.

    1. Take the raster that this thread holds open, or open it.
    2. Read, then request the version again: pixels of two versions of a file must never mix.
    3. On an error close the file. Open and request a remote file again. Raise the last error: a failed read that
    counted as no data would give zero objects.
    """
    asset = source.asset
    remote, started = is_remote(asset.href), time.monotonic()
    attempts = ATTEMPTS if remote else 1
    for attempt in range(attempts):
        renew = attempt > 0  # GDAL caches failures: without this, nothing would be requested again
        try:
            with gdal_env(asset, renew=renew):
                opened = _opened(source, renew)  # 1.
                values = _read(opened, source, **where)  # 2.
                require_unchanged(asset.href, opened.version, pin_of(asset, opened.path))
            _remember(asset, opened.version)
            return values
        except Changed:  # the next attempt starts with the present version
            _forget(source)
            _seen.pop(asset.href, None)
            _exchanged.add(asset.href)
            raise
        except (RasterioError, OSError) as error:  # 3.
            _forget(source)
            if remote:
                _exchanged.add(asset.href)  # GDAL may have parts of another version in its cache
            if private := refused_since(started):
                raise InputError(f"{redact(asset.href)} is refused: it leads to {private}, a private host") from None
            if attempt + 1 == attempts:
                tried = f"{redact(asset.href)} could not be read in {attempts} attempts"
                raise ReadFailed(f"{tried}: {without_secrets(str(error))}") from None
            time.sleep(BACKOFF_S * 2**attempt)
    raise AssertionError("unreachable")


def _read(opened: _Open, source: _Source, **where: Any) -> NDArray[Any]:
    """The pixels; 0 where missing."""
    if opened.checked is None:
        return _without_missing(opened.dataset, opened, source, **where)
    with opened.checked.open() as dataset:
        return _without_missing(dataset, opened, source, **where)


def _without_missing(dataset: rasterio.DatasetReader, opened: _Open, source: _Source, **where: Any) -> NDArray[Any]:
    values: NDArray[Any] = dataset.read(1, **where)
    if source.missing == "zero":
        return values
    if opened.nodata:
        values[values == opened.nodata] = 0
    if opened.masked:
        values[dataset.read_masks(1, **where) == 0] = 0
    if values.dtype == np.uint16 and not source.classes and values.size and values.max() > MOST_DN:
        values[values > MOST_DN] = 0
    return values


def _opened(source: _Source, renew: bool) -> _Open:
    """The raster, opened once per thread; the least recently used one is closed if there are too many."""
    if not hasattr(_threads, "pool"):
        _threads.pool = OrderedDict()
    pool: OrderedDict[_Source, _Open] = _threads.pool
    if source in pool:
        pool.move_to_end(source)
        return pool[source]
    while len(pool) >= OPEN_FILES:
        pool.popitem(last=False)[1].dataset.close()
    asset = source.asset
    driver(asset.href)  # refuses forbidden hrefs before any request
    path = gdal_path(signed_href(asset), renew=renew)
    version = pin_of(asset, path)
    _require_known(asset, version)
    with gdal_env(asset, renew=renew or asset.href in _exchanged):
        dataset = open_raster(asset.href, path)
    checked = None
    try:
        check_header(dataset, asset, source.epsg, classes=source.classes, offset_dn=source.offset_dn)
        nodata, masked = _missing_of(dataset, source)
        if path.startswith("/vsicurl/") and version is not None and needs_checks(dataset):
            dataset.close()
            checked = Checked(asset.href, path.removeprefix("/vsicurl/"), version, is_trusted(asset))
    except (SubpixmapError, RasterioError, OSError):
        dataset.close()
        raise
    pool[source] = _Open(dataset, path, version, nodata, masked, checked)
    return pool[source]


def _require_known(asset: Asset, version: Pin | None) -> None:
    """Refuse a version other than the pinned one or, without a pin, the first one read by this process."""
    require_unchanged(asset.href, asset.pin, version)
    before = _seen.get(asset.href)
    if asset.pin is None:
        require_unchanged(asset.href, before, version)
    elif before is not None and version is not None and before.difference(version):
        _exchanged.add(asset.href)  # the pin is from a later lock than the version read before


def _remember(asset: Asset, version: Pin | None) -> None:
    """Remember the version of the pixels read; versions without a successful read are not remembered."""
    if asset.pin is None:  # another thread may have read another version by now
        require_unchanged(asset.href, _seen.setdefault(asset.href, version), version)
    else:
        _seen[asset.href] = version
    while len(_seen) > SEEN_FILES:
        _seen.pop(next(iter(_seen)))


def open_raster(href: str, path: str | None = None) -> rasterio.DatasetReader:
    """Open a raster with the driver of its extension; a remote one by its GDAL path, inside `gdal_env`."""
    return rasterio.open(path or href, driver=driver(href), sharing=False)


def seen(asset: Asset) -> Pin | None:
    """The version of a file read by this process; None if unread or unknown."""
    return _seen.get(asset.href)


def pin(items: Iterable[Item], *, ask: bool = False, threads: int = PIN_THREADS) -> list[Item]:
    """Items whose assets contain their present versions.

    Local files, and remote files that this process has read, need no request. With `ask`, the versions of other files
    are requested (two bytes each); without it, or if servers do not respond, these files have no pin.
    """
    wanted = list(items)
    assets = [asset for item in wanted for asset in item.assets.values()]
    with thread_pool(threads) as pool:
        versions = iter(list(pool.map(partial(_version_of_now, ask=ask), assets)))
    return [
        replace(item, assets={band: replace(asset, pin=next(versions)) for band, asset in item.assets.items()})
        for item in wanted
    ]


def _version_of_now(asset: Asset, *, ask: bool) -> Pin | None:
    if is_remote(asset.href) and (not ask or asset.href in _seen):
        return seen(asset)
    try:
        return pin_of(asset)
    except OSError:
        return None  # a missing file raises when it is read


def _forget(source: _Source) -> None:
    opened = getattr(_threads, "pool", {}).pop(source, None)
    if opened is not None:
        opened.dataset.close()


def check_header(
    dataset: rasterio.DatasetReader, asset: Asset, epsg: int, *, classes: bool = False, offset_dn: int | None = None
) -> None:
    """Refuse a file whose header is invalid or contradicts its item."""
    where = redact(asset.href)
    require_own_overviews(dataset, where)
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
    kinds = ("uint8", "uint16") if classes else ("uint16",)
    if dataset.count != 1 or dataset.dtypes[0] not in kinds:
        raise InputError(
            f"{where} has {dataset.count} bands of {dataset.dtypes[0]}; one band of {' or '.join(kinds)} is expected"
        )
    _check_scale(dataset, where, classes, offset_dn)


def _check_scale(dataset: rasterio.DatasetReader, where: str, classes: bool, offset_dn: int | None) -> None:
    """Refuse a scale or offset in the header that is invalid or contradicts the item."""
    scale, offset = dataset.scales[0], dataset.offsets[0]
    if abs(scale - 1) > 1e-9 and (classes or abs(scale - SCALE) > 1e-9):
        raise InputError(
            f"{where} has the scale {scale:g} in its header; "
            + ("scene classes have none" if classes else f"a reflectance of {SCALE:g} a step is expected")
        )
    in_dn = offset / scale
    if offset and (classes or abs(in_dn - round(in_dn)) > 1e-3 or round(in_dn) not in (0, -1000)):
        raise InputError(f"{where} has the offset {offset:g} in its header, which is not an offset of Sentinel-2")
    if offset and offset_dn is not None and round(in_dn) != offset_dn:
        raise InputError(
            f"{where} has the offset {offset:g} in its header ({round(in_dn)} digital numbers), but {offset_dn} was "
            "decided for its item (see --offset-rule)"
        )


def _missing_of(dataset: rasterio.DatasetReader, source: _Source) -> tuple[int | None, bool]:
    """The missing digital number (in addition to 0) of file and item, and whether the file has a mask."""
    where, stated, own = redact(source.asset.href), source.asset.nodata, dataset.nodata
    if own is not None and stated is not None and own != stated:
        raise InputError(f"{where} has nodata {own:g} in its header, but its item declares {stated}")
    nodata = stated if own is None else own
    masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0]
    if source.missing == "zero" and (nodata or masked):
        raise Refused(
            f"{where} has {'a mask' if masked else f'nodata {nodata:g}'}, but this run was started with an earlier "
            "version, where only 0 is missing: use another --out"
        )
    # A 16-bit pixel cannot hold a number such as -9999.
    return (int(nodata) if nodata is not None and nodata == nodata // 1 and 0 <= nodata <= 65535 else None), masked


class Rasters(dict[str, tuple[Asset, Asset]]):
    """href -> the file, and the file with its corner aligned to the lattice (see `snap`)."""

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return tuple((href, placed.transform) for href, (_, placed) in self.items())  # ten times faster than dask's own


class AlignedReader:
    """Read one asset for stackstac (see `stackstac.reader_protocol.Reader`)."""

    def __init__(
        self,
        *,
        rasters: Rasters,
        url: str,
        spec: Any,
        dtype: np.dtype[Any],
        fill_value: float,
        offset_dn: int | None = None,
        missing: Missing = "stated",
        **_: Any,
    ) -> None:
        self.asset, placed = rasters[url]
        self.dtype, self.fill_value, self.epsg = dtype, fill_value, int(spec.epsg)
        self.classes, self.offset_dn, self.missing = dtype == np.uint8, offset_dn, missing
        step = placed.resolution
        # Upper left corner of the raster in the assembled grid, pixels.
        self.col = round((placed.bounds[0] - spec.bounds[0]) / step)
        self.row = round((spec.bounds[3] - placed.bounds[3]) / step)

    def read(self, window: RasterWindow) -> NDArray[Any]:
        """Read a window of the assembled grid; the fill value outside the raster."""
        height, width = int(window.height), int(window.width)
        row, col = int(window.row_off) - self.row, int(window.col_off) - self.col
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.asset.shape[0]), min(col + width, self.asset.shape[1])
        inside = RasterWindow(left, top, right - left, bottom - top)
        if (bottom - top, right - left) == (height, width):
            return self._read(inside)
        out = np.full((height, width), self.fill_value, self.dtype)
        if bottom > top and right > left:
            out[top - row : bottom - row, left - col : right - col] = self._read(inside)
        return out

    def _read(self, inside: RasterWindow) -> NDArray[Any]:
        values = read_window(
            self.asset, inside, self.epsg, classes=self.classes, offset_dn=self.offset_dn, missing=self.missing
        )
        if self.classes:
            values = np.minimum(values, 255)  # in two bytes 256 would turn into 0
        return values.astype(self.dtype, copy=False)

    def close(self) -> None:
        """Does nothing: files stay open for the thread's next window."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
