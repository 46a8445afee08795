"""The metadata of the map: made from the plan, compared with it, and made anew where it is damaged.

Metadata are all that Zarr keeps beside the shards: the layout of the arrays, their coordinates and attributes. They can
be made from the plan again; shards cannot.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from subpixmap import runpaths
from subpixmap.errors import VerificationFailed
from subpixmap.files import files_under
from subpixmap.grid import CHUNK
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.schema import (
    ARRAYS,
    COORDINATES,
    GRID_MAPPING,
    N_OBS,
    PACKING,
    REGION,
    TIMES,
    ZARR_FORMAT,
    arrays_of,
    consolidate,
    create_zones,
    labels_in,
    zarr_store,
)

# What Zarr raises over metadata whose bits or fields are damaged, by trial (see tests/mapping/test_metadata.py).
_ZARR_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def create_map(out: Path, plan: Plan) -> None:
    """Create the arrays, or append the plan's new periods to those that are there. Repeating it changes nothing."""
    # 1. Read what is there: damage must be named before anything is changed.
    path = out / runpaths.MAP
    if path.exists():
        for epsg in plan.zones:
            _read_present(path, epsg, arrays_of(plan.recipe.spread))
    # 2. Create or lengthen the arrays, then the consolidated copy: readers see new periods only once they are there.
    #    The copy is always written, because a run may have been killed before it.
    create_zones(path, plan)
    consolidate(path, plan)
    # 3. Compare with the plan: another version or program may have made the map.
    for epsg in plan.zones:
        require_readable(out, plan, epsg)


def rebuild_metadata(out: Path, plan: Plan) -> None:
    """Write the map's metadata and coordinates anew from the plan; the shards stay.

    Where the order in which periods were added cannot be read any more, it becomes that of time; blocks that this puts
    in a wrong place are found by `verify`.
    """
    path = out / runpaths.MAP
    order = {}
    for epsg in plan.zones:
        with contextlib.suppress(VerificationFailed, OSError):  # damaged metadata are what is repaired here
            labels = _read_labels(path, epsg)
            if set(labels) <= {period.label for period in plan.periods}:
                order[epsg] = labels
    for file in metadata_files(out):
        file.unlink()
    create_zones(path, plan, order)
    consolidate(path, plan)


def metadata_files(out: Path) -> list[Path]:
    """Files of the map that are not shards; what somebody else put into its folder is not listed."""
    path = out / runpaths.MAP
    inside = {file: file.relative_to(path).parts for file in files_under(path)}
    return [
        file
        for file, parts in inside.items()
        if parts[-1] == "zarr.json"
        or (parts[1:2] and parts[1] in (*COORDINATES, *TIMES, REGION) and parts[2:3] == ("c",))
    ]


def require_readable(out: Path, plan: Plan, epsg: int) -> None:
    """Raise VerificationFailed if a zone's metadata or coordinates cannot be read, or are not those of the plan."""
    zone, side, path = plan.zones[epsg], plan.recipe.block, out / runpaths.MAP
    arrays = arrays_of(plan.recipe.spread)
    there = read_zone(path, epsg, arrays)
    n = len(there.labels)
    if unknown := set(there.labels) - {period.label for period in plan.periods}:
        raise _damaged_metadata(path, epsg, f"it has periods that are not in its plan: {', '.join(sorted(unknown))}")
    if there.extent != (zone.extent.row, zone.extent.col, *zone.extent.shape):
        raise _damaged_metadata(path, epsg, f"its window is {there.extent}, its plan says {zone.extent}")
    for name, array in arrays.items():
        lead = () if name == N_OBS else (len(plan.objects),)
        *head, n_periods, height, width = there.shapes[name]
        layout = (*head, height, width, *there.layouts[name])
        expected = (*lead, *zone.extent.shape, *lead, 1, side, side, CHUNK, CHUNK, array.dtype, dict(array.packing))
        # A run that was killed after lengthening the arrays, before naming the periods, leaves longer ones.
        if layout != expected or not n <= n_periods <= max(n, len(plan.periods)):
            raise _damaged_metadata(path, epsg, f"{name} is laid out as {layout}, its plan says {expected}")
    if there.objects != plan.objects:
        raise _damaged_metadata(path, epsg, f"its objects are {there.objects}, its plan says {plan.objects}")
    for name, values, stored in zip("xy", zone.lattice.coords(zone.extent), (there.x, there.y), strict=True):
        if not np.array_equal(stored, values):
            raise _damaged_metadata(path, epsg, f"coordinate {name} is not that of the plan")


def require_mask(out: Path, epsg: int) -> None:
    """Raise VerificationFailed if a part of the region's mask cannot be read; no number is made from it."""
    path = out / runpaths.MAP
    with _zarr_damage(path, epsg):
        group = zarr.open_group(zarr_store(path), path=str(epsg), mode="r", use_consolidated=False)
        if REGION in group:
            mask: Any = group[REGION]
            height, width = mask.shards
            for row, col in itertools.product(*map(range, (0, 0), mask.shape, mask.shards)):
                mask[row : row + height, col : col + width]


@dataclass(frozen=True)
class ZoneMetadata:
    """What the metadata and coordinates of a zone say, taken out of Zarr."""

    extent: tuple[int, int, int, int]
    """Window of the lattice: row, column, height, width."""
    labels: tuple[str, ...]
    """Periods in the order of the map."""
    objects: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Array -> shape."""
    layouts: Mapping[str, tuple[Any, ...]]
    """Array -> shape of a shard, side of an inner chunk (twice), type, CF attributes."""
    x: NDArray[Any]
    y: NDArray[Any]
    """Pixel centres, metres."""


def read_zone(path: Path, epsg: int, names: Iterable[str] = ARRAYS) -> ZoneMetadata:
    """The metadata of a zone and of these arrays that are whole; VerificationFailed where they are not.

    What only other readers and the next run look at, the group above the zones and the CRS, has to be whole as well.
    Only calls of Zarr stand under its errors, so that a mistake of ours is never taken for damage.
    """
    store = zarr_store(path)
    with _zarr_damage(path, epsg):
        zarr.open_group(store, mode="r", zarr_format=ZARR_FORMAT, use_consolidated=False)
        group = zarr.open_group(store, path=str(epsg), mode="r", zarr_format=ZARR_FORMAT, use_consolidated=False)
        dict(group[GRID_MAPPING].attrs)
        arrays: dict[str, Any] = {name: group[name] for name in names}
        place: Any = tuple(group.attrs["lattice_window"])  # type: ignore[arg-type]
        shapes = {name: array.shape for name, array in arrays.items()}
        layouts = {
            name: (
                *array.shards,
                *array.chunks[-2:],
                str(array.dtype),
                {key: array.attrs[key] for key in PACKING if key in array.attrs},
            )
            for name, array in arrays.items()
        }
        x, y, objects, periods = (np.asarray(group[name][:]) for name in COORDINATES)  # type: ignore[index]
        for name in (*TIMES, REGION):
            if name in group:  # maps of earlier versions lack them
                _ = group[name] if name == REGION else group[name][:]  # type: ignore[index]
    return ZoneMetadata(place, tuple(labels_in(periods)), tuple(map(str, objects)), shapes, layouts, x, y)


def _read_labels(path: Path, epsg: int) -> list[str]:
    """Periods in the order of the map, whatever else of it is damaged."""
    with _zarr_damage(path, epsg):
        array: Any = zarr.open_array(zarr_store(path / str(epsg) / "period"), mode="r", zarr_format=ZARR_FORMAT)
        periods = np.asarray(array[:])
    return labels_in(periods)


def _read_present(path: Path, epsg: int, names: Iterable[str]) -> None:
    """Read what is there of a zone that may be half made; VerificationFailed where it is damaged."""
    store = zarr_store(path)
    with _zarr_damage(path, epsg):
        root = zarr.open_group(store, mode="a", zarr_format=ZARR_FORMAT, use_consolidated=False)
        if str(epsg) not in root:
            return
        # by its own path: through the group above, Zarr would take the consolidated copy of the metadata
        group: Any = zarr.open_group(store, path=str(epsg), mode="r", zarr_format=ZARR_FORMAT, use_consolidated=False)
        dict(group.attrs)
        for name in (*names, *COORDINATES, *TIMES, REGION, GRID_MAPPING):
            if name in group:
                array = group[name]
                if name in (*COORDINATES, *TIMES):
                    array[:]


@contextlib.contextmanager
def _zarr_damage(path: Path, epsg: int) -> Iterator[None]:
    """Name the zone where Zarr cannot read its metadata."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, ValueError):  # Zarr's own "not found" is both
            raise
        raise _damaged_metadata(path, epsg, error) from error
    except _ZARR_ERRORS as error:
        raise _damaged_metadata(path, epsg, error) from error


def _damaged_metadata(path: Path, epsg: int, reason: object) -> VerificationFailed:
    return VerificationFailed(f"{path / str(epsg)} has damaged metadata ({reason}); run subpixmap verify --repair")
