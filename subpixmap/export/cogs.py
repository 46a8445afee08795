"""The map -> Cloud Optimized GeoTIFFs of counts, densities and spread by zone, object and period, and region masks.

In: a run folder. Out: files whose overviews hold means (AVERAGE of GDAL over the observed pixels), so that a colour
means the same at every zoom. A total must be summed at full resolution; counts are never warped.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subpixmap.counts.blocks import read_blocks
from subpixmap.errors import InputError
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.quantise import decode
from subpixmap.mapping.schema import description
from subpixmap.mapping.zones import Zone, region_mask
from subpixmap.progress import track
from subpixmap.runfolder import RunFolder

REGION = "region"
MEANINGS = {
    "count": ("1", "expected objects per pixel, unclipped; sum at full resolution for a total"),
    "density": ("ha-1", "expected objects per hectare, unclipped"),
    "sd_over_models": ("1", "standard deviation of the counts over the networks of the model"),
    REGION: ("1", "1 where the pixel's centre lies in the region: whole cells are mapped, sum counts there"),
}
"""Kind of raster -> its unit and its meaning."""


def export_cogs(
    run: RunFolder,
    to: Path,
    *,
    objects: Sequence[str] | None = None,
    periods: Sequence[str] | None = None,
) -> list[Path]:
    """Write `<kind>_<object>_<period>_<epsg>.tif` and `region_<epsg>.tif` into a folder; the spread if the map has one.

    Parameters
    ----------
    run
        Its blocks without a ledger record stay nodata.
    to
        Where the files go.
    objects, periods
        Names and labels of those to write; all when not given.

    Returns
    -------
    list of Path
        In the order of zones, objects, periods and kinds; the masks of the region last.

    Raises
    ------
    InputError
        The run has no such object or period.
    """
    labels = [period.label for period in run.plan.periods]
    for asked, all_names, what in ((objects, run.plan.objects, "object"), (periods, labels, "period")):
        if unknown := [name for name in asked or () if name not in all_names]:
            raise InputError(f"no {what} {unknown[0]!r} in this run; it has {', '.join(all_names)}")
    to.mkdir(parents=True, exist_ok=True)
    zones = run.plan.zones.values()
    layers = [
        (zone, o, label)
        for zone in zones
        for o, name in enumerate(run.plan.objects)
        if objects is None or name in objects
        for label in labels
        if periods is None or label in periods
    ]
    paths = [path for layer in track(layers, "export", "layers of the map") for path in _write_zone(run, *layer, to)]
    return [*paths, *(_write_region(run.plan, zone, to) for zone in zones)]


def _write_zone(run: RunFolder, zone: Zone, position: int, label: str, to: Path) -> list[Path]:
    """The rasters of one zone, object (by its position) and period."""
    name = run.plan.objects[position]
    paths = []
    for kind in ("count", "density", *(("sd_over_models",) if run.plan.recipe.spread else ())):
        path = to / f"{kind}_{name}_{label.replace(':', '')}_{zone.lattice.epsg}.tif"
        with _whole(path) as plain:
            _write_pixels(plain, run, zone, position, label, kind)
        paths.append(path)
    return paths


def _write_region(plan: Plan, zone: Zone, to: Path) -> Path:
    """The mask of the region in a zone, from the plan."""
    import rasterio

    path, inside = to / f"{REGION}_{zone.lattice.epsg}.tif", region_mask(plan.geometry, zone.lattice)
    with _whole(path, "MODE") as plain, rasterio.open(plain, "w", **_profile(zone, "uint8", None)) as file:
        file.update_tags(**_tags(plan, REGION), overviews="what most pixels are")
        _describe_band(file, REGION, "region")
        for one in zone.blocks:
            window = one.block.window
            rows, cols = window.slices(zone.extent)
            file.write(inside(window).astype(np.uint8), 1, window=((rows.start, rows.stop), (cols.start, cols.stop)))
    return path


@contextlib.contextmanager
def _whole(path: Path, resampling: str = "AVERAGE") -> Iterator[Path]:
    """A plain GeoTIFF to write, which becomes the cloud-optimised one; that one appears whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".cog-", dir=path.parent) as folder:
        plain = Path(folder) / "plain.tif"
        yield plain
        _to_cog(plain, Path(folder) / path.name, resampling)
        os.replace(Path(folder) / path.name, path)


def _write_pixels(path: Path, run: RunFolder, zone: Zone, position: int, label: str, kind: str) -> None:
    """A tiled GeoTIFF without overviews: what is stored, of a density per hectare."""
    import rasterio

    extent, name = zone.extent, run.plan.objects[position]
    array = "sd_over_models" if kind == "sd_over_models" else "count"
    factor = np.float32(1e4 / zone.lattice.pixel_area if kind == "density" else 1.0)
    with rasterio.open(path, "w", **_profile(zone, "float32", np.nan)) as file:
        file.update_tags(**_tags(run.plan, kind), **_layer_tags(run, name, label))
        _describe_band(file, kind, f"{kind} of {name}")
        for block in read_blocks(run):
            if block.lattice != zone.lattice or block.record(label) is None:
                continue
            stack = next(block.read([label], {array: block.chunks}))[array][position]
            for chunk, values in zip(block.chunks, decode(stack), strict=True):
                rows, cols = chunk.slices(extent)
                window = (rows.start, rows.stop), (cols.start, cols.stop)
                file.write(values * factor, 1, window=window)


def _profile(zone: Zone, dtype: str, nodata: float | None) -> dict[str, Any]:
    """How a plain GeoTIFF of a zone is laid out."""
    return {
        "driver": "GTiff",
        "dtype": dtype,
        "count": 1,
        "height": zone.extent.height,
        "width": zone.extent.width,
        "crs": f"EPSG:{zone.lattice.epsg}",
        "transform": zone.lattice.transform(zone.extent),
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "zstd",
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }


def _describe_band(file: Any, kind: str, what: str) -> None:
    file.set_band_unit(1, MEANINGS[kind][0])
    file.set_band_description(1, what)


def _to_cog(plain: Path, path: Path, resampling: str) -> None:
    """Statistics are those of all pixels: minimum, maximum, mean, standard deviation, share that is not nodata."""
    from rasterio import shutil

    shutil.copy(
        plain, path, driver="COG", compress="ZSTD", predictor="YES", blocksize="256", sparse_ok="YES",
        overview_resampling=resampling, bigtiff="IF_SAFER", num_threads="1", statistics="YES",
    )  # fmt: skip


def _tags(plan: Plan, kind: str) -> dict[str, str]:
    """What every raster of a run says of itself; title, source, history and licence are those of the map."""
    about = {name: str(text) for name, text in description(plan).items() if name not in ("Conventions", "comment")}
    return about | {
        "meaning": MEANINGS[kind][1],
        "model_id": plan.model.name,
        "model_sha256": plan.model.sha256,
        "TIFFTAG_SOFTWARE": f"subpixmap {plan.versions.get('subpixmap', 'unknown')}",
        "TIFFTAG_COPYRIGHT": about["license"],
    }


def _layer_tags(run: RunFolder, name: str, label: str) -> dict[str, str]:
    """What the raster of an object and a period says beyond that."""
    plan, period = run.plan, run.plan.period(label)
    return {
        "object": name,
        "object_definition": plan.model.definitions[name],
        "measure": plan.model.measures[name],
        "period": label,
        "period_start": f"{period.start}",
        "period_end": f"{period.end}",
        "items_sha256": run.items_sha256.get(label, ""),
        "overviews": "mean of the observed pixels",
    }
