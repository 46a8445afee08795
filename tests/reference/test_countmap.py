import math

import numpy as np
import pytest
import shapely
from scipy.ndimage import gaussian_filter

from subpixmap.errors import InputError
from subpixmap.grid import Lattice, Window
from subpixmap.reference.countmap import count_map, labelled_mask, presence_map

LATTICE = Lattice(32650, 10.0, 3.0, 7.0)
WINDOW = Window(880_000, 40_000, 40, 50)


def some_points(n: int, margin: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    west, south, east, north = LATTICE.bounds(WINDOW)
    rng = np.random.default_rng(3)
    return rng.uniform(west - margin, east + margin, n), rng.uniform(south - margin, north + margin, n)


@pytest.mark.parametrize(("k", "sigma"), [(10, None), (16, None), (10, 10.0), (4, 0.0), (1, None)])
def test_equals_raster_blur_and_sum(k: int, sigma: float | None) -> None:
    x, y = some_points(300)
    wide = WINDOW.padded(8)
    west, _, _, north = LATTICE.bounds(wide)
    fine = np.zeros((wide.height * k, wide.width * k))
    np.add.at(fine, (((north - y) / (10 / k)).astype(int), ((x - west) / (10 / k)).astype(int)), 1)
    blurred = gaussian_filter(fine, k / math.pi if sigma is None else sigma, mode="constant") if sigma != 0 else fine
    expected = blurred.reshape(wide.height, k, wide.width, k).sum(axis=(1, 3))
    assert np.allclose(count_map(x, y, LATTICE, wide, k=k, sigma=sigma), expected, atol=1e-12)


def test_mass_is_conserved() -> None:
    x, y = some_points(2000, margin=200)
    assert count_map(x, y, LATTICE, WINDOW.padded(30)).sum() == pytest.approx(2000, rel=1e-12)
    assert count_map(x, y, LATTICE, WINDOW).sum() < 2000


def test_windows_tile_the_map() -> None:
    x, y = some_points(2000, margin=100)
    whole = count_map(x, y, LATTICE, WINDOW)
    for size in (7, 16):
        for row in range(0, WINDOW.height, size):
            for col in range(0, WINDOW.width, size):
                part = Window(
                    WINDOW.row + row,
                    WINDOW.col + col,
                    min(size, WINDOW.height - row),
                    min(size, WINDOW.width - col),
                )
                assert np.array_equal(count_map(x, y, LATTICE, part), whole[part.slices(WINDOW)])


def test_share_of_the_own_pixel_is_that_of_a_blurred_box() -> None:
    # A point uniform in a pixel keeps E[Phi] of its mass per axis: 75 % for sigma = 10/pi m, 56 % in both.
    west, _, _, north = LATTICE.bounds(WINDOW)
    offset = np.arange(0.5, 10)
    xx, yy = np.meshgrid(west + 100 + offset, north - 100 - offset)
    own = count_map(xx, yy, LATTICE, WINDOW)[10, 10] / 100
    s = 10 / math.pi
    cdf = [0.5 * (math.erf((10 - u) / s / 2**0.5) + math.erf(u / s / 2**0.5)) for u in np.linspace(0, 10, 2001)]
    assert own**0.5 == pytest.approx(np.mean(cdf), abs=0.005)
    assert own == pytest.approx(0.56, abs=0.01)


def test_a_uniform_field_has_a_uniform_count() -> None:
    west, south, east, north = LATTICE.bounds(WINDOW.padded(5))
    xx, yy = np.meshgrid(np.arange(west + 1, east, 2.0), np.arange(south + 1, north, 2.0))
    assert np.allclose(count_map(xx, yy, LATTICE, WINDOW), 25, rtol=2e-3)


def test_bad_points_are_refused() -> None:
    with pytest.raises(InputError, match=r"2 .* 2"):
        count_map([1.0, np.nan], [1.0, 2.0], LATTICE, WINDOW)
    with pytest.raises(InputError, match=r"2 .* 1"):
        count_map([1.0, 2.0], [1.0], LATTICE, WINDOW)


def test_no_points() -> None:
    assert not count_map([], [], LATTICE, WINDOW).any()
    assert not presence_map(count_map([], [], LATTICE, WINDOW)).any()


def test_labelled_mask_keeps_whole_pixels_and_a_border() -> None:
    west, _, _, north = LATTICE.bounds(WINDOW)
    area = shapely.box(west + 95, north - 205, west + 305, north - 95)  # covers columns 10-29, rows 10-19 wholly
    mask = labelled_mask(area, LATTICE, WINDOW)
    assert mask[10:20, 10:30].all()
    assert mask.sum() == 200
    assert labelled_mask(area, LATTICE, WINDOW, border=2).sum() == 6 * 16
    assert not labelled_mask(area, LATTICE, WINDOW, border=9).any()
    assert not labelled_mask(shapely.Polygon(), LATTICE, WINDOW).any()
