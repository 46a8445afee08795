"""Which blocks and chunks are computed, what the plan keeps, and what it refuses."""

import hashlib
import json
import tempfile
import time
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from subpixmap.errors import InputError, Refused, VerificationFailed
from subpixmap.grid import CHUNK, Block, Lattice, Window, owned, project
from subpixmap.mapping.plan import items_by_period, read_plan, write_plan
from subpixmap.mapping.recipe import Recipe, require_same
from subpixmap.mapping.zones import plan_zones
from subpixmap.model.checkpoint import Model
from subpixmap.scenes.clouds import MaskRule
from tests.helpers.mapping_data import Tiny, raising, region_of, tiny, tiny_model


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("scenes"), dates=1)


def box(lattice: Any, x: Any, y: Any, width: Any, height: Any) -> Any:
    """A box in metres around a place, as a geometry in degrees."""
    outline = shapely.segmentize(shapely.box(x, y, x + width, y + height), 500)
    return project(outline, lattice.epsg, 4326)


def touched(lattice: Any, geometry: Any, size: Any) -> Any:
    """Squares of `size` pixels that a geometry touches and the zone owns a pixel of, looked at one by one."""
    extent = lattice.window(geometry.bounds).aligned(size)
    corners = product(*(range(at, at + n, size) for at, n in zip((extent.row, extent.col), extent.shape, strict=True)))
    squares = [Window(row, col, size, size) for row, col in corners]
    near = [w for w in squares if geometry.intersects(shapely.box(*lattice.bounds(w)))]
    return [w for w in near if owned(lattice, w).any()]


@pytest.mark.parametrize("x", [301000, 168000], ids=["inside", "at 120 E"])
def test_blocks_and_chunks_are_those_that_the_region_touches(x: int) -> None:
    lattice = Lattice(32651)
    geometry = shapely.union(box(lattice, x, 1200500, 9000, 4000), box(lattice, x + 29000, 1190000, 30, 30))
    zone = plan_zones(geometry, {32651: lattice}, 10.0, 512)[32651]
    local = project(geometry, 4326, 32651)
    assert [one.block.window for one in zone.blocks] == touched(lattice, local, 512)
    assert {chunk for one in zone.blocks for chunk in one.chunks} == set(touched(lattice, local, CHUNK))
    assert {"extent": zone.extent.aligned(512)} == {"extent": zone.extent}


def test_blocks_are_the_same_for_any_region_and_cover_it() -> None:
    lattice = Lattice(32651)
    small = shapely.segmentize(shapely.box(123.0, 10.0, 123.03, 10.03), 0.01)
    (zone,) = plan_zones(small, {}, 10.0, 512).values()
    (larger,) = plan_zones(shapely.box(122.8, 9.8, 123.2, 10.2), {}, 10.0, 512).values()
    assert {one.block for one in zone.blocks} < {one.block for one in larger.blocks}
    chunks = [shapely.box(*lattice.bounds(chunk)) for one in zone.blocks for chunk in one.chunks]
    assert shapely.union_all(chunks).contains(project(small, 4326, 32651))
    assert len(chunks) < len(zone.blocks) * 4


def test_far_islands_do_not_pull_in_the_sea_between_them() -> None:
    islands = shapely.union(shapely.box(123.0, 10.0, 123.001, 10.001), shapely.box(123.0, 14.0, 123.001, 14.001))
    (zone,) = plan_zones(islands, {}, 10.0, CHUNK).values()
    assert len(zone.blocks) <= 8


@pytest.mark.parametrize(("lon", "lat"), [(120.0, 10.5), (126.0, -0.03), (6.0, 45.0), (3.0, 60.0), (9.0, 78.0)])
def test_every_pixel_of_a_region_on_a_border_is_planned_once(lon: float, lat: float) -> None:
    geometry = shapely.segmentize(shapely.box(lon - 0.05, lat - 0.05, lon + 0.05, lat + 0.05), 0.01)
    zones = plan_zones(geometry, {}, 10.0, 256)
    assert len(zones) >= 2
    rng = np.random.default_rng(0)
    places = rng.uniform([lon - 0.049, lat - 0.049], [lon + 0.049, lat + 0.049], (300, 2))
    found = np.zeros(len(places), int)
    for epsg, zone in zones.items():
        from subpixmap.grid import transformer

        x, y = transformer(4326, epsg).transform(*places.T)
        row, col = (
            np.floor((zone.lattice.top - y) / 10).astype(int),
            np.floor((x - zone.lattice.x_phase) / 10).astype(int),
        )
        for one in zone.blocks:
            for chunk in one.chunks:
                inside = (row >= chunk.row) & (row < chunk.row + 256) & (col >= chunk.col) & (col < chunk.col + 256)
                if inside.any():
                    mask = owned(zone.lattice, chunk)
                    found[inside] += mask[row[inside] - chunk.row, col[inside] - chunk.col]
    # Within 10 m of the border a place may lie between pixels of two zones, each owned (or not) by its centre.
    near = np.abs(places[:, 0] - lon) < 2e-4 / np.cos(np.radians(lat))
    near |= np.abs(places[:, 1] - round(lat)) < 2e-4
    assert (found[~near] == 1).all()
    assert near.mean() < 0.1


def test_a_zone_without_items_is_planned_too(country: Tiny) -> None:
    geometry = shapely.box(119.9, 10.5, 120.1, 10.6)
    zones = plan_zones(geometry, {32651: Lattice(32651, 10.0, 5.0, 5.0)}, 10.0, 256)
    assert zones.keys() == {32650, 32651}
    assert zones[32650].lattice == Lattice(32650, 10.0, 5.0, 5.0)


def test_a_country_is_laid_out_quickly() -> None:
    rng = np.random.default_rng(1)
    islands = shapely.union_all(
        [shapely.Point(x, y).buffer(0.3, 64) for x, y in rng.uniform([117.5, 5.5], [126.5, 19], (250, 2))]
    )
    start = time.process_time()
    zones = plan_zones(islands, {}, 10.0, 1024)
    assert time.process_time() - start < 10
    assert sum(len(zone.blocks) for zone in zones.values()) > 3000


def test_a_plan_survives_its_file(country: Tiny, tmp_path: Path) -> None:
    plan = country.plan(max_cloud=80)
    assert write_plan(tmp_path, plan) == plan
    assert read_plan(tmp_path) == plan
    assert len(plan.run_id) == 16
    assert plan.n_tasks == 18


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
a_recipe = {
    "max_scenes": st.integers(3, 20),
    "min_obs": st.integers(1, 3),
    "max_cloud": st.none() | st.floats(0, 100),
    "months": st.sets(st.integers(1, 12), min_size=1).map(sorted).map(tuple),
    "mask": st.builds(MaskRule, dilate_m=st.floats(0, 500)),
    "numerics": st.dictionaries(text, st.integers() | text | st.lists(st.integers())),
}
a_plan = {
    "region_name": text,
    "boundary_source": text,
    "boundary_version": text,
    "sources": st.lists(text).map(tuple),
    "versions": st.dictionaries(text, text),
    "forced": st.booleans(),
    "expected": st.dictionaries(text, st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.none()),
}


@settings(max_examples=30, deadline=None)
@given(recipe=st.fixed_dictionaries({}, optional=a_recipe), values=st.fixed_dictionaries({}, optional=a_plan))
def test_every_field_of_a_plan_survives_its_file(country: Tiny, recipe: Any, values: Any) -> None:
    plan = country.plan()
    plan = replace(plan, recipe=replace(plan.recipe, **recipe), **values)
    with tempfile.TemporaryDirectory() as folder:
        write_plan(Path(folder), plan)
        assert read_plan(Path(folder)) == plan


@pytest.mark.parametrize("forced", [(True, False), (False, True)])
def test_a_forced_run_stays_forced_when_it_is_extended(country: Tiny, tmp_path: Path, forced: Any) -> None:
    for years, force in zip(("2021", "2022"), forced, strict=True):
        write_plan(tmp_path, country.years(years).plan(forced=force))
    assert read_plan(tmp_path).forced


def test_a_mistake_of_ours_is_not_taken_for_damage(
    country: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(tmp_path, country.plan())
    for error in (AttributeError, TypeError, KeyError):
        monkeypatch.setattr("subpixmap.mapping.plan.plan_of_row", raising(error))
        with pytest.raises(error):
            read_plan(tmp_path)


def test_every_source_is_kept_in_its_order(country: Tiny, tmp_path: Path) -> None:
    sources = ("earth-search", "/data/a country, simulated/catalog.json")
    first = write_plan(tmp_path, country.years("2021").plan(sources=sources))
    assert read_plan(tmp_path).sources == first.sources == sources
    more = write_plan(tmp_path, country.plan(sources=("cdse", "earth-search")))
    assert read_plan(tmp_path).sources == more.sources == (*sources, "cdse")
    assert write_plan(tmp_path, country.plan()).sources == more.sources


def test_an_older_plan_with_its_sources_in_one_text_opens(country: Tiny, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, country.plan(sources=("a/catalog.json", "earth-search")))
    raw = json.loads((tmp_path / "plan.json").read_text())
    del raw["sha256"], raw["sources"]
    raw["source"] = "a/catalog.json, earth-search"
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    raw["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (tmp_path / "plan.json").write_text(json.dumps(raw))
    assert read_plan(tmp_path).sources == plan.sources


def test_the_run_id_is_of_the_recipe_alone(country: Tiny) -> None:
    plan = country.plan()
    assert country.years("2021").plan().run_id == plan.run_id
    assert replace(plan, sources=("elsewhere",), versions={}).run_id == plan.run_id
    changes = {
        "region_sha256": "0" * 64,
        "model_sha256": "0" * 64,
        "bands": ("B02",),
        "objects": ("car",),
        "lattices": (Lattice(32651, 10.0, 5.0),),
        "resolution": 20.0,
        "block": 512,
        "every": "month",
        "months": (3, 4, 5),
        "max_scenes": 3,
        "min_obs": 2,
        "max_cloud": 50.0,
        "mask": MaskRule(dilate_m=0.0),
        "numerics": {"threads": 2},
        "missing": "zero",
        "sensor": "landsat",
        "level": "L1C",
        "spread": 2,
        "mapped_by": "chunk",
    }
    assert changes.keys() == {f.name for f in fields(Recipe)}
    for name, value in changes.items():
        change: dict[str, Any] = {name: value}
        other = replace(plan.recipe, **change)
        assert other.run_id != plan.run_id, name
        with pytest.raises(Refused, match=name):
            require_same(plan.recipe, other, Path("plan.json"))


def test_periods_are_added_and_nothing_else(country: Tiny, tmp_path: Path) -> None:
    late, early = country.years("2022").plan(), country.years("2021").plan()
    write_plan(tmp_path, late)
    before = (tmp_path / "plan.json").read_bytes()
    assert [p.label for p in write_plan(tmp_path, early).periods] == ["2021", "2022"]
    assert write_plan(tmp_path, late) == write_plan(tmp_path, country.plan())
    assert (tmp_path / "plan.json").read_bytes() != before
    with pytest.raises(Refused, match="months"):
        write_plan(tmp_path, country.plan(months=(3, 4)))


def test_a_damaged_plan_is_named(country: Tiny, tmp_path: Path) -> None:
    write_plan(tmp_path, country.plan())
    path = tmp_path / "plan.json"
    good = path.read_text()
    raw = json.loads(good)
    raw["recipe"]["min_obs"] = 2
    for text in (good[:-100], "[]", json.dumps(raw), good.replace('"name": "tiny"', '"name": "tinz"')):
        path.write_text(text)
        with pytest.raises(VerificationFailed, match=r"plan\.json"):
            read_plan(tmp_path)
    with pytest.raises(InputError, match="nothing"):
        read_plan(tmp_path / "nothing")


def test_a_plan_of_another_version_is_refused(country: Tiny, tmp_path: Path) -> None:
    write_plan(tmp_path, country.plan())
    path = tmp_path / "plan.json"
    raw = {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"} | {"format": 1}
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(raw | {"sha256": hashlib.sha256(canonical.encode()).hexdigest()}))
    with pytest.raises(Refused, match=r"plan\.json.*1.*2"):
        read_plan(tmp_path)


def test_scenes_are_periods_of_their_own(country: Tiny) -> None:
    plan = country.plan(every="scene")
    assert [p.label for p in plan.periods] == ["2021-01-15T02:10:51Z", "2022-01-15T02:10:51Z"]
    groups = items_by_period(plan, country.items)
    assert [len(groups[p.label]) for p in plan.periods] == [2, 2]


def test_bad_options_are_refused(country: Tiny) -> None:
    with pytest.raises(InputError, match=r"elephant.*coconut, car"):
        country.plan(objects=["elephant"])
    with pytest.raises(InputError, match="300"):
        country.plan(block=300)
    with pytest.raises(InputError, match="min-obs"):
        country.plan(min_obs=20)
    (lattice,) = {item.epsg: Lattice(item.epsg) for item in country.items}.values()
    far = region_of(Window(0, 40000, 300, 300), lattice)
    with pytest.raises(InputError, match="tiny"):
        replace(country, region=far).plan()


def test_objects_keep_the_order_of_the_model(country: Tiny) -> None:
    model = tiny_model(objects=("olive", "car", "coconut"))
    assert replace(country, model=model).plan(objects=["coconut", "olive"]).objects == ("olive", "coconut")


def test_a_block_holds_whole_chunks() -> None:
    block = Block(Lattice(32651), 3, 4, 512)
    assert len(list(block.chunks())) == (512 // CHUNK) ** 2


def test_objects_are_masked_as_the_card_says_and_never_mixed(tmp_path: Path) -> None:
    one = tiny(tmp_path, years="2021", dates=1)
    card = replace(one.model.card, mask={"dilate_m": 60.0, "objects": {"car": {"drop": [0, 1, 3], "dilate": [3]}}})
    own = replace(one, model=Model.of(one.model.net, card))
    with pytest.raises(InputError, match="coconut and car"):
        own.plan()
    cars, palms = own.plan(objects=["car"]).recipe, own.plan(objects=["coconut"]).recipe
    assert cars.mask == MaskRule((0, 1, 3), (3,), 60.0)
    assert palms.mask == MaskRule(dilate_m=60.0)
    assert cars.to_json()["mask"] == {"drop": [0, 1, 3], "dilate": [3], "dilate_m": 60.0}
    assert Recipe.from_json(cars.to_json()) == cars
    with pytest.raises(InputError, match=r"mask.*'cars'"):
        replace(card, mask={"objects": {"cars": {}}})


def test_a_recipe_of_before_keeps_its_meaning_and_its_id(country: Any) -> None:
    """Then only 0 was missing; the field is new, and absent at that value."""
    new = country.plan().recipe
    assert new.missing == "stated"
    assert Recipe.from_json(new.to_json()) == new
    old = replace(new, missing="zero")
    assert "missing" not in old.to_json()
    assert Recipe.from_json(old.to_json()) == old
    assert old.run_id != new.run_id
