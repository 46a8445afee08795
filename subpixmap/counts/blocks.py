"""Reads blocks to sum from a run folder or from a part of its opened map.

In: a `RunFolder`, or what `open_map` returned, whole or in part (periods, objects, a window, values set to NaN). Out:
the blocks of the run with the values of the map and the records of the ledger. Only pixels that the user selected and
did not mask are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import Incomplete, InputError
from subpixmap.grid import CELL, CHUNK, Block, Lattice, Window, owned
from subpixmap.mapping.ledger import read_record, require_items
from subpixmap.mapping.owner import is_held_here
from subpixmap.mapping.proofs import Proof, write_notes
from subpixmap.mapping.store import Shards, open_shards, read_stored
from subpixmap.runfolder import RunFolder

if TYPE_CHECKING:
    import xarray as xr

Maps = Mapping[int, "xr.Dataset"]
"""EPSG code -> `count`, `presence` (object, period, y, x) and `n_obs` (period, y, x)."""
Arrays = Mapping[str, NDArray[Any]]
"""Name of an array of the map -> its values."""
Cells = Mapping[str, Any]
"""Fields of a ledger record on its grid of cells."""


@dataclass(frozen=True)
class MapBlock:
    """One block of a map to be summed."""

    lattice: Lattice
    window: Window
    """The block's pixels."""
    chunks: tuple[Window, ...]
    """The inner chunks with pixels computed by the run."""
    record: Callable[[str], Cells | None]
    """Period label -> what the ledger's valid record holds by cell, None where there is no such record. `observed_px`,
    `out_of_domain_px` (cy, cx), `acquisition_observed_px` (acquisition, cy, cx), `acquisition_total` (acquisition,
    object, cy, cx) and `acquisitions`, their ids; each may be missing."""
    read: Callable[[Sequence[str], Mapping[str, Sequence[Window]]], Iterator[Arrays]]
    """Period labels and names of arrays, with the chunks that are wanted of each -> stacks of these chunks, in their
    order, one period after the other: `n_obs` (chunk, 256, 256), all others (object, chunk, 256, 256).
    Counts and presence are numbers with NaN where nothing was observed, or the whole steps that the map stores (see
    `mapping.quantise`). Periods without a record are not asked for."""
    min_obs: int = 1
    """Number of clear observations that make a pixel observed."""
    computed: NDArray[np.bool_] | None = None
    """(row, column) of the block's cells: whether the run computes them; by default all cells of the chunks."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.lattice.epsg}, rows from {self.window.row}, columns from {self.window.col}"

    def owned(self, chunk: Window) -> NDArray[np.bool_]:
        """(256, 256) pixels of a chunk that the zone owns and the run computes."""
        mine = owned(self.lattice, chunk)
        if self.computed is None:
            return mine
        rows, cols = (slice(part.start // CELL, part.stop // CELL) for part in chunk.slices(self.window))
        return mine & self.computed[rows, cols].repeat(CELL, axis=0).repeat(CELL, axis=1)


def read_blocks(folder: RunFolder) -> BlocksOfRun:
    """The blocks of a run, zone by zone, in row-major order; pixels are read only when needed."""
    return BlocksOfRun(folder)


@dataclass(frozen=True)
class BlocksOfRun:
    """The result of `read_blocks`; its length is known before reading."""

    folder: RunFolder

    def __len__(self) -> int:
        return sum(len(zone.blocks) for zone in self.folder.plan.zones.values())

    def __iter__(self) -> Iterator[MapBlock]:
        folder, plan = self.folder, self.folder.plan
        notes = is_held_here(folder.path)
        for epsg, zone in sorted(plan.zones.items()):
            shards = open_shards(folder.path, epsg)
            for one in zone.blocks:
                stored = _StoredBlock(shards, plan.run_id, folder.items_sha256, one.block, notes)
                yield MapBlock(
                    lattice=zone.lattice,
                    window=one.block.window,
                    chunks=one.chunks,
                    record=stored.record,
                    read=stored.read,
                    min_obs=plan.recipe.min_obs,
                    computed=one.computed,
                )


@dataclass(frozen=True)
class _StoredBlock:
    """One block on disk; small enough to send to a worker."""

    shards: Shards
    run_id: str
    items_sha256: Mapping[str, str]
    """Period label -> hash of its locked items."""
    block: Block
    notes: bool
    """Whether this process holds the folder, so that it may write notes about checked files."""
    proofs: dict[str, Proof] = field(default_factory=dict)
    """Period label -> what its record says of the arrays, kept from `record` to `read`."""

    def record(self, period: str) -> Cells | None:
        """The ledger's cells, or None if the block is not done.

        Records are read one at a time, because a country has many.
        """
        record = read_record(self.shards.out, self.block.id, period)
        if record is None or record.run_id != self.run_id:
            return None
        require_items(record, self.items_sha256)
        self.proofs[period] = Proof.of(record, self.shards.out)
        return {**record.cells, "acquisitions": [used.id for used in record.acquisitions]}

    def read(self, periods: Sequence[str], wanted: Mapping[str, Sequence[Window]]) -> Iterator[Arrays]:
        """The stored chunks, one period after the other; refuses a shard that does not match its record."""
        stored = read_stored(self.shards, self.block, periods, wanted, self._proof)
        for period, arrays in zip(periods, stored, strict=True):
            if self.notes:
                write_notes(self.shards.out, (self.block.id, period), self._proof(period))
            yield arrays

    def _proof(self, period: str) -> Proof:
        if period not in self.proofs and self.record(period) is None:
            raise Incomplete(f"block {self.block.id}, period {period} is not mapped")
        return self.proofs[period]


def folder_of(maps: Maps) -> str:
    """The run of an opened map."""
    folders = {str(dataset.attrs.get("folder", "")) for dataset in maps.values()}
    if len(folders) != 1 or "" in folders:
        raise InputError("the map has no reference to its run; give the result of open_map, or the run folder")
    return folders.pop()


def contents_of(maps: Maps) -> tuple[list[str], list[str]]:
    """The objects and period labels of a map, in its order."""
    contents = [[_names(dataset, name) for name in ("object", "period")] for dataset in maps.values()]
    if any(one != contents[0] for one in contents):
        raise InputError("the zones of the map have different objects or periods; select the same in all zones")
    objects, periods = contents[0]
    return objects, periods


def blocks_of(maps: Maps, folder: RunFolder) -> Iterator[MapBlock]:
    """The blocks with pixels in an opened map, with the map's values instead of the stored ones."""
    for block in read_blocks(folder):
        epsg = block.lattice.epsg
        if epsg not in maps:
            continue
        window = _extent(maps[epsg], block.lattice)
        chunks = tuple(chunk for chunk in block.chunks if chunk.overlap(window) is not None)
        if chunks:
            part = _MapPart(maps[epsg], window, block.window)
            positions = [folder.plan.objects.index(name) for name in _names(maps[epsg], "object")]
            yield replace(block, chunks=chunks, record=_of_objects(block.record, positions), read=part.read)


@dataclass(frozen=True)
class _MapPart:
    """The part of a block in an opened map."""

    dataset: xr.Dataset
    extent: Window
    """Of the dataset."""
    window: Window
    """Of the block."""

    def read(self, periods: Sequence[str], wanted: Mapping[str, Sequence[Window]]) -> Iterator[Arrays]:
        """The chunks of one period after the other; a pixel without a count counts as not observed."""
        shared = self.window.overlap(self.extent)
        assert shared is not None
        rows, cols = shared.slices(self.extent)
        part = self.dataset.isel(y=rows, x=cols)
        for period in periods:
            now = part.sel(period=period)
            arrays = {name: now[name].values for name in {"count", *wanted}}
            arrays |= {name: one.reshape(-1, *shared.shape) for name, one in arrays.items() if name != "n_obs"}
            counted = np.isfinite(arrays["count"]).all(axis=0)
            for name in arrays.keys() - {"count", "presence"}:
                arrays[name] = np.where(counted, arrays[name], 0 if name == "n_obs" else np.nan)
            yield {name: _stack(arrays[name], shared, chunks) for name, chunks in wanted.items()}


def _stack(values: NDArray[Any], place: Window, chunks: Sequence[Window]) -> NDArray[Any]:
    """(..., y, x) at a place -> (..., chunk, 256, 256); outside the place nothing was observed."""
    fill = np.nan if values.dtype.kind == "f" else 0
    stack = np.full((*values.shape[:-2], len(chunks), CHUNK, CHUNK), fill, values.dtype)
    for i, chunk in enumerate(chunks):
        if (both := chunk.overlap(place)) is not None:
            stack[(..., i, *both.slices(chunk))] = values[(..., *both.slices(place))]
    return stack


def _of_objects(record: Callable[[str], Cells | None], positions: Sequence[int]) -> Callable[[str], Cells | None]:
    """The ledger's cells of some objects."""

    def read(period: str) -> Cells | None:
        cells = record(period)
        if cells is None or "acquisition_total" not in cells:
            return cells
        return {**cells, "acquisition_total": np.asarray(cells["acquisition_total"])[:, list(positions)]}

    return read


def _names(dataset: xr.Dataset, coordinate: str) -> list[str]:
    return [str(one) for one in np.atleast_1d(dataset[coordinate].values)]


def _extent(dataset: xr.Dataset, lattice: Lattice) -> Window:
    """The pixels of a map."""
    x, y, step = dataset["x"].values, dataset["y"].values, lattice.resolution / 2
    if x.size and y.size:
        window = lattice.window((x[0] - step, y[-1] - step, x[-1] + step, y[0] + step))
        if window.shape == (y.size, x.size) and all(map(np.allclose, lattice.coords(window), (x, y))):
            return window
    raise InputError(
        f"the map of EPSG:{lattice.epsg} has gaps between its pixels; select a window without gaps (counts are never "
        "resampled)"
    )
