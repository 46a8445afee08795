"""The arrays of the map, and how they lie in Zarr: one group per UTM zone, created once and lengthened by periods.

Foreign readers find what they need in it: CF attributes for the steps and the fill value, coordinates, the CRS.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from subpixmap.files import is_remote, sweep
from subpixmap.grid import CHUNK
from subpixmap.mapping.plan import Plan, Zone
from subpixmap.mapping.quantise import FILL, STEP, ZERO

PER_OBJECT = {
    "count": "expected objects per pixel, unclipped; NaN where not observed",
    "presence": "probability that the pixel holds an object; NaN where not observed",
    "sd_over_dates": "standard deviation of the predictions of single acquisitions; NaN below two observations",
}
"""Arrays (object, period, y, x): float32, stored as int16 steps (see `encoding`)."""
N_OBS = "n_obs"
"""Array (period, y, x) uint16: clear observations that were used."""
ARRAYS = (*PER_OBJECT, N_OBS)
"""All of them."""
GRID_MAPPING = "spatial_ref"
"""The variable that holds the CRS."""
ZARR_FORMAT: Any = 3
PACKING = {"scale_factor": STEP, "add_offset": -ZERO * STEP, "_FillValue": FILL + ZERO}
"""Attributes by which readers of CF decode it."""
# High bytes and low bytes apart. Without the checksum, no flipped bit is ever noticed.
_CODECS = (BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec())


def zarr_store(path: Path) -> Any:
    """What Zarr opens: the folder, or its own view of an object store."""
    if not is_remote(path):
        return path
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(str(path), storage_options={"use_listings_cache": False})


def create_zones(path: Path, plan: Plan, order: Mapping[int, list[str]] | None = None) -> bool:
    """Create or lengthen the arrays of all zones; whether anything changed. `order`: periods that stay first."""
    root = zarr.open_group(zarr_store(path), mode="a", zarr_format=ZARR_FORMAT, use_consolidated=False)
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
    known = labels_of(group)
    labels = [*first, *(label for label in labels if label not in first)]
    labels = known + [label for label in labels if label not in known]
    if labels == known and N_OBS in group:
        return False
    n, rows, cols = len(plan.objects), zone.extent.height, zone.extent.width
    side = plan.recipe.block
    for name, meaning in PER_OBJECT.items():
        shape, shard = (n, len(labels), rows, cols), (n, 1, side, side)
        attributes = {"long_name": meaning, "grid_mapping": GRID_MAPPING} | PACKING
        _array(group, name, shape, shard, "int16", PACKING["_FillValue"], ("object", "period", "y", "x"), attributes)
    attributes = {"long_name": "clear observations used", "grid_mapping": GRID_MAPPING}
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
        compressors=_CODECS,
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
    if "period" not in group:
        return []
    # A run that was killed between lengthening this array and filling it leaves empty names.
    return [str(label) for label in np.asarray(group["period"][:]) if str(label)]  # type: ignore[index]


def consolidate(path: Path, plan: Plan) -> None:
    """Write the metadata of all arrays into their groups as well, where one request finds them."""
    with warnings.catch_warnings():
        # Zarr says that other libraries may not know consolidated metadata; without it xarray warns at every open.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        for group in [*map(str, plan.zones), None]:
            zarr.consolidate_metadata(zarr_store(path), path=group, zarr_format=ZARR_FORMAT)
