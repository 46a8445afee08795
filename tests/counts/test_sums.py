"""Zonal sums: by hand, against exactextract itself, and by what must be conserved."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from subpixmap.counts.count import count_blocks
from subpixmap.counts.fractions import unit_fractions, zonal_sums
from subpixmap.counts.rows import FLAGS
from subpixmap.counts.units import prepare_units
from subpixmap.counts.unlike import unlike_remarks, unlike_words
from subpixmap.errors import InputError
from subpixmap.grid import Block, Lattice, Window, owned
from subpixmap.mapping.zones import plan_zones
from subpixmap.periods import Period
from subpixmap.tables import COUNTS
from tests.helpers.map_blocks import YEARS, ZONE51, corner, facts, frame, map_block, stacked

# By hand --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three() -> Any:
    """A 3 x 3 window with its upper left corner."""
    window = Window(836_000, 30_000, 3, 3)
    west, _, _, north = corner(window)
    return window, west, north


def test_fractions_of_three_by_three_by_hand(three: Any) -> None:
    window, west, north = three
    # From the middle of pixel (0, 0) to a quarter into pixel (2, 2), measured in pixels.
    unit = shapely.box(west + 5, north - 22.5, west + 22.5, north - 5)
    found = unit_fractions([unit], ZONE51, window)
    expected = np.outer([0.5, 1, 0.25], [0.5, 1, 0.25])
    assert found.pixel.tolist() == list(range(9))
    assert found.fraction.tolist() == expected.ravel().tolist()
    values = np.arange(9.0).reshape(3, 3)
    assert zonal_sums(found, values[None], 1)[0, 0] == (values * expected).sum()


def test_two_units_and_an_empty_one_keep_their_places(three: Any) -> None:
    window, west, north = three
    left = shapely.box(west, north - 30, west + 15, north)
    right = shapely.box(west + 15, north - 30, west + 30, north)
    sums = zonal_sums(unit_fractions([left, shapely.Polygon(), right], ZONE51, window), np.ones((2, 3, 3)), 3)
    assert sums.tolist() == [[4.5, 4.5], [0, 0], [4.5, 4.5]]


def test_pixel_order_is_row_major_from_the_north(three: Any) -> None:
    window, west, north = three
    unit = shapely.box(west + 20, north - 10, west + 30, north)  # the upper right pixel alone
    assert unit_fractions([unit], ZONE51, window).pixel.tolist() == [2]


def test_sums_are_float64_even_of_float32_maps() -> None:
    window = Window(836_000, 30_000, 2000, 2000)
    unit = shapely.box(*corner(window))
    value = np.float32(0.01)
    sums = zonal_sums(unit_fractions([unit], ZONE51, window), np.full((1, 2000, 2000), value), 1)
    assert sums[0, 0] == pytest.approx(float(value) * 4e6, rel=1e-13)


# One zone: against exactextract and conservation ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def island() -> Any:
    """A block of counts with gaps, and a country of irregular units in it."""
    rng = np.random.default_rng(5)
    block = Block(ZONE51, 1634, 58, 512)
    counts = {}
    for year in ("2018", "2019"):
        count = rng.gamma(0.3, 1.0, (2, 512, 512)) - 0.02
        count[:, rng.random((512, 512)) < 0.2] = np.nan
        counts[year] = count.astype(np.float32)
    west, south, east, north = ZONE51.bounds(block.window)
    seeds = shapely.MultiPoint(np.column_stack([rng.uniform(west, east, 12), rng.uniform(south, north, 12)]))
    shape = shapely.Point((west + east) / 2, (south + north) / 2).buffer(1800)
    units = [shapely.intersection(cell, shape) for cell in shapely.voronoi_polygons(seeds, extend_to=shape).geoms]
    return block, counts, [unit for unit in units if not unit.is_empty]


def run(island: Any, units: Any, objects: Any = ("coconut", "oil_palm")) -> Any:
    block, counts, _ = island
    return count_blocks([map_block(block, counts)], frame(units), facts(objects=objects), size=block.size)


def test_units_and_outside_are_the_map(island: Any) -> None:
    counted = run(island, island[2])
    whole = counted.accounts.balance["map"].to_numpy()
    expected = [np.nansum(counts.astype(float), axis=(1, 2)) for counts in island[1].values()]
    assert whole == pytest.approx(np.array(expected).T.ravel(), rel=1e-13)
    assert (counted.accounts.balance["units"] + counted.accounts.balance["outside"]).to_numpy() == pytest.approx(
        whole, rel=1e-9
    )
    assert (counted.accounts.outside["map_total"] > 0).all()
    total = counted.table.groupby(["object", "period"], sort=False)["map_total"].sum()
    assert total.to_numpy() == pytest.approx(counted.accounts.balance["units"].to_numpy(), rel=1e-12)
    assert counted.accounts.overlap_ha == pytest.approx(0, abs=1e-4)


def test_a_missing_unit_would_be_noticed(island: Any) -> None:
    """The check above can fail: outside is computed from its own polygon, not as the rest."""
    units = island[2]
    counted = run(island, [*units, units[0]])
    assert (counted.accounts.balance["counted_twice"] > 1).all()
    assert counted.accounts.overlap_ha == pytest.approx(units[0].area / 1e4, rel=1e-3)


def test_a_unit_split_in_two_adds_up(island: Any) -> None:
    block, _, units = island
    west, south, east, north = ZONE51.bounds(block.window)
    middle = (west + east) / 2 + 3.3
    halves = [shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)]
    parts = [shapely.intersection(shapely.union_all(units), half) for half in halves]
    whole = run(island, [shapely.union_all(units)]).table
    split = run(island, parts).table.groupby(["object", "period"], sort=False)
    for name in ("map_total", "area_ha", "observed_ha", "object_area_ha"):
        assert split[name].sum().to_numpy() == pytest.approx(whole[name].to_numpy(), rel=1e-8), name


def test_agrees_with_exactextract_itself(island: Any) -> None:
    import rioxarray  # noqa: F401 - the accessor that exactextract looks for
    import xarray as xr
    from exactextract import exact_extract

    block, counts, units = island
    x, y = ZONE51.coords(block.window)
    array = xr.DataArray(counts["2018"][0].astype(float), dims=("y", "x"), coords={"y": y, "x": x})
    array = array.rio.write_crs(32651).rio.write_nodata(np.nan)
    expected = exact_extract(array, frame(units), ["sum", "count"], output="pandas")
    table = run(island, units).table
    mine = table[(table["object"] == "coconut") & (table["period"] == "2018")]
    assert mine["map_total"].to_numpy() == pytest.approx(expected["sum"].to_numpy(), rel=1e-9)
    assert (mine["observed_ha"] * 100).to_numpy() == pytest.approx(expected["count"].to_numpy(), rel=1e-9)


def test_a_constant_map_gives_constant_times_pixels(island: Any) -> None:
    block, _, units = island
    counts = {"2018": np.full((1, 512, 512), 0.25), "2019": np.full((1, 512, 512), 0.5)}
    table = count_blocks([map_block(block, counts)], frame(units), facts(), size=512).table
    for year, value in (("2018", 0.25), ("2019", 0.5)):
        rows = table[table["period"] == year]
        areas = np.array([unit.area for unit in units])
        assert rows["map_total"].to_numpy() == pytest.approx(areas / 100 * value, rel=1e-7)
        assert rows["density_per_ha"].to_numpy() == pytest.approx(value * 100, rel=1e-12)
        assert rows["map_total_full"].to_numpy() == pytest.approx(rows["map_total"].to_numpy(), rel=1e-12)
        assert (rows["observed_frac"] == 1).all()


def test_stored_steps_and_their_values_give_the_same_bits(island: Any) -> None:
    """What a run folder is read as (whole steps) against what an opened map holds (numbers)."""
    from dataclasses import replace

    from subpixmap.mapping.quantise import decode, encode

    block, counts, units = island
    values = {year: decode(encode(count)) for year, count in counts.items()}
    plain = map_block(block, values)

    def steps(periods: Any, wanted: Any) -> Iterator[Any]:
        for arrays in plain.read(periods, wanted):
            yield {name: encode(one) if one.dtype.kind == "f" else one for name, one in arrays.items()}

    tables = [
        count_blocks([one], frame(units), facts(objects=("coconut", "oil_palm")), size=512)
        for one in (plain, replace(plain, read=steps))
    ]
    for name in ("map_total", "object_area_ha", "observed_ha", "n_obs_median"):
        first, second = (counted.table[name].to_numpy() for counted in tables)
        np.testing.assert_array_equal(first, second, err_msg=name)
    one, other = (counted.series["common_total"].to_numpy() for counted in tables)
    np.testing.assert_array_equal(one, other)
    assert tables[0].accounts.balance.equals(tables[1].accounts.balance)
    assert tables[0].accounts.background.equals(tables[1].accounts.background)


def test_two_identical_runs_give_the_same_bits(island: Any) -> None:
    a, b = (run(island, island[2]).table["map_total"].to_numpy() for _ in range(2))
    assert a.tobytes() == b.tobytes()


# What was not observed -----------------------------------------------------------------------------------------------


def test_unobserved_is_blank_never_zero() -> None:
    block = Block(ZONE51, 3268, 116, 256)
    count = np.zeros((1, 256, 256))
    count[:, :, 128:] = np.nan
    west, south, east, north = ZONE51.bounds(block.window)
    middle = (west + east) / 2
    left, right = shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)
    both = shapely.box(west, south, east, north)
    table = count_blocks(
        [map_block(block, {"2018": count})], frame([left, right, both]), facts(), size=256
    ).table.set_index(["unit_id", "period"])
    assert table.loc[("000", "2018"), "map_total"] == 0  # observed, and nothing there
    assert table.loc[("001", "2018"), ["map_total", "map_total_full", "density_per_ha", "object_area_ha"]].isna().all()
    assert table.loc[("001", "2018"), "observed_frac"] == pytest.approx(0, abs=1e-9)
    assert "not_observed" in table.loc[("001", "2018"), "flag"]
    assert table.loc[("002", "2018"), "observed_frac"] == pytest.approx(0.5)
    assert "partly_observed" in table.loc[("002", "2018"), "flag"]
    assert table.loc[("000", "2019"), "map_total"] is not None  # no ledger record at all
    assert np.isnan(table.loc[("000", "2019"), "map_total"])
    assert table.loc[("000", "2019"), "n_obs_median"] == 0


def test_full_total_is_density_times_area() -> None:
    block = Block(ZONE51, 3268, 116, 256)
    count = np.full((1, 256, 256), 2.0)
    count[:, :64] = np.nan
    unit = shapely.box(*ZONE51.bounds(block.window))
    row = count_blocks([map_block(block, {"2018": count})], frame([unit]), facts(YEARS[:1]), size=256).table.iloc[0]
    assert row["map_total"] == 2 * 192 * 256
    assert row["observed_frac"] == pytest.approx(0.75)
    assert row["map_total_full"] == pytest.approx(2 * 256 * 256, rel=1e-12)
    assert row["flag"] == "partly_observed;simulated_evidence"


def test_a_unit_beyond_the_map_keeps_its_area_and_says_so() -> None:
    block = Block(ZONE51, 3268, 116, 256)
    west, south, east, north = ZONE51.bounds(block.window)
    half_out = shapely.box(west, south, east + 2560, north)
    far = shapely.box(west + 50_000, south, east + 50_000, north)
    chunkless = map_block(block, {"2018": np.ones((1, 256, 256))})
    table = count_blocks([chunkless], frame([half_out, far]), facts(YEARS[:1]), size=256).table
    assert table["area_ha"].tolist() == pytest.approx([2 * 655.36, 655.36], rel=1e-9)
    assert table["observed_frac"].tolist() == pytest.approx([0.5, 0])
    assert table["map_total"].iloc[0] == 65536
    assert np.isnan(table["map_total"].iloc[1])
    assert np.isnan(table["n_obs_median"].iloc[1])
    assert all("outside_map" in flag for flag in table["flag"])


def test_out_of_domain_share_comes_from_the_ledgers_cells() -> None:
    block = Block(ZONE51, 3268, 116, 256)
    count = np.ones((1, 256, 256))
    count[:, 200:] = np.nan
    observed = np.array([[128 * 128, 128 * 128], [72 * 128, 72 * 128]])
    cells = {"2018": {"observed_px": observed, "out_of_domain_px": observed * np.array([[1, 0], [0.5, 0]])}}
    west, south, east, north = ZONE51.bounds(block.window)
    left = shapely.box(west, south, (west + east) / 2, north)
    table = count_blocks(
        [map_block(block, {"2018": count}, cells=cells)],
        frame([left, shapely.box(west, south, east, north)]),
        facts(YEARS[:1]),
        size=256,
    ).table
    expected = (128 + 36) / 200
    assert table["ood_frac"].tolist() == pytest.approx([expected, expected / 2], rel=1e-12)
    assert "out_of_domain" in table["flag"].iloc[0]
    assert unlike_words(table.iloc[:1]) == "82% of the land is unlike the training data"
    assert unlike_words(table.assign(flag=None)) is None
    (remark,) = unlike_remarks(table)
    assert remark.startswith("the land of 2 of 2 units is unlike the training data in 2018 (up to 82% of the pixels)")
    (remark,) = unlike_remarks(table.assign(ood_frac=1.0))
    assert remark.startswith("every observed pixel is unlike the training data: do not use these totals")
    assert unlike_remarks(table.assign(flag="tiny_unit")) == []


def test_median_of_clear_observations() -> None:
    block = Block(ZONE51, 3268, 116, 256)
    n_obs = np.zeros((256, 256), np.uint16)
    n_obs[:, 64:128], n_obs[:, 128:] = 3, 40  # more than the histogram tells apart
    west, south, _, north = ZONE51.bounds(block.window)
    units = [shapely.box(west, south, west + width * 10, north) for width in (64, 128, 129, 256)]
    blocks = [map_block(block, {"2018": np.where(n_obs > 0, 1.0, np.nan)[None]}, n_obs=n_obs)]
    table = count_blocks(blocks, frame(units), facts(YEARS[:1]), size=256).table
    assert table["n_obs_median"].tolist() == [0, 1.5, 3, 6.5]


# Zones ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seam() -> Any:
    """Both zones' blocks around 120 E, each computing only what it owns; one object per pixel."""
    region = shapely.box(119.96, 10.48, 120.04, 10.54)
    blocks = []
    for zone in plan_zones(shapely.segmentize(region, 0.005), {}, 10.0, 512).values():
        for plan in zone.blocks:
            block = plan.block
            count = np.full((1, *block.window.shape), np.nan)
            for chunk in plan.chunks:
                count[0][chunk.slices(block.window)] = 1.0
            count[0][~owned(zone.lattice, block.window)] = np.nan
            blocks.append(map_block(block, {"2018": count}, plan.chunks))
    return blocks


def test_a_unit_across_120_east_is_whole(seam: Any) -> None:
    unit = shapely.segmentize(shapely.box(119.97, 10.49, 120.03, 10.53), 0.002)
    west, east = (
        shapely.segmentize(shapely.box(*b), 0.002) for b in ((119.97, 10.49, 120, 10.53), (120, 10.49, 120.03, 10.53))
    )
    table = count_blocks(seam, frame([unit, west, east], epsg=4326), facts(YEARS[:1]), size=512).table
    assert table["observed_frac"].to_numpy() == pytest.approx(1, abs=1e-12)
    assert table["map_total"].to_numpy() == pytest.approx(table["area_ha"].to_numpy() * 100, rel=1e-9)
    # The area on the lattices is the area on the ground within the scale error of UTM at its edge (0.1 % in length).
    from pyproj import Geod

    ground = abs(Geod(ellps="WGS84").geometry_area_perimeter(unit)[0]) / 1e4
    assert table["area_ha"].iloc[0] == pytest.approx(ground, rel=3e-3)
    assert table["area_ha"].iloc[1:].sum() == pytest.approx(table["area_ha"].iloc[0], rel=1e-6)
    assert table["area_ha"].iloc[1] == pytest.approx(table["area_ha"].iloc[2], rel=1e-2)


def test_a_unit_in_a_zone_that_the_map_lacks_keeps_its_area(seam: Any) -> None:
    west_only = [block for block in seam if block.lattice.epsg == 32650]
    unit = shapely.segmentize(shapely.box(119.97, 10.49, 120.03, 10.53), 0.002)
    whole = count_blocks(seam, frame([unit], epsg=4326), facts(YEARS[:1]), size=512).table
    part = count_blocks(west_only, frame([unit], epsg=4326), facts(YEARS[:1]), size=512).table
    assert part["area_ha"].iloc[0] == pytest.approx(whole["area_ha"].iloc[0], rel=1e-7)
    assert part["observed_frac"].iloc[0] == pytest.approx(0.5, abs=0.01)


def test_the_area_beyond_the_map_is_that_of_exactextract(seam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 km of irregular coast across 120 E, most of it beyond the map: planar area against all coverage fractions."""
    from subpixmap.counts import fractions

    rng = np.random.default_rng(2)
    angle = np.linspace(0, 2 * np.pi, 700)
    radius = 0.18 * (1 + 0.2 * np.sin(5 * angle) + rng.uniform(-0.03, 0.03, angle.size))
    unit = shapely.Polygon(np.column_stack([120.02 + radius * np.cos(angle), 10.6 + radius * np.sin(angle)])).buffer(0)
    expected = 0.0
    for epsg in (32650, 32651):
        lattice = Lattice(epsg, 10.0)
        polygon = gpd.GeoSeries([unit], crs=4326).to_crs(epsg).iloc[0]
        window = lattice.window(polygon.bounds)
        expected += zonal_sums(unit_fractions([polygon], lattice, window), owned(lattice, window)[None], 1)[0, 0]
    looked_at = []
    plain = fractions.unit_fractions
    monkeypatch.setattr(fractions, "unit_fractions", lambda u, at, w: looked_at.append(w) or plain(u, at, w))  # type: ignore[func-returns-value]
    table = count_blocks(seam, frame([unit], epsg=4326), facts(YEARS[:1]), size=512).table
    assert table["area_ha"].iloc[0] * 100 == pytest.approx(expected, rel=1e-9)
    assert "outside_map" in table["flag"].iloc[0]
    # Only what lies at the border of the zones is looked at pixel by pixel, in squares of 128 px.
    assert 0 < sum(w.height * w.width for w in looked_at) < 0.1 * expected


def test_units_that_are_all_empty_have_no_area(seam: Any) -> None:
    table = count_blocks(seam, frame([shapely.Polygon()], epsg=4326), facts(YEARS[:1]), size=512).table
    assert table["area_ha"].tolist() == [0]


def test_units_and_outside_are_the_map_across_zones(seam: Any) -> None:
    units = [shapely.segmentize(shapely.box(119.97, 10.49, 120.01, 10.53), 0.002)]
    balance = count_blocks(seam, frame(units, epsg=4326), facts(YEARS[:1]), size=512).accounts.balance.iloc[0]
    assert balance["units"] + balance["outside"] == pytest.approx(balance["map"], rel=1e-9)


# Units as they come --------------------------------------------------------------------------------------------------


def test_no_unit_is_dropped() -> None:
    block = Block(ZONE51, 3268, 116, 256)
    west, south, east, north = ZONE51.bounds(block.window)
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    square = shapely.box(west, south, west + 1280, north)
    units = frame(
        [bow, None, shapely.Polygon(), square, square, shapely.LineString([(west, south), (east, north)])],
        ids=["bow", "none", "empty", "first", "again", "line"],
        unit_name=["a,b", '"q"', "é\nñ", "=1+1", None, ""],
        parent_id=["01"] * 6,
    )
    table = count_blocks([map_block(block, {"2018": np.ones((1, 256, 256))})], units, facts(YEARS[:1]), size=256).table
    assert table["unit_id"].tolist() == ["bow", "none", "empty", "first", "again", "line"]
    assert table["map_total"].iloc[[0, 3, 4]].tolist() == pytest.approx([32768, 32768, 32768])
    assert table["map_total"].iloc[[1, 2, 5]].isna().all()
    assert table["area_ha"].iloc[[1, 2, 5]].tolist() == [0, 0, 0]
    assert "repaired_polygon" in table["flag"].iloc[0]
    assert all("no_polygon" in table["flag"].iloc[i] for i in (1, 2, 5))
    assert set(";".join(table["flag"]).split(";")) <= set(FLAGS)


def test_one_id_in_several_rows_is_one_unit() -> None:
    west, south, east, north = ZONE51.bounds(Window(836_000, 30_000, 4, 4))
    halves = [shapely.box(west, south, west + 20, north), shapely.box(west + 20, south, east, north)]
    units = prepare_units(frame([halves[0], halves[1], halves[1]], ids=["1", "1", "1"], unit_name=["x", None, "x"]))
    assert len(units) == 1
    assert units.table.loc[0, "unit_name"] == "x"
    assert units.flags[0] == ("repeated_id",)
    with pytest.raises(InputError, match=r"'1'.*unit_name.*'x'.*'y'"):
        prepare_units(frame(halves, ids=["1", "1"], unit_name=["x", "y"]))


def test_ids_are_text() -> None:
    box = shapely.box(500_000, 1_000_000, 500_100, 1_000_100)
    assert prepare_units(frame([box, box], ids=["012", "0012"])).table["unit_id"].tolist() == ["012", "0012"]
    assert prepare_units(frame([box], ids=[1001301000.0])).table["unit_id"].tolist() == ["1001301000"]


@pytest.mark.parametrize(
    ("units", "named"),
    [
        (gpd.GeoDataFrame({"unit_id": ["1"]}, geometry=[shapely.box(0, 0, 1, 1)]), "CRS"),
        (gpd.GeoDataFrame({"code": ["1"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326), "unit_id"),
        (frame([shapely.box(0, 0, 1, 1)], epsg=4326, ids=[""]), r"unit_id.*row 1"),
        (frame([shapely.box(10, 119, 11, 120)], epsg=4326), "119 to 120"),
        (frame([], epsg=4326, ids=[]), "units"),
    ],
)
def test_bad_units_are_refused(units: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        prepare_units(units)


def test_rows_and_columns_are_the_contract(island: Any) -> None:
    table = run(island, island[2][:3]).table
    assert list(table.columns) == [*COUNTS, "geometry"]
    keys = table[["unit_id", "object", "period"]].to_numpy().tolist()
    assert keys == [[u, o, p] for u in ("000", "001", "002") for o in ("coconut", "oil_palm") for p in ("2018", "2019")]
    blank = ["estimate", "se", "cv", "ci_low", "ci_high", "ci_level", "estimator", "n_ref", "suppressed"]
    assert table[blank].isna().all(axis=None)
    assert table["items_sha256"].tolist() == ["items 2018", "items 2019"] * 6
    assert table["period_end"].iloc[0] == "2018-12-31"


# Levels, neighbours and noise ---


def test_children_and_what_is_in_no_child_are_the_parent(island: Any) -> None:
    block, counts, units = island
    parent = shapely.union_all(units)
    everything = frame(
        [parent, *units[:-1]], ids=["P", *[f"c{i}" for i in range(len(units) - 1)]],
        parent_id=[None, *["P"] * (len(units) - 1)],
    )  # fmt: skip
    counted = count_blocks([map_block(block, counts)], everything, facts(objects=("coconut", "oil_palm")), size=512)
    table = counted.table.set_index(["unit_id", "object", "period"])
    assert len(counted.accounts.parents) == 4
    lost = run(island, [units[-1]]).table["map_total"].to_numpy()
    assert counted.accounts.parents["difference"].to_numpy() == pytest.approx(lost, rel=1e-6)
    assert counted.accounts.parents["parent_total"].iloc[0] == table.loc[("P", "coconut", "2018"), "map_total"]
    # The parent alone is set against the map: its children are not counted twice.
    assert counted.accounts.balance["counted_twice"].to_numpy() == pytest.approx(0, abs=1e-4)


def test_what_lies_outside_near_a_unit_is_told_apart_and_can_be_assigned() -> None:
    block = Block(ZONE51, 1634, 58, 512)  # 5.12 km wide
    west, south, _, north = ZONE51.bounds(block.window)
    left = shapely.box(west, south, west + 1000, north)
    right = shapely.box(west + 1800, south, west + 2000, north)
    blocks = [map_block(block, {"2018": np.ones((1, 512, 512))})]
    plain = count_blocks(blocks, frame([left, right]), facts(YEARS[:1]), size=512)
    # Between them 800 m, beyond the right one 1 km: all within 1 km of a unit.
    assert plain.accounts.outside["near_ha"].iloc[0] == pytest.approx((800 + 1000) * 5120 / 1e4, rel=2e-3)
    assert plain.accounts.outside["near_total"].iloc[0] == pytest.approx(180 * 512, rel=2e-3)
    given = count_blocks(blocks, frame([left, right]), facts(YEARS[:1], assign_nearest=True), size=512)
    assert given.table["map_total"].tolist() == pytest.approx([140 * 512, 160 * 512], rel=2e-3)
    assert given.accounts.outside["map_total"].iloc[0] == pytest.approx(
        plain.accounts.outside["map_total"].iloc[0] - plain.accounts.outside["near_total"].iloc[0], rel=1e-6
    )
    balance = given.accounts.balance.iloc[0]
    assert balance["units"] + balance["outside"] == pytest.approx(balance["map"], rel=1e-9)


def test_what_is_mapped_beyond_the_region_is_in_no_sum() -> None:
    """By hand: a unit of 1 km, the region 300 m wider on one side and 2 km on the other, the map wider still."""
    block = Block(ZONE51, 1634, 58, 512)
    west, south, _, _ = ZONE51.bounds(block.window)
    unit = shapely.box(west + 1000, south + 1000, west + 2000, south + 2000)
    region = gpd.GeoSeries([shapely.box(west + 700, south + 1000, west + 4000, south + 2000)], crs=32651)
    blocks = [map_block(block, {"2018": np.ones((1, 512, 512))})]

    def count(units: Any, assign_nearest: bool = False, **options: Any) -> Any:
        region_too = {"region": region.segmentize(100).to_crs(4326).iloc[0]} | options
        mine = facts(YEARS[:1], assign_nearest=assign_nearest)
        return count_blocks(blocks, frame(units), mine, size=512, **region_too)

    found = count([unit])
    outside, balance = found.accounts.outside.iloc[0], found.accounts.balance.iloc[0]
    assert found.table["map_total"].iloc[0] == pytest.approx(1e4, rel=1e-6)
    assert outside["map_total"] == pytest.approx((300 + 2000) * 1000 / 100, rel=1e-6)
    assert outside["near_total"] == pytest.approx((300 + 1000) * 1000 / 100, rel=2e-3)
    assert outside["area_ha"] == pytest.approx(230, rel=1e-6)
    assert balance["map"] == pytest.approx(3300 * 1000 / 100, rel=1e-6)
    assert balance["units"] + balance["outside"] == pytest.approx(balance["map"], rel=1e-7)
    assert found.accounts.overlap_ha == pytest.approx(0, abs=1e-3)
    # All that is mapped, where no region is given.
    assert count([unit], region=None).accounts.balance["map"].iloc[0] == pytest.approx(512**2, rel=1e-7)
    # A unit that reaches beyond the region is counted whole, and belongs to what is accounted for.
    wide = count([shapely.box(west + 200, south + 1000, west + 2000, south + 2000)])
    assert wide.table["map_total"].iloc[0] == pytest.approx(1.8e4, rel=1e-6)
    assert wide.accounts.balance["map"].iloc[0] == pytest.approx(3800 * 1000 / 100, rel=1e-6)
    assert wide.accounts.balance["outside"].iloc[0] == pytest.approx(2000 * 1000 / 100, rel=1e-6)
    # What lies beyond the region is not assigned to the nearest unit either.
    given = count([unit], assign_nearest=True)
    assert given.table["map_total"].iloc[0] == pytest.approx((300 + 1000 + 1000) * 1000 / 100, rel=2e-3)


def test_the_region_is_summed_like_exactextract(island: Any) -> None:
    """A slanting region over units with gaps: the sum of everything against the fractions of its own polygon."""
    block, counts, units = island
    west, south, east, north = ZONE51.bounds(block.window)
    region = shapely.segmentize(
        shapely.Polygon([(west + 300, south + 90), (east - 700, south + 800), (east - 900, north - 333)]), 50
    )
    mine = units[::2]
    placed = gpd.GeoSeries([region], crs=32651).to_crs(4326)
    counted = count_blocks(
        [map_block(block, counts)], frame(mine), facts(objects=("coconut", "oil_palm")), size=512, region=placed.iloc[0]
    )
    everything = shapely.union_all([placed.to_crs(32651).iloc[0], *mine])
    layers = np.nan_to_num(np.concatenate([counts[year] for year in ("2018", "2019")]))
    expected = zonal_sums(unit_fractions([everything], ZONE51, block.window), layers, 1)[0]
    assert counted.accounts.balance["map"].to_numpy() == pytest.approx(expected[[0, 2, 1, 3]], rel=1e-6)
    balance = counted.accounts.balance
    assert (balance["units"] + balance["outside"]).to_numpy() == pytest.approx(balance["map"].to_numpy(), rel=1e-7)


def test_a_shared_error_of_an_acquisition_does_not_average_out_over_a_unit() -> None:
    from subpixmap.counts.noise import Noise, cell_noise

    rng = np.random.default_rng(0)
    cells, n, px, found = 64, 6, 16384, []
    for _ in range(200):
        errors = rng.normal(0, 0.01, n)  # objects per pixel, the same in every cell that an acquisition saw
        total = (0.5 + errors)[:, None, None, None] * np.full((n, 1, 8, 8), px)
        noise = Noise()
        deviations, informed = cell_noise(np.full((n, 8, 8), px), total, np.full((1, cells), float(px)))
        noise.note(0, list("abcdef"), deviations)
        found.append(noise.variance(1, 1, 1)[0][0, 0, 0])
    assert informed[0] == cells * px
    expected = (0.01 * cells * px) ** 2 / n  # the variance of a mean of n acquisitions, over the whole unit
    assert np.mean(found) == pytest.approx(expected, rel=0.1)


def test_noise_is_added_up_over_blocks_before_it_is_squared() -> None:
    from subpixmap.counts.noise import Noise, cell_noise

    total = np.array([1.0, 3.0]).reshape(2, 1, 1, 1) * 100
    deviations, _ = cell_noise(np.full((2, 1, 1), 100), total, np.array([[100.0]]))
    one, both = Noise(), Noise()
    one.note(0, ["a", "b"], deviations)
    for _ in range(2):
        both.add(np.array([0]), one)
    variance = one.variance(1, 1, 1)[0][0, 0, 0]
    assert both.variance(1, 1, 1)[0][0, 0, 0] == pytest.approx(4 * variance)
    assert variance == pytest.approx(np.var([100, 300], ddof=1) / 2)


def test_clouds_do_not_look_like_felling() -> None:
    """No change, more cloud over the palms every year: only the comparable series stays level."""
    from subpixmap.trends.unit_trends import trend

    rng = np.random.default_rng(11)
    block = Block(ZONE51, 3268, 116, 256)
    years = tuple(Period(str(y), date(y, 1, 1), date(y, 12, 31)) for y in range(2018, 2024))
    palms = np.zeros((256, 256))
    palms[:, :100] = 1.0
    counts = {}
    for i, year in enumerate(years):
        cloud = rng.random((256, 256)) < np.where(palms > 0, 0.12 * i, 0.05)
        counts[year.label] = np.where(cloud, np.nan, palms + rng.normal(0, 0.05, (256, 256)))[None]
    west, _, east, north = ZONE51.bounds(block.window)
    units = [shapely.box(west, north - 10 * row - 160, east, north - 10 * row) for row in range(0, 256, 16)]
    counted = count_blocks([map_block(block, counts)], frame(units), facts(years), size=256)
    each_year = counted.series.assign(common_total=counted.table["map_total_full"])  # what each year saw
    seen, common = trend(counted.table, each_year), trend(counted.table, counted.series)
    assert seen["trend_significant"].mean() > 0.9
    assert (seen["slope_per_year"] < 0).all()
    assert common["trend_significant"].mean() == 0
    assert not common["direction"].isin(["rise", "fall"]).any()
    assert (common["p_value"] <= 0.05).mean() <= 0.15


def test_whole_cells_and_borders_are_the_plain_fractions(island: Any) -> None:
    """The quick sums of a block against coverage fractions of all its pixels."""
    from subpixmap.counts.cover import EXTRA
    from subpixmap.counts.make_cover import cover_block

    block, counts, units = island
    west, south, _, _ = ZONE51.bounds(block.window)
    units = [*units[:4], shapely.box(west, south, west + 2000, south + 2000)]
    layer = np.nan_to_num(counts["2018"][0])
    cover = cover_block(units, ZONE51, block.window, list(block.chunks()))
    assert cover.whole_tile.size  # some tiles lie inside one unit, or outside all
    plain = zonal_sums(unit_fractions(units, ZONE51, block.window), layer[None], len(units))[:, 0]
    assert cover.sums(stacked(layer, cover.chunks, block)).sum(axis=1)[:-EXTRA] == pytest.approx(plain, rel=1e-9)
    values = np.arange(layer.size).reshape(layer.shape) % 7
    histogram = cover.histogram(stacked(values, cover.chunks, block), 5)
    expected = [
        zonal_sums(unit_fractions(units, ZONE51, block.window), [values == k], len(units))[:, 0] for k in range(4)
    ]
    assert histogram[:-EXTRA, :4] == pytest.approx(np.array(expected).T, rel=1e-7)
    assert histogram[:-EXTRA].sum(axis=1) == pytest.approx(cover.area[:-EXTRA], rel=1e-12)
