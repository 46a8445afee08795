"""The map on disk: a Zarr v3 group per UTM zone; one shard is one block and one period, with all objects.

NaN is "not observed", empty chunks are written, and every chunk carries a checksum: what is missing, what is zero and
what is damaged can be told apart. What is *done* stands in the ledger, never in the arrays.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from subpixmap.errors import SubpixmapError, VerificationFailed
from subpixmap.files import files_under, path_of, sync
from subpixmap.grid import CHUNK, Block, Window
from subpixmap.mapping.plan import Plan, Zone, read_plan
from subpixmap.mapping.quantise import ZERO, decode, encode
from subpixmap.mapping.schema import (
    ARRAYS,
    GRID_MAPPING,
    N_OBS,
    PACKING,
    PER_OBJECT,
    ZARR_FORMAT,
    consolidate,
    create_zones,
    labels_of,
    zarr_store,
)
from subpixmap.mapping.shard import read_chunks, read_shard

if TYPE_CHECKING:
    import xarray as xr


def map_path(out: str | os.PathLike[str]) -> Path:
    """OUT/map.zarr."""
    return path_of(out) / "map.zarr"


def create_map(out: str | os.PathLike[str], plan: Plan) -> None:
    """Create the arrays, or append the plan's new periods to those that are there. Repeating it changes nothing."""
    path = map_path(out)
    with _damage_is_told(path):
        changed = create_zones(path, plan)
        if changed:
            consolidate(path, plan)
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
            labels = labels_of(_open_zone(out, epsg))
            if set(labels) <= {period.label for period in plan.periods}:
                order[epsg] = labels
    for file in metadata_files(out):
        file.unlink()
    create_zones(path, plan, order)
    consolidate(path, plan)


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
        labels = labels_of(group)
        if unknown := set(labels) - {period.label for period in plan.periods}:
            raise ValueError(f"it has periods that its plan has not: {', '.join(sorted(unknown))}")
        n = len(labels)
        for name in ARRAYS:
            array: Any = group[name]
            lead = () if name == N_OBS else (len(plan.objects),)
            kind = str(array.dtype), {key: array.attrs[key] for key in PACKING if key in array.attrs}
            there = (*array.shape[:-3], *array.shape[-2:], *array.shards, *array.chunks[-2:], *kind)
            kind = ("uint16", {}) if name == N_OBS else ("int16", PACKING)
            expected = (*lead, *zone.extent.shape, *lead, 1, side, side, CHUNK, CHUNK, *kind)
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
        shard = _shard(out, array, at, rows, cols)
        shard.unlink(missing_ok=True)  # Zarr reads what it overwrites: a damaged shard could never be made again
        if name == N_OBS:
            _require_shape(name, values, block.window.shape)
            array[at, rows, cols] = values
        else:
            _require_shape(name, values, (array.shape[0], *block.window.shape))
            array[:, at, rows, cols] = encode(values) + np.int16(ZERO)
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

    Raises
    ------
    VerificationFailed
        A shard is missing or damaged.
    """
    group, at, rows, cols = _place(out, block, period)
    wanted = tuple(block.chunks()) if chunks is None else tuple(chunks)
    arrays: dict[str, Any] = {name: group[name] for name in names}
    return {
        name: _inner_chunks(
            _shard(out, array, at, rows, cols), array, name, block, wanted, f"block {block.id}, period {period}"
        )
        for name, array in arrays.items()
    }


@dataclass(frozen=True)
class Shards:
    """Where the shards of a zone lie and what they hold: a zone is opened once, whatever number of blocks is read."""

    out: str
    """The run's folder."""
    epsg: int
    extent: Window
    labels: tuple[str, ...]
    """Periods in the order of the map."""
    kinds: Mapping[str, tuple[int, str, int]]
    """Array -> objects (1 without any), type and fill value of what is stored."""


def open_shards(out: str | os.PathLike[str], epsg: int) -> Shards:
    """Open a zone of the map for `read_stored`."""
    with _damage_is_told(map_path(out) / str(epsg)):
        group = _open_zone(out, epsg)
        extent = Window(*(int(v) for v in group.attrs["lattice_window"]))  # type: ignore[union-attr, arg-type]
        arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}
        kinds = {
            name: (1 if name == N_OBS else int(array.shape[0]), str(array.dtype), int(array.fill_value))
            for name, array in arrays.items()
        }
        return Shards(str(out), epsg, extent, tuple(labels_of(group)), kinds)


def read_stored(
    shards: Shards, block: Block, periods: Sequence[str], wanted: Mapping[str, Sequence[Window]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Inner chunks of one block as they are stored, period by period.

    Parameters
    ----------
    shards
        The block's zone.
    block, periods
        The place; labels of the periods.
    wanted
        Names of arrays, and the inner chunks that are read of each.

    Yields
    ------
    dict
        Name -> (object, chunk, 256, 256) int16 steps (see `encoding`); `n_obs` is (chunk, 256, 256) uint16.

    Raises
    ------
    VerificationFailed
        A shard is missing or damaged.
    """
    place = block.window.slices(shards.extent)
    row, col = (part.start // block.size for part in place)
    zone = map_path(shards.out) / str(shards.epsg)
    for period in periods:
        at = _period_place(shards.out, shards.labels, period)
        found = {}
        for name, chunks in wanted.items():
            lead, dtype, fill = shards.kinds[name]
            inside = f"{at}/{row}/{col}" if name == N_OBS else f"0/{at}/{row}/{col}"
            shard = zone / name / "c" / inside
            with _damaged_shard_is_told(shard, f"block {block.id}, period {period}"):
                values = read_chunks(shard, lead, block.window, chunks, dtype, fill)
            found[name] = values[0] if name == N_OBS else np.subtract(values, np.int16(ZERO), out=values)
        yield found


def _inner_chunks(
    shard: Path, array: Any, name: str, block: Block, chunks: Sequence[Window], told: str
) -> NDArray[Any]:
    """(object, y, x) or (y, x): inner chunks of one shard."""
    lead = 1 if name == N_OBS else array.shape[0]
    with _damaged_shard_is_told(shard, told):
        values = read_shard(shard, lead, block.window, chunks, array.dtype, array.fill_value)
    return values[0] if name == N_OBS else decode(values - np.int16(ZERO))


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
        there = xr.open_zarr(zarr_store(map_path(out)), group=str(epsg), decode_coords="all", chunks=None)
        stored = [str(label) for label in there["period"].values]
        there = there.isel(period=[stored.index(label) for label in labels if label in stored])
        coords = {name: there[name] for name in ("object", "y", "x", GRID_MAPPING)}
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
    empty: Any = np.uint16(0) if name == N_OBS else np.float32(np.nan)

    def load(wanted: NDArray[np.bool_], block_id: tuple[int, ...] = ()) -> NDArray[Any]:
        p, r, c = block_id[-3:]
        if not wanted.all():
            return np.full((*lead, 1, side, side), empty, empty.dtype)
        block = Block(zone.lattice, row0 + r, col0 + c, side)
        return read_block(out, block, labels[p], [name])[name][..., None, :, :]

    return da.map_blocks(
        load,
        lazy_mask,
        chunks=chunks,
        new_axis=[0] if lead else [],
        dtype=empty.dtype,
        meta=np.empty((0,) * len(chunks), empty.dtype),
    )


def _open_zone(out: str | os.PathLike[str], epsg: int) -> zarr.Group:
    return zarr.open_group(
        zarr_store(map_path(out)), path=str(epsg), mode="r+", zarr_format=ZARR_FORMAT, use_consolidated=False
    )


def _place(out: str | os.PathLike[str], block: Block, period: str) -> tuple[zarr.Group, int, slice, slice]:
    """The zone's group, and where a block and period lie in its arrays."""
    group = _open_zone(out, block.lattice.epsg)
    extent = Window(*(int(v) for v in group.attrs["lattice_window"]))  # type: ignore[union-attr, arg-type]
    return group, _period_place(out, labels_of(group), period), *block.window.slices(extent)


def _period_place(out: str | os.PathLike[str], labels: Sequence[str], period: str) -> int:
    if period not in labels:
        raise VerificationFailed(f"{map_path(out)} has no period {period}; it has {', '.join(labels)}")
    return labels.index(period)


def _require_shape(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}; a whole block is {shape}")
