"""The lock: one item for each acquisition and tile, whatever the catalogue answers."""

import random
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from subpixmap.errors import InputError, VerificationFailed
from subpixmap.periods import make_periods
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.cube import read_reflectance, read_valid
from subpixmap.scenes.items import (
    Asset,
    DarkCheck,
    Item,
    by_acquisition,
    items_sha256,
    lock_items,
    read_lock,
    sort_items,
    write_lock,
)
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import find_items
from tests.helpers import scenes_data

PERIODS = make_periods("2020-2021")
EVERYWHERE = shapely.box(-180, -90, 180, 90)
SMALL = {"B02": 10, "B8A": 20}


@pytest.fixture
def found(tmp_path: Path) -> Any:
    return [
        scenes_data.make_item(
            tmp_path, tile=tile, corner=corner, start=start, size_px=20, bands=SMALL, baseline=baseline
        )
        for tile, corner in (("51PTT", (300000.0, 1200000.0)), ("51PTS", (300000.0, 1199900.0)))
        for start, baseline in (
            ("20210105T021051", "05.00"),
            ("20201231T021051", "02.14"),
            ("20190101T021051", "02.14"),
        )
    ]


def test_a_lock_does_not_depend_on_the_order_of_the_answer(found: Any, tmp_path: Path) -> None:
    items = lock_items(found, PERIODS, list(SMALL))
    assert [i.period for i in items] == ["2020", "2020", "2021", "2021"]
    assert [i.offset_dn for i in items] == [0, 0, -1000, -1000]
    assert list(by_acquisition(items)) == ["GS2A_20201231T021051_028940", "GS2A_20210105T021051_028940"]
    write_lock(tmp_path / "a.parquet", items)
    assert read_lock(tmp_path / "a.parquet") == items
    shuffled = found * 3
    random.Random(1).shuffle(shuffled)
    again = lock_items(shuffled, PERIODS, list(SMALL))
    assert again == items
    write_lock(tmp_path / "b.parquet", again[::-1])
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "a.parquet").read_bytes()


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
PLACES = st.tuples(*[st.floats(-1e7, 1e7)] * 6)
ASSETS = st.builds(Asset, TEXT.filter(bool), PLACES, st.tuples(*[st.integers(1, 11_000)] * 2), st.booleans())
LOCKED = st.builds(
    Item,
    id=TEXT.filter(bool),
    tile=st.sampled_from(["33TWL", "01CAB"]),
    acquisition=TEXT,
    datetime=st.datetimes(datetime(2015, 1, 1), datetime(2040, 1, 1)).map(lambda when: f"{when.isoformat()}Z"),
    period=TEXT,
    epsg=st.sampled_from([32601, 32633, 32760]),
    baseline=st.sampled_from(["", "02.14", "05.09"]),
    offset_dn=st.sampled_from([0, -1000]),
    offset_reason=TEXT,
    cloud_cover=st.none() | st.floats(0, 100),
    orbit=st.none() | st.integers(1, 143),
    assets=st.dictionaries(st.sampled_from([*scenes_data.BANDS, "SCL"]), ASSETS, min_size=1),
    dark_check=st.sampled_from(get_args(DarkCheck)),
    dark_reflectance=st.none() | st.floats(-1, 1),
)


@settings(max_examples=40, deadline=None)
@given(items=st.lists(LOCKED, min_size=1, max_size=4, unique_by=lambda item: (item.period, item.datetime, item.id)))
def test_a_lock_reads_back_as_it_was_written(items: list[Item], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lock") / "items.parquet"
    write_lock(path, items)
    again = read_lock(path)
    assert again == sort_items(items)
    assert items_sha256(again) == items_sha256(items)


def test_the_newest_baseline_wins_and_an_older_copy_changes_nothing(found: Any, tmp_path: Path) -> None:
    older = scenes_data.make_item(tmp_path / "old", size_px=20, bands=SMALL, baseline="02.14")
    assert lock_items([older, *found], PERIODS, list(SMALL)) == lock_items(found, PERIODS, list(SMALL))
    assert lock_items([older], PERIODS, list(SMALL))[0].offset_dn == 0


@pytest.mark.parametrize("ids", ["their own ids", "one id"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_scene_that_was_cut_into_two_products_is_put_together(tmp_path: Path, ids: str, order: int) -> None:
    """Where a datastrip ends, the ground segment cuts a tile: same datatake, tile and baseline, other product."""
    parts = []
    for number, hole in enumerate((slice(0, 90), slice(100, 200))):
        part = scenes_data.make_item(tmp_path / str(number), size_px=200, bands=SMALL, seed=number, hole=hole)
        part["properties"]["s2:product_uri"] = part["properties"]["s2:product_uri"].replace(
            "T050000", f"T05000{number}"
        )
        part["id"] += f"_{number}" if ids == "their own ids" else ""
        parts.append(part)
    items = lock_items([*parts[::order], *parts], PERIODS, list(SMALL))
    assert len(items) == 2  # each product once
    assert items == lock_items(parts, PERIODS, list(SMALL))
    (group,) = by_acquisition(items).values()
    (lattice,) = lattices(items).values()
    window = lattice.window(items[0].bounds)
    seen = read_reflectance(group, lattice, window, list(SMALL))
    assert np.isfinite(seen).all()
    halves = [read_reflectance([item], lattice, window, list(SMALL)) for item in group]
    np.testing.assert_array_equal(seen, np.where(np.isnan(halves[0]), halves[1], halves[0]))
    np.testing.assert_array_equal(read_reflectance(group[::-1], lattice, window, list(SMALL)), seen)
    nothing_spread = MaskRule(drop=(0,), dilate=())
    assert read_valid(group, lattice, window, nothing_spread).all()
    assert not read_valid(group[:1], lattice, window, nothing_spread).all()


def test_a_part_of_a_scene_does_not_stand_for_the_scene(tmp_path: Path) -> None:
    good, bad = (scenes_data.make_item(tmp_path / n, size_px=20, bands=SMALL) for n in "ab")
    bad["properties"]["s2:product_uri"] = bad["properties"]["s2:product_uri"].replace("T050000", "T050001")
    bad["id"] += "_1"
    del bad["assets"]["blue"]
    refused: dict[str, str] = {}
    assert lock_items([good, bad], PERIODS, list(SMALL), refused=refused) == []
    assert list(refused) == [bad["id"]]


def test_the_hash_does_not_depend_on_the_folder(found: Any, tmp_path: Path) -> None:
    scenes_data.write_collection(tmp_path / "items.json", found)
    shutil.copytree(tmp_path, tmp_path.parent / "moved")
    moved = (
        (tmp_path.parent / "moved" / "items.json").read_text().replace(str(tmp_path), str(tmp_path.parent / "moved"))
    )
    (tmp_path.parent / "moved" / "items.json").write_text(moved)
    there = find_items(str(tmp_path.parent / "moved" / "items.json"), EVERYWHERE, PERIODS)
    items = lock_items(found, PERIODS, list(SMALL))
    assert items_sha256(lock_items(there, PERIODS, list(SMALL))) == items_sha256(items)
    assert items_sha256(items[:3]) != items_sha256(items)


def test_missing_bands_are_named(found: Any) -> None:
    del found[0]["assets"]["blue"]
    del found[1]["assets"]["scl"]
    with pytest.raises(InputError) as error:
        lock_items(found, PERIODS, list(SMALL))
    assert found[0]["id"] in str(error.value)
    assert "B02" in str(error.value)
    assert "SCL" in str(error.value)


def test_refused_items_can_be_told_instead(found: Any) -> None:
    del found[0]["assets"]["blue"]
    refused: dict[str, str] = {}
    items = lock_items(found, PERIODS, list(SMALL), refused=refused)
    assert len(items) == 3
    assert list(refused) == [found[0]["id"]]
    assert "B02" in refused[found[0]["id"]]


def test_lattices(found: Any, tmp_path: Path) -> None:
    items = lock_items(found, PERIODS, list(SMALL))
    (lattice,) = lattices(items, 10.0).values()
    assert (lattice.epsg, lattice.resolution, lattice.x_phase, lattice.y_phase) == (32651, 10.0, 0.0, 0.0)
    with pytest.raises(InputError, match=r"B02.*10 m"):
        lattices(items, 20.0)
    shifted = scenes_data.make_item(
        tmp_path, tile="51PTR", corner=(300005.0, 1199800.0), start="20210106T021051", size_px=20, bands=SMALL
    )
    with pytest.raises(InputError, match=shifted["id"]):
        lattices(lock_items([*found, shifted], PERIODS, list(SMALL)), 10.0)


def test_a_damaged_lock_is_noticed(found: Any, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    write_lock(path, lock_items(found, PERIODS, list(SMALL)))
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VerificationFailed):
        read_lock(path)


@pytest.mark.realdata
def test_real_tiles_of_120_m_lie_60_m_apart_and_are_taken(real_data: Path) -> None:
    path = real_data / "sentinel2_120m" / "items_120m_fixed.json"
    found = find_items(str(path), EVERYWHERE, make_periods(2023))
    items = lock_items(found, make_periods(2023), ["B02", "B03", "B04", "B08"])
    assert len(items) == 10
    assert len(by_acquisition(items)) == 5
    assert {i.offset_dn for i in items} == {0}
    (lattice,) = lattices(items, 120.0).values()
    assert (lattice.x_phase, lattice.y_phase) == (60.0, 0.0)
    assert np.mod(5162220, 120) == 60


def test_the_dialect_of_the_copernicus_data_space(tmp_path: Path) -> None:
    """JPEG 2000 by S3, names with resolutions, STAC 1.1, datatakes of EOPF: the same scene as in Earth Search."""
    item = scenes_data.make_item(tmp_path, size_px=20, bands={"B02": 10, "B8A": 20})
    (here,) = lock_items([item], PERIODS, ["B02", "B8A"])
    props = item["properties"]
    product = props["s2:product_uri"].removesuffix(".SAFE")
    assets = {}
    for band, asset in zip(("B02_10m", "B8A_20m", "SCL_20m"), item["assets"].values(), strict=True):
        told = {"raster:offset": -0.1, "raster:scale": 0.0001} if band != "SCL_20m" else {}
        told |= {key: asset[key] for key in ("proj:transform", "proj:shape")}
        assets[band] = {"href": f"s3://eodata/Sentinel-2/{product}.SAFE/{band}.jp2", "bands": [{"name": band}], **told}
    there = item | {"id": product, "stac_version": "1.1.0", "collection": "sentinel-2-l2a", "assets": assets}
    there["properties"] = {
        "datetime": props["datetime"],
        "proj:code": "EPSG:32651",
        "grid:code": props["grid:code"],
        "processing:version": "5.00",
        "eopf:datatake_id": props["s2:datatake_id"],
        "eo:cloud_cover": props["eo:cloud_cover"],
    }
    (other,) = lock_items([there], PERIODS, ["B02", "B8A"])
    assert (other.acquisition, other.tile, other.datetime) == (here.acquisition, here.tile, here.datetime)
    assert (other.offset_dn, other.baseline, other.orbit) == (-1000, "05.00", 103)
    for band, asset in other.assets.items():
        assert (asset.transform, asset.shape) == (here.assets[band].transform, here.assets[band].shape)
        assert asset.href.startswith("s3://eodata/")
