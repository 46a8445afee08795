"""The map on disk: a Zarr v3 group per UTM zone; one shard is one block and one period, with all objects.

NaN is "not observed", empty chunks are written, and every chunk carries a checksum: what is missing, what is zero and
what is damaged can be told apart. What is *done* stands in the ledger, never in the arrays.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from subpixmap.errors import SubpixmapError, VerificationFailed
from subpixmap.files import files_under, is_remote, path_of, sweep, sync
from subpixmap.grid import CHUNK, Block, Window
from subpixmap.mapping.plan import Plan, Zone, read_plan
from subpixmap.mapping.shard import read_shard

if TYPE_CHECKING:
    import xarray as xr

PER_OBJECT = {
    "count": "expected objects per pixel, unclipped; NaN where not observed",
    "presence": "probability that the pixel holds an object; NaN where not observed",
    "sd_over_dates": "standard deviation of the predictions of single acquisitions; NaN below two observations",
}
"""Arrays (object, period, y, x) float32."""
N_OBS = "n_obs"
"""Array (period, y, x) uint16: clear observations that were used."""
ARRAYS = (*PER_OBJECT, N_OBS)
"""All of them."""
_CODEC = ZstdCodec(level=3, checksum=True)  # without the checksum, no flipped bit is ever noticed
_GRID_MAPPING = "spatial_ref"
_FORMAT: Any = 3


def map_path(out: str | os.PathLike[str]) -> Path:
    """OUT/map.zarr."""
    return path_of(out) / "map.zarr"


def _stored(path: Path) -> Any:
    """What Zarr opens: the folder, or its own view of an object store."""
    if not is_remote(path):
        return path
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(str(path), storage_options={"use_listings_cache": False})


def create_map(out: str | os.PathLike[str], plan: Plan) -> None:
    """Create the arrays, or append the plan's new periods to those that are there. Repeating it changes nothing."""
    path = map_path(out)
    with _damage_is_told(path):
        changed = _create_zones(path, plan)
        if changed:
            _consolidate(path, plan)
    for epsg in plan.zones:
        require_readable(out, plan, epsg)


def rebuild_metadata(out: str | os.PathLike[str], plan: Plan) -> None:
    """Write the map's metadata and coordinates anew from the plan; the shards stay.

    Where the order in which periods were added cannot be read any more, it becomes that of time; blocks that this puts
    in a wrong place are found by `verify`.
    """
    path = map_path(out)
    order = {}
    for epsg in plan.zones:
        with contextlib.suppress(Exception):  # damaged: that is why we are here
            labels = _labels(_open_zone(out, epsg))
            if set(labels) <= {period.label for period in plan.periods}:
                order[epsg] = labels
    for file in metadata_files(out):
        file.unlink()
    _create_zones(path, plan, order)
    _consolidate(path, plan)


def metadata_files(out: str | os.PathLike[str]) -> list[Path]:
    """Files of the map that are no shards."""
    arrays = {*PER_OBJECT, N_OBS}
    found = []
    for file in files_under(map_path(out)):
        inside = file.relative_to(map_path(out)).parts
        if not (len(inside) > 2 and inside[1] in arrays and inside[2] == "c"):
            found.append(file)
    return found


def require_readable(out: str | os.PathLike[str], plan: Plan, epsg: int) -> None:
    """Raise VerificationFailed if a zone's metadata or coordinates cannot be read, or are not those of the plan."""
    zone, side = plan.zones[epsg], plan.recipe.block
    with _damage_is_told(map_path(out) / str(epsg)):
        group = _open_zone(out, epsg)
        labels = _labels(group)
        if unknown := set(labels) - {period.label for period in plan.periods}:
            raise ValueError(f"it has periods that its plan has not: {', '.join(sorted(unknown))}")
        n = len(labels)
        for name in ARRAYS:
            array: Any = group[name]
            lead = () if name == N_OBS else (len(plan.objects),)
            there = (*array.shape[:-3], *array.shape[-2:], *array.shards, *array.chunks[-2:], str(array.dtype))
            kind = "uint16" if name == N_OBS else "float32"
            expected = (*lead, *zone.extent.shape, *lead, 1, side, side, CHUNK, CHUNK, kind)
            # A run that was killed between lengthening the arrays and naming the periods has longer ones.
            if there != expected or not n <= array.shape[-3] <= max(n, len(plan.periods)):
                raise ValueError(f"{name} is laid out as {there}, its plan says {expected}")
        for name, values in zip(("x", "y"), zone.lattice.coords(zone.extent), strict=True):
            if not np.array_equal(np.asarray(group[name][:]), values):  # type: ignore[index]
                raise ValueError(f"coordinate {name} is not that of the plan")


@contextlib.contextmanager
def _damage_is_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SubpixmapError):
        raise
    except Exception as error:  # zarr raises errors of many kinds over damaged metadata
        raise VerificationFailed(f"{path} has damaged metadata ({error}); run subpixmap verify --repair") from error


def _create_zones(path: Path, plan: Plan, order: Mapping[int, list[str]] | None = None) -> bool:
    root = zarr.open_group(_stored(path), mode="a", zarr_format=_FORMAT, use_consolidated=False)
    sweep(path)
    labels = [period.label for period in plan.periods]
    changed = False
    for epsg, zone in plan.zones.items():
        changed |= _create_zone(root, epsg, zone, plan, (order or {}).get(epsg, []), labels)
    return changed


def _create_zone(root: zarr.Group, epsg: int, zone: Zone, plan: Plan, first: list[str], labels: list[str]) -> bool:
    """Whether anything changed. The period names are written last: they say how long the other arrays are."""
    place = [zone.extent.row, zone.extent.col, zone.extent.height, zone.extent.width]
    facts: dict[str, Any] = {"run_id": plan.run_id, "evidence": plan.model.evidence, "lattice_window": place}
    group = root.require_group(str(epsg))
    if dict(group.attrs) != facts:
        group.attrs.put(facts)
    known = _labels(group)
    labels = [*first, *(label for label in labels if label not in first)]
    labels = known + [label for label in labels if label not in known]
    if labels == known and N_OBS in group:
        return False
    n, rows, cols = len(plan.objects), zone.extent.height, zone.extent.width
    side = plan.recipe.block
    for name, meaning in PER_OBJECT.items():
        shape, shard = (n, len(labels), rows, cols), (n, 1, side, side)
        attributes = {"long_name": meaning, "grid_mapping": _GRID_MAPPING}
        _array(group, name, shape, shard, "float32", np.float32("nan"), ("object", "period", "y", "x"), attributes)
    attributes = {"long_name": "clear observations used", "grid_mapping": _GRID_MAPPING}
    _array(group, N_OBS, (len(labels), rows, cols), (1, side, side), "uint16", 0, ("period", "y", "x"), attributes)
    x, y = zone.lattice.coords(zone.extent)
    _coordinate(group, "x", x, {"standard_name": "projection_x_coordinate", "units": "m", "axis": "X"})
    _coordinate(group, "y", y, {"standard_name": "projection_y_coordinate", "units": "m", "axis": "Y"})
    _coordinate(group, "object", np.array(plan.objects, object), {})
    _write_crs(group, epsg)
    _coordinate(group, "period", np.array(labels, object), {})
    return True


def _array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    shard: tuple[int, ...],
    dtype: str,
    fill: Any,
    dims: tuple[str, ...],
    attributes: Mapping[str, Any],
) -> None:
    """Create an array of whole shards, or lengthen it along `period`."""
    if name in group:
        array = group[name]
        if isinstance(array, zarr.Array) and array.shape != shape:
            array.resize(shape)
        return
    group.create_array(
        name,
        shape=shape,
        shards=shard,
        chunks=(1,) * (len(shape) - 2) + (CHUNK, CHUNK),
        dtype=dtype,
        fill_value=fill,
        compressors=[_CODEC],
        dimension_names=dims,
        attributes=dict(attributes),
    )


def _coordinate(group: zarr.Group, name: str, values: NDArray[Any], attributes: Mapping[str, Any]) -> None:
    # One chunk, rewritten whole (zarr renames it into place).
    dtype: Any = str if values.dtype == object else values.dtype
    size = 4096 if name == "period" else len(values)
    if name in group and (array := group[name]) and isinstance(array, zarr.Array) and array.chunks == (size,):
        if array.shape != values.shape:
            array.resize(values.shape)
        if not np.array_equal(np.asarray(array[:]).astype(values.dtype), values):  # a killed run left it half made
            array[:] = values
        return
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(size,),
        dtype=dtype,
        compressors=[_CODEC],
        dimension_names=(name,),
        attributes=dict(attributes),
        overwrite=True,
    )
    array[:] = values


def _write_crs(group: zarr.Group, epsg: int) -> None:
    """The CF grid mapping variable by which rioxarray finds the CRS."""
    import pyproj

    if _GRID_MAPPING not in group:
        attributes = pyproj.CRS.from_epsg(epsg).to_cf()
        attributes["spatial_ref"] = attributes["crs_wkt"]
        group.create_array(_GRID_MAPPING, shape=(), dtype="int64", attributes=attributes)


def _labels(group: zarr.Group) -> list[str]:
    """Periods in the order in which they were appended."""
    if "period" not in group:
        return []
    # A run that was killed between lengthening this array and filling it leaves empty names.
    return [str(label) for label in np.asarray(group["period"][:]) if str(label)]  # type: ignore[index]


def _consolidate(path: Path, plan: Plan) -> None:
    with warnings.catch_warnings():
        # Zarr says that other libraries may not know consolidated metadata; without it xarray warns at every open.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for group in [*map(str, plan.zones), None]:
            zarr.consolidate_metadata(_stored(path), path=group, zarr_format=_FORMAT)


def write_block(out: str | os.PathLike[str], block: Block, period: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the shards of one block and period, and force them to disk.

    Parameters
    ----------
    out
        The run's folder.
    block, period
        The place; label of the period.
    arrays
        `count`, `presence`, `sd_over_dates` (object, y, x) float32 and `n_obs` (y, x) uint16 of the whole block.
    """
    group, at, rows, cols = _place(out, block, period)
    folders = set()
    for name, values in arrays.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        array = array.with_config({"write_empty_chunks": True})
        if name == N_OBS:
            _require_shape(name, values, block.window.shape)
            array[at, rows, cols] = values
        else:
            _require_shape(name, values, (array.shape[0], *block.window.shape))
            array[:, at, rows, cols] = values
        shard = _shard(out, array, at, rows, cols)
        sync(shard)
        folders |= {shard.parent, shard.parent.parent}
    for folder in folders:
        sync(folder)


def read_block(
    out: str | os.PathLike[str],
    block: Block,
    period: str,
    names: Sequence[str] = ARRAYS,
    *,
    chunks: Sequence[Window] | None = None,
) -> dict[str, NDArray[Any]]:
    """The arrays of one block and period, as `write_block` takes them.

    The parameters and errors are those of `read_periods`.
    """
    return next(read_periods(out, block, [period], names, chunks=chunks))


def read_periods(
    out: str | os.PathLike[str],
    block: Block,
    periods: Sequence[str],
    names: Sequence[str] = ARRAYS,
    *,
    chunks: Sequence[Window] | None = None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Arrays of one block, period by period; the map is opened once for all of them.

    Parameters
    ----------
    out
        The run's folder.
    block, periods
        The place; labels of the periods.
    names
        Arrays that are read.
    chunks
        Inner chunks that are read, all by default; elsewhere the arrays hold NaN (`n_obs` 0).

    Raises
    ------
    VerificationFailed
        A shard is missing or damaged.
    """
    group, labels, rows, cols = _block_place(out, block)
    wanted = tuple(block.chunks()) if chunks is None else tuple(chunks)
    arrays: dict[str, Any] = {name: group[name] for name in names}
    for period in periods:
        at = _period_place(out, labels, period)
        yield {
            name: _inner_chunks(
                _shard(out, array, at, rows, cols), array, name, block, wanted, f"block {block.id}, period {period}"
            )
            for name, array in arrays.items()
        }


def _inner_chunks(
    shard: Path, array: Any, name: str, block: Block, chunks: Sequence[Window], told: str
) -> NDArray[Any]:
    """(object, y, x) or (y, x): inner chunks of one shard."""
    lead = 1 if name == N_OBS else array.shape[0]
    with _damaged_shard_is_told(shard, told):
        values = read_shard(shard, lead, block.window, chunks, array.dtype, array.fill_value)
    return values[0] if name == N_OBS else values


def _read(shard: Path, array: Any, name: str, at: int, rows: slice, cols: slice, told: str) -> NDArray[Any]:
    """One shard, with its period axis: (object, 1, y, x) or (1, y, x)."""
    with _damaged_shard_is_told(shard, told):
        one = slice(at, at + 1)
        return np.asarray(array[(one, rows, cols) if name == N_OBS else (slice(None), one, rows, cols)])


@contextlib.contextmanager
def _damaged_shard_is_told(shard: Path, told: str) -> Iterator[None]:
    if not shard.is_file():
        raise VerificationFailed(f"{shard} is missing ({told}); run subpixmap verify --repair")
    try:
        yield
    except Exception as error:  # codecs raise errors of many kinds over damaged bytes
        raise VerificationFailed(f"{shard} is damaged ({told}): {error}; run subpixmap verify --repair") from error


def shard_paths(out: str | os.PathLike[str], block: Block, period: str) -> list[Path]:
    """The files that hold a block and period."""
    group, at, rows, cols = _place(out, block, period)
    return [_shard(out, group[name], at, rows, cols) for name in ARRAYS]


def _shard(out: str | os.PathLike[str], array: Any, at: int, rows: slice, cols: slice) -> Path:
    side = array.shards[-1]
    place = (*((0,) if array.ndim == 4 else ()), at, rows.start // side, cols.start // side)
    return map_path(out) / array.path / "c" / "/".join(map(str, place))


def open_map(out: str | os.PathLike[str]) -> dict[int, xr.Dataset]:
    """The map of each UTM zone, lazily; a block without a valid ledger record is NaN (and `n_obs` 0).

    Returns
    -------
    dict
        EPSG code -> `count`, `presence`, `sd_over_dates` (object, period, y, x) and `n_obs` (period, y, x), periods in
        order of time; one dask chunk is one shard.
    """
    import rioxarray  # noqa: F401  (registers .rio)
    import xarray as xr

    from subpixmap.mapping.ledger import read_records

    plan = read_plan(out)
    done = read_records(out, plan).keys()
    labels = [period.label for period in plan.periods]
    found = {}
    for epsg, zone in plan.zones.items():
        there = xr.open_zarr(_stored(map_path(out)), group=str(epsg), decode_coords="all", chunks=None)
        stored = [str(label) for label in there["period"].values]
        there = there.isel(period=[stored.index(label) for label in labels if label in stored])
        coords = {name: there[name] for name in ("object", "y", "x", _GRID_MAPPING)}
        coords["period"] = [label for label in labels if label in stored]
        arrays = {
            name: (there[name].dims, _lazy(out, zone, coords["period"], done, name, there[name]), there[name].attrs)
            for name in ARRAYS
        }
        attrs = {"run_id": plan.run_id, "evidence": plan.model.evidence, "folder": str(out)}
        dataset = xr.Dataset(arrays, coords=coords, attrs=attrs)
        found[epsg] = dataset.rio.write_crs(epsg)
    return found


def _lazy(
    out: str | os.PathLike[str],
    zone: Zone,
    labels: list[str],
    done: Iterable[tuple[str, str]],
    name: str,
    like: xr.DataArray,
) -> Any:
    """One array as dask chunks of whole shards; a shard that the ledger does not know is never opened."""
    import dask.array as da

    side = zone.blocks[0].block.size
    row0, col0 = zone.extent.row // side, zone.extent.col // side
    rows, cols = zone.extent.height // side, zone.extent.width // side
    known = set(done)
    mask = np.zeros((len(labels), rows, cols), bool)
    for (p, label), one in itertools.product(enumerate(labels), zone.blocks):
        mask[p, one.block.row - row0, one.block.col - col0] = (one.block.id, label) in known
    lead: tuple[int, ...] = like.shape[:1] if name != N_OBS else ()
    chunks = (*((size,) for size in lead), (1,) * len(labels), (side,) * rows, (side,) * cols)
    lazy_mask = da.from_array(mask, chunks=1, name=False)
    empty = np.zeros((), like.dtype) if name == N_OBS else np.full((), np.nan, like.dtype)

    def load(wanted: NDArray[np.bool_], block_id: tuple[int, ...] = ()) -> NDArray[Any]:
        p, r, c = block_id[-3:]
        if not wanted.all():
            return np.full((*lead, 1, side, side), empty)
        block = Block(zone.lattice, row0 + r, col0 + c, side)
        group, at, y, x = _place(out, block, labels[p])
        array: Any = group[name]
        return _read(_shard(out, array, at, y, x), array, name, at, y, x, f"block {block.id}, period {labels[p]}")

    return da.map_blocks(
        load,
        lazy_mask,
        chunks=chunks,
        new_axis=[0] if lead else [],
        dtype=like.dtype,
        meta=np.empty((0,) * len(chunks), like.dtype),
    )


def _open_zone(out: str | os.PathLike[str], epsg: int) -> zarr.Group:
    return zarr.open_group(
        _stored(map_path(out)), path=str(epsg), mode="r+", zarr_format=_FORMAT, use_consolidated=False
    )


def _place(out: str | os.PathLike[str], block: Block, period: str) -> tuple[zarr.Group, int, slice, slice]:
    """The zone's group, and where a block and period lie in its arrays."""
    group, labels, rows, cols = _block_place(out, block)
    return group, _period_place(out, labels, period), rows, cols


def _block_place(out: str | os.PathLike[str], block: Block) -> tuple[zarr.Group, list[str], slice, slice]:
    """The zone's group, its periods, and where a block lies in its arrays."""
    group = _open_zone(out, block.lattice.epsg)
    extent = Window(*(int(v) for v in group.attrs["lattice_window"]))  # type: ignore[union-attr, arg-type]
    return group, _labels(group), *block.window.slices(extent)


def _period_place(out: str | os.PathLike[str], labels: Sequence[str], period: str) -> int:
    if period not in labels:
        raise VerificationFailed(f"{map_path(out)} has no period {period}; it has {', '.join(labels)}")
    return labels.index(period)


def _require_shape(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}; a whole block is {shape}")
