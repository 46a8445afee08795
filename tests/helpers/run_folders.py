"""A run folder as `map_region` leaves it, without a pixel of imagery: two acquisitions for each block and period."""

import warnings
from dataclasses import replace
from datetime import date
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

from subpixmap.grid import Lattice, owned
from subpixmap.mapping.ledger import Record, Used, array_sha256, cell_sums, write_record
from subpixmap.mapping.metadata import create_map
from subpixmap.mapping.plan import ModelInfo, Plan, write_plan
from subpixmap.mapping.quantise import as_stored
from subpixmap.mapping.recipe import Recipe
from subpixmap.mapping.store import write_block
from subpixmap.mapping.zones import plan_zones
from subpixmap.periods import Period
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.items import items_sha256, write_lock
from tests.helpers.country_map import make_items

REGION = shapely.segmentize(shapely.box(119.985, 10.49, 120.015, 10.51), 0.002)
OBJECTS = ("coconut", "car")
PERIODS = tuple(Period(str(year), date(year, 1, 1), date(year, 12, 31)) for year in (2018, 2019))


def make_plan(region: Any = REGION, periods: Any = PERIODS, block: int = 256) -> Any:
    zones = plan_zones(region, {epsg: Lattice(epsg) for epsg in (32650, 32651)}, 10.0, block)
    recipe = Recipe(
        region_sha256="r" * 64,
        model_sha256="m" * 64,
        bands=("B02",),
        objects=OBJECTS,
        lattices=tuple(zone.lattice for zone in zones.values()),
        resolution=10.0,
        block=block,
        every="year",
        months=tuple(range(1, 13)),
        max_scenes=4,
        min_obs=1,
        max_cloud=None,
        mask=MaskRule(),
    )
    model = ModelInfo("demo-s2", "m" * 64, "simulated", 8, 10.0, {"coconut": "palms", "car": "cars"},
                      {"coconut": "count", "car": "occupancy"})  # fmt: skip
    return Plan(recipe, "here", region, "a file", "v1", periods, zones, model, ("local",), {"subpixmap": "0.1.0"})


def make_run(out: Any, plan: Any, *, skip: Any = (), seed: int = 3, clouded: Any = ()) -> Any:
    """A run folder as `map_region` leaves it, of two acquisitions per block and period; clouded periods see nothing."""
    items = make_items(plan.periods)
    out.mkdir(exist_ok=True)
    write_plan(out, plan)
    write_lock(out / "items.parquet", items)
    frame = gpd.GeoDataFrame(
        {"unit_id": ["01", "02"], "unit_name": ["West", "=East"], "parent_id": [None, None]},
        geometry=[shapely.intersection(plan.geometry, half) for half in
                  (shapely.box(119, 10, 120, 11), shapely.box(120, 10, 121, 11))],
        crs=4326,
    )  # fmt: skip
    frame.to_parquet(out / "units.parquet")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        create_map(out, plan)
    rng = np.random.default_rng(seed)
    for zone in plan.zones.values():
        for one in zone.blocks:
            for period in plan.periods:
                if (one.block.id, period.label) in skip:
                    continue
                if period.label in clouded:
                    arrays, record = block_of(plan, one, period, items, np.random.default_rng(0), clear=0.0)
                else:
                    arrays, record = block_of(plan, one, period, items, rng)
                shards = write_block(out, one.block, period.label, arrays)
                write_record(out, replace(record, shard_sha256=shards))
    return frame


def block_of(plan: Any, one: Any, period: Any, items: Any, rng: Any, *, clear: float = 0.8) -> Any:
    size = one.block.size
    mask = np.zeros((size, size), bool)
    for chunk in one.chunks:
        mask[chunk.slices(one.block.window)] = True
    mask &= owned(one.block.lattice, one.block.window)
    seen = mask & (rng.random((2, size, size)) < clear)  # two acquisitions, each with its own clouds
    values = rng.gamma(0.3, 1.0, (2, len(OBJECTS), size, size)).astype(np.float32)
    n_obs = seen.sum(axis=0).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        count = np.nanmean(np.where(seen[:, None], values, np.nan), axis=0).astype(np.float32)
    arrays = {
        "count": count,
        "presence": np.where(n_obs > 0, count > 0.3, np.nan).astype(np.float32),
        "sd_over_dates": np.full_like(count, np.nan),
        "n_obs": n_obs,
    }
    arrays = as_stored(arrays)
    count = arrays["count"]
    record = Record(
        block_id=one.block.id,
        period=period.label,
        run_id=plan.run_id,
        items_sha256=items_sha256([item for item in items if item.period == period.label]),
        sha256={name: array_sha256(array) for name, array in arrays.items()},
        acquisitions=tuple(
            Used(f"{name}_{period.label}", f"{period.start}T02:00:00Z", int(s.sum()), "x")
            for name, s in zip("ab", seen, strict=True)
        ),
        computed_px=int(mask.sum()),
        observed_px=int((n_obs > 0).sum()),
        total={name: float(np.nansum(count[o], dtype=float)) for o, name in enumerate(OBJECTS)},
        cells={
            "observed_px": cell_sums((n_obs > 0).astype(np.int32)),
            "out_of_domain_px": np.zeros((size // 128, size // 128), np.float32),
            "acquisition_observed_px": cell_sums(seen.astype(np.int32)),
            "acquisition_total": cell_sums(np.where(seen[:, None], values, 0)).astype(np.float32),
        },
        numerics={},
    )
    return arrays, record
