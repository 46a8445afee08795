"""A Reader for stackstac: aligned window reads from files that stay open; errors stay errors.

stackstac's own warps unless the grid is exactly that of one file, and turns a missing file into no data. Here a window
of the lattice is a window of the file: it is read unchanged and padded outside; a failed read raises.
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
"""Files kept open by one thread."""
PIN_THREADS = 32
"""Files whose servers are asked for their version at the same time."""
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
_seen: dict[str, Pin | None] = {}  # href -> the version of the first pixels of it that this process has read
_exchanged: set[str] = set()  # hrefs of which GDAL may have parts of another version in its cache


class ReadFailed(Incomplete):
    """A raster could not be read; it is never treated as no data."""


@dataclass(frozen=True)
class _Source:
    """A raster with all that is declared of it; its header must agree."""

    asset: Asset
    epsg: int
    classes: bool
    """Whether it holds scene classes; otherwise digital numbers of reflectance."""
    offset_dn: int | None
    """Number that is added to its digital numbers; None if its header has no say."""
    missing: Missing


class _Open(NamedTuple):
    dataset: rasterio.DatasetReader
    path: str
    """Its `gdal_path`, perhaps signed."""
    version: Pin | None
    """When it was opened."""
    nodata: int | None
    """The digital number that is missing besides 0."""
    masked: bool
    """Whether it has a mask of its own."""
    checked: Checked | None
    """The same raster, if its bytes are checked here: `dataset` is closed, and it is opened for each window."""


def read_window(
    asset: Asset,
    window: RasterWindow,
    epsg: int,
    *,
    classes: bool = False,
    offset_dn: int | None = None,
    missing: Missing = "stated",
) -> NDArray[Any]:
    """Read a window inside a raster of one band; pixels that are missing become 0.

    Parameters
    ----------
    asset, window
        The raster, and what to read of it, pixels.
    epsg
        UTM zone that its item declares.
    classes
        Whether it holds scene classes; otherwise digital numbers of reflectance.
    offset_dn
        Offset that was decided for its item; if given, the header must not contradict it.
    missing
        "stated": what the header or the item calls nodata, what a mask of the file hides, and digital numbers beyond
        `MOST_DN`. "zero": 0 alone, and a file that says otherwise is refused.

    Raises
    ------
    ReadFailed
        After all attempts; the message names the file.
    InputError
        The header of the file contradicts its item, or its numbers are not digital numbers of Sentinel-2.
    Changed, Refused
        The file is not the one that was pinned, or was exchanged while it was read; it has other missing numbers
        than 0, where only 0 is to be missing.
    """
    source = _Source(asset, epsg, classes, offset_dn, missing)
    return _attempt(source, window=window)


def read_overview(asset: Asset, shape: tuple[int, int], epsg: int, *, classes: bool = False) -> NDArray[Any]:
    """Read the whole raster at a small size (rows, columns), nearest neighbour, from the file's own overviews."""
    return _attempt(_Source(asset, epsg, classes, None, "stated"), out_shape=shape)


def _attempt(source: _Source, **where: Any) -> NDArray[Any]:
    """Read from the open raster.

    1. Take the raster that this thread holds open, or open it.
    2. Read, then ask for the version again: pixels of two versions of a file must never mix.
    3. On an error close the file. A remote one is opened anew and requested again; the last error is raised, since a
       failed read that passed for no data would be counted as zero objects.
    """
    asset = source.asset
    remote, started = is_remote(asset.href), time.monotonic()
    attempts = ATTEMPTS if remote else 1
    for attempt in range(attempts):
        renew = attempt > 0  # GDAL remembers failures: otherwise nothing would be requested again
        try:
            with gdal_env(asset, renew=renew):
                opened = _opened(source, renew)  # 1.
                values = _read(opened, source, **where)  # 2.
                require_unchanged(asset.href, opened.version, pin_of(asset, opened.path))
            _remember(asset, opened.version)
            return values
        except Changed:  # the next run starts with the version that it finds
            _forget(source)
            _seen.pop(asset.href, None)
            _exchanged.add(asset.href)
            raise
        except (RasterioError, OSError) as error:  # 3.
            _forget(source)
            if remote:
                _exchanged.add(asset.href)  # GDAL may hold parts of another version in its cache
            if private := refused_since(started):
                raise InputError(f"{redact(asset.href)} is not opened: it leads to {private}, a private host") from None
            if attempt + 1 == attempts:
                tried = f"{redact(asset.href)} could not be read in {attempts} attempts"
                raise ReadFailed(f"{tried}: {without_secrets(str(error))}") from None
            time.sleep(BACKOFF_S * 2**attempt)
    raise AssertionError("unreachable")


def _read(opened: _Open, source: _Source, **where: Any) -> NDArray[Any]:
    """The pixels, 0 where they are missing."""
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
    """The raster, opened once by each thread; when there are too many, the least recently used one is closed."""
    if not hasattr(_threads, "pool"):
        _threads.pool = OrderedDict()
    pool: OrderedDict[_Source, _Open] = _threads.pool
    if source in pool:
        pool.move_to_end(source)
        return pool[source]
    while len(pool) >= OPEN_FILES:
        pool.popitem(last=False)[1].dataset.close()
    asset = source.asset
    driver(asset.href)  # refuses what must not be opened, before any request
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
    """Refuse a version that is neither the pinned one nor, without a pin, the first that this process has read."""
    require_unchanged(asset.href, asset.pin, version)
    before = _seen.get(asset.href)
    if asset.pin is None:
        require_unchanged(asset.href, before, version)
    elif before is not None and version is not None and before.difference(version):
        _exchanged.add(asset.href)  # the pin is of a later lock than what this process has read


def _remember(asset: Asset, version: Pin | None) -> None:
    """Keep the version of pixels that were read: one of which no pixel was read, as of half an upload, binds nobody."""
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
    """The version of a file that this process has read; None if it has not read it, or cannot know."""
    return _seen.get(asset.href)


def pin(items: Iterable[Item], *, ask: bool = False, threads: int = PIN_THREADS) -> list[Item]:
    """Items whose assets hold the versions of now.

    Files of this machine, and those of servers that this process has read, cost no request. With `ask` the servers of
    the others are asked, two bytes of each; otherwise, and if they do not answer, these files stay without a pin.
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
        return None  # a missing file is an error when it is read


def _forget(source: _Source) -> None:
    opened = getattr(_threads, "pool", {}).pop(source, None)
    if opened is not None:
        opened.dataset.close()


def check_header(
    dataset: rasterio.DatasetReader, asset: Asset, epsg: int, *, classes: bool = False, offset_dn: int | None = None
) -> None:
    """Refuse an item that contradicts the file's own header, and an absurd header."""
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
    """Refuse a scale or offset in the header that is not that of digital numbers, or not that of the item."""
    scale, offset = dataset.scales[0], dataset.offsets[0]
    if abs(scale - 1) > 1e-9 and (classes or abs(scale - SCALE) > 1e-9):
        raise InputError(
            f"{where} has the scale {scale:g} in its header; "
            + ("scene classes have none" if classes else f"a reflectance of {SCALE:g} a step is expected")
        )
    in_dn = offset / scale
    if offset and (classes or abs(in_dn - round(in_dn)) > 1e-3 or round(in_dn) not in (0, -1000)):
        raise InputError(f"{where} has the offset {offset:g} in its header, which Sentinel-2 does not have")
    if offset and offset_dn is not None and round(in_dn) != offset_dn:
        raise InputError(
            f"{where} has the offset {offset:g} in its header ({round(in_dn)} digital numbers), but {offset_dn} was "
            "decided for its item (see --offset-rule)"
        )


def _missing_of(dataset: rasterio.DatasetReader, source: _Source) -> tuple[int | None, bool]:
    """The digital number besides 0 that file and item call missing, and whether the file has a mask of its own."""
    where, stated, own = redact(source.asset.href), source.asset.nodata, dataset.nodata
    if own is not None and stated is not None and own != stated:
        raise InputError(f"{where} has nodata {own:g} in its header, but its item declares {stated}")
    nodata = stated if own is None else own
    masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0]
    if source.missing == "zero" and (nodata or masked):
        raise Refused(
            f"{where} has {'a mask' if masked else f'nodata {nodata:g}'}, and in this run, begun with an earlier "
            "version, only 0 is missing: map it into another --out"
        )
    # No pixel of two bytes holds a number such as -9999.
    return (int(nodata) if nodata is not None and nodata == nodata // 1 and 0 <= nodata <= 65535 else None), masked


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
        offset_dn: int | None = None,
        missing: Missing = "stated",
        **_: Any,
    ) -> None:
        self.asset, placed = rasters[url]
        self.dtype, self.fill_value, self.epsg = dtype, fill_value, int(spec.epsg)
        self.classes, self.offset_dn, self.missing = dtype == np.uint8, offset_dn, missing
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
        """Files stay open for the thread's next window."""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
