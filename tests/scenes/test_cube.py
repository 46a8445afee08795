"""Pixels: what plain rasterio and odc-stac read from the same items."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.windows import from_bounds

from subpixmap.errors import InputError
from subpixmap.grid import Window
from subpixmap.periods import make_periods
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.scenes.cube import open_cube, read_reflectance, read_valid
from subpixmap.scenes.items import by_acquisition, lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import find_items
from tests.helpers import scenes_data

PERIODS = make_periods(2021)
EVERYWHERE = shapely.box(-180, -90, 180, 90)
BANDS = ["B02", "B08", "B05", "B12"]
TAKEN = {band: scenes_data.BANDS[band] for band in BANDS}

# rasterio, rioxarray and odc-geo still multiply Affine with `*`, which the affine package announces to drop.
affine_star = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two tiles that overlap by 100 px, the first with a swath edge inside the overlap; two acquisitions."""
    folder = tmp_path_factory.mktemp("country")
    found = [
        scenes_data.make_item(
            folder, tile=tile, corner=corner, start=start, seed=seed, baseline=baseline, bands=TAKEN, hole=hole
        )
        for start, baseline in (("20210105T021051", "05.00"), ("20210110T021051", "03.01"))
        for tile, corner, seed, hole in (
            ("51PTT", (300000.0, 1200000.0), 1, slice(360, 400)),
            ("51PUT", (303000.0, 1200000.0), 2, None),
        )
    ]
    return scenes_data.write_collection(folder / "items.json", found), lock_items(found, PERIODS, BANDS)


def from_files(items: Any, band: Any, bounds: Any, resolution: Any) -> Any:
    """First item with data, by plain rasterio."""
    out = None
    for item in sorted(items, key=lambda i: i.tile):
        with rasterio.open(item.assets[band].href) as dataset:
            values = dataset.read(1, window=from_bounds(*bounds, dataset.transform), boundless=True, fill_value=0)
            times = round(dataset.res[0] / resolution)
        values = np.repeat(np.repeat(values, times, 0), times, 1)
        part = (values.astype(np.float32) + np.float32(item.offset_dn)) / np.float32(10000)
        part[values == 0] = np.nan
        out = part if out is None else np.where(np.isnan(out), part, out)
    return out


@affine_star
def test_mosaic_is_what_plain_rasterio_reads(country: Any) -> None:
    items = country[1]
    (lattice,) = lattices(items).values()
    window = lattice.window((299800.0, 1195900.0, 307200.0, 1200100.0)).aligned(2)
    for group in by_acquisition(items).values():
        got = read_reflectance(group, lattice, window, BANDS)
        assert got.dtype == np.float32
        for index, band in enumerate(BANDS):
            np.testing.assert_array_equal(got[index], from_files(group, band, lattice.bounds(window), 10))
        assert np.isnan(got[:, 0]).all()
        assert np.isfinite(got[:, 10:410, 20:720]).all()  # the hole is filled by the second tile


def test_any_window_is_a_part_of_the_whole(country: Any) -> None:
    items = country[1]
    (lattice,) = lattices(items).values()
    whole = lattice.window((299900.0, 1195950.0, 307100.0, 1200100.0))
    group = next(iter(by_acquisition(items).values()))
    reflectance = read_reflectance(group, lattice, whole, BANDS)
    valid = read_valid(group, lattice, whole, MaskRule())
    assert 0.2 < valid.mean() < 0.95
    rng = np.random.default_rng(0)
    for _ in range(25):
        row, col = rng.integers(0, whole.height - 70), rng.integers(0, whole.width - 70)
        part = Window(int(whole.row + row), int(whole.col + col), *(int(n) for n in rng.integers(1, 70, 2)))
        rows, cols = part.slices(whole)
        np.testing.assert_array_equal(read_reflectance(group, lattice, part, BANDS), reflectance[:, rows, cols])
        np.testing.assert_array_equal(read_valid(group, lattice, part, MaskRule()), valid[rows, cols])


@pytest.mark.parametrize("gap", [0, 1, 2])
def test_a_window_that_ends_where_a_tile_begins_is_empty(country: Any, gap: int) -> None:
    items = country[1]
    (lattice,) = lattices(items).values()
    group = next(iter(by_acquisition(items).values()))
    tile = lattice.window((300000.0, 1195900.0, 303000.0, 1200000.0))
    beside = Window(tile.row, tile.col - 20 - gap, 30, 20)
    assert np.isnan(read_reflectance(group, lattice, beside, BANDS)).all()
    assert not read_valid(group, lattice, beside, MaskRule()).any()


def test_valid_pixels_are_those_of_the_classification(country: Any) -> None:
    group = next(iter(by_acquisition(country[1]).values()))
    (lattice,) = lattices(group).values()
    with rasterio.open(group[0].assets["SCL"].href) as dataset:
        scl = dataset.read(1)
    window = lattice.window((300000.0, 1196000.0, 302800.0, 1200000.0))  # clear of the second tile and its margin
    expected = scl_valid(scl, 20.0, MaskRule()).repeat(2, 0).repeat(2, 1)[:, :280]
    np.testing.assert_array_equal(read_valid(group, lattice, window, MaskRule()), expected)


@affine_star
@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")  # odc-geo calls shapely the old way
def test_odc_reads_the_same(country: Any) -> None:
    odc = pytest.importorskip("odc.stac")
    from odc.geo.geobox import GeoBox
    from pystac import Item as StacItem

    items = country[1]
    (lattice,) = lattices(items).values()
    window = lattice.window((300000.0, 1196000.0, 307000.0, 1200000.0))
    box = GeoBox(window.shape, lattice.transform(window), "EPSG:32651")
    found = find_items(str(country[0]), EVERYWHERE, PERIODS)
    for group in by_acquisition(items).values():
        raw = sorted((f for f in found if f["id"] in {i.id for i in group}), key=lambda f: f["properties"]["grid:code"])
        theirs = odc.load(
            [StacItem.from_dict(f) for f in raw],
            bands=[scenes_data.NAMES[b] for b in BANDS],
            geobox=box,
            groupby=lambda *_: 0,
            preserve_original_order=True,
            nodata=0,
        )
        ours = read_reflectance(group, lattice, window, BANDS)
        for index, band in enumerate(BANDS):
            dn = theirs[scenes_data.NAMES[band]].values[0].astype(np.float32)
            expected = np.where(dn == 0, np.nan, (dn + np.float32(group[0].offset_dn)) / np.float32(10000))
            np.testing.assert_array_equal(ours[index], expected)


def test_items_of_two_acquisitions_or_another_zone_are_refused(country: Any) -> None:
    items = country[1]
    (lattice,) = lattices(items).values()
    window = Window(lattice.window(items[0].assets["B02"].bounds).row, 30000, 4, 4)
    with pytest.raises(InputError, match=items[1].id):
        read_reflectance(items, lattice, window, BANDS)
    with pytest.raises(InputError, match="B11"):
        read_reflectance(items[:1], lattice, window, ["B11"])


@affine_star
def test_lazy_cube_equals_windows_and_knows_where_it_lies(country: Any) -> None:
    path, items = country
    bounds = shapely.box(*find_items(str(path), EVERYWHERE, PERIODS)[0]["bbox"]).buffer(-0.01).bounds
    cube = open_cube(bounds, 2021, source=str(path), chunk=100)
    assert list(cube.band.values) == ["B02", "B05", "B08", "B12"]
    assert cube.sizes["time"] == 2
    assert list(cube.acquisition.values) == list(by_acquisition(items))
    (lattice,) = lattices(items).values()
    transform = cube.rio.transform()
    assert cube.rio.crs.to_epsg() == 32651
    assert float(cube.x[0]) == transform.c + 5
    assert float(cube.y[0]) == transform.f - 5
    assert transform.c % 10 == 0
    window = lattice.window(cube.rio.bounds())
    assert window.shape == (cube.sizes["y"], cube.sizes["x"])
    for index, group in enumerate(by_acquisition(items).values()):
        expected = read_reflectance(group, lattice, window, list(cube.band.values))
        np.testing.assert_array_equal(cube.reflectance[index].values, expected)
        np.testing.assert_array_equal(cube.valid[index].values, read_valid(group, lattice, window, MaskRule()))


def test_a_cube_too_large_to_explore_is_refused(country: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subpixmap.scenes.cube.MAX_CHUNKS", 3)
    bounds = find_items(str(country[0]), EVERYWHERE, PERIODS)[0]["bbox"]
    with pytest.raises(InputError, match="subpixmap run"):
        open_cube(bounds, 2021, source=str(country[0]), chunk=100)


def test_over_http_every_byte_is_asked_for_once(country: Any, tmp_path: Path) -> None:
    """Each block of each file is fetched once for a window, whatever the halo; files stay open for the next window."""
    import json

    from tests.helpers import stac_server

    path = country[0]
    text = path.read_text()
    with stac_server.serve() as server:
        server.files = path.parent
        remote = tmp_path / "items.json"
        remote.write_text(text.replace(str(path.parent), server.url))
        assert server.url in json.loads(remote.read_text())["features"][0]["assets"]["blue"]["href"]
        items = lock_items(find_items(str(remote), EVERYWHERE, PERIODS), PERIODS, BANDS)
        group = next(iter(by_acquisition(items).values()))
        (lattice,) = lattices(group).values()
        window = lattice.window((300500.0, 1197000.0, 302900.0, 1199500.0))
        there = read_reflectance(group, lattice, window, BANDS)
        # Beyond the first 32 kB, which come with the header, no byte is asked for twice.
        ranges = [(name, max(first, 32768), last) for name, first, last in server.ranges if last > 32768]
        asked = sum(last - first for _, first, last in ranges)
        unique = sum(
            len(set().union(*(range(first, last) for n, first, last in ranges if n == name)))
            for name in {name for name, _, _ in ranges}
        )
        assert 0 < asked <= 1.05 * unique
        server.ranges.clear()
        np.testing.assert_array_equal(read_reflectance(group, lattice, window, BANDS), there)
        # Nothing is opened or fetched again; that the file is still the same is asked.
        assert {(first, last) for _, first, last in server.ranges} == {(1, 3)}
    here = read_reflectance(next(iter(by_acquisition(country[1]).values())), lattice, window, BANDS)
    np.testing.assert_array_equal(there, here)


def test_a_task_decodes_each_block_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of the files that a task's reads touch, and bytes that they ask a server for: each once an acquisition."""
    from subpixmap.mapping.metadata import create_map
    from subpixmap.mapping.plan import write_plan
    from subpixmap.mapping.run import pending_tasks
    from subpixmap.mapping.task import map_block
    from subpixmap.scenes import reader
    from tests.helpers import mapping_data, stac_server

    tiles = (("51PTT", (300000.0, 1200000.0)), ("51PUT", (303000.0, 1200000.0)))
    raw = [
        scenes_data.make_item(
            tmp_path / "files", tile=tile, corner=corner, start=f"2021{month:02d}05T021051", seed=month,
            bands=mapping_data.BANDS, size_px=700,
        )
        for month in (1, 2) for tile, corner in tiles
    ]  # fmt: skip
    decoded: list[Any] = []

    def spy(asset: Any, window: Any, epsg: Any, *, read: Any = reader.read_window, **options: Any) -> Any:
        rows = range(window.row_off // 128, -(-(window.row_off + window.height) // 128))
        cols = range(window.col_off // 128, -(-(window.col_off + window.width) // 128))
        decoded.extend((asset.href, row, col) for row in rows for col in cols)
        return read(asset, window, epsg, **options)

    monkeypatch.setattr(reader, "read_window", spy)
    with stac_server.serve() as server:
        server.files = tmp_path / "files"
        path = scenes_data.write_collection(tmp_path / "items.json", raw)
        path.write_text(path.read_text().replace(str(server.files), server.url))
        items = lock_items(find_items(str(path), EVERYWHERE, PERIODS), PERIODS, list(mapping_data.BANDS))
        (lattice,) = lattices(items).values()
        first = lattice.window((300000.0, 1199999.0, 300001.0, 1200000.0))
        region = mapping_data.region_of(Window(first.row + 40, first.col + 40, 600, 800), lattice)
        country = mapping_data.Tiny(region, tuple(PERIODS), items, mapping_data.tiny_model())
        plan = write_plan(tmp_path / "out", country.plan(block=512))
        create_map(tmp_path / "out", plan)
        tasks = pending_tasks(tmp_path / "out", plan, items)
        assert len(tasks) > 1
        for task in tasks:
            decoded.clear()
            server.ranges.clear()
            map_block(task, country.model)
            assert len(decoded) <= 1.05 * len(set(decoded))
            asked = [(name, max(a, 32768), b) for name, a, b in server.ranges if b > 32768]
            unique = sum(
                len(set().union(*(range(a, b) for name, a, b in asked if name == one)))
                for one in {name for name, _, _ in asked}
            )
            assert sum(b - a for _, a, b in asked) <= 1.05 * unique
        assert {href for href, _, _ in decoded} <= {a.href for item in items for a in item.assets.values()}


@pytest.mark.realdata
def test_real_tiles_sampled_at_pixel_centres(real_data: Path) -> None:
    """At 120 m the two tiles' pixels lie 60 m apart: each lattice pixel is the file's pixel that holds its centre."""
    found = find_items(str(real_data / "sentinel2_120m" / "items_120m_fixed.json"), EVERYWHERE, make_periods(2023))
    bands = ["B02", "B03", "B04", "B08"]
    items = lock_items(found, make_periods(2023), bands)
    (lattice,) = lattices(items, 120.0).values()
    window = lattice.window((560000.0, 5080000.0, 590000.0, 5110000.0))
    x, y = lattice.coords(window)
    for group in by_acquisition(items).values():
        got = read_reflectance(group, lattice, window, bands)
        observed = read_valid(group, lattice, window, MaskRule())
        for index, band in enumerate([*bands, "SCL"]):
            expected = np.zeros(window.shape)
            for item in group:
                with rasterio.open(item.assets[band].href) as dataset:
                    values = dataset.read(1)
                    rows = np.floor((dataset.transform.f - y) / 120).astype(int)
                    cols = np.floor((x - dataset.transform.c) / 120).astype(int)
                inside = np.ix_((rows >= 0) & (rows < 600), (cols >= 0) & (cols < 600))
                part = np.zeros(window.shape)
                part[inside] = values[np.ix_(rows[(rows >= 0) & (rows < 600)], cols[(cols >= 0) & (cols < 600)])]
                expected = np.where(expected == 0, part, expected)
            if band == "SCL":
                np.testing.assert_array_equal(observed, ~np.isin(expected, MaskRule().drop) & (expected < 12))
            else:
                expected = np.where(expected == 0, np.nan, expected.astype(np.float32) / np.float32(10000))
                np.testing.assert_array_equal(got[index], expected)
        # Dense summer forest: dark in red, bright in near infrared (the offset is not taken away twice).
        if observed.mean() > 0.8:
            assert 0.01 < np.median(got[2][observed]) < 0.08
