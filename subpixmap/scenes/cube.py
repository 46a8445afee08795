"""Reads reflectance and valid pixels of locked items, for one window or as a lazy xarray cube.

The only module that calls stackstac. Assets are read at their native resolution and repeated to the lattice: a pixel of
20 m becomes four of 10 m, in training and mapping alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window, project, utm_epsg
from subpixmap.periods import ALL_MONTHS, Every, make_periods
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.scenes.dialect import SCL, SENSOR, Level
from subpixmap.scenes.fallback import lock_sources
from subpixmap.scenes.items import Asset, Item, by_acquisition, mosaic_order
from subpixmap.scenes.lattices import largest_pixels, lattices, snap
from subpixmap.scenes.radiometry import Missing, OffsetRule, require_bands, to_reflectance
from subpixmap.scenes.reader import AlignedReader, Rasters
from subpixmap.scenes.source import common_bands, find_by_source, preferred

if TYPE_CHECKING:
    import xarray as xr

MAX_CHUNKS = 20_000
"""Largest number of chunks of a lazy cube; `subpixmap run` maps larger regions block by block."""


def read_reflectance(
    items: Sequence[Item], lattice: Lattice, window: Window, bands: Sequence[str], *, missing: Missing = "stated"
) -> NDArray[np.float32]:
    """Reflectance of one acquisition in a window.

    Parameters
    ----------
    items
        Tiles of one acquisition. Where tiles overlap, the first one with data is used (see `mosaic_order`).
    lattice, window
        Lattice of the items' UTM zone, and the window to read.
    bands
        Canonical band names.
    missing
        Rule for missing digital numbers (see `read_window`).

    Returns
    -------
    numpy.ndarray
        float32, (band, y, x); NaN where there is no data.

    Raises
    ------
    ReadFailed
        A file could not be read.
    InputError
        The header of a file contradicts its item, or the items are not of one acquisition and zone.
    """

    def convert(dn: NDArray[Any], item: Item, out: NDArray[Any] | None) -> NDArray[Any]:
        return to_reflectance(dn, item.offset_dn, out)

    return _mosaic(items, lattice, window, bands, np.float32(np.nan), convert, missing)


def read_valid(
    items: Sequence[Item], lattice: Lattice, window: Window, rule: MaskRule, *, missing: Missing = "stated"
) -> NDArray[np.bool_]:
    """Valid pixels of one acquisition in a window, by its scene classes; without classes, all pixels with data.

    Scene classes are masked and dilated at their own resolution, with a margin, so the mask does not depend on the
    window. Returns bool, (y, x); False where there is no data.
    """
    if rule.by != "scl":
        raise InputError(f"a mask by {rule.by!r} works only block by block: use subpixmap run --mask, or by='scl' here")
    if items and all(SCL not in item.assets for item in items):  # Level-1C: the finest band shows where there is data
        band = min(items[0].assets, key=lambda name: items[0].assets[name].resolution)
        return np.asarray(np.isfinite(read_reflectance(items, lattice, window, [band], missing=missing)[0]))
    groups: dict[float, list[Item]] = {}
    for item in items:
        groups.setdefault(item.assets[SCL].resolution, []).append(item)
    if len(groups) > 1:
        raise InputError(
            f"items {', '.join(i.id for i in items)} have scene classes of several resolutions: {sorted(groups)} m"
        )
    if not items:
        return np.zeros(window.shape, bool)
    asset = snap(items[0].assets[SCL], lattice)
    native = Lattice.of_transform(lattice.epsg, Affine(*asset.transform))
    around = native.window(lattice.bounds(window)).padded(rule.margin(native.resolution))
    scl = _mosaic(items, native, around, [SCL], np.uint8(0), lambda dn, item, out: dn, missing)[0]
    valid = scl_valid(scl, native.resolution, rule, missing=missing)
    return _to_lattice(valid, native, around, lattice, window)


def _mosaic(
    items: Sequence[Item],
    lattice: Lattice,
    window: Window,
    bands: Sequence[str],
    empty: np.generic,
    convert: Callable[[NDArray[Any], Item, NDArray[Any] | None], NDArray[Any]],
    missing: Missing,
) -> NDArray[Any]:
    """Bands of one acquisition, (band, y, x): each pixel from the first tile with data, else `empty`.

    Each tile fills pixels that earlier tiles left empty. A complete band is not read again: most blocks lie inside one
    tile. `convert` turns digital numbers into values; it may write into its argument.
    """
    _require_one_acquisition(items, lattice, bands)
    out = np.empty((len(bands), *window.shape), empty.dtype)
    holes: dict[int, Any] = dict.fromkeys(range(len(bands)))  # bands with empty pixels -> where (None: everywhere)
    tiles = [item for item in mosaic_order(items) if _overlap(item.assets.values(), lattice, window.padded(1))]
    for number, item in enumerate(tiles, 1):
        for native, around, indices, dn in _read_native(item, lattice, window, bands, list(holes), missing):
            whole = native == lattice  # no pixels to repeat: without holes, values are copied directly
            for index, part in zip(indices, dn, strict=True):
                hole, here = holes[index], out[index]
                if whole and hole is None:
                    values = convert(part, item, here)
                else:
                    values = _to_lattice(convert(part, item, None), native, around, lattice, window)
                if values is not here:
                    np.copyto(here, values, where=True if hole is None else hole)
        if number < len(tiles):
            holes = {index: hole for index in holes if (hole := _is_empty(out[index])).any()}
    if not tiles:
        out[:] = empty
    return out


def _is_empty(values: NDArray[Any]) -> NDArray[np.bool_]:
    empty: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else values == 0
    return empty


def _require_one_acquisition(items: Sequence[Item], lattice: Lattice, bands: Sequence[str]) -> None:
    if len({item.acquisition for item in items}) > 1:
        raise InputError(f"items of several acquisitions cannot be one mosaic: {', '.join(item.id for item in items)}")
    for item in items:
        if item.epsg != lattice.epsg:
            raise InputError(f"item {item.id} lies in EPSG:{item.epsg}, not in EPSG:{lattice.epsg}")
        if missing := [band for band in bands if band not in item.assets]:
            raise InputError(f"item {item.id} has no {', '.join(missing)}; it was locked with {', '.join(item.assets)}")


def _overlap(assets: Iterable[Asset], lattice: Lattice, window: Window) -> bool:
    """Whether any of the assets intersects a window."""
    west, south, east, north = lattice.bounds(window)
    return any(w < east and e > west and s < north and n > south for w, s, e, n in (a.bounds for a in assets))


def _read_native(
    item: Item, lattice: Lattice, window: Window, bands: Sequence[str], wanted: Sequence[int], missing: Missing
) -> Iterator[tuple[Lattice, Window, list[int], NDArray[Any]]]:
    """Read an item's bands per native grid: (native lattice, window, band indices, DN (band, y, x))."""
    grids: dict[Lattice, list[int]] = {}
    placed = {index: snap(item.assets[bands[index]], lattice) for index in wanted}
    for index, asset in placed.items():
        grids.setdefault(Lattice.of_transform(item.epsg, Affine(*asset.transform)), []).append(index)
    for native, indices in grids.items():
        around = native.window(lattice.bounds(window))
        rasters = {bands[i]: (item.assets[bands[i]], placed[i]) for i in indices}
        yield native, around, indices, _stack(item, rasters, native, around, missing)


def _stack(
    item: Item, rasters: Mapping[str, tuple[Asset, Asset]], lattice: Lattice, window: Window, missing: Missing
) -> NDArray[np.unsignedinteger]:
    """The only call of stackstac: DN (band, y, x) of an item on the lattice of its assets."""
    import stackstac

    assets = {
        band: {"href": asset.href, "proj:epsg": item.epsg, "proj:bbox": placed.bounds}
        for band, (asset, placed) in rasters.items()
    }
    plain = {"id": item.id, "properties": {"datetime": item.datetime}, "assets": assets, "type": "Feature"}
    by_href = Rasters({pair[0].href: pair for pair in rasters.values()})
    dtype = np.uint8 if set(rasters) == {SCL} else np.uint16
    if not _overlap((placed for _, placed in rasters.values()), lattice, window):  # stackstac has no empty cube
        return np.zeros((len(rasters), *window.shape), dtype)
    offset_dn = None if item.offset_is_users or dtype is np.uint8 else item.offset_dn
    cube = stackstac.stack(
        plain,
        assets=list(rasters),
        epsg=item.epsg,
        bounds=lattice.bounds(window),
        resolution=lattice.resolution,
        snap_bounds=False,
        chunksize=(1, -1, -1, -1),
        dtype=np.dtype(dtype),
        fill_value=dtype(0),
        rescale=False,
        sortby_date=False,
        xy_coords="center",
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        reader=partial(AlignedReader, rasters=by_href, offset_dn=offset_dn, missing=missing),
    )
    dn: NDArray[np.unsignedinteger] = cube.data.compute(scheduler="synchronous", optimize_graph=False)[0]
    return dn  # the graph has one or two tasks: nothing to optimise


def _to_lattice(
    values: NDArray[Any], native: Lattice, around: Window, lattice: Lattice, window: Window
) -> NDArray[Any]:
    """Cut (..., y, x) on a coarser native lattice to a window of the finer one; each pixel is repeated."""
    times = round(native.resolution / lattice.resolution)
    if times > 1:
        values = values.repeat(times, axis=-2).repeat(times, axis=-1)
    outer, inner = native.bounds(around), lattice.bounds(window)
    row = round((outer[3] - inner[3]) / lattice.resolution)
    col = round((inner[0] - outer[0]) / lattice.resolution)
    return values[..., row : row + window.height, col : col + window.width]


def open_cube(
    region_or_bounds: Any,
    years: str | int,
    *,
    source: str | Sequence[str],
    bands: Sequence[str] | None = None,
    every: Every = "year",
    months: Sequence[int] | None = None,
    resolution: float = 10.0,
    mask: MaskRule | None = None,
    collection: str | None = None,
    offset_rule: OffsetRule = "auto",
    level: Level = "L2A",
    chunk: int = 1024,
) -> xr.Dataset:
    """A lazy cube of all acquisitions over a region; pixels are read when computed.

    Parameters
    ----------
    region_or_bounds
        A `Region`, a geometry in EPSG:4326, or (west, south, east, north) in degrees.
    years
        Such as 2021 or "2018-2023".
    source
        See `find_items`.
    bands
        Canonical names; by default all bands that every item has.
    every
        Length of a period; only sets the period names. There is one time step per acquisition.
    months
        Months of the year to use; by default all.
    resolution
        Metres.
    mask
        Which pixels are valid; by default `MaskRule()`.
    collection
        Collection of an API.
    offset_rule
        See `decide_offset`.
    level
        Processing level: "L2A", or "L1C", in which every pixel with data is valid.
    chunk
        Side of a chunk, pixels.

    Returns
    -------
    xarray.Dataset
        As `lazy_cube`, in the UTM zone that owns most of the region.

    Raises
    ------
    InputError
        No item lies in the region, or the cube would be too large to explore: map it with `subpixmap run`.
    """
    require_bands(bands or ())
    geometry = _geometry(region_or_bounds)
    periods = make_periods(years, every, tuple(months) if months else ALL_MONTHS)
    by_source = find_by_source(source, geometry, periods, collection=collection, level=level)
    raw_items = preferred(by_source)
    named = source if isinstance(source, str) else ", ".join(source)
    if not raw_items:
        raise InputError(f"no item of {named} touches the region {geometry.bounds} in {years}")
    names = list(bands) if bands else common_bands(raw_items)
    items = lock_sources(by_source, periods, names, offset_rule=offset_rule, level=level, look=False)
    epsg, items = _main_zone(geometry, items)
    lattice = lattices(items, resolution)[epsg]
    window = lattice.window(project(geometry, 4326, epsg).bounds)
    return lazy_cube(items, lattice, window, names, mask=mask, chunk=chunk).assign_attrs(source=named)


def lazy_cube(
    items: Sequence[Item],
    lattice: Lattice,
    window: Window,
    bands: Sequence[str],
    *,
    mask: MaskRule | None = None,
    chunk: int = 1024,
) -> xr.Dataset:
    """Locked items of one UTM zone on a window of its lattice, lazily.

    Returns
    -------
    xarray.Dataset
        `reflectance` (time, band, y, x) float32, NaN where there is no data, and `valid` (time, y, x) bool, with the
        coordinates time, band, y, x (pixel centres, metres), acquisition and period (time), and pixel_m (band), the
        size of the files' own pixels in metres; one step for each acquisition.

    Raises
    ------
    InputError
        It would have more than `MAX_CHUNKS` chunks.
    """
    import dask.array as da
    import rioxarray  # noqa: F401  (registers .rio)
    import xarray as xr

    groups = by_acquisition(items)
    sides = [tuple(min(chunk, n - at) for at in range(0, n, chunk)) for n in window.shape]
    if (n := len(groups) * len(sides[0]) * len(sides[1])) > MAX_CHUNKS:
        raise InputError(
            f"the cube has {len(groups)} acquisitions of {window.height} x {window.width} px, {n} chunks; "
            f"the limit is {MAX_CHUNKS:,}: choose a smaller region, or use subpixmap run"
        )
    steps = (1,) * len(groups)
    lazy = partial(_lazy_chunk, list(groups.values()), lattice, window)
    map_blocks: Any = da.map_blocks  # has no types
    reflectance = map_blocks(
        partial(lazy, list(bands)),
        chunks=(steps, (len(bands),), *sides),
        dtype=np.float32,
        meta=np.empty((0,) * 4, np.float32),
    )
    rule = mask or MaskRule()
    valid = map_blocks(partial(lazy, rule), chunks=(steps, *sides), dtype=bool, meta=np.empty((0,) * 3, bool))
    x, y = lattice.coords(window)
    sizes = largest_pixels(items, bands)
    first = [group[0] for group in groups.values()]
    cube = xr.Dataset(
        {"reflectance": (("time", "band", "y", "x"), reflectance), "valid": (("time", "y", "x"), valid)},
        coords={
            "time": np.array([item.datetime.rstrip("Z") for item in first], "datetime64[ns]"),
            "band": list(bands),
            "y": y,
            "x": x,
            "acquisition": ("time", list(groups)),
            "period": ("time", [item.period for item in first]),
            "pixel_m": ("band", [sizes[band] for band in bands]),
        },
        attrs={"epsg": lattice.epsg, "resolution": lattice.resolution, "sensor": SENSOR, "level": items[0].level},
    )
    placed: xr.Dataset = cube.rio.write_crs(lattice.epsg).rio.write_transform(lattice.transform(window))
    return placed


def _lazy_chunk(
    groups: Sequence[Sequence[Item]],
    lattice: Lattice,
    window: Window,
    what: Sequence[str] | MaskRule,
    block_info: dict[Any, Any] | None = None,
) -> NDArray[Any]:
    """One chunk of the cube: bands of an acquisition, or its valid pixels."""
    place = block_info[None]["array-location"]  # type: ignore[index]
    (row, bottom), (col, right) = place[-2:]
    part = Window(window.row + row, window.col + col, bottom - row, right - col)
    group = groups[place[0][0]]
    if isinstance(what, MaskRule):
        return read_valid(group, lattice, part, what)[None]
    return read_reflectance(group, lattice, part, what)[None]


def _geometry(region_or_bounds: Any) -> BaseGeometry:
    """The region's geometry in EPSG:4326."""
    geometry = getattr(region_or_bounds, "geometry", region_or_bounds)
    if isinstance(geometry, BaseGeometry):
        return geometry
    try:
        west, south, east, north = (float(v) for v in geometry)
    except (TypeError, ValueError):
        raise InputError(f"{region_or_bounds!r} is neither a region nor (west, south, east, north)") from None
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise InputError(f"bounds {geometry} are not (west, south, east, north) in degrees")
    return shapely.box(west, south, east, north)


def _main_zone(geometry: BaseGeometry, items: Sequence[Item]) -> tuple[int, list[Item]]:
    """The UTM zone with items that owns most of the region, and its items."""
    west, south, east, north = geometry.bounds
    lon, lat = np.meshgrid(np.linspace(west, east, 101), np.linspace(south, north, 101))
    inside = shapely.intersects_xy(geometry, lon, lat)
    codes, counts = np.unique(utm_epsg(lon, lat)[inside if inside.any() else ...], return_counts=True)
    area = dict(zip(codes.tolist(), counts.tolist(), strict=True))
    epsg = max({item.epsg for item in items}, key=lambda code: (area.get(code, 0), -code))
    return epsg, [item for item in items if item.epsg == epsg]
