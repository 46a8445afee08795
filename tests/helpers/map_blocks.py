"""Blocks of a map that are held in memory, units to count in, and the facts of their run."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import geopandas as gpd
import numpy as np

from subpixmap.counts.blocks import MapBlock
from subpixmap.counts.facts import Facts
from subpixmap.grid import Lattice
from subpixmap.mapping.plan import ModelInfo
from subpixmap.periods import Period

ZONE51 = Lattice(32651, 10.0)
YEARS = tuple(Period(str(year), date(year, 1, 1), date(year, 12, 31)) for year in (2018, 2019))


def facts(periods: Any = YEARS, objects: Any = ("coconut",), evidence: str = "simulated", **more: Any) -> Any:
    return Facts(
        model=ModelInfo(
            name="demo-s2",
            sha256="a" * 64,
            evidence=evidence,
            halo=8,
            resolution=10.0,
            definitions={name: f"{name}, visible" for name in objects},
            measures={name: "occupancy" if name == "car" else "count" for name in objects},
        ),
        objects=tuple(objects),
        periods=tuple(periods),
        resolution=10.0,
        unlike_card=False,
        items_sha256={period.label: f"items {period.label}" for period in periods},
        run_id="0123456789abcdef",
        software_version="0.1.0",
        **more,
    )


def map_block(block: Any, counts: Any, chunks: Any = None, *, n_obs: Any = None, cells: Any = None) -> Any:
    """A block of a map held in memory: counts {period: (object, y, x)}, NaN where not observed."""

    def record(period: Any) -> Any:
        return (cells or {}).get(period, {}) if period in counts else None

    def read(periods: Any, names: Any) -> Iterator[Any]:
        for period in periods:
            count = counts[period].astype(np.float32)
            observed = np.isfinite(count[0])
            clear = observed.astype(np.uint16) if n_obs is None else n_obs
            presence = np.where(observed, count > 0, np.nan).astype(np.float32)
            arrays = {"count": count, "presence": presence, "n_obs": clear}
            yield {name: stacked(arrays[name], chunks, block) for name, chunks in names.items()}

    chunks = tuple(block.chunks()) if chunks is None else tuple(chunks)
    return MapBlock(block.lattice, block.window, chunks, record, read)


def stacked(array: Any, chunks: Any, block: Any) -> Any:
    """(..., y, x) of a block -> (..., chunk, 256, 256)."""
    parts = [array[(..., *chunk.slices(block.window))] for chunk in chunks]
    return np.stack(parts, -3) if parts else np.empty((*array.shape[:-2], 0, 256, 256), array.dtype)


def frame(polygons: Any, *, epsg: int = 32651, ids: Any = None, **columns: Any) -> Any:
    ids = ids or [f"{i:03d}" for i in range(len(polygons))]
    return gpd.GeoDataFrame({"unit_id": ids, **columns}, geometry=list(polygons), crs=epsg)


def corner(window: Any, lattice: Any = ZONE51) -> Any:
    west, south, east, north = lattice.bounds(window)
    return west, south, east, north
