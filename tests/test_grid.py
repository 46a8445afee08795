import re
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from subpixmap.grid import Block, Lattice, Window, owned, owns, project, transformer, utm_epsg

ZONE_51 = Lattice(32651)


def test_window_and_bounds_are_inverse() -> None:
    window = Window(900_000, 30_000, 40, 70)
    assert ZONE_51.window(ZONE_51.bounds(window)) == window


def test_pixel_centres_follow_the_transform_of_a_sentinel_2_tile() -> None:
    tile = Affine(10, 0, 600_000, 0, -10, 1_600_020)
    lattice = Lattice.of_transform(32651, tile)
    window = lattice.window((600_000, 1_600_000, 600_030, 1_600_020))
    assert lattice.transform(window) == tile
    x, y = lattice.coords(window)
    assert x.tolist() == [600_005, 600_015, 600_025]
    assert y.tolist() == [1_600_015, 1_600_005]


def test_a_lattice_that_is_60_m_off_keeps_its_phase() -> None:
    lattice = Lattice.of_transform(32633, Affine(120, 0, 537_780, 0, -120, 5_100_000))
    assert (lattice.x_phase, lattice.y_phase) == (60, 0)
    window = lattice.window((537_780, 5_099_880, 537_900, 5_100_000))
    assert window.shape == (1, 1)
    assert lattice.bounds(window) == (537_780, 5_099_880, 537_900, 5_100_000)


@pytest.mark.parametrize(
    "transform",
    [Affine(10, 0, 0, 0, 10, 0), Affine(10, 1, 0, 0, -10, 0), Affine(10, 0, 0, 0, -20, 0)],
)
def test_rasters_that_are_not_north_up_are_refused(transform: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tuple(transform)[:6]))):
        Lattice.of_transform(32651, transform)


def test_slices_index_a_window_in_a_larger_one() -> None:
    outer = Window(10, 20, 30, 40)
    array = np.arange(30 * 40).reshape(30, 40)
    assert array[Window(12, 25, 2, 3).slices(outer)].tolist() == [[85, 86, 87], [125, 126, 127]]
    with pytest.raises(ValueError, match="row=9"):
        Window(9, 20, 2, 2).slices(outer)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_aligned_window_is_the_smallest_cover(row: Any, col: Any, height: Any, width: Any, multiple: Any) -> None:
    window = Window(row, col, height, width)
    grown = window.aligned(multiple)
    window.slices(grown)  # contained
    assert grown.row % multiple == grown.col % multiple == grown.height % multiple == grown.width % multiple == 0
    assert row - grown.row < multiple
    assert (grown.row + grown.height) - (row + height) < multiple


def test_zones_are_closed_in_the_west_and_follow_the_norwegian_exceptions() -> None:
    places = {
        (119.999999, 10.0): 32650,
        (120.0, 10.0): 32651,
        (120.0, -0.0001): 32751,
        (120.0, 0.0): 32651,
        (179.99, -17.0): 32760,
        (-180.0, -17.0): 32701,
        (180.0, -17.0): 32701,
        (4.5, 60.0): 32632,
        (4.5, 50.0): 32631,
        (8.0, 75.0): 32631,
        (10.0, 75.0): 32633,
    }
    lon, lat = np.array(list(places)).T
    assert utm_epsg(lon, lat).tolist() == list(places.values())


def test_every_place_beside_a_seam_is_owned_by_one_zone() -> None:
    """A dense set of points across 120 E: each falls into exactly one owned pixel of the two lattices."""
    rng = np.random.default_rng(0)
    lon, lat = 120 + rng.uniform(-0.01, 0.01, 2000), 10.5 + rng.uniform(-0.01, 0.01, 2000)
    owners = np.zeros(lon.size, int)
    for epsg in (32650, 32651):
        lattice = Lattice(epsg)
        x, y = transformer(4326, epsg).transform(lon, lat)
        window = lattice.window((x.min(), y.min(), x.max(), y.max()))
        mask = owned(lattice, window)
        assert mask.any()
        assert not mask.all()
        col = ((x - lattice.x_phase) // 10).astype(int) - window.col
        row = ((lattice.top - y) // 10).astype(int) - window.row
        owners += mask[row, col]
    # Pixels of two lattices do not fit together along a meridian: only points within a pixel of it can see 0 or 2.
    away = np.abs(lon - 120) * 109_400 > 15
    assert (owners[away] == 1).all()
    assert abs(owners.mean() - 1) < 0.02


def test_ownership_inside_a_strip_needs_no_mask() -> None:
    x, y = transformer(4326, 32651).transform(123.0, 10.0)
    assert owned(ZONE_51, ZONE_51.window((x, y, x + 1000, y + 1000))).all()


def test_ownership_is_looked_up_beside_the_border_only_and_is_that_of_every_pixel() -> None:
    x, y = transformer(4326, 32651).transform(120.0, 10.5)
    corner = ZONE_51.window((x, y, x, y))
    for height, width, left in ((64, 64, 30), (301, 517, 200), (1024, 1024, 1000), (40, 1024, 3)):
        window = Window(corner.row, corner.col - left, height, width)
        xx, yy = np.meshgrid(*ZONE_51.coords(window))
        lonlat = transformer(32651, 4326).transform(xx, yy)
        expected = utm_epsg(*lonlat) == 32651
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(owned(ZONE_51, window), expected)
        assert owns(ZONE_51, window) is None


def test_a_window_of_any_size_is_owned_or_not_without_a_mask() -> None:
    x, y = transformer(4326, 32651).transform(120.0, 10.5)
    corner = ZONE_51.window((x, y, x, y))
    assert owns(ZONE_51, Window(corner.row, corner.col + 2_000, 50_000, 40_000)) is True
    assert owns(ZONE_51, Window(corner.row, corner.col - 30_000, 20_000, 20_000)) is False
    assert owns(ZONE_51, Window(corner.row, corner.col - 30_000, 20_000, 40_000)) is None


def test_a_block_must_be_whole_chunks() -> None:
    with pytest.raises(ValueError, match="1000"):
        Block(ZONE_51, 0, 0, 1000)


def test_projection_is_vertex_by_vertex_and_comes_back() -> None:
    square = shapely.box(119.9, 10.4, 120.1, 10.6)
    there = project(square, 4326, 32650)
    assert shapely.get_num_coordinates(there) == shapely.get_num_coordinates(square)
    assert shapely.equals_exact(project(there, 32650, 4326), square, 1e-9)
