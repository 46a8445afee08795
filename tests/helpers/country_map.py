"""A finished run of a whole country, generated: a map, its ledger and its lock, without a pixel of imagery.

The shards of a few blocks are written as a run writes them; those of all others are links to them, so that a country
costs little disk and is there in minutes. The ledger holds a record of its own for every block and period.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from subpixmap.grid import owned
from subpixmap.mapping.ledger import Record, Used, array_sha256, cell_sums, record_path
from subpixmap.mapping.metadata import create_map
from subpixmap.mapping.plan import ModelInfo, Plan, write_plan
from subpixmap.mapping.quantise import as_stored
from subpixmap.mapping.recipe import Recipe
from subpixmap.mapping.store import shard_paths, write_block
from subpixmap.mapping.zones import BlockPlan, plan_zones
from subpixmap.periods import Period, make_periods
from subpixmap.region.resolve import Region
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.items import Asset, Item, items_sha256, write_lock
from tests.helpers.mapping_data import tiny_model

OBJECT, MOST = "coconut", 10
TEMPLATES = 4
PLANTED = 0.07  # share of the pixels: 3.6 million ha of coconut in the 52 million ha that are mapped of the Philippines
_SWATH = 24  # blocks that one orbit sees, side by side

Template = dict[str, NDArray[Any]]


def country_plan(region: Region, years: str, *, block: int = 1024) -> Plan:
    """The plan of a region as a run of one object makes it."""
    zones = plan_zones(region.geometry, {}, 10.0, block)
    model = tiny_model(objects=(OBJECT,))
    recipe = Recipe(
        region_sha256="r" * 64,
        model_sha256=model.sha256,
        bands=("B02",),
        objects=(OBJECT,),
        lattices=tuple(zone.lattice for zone in zones.values()),
        resolution=10.0,
        block=block,
        every="year",
        months=tuple(range(1, 13)),
        max_scenes=MOST,
        min_obs=1,
        max_cloud=None,
        mask=MaskRule(),
    )
    info = ModelInfo("tiny", model.sha256, "simulated", 8, 10.0, {OBJECT: "a palm"}, {OBJECT: "count"})
    told = (region.boundary_source, region.boundary_version)
    return Plan(
        recipe,
        region.name,
        region.geometry,
        *told,
        tuple(make_periods(years)),
        zones,
        info,
        ("none",),
        {"subpixmap": "0"},
    )


def write_country(out: Path, region: Region, plan: Plan, *, background: float = 0.0, seed: int = 0) -> None:
    """A run folder with every block and period done.

    Parameters
    ----------
    out
        Folder that does not exist yet.
    region, plan
        What is mapped.
    background
        Standard deviation of the count outside plantations; 0 leaves these empty (a sparse map).
    seed
        Of the values.
    """
    out.mkdir(parents=True)
    write_plan(out, plan)
    items = make_items(plan.periods)
    write_lock(out / "items.parquet", items)
    told = {"boundary_source": region.boundary_source, "boundary_version": region.boundary_version}
    region.units.assign(**told).to_parquet(out / "units.parquet", index=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        create_map(out, plan)
    rng = np.random.default_rng(seed)
    shards: dict[tuple[str, int, int], dict[str, str]] = {}
    sources: dict[tuple[str, int, int], tuple[BlockPlan, Sequence[Path]]] = {}
    made = {period.label: _templates(rng, plan.recipe.block, background) for period in plan.periods}
    locked = {p.label: items_sha256([item for item in items if item.period == p.label]) for p in plan.periods}
    for epsg, zone in plan.zones.items():
        for i, one in enumerate(zone.blocks):
            k, mask = i % TEMPLATES, _mask(one)
            for period in plan.periods:
                template, _ = made[period.label][k]
                if i < TEMPLATES:
                    shards[period.label, epsg, k] = write_block(out, one.block, period.label, _arrays(template))
                    paths = shard_paths(out, one.block, period.label)
                    sources[period.label, epsg, k] = one, paths
                else:
                    _link(*sources[period.label, epsg, k], one)
                stored, lock = (*made[period.label][k], shards[period.label, epsg, k]), locked[period.label]
                _write_record(out, _record(one, mask, period, plan.run_id, lock, *stored))


def _templates(rng: np.random.Generator, size: int, background: float) -> list[tuple[Template, dict[str, str]]]:
    """Arrays of a few blocks, and the hashes of what is stored of them."""
    found = [_template(rng, size, background) for _ in range(TEMPLATES)]
    return [(one, {name: array_sha256(values) for name, values in _arrays(one).items()}) for one in found]


def _mask(one: BlockPlan) -> NDArray[np.bool_]:
    """Pixels of the computed chunks that the zone owns."""
    mask = np.zeros(one.block.window.shape, bool)
    for chunk in one.chunks:
        mask[chunk.slices(one.block.window)] = True
    return mask & owned(one.block.lattice, one.block.window)


def _arrays(template: Template) -> Template:
    return {name: template[name] for name in ("count", "presence", "sd_over_dates", "n_obs")}


def _template(rng: np.random.Generator, size: int, background: float) -> Template:
    """A block: plantations in patches, nothing elsewhere; clouds leave 0 to 10 clear observations."""
    grove = _patches(rng, size, 1 - PLANTED)
    count = np.where(grove, rng.gamma(2.0, 0.5, (size, size)), background * rng.standard_normal((size, size)))
    seen = np.stack([_patches(rng, size, 0.4) for _ in range(MOST)]) & _patches(rng, size, 0.05)
    n_obs = seen.sum(axis=0).astype(np.uint16)
    clear = n_obs > 0
    count = as_stored({"count": np.where(clear, count, np.nan).astype(np.float32)[None]})["count"]
    presence = as_stored({"presence": np.clip(count * 2, 0.0, 1.0).astype(np.float32)})["presence"]
    errors = rng.normal(1, 0.03, (MOST, 1, 1))
    return {
        "count": count,
        "presence": presence,
        "sd_over_dates": np.where(clear, 0, np.nan).astype(np.float32)[None],
        "n_obs": n_obs,
        "observed_px": cell_sums(clear.astype(np.int32)),
        "total": np.nansum(count, dtype=float),
        "seen_px": cell_sums(seen.astype(np.int32)),
        "seen_total": cell_sums((seen * np.nan_to_num(count) * errors).astype(np.float32))[:, None],
    }


def _patches(rng: np.random.Generator, size: int, share: float) -> NDArray[np.bool_]:
    """Patches of some 300 m; all but the share of the pixels."""
    coarse = gaussian_filter(rng.standard_normal((size // 8, size // 8)), 2)
    return np.kron(coarse > np.quantile(coarse, share), np.ones((8, 8), bool))


def _link(first: BlockPlan, paths: Sequence[Path], one: BlockPlan) -> None:
    """The shards of one block in the place of another's: .../row/column, counted from the first block of the zone."""
    down, right = one.block.row - first.block.row, one.block.col - first.block.col
    for path in paths:
        row, col = int(path.parent.name) + down, int(path.name) + right
        target = path.parents[1] / str(row) / str(col)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)


def _record(
    one: BlockPlan,
    mask: NDArray[np.bool_],
    period: Period,
    run_id: str,
    items: str,
    template: Template,
    sha256: dict[str, str],
    shard_sha256: dict[str, str],
) -> Record:
    if mask.all():
        observed_px, share = template["observed_px"], np.ones_like(template["observed_px"])
        total = float(template["total"])
    else:
        observed = mask & (template["n_obs"] > 0)
        observed_px, share = cell_sums(observed.astype(np.int32)), cell_sums(mask.astype(np.int32)) / 128**2
        total = float(template["count"][0][observed].sum(dtype=float))
    orbit = one.block.col // _SWATH
    return Record(
        block_id=one.block.id,
        period=period.label,
        run_id=run_id,
        items_sha256=items,
        sha256=sha256,
        acquisitions=tuple(
            Used(f"S2A_{period.label}{k + 1:02d}15T02_{orbit}", "t", int(n.sum()), "x" * 64)
            for k, n in enumerate(template["seen_px"])
        ),
        computed_px=int(mask.sum()),
        observed_px=int(observed_px.sum()),
        total={OBJECT: total},
        cells={
            "observed_px": observed_px,
            "out_of_domain_px": (0.01 * observed_px).astype(np.float32),
            "acquisition_observed_px": (template["seen_px"] * share).astype(np.int32),
            "acquisition_total": (template["seen_total"] * share).astype(np.float32),
        },
        numerics={},
        shard_sha256=shard_sha256,
    )


def _write_record(out: Path, record: Record) -> None:
    """Without forcing each to disk, as a run does."""
    path = record_path(out, *record.key)
    path.parent.mkdir(exist_ok=True)
    path.write_text(record.to_json(), encoding="utf-8")


def make_items(periods: Sequence[Period]) -> list[Item]:
    asset = Asset("/nowhere/B02.tif", (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), (2, 2))
    return [
        Item(f"S2_{p.label}", "51PTS", f"GS2A_{p.label}", f"{p.label}-03-01T02:00:00Z", p.label, 32651, "05.00", 0,
             "none", 1.0, 3, {"B02": asset, "SCL": asset})
        for p in periods
    ]  # fmt: skip
