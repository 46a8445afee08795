"""Cells of a frame: what a unit's border, a seam of two zones, the shore and clouds do to one."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from subpixmap.counts.blocks import MapBlock
from subpixmap.counts.units import Units, prepare_units
from subpixmap.errors import InputError
from subpixmap.estimation.frame import (
    CellGrid,
    cell_pixels,
    frame_cells,
    levels_of,
    near_cells,
    outside_of,
    parse_cell_id,
)
from subpixmap.grid import CHUNK, Lattice, Window, project

LATTICE = Lattice(32651)
ROW, COL = 884736, 25600  # of the first pixel: a multiple of 256, in the zone's middle


def block(count: np.ndarray, row: int = ROW, col: int = COL, lattice: Lattice = LATTICE) -> MapBlock:
    """One chunk of one object and period."""
    window = Window(row, col, CHUNK, CHUNK)

    def read(periods, wanted):  # type: ignore[no-untyped-def]
        arrays = {"count": count[None, None], "presence": (count > 0.5).astype(np.float32)[None, None]}
        for _ in periods:
            yield {name: arrays[name] for name in wanted}

    return MapBlock(lattice, window, (window,), lambda label: {}, read)


def units_of(*boxes: tuple[float, float, float, float], lattice: Lattice = LATTICE) -> Units:
    """Units by (top, left, bottom, right) in pixels of the block."""
    polygons = []
    for top, left, bottom, right in boxes:
        north, west = lattice.top - 10 * (ROW + top), 10 * (COL + left) + lattice.x_phase
        box = shapely.box(west, north - 10 * (bottom - top), west + 10 * (right - left), north)
        polygons.append(project(shapely.segmentize(box, 100), lattice.epsg, 4326))
    table = {"unit_id": [str(i) for i in range(len(boxes))], "unit_name": "u", "parent_id": None}
    return prepare_units(gpd.GeoDataFrame(table, geometry=polygons, crs=4326))


def cells_of(count: np.ndarray, units: Units, px: int = 10, **place):  # type: ignore[no-untyped-def]
    return frame_cells([block(count, **place)], units, px=px, periods=["2018"], objects=[0], threshold=0.5)


def test_cells_hold_what_their_pixels_hold() -> None:
    count = np.random.default_rng(0).random((CHUNK, CHUNK)).astype(np.float32)
    first = -(-ROW // 10) * 10 - ROW, -(-COL // 10) * 10 - COL
    cells = cells_of(count, units_of((first[0], first[1], first[0] + 30, first[1] + 20)))
    assert len(cells) == 6
    inside = count[first[0] : first[0] + 30, first[1] : first[1] + 20].astype(float)
    want = inside.reshape(3, 10, 2, 10).sum(axis=(1, 3)).ravel()
    assert np.allclose(cells.mapped[:, 0, 0], want)
    assert np.allclose(cells.counted, cells.mapped)
    epsg, px, row, col = parse_cell_id(cells.ids[0])
    assert (epsg, px, row * 10, col * 10) == (32651, 10, ROW + first[0], COL + first[1])


def test_a_cell_cut_by_a_border_belongs_to_the_unit_that_holds_its_centre() -> None:
    first = -(-ROW // 10) * 10 - ROW, -(-COL // 10) * 10 - COL
    top, left = first
    count = np.ones((CHUNK, CHUNK), np.float32)
    cells = cells_of(count, units_of((top, left, top + 10, left + 16), (top, left + 16, top + 10, left + 30)))
    assert cells.unit[:, 0].tolist() == [0, 0, 1]  # the second cell's centre is 15 px from the left
    assert np.allclose(cells.mapped, 100)  # whole squares, whatever the border


def test_clouds_are_filled_with_the_density_of_the_rest() -> None:
    top, left = -(-ROW // 10) * 10 - ROW, -(-COL // 10) * 10 - COL
    count = np.full((CHUNK, CHUNK), 0.5, np.float32)
    count[top : top + 5, left : left + 10] = np.nan  # half of the first cell
    count[top : top + 9, left + 10 : left + 20] = np.nan  # most of the second
    count[top : top + 10, left + 20 : left + 30] = np.nan  # all of the third
    cells = cells_of(count, units_of((top, left, top + 10, left + 40)))
    assert cells.seen[:, 0].tolist() == [True, False, False, True]
    assert np.allclose(cells.mapped[:, 0, 0], [50, 0, 0, 50])
    assert np.allclose(cells.counted[:, 0, 0], [25, 5, 0, 50])  # what the map total of the unit holds
    assert cells.observed_px[:, 0].tolist() == [50, 10, 0, 100]


def test_a_cell_at_a_seam_belongs_to_the_zone_of_its_centre_and_is_filled() -> None:
    """Zone 51 begins at 120 degrees east: of a cell there it owns a part, and the map of zone 50 holds the rest."""
    x, y = project(shapely.Point(120.0, 10.5), 4326, 32651).coords[0]
    row, col = int((LATTICE.top - y) // 10), int(x // 10)
    row, col = row // CHUNK * CHUNK, col // CHUNK * CHUNK
    west, south, east, north = LATTICE.bounds(Window(row, col, CHUNK, CHUNK))
    box = project(shapely.segmentize(shapely.box(west, south, east, north), 50), 32651, 4326)
    table = {"unit_id": ["0"], "unit_name": "u", "parent_id": None}
    units = prepare_units(gpd.GeoDataFrame(table, geometry=[box.buffer(0.001)], crs=4326))
    cells = cells_of(np.ones((CHUNK, CHUNK), np.float32), units, row=row, col=col)
    cut = (cells.owned_px < 100) & (cells.row > row // 10) & (cells.row < (row + CHUNK) // 10 - 1)
    assert cut.any()
    assert np.allclose(cells.mapped[cut], 100)
    assert np.allclose(cells.counted[cut], 100)  # nothing is added to totals: zone 50 observed the rest
    lon, _ = cells.centres()
    assert (lon >= 120).all()


def test_parts_of_a_cell_in_two_blocks_are_added() -> None:
    count = np.ones((CHUNK, CHUNK), np.float32)
    blocks = [block(count), block(count, col=COL + CHUNK)]
    cells = frame_cells(blocks, units_of((0, 0, 256, 512)), px=10, periods=["2018"], objects=[0], threshold=0.5)
    inner = (cells.row > ROW // 10) & (cells.row < (ROW + 255) // 10)
    inner &= (cells.col > COL // 10) & (cells.col < (COL + 511) // 10)
    assert np.allclose(cells.mapped[inner], 100)
    assert (cells.owned_px[inner] == 100).all()
    assert len(set(cells.ids)) == len(cells)


def test_land_that_taught_the_model_is_outside() -> None:
    units = units_of((0, 0, 100, 100))
    cells = cells_of(np.ones((CHUNK, CHUNK), np.float32), units)
    x, y = CellGrid(LATTICE, 10).centre(cells.row[:1], cells.col[:1])
    spot = project(shapely.Point(x[0], y[0]).buffer(20), 32651, 4326)
    outside = outside_of(cells, [spot])
    assert outside.sum() == len(cells) - 1
    assert not outside[0]
    assert outside_of(cells, []).all()


def test_levels_and_neighbours() -> None:
    polygons = [shapely.box(0, 0, 1, 1)] * 3
    table = {"unit_id": ["c", "b", "a"], "unit_name": "u", "parent_id": ["b", "a", None]}
    assert levels_of(prepare_units(gpd.GeoDataFrame(table, geometry=polygons, crs=4326))).tolist() == [2, 1, 0]
    cells = cells_of(np.zeros((CHUNK, CHUNK), np.float32), units_of((0, 0, 110, 110)))
    present = np.zeros(len(cells), bool)
    present[(cells.row == np.median(cells.row)) & (cells.col == np.median(cells.col))] = True
    assert present.sum() == 1
    near = near_cells(cells, present, 2)
    assert near.sum() == 25
    assert near[present].all()


def test_a_cell_is_whole_pixels(tmp_path: Path) -> None:
    assert cell_pixels(100, 10) == 10
    with pytest.raises(InputError, match="whole number of pixels"):
        cell_pixels(105, 10)
    with pytest.raises(InputError, match="frame is empty"):
        cells_of(np.zeros((CHUNK, CHUNK), np.float32), units_of((0, 0, 1, 1)))
