"""The arrays of the map, and how they lie in Zarr: one group per UTM zone, created once and lengthened by periods.

Foreign readers find what they need in it: CF attributes for the steps and the fill value, coordinates, the CRS.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from subpixmap.files import is_remote, sweep
from subpixmap.grid import CHUNK
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.quantise import FILL, STEP, ZERO
from subpixmap.mapping.zones import Zone
from subpixmap.model.mean import member_name

N_OBS = "n_obs"
"""The array without objects."""
PACKING = {"scale_factor": STEP, "add_offset": -ZERO * STEP, "_FillValue": FILL + ZERO}
"""Attributes by which readers of CF decode it."""


@dataclass(frozen=True)
class MapArray:
    """One array of the map: what it means, and how a pixel of it is stored."""

    meaning: str
    dtype: str = "int16"
    """Of what is stored: steps (see `quantise`), or the values themselves."""
    packing: Mapping[str, float] = field(default_factory=lambda: PACKING)
    """CF attributes that decode it; none where the values themselves are stored."""
    fill: int = FILL + ZERO
    """Stored where nothing was observed."""
    disk_bytes: float = 0.9
    """Of a pixel of one object on disk, compressed; an estimate."""


ARRAYS: Mapping[str, MapArray] = {
    "count": MapArray("expected objects per pixel, unclipped; NaN where not observed", disk_bytes=1.1),
    "presence": MapArray("probability that the pixel holds an object; NaN where not observed"),
    "sd_over_dates": MapArray(
        "standard deviation of the predictions of single acquisitions; NaN below two observations"
    ),
    N_OBS: MapArray("clear observations used", dtype="uint16", packing={}, fill=0, disk_bytes=0.3),
}
"""What every map holds, as `Accumulator.result` names it: (object, period, y, x), without objects for `N_OBS`."""
SD_OVER_MODELS = MapArray("standard deviation of count over the networks of the model; NaN where not observed")
COORDINATES = ("x", "y", "object", "period")
GRID_MAPPING = "spatial_ref"
"""The variable that holds the CRS."""
ZARR_FORMAT: Any = 3
# High bytes and low bytes apart. Without the checksum, no flipped bit is ever noticed.
_CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())


def arrays_of(spread: int) -> dict[str, MapArray]:
    """All arrays of a map that keeps the counts of so many networks apart: `ARRAYS` alone where it keeps none."""
    if not spread:
        return dict(ARRAYS)
    members = {
        member_name(k): MapArray(
            f"count of network {k + 1} of the model alone; NaN where not observed",
            disk_bytes=ARRAYS["count"].disk_bytes,
        )
        for k in range(spread)
    }
    return {**ARRAYS, "sd_over_models": SD_OVER_MODELS, **members}


def array_of(name: str) -> MapArray:
    """How an array of the map is stored."""
    return ARRAYS[name if name in ARRAYS else "count"]


def zarr_store(path: Path) -> Any:
    """What Zarr opens: the folder, or its own view of an object store."""
    if not is_remote(path):
        return path
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(str(path), storage_options={"use_listings_cache": False})


def create_zones(path: Path, plan: Plan, order: Mapping[int, list[str]] | None = None) -> bool:
    """Create or lengthen the arrays of all zones; whether anything changed. `order`: periods that stay first."""
    root = zarr.open_group(zarr_store(path), mode="a", zarr_format=ZARR_FORMAT, use_consolidated=False)
    sweep(path, below=True)
    changed = False
    for epsg, zone in plan.zones.items():
        first = (order or {}).get(epsg, [])
        labels = [*first, *(period.label for period in plan.periods if period.label not in first)]
        changed |= _create_zone(root, zone, plan, labels)
    return changed


def _create_zone(root: zarr.Group, zone: Zone, plan: Plan, labels: list[str]) -> bool:
    """Whether anything changed. The names of the periods come last: they say how long the other arrays are."""
    epsg = zone.lattice.epsg
    place = [zone.extent.row, zone.extent.col, zone.extent.height, zone.extent.width]
    facts: dict[str, Any] = {"run_id": plan.run_id, "evidence": plan.model.evidence, "lattice_window": place}
    group = root.require_group(str(epsg))
    if dict(group.attrs) != facts:
        group.attrs.put(facts)
    present = labels_of(group)
    labels = present + [label for label in labels if label not in present]
    if labels == present and N_OBS in group:
        return False
    n, side = len(plan.objects), plan.recipe.block
    for name, one in arrays_of(plan.recipe.spread).items():
        lead = () if name == N_OBS else (n,)
        _array(group, name, one, (*lead, len(labels), *zone.extent.shape), (*lead, 1, side, side))
    x, y = zone.lattice.coords(zone.extent)
    _coordinate(group, "x", x, {"standard_name": "projection_x_coordinate", "units": "m", "axis": "X"})
    _coordinate(group, "y", y, {"standard_name": "projection_y_coordinate", "units": "m", "axis": "Y"})
    _coordinate(group, "object", np.array(plan.objects, object), {})
    _write_crs(group, epsg)
    _coordinate(group, "period", np.array(labels, object), {})
    return True


def _array(group: zarr.Group, name: str, one: MapArray, shape: tuple[int, ...], shard: tuple[int, ...]) -> None:
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
        dtype=one.dtype,
        fill_value=one.fill,
        compressors=_CODECS,
        dimension_names=("object", "period", "y", "x")[-len(shape) :],
        attributes={"long_name": one.meaning, "grid_mapping": GRID_MAPPING} | dict(one.packing),
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
        compressors=_CODECS,
        dimension_names=(name,),
        attributes=dict(attributes),
        overwrite=True,
    )
    array[:] = values


def _write_crs(group: zarr.Group, epsg: int) -> None:
    """The CF grid mapping variable by which rioxarray finds the CRS."""
    import pyproj

    if GRID_MAPPING not in group:
        attributes = pyproj.CRS.from_epsg(epsg).to_cf()
        attributes["spatial_ref"] = attributes["crs_wkt"]
        group.create_array(GRID_MAPPING, shape=(), dtype="int64", attributes=attributes)


def labels_of(group: zarr.Group) -> list[str]:
    """Periods in the order in which they were appended."""
    return labels_in(np.asarray(group["period"][:])) if "period" in group else []  # type: ignore[index]


def labels_in(stored: Iterable[Any]) -> list[str]:
    """Periods that the array `period` names."""
    # A run that was killed between lengthening this array and filling it leaves empty names.
    return [str(label) for label in stored if str(label)]


def consolidate(path: Path, plan: Plan) -> None:
    """Write the metadata of all arrays into their groups as well, where one request finds them."""
    with warnings.catch_warnings():
        # Zarr says that other libraries may not know consolidated metadata; without it xarray warns at every open.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for group in [*map(str, plan.zones), None]:
            zarr.consolidate_metadata(zarr_store(path), path=group, zarr_format=ZARR_FORMAT)
