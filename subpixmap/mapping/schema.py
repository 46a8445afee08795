"""The arrays of the map, and how they lie in Zarr: one group per UTM zone, created once and lengthened by periods.

Foreign readers find what they need in it: CF attributes for the steps, the fill value and the units, coordinates with
the bounds of each period, the CRS, the region, title, source and history. All of it follows from the plan alone,
so it can be made again. What a folder of an earlier version lacks is added when it is next mapped.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from subpixmap import geozarr
from subpixmap.files import is_remote, sweep
from subpixmap.geozarr import TIME, TIME_BOUNDS
from subpixmap.grid import CELL, CHUNK, Window
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.quantise import FILL, STEP, ZERO
from subpixmap.mapping.zones import Zone, region_mask
from subpixmap.model.mean import TRIM_FROM, member_name
from subpixmap.progress import track
from subpixmap.scenes.hrefs import for_readers

N_OBS = "n_obs"
"""The array without objects."""
GRID_MAPPING = "spatial_ref"
"""The variable that holds the CRS."""
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
    cell_methods: str = "time: mean"
    """How CF says that a value stands for its pixel and period."""

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the array in Zarr; all are numbers without a unit."""
        return {
            "long_name": self.meaning,
            "units": "1",
            "cell_methods": self.cell_methods,
            "coordinates": TIME,
            "grid_mapping": GRID_MAPPING,
        } | dict(self.packing)


_COUNTED = "area: sum time: mean"
ARRAYS: Mapping[str, MapArray] = {
    "count": MapArray(
        "expected objects per pixel, unclipped; NaN where not observed", disk_bytes=1.1, cell_methods=_COUNTED
    ),
    "presence": MapArray("probability that the pixel holds an object; NaN where not observed"),
    "sd_over_dates": MapArray(
        "standard deviation of the predictions of single acquisitions; NaN below two observations",
        cell_methods="area: sum time: standard_deviation",
    ),
    N_OBS: MapArray(
        "clear observations used", dtype="uint16", packing={}, fill=0, disk_bytes=0.3, cell_methods="time: sum"
    ),
}
"""What every map holds, as `Accumulator.result` names it: (object, period, y, x), without objects for `N_OBS`."""
SD_OVER_MODELS = MapArray(
    "standard deviation of count over the networks of the model; NaN where not observed", cell_methods=_COUNTED
)
COORDINATES = ("x", "y", "object", "period")
TIMES = (TIME, TIME_BOUNDS)
"""Of the periods, in the order of `period`; maps of earlier versions lack them."""
REGION = "region"
"""The mask (y, x) of the region; maps of earlier versions lack it."""
_REGION_SHARD = 8192  # pixels; a country has a hundred of them
REFERENCES = "Rodriguez and Wegner 2018, arXiv:1809.07091; Rodriguez et al. 2021, doi:10.1016/j.rse.2021.112479"
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
            cell_methods=_COUNTED,
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


def create_zones(path: Path, plan: Plan, order: Mapping[int, list[str]] | None = None) -> None:
    """Create or lengthen the arrays of all zones. `order`: periods that stay first."""
    open_group = partial(zarr.open_group, zarr_store(path), zarr_format=ZARR_FORMAT, use_consolidated=False)
    open_group(mode="a")
    sweep(path, below=True)
    for epsg, zone in plan.zones.items():
        first = (order or {}).get(epsg, [])
        labels = [*first, *(period.label for period in plan.periods if period.label not in first)]
        _create_zone(open_group(path=str(epsg), mode="a"), zone, plan, labels)


def _create_zone(group: zarr.Group, zone: Zone, plan: Plan, labels: list[str]) -> None:
    """Write what is not there yet, and nothing else.

    The names of the periods come last: they say how long the other arrays are.
    """
    place = [zone.extent.row, zone.extent.col, zone.extent.height, zone.extent.width]
    _describe(group, description(plan) | {"lattice_window": place} | geozarr.placed(zone.lattice, zone.extent))
    present = labels_of(group)
    labels = present + [label for label in labels if label not in present]
    n, side = len(plan.objects), plan.recipe.block
    for name, one in arrays_of(plan.recipe.spread).items():
        lead = () if name == N_OBS else (n,)
        _array(group, name, one, (*lead, len(labels), *zone.extent.shape), (*lead, 1, side, side))
    x, y = zone.lattice.coords(zone.extent)
    for name, values, standard in (("x", x, "projection_x_coordinate"), ("y", y, "projection_y_coordinate")):
        _coordinate(group, name, values, {"standard_name": standard, "units": "m", "axis": name.upper()})
    definitions = "; ".join(f"{name}: {what}" for name, what in plan.model.definitions.items())
    _coordinate(
        group, "object", np.array(plan.objects, object), {"long_name": "what is counted", "definitions": definitions}
    )
    if GRID_MAPPING not in group:
        group.create_array(GRID_MAPPING, shape=(), dtype="int64")
    _describe(group[GRID_MAPPING], geozarr.grid_mapping(zone.lattice, zone.extent))
    _write_region(group, zone, plan)
    _write_times(group, plan, labels)
    _coordinate(group, "period", np.array(labels, object), {"long_name": "label of the period"})


def description(plan: Plan) -> dict[str, Any]:
    """CF attributes that say what the map is, what it was made from and how; without a clock time, see above."""
    labels = [period.label for period in plan.periods]
    span = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    model, sources = plan.model, ", ".join(map(for_readers, plan.sources))
    mapped = f"cells of {CELL} px" if plan.recipe.mapped_by == "cell" else f"chunks of {CHUNK} px"
    return {
        "Conventions": geozarr.CF,
        "title": f"Counts of {', '.join(plan.objects)} per pixel in {plan.region_name}, {span}",
        "source": f"Sentinel-2 {plan.recipe.level} from {sources}; model {model.name} (sha256 {model.sha256}), whose "
        f"training data are {model.evidence}",
        "history": f"subpixmap {plan.versions.get('subpixmap', 'unknown')}, run {plan.run_id}: predicted each chosen "
        f"acquisition with the model; averaged the predictions over each period ({span})",
        "references": REFERENCES,
        "license": imagery_licence(plan),
        "comment": f"Whole {mapped} are mapped: the total of the region is the sum of count where region "
        f"is 1. A mean over {TRIM_FROM} or more acquisitions leaves out the highest and the lowest.",
        "run_id": plan.run_id,
        "evidence": model.evidence,
    }


def imagery_licence(plan: Plan) -> str:
    """What the terms of the imagery ask to be said of anything made from it."""
    years = ", ".join(sorted({str(year) for one in plan.periods for year in (one.start.year, one.end.year)}))
    return (
        f"contains modified Copernicus Sentinel data {years} where it is real, under the legal notice on the "
        "use of Copernicus Sentinel Data and Service Information"
    )


def _describe(node: Any, attributes: Mapping[str, Any]) -> None:
    """Set the attributes that are not as they should be."""
    there = dict(node.attrs)
    if any(key not in there or there[key] != value for key, value in attributes.items()):
        node.update_attributes(dict(attributes))  # in one write, where `attrs` makes one for each key


def _array(group: zarr.Group, name: str, one: MapArray, shape: tuple[int, ...], shard: tuple[int, ...]) -> None:
    """Create an array of whole shards, or lengthen it along `period`."""
    if name in group:
        array = group[name]
        _describe(array, one.attributes)
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
        attributes=one.attributes,
    )


def _coordinate(group: zarr.Group, name: str, values: NDArray[Any], attributes: Mapping[str, Any], *other: str) -> None:
    """Write a coordinate along `period` or its own dimension (`other`: dimensions that follow), if it is another."""
    # One chunk, rewritten whole (zarr renames it into place).
    dtype: Any = str if values.dtype == object else values.dtype
    along = "period" if name in TIMES else name
    chunks = (4096 if along == "period" else len(values), *values.shape[1:])
    if name in group and (array := group[name]) and isinstance(array, zarr.Array) and array.chunks == chunks:
        _describe(array, attributes)
        if array.shape != values.shape:
            array.resize(values.shape)
        if not np.array_equal(np.asarray(array[:]).astype(values.dtype), values):  # a killed run left it half made
            array[:] = values
        return
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=chunks,
        dtype=dtype,
        compressors=_CODECS,
        dimension_names=(along, *other),
        attributes=dict(attributes),
        overwrite=True,
    )
    array[:] = values


def _write_times(group: zarr.Group, plan: Plan, labels: Sequence[str]) -> None:
    """Time and bounds of the periods."""
    known = {period.label for period in plan.periods}
    if not set(labels) <= known:  # `require_readable` refuses the map by name
        return
    moments, bounds = geozarr.times(plan.period(label) for label in labels)
    months = ", ".join(map(str, plan.recipe.months))
    attributes = {
        "standard_name": "time",
        "long_name": f"middle of the period, or time of the acquisition; months that count: {months}",
        "axis": "T",
        "bounds": TIME_BOUNDS,
        **geozarr.TIME_UNITS,
    }
    _coordinate(group, TIME_BOUNDS, bounds, {}, "bnds")
    _coordinate(group, TIME, moments, attributes)


def _write_region(group: zarr.Group, zone: Zone, plan: Plan) -> None:
    """The mask of the region, unless it is there; its last attribute says that all of it is."""
    whole = {"region_sha256": plan.recipe.region_sha256}
    if REGION in group and dict(group[REGION].attrs).items() >= whole.items():
        return
    block, extent = plan.recipe.block, zone.extent
    side = min(max(_REGION_SHARD // block, 1) * block, max(extent.shape))
    array = group.create_array(
        REGION,
        shape=extent.shape,
        shards=(side, side),
        chunks=(block, block),
        dtype="uint8",
        fill_value=0,
        compressors=_CODECS,
        dimension_names=("y", "x"),
        attributes={
            "long_name": "the pixel's centre lies in the region, and the zone owns it",
            "flag_values": [0, 1],
            "flag_meanings": "outside inside",
            "dtype": "bool",  # what xarray makes of it
            "grid_mapping": GRID_MAPPING,
        },
        overwrite=True,
    )
    inside = region_mask(plan.geometry, zone.lattice)
    shards: dict[tuple[int, int], list[Window]] = {}
    for one in zone.blocks:
        rows, cols = one.block.window.slices(extent)
        shards.setdefault((rows.start // side, cols.start // side), []).append(one.block.window)
    for (row, col), windows in track(shards.items(), "write the mask of the region", "shards", total=len(shards)):
        here = Window(extent.row + row * side, extent.col + col * side, side, side).overlap(extent)
        assert here is not None
        mask = np.zeros(here.shape, np.uint8)
        for window in windows:
            mask[window.slices(here)] = inside(window)
        array[here.slices(extent)] = mask
    array.attrs.update(whole)


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
