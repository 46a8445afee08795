"""The map on disk: a Zarr v3 group per UTM zone; one shard is one block and one period, with all objects.

NaN means "not observed", empty chunks are written, and every chunk has a checksum: so missing, zero and damaged values
differ. The ledger, not the arrays, says which blocks are *done*.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap import runpaths
from subpixmap.errors import Incomplete, VerificationFailed
from subpixmap.files import file_sha256, is_remote, path_of, store_errors, sync
from subpixmap.geozarr import time_coordinates
from subpixmap.grid import Block, Window
from subpixmap.mapping.ledger import locked_sha256, read_record, read_records, require_items
from subpixmap.mapping.metadata import read_zone, require_readable
from subpixmap.mapping.plan import read_plan
from subpixmap.mapping.proofs import Proof
from subpixmap.mapping.quantise import ZERO, decode, encode
from subpixmap.mapping.schema import (
    ARRAYS,
    GRID_MAPPING,
    N_OBS,
    REGION,
    ZARR_FORMAT,
    array_of,
    arrays_of,
    description,
    labels_of,
    zarr_store,
)
from subpixmap.mapping.shard import Shard, decode_chunks, spread
from subpixmap.mapping.zones import Zone, region_mask

if TYPE_CHECKING:
    import xarray as xr


_SHARD_ERRORS = (ValueError, RuntimeError, struct.error)


def require_map(out: Path) -> None:
    """Raise Incomplete if there is no map: the folder is only planned, or the map was lost."""
    if not (out / runpaths.MAP).exists():
        raise Incomplete(
            f"{out / runpaths.MAP} does not exist. If nothing was mapped yet, run `subpixmap map {out}`; if the map "
            f"was lost, run `subpixmap verify {out} --repair`"
        )


def write_block(out: Path, block: Block, period: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Write the shards of one block and period, and sync them to disk.

    Parameters
    ----------
    out
        The run's folder.
    block, period
        The place; label of the period.
    arrays
        `count`, `presence`, `sd_over_dates` (object, y, x) float32 and `n_obs` (y, x) uint16 of the whole block, and
        like `count` those of a spread over networks.

    Returns
    -------
    dict
        Array name -> hash of its shard's file, for the record.
    """
    group, at, rows, cols = _place(out, block, period)
    folders, digests = set(), {}
    for name, values in arrays.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        array = array.with_config({"write_empty_chunks": True})
        shard = _shard_path(out, array, at, rows, cols)
        shard.unlink(missing_ok=True)  # Zarr reads what it overwrites, so a damaged shard could never be replaced
        if name == N_OBS:
            _require_shape(name, values, block.window.shape)
            array[at, rows, cols] = values
        else:
            _require_shape(name, values, (array.shape[0], *block.window.shape))
            array[:, at, rows, cols] = encode(values) + np.int16(ZERO)
        sync(shard)
        folders |= {shard.parent, shard.parent.parent}
        digests[name] = file_sha256(shard)
    for folder in folders:
        sync(folder)
    return digests


def read_block(
    out: Path,
    block: Block,
    period: str,
    names: Iterable[str] = ARRAYS,
    *,
    chunks: Sequence[Window] | None = None,
    proof: Proof | None = None,
) -> dict[str, NDArray[Any]]:
    """Read the arrays of one block and period, in the form of `write_block`.

    Parameters
    ----------
    out
        The run's folder.
    block, period
        The place; label of the period.
    names
        Arrays that are read.
    chunks
        Inner chunks that are read, all by default; elsewhere the arrays hold NaN (`n_obs` 0).
    proof
        Of the block's record; without it any whole shard is taken.

    Raises
    ------
    VerificationFailed
        A shard is missing, damaged or not that of the record.
    """
    group, at, rows, cols = _place(out, block, period)
    wanted = tuple(block.chunks()) if chunks is None else tuple(chunks)
    arrays = {}
    for name in names:
        array: Any = group[name]
        layers = 1 if name == N_OBS else array.shape[0]
        path = _shard_path(out, array, at, rows, cols)
        shard = Shard(path, block.window, layers, array_of(name).dtype, array_of(name).fill)
        with _shard_damage(shard, block, period):
            stored = spread(shard, wanted, _read_proven(shard, name, block, wanted, proof))
        arrays[name] = stored[0] if name == N_OBS else decode(stored - np.int16(ZERO))
    return arrays


@dataclass(frozen=True)
class Shards:
    """Location of the shards of a zone, which is opened once for any number of blocks."""

    out: Path
    """The run's folder."""
    epsg: int
    extent: Window
    labels: tuple[str, ...]
    """Periods in the order of the map."""
    n_objects: int

    def shard(self, name: str, block: Block, period: str) -> Shard:
        """The shard of an array that holds a block and period."""
        row, col = (part.start // block.size for part in block.window.slices(self.extent))
        place = (_period_place(self.out, self.labels, period), row, col)
        inside = "/".join(map(str, place if name == N_OBS else (0, *place)))
        path = self.out / runpaths.MAP / str(self.epsg) / name / "c" / inside
        layers = 1 if name == N_OBS else self.n_objects
        return Shard(path, block.window, layers, array_of(name).dtype, array_of(name).fill)


def open_shards(out: Path, epsg: int) -> Shards:
    """Open a zone of the map for `read_stored`."""
    require_map(out)
    there = read_zone(out / runpaths.MAP, epsg)
    return Shards(out, epsg, Window(*there.extent), there.labels, there.shapes["count"][0])


def read_stored(
    shards: Shards,
    block: Block,
    periods: Sequence[str],
    wanted: Mapping[str, Sequence[Window]],
    proof: Callable[[str], Proof],
) -> Iterator[dict[str, NDArray[Any]]]:
    """Inner chunks of one block as they are stored, period by period, each shard proven by the block's record.

    Parameters
    ----------
    shards
        The block's zone.
    block, periods
        The place; labels of the periods.
    wanted
        Names of arrays, and the inner chunks that are read of each.
    proof
        Period label -> the hashes of its record.

    Yields
    ------
    dict
        Name -> (object, chunk, 256, 256) int16 steps (see `quantise`); `n_obs` is (chunk, 256, 256) uint16.

    Raises
    ------
    VerificationFailed
        A shard is missing or damaged, or is not the one that the record was written for.
    """
    for period in periods:
        stored, hashes = {}, proof(period)
        for name, chunks in wanted.items():
            shard = shards.shard(name, block, period)
            with _shard_damage(shard, block, period):
                values = _read_proven(shard, name, block, chunks, hashes)
            stored[name] = values[0] if name == N_OBS else np.subtract(values, np.int16(ZERO), out=values)
        yield stored


def _read_proven(shard: Shard, name: str, block: Block, chunks: Sequence[Window], proof: Proof | None) -> NDArray[Any]:
    """Inner chunks of a shard; ValueError where it is not the one of the record.

    The file's hash is quick to check, a twentieth of the rest of reading. If it differs or is not recorded, the values
    are checked: another codec may have stored the same values, and older records have only their hashes.
    """
    content = shard.path.read_bytes()
    if proof is None or proof.knows(name, content):
        return decode_chunks(shard, content, chunks)
    every = tuple(block.chunks())
    stored = decode_chunks(shard, content, every)
    whole = spread(shard, every, stored)
    proof.require(name, whole[0] if name == N_OBS else decode(whole - np.int16(ZERO)), content)
    return stored[:, [every.index(chunk) for chunk in chunks]]


@contextlib.contextmanager
def _shard_damage(shard: Shard, block: Block, period: str) -> Iterator[None]:
    """Raise with block and period if a shard is missing or damaged."""
    where = f"block {block.id}, period {period}"
    if not shard.path.is_file():
        raise VerificationFailed(f"{shard.path} is missing ({where}); run subpixmap verify --repair")
    try:
        with store_errors():
            yield
    except _SHARD_ERRORS as error:
        reason = f"{shard.path} is damaged ({where}): {error}; run subpixmap verify --repair"
        raise VerificationFailed(reason) from error
    except OSError as error:
        if is_remote(shard.path):  # no response from the store is not damage
            raise Incomplete(f"{shard.path} cannot be reached ({error}); rerun the same command to resume") from error
        reason = f"{shard.path} cannot be read ({where}): {error}; run subpixmap verify --repair"
        raise VerificationFailed(reason) from error


def shard_paths(out: Path, block: Block, period: str) -> list[Path]:
    """The files that hold a block and period."""
    group, at, rows, cols = _place(out, block, period)
    return [_shard_path(out, group[name], at, rows, cols) for name in ARRAYS]


def _shard_path(out: Path, array: Any, at: int, rows: slice, cols: slice) -> Path:
    side = array.shards[-1]
    place = (*((0,) if array.ndim == 4 else ()), at, rows.start // side, cols.start // side)
    return out / runpaths.MAP / str(array.path) / "c" / "/".join(map(str, place))


def open_map(out: str | os.PathLike[str]) -> dict[int, xr.Dataset]:
    """Open the map of each UTM zone lazily; a block without a valid ledger record is NaN (and `n_obs` 0).

    Returns
    -------
    dict
        EPSG code -> `count`, `presence`, `sd_over_dates` (object, period, y, x) and `n_obs` (period, y, x), with a
        spread `sd_over_models` and `count_of_model_1` and so on; periods in order of time. One dask chunk is one shard.
        `region` (y, x) is True where a pixel's centre lies in the region: whole cells are mapped, so that
        `count.where(region).sum()` is the region's total and `count.sum()` is more.

    Raises
    ------
    VerificationFailed
        A block was made from other items than the lock's; and when values are computed: a shard is not the one that its
        record was written for.
    """
    import rioxarray  # noqa: F401  (registers .rio)
    import xarray as xr

    folder = path_of(out)
    plan = read_plan(folder)
    require_map(folder)
    done = read_records(folder, plan)
    locked = locked_sha256(folder, plan) if done else {}
    for record in done.values():
        require_items(record, locked)
    labels = [period.label for period in plan.periods]
    datasets = {}
    for epsg, zone in plan.zones.items():
        require_readable(folder, plan, epsg)
        store = zarr_store(folder / runpaths.MAP)
        # not the consolidated copy of the metadata, which was not checked
        there = xr.open_zarr(store, group=str(epsg), decode_coords="all", chunks=None, consolidated=False)
        stored = [str(label) for label in there["period"].values]
        shown = [label for label in labels if label in stored]
        there = there.isel(period=[stored.index(label) for label in shown])
        committed = _committed(zone, shown, done)
        coords = {name: there[name] for name in ("object", "y", "x", GRID_MAPPING)} | {"period": shown}
        coords |= time_coordinates(map(plan.period, shown))  # from the plan: maps of earlier versions hold none
        arrays = {
            name: (there[name].dims, _lazy(folder, zone, committed, there[name]), there[name].attrs)
            for name in arrays_of(plan.recipe.spread)
        } | {REGION: (("y", "x"), _lazy_region(zone, plan.geometry), {"long_name": "centre lies in the region"})}
        attrs = description(plan) | {"folder": str(out)}
        datasets[epsg] = xr.Dataset(arrays, coords=coords, attrs=attrs).rio.write_crs(epsg)
    return datasets


def _committed(zone: Zone, labels: Sequence[str], done: Collection[tuple[str, str]]) -> xr.DataArray:
    """(period, block row, block column): which blocks of a zone's extent the ledger vouches for."""
    import xarray as xr

    side = zone.blocks[0].block.size
    rows = np.arange(zone.extent.height // side) + zone.extent.row // side
    cols = np.arange(zone.extent.width // side) + zone.extent.col // side
    mask = np.zeros((len(labels), len(rows), len(cols)), bool)
    for (p, label), one in itertools.product(enumerate(labels), zone.blocks):
        mask[p, one.block.row - rows[0], one.block.col - cols[0]] = (one.block.id, label) in done
    return xr.DataArray(mask, {"period": list(labels), "row": rows, "col": cols}, ("period", "row", "col"))


def _lazy(out: Path, zone: Zone, committed: xr.DataArray, like: xr.DataArray) -> Any:
    """One array as dask chunks of whole shards; a shard without a ledger record is never opened."""
    import dask.array as da

    side, name = zone.blocks[0].block.size, str(like.name)
    labels, rows, cols = (committed[axis].values.tolist() for axis in ("period", "row", "col"))
    lead: tuple[int, ...] = like.shape[:1] if name != N_OBS else ()
    chunks = (*((size,) for size in lead), (1,) * len(labels), (side,) * len(rows), (side,) * len(cols))
    lazy_mask = da.from_array(committed.values, chunks=1, name=False)
    empty: Any = np.uint16(0) if name == N_OBS else np.float32(np.nan)

    def load(wanted: NDArray[np.bool_], block_id: tuple[int, ...] = ()) -> NDArray[Any]:
        p, r, c = block_id[-3:]
        if not wanted.all():
            return np.full((*lead, 1, side, side), empty, empty.dtype)
        block = Block(zone.lattice, rows[r], cols[c], side)
        record = read_record(out, block.id, labels[p])
        if record is None:
            raise Incomplete(
                f"block {block.id}, period {labels[p]} is being mapped again since the map was opened: open the map "
                "again"
            )
        return read_block(out, block, labels[p], [name], proof=Proof.of(record))[name][..., None, :, :]

    return da.map_blocks(
        load,
        lazy_mask,
        chunks=chunks,
        new_axis=[0] if lead else [],
        dtype=empty.dtype,
        meta=np.empty((0,) * len(chunks), empty.dtype),
    )


def _lazy_region(zone: Zone, geometry: BaseGeometry) -> Any:
    """(y, x) pixels of the region as dask chunks of whole blocks."""
    import dask.array as da

    side, extent = zone.blocks[0].block.size, zone.extent
    inside = region_mask(geometry, zone.lattice)

    def load(block_id: tuple[int, ...] = ()) -> NDArray[np.bool_]:
        row, col = (start + side * i for start, i in zip((extent.row, extent.col), block_id, strict=True))
        return inside(Window(row, col, side, side))

    chunks = ((side,) * (extent.height // side), (side,) * (extent.width // side))
    return da.map_blocks(load, chunks=chunks, dtype=bool, meta=np.empty((0, 0), bool))


def _open_zone(out: Path, epsg: int) -> zarr.Group:
    store = zarr_store(out / runpaths.MAP)
    return zarr.open_group(store, path=str(epsg), mode="r+", zarr_format=ZARR_FORMAT, use_consolidated=False)


def _place(out: Path, block: Block, period: str) -> tuple[zarr.Group, int, slice, slice]:
    """The zone's group, and where a block and period lie in its arrays."""
    group = _open_zone(out, block.lattice.epsg)
    extent = Window(*(int(v) for v in group.attrs["lattice_window"]))  # type: ignore[union-attr, arg-type]
    return group, _period_place(out, labels_of(group), period), *block.window.slices(extent)


def _period_place(out: Path, labels: Sequence[str], period: str) -> int:
    if period not in labels:
        raise VerificationFailed(f"{out / runpaths.MAP} has no period {period}; it has {', '.join(labels)}")
    return labels.index(period)


def _require_shape(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}; a whole block is {shape}")
