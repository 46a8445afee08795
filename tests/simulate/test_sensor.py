"""The sensor: mixing, point spread, place, noise, numbers."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.spatial import cKDTree

from subpixmap.scenes import dialect
from subpixmap.scenes.clouds import MaskRule, scl_valid
from subpixmap.scenes.radiometry import to_reflectance
from subpixmap.simulate.catalogue import as_delivered
from subpixmap.simulate.delivery import OFFSET
from subpixmap.simulate.ground import FINE, MARGIN, Frame, GroundLayers, crown_radius, draw_discs, grow_canopy
from subpixmap.simulate.landcover import Landscape
from subpixmap.simulate.noise import fractal
from subpixmap.simulate.patches import patches
from subpixmap.simulate.placement import KIND, Trees, parked, place_lots, place_trees
from subpixmap.simulate.render import Site, make_site, render
from subpixmap.simulate.schedule import schedule
from subpixmap.simulate.sensor import Acquisition, reflectance, sample, season_palette
from subpixmap.simulate.sky import digital_numbers, make_sky, observe
from subpixmap.simulate.spectra import BAND_FACTS, BANDS, GROUND, SHADE, Palette, base_palette
from subpixmap.simulate.worlds import OBJECTS, get_world

MASK = partial(scl_valid, resolution=10.0, rule=MaskRule())


def frame(size: int = 32) -> Frame:
    return Frame(500000.0, 1200000.0, size, size, lambda x, y: (x, y), lambda x, y: (x, y))


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (4.2, -3.1)])
def test_impulse_has_the_width_and_place_of_the_point_spread(band: str, shift: tuple[float, float]) -> None:
    f, facts = frame(), BAND_FACTS[band]
    scene = np.zeros(f.cells(FINE), np.float32)
    row, col = scene.shape[0] // 2 + 3, scene.shape[1] // 2 - 5
    scene[row, col] = 1
    image = sample(scene, f, band, shift).astype(np.float64)
    at = (np.arange(image.shape[0]) + 0.5) * facts.gsd + MARGIN * 10
    for axis, cell, moved in ((0, row, -shift[1]), (1, col, shift[0])):
        # The samples are too far apart for moments: fit a Gaussian of free height, place and width.
        profile = image.max(axis=1 - axis)
        start = (profile.max(), at[profile.argmax()], facts.gsd / 2)
        (_, mean, sigma), _ = curve_fit(lambda x, h, m, s: h * np.exp(-(((x - m) / s) ** 2) / 2), at, profile, start)
        assert abs(mean - ((cell + 0.5) * FINE + moved)) < 0.1 * facts.gsd
        assert abs(sigma) == pytest.approx(np.hypot(facts.sigma, FINE / 12**0.5), rel=0.01)


def test_a_constant_scene_stays_constant() -> None:
    f = frame()
    image = sample(np.full(f.cells(FINE), 0.3, np.float32), f, "B11", (5.0, -2.0))
    np.testing.assert_allclose(image, 0.3, rtol=1e-5)


def test_discs_have_their_area_wherever_they_lie() -> None:
    rng = np.random.default_rng(0)
    radius = rng.uniform(0.4, 4.5, 200)
    col, row = rng.uniform(8, 120, (2, 200))
    drawn = draw_discs(col, row, radius, None, (128, 128))
    assert drawn.sum() == pytest.approx((np.pi * radius**2).sum(), rel=1e-4)


def one_site(size: int = 32, seed: int = 5, objects: tuple[str, ...] = OBJECTS) -> Site:
    f = Frame(0.0, 0.0, size, size, lambda x, y: (x, y), lambda x, y: (x, y))
    return make_site(Landscape(seed, get_world("base"), objects), f)


def overhead(**changes: Any) -> Acquisition:
    """A day without sky, gain, shift or shadows."""
    first = schedule(
        1, years=(2020, 2020), per_year=1, lon=119.5, lat=10.5, world=get_world("base"), half_m=3000.0
    )[0]  # fmt: skip
    plain: dict[str, Any] = {
        "sun_zenith": 0.0,
        "gain": (1.0,) * 10,
        "shift": (0.0, 0.0),
        "cloud_share": 0.0,
        "edge": None,
        "haze": 0.0,
    }
    return replace(first, **(plain | changes))


def test_mean_over_a_plantation_is_the_cover_weighted_mean_of_its_materials() -> None:
    site, date = one_site(), overhead()
    layers = np.zeros_like(site.ground.layers)
    layers[GROUND.index("bare")] = 1
    n = 40  # 9 m apart, far beyond the frame
    x, y = (a.ravel() for a in np.meshgrid(np.arange(n) * 9.0 - 20, -np.arange(n) * 9.0 + 20))
    one = np.ones(x.size)
    trees = Trees(
        x, y, np.full(x.size, KIND["coconut"], np.int8), (one * 1980).astype(np.int16), (one * 9999).astype(np.int16),
        one.astype(np.float32) * 0.9, (one * 0).astype(np.float32),
    )  # fmt: skip
    site = replace(site, ground=GroundLayers(layers), trees=trees)
    canopy = replace(grow_canopy(trees, site.frame, 2020, 1.0), tall=())  # without shadows
    palette = base_palette()
    bands = reflectance(site.ground, canopy, None, site.frame, date, palette)
    radius = crown_radius(trees.kind[:1], trees.age(2020)[:1], trees.size[:1], 1.0)[0]
    cover = 0.68 * np.pi * radius**2 / 81
    crowns = season_palette(palette, date)[1][:, KIND["coconut"]]
    for k, band in enumerate(BANDS):
        expected = cover * crowns[k] + (1 - cover) * palette.of["bare"][k]
        assert bands[band].mean() == pytest.approx(expected, rel=0.01)


def test_shadows_darken_by_the_area_that_they_cover() -> None:
    site, palette = one_site(), base_palette()
    layers = np.zeros_like(site.ground.layers)
    layers[GROUND.index("grass")] = 1
    x, y = (a.ravel() for a in np.meshgrid(np.arange(9) * 30.0 + 45, -np.arange(9) * 30.0 - 45))
    one = np.ones(x.size)
    trees = Trees(
        x, y, np.full(x.size, KIND["coconut"], np.int8), (one * 1960).astype(np.int16), (one * 9999).astype(np.int16),
        one.astype(np.float32), (one * 0).astype(np.float32),
    )  # fmt: skip
    canopy = grow_canopy(trees, site.frame, 2020, 1.0)
    date = overhead(sun_zenith=45.0, sun_azimuth=90.0)
    a, b = (
        reflectance(GroundLayers(layers), crowns, None, site.frame, date, palette)["B04"]
        for crowns in (replace(canopy, tall=()), canopy)
    )
    inside = slice(int(MARGIN * 10 / FINE), -int(MARGIN * 10 / FINE))
    cover = float(canopy.cover[inside, inside].mean())
    grass = season_palette(palette, date)[0][BANDS.index("B04"), GROUND.index("grass")]
    assert a.mean() - b.mean() == pytest.approx(cover * grass * (1 - SHADE[BANDS.index("B04")]), rel=0.05)


@pytest.mark.parametrize("band", ["B04", "B08", "B11"])
def test_a_lone_tree_appears_at_its_point(band: str) -> None:
    site = one_site()
    one = np.ones(1)
    grown = Trees(
        one * 163.7, one * -151.2, np.zeros(1, np.int8), (one * 1980).astype(np.int16), (one * 9999).astype(np.int16),
        one.astype(np.float32), (one * 0).astype(np.float32),
    )  # fmt: skip
    bare = replace(site, trees=site.trees[np.zeros(len(site.trees), bool)], lots=site.lots[site.lots.x > 1e9])
    date = overhead()
    with_tree, without = (
        reflectance(p.ground, grow_canopy(p.trees, p.frame, 2020, 1.0), None, p.frame, date, base_palette())[band]
        for p in (replace(bare, trees=grown), bare)
    )
    change = np.abs(with_tree - without).astype(float)
    gsd = BAND_FACTS[band].gsd
    at = (np.arange(change.shape[0]) + 0.5) * gsd
    col, row = (change.sum(axis=0) * at).sum() / change.sum(), (change.sum(axis=1) * at).sum() / change.sum()
    assert abs(col - grown.x[0]) < 0.1 * gsd
    assert abs(row + grown.y[0]) < 0.1 * gsd


def test_a_place_is_the_same_however_it_is_tiled() -> None:
    landscape = Landscape(9, get_world("base"), OBJECTS)
    date = replace(overhead(), sun_zenith=35.0, sun_azimuth=130.0, cloud_share=0.3, haze=0.02, shift=(4.0, -3.0))

    def numbers(west: float, width: int) -> dict[str, np.ndarray]:
        f = Frame(west, 0.0, width, 64, lambda x, y: (x, y), lambda x, y: (x, y))
        picture = next(iter(render(make_site(landscape, f), [date])))
        return {b: digital_numbers(rho) for b, rho in picture.bands.items()} | {"SCL": picture.scl}

    whole, left, right = numbers(0, 96), numbers(0, 60), numbers(600, 36)
    for name, image in whole.items():
        parts = np.concatenate([left[name], right[name]], axis=1)
        if name == "SCL":
            assert (image != parts).mean() < 0.001
        else:
            assert np.abs(image.astype(int) - parts.astype(int)).max() <= 2


def test_noise_has_the_size_that_the_facts_say() -> None:
    f = frame(64)
    sky = make_sky(f, overhead())
    flat = {b: np.full((64 * 10 // BAND_FACTS[b].gsd,) * 2, 0.2, np.float32) for b in BANDS}
    seen = observe(flat, sky, f, overhead())
    for band in BANDS:
        assert seen[band].std() == pytest.approx(BAND_FACTS[band].noise, rel=0.08)
        assert seen[band].mean() == pytest.approx(0.2, abs=3e-4)


def test_digital_numbers_keep_dark_pixels_and_nodata_apart() -> None:
    rho = np.array([-0.02, 0.0, 0.00004, 0.1234, 9.0, np.nan], np.float32)
    np.testing.assert_array_equal(digital_numbers(rho), [1, 1, 1, 1234, 65535, 0])


def test_reflectance_below_zero_is_kept_by_the_offset_alone() -> None:
    """As in scenes since baseline 04.00; without the offset it ends at DN 1."""
    rho = np.array([-0.2, -0.0999, -0.02, 0.0, 0.1234, np.nan], np.float32)
    dn = digital_numbers(rho, OFFSET)
    np.testing.assert_array_equal(dn, [1, 1, 800, 1000, 2234, 0])
    kept, gone = (to_reflectance(as_delivered(dn, offset), -offset) for offset in (OFFSET, 0))
    np.testing.assert_allclose(kept, [-0.0999, -0.0999, -0.02, 0, 0.1234, np.nan], atol=1e-7)
    np.testing.assert_allclose(gone, [1e-4, 1e-4, 1e-4, 1e-4, 0.1234, np.nan], atol=1e-7)
    np.testing.assert_array_equal(as_delivered(dn, 0), digital_numbers(rho))


def test_noise_fields_have_unit_variance_and_no_seams() -> None:
    x, y = np.meshgrid(np.arange(0, 60000, 50.0), np.arange(0, 60000, 50.0))
    field = fractal(x, y, seed=4, scale=1000, octaves=4)
    assert abs(field.mean()) < 0.03
    assert field.std() == pytest.approx(1, abs=0.05)
    part = fractal(x[100:200, 300:400], y[100:200, 300:400], seed=4, scale=1000, octaves=4)
    np.testing.assert_array_equal(part, field[100:200, 300:400])


def test_worlds_differ_and_spectra_are_possible() -> None:
    base, shifted = get_world("base"), get_world("shifted")
    for name, values in base.palette.of.items():
        assert not np.allclose(values, shifted.palette.of[name], rtol=0.01)
        np.testing.assert_allclose(values, shifted.palette.of[name], rtol=0.4)
    assert shifted.palette.psf_scale != base.palette.psf_scale
    with pytest.raises(ValueError, match="sand"):
        Palette({"sand": np.full(10, 1.5, np.float32)})


def test_only_reflectance_tells_where_objects_are() -> None:
    site = one_site(64)
    without = replace(site, trees=site.trees[np.zeros(len(site.trees), bool)], lots=site.lots[site.lots.x > 1e9])
    date = replace(overhead(), cloud_share=0.35, haze=0.02, edge=350.0, sun_zenith=35.0, sun_azimuth=130.0)
    (a,), (b,) = (list(render(p, [date])) for p in (site, without))
    for band in BANDS:
        np.testing.assert_array_equal(np.isnan(a.bands[band]), np.isnan(b.bands[band]))
        assert 0.02 < np.isnan(a.bands[band]).mean() < 0.9
    assert np.nanmean(np.abs(a.bands["B08"] - b.bands["B08"])) > 0.002  # there were objects to be seen
    for code in (0, 3, 7, 9, 10):  # no data, shadow, specks, clouds: the sky's, whatever stands below
        np.testing.assert_array_equal(a.scl == code, b.scl == code)
    assert {0, 9} <= set(np.unique(a.scl))


def test_patches_are_the_same_whoever_makes_them() -> None:
    first, second = patches(3, n_places=2, mask=MASK, size_px=32, acquisitions=2)
    (alone,) = patches(3, n_places=1, mask=MASK, size_px=32, acquisitions=2, start=1)
    np.testing.assert_array_equal(second.reflectance, alone.reflectance)
    np.testing.assert_array_equal(second.scl, alone.scl)
    assert first.seed != second.seed == alone.seed >= 2**32
    for name in OBJECTS:
        for one, other in zip(second.points[name], alone.points[name], strict=True):
            np.testing.assert_array_equal(one, other)
    (other_seed,) = patches(4, n_places=1, mask=MASK, size_px=32, acquisitions=2)
    assert other_seed.seed not in (first.seed, second.seed)


def test_the_sensor_has_the_bands_of_the_catalogues() -> None:
    assert BANDS == dialect.BANDS


def test_patches_read_as_a_run_reads() -> None:
    (patch,) = patches(8, n_places=1, mask=MASK, size_px=48, acquisitions=4)
    assert (
        patch.reflectance[:, BANDS.index("B11"), ::2, ::2] == patch.reflectance[:, BANDS.index("B11"), 1::2, 1::2]
    ).all()
    dn = np.nan_to_num(np.round(patch.reflectance * 10000)).astype(np.uint16)
    np.testing.assert_array_equal(patch.reflectance, to_reflectance(dn, 0))
    for scl, valid in zip(patch.scl, patch.valid, strict=True):
        np.testing.assert_array_equal(valid, scl_valid(scl, 10.0, MaskRule()))


def test_stems_have_no_phase_against_the_pixels() -> None:
    trees = place_trees(Landscape(12, get_world("base"), OBJECTS), (0.0, 0.0, 1500.0, 1500.0))
    for values in (trees.x, trees.y):
        share = np.histogram(values % 20, 10)[0] / len(trees)
        np.testing.assert_allclose(share, 0.1, atol=0.01)


def around(points: np.ndarray, metres: float) -> np.ndarray:
    """Points per hectare within a distance of each."""
    near = cKDTree(points).query_ball_point(points, metres, return_length=True)
    return np.asarray(near) / (np.pi * (metres / 100) ** 2)


def test_objects_stand_as_close_as_in_the_field_and_change_with_the_years() -> None:
    """Planting densities and distances as they are documented; measured inside the stands, where they are densest."""
    land, bounds = Landscape(12, get_world("base"), OBJECTS), (0.0, 0.0, 4000.0, 4000.0)
    trees = place_trees(land, bounds)
    here = {k: trees[(trees.kind == KIND[k]) & trees.standing(2020)] for k in ("coconut", "oil_palm", "olive")}
    at = {name: np.column_stack([found.x, found.y]) for name, found in here.items()}
    per_ha = {name: around(points, 30) for name, points in at.items()}

    distance, _ = cKDTree(at["oil_palm"]).query(at["oil_palm"], k=5)  # the first is the palm itself
    assert 8.3 < np.median(distance[:, 1]) < 9.2
    assert np.median(distance[:, 4] / distance[:, 1]) < 1.15  # a triangle: six palms at one distance
    assert 115 < np.percentile(per_ha["oil_palm"], 95) < 148
    assert 100 < np.percentile(per_ha["coconut"], 95) < 160
    sparse = (per_ha["coconut"] > 15) & (per_ha["coconut"] < 100)  # below 4 in 20 m x 20 m
    assert sparse.mean() > 0.3
    for low, high in ((60, 120), (200, 360)):  # traditional, intensive
        assert ((per_ha["olive"] > low) & (per_ha["olive"] < high)).mean() > 0.2

    lots = place_lots(land, bounds)
    stalls = around(np.column_stack([lots.x, lots.y]), 20) / 100  # per pixel
    assert 4 < np.median(stalls) < np.percentile(stalls, 95) < 6
    one, other = (parked(lots, land.seed, scene) for scene in (1801, 1802))
    assert 0.2 < (one != other).mean() < 0.5

    years = range(2014, 2026)
    assert all((trees.planted == year).any() and (trees.removed == year).any() for year in years)
    lost = {year: (trees.removed == year).sum() / trees.standing(year - 1).sum() for year in years}
    assert max(lost.values()) > 0.1  # a storm
    assert np.median(list(lost.values())) < 0.03
