"""A map that was opened -> blocks that can be summed. What a user selected or masked is what is counted.

In: what `open_map` returned, whole or in part (periods, objects, a window, values set to NaN). Out: the blocks of the
run it came from, with the arrays' values and the ledger's facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.counts.rows import Facts
from subpixmap.counts.sums import MapBlock
from subpixmap.errors import InputError
from subpixmap.grid import CHUNK, Lattice, Window

if TYPE_CHECKING:
    import xarray as xr

Maps = Mapping[int, "xr.Dataset"]
"""EPSG code -> `count`, `presence` (object, period, y, x) and `n_obs` (period, y, x)."""


def folder_of(maps: Maps) -> str:
    """The run that a map was opened from."""
    folders = {str(dataset.attrs.get("folder", "")) for dataset in maps.values()}
    if len(folders) != 1 or "" in folders:
        raise InputError("the map does not say which run it comes from; give what open_map returned, or the run folder")
    return folders.pop()


def facts_of(maps: Maps, facts: Facts) -> Facts:
    """The facts of the periods and objects that the map still holds, in its order."""
    first = next(iter(maps.values()))
    objects, periods = ([str(one) for one in np.atleast_1d(first[name].values)] for name in ("object", "period"))
    for dataset in maps.values():
        same = (list(map(str, np.atleast_1d(dataset[name].values))) for name in ("object", "period"))
        if list(same) != [objects, periods]:
            raise InputError("the zones of the map hold different objects or periods; select the same in all of them")
    by_label = {period.label: period for period in facts.periods}
    for name, known in ((objects, facts.objects), (periods, by_label)):
        if unknown := [one for one in name if one not in known]:
            raise InputError(f"the map holds {unknown[0]!r}, which its run does not know; it has {', '.join(known)}")
    return replace(
        facts,
        objects={name: facts.objects[name] for name in objects},
        measures={name: facts.measures[name] for name in objects},
        periods=tuple(by_label[label] for label in periods),
    )


def blocks_of(maps: Maps, stored: Iterator[MapBlock], all_objects: Sequence[str]) -> Iterator[MapBlock]:
    """The stored blocks that the map still holds pixels of, with the map's values in the place of the stored ones."""
    for block in stored:
        epsg = block.lattice.epsg
        if epsg not in maps:
            continue
        window = _extent(maps[epsg], block.lattice)
        objects = [str(one) for one in np.atleast_1d(maps[epsg]["object"].values)]
        chunks = tuple(chunk for chunk in block.chunks if chunk.overlap(window) is not None)
        if chunks:
            values = _Values(maps[epsg], window, block.window)
            record = _selected(block.record, [all_objects.index(name) for name in objects])
            yield replace(block, chunks=chunks, record=record, read=values.read)


@dataclass(frozen=True)
class _Values:
    dataset: xr.Dataset
    extent: Window
    window: Window

    def read(
        self, periods: Sequence[str], wanted: Mapping[str, Sequence[Window]]
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """The chunks of one period after the other; a pixel without a count was not observed."""
        shared = self.window.overlap(self.extent)
        assert shared is not None
        rows, cols = shared.slices(self.extent)
        part = self.dataset.isel(y=rows, x=cols)
        for period in periods:
            now = part.sel(period=period)
            count = now["count"].values.reshape(-1, *shared.shape)
            found = {"count": count}
            if "presence" in wanted:
                found["presence"] = now["presence"].values.reshape(-1, *shared.shape)
            if "n_obs" in wanted:
                found["n_obs"] = np.where(np.isfinite(count).all(axis=0), now["n_obs"].values, 0)
            yield {name: self._stack(found[name], shared, chunks) for name, chunks in wanted.items()}

    def _stack(self, values: NDArray[Any], shared: Window, chunks: Sequence[Window]) -> NDArray[Any]:
        """(..., chunk, 256, 256); outside the map nothing was observed."""
        fill = np.nan if values.dtype.kind == "f" else 0
        stack = np.full((*values.shape[:-2], len(chunks), CHUNK, CHUNK), fill, values.dtype)
        for i, chunk in enumerate(chunks):
            if (both := chunk.overlap(shared)) is not None:
                stack[(..., i, *both.slices(chunk))] = values[(..., *both.slices(shared))]
        return stack


def _selected(
    record: Callable[[str], Mapping[str, Any] | None], objects: Sequence[int]
) -> Callable[[str], Mapping[str, Any] | None]:
    """The ledger's cells of some objects."""

    def read(period: str) -> Mapping[str, Any] | None:
        found = record(period)
        if found is None or "acquisition_total" not in found:
            return found
        return {**found, "acquisition_total": np.asarray(found["acquisition_total"])[:, list(objects)]}

    return read


def _extent(dataset: xr.Dataset, lattice: Lattice) -> Window:
    """The pixels of a map."""
    x, y, step = dataset["x"].values, dataset["y"].values, lattice.resolution / 2
    if x.size and y.size:
        window = lattice.window((x[0] - step, y[-1] - step, x[-1] + step, y[0] + step))
        if window.shape == (y.size, x.size) and all(map(np.allclose, lattice.coords(window), (x, y))):
            return window
    raise InputError(
        f"the map of EPSG:{lattice.epsg} does not hold neighbouring pixels of its run; select a window without gaps "
        "(counts are never resampled)"
    )
