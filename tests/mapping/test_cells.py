"""Cells that come near the region are computed, and nothing else; what is inside does not depend on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from subpixmap.counts.count import count_run
from subpixmap.grid import CELL
from subpixmap.mapping.ledger import read_records
from subpixmap.mapping.plan import read_plan, write_plan
from subpixmap.mapping.quantise import STEP
from subpixmap.mapping.run import map_region
from subpixmap.mapping.store import open_map
from subpixmap.mapping.zones import near_zone, plan_of_row, plan_zones, row_of
from subpixmap.region.fractions import polygon_fractions
from tests.helpers.mapping_data import Tiny, tiny


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("scenes"), dates=2, years="2021", region_px=(340, 430))


@pytest.fixture(scope="module")
def triangle(square: Tiny) -> Tiny:
    """The lower left half of the square."""
    west, south, east, north = square.region.bounds
    half = shapely.segmentize(shapely.Polygon([(west, south), (east, south), (west, north)]), 0.002)
    return replace(square, region=replace(square.region, geometry=half))


@pytest.fixture(scope="module")
def runs(square: Tiny, triangle: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The triangle by cells and by chunks, and the square by cells."""
    made = {
        "cells": (triangle, triangle.plan()),
        "chunks": (triangle, triangle.plan(mapped_by="chunk")),
        "square": (square, square.plan()),
    }
    outs = {}
    for name, (country, plan) in made.items():
        outs[name] = tmp_path_factory.mktemp(name)
        map_region(outs[name], plan, country.items, country.model, workers=0)
    return outs


def inside(out: Path, name: str, region: Any) -> Any:
    """Values (..., pixel) of a map in a region."""
    (one,) = open_map(out).values()
    same = one.sel(x=region.x, y=region.y)
    return same[name].values[..., region.values]


def counted(out: Path, geometry: Any) -> Any:
    units = gpd.GeoDataFrame({"unit_id": ["a"], "unit_name": ["A"], "parent_id": [None]}, geometry=[geometry], crs=4326)
    return count_run(out, units)


def test_a_pixel_is_the_same_whatever_the_region(runs: dict[str, Path]) -> None:
    (there,) = open_map(runs["cells"]).values()
    for name in ("count", "presence", "sd_over_dates", "n_obs"):
        values = inside(runs["cells"], name, there["region"])
        assert np.isfinite(values).any()
        assert values.tobytes() == inside(runs["square"], name, there["region"]).tobytes()


def test_the_counts_are_the_same_whatever_the_region(runs: dict[str, Path], triangle: Tiny) -> None:
    one, other = (counted(runs[name], triangle.region.geometry) for name in ("cells", "square"))
    assert one.table.map_total.notna().all()
    assert one.table.drop(columns=["run_id", "geometry"]).equals(other.table.drop(columns=["run_id", "geometry"]))
    assert one.series.drop(columns="background_per_ha").equals(other.series.drop(columns="background_per_ha"))


def test_whole_chunks_only_cost_more(runs: dict[str, Path], triangle: Tiny) -> None:
    """Up to the last step of a pixel: the running sum that is rounded goes over a cell, or over a chunk."""
    (there,) = open_map(runs["cells"]).values()
    cells, chunks = (inside(runs[name], "count", there["region"]) for name in ("cells", "chunks"))
    assert np.array_equal(np.isfinite(cells), np.isfinite(chunks))
    assert np.nanmax(np.abs(cells - chunks)) <= STEP
    one, other = (counted(runs[name], triangle.region.geometry) for name in ("cells", "chunks"))
    exact = ["n_obs_median", "observed_frac", "area_ha", "ood_frac", "flag", "total_se"]
    assert one.table[exact].equals(other.table[exact])
    assert one.series.noise_se.equals(other.series.noise_se)
    assert np.allclose(one.table.map_total, other.table.map_total, rtol=0, atol=40 * STEP)
    few, many = (read_records(runs[name]) for name in ("cells", "chunks"))
    for key, record in few.items():
        same = computed(runs["cells"], key[0])
        totals = (one.cells["acquisition_total"][:, :, same] for one in (record, many[key]))
        assert next(totals).tobytes() == next(totals).tobytes()
        assert record.cells["acquisition_observed_px"][:, ~same].sum() == 0
    for name in ("computed_px", "predicted_px", "used_px"):
        assert sum(getattr(r, name) for r in few.values()) < sum(getattr(r, name) for r in many.values())


def computed(out: Path, block_id: str) -> Any:
    blocks = [one for zone in read_plan(out).zones.values() for one in zone.blocks]
    return next(one.computed for one in blocks if one.block.id == block_id)


def test_units_given_later_beyond_the_region_are_told_to_be_outside_of_the_map(
    runs: dict[str, Path], square: Tiny
) -> None:
    for name in ("cells", "chunks"):
        rows = counted(runs[name], square.region.geometry.buffer(0.03)).table
        assert rows.flag.str.contains("outside_map").all(), name
        assert "not_observed" not in str(rows.flag.iloc[0])
    rows = counted(runs["cells"], square.region.geometry).table  # the upper right half is not in the region
    assert rows.flag.str.contains("outside_map").all()


@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_that_a_count_may_weigh_is_computed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    star = shapely.Polygon(
        np.array([122.99, 10.0]) + 0.04 * rng.uniform(0.3, 1, (9, 1)) * np.c_[np.cos(angles), np.sin(angles)]
    )
    (zone,) = plan_zones(star, {}, 10.0, 512, "cell").values()
    near = near_zone(star, zone.lattice.epsg)
    n_all = n_computed = 0
    for one in zone.blocks:
        ((pixel, fraction),) = polygon_fractions([near], zone.lattice, one.block.window) or ((np.zeros(0, int), 0),)
        mask = one.computed.repeat(CELL, axis=0).repeat(CELL, axis=1)
        assert mask.ravel()[pixel[fraction > 0]].all()
        assert plan_of_row(zone.lattice, 512, json.loads(json.dumps(row_of(one)))) == one
        n_all, n_computed = n_all + len(one.chunks) * 4, n_computed + int(one.computed.sum())
    assert n_computed < n_all


def test_a_plan_by_chunks_is_written_as_ever(triangle: Tiny, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, triangle.plan(mapped_by="chunk"))
    raw = json.loads((tmp_path / "plan.json").read_text())
    assert "mapped_by" not in raw["recipe"]
    assert {len(row) for rows in raw["zones"].values() for row in rows} == {3}
    assert read_plan(tmp_path) == plan
    whole = plan_zones(triangle.region.geometry, {32651: plan.recipe.lattices[0]}, 10.0, 256)
    assert plan.zones == whole


def test_the_map_says_what_is_mapped_whole(runs: dict[str, Path]) -> None:
    said = {name: next(iter(open_map(out).values())).attrs["comment"] for name, out in runs.items()}
    assert "Whole cells of 128 px" in said["cells"]
    assert "Whole chunks of 256 px" in said["chunks"]
