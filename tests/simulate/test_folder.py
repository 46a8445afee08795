"""A simulated country: what its folder holds, its truth, its places on the Earth, its offsets, its bytes."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
from pyproj import Transformer
from scipy.ndimage import map_coordinates

from subpixmap.errors import InputError
from subpixmap.grid import utm_epsg
from subpixmap.periods import make_periods
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.items import Item, lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import find_items
from subpixmap.simulate import OBJECTS, VISIBLE_AGE, simulate_country, summarise, truth
from subpixmap.simulate.country import make_country
from subpixmap.simulate.folder import _check_room, room_for
from subpixmap.simulate.landcover import Landscape
from subpixmap.simulate.placement import Trees, join_trees, place_trees
from subpixmap.simulate.planting import plant
from subpixmap.simulate.schedule import schedule
from subpixmap.simulate.worlds import get_world
from subpixmap.simulate.zones import Extent

YEARS = (2020, 2022)


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_country(tmp_path_factory.mktemp("base") / "c", seed=3, size_km=2, years=YEARS, acquisitions=2)


@pytest.fixture(scope="module")
def seam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("seam") / "c"
    return simulate_country(where, seed=5, size_km=1, years=(2019, 2019), acquisitions=1, center=(120.0, 10.5))


def items_of(folder: Path) -> list[dict[str, Any]]:
    """Items as a reader of the catalogue finds them: by the links alone."""
    child = next(link for link in json.loads((folder / "catalog.json").read_text())["links"] if link["rel"] == "child")
    collection = folder / child["href"]
    found = []
    for link in json.loads(collection.read_text())["links"]:
        if link["rel"] == "item":
            path = collection.parent / link["href"]
            found.append(json.loads(path.read_text()) | {"_folder": path.parent})
    return found


def read(item: dict[str, Any], key: str) -> np.ndarray:
    with rasterio.open(item["_folder"] / item["assets"][key]["href"]) as source:
        return np.asarray(source.read(1))


def test_the_folder_holds_what_is_promised(country: Path) -> None:
    names = {path.name for path in country.iterdir()}
    assert names == {
        "catalog.json", "sentinel-2-l2a", "region.geojson", "admin.parquet", "truth.csv", "truth_scene.csv",
        "points.parquet", "cars.parquet", "highres", "country.json",
    }  # fmt: skip
    units = gpd.read_parquet(country / "admin.parquet")
    assert list(units.columns) == ["unit_id", "unit_name", "parent_id", "geometry"]
    assert len(units) == 12
    assert units.geometry.is_valid.all()
    assert set(units["parent_id"].dropna()) <= set(units["unit_id"])
    assert len(items_of(country)) == 2 * (6 + 1)  # two tiles; one scene was reprocessed


def test_children_fill_their_parents_and_the_country(country: Path) -> None:
    units = gpd.read_parquet(country / "admin.parquet").to_crs(32650)
    region = gpd.read_file(country / "region.geojson").to_crs(32650)
    top = units[units["parent_id"].isna()]
    assert units[units["parent_id"].notna()].area.sum() == pytest.approx(region.area.sum(), rel=1e-6)
    assert top.area.sum() == pytest.approx(region.area.sum(), rel=1e-6)
    for _, parent in top.iterrows():
        members = units[units["parent_id"] == parent["unit_id"]]
        assert members.union_all().symmetric_difference(parent.geometry).area < 1.0


def test_truth_equals_points_in_every_unit_and_year(country: Path) -> None:
    units = gpd.read_parquet(country / "admin.parquet")
    points = gpd.read_parquet(country / "points.parquet")
    assert points.crs == units.crs
    table = pd.read_csv(country / "truth.csv", dtype={"period": str}).set_index(["unit_id", "object", "period"])
    counted = table["count"]
    joined = points.sjoin(units[["unit_id", "geometry"]], predicate="within")
    expected = 0
    for year in range(YEARS[0], YEARS[1] + 1):
        age = year - joined["year_planted"]
        stands = (age >= joined["object"].map(VISIBLE_AGE)) & ~(joined["year_removed"] <= year)
        counts = joined[stands].groupby(["unit_id", "object"]).size()
        for unit in units["unit_id"]:
            for name in OBJECTS[:3]:
                assert counted[unit, name, str(year)] == counts.get((unit, name), 0)
                expected += 1
    assert expected == len(counted)
    assert counted.groupby("period").sum().nunique() > 1  # the years differ


def test_cars_are_counted_in_every_acquisition(country: Path) -> None:
    units = gpd.read_parquet(country / "admin.parquet")
    cars = gpd.read_parquet(country / "cars.parquet")
    scenes = pd.read_csv(country / "truth_scene.csv")
    datatakes = {item["properties"]["s2:datatake_id"].rsplit("_N", 1)[0] for item in items_of(country)}
    assert set(scenes["acquisition"]) == datatakes
    counts = cars.sjoin(units[["unit_id", "geometry"]], predicate="within").groupby(["unit_id", "acquisition"]).size()
    for row in scenes.itertuples():
        assert row.count == counts.get((row.unit_id, row.acquisition), 0)


def test_summary_is_the_sum_over_the_country(country: Path) -> None:
    table = summarise(country)
    years = pd.read_csv(country / "truth.csv", dtype={"period": str})
    leaves = years[years["unit_id"].str.count(r"\.") == 2]
    for name in OBJECTS[:3]:
        total = leaves[(leaves["object"] == name) & (leaves["period"] == "2021")]["count"].sum()
        assert table.loc[name, "2021"] == total
    with pytest.raises(InputError, match="highres"):
        summarise(country / "highres")


def test_assets_are_cloud_optimised_on_the_lattice_of_the_items(country: Path) -> None:
    for item in items_of(country):
        for name, asset in item["assets"].items():
            with rasterio.open(item["_folder"] / asset["href"]) as source:
                assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert source.compression.name == "deflate"
                assert list(source.shape) == asset["proj:shape"]
                assert list(source.transform)[:6] == asset["proj:transform"]
                assert source.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert source.nodata == 0
                assert source.transform.c % 20 == 0
                assert source.transform.f % 20 == 0
                gsd = 10 if name in ("blue", "green", "red", "nir") else 20
                assert source.res == (gsd, gsd)
                assert source.dtypes[0] == ("uint8" if name == "scl" else "uint16")


def test_large_assets_have_overviews(tmp_path: Path) -> None:
    from subpixmap.simulate.catalogue import DeliveredTile, write_cog

    tile = DeliveredTile("50PPT", 32650, 600000, 1200000, 1200, 1100)
    write_cog(tmp_path / "a.tif", np.full((1100, 1200), 700, np.uint16), tile, 10)
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.block_shapes == [(512, 512)]
        assert source.overviews(1) == [2, 4]


def test_overlapping_tiles_of_a_datatake_agree(country: Path) -> None:
    by_take: dict[str, list[dict[str, Any]]] = {}
    for item in items_of(country):
        by_take.setdefault(item["properties"]["s2:datatake_id"], []).append(item)
    for pair in by_take.values():
        west, east = sorted(pair, key=lambda item: item["assets"]["nir"]["proj:transform"][2])
        apart = round((east["assets"]["nir"]["proj:transform"][2] - west["assets"]["nir"]["proj:transform"][2]) / 10)
        a, b = read(west, "nir"), read(east, "nir")
        shared = a.shape[1] - apart
        assert shared >= 20
        np.testing.assert_array_equal(a[:, apart:], b[:, :shared])


def test_imagery_reaches_beyond_the_country(country: Path) -> None:
    region = gpd.read_file(country / "region.geojson").to_crs(32650).total_bounds
    tiles = [item["assets"]["nir"] for item in items_of(country)]
    west = min(a["proj:transform"][2] for a in tiles)
    east = max(a["proj:transform"][2] + 10 * a["proj:shape"][1] for a in tiles)
    assert region[0] - west > 300
    assert east - region[2] > 300
    points = gpd.read_parquet(country / "points.parquet").to_crs(32650)
    outside = (points.geometry.x < region[0] - 50) | (points.geometry.x > region[2] + 50)
    assert outside.sum() > 50


def through_scenes(
    found: list[dict[str, Any]], bands: tuple[str, ...] = ("B02", "B12")
) -> tuple[list[Item], np.ndarray]:
    """What a run reads of these items of one acquisition: locked, then reflectance of all their ground."""
    items = lock_items(found, make_periods("2020-2022"), bands)
    (lattice,) = lattices(items).values()
    corners = [(a.transform[2], a.transform[5], a.shape) for a in (item.assets["B02"] for item in items)]
    west, north = min(c[0] for c in corners), max(c[1] for c in corners)
    east, south = max(c[0] + 10 * c[2][1] for c in corners), min(c[1] - 10 * c[2][0] for c in corners)
    return items, read_reflectance(items, lattice, lattice.window((west, south, east, north)), bands)


def found_in(folder: Path) -> list[dict[str, Any]]:
    region = shapely.geometry.shape(json.loads((folder / "region.geojson").read_text())["features"][0]["geometry"])
    return find_items(str(folder / "catalog.json"), region, make_periods("2020-2022"))


def test_reprocessed_scenes_give_the_reflectance_of_the_originals(country: Path) -> None:
    found = found_in(country)
    new = [item for item in found if item["properties"]["s2:datatake_id"].endswith("N05.00")]
    old = [item for item in found if item["id"] in {i["id"].replace("_1_L2A", "_0_L2A") for i in new}]
    assert len(new) == len(old) == 2
    (first, a), (second, b) = through_scenes(old), through_scenes(new)
    assert {i.offset_dn for i in first} == {0}
    assert {i.offset_dn for i in second} == {-1000}
    assert np.isfinite(a).mean() > 0.5
    np.testing.assert_allclose(a, b, atol=1e-7)
    both = lock_items(found, make_periods("2020-2022"), ("B02", "B12"))  # the newest baseline is kept
    assert {i.id for i in second} < {i.id for i in both}
    assert not {i.id for i in first} & {i.id for i in both}
    # Numbers as stored differ by the whole offset: the check can fail.
    stored = [rasterio.open(i.assets["B02"].href).read(1).astype(int) for i in (first[0], second[0])]
    assert np.median(stored[1] - stored[0]) == 1000


def test_offsets_taken_away_or_kept_give_the_same_reflectance(country: Path, tmp_path: Path) -> None:
    other = simulate_country(
        tmp_path / "pc", seed=3, size_km=2, years=(2022, 2022), acquisitions=2, dialect="planetary-computer"
    )
    offsets = set()
    for take in sorted({item["properties"]["s2:datatake_id"] for item in items_of(other)}):
        one, two = (
            [i for i in found_in(folder) if i["properties"]["s2:datatake_id"] == take] for folder in (country, other)
        )
        assert not any("raster:bands" in item["assets"]["B04"] for item in two)
        (first, a), (second, b) = through_scenes(one), through_scenes(two)
        assert {i.offset_dn for i in second} == {-1000}
        offsets |= {i.offset_dn for i in first}
        np.testing.assert_allclose(a, b, atol=1e-7)
    assert offsets == {0, -1000}  # Earth Search: one acquisition has kept its offset, the other has not


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_through_memory_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"size_km": 1, "years": (2021, 2021), "acquisitions": 1}
    first = digest(simulate_country(tmp_path / "a", seed=11, **options))
    other = digest(simulate_country(tmp_path / "b", seed=12, **options))
    assert other["points.parquet"] != first["points.parquet"]
    monkeypatch.setattr("subpixmap.simulate.zones.IN_MEMORY", 0)
    assert digest(simulate_country(tmp_path / "b", seed=11, **options)) == first  # in place of the other country


def _told(item: dict[str, Any]) -> dict[str, Any]:
    """An item without the percentages of its scene classes."""
    properties = {
        k: v for k, v in item["properties"].items() if not k.endswith(("_percentage", "cloud_cover", "cirrus"))
    }
    return item | {"properties": properties, "_folder": None}


def test_objects_that_are_left_out_change_nothing_for_the_others(tmp_path: Path, country: Path) -> None:
    alone = simulate_country(
        tmp_path / "c", seed=3, size_km=2, years=(2020, 2020), acquisitions=2, objects=("coconut",)
    )
    # What the catalogue says does not tell what grows, but for the scene classes that are seen in the image.
    assert [_told(i) for i in items_of(alone)] == [_told(i) for i in items_of(country) if "_2020" in i["id"]]
    assert set(pd.read_csv(alone / "truth.csv")["object"]) == {"coconut"}
    assert not (alone / "cars.parquet").exists()
    # Parcels of other objects become fields and shrub, with a few lone palms more: none is lost.
    one, all_of_them = (
        set(
            gpd.read_parquet(folder / "points.parquet")
            .query("object == 'coconut' and not year_removed <= 2020")
            .to_wkb()["geometry"]
        )
        for folder in (alone, country)
    )
    born_later = set(gpd.read_parquet(country / "points.parquet").query("year_planted > 2020").to_wkb()["geometry"])
    assert all_of_them - born_later <= one
    assert len(one) < 1.1 * len(all_of_them)


def test_both_zones_agree_on_a_seam(seam: Path) -> None:
    items = items_of(seam)
    assert {item["properties"]["proj:epsg"] for item in items} == {32650, 32651}
    assert len({item["properties"]["s2:datatake_id"] for item in items}) == 1
    lon, lat = (a.ravel() for a in np.meshgrid(np.linspace(119.9985, 120.0015, 40), np.linspace(10.497, 10.503, 60)))
    values = {}
    for epsg in (32650, 32651):
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        found = np.full(lon.shape, np.nan)
        for item in items:
            if item["properties"]["proj:epsg"] == epsg:
                step, _, west, _, _, north = item["assets"]["nir"]["proj:transform"]
                image = np.where(read(item, "nir") == 0, np.nan, read(item, "nir").astype(float))
                part = map_coordinates(image, [(north - y) / step - 0.5, (x - west) / step - 0.5], order=1, cval=np.nan)
                found = np.where(np.isnan(found), part, found)
        values[epsg] = found
    both = np.isfinite(values[32650]) & np.isfinite(values[32651])
    assert both.mean() > 0.95
    a, b = values[32650][both], values[32651][both]
    assert np.corrcoef(a, b)[0, 1] > 0.97
    assert a.mean() == pytest.approx(b.mean(), rel=0.005)
    # The check can fail: half a pixel of displacement is seen.
    assert np.corrcoef(a[:-40], b[40:])[0, 1] < 0.97


def test_every_place_of_a_seam_country_has_imagery_of_its_own_zone(seam: Path) -> None:
    region = shapely.geometry.shape(json.loads((seam / "region.geojson").read_text())["features"][0]["geometry"])
    west, south, east, north = region.bounds
    lon, lat = (a.ravel() for a in np.meshgrid(np.linspace(west, east, 50), np.linspace(south, north, 50)))
    inside = shapely.contains_xy(region, lon, lat)
    zone = utm_epsg(lon, lat)
    for epsg in (32650, 32651):
        own = inside & (zone == epsg)
        assert own.any()
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon[own], lat[own])
        covered = np.zeros(x.shape, bool)
        for item in items_of(seam):
            if item["properties"]["proj:epsg"] == epsg:
                step, _, left, _, _, top = item["assets"]["nir"]["proj:transform"]
                rows, cols = item["assets"]["nir"]["proj:shape"]
                covered |= (x > left) & (x < left + step * cols) & (y < top) & (y > top - step * rows)
        assert covered.all()


def test_a_country_on_the_date_line_south_of_the_equator(tmp_path: Path) -> None:
    folder = simulate_country(
        tmp_path / "c", seed=5, size_km=1, years=(2019, 2019), acquisitions=1, center=(180, -16.5), world="shifted"
    )
    items = items_of(folder)
    assert {item["properties"]["proj:epsg"] for item in items} == {32760, 32701}
    crossing = [item for item in items if item["bbox"][0] > item["bbox"][2]]
    assert crossing
    assert all(item["geometry"]["type"] == "MultiPolygon" for item in crossing)
    units = gpd.read_parquet(folder / "admin.parquet")
    assert units.geometry.is_valid.all()
    bounds = units.bounds
    assert bounds["minx"].min() >= -180
    assert bounds["maxx"].max() <= 180
    area = sum(units[units["parent_id"].isna()].clip(box).to_crs(epsg).area.sum() for box, epsg in (
        ((-180, -17, -179, -16), 32701), ((179, -17, 180, -16), 32760),
    ))  # fmt: skip
    assert area == pytest.approx(1e6, rel=0.05)
    palms = pd.read_csv(folder / "truth.csv").query("object == 'coconut' and unit_id.str.count('[.]') == 1")
    points = gpd.read_parquet(folder / "points.parquet").query("object == 'coconut'")
    stands = (2019 - points["year_planted"] >= 4) & ~(points["year_removed"] <= 2019)
    assert len(points[stands].sjoin(units[units["parent_id"].isna()])) == palms["count"].sum()


def test_high_resolution_labels_are_the_points_of_their_areas(country: Path) -> None:
    areas = gpd.read_parquet(country / "highres" / "areas.parquet")
    labels = gpd.read_parquet(country / "highres" / "labels.parquet")
    points = gpd.read_parquet(country / "points.parquet")
    assert len(areas) >= 4
    stands = (2022 - points["year_planted"] >= points["object"].map(VISIBLE_AGE)) & ~(points["year_removed"] <= 2022)
    for area in areas.itertuples():
        inside = points[stands & points.within(area.geometry)]
        mine = labels[(labels["place"] == area.place) & (labels["object"] != "car")]
        assert abs(len(mine) - len(inside)) <= 1  # a point on the edge
        with rasterio.open(country / "highres" / f"{area.place}.tif") as source:
            assert source.shape == (400, 400)
            assert source.res == (0.5, 0.5)
            near = mine.to_crs(source.crs)
            x, y = (near.geometry.x - source.bounds.left) / 0.5, (source.bounds.top - near.geometry.y) / 0.5
            red = source.read(1)
            if area.place.startswith("coconut"):  # crowns are darker in the red than what is between them
                assert red[np.clip(y.astype(int), 0, 399), np.clip(x.astype(int), 0, 399)].mean() < 0.8 * red.mean()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"objects": ("mango",)}, "mango"),
        ({"objects": ()}, "object"),
        ({"size_km": 80}, "80"),
        ({"years": (2022, 2018)}, "2022-2018"),
        ({"acquisitions": 0}, "0 acquisitions"),
        ({"center": (119.5, 88)}, "119.5,88"),
        ({"world": "mirror"}, "mirror"),
        ({"dialect": "mars"}, "mars"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InputError, match=named):
        simulate_country(tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=tmp_path.name):
        simulate_country(tmp_path, size_km=1, years=(2021, 2021), acquisitions=1)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_room_that_is_planned_is_enough(country: Path) -> None:
    tiles = {tuple(item["assets"]["nir"]["proj:transform"][2:6:3]): item["assets"]["nir"]["proj:shape"]
             for item in items_of(country)}  # fmt: skip
    height, width = max(shape[0] for shape in tiles.values()), sum(shape[1] for shape in tiles.values())
    disk, memory = room_for([Extent(32650, 0, 0, width, height)], 6)
    used = sum(path.stat().st_size for path in country.rglob("*") if path.is_file())
    assert 0.3 * disk < used < disk
    assert memory < 2e9


def test_the_catalogue_is_valid_stac(country: Path) -> None:
    pytest.importorskip("jsonschema")
    from pystac.validation.stac_validator import JsonSchemaSTACValidator

    catalog = pystac.Catalog.from_file(str(country / "catalog.json"))
    items = list(catalog.get_items(recursive=True))
    assert len(items) == len(items_of(country))
    validator = JsonSchemaSTACValidator()  # its core schemas are on board; those of extensions are not
    for thing in (catalog, *catalog.get_children(), *items):
        plain = thing.to_dict()
        validator.validate_core(plain, thing.STAC_OBJECT_TYPE, plain["stac_version"])
    del plain["geometry"]
    with pytest.raises(pystac.errors.STACValidationError):
        validator.validate_core(plain, thing.STAC_OBJECT_TYPE, plain["stac_version"])
    for item in items:
        assert all(Path(asset.get_absolute_href() or "").is_file() for asset in item.assets.values())
        assert shapely.geometry.shape(item.geometry).is_valid


def test_a_country_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = Extent(32650, 0, 0, 5000, 5000)
    with pytest.raises(InputError, match="disk"):
        _check_room(tmp_path / "not" / "there", 50, [huge], 10**6)

    monkeypatch.setattr("distributed.system.memory_limit", lambda: 10**8)
    with pytest.raises(InputError, match="memory"):
        _check_room(tmp_path, 50, [huge], 1)


def as_set(trees: Trees) -> set[tuple[float, ...]]:
    return set(zip(*(getattr(trees, field.name).tolist() for field in fields(Trees)), strict=True))


def test_cells_that_wait_in_files_hold_the_same_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subpixmap.simulate.planting.CELL_M", 300.0)
    landscape, bounds = Landscape(9, get_world("base"), OBJECTS), (-100.0, -250.0, 550.0, 300.0)
    steps: list[int] = []
    planted = plant(landscape, bounds, tmp_path, lambda: steps.append(1))
    assert len(planted.cells) == len(steps) == 6
    whole = place_trees(landscape, bounds)
    assert len(whole) > 500
    assert as_set(planted.within(bounds)) == as_set(join_trees(list(planted.trees()))) == as_set(whole)
    inside = (whole.x >= 100) & (whole.x < 330) & (whole.y >= -20) & (whole.y < 70)
    assert as_set(planted.within((100.0, -20.0, 330.0, 70.0))) == as_set(whole[inside])


def test_tables_of_points_do_not_depend_on_their_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(119, 120, (2, 1000))
    names = pa.array([f"tree {k}" for k in range(1000)])
    whole = truth._with_geometry({"object": names}, lon, lat)
    monkeypatch.setattr(truth, "_ROW_GROUP", 300)
    for number, parts in enumerate(([1000], [1, 299, 0, 450, 250])):
        edges = np.cumsum([0, *parts])
        truth._write_points(
            tmp_path / f"{number}.parquet", (whole.slice(a, n) for a, n in zip(edges[:-1], parts, strict=True))
        )
    one, other = ((tmp_path / f"{k}.parquet") for k in (0, 1))
    assert pq.ParquetFile(other).metadata.num_row_groups == 4
    read = gpd.read_parquet(other)
    assert read["object"].tolist() == names.to_pylist()
    np.testing.assert_array_equal(read.geometry.x, lon)
    assert gpd.read_parquet(one).equals(read)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed", "size"), [("base", 1, 6), ("base", 7, 6), ("base", 5, 9), ("shifted", 3, 9), ("shifted", 5, 9)]
)
def test_countries_hold_enough_of_every_object(name: str, seed: int, size: int, tmp_path: Path) -> None:
    """Errors of a country's total are judged from 20,000 objects on; of cars, from the year's acquisitions together."""
    world, half = get_world(name), size * 550.0
    land = make_country(seed, size_km=size, center=(119.5, 10.5), world=world, objects=OBJECTS)
    planted = plant(land.landscape, (-half, -half, half, half), tmp_path, lambda: None)
    by_year = truth.truth_by_year(land, planted, (2018, 2023)).query("unit_id.str.count('[.]') == 1")
    for kind, counts in by_year.groupby(["object", "period"])["count"].sum().groupby("object"):
        assert counts.min() >= 20_000, kind
    dates = schedule(seed, years=(2018, 2018), per_year=4, lon=119.5, lat=10.5, world=world, half_m=size * 500)
    cars = truth.truth_by_scene(land, planted.lots, dates).query("unit_id.str.count('[.]') == 1")
    assert cars["count"].sum() >= 20_000


def test_the_command_takes_every_option(
    subpixmap: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = subpixmap(
        "simulate", tmp_path / "c", "--seed", 4, "--size-km", 1, "--years", "2021", "--objects", "olive", "--objects",
        "car,coconut", "--acquisitions", 1, "--center", "-3.8,-37.9", "--world", "shifted", "--dialect",
        "planetary-computer",
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0
    made = json.loads((tmp_path / "c" / "country.json").read_text())
    assert (made["seed"], made["years"], made["objects"]) == (4, [2021, 2021], ["coconut", "olive", "car"])
    assert (made["center"], made["world"], made["epsg"]) == ([-3.8, -37.9], "shifted", 32730)
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["coconut", "olive", "car"]
    assert "2021" in out
    assert "simulate: " in err
    assert not (tmp_path / "c" / ".scratch").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--center", "Manila"),
        ("--center", "10.0,95.0"),
        ("--size-km", "0.5"),
        ("--years", "2023-2018"),
        ("--objects", "mango"),
        ("--acquisitions", "99"),
        ("--world", "mars"),
        ("--dialect", "latin"),
    ],
)
def test_the_command_refuses_in_one_line(
    subpixmap: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert subpixmap("simulate", tmp_path / "c", option, value) == 2
    said = capsys.readouterr().err
    assert value in said
    assert "Traceback" not in said
    assert not (tmp_path / "c").exists()
