"""No pixel serves two splits, not even as context; a model that only remembers scores nothing."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial import cKDTree

from subpixmap.errors import InputError, VerificationFailed
from subpixmap.reference.imagery import find_imagery
from subpixmap.reference.patches import Patches
from subpixmap.reference.points import read_points
from subpixmap.reference.reference import Reference, make_reference
from subpixmap.reference.samples import read_sample
from subpixmap.reference.splits import SPLITS, split_tiles
from subpixmap.reference.tiles import AreaTile, require_apart
from subpixmap.region.units import read_area
from tests.helpers.reference_data import Painted, paint

HALO = 3


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Painted:
    return paint(tmp_path_factory.mktemp("noise"), noise=True)


@pytest.fixture(scope="module")
def made(noise: Painted) -> Reference:
    return make_reference(read_points(noise.points), read_area(noise.labelled), "2021-03", border=HALO)


def footprint(tiles: list[AreaTile], split: str) -> set[tuple[int, int, int]]:
    """Every input pixel that the used pixels of a split see, one by one."""
    reach = range(-HALO, HALO + 1)
    seen = set()
    for tile in tiles:
        if tile.split == split:
            for row, col in np.argwhere(tile.used):
                at = (tile.window.row + row, tile.window.col + col)
                seen |= {(tile.area.lattice.epsg, at[0] + r, at[1] + c) for r in reach for c in reach}
    return seen


@pytest.mark.parametrize("by", ["area", "tile"])
def test_what_one_split_sees_no_other_does(made: Reference, by: str) -> None:
    tiles = split_tiles(made, halo=HALO, by=by, size=20 if by == "tile" else 40)
    seen = {split: footprint(tiles, split) for split in SPLITS}
    assert all(seen.values())
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not seen[one] & seen[other]
    with pytest.raises(VerificationFailed, match=r"area \d"):
        require_apart(tiles, 4 * HALO)


def test_whole_areas_are_one_unit(made: Reference) -> None:
    tiles = split_tiles(made, halo=HALO, size=20)
    splits = {name: {tile.split for tile in tiles if tile.area.name == name} for name in made.names}
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == set(SPLITS)
    for split in SPLITS:  # of the three empty areas, each split has one
        assert any(not tile.area.points.any() for tile in tiles if tile.split == split)
    land = [sum(tile.used.sum() for tile in tiles if tile.split == split) for split in SPLITS]
    assert land[0] > land[1] > 0 < land[2]


def test_areas_may_be_named(made: Reference) -> None:
    tiles = split_tiles(made, halo=HALO, size=40, test=("area 8", "area 2"), calibration=("area 5", "area 6"))
    assert {t.area.name for t in tiles if t.split == "test"} == {"area 2", "area 8"}
    assert {t.area.name for t in tiles if t.split == "calibration"} == {"area 5", "area 6"}
    with pytest.raises(InputError, match=r"Riverside.*area 0"):
        split_tiles(made, halo=HALO, test=("Riverside",))
    with pytest.raises(InputError, match="area 1"):
        split_tiles(made, halo=HALO, test=("area 1",), calibration=("area 1",))
    with pytest.raises(InputError, match=r"test.*coconut"):
        split_tiles(made, halo=HALO, test=("area 2",), calibration=("area 1",))
    with pytest.raises(InputError, match="--split-by tile"):
        split_tiles(made, halo=HALO, by="tile", test=("area 8",), calibration=("area 5",))
    with pytest.raises(InputError):
        split_tiles(dataclasses.replace(made, areas=made.areas[:1]), halo=HALO)


def test_a_draw_depends_on_its_seed_alone(made: Reference) -> None:
    def drawn(seed: int) -> list[str]:
        return [tile.split for tile in split_tiles(made, halo=HALO, size=40, seed=seed)]

    assert drawn(1) == drawn(1)
    assert any(drawn(1) != drawn(seed) for seed in (2, 3, 4))


def remembered(patches: Patches) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance (n, acquisition x band) and count (n,) of labelled pixels."""
    h = patches.halo
    inner = patches.reflectance[..., h:-h, h:-h].astype(float)
    pixels = np.moveaxis(inner.reshape(len(patches), -1, *inner.shape[3:]), 1, -1)
    return pixels[patches.labelled], patches.count[:, 0, 0][patches.labelled]


def r2(found: np.ndarray, truth: np.ndarray) -> float:
    return float(1 - ((found - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


@pytest.mark.parametrize("by", ["area", "tile"])
def test_a_model_that_only_remembers_scores_nothing(noise: Painted, made: Reference, by: str) -> None:
    imagery = find_imagery(made, str(noise.source), halo=HALO)
    tiles = split_tiles(made, halo=HALO, by=by, size=20 if by == "tile" else 40)
    samples = {
        split: read_sample(made, [t for t in tiles if t.split == split], imagery, halo=HALO).patches for split in SPLITS
    }
    inputs, counts = remembered(samples["training"])
    memory = cKDTree(inputs)

    def recall(split: str) -> float:
        pixels, truth = remembered(samples[split])
        return r2(counts[memory.query(pixels)[1]], truth)

    assert recall("training") > 0.999  # the same scenes at the same pixels: it knows them by heart
    assert recall("test") < 0
    assert recall("calibration") < 0


def test_dates_can_be_held_out(noise: Painted, made: Reference) -> None:
    imagery = find_imagery(made, str(noise.source), halo=HALO)
    tiles = [tile for tile in split_tiles(made, halo=HALO, size=40) if tile.split == "test"]
    late = read_sample(made, tiles, imagery, halo=HALO, when=lambda day: day.month == 4)
    assert {day.month for day in late.days} == {4}
    assert late.patches.reflectance.shape[1] == 1
    assert set(late.patches.names) == {tile.unit for tile in tiles}
    with pytest.raises(InputError, match=r"area \d"):
        read_sample(made, tiles, imagery, halo=HALO, when=lambda day: day.month == 9)


def test_areas_that_the_border_strip_takes_whole_are_named(made: Reference) -> None:
    areas = tuple(dataclasses.replace(area, labelled=np.minimum(area.labelled, 1)) for area in made.areas)
    names = ", ".join(made.names[:3])
    with pytest.raises(
        InputError, match=f"no labelled pixel of {names} is left after removing the border strip of {HALO} px"
    ):
        split_tiles(dataclasses.replace(made, areas=areas), halo=HALO)
