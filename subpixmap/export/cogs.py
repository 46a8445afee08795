"""The map -> Cloud Optimized GeoTIFFs of counts, densities and spread, one for each zone, object and period.

In: a run folder. Out: files whose overviews hold means (AVERAGE of GDAL over the observed pixels), so that a colour
means the same at every zoom. A total must be summed at full resolution; counts are never warped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subpixmap.counts.blocks import read_blocks
from subpixmap.errors import InputError
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.quantise import decode
from subpixmap.mapping.zones import Zone
from subpixmap.progress import track
from subpixmap.runfolder import RunFolder

MEANINGS = {
    "count": ("1", "expected objects per pixel, unclipped; sum at full resolution for a total"),
    "density": ("ha-1", "expected objects per hectare, unclipped"),
    "sd_over_models": ("1", "standard deviation of the counts over the networks of the model"),
}
"""Kind of raster -> its unit and its meaning."""


def export_cogs(
    run: RunFolder,
    to: Path,
    *,
    objects: Sequence[str] | None = None,
    periods: Sequence[str] | None = None,
) -> list[Path]:
    """Write `<kind>_<object>_<period>_<epsg>.tif` into a folder; the spread where the map has one.

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
        In the order of zones, objects, periods and kinds.

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
    layers = [
        (zone, o, label)
        for zone in run.plan.zones.values()
        for o, name in enumerate(run.plan.objects)
        if objects is None or name in objects
        for label in labels
        if periods is None or label in periods
    ]
    return [path for layer in track(layers, "export", "layers of the map") for path in _write_zone(run, *layer, to)]


def _write_zone(run: RunFolder, zone: Zone, position: int, label: str, to: Path) -> list[Path]:
    """The rasters of one zone, object (by its position) and period."""
    name = run.plan.objects[position]
    paths = []
    with tempfile.TemporaryDirectory(prefix=".cog-", dir=to) as folder:
        kinds = ("count", "density", *(("sd_over_models",) if run.plan.recipe.spread else ()))
        for kind in kinds:
            plain = Path(folder) / f"{kind}.tif"
            _write_pixels(plain, run, zone, position, label, kind)
            path = to / f"{kind}_{name}_{label.replace(':', '')}_{zone.lattice.epsg}.tif"
            _to_cog(plain, Path(folder) / path.name)
            os.replace(Path(folder) / path.name, path)
            paths.append(path)
    return paths


def _write_pixels(path: Path, run: RunFolder, zone: Zone, position: int, label: str, kind: str) -> None:
    """A tiled GeoTIFF without overviews: what is stored, of a density per hectare."""
    import rasterio

    extent = zone.extent
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": 1,
        "height": extent.height,
        "width": extent.width,
        "crs": f"EPSG:{zone.lattice.epsg}",
        "transform": zone.lattice.transform(extent),
        "nodata": np.nan,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "zstd",
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }
    name = run.plan.objects[position]
    array = "sd_over_models" if kind == "sd_over_models" else "count"
    factor = np.float32(1e4 / zone.lattice.pixel_area if kind == "density" else 1.0)
    with rasterio.open(path, "w", **profile) as file:
        file.update_tags(**_tags(run.plan, name, label, kind))
        file.set_band_unit(1, MEANINGS[kind][0])
        file.set_band_description(1, f"{kind} of {name}")
        for block in read_blocks(run):
            if block.lattice != zone.lattice or block.record(label) is None:
                continue
            stack = next(block.read([label], {array: block.chunks}))[array][position]
            for chunk, values in zip(block.chunks, decode(stack), strict=True):
                rows, cols = chunk.slices(extent)
                window = (rows.start, rows.stop), (cols.start, cols.stop)
                file.write(values * factor, 1, window=window)


def _to_cog(plain: Path, path: Path) -> None:
    from rasterio import shutil

    shutil.copy(
        plain, path, driver="COG", compress="ZSTD", predictor="YES", blocksize="256", sparse_ok="YES",
        overview_resampling="AVERAGE", bigtiff="IF_SAFER", num_threads="1",
    )  # fmt: skip


def _tags(plan: Plan, name: str, label: str, kind: str) -> dict[str, str]:
    return {
        "meaning": MEANINGS[kind][1],
        "object": name,
        "object_definition": plan.model.definitions[name],
        "measure": plan.model.measures[name],
        "period": label,
        "overviews": "mean of the observed pixels",
        "evidence": plan.model.evidence,
        "model_id": plan.model.name,
        "model_sha256": plan.model.sha256,
        "run_id": plan.run_id,
    }
