"""The map -> Cloud Optimized GeoTIFFs of counts and of densities, one for each zone, object and period.

In: a run folder. Out: files whose overviews hold means (GDAL's AVERAGE over the observed pixels), so that a colour
means the same at every zoom. A total must be summed at full resolution; counts are never warped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subpixmap.counts.source import read_blocks
from subpixmap.errors import InputError
from subpixmap.mapping.plan import Plan, Zone, read_plan
from subpixmap.mapping.quantise import decode

MEANINGS = {
    "count": ("1", "expected objects per pixel, unclipped; sum at full resolution for a total"),
    "density": ("ha-1", "expected objects per hectare, unclipped"),
}
"""Kind of raster -> its unit and its meaning."""


def export_cogs(
    out: str | os.PathLike[str],
    to: Path,
    *,
    objects: Sequence[str] | None = None,
    periods: Sequence[str] | None = None,
) -> list[Path]:
    """Write `<kind>_<object>_<period>_<epsg>.tif` into a folder.

    Parameters
    ----------
    out
        The run's folder.
    to
        Where the files go.
    objects, periods
        Which; all when not given.

    Returns
    -------
    list of Path
        In the order of zones, objects, periods and kinds.
    """
    plan = read_plan(out)
    labels = [period.label for period in plan.periods]
    for wanted, known, what in ((objects, list(plan.objects), "object"), (periods, labels, "period")):
        if unknown := [one for one in wanted or () if one not in known]:
            raise InputError(f"no {what} {unknown[0]!r} in this run; it has {', '.join(known)}")
    to.mkdir(parents=True, exist_ok=True)
    return [
        path
        for zone in plan.zones.values()
        for o, name in enumerate(plan.objects)
        if objects is None or name in objects
        for label in labels
        if periods is None or label in periods
        for path in _write_zone(out, plan, zone, o, label, to)
    ]


def _write_zone(out: str | os.PathLike[str], plan: Plan, zone: Zone, position: int, label: str, to: Path) -> list[Path]:
    import rasterio
    from rasterio import shutil

    name, extent, epsg = plan.objects[position], zone.extent, zone.lattice.epsg
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": 1,
        "height": extent.height,
        "width": extent.width,
        "crs": f"EPSG:{epsg}",
        "transform": zone.lattice.transform(extent),
        "nodata": np.nan,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "zstd",
        "sparse_ok": True,
        "bigtiff": "if_safer",
    }
    paths = []
    with tempfile.TemporaryDirectory(prefix=".cog-", dir=to) as folder:
        for kind, factor in (("count", 1.0), ("density", 1e4 / zone.lattice.pixel_area)):
            plain = Path(folder) / f"{kind}.tif"
            with rasterio.open(plain, "w", **profile) as file:
                file.update_tags(**_tags(plan, name, label, kind))
                file.set_band_unit(1, MEANINGS[kind][0])
                file.set_band_description(1, f"{kind} of {name}")
                for block in read_blocks(out, plan):
                    if block.lattice != zone.lattice or block.record(label) is None:
                        continue
                    stack = next(block.read([label], {"count": block.chunks}))["count"][position]
                    for chunk, values in zip(block.chunks, decode(stack), strict=True):
                        rows, cols = chunk.slices(extent)
                        place = (rows.start, rows.stop), (cols.start, cols.stop)
                        file.write(values * np.float32(factor), 1, window=place)
            path = to / f"{kind}_{name}_{label.replace(':', '')}_{epsg}.tif"
            partial = Path(folder) / path.name
            shutil.copy(
                plain, partial, driver="COG", compress="ZSTD", predictor="YES", blocksize="256", sparse_ok="YES",
                overview_resampling="AVERAGE", bigtiff="IF_SAFER", num_threads="1",
            )  # fmt: skip
            os.replace(partial, path)
            paths.append(path)
    return paths


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
