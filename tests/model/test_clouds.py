"""Pixels that are valid by a cloud network: the same in any window, cached, refused where it cannot be made."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window
from subpixmap.mapping import task
from subpixmap.mapping.ledger import read_records
from subpixmap.mapping.needs import needs
from subpixmap.mapping.recipe import Recipe
from subpixmap.mapping.run import map_region
from subpixmap.model import clouds
from subpixmap.model.clouds import FOUR, SIX, Cells, Network, network_bands, read_valid, require_network
from subpixmap.periods import make_periods
from subpixmap.reference.samples import Scheme
from subpixmap.scenes import cube
from subpixmap.scenes.choice import choose
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.items import Item, by_acquisition, lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.reader import pin
from subpixmap.scenes.source import find_items
from tests.helpers import mapping_data, scenes_data
from tests.helpers.mapping_data import BANDS

CLOUD = (slice(300, 420), slice(380, 440))
SHADOW = (slice(500, 560), slice(60, 140))
SIZE = 600
RULE = MaskRule(by="learned")
EVERYWHERE = shapely.box(-180, -90, 180, 90)


class Bright:
    """Stands in for the network: bright is cloud, dark is shadow, both against the whole tile, as a network sees it."""

    blind = False
    """Whether everything is clear for it."""

    def run(self, _: None, inputs: dict[str, Any]) -> tuple[Any]:
        (seen,) = inputs.values()
        assert seen.shape[2:] == (256, 256)
        assert seen.dtype == np.float32
        light = seen.mean(axis=1) - 1e-3 * seen.mean()
        return (np.stack([np.full_like(light, 9 if self.blind else 0.2), light - 0.3, 0.3 - 2 * light], axis=1),)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bright:
    bright = Bright()
    one = np.ones((1, 1, 1), np.float32)
    monkeypatch.setattr(clouds, "_session", lambda file: (bright, "input", 0 * one, one))
    monkeypatch.setattr(Network, "of", lambda bands, level: Network(network_bands(bands), Path(f"{level}.onnx")))
    monkeypatch.setenv("SUBPIXMAP_CACHE", str(tmp_path / "cache"))
    return bright


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Item], Lattice, Window]:
    """One acquisition of 8 km with a cloud, a shadow and a strip without data, and the window of its tile."""
    folder = tmp_path_factory.mktemp("place")
    raw = scenes_data.make_item(folder, size_px=SIZE, hole=slice(540, SIZE), bands=dict.fromkeys(FOUR, 10))
    items = lock_items([raw], make_periods(2021), FOUR)
    rng = np.random.default_rng(0)
    for band in FOUR:
        asset = items[0].assets[band]
        dn = rng.integers(2800, 3200, asset.shape, dtype=np.uint16)  # reflectance 0.2 with the offset
        dn[CLOUD], dn[SHADOW] = 8000, 1050
        dn[:, 540:] = 0
        scenes_data.write_raster(Path(asset.href), dn, asset.transform)
    (lattice,) = lattices(items).values()
    west, south, east, north = items[0].bounds
    return pin(items), lattice, lattice.window((west, south, east, north))


def test_cloud_and_shadow_are_masked_with_their_surroundings(
    network: Bright, place: tuple[list[Item], Lattice, Window]
) -> None:
    items, lattice, window = place
    valid = read_valid(items, lattice, window, RULE, bands=FOUR)
    y, x = np.mgrid[:SIZE, :SIZE]
    far = np.full((SIZE, SIZE), np.inf)
    for rows, cols in (CLOUD, SHADOW):
        down = np.maximum(np.maximum(rows.start - y, y - rows.stop + 1), 0)
        across = np.maximum(np.maximum(cols.start - x, x - cols.stop + 1), 0)
        far = np.minimum(far, 10 * np.hypot(down, across))
    assert not valid[far < 100 - 2 * 22.5].any()
    assert valid[(far > 100 + 2 * 22.5) & (x < 540 - 3)].all()
    assert not valid[:, 543:].any(), "no data"


def test_any_window_gives_the_same_mask(network: Bright, place: tuple[list[Item], Lattice, Window]) -> None:
    items, lattice, window = place
    whole = read_valid(items, lattice, window, RULE, bands=FOUR)
    for row, col, height, width in ((0, 0, 256, 256), (290, 400, 130, 77), (511, 100, 2, 500), (599, 0, 1, 1)):
        part = Window(window.row + row, window.col + col, height, width)
        got = read_valid(items, lattice, part, RULE, bands=FOUR)
        np.testing.assert_array_equal(got, whole[row : row + height, col : col + width])


def test_both_drop_what_either_drops(network: Bright, place: tuple[list[Item], Lattice, Window]) -> None:
    items, lattice, window = place
    learned = read_valid(items, lattice, window, RULE, bands=FOUR)
    classes = cube.read_valid(items, lattice, window, MaskRule())
    assert (learned != classes).mean() > 0.05, "the two masks must differ for this test to say something"
    both = read_valid(items, lattice, window, replace(RULE, by="both"), bands=FOUR)
    np.testing.assert_array_equal(both, learned & classes)
    np.testing.assert_array_equal(read_valid(items, lattice, window, MaskRule(), bands=FOUR), classes)
    with pytest.raises(InputError, match="--mask"):
        cube.read_valid(items, lattice, window, RULE)


def test_tiles_hold_the_mean_of_their_area() -> None:
    mean = clouds._area_weights(576)
    np.testing.assert_allclose(mean.sum(axis=1), 1, rtol=1e-5)
    image = np.random.default_rng(1).random((2, 576, 576)).astype(np.float32)
    small = clouds._shrunk(image, mean)
    np.testing.assert_allclose(small.mean(axis=(1, 2)), image.mean(axis=(1, 2)), rtol=1e-5)
    fine = image.repeat(4, 1).repeat(4, 2).reshape(2, 256, 9, 256, 9).mean(axis=(2, 4))
    np.testing.assert_allclose(small, fine, rtol=1e-4)
    image[:, 100:200] = np.nan
    small = clouds._shrunk(image, mean)
    assert np.isnan(small).all(axis=(0, 2)).sum() in (43, 44)
    assert np.nanmax(small) <= 1


@pytest.mark.parametrize("resolution", [10.0, 20.0, 120.0])
def test_cells_cover_a_window_once(resolution: float) -> None:
    cells = Cells.of(resolution)
    assert cells.side >= 256
    assert cells.margin * resolution >= 320
    over = cells.over(Window(-5, 3 * cells.core - 1, 6, 2))
    assert over == Window(-1, 2, 2, 2)
    assert cells.seen(Window(0, 0, cells.core, 2 * cells.core))[0] == 2


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Lengths of the strips that are read."""
    read, strips = cube.read_reflectance, []

    def counting(*args: Any, **options: Any) -> Any:
        strips.append(args[2].width)
        return read(*args, **options)

    monkeypatch.setattr(cube, "read_reflectance", counting)
    return iter([strips])


def test_what_was_seen_once_is_kept_for_the_next_model(
    network: Bright, place: tuple[list[Item], Lattice, Window], unread: Any, tmp_path: Path
) -> None:
    items, lattice, window = place
    (strips,) = unread
    first = read_valid(items, lattice, window, RULE, bands=FOUR)
    n = len(strips)
    assert n == Cells.of(10.0).over(window).height
    other = replace(RULE, dilate_m=20.0)  # of another model's card
    again = read_valid(items, lattice, window, RULE, bands=FOUR), read_valid(items, lattice, window, other, bands=FOUR)
    assert len(strips) == n
    np.testing.assert_array_equal(again[0], first)
    assert again[1].sum() > first.sum()
    (kept,) = (tmp_path / "cache" / "clouds").rglob("*.npz")
    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 8
    for data in (bytes(damaged), damaged[:50], b""):
        kept.write_bytes(data)
        np.testing.assert_array_equal(read_valid(items, lattice, window, RULE, bands=FOUR), first)
    assert len(strips) == 4 * n
    moved = [replace(item, offset_dn=0) for item in items]
    read_valid(moved, lattice, window, RULE, bands=FOUR)
    unpinned = [
        replace(item, assets={name: replace(asset, pin=None) for name, asset in item.assets.items()}) for item in items
    ]
    read_valid(unpinned, lattice, window, RULE, bands=FOUR)
    read_valid(unpinned, lattice, window, RULE, bands=FOUR)
    assert len(strips) == 7 * n, "another offset is another mask, and files of an unknown version are not kept"


def test_a_cache_that_cannot_be_written_stops_nothing(
    network: Bright, place: tuple[list[Item], Lattice, Window], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SUBPIXMAP_CACHE", str(tmp_path / "file"))
    items, lattice, window = place
    assert read_valid(items, lattice, window, RULE, bands=FOUR).any()


# In a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> mapping_data.Tiny:
    return mapping_data.tiny(tmp_path_factory.mktemp("scenes"), dates=4, years="2021", region_px=(250, 250))


@pytest.mark.parametrize("blind", [False, True])
def test_the_network_looks_only_at_what_may_be_chosen(
    blind: bool, country: mapping_data.Tiny, network: Bright, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the choice is as if it had looked at all: no more is clear for both than for the scene classes."""
    network.blind = blind
    looked: list[tuple[str, Window]] = []
    read = clouds.read_valid

    def noted(items: Any, lattice: Any, window: Window, rule: MaskRule, **options: Any) -> Any:
        looked.extend([(items[0].acquisition, window)] if rule.by != "scl" else [])
        return read(items, lattice, window, rule, **options)

    monkeypatch.setattr(clouds, "FOUR", ("B02", "B08"))
    monkeypatch.setattr(task, "read_valid", noted)
    plan = country.plan(block=512, max_scenes=2, mask=MaskRule(by="both"))
    (zone,) = plan.zones.values()
    map_region(tmp_path / "out", plan, country.items, country.model, workers=0)
    assert len(set(looked)) == len(looked), "twice at the same"
    assert not blind or len(looked) == 2 * len(zone.blocks)
    records = read_records(tmp_path / "out", plan)
    for one in zone.blocks:
        wanted = task._wanted(one)
        groups = by_acquisition(country.items)
        clear = {
            name: float((read(group, zone.lattice, one.window, plan.recipe.mask, bands=tuple(BANDS)) & wanted).mean())
            for name, group in groups.items()
        }
        used = [used.id for used in records[one.block.id, "2021"].acquisitions]
        assert used == choose(groups, clear, 2)


def test_a_plan_tells_memory_reading_and_tiles_of_the_network(country: mapping_data.Tiny) -> None:
    plan = country.plan(block=512, mask=MaskRule(by="both"))
    found = needs(plan, country.items)
    plain = needs(replace(plan, recipe=replace(plan.recipe, mask=MaskRule())), country.items)
    assert plain.mask_tiles == 0
    assert found.mask_tiles == found.acquisitions * found.blocks
    assert found.bytes_to_read > plain.bytes_to_read
    assert found.worker_memory - plain.worker_memory > clouds.NETWORK_BYTES


def test_a_recipe_without_a_network_is_that_of_before(country: mapping_data.Tiny) -> None:
    recipe = country.plan().recipe
    plain = recipe.to_json()
    assert plain["mask"] == {"drop": [0, 1, 3, 8, 9, 10, 11], "dilate": [3, 8, 9], "dilate_m": 100.0}
    assert not {"ukis-csmask", "onnxruntime"} & set(plain["numerics"])
    learned = replace(recipe, mask=RULE)
    assert learned.run_id != recipe.run_id
    assert Recipe.from_json(learned.to_json()) == learned
    assert MaskRule.stated(RULE.as_json()) == RULE
    with pytest.raises(InputError, match="choose scl"):
        MaskRule(by="guess")  # type: ignore[arg-type]


def test_a_mask_that_cannot_be_made_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_network((), MaskRule(), "L1C")
    with pytest.raises(InputError, match=r"needs B02, B03, B04, B08.* \(no B03, B04\)"):
        require_network(("B02", "B08", "B11"), RULE, "L2A")
    monkeypatch.setattr(clouds, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(InputError, match=r"needs onnxruntime: .*subpixmap\[clouds\]"):
        require_network(FOUR, RULE, "L2A")
    monkeypatch.setattr(clouds, "find_spec", lambda name: object())
    require_network(FOUR, RULE, "L1C")
    with pytest.raises(InputError, match="no scene classes"):
        require_network(FOUR, MaskRule(by="both"), "L1C")
    with pytest.raises(InputError, match="allows 320 m at most"):
        require_network(FOUR, replace(RULE, dilate_m=400.0), "L2A")
    assert (network_bands(FOUR), network_bands((*SIX, "B05"))) == (FOUR, SIX)


def test_a_card_remembers_who_judged_its_training_data() -> None:
    assert "mask" not in Scheme().as_json(), "cards of scene classes stay as they were"
    assert Scheme.stated(Scheme(mask="both").as_json()).mask == "both"
    with pytest.raises(InputError, match="choose scl"):
        Scheme(mask="guess")  # type: ignore[arg-type]
    reference: Any = None  # nothing of it is looked at
    with pytest.raises(InputError, match="no B03, B04"):
        Scheme(mask="learned").imagery(reference, "x", bands=["B02", "B08"], halo=8, collection=None, locks=None)


# The real network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [FOUR, SIX])
def test_the_network_says_what_its_package_says_of_one_tile(
    bands: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    csmask = pytest.importorskip("ukis_csmask.mask")
    monkeypatch.setattr(csmask, "tile_array", lambda image, **_: image[None])  # its tiles lie elsewhere
    monkeypatch.setattr(csmask, "untile_array", lambda tiles, *_, **__: tiles[0])
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:256, :256]
    cloud = np.exp(-((y - 90) ** 2 + (x - 120) ** 2) / 900.0)
    image = 0.05 + 0.02 * rng.random((len(bands), 256, 256)) + 0.6 * cloud
    ours = Network.of(bands, "L2A").classes(image.astype(np.float32))
    names = ["blue", "green", "red", "nir", "swir16", "swir22"][: len(bands)]
    options = {"band_order": names, "product_level": "l2a", "intra_op_num_threads": 1, "inter_op_num_threads": 1}
    theirs = csmask.CSmask(np.moveaxis(image, 0, -1).astype(np.float32), providers=["CPUExecutionProvider"], **options)
    np.testing.assert_array_equal(np.array([5, 9, 3])[theirs.csm[..., 0]], ours)
    assert (ours[cloud > 0.7] == 9).mean() > 0.9


@pytest.mark.realdata
def test_real_clouds_and_shadows_are_found_where_the_scene_classes_have_them(real_data: Path) -> None:
    """At 120 m, far from the 22.5 m of a run: what SCL calls cloud with high probability, and a clear day."""
    pytest.importorskip("onnxruntime")
    found = find_items(str(real_data / "sentinel2_120m" / "items_120m_fixed.json"), EVERYWHERE, make_periods(2023))
    items = lock_items(found, make_periods(2023), FOUR)
    (lattice,) = lattices(items, 120.0).values()
    window = lattice.window((505000.0, 5080000.0, 560000.0, 5135000.0))
    rule = MaskRule(by="learned", dilate=())
    hits, n_clouds = 0, 0
    for group in by_acquisition(items).values():
        valid = read_valid(group, lattice, window, rule, bands=FOUR)
        cloudy = ~cube.read_valid(group, lattice, window, MaskRule(drop=(0, 9), dilate=()))
        there = np.isfinite(cube.read_reflectance(group, lattice, window, ["B02"])[0])
        hits, n_clouds = hits + int((~valid & cloudy & there).sum()), n_clouds + int((cloudy & there).sum())
        if cloudy[there].mean() < 0.001 and there.mean() > 0.9:
            assert valid[there].mean() > 0.95
    assert n_clouds > 10_000
    assert hits / n_clouds > 0.8
