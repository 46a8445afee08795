"""Plots of known totals: no object and no part of a pixel is lost, and what cannot be right is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from subpixmap.errors import InputError
from subpixmap.grid import project
from subpixmap.reference.folder import read_reference, write_reference
from subpixmap.reference.reference import Reference, make_reference
from subpixmap.reference.splits import all_tiles, split_tiles
from subpixmap.reference.tiles import require_apart
from subpixmap.reference.totals import Totals, read_totals, reference_of_totals, with_totals

EPSG = 32651
HALO = 3


def square(k: int, side: float = 123.0, apart: float = 170.0, turn: float = 20.0) -> shapely.Geometry:
    """One of many turned squares in rows of ten, EPSG:4326."""
    west, south = 500_003.7 + apart * (k % 10), 1_200_001.2 + apart * (k // 10)
    drawn = shapely.affinity.rotate(shapely.box(west, south, west + side, south + side), turn)
    return project(shapely.segmentize(drawn, 20), EPSG, 4326)


def some_totals(n: int = 60, **shape: float) -> Totals:
    counts = np.arange(n, dtype=float)[:, None] % 7 * 9.5
    return Totals(tuple(f"plot {k}" for k in range(n)), tuple(square(k, **shape) for k in range(n)), ("palm",), counts)


def write(path: Path, **columns: Any) -> Path:
    n = len(next(iter(columns.values())))
    gpd.GeoDataFrame(columns, geometry=[square(k) for k in range(n)], crs=4326).to_file(path)
    return path


@pytest.fixture(scope="module")
def made() -> Reference:
    return reference_of_totals(some_totals(), "2021")


def test_plots_cover_their_pixels_exactly_and_keep_their_totals(made: Reference) -> None:
    totals = some_totals()
    assert len(made.plots) == len(totals.names)
    for plot, outline, total in zip(made.plots, totals.outlines, totals.counts, strict=True):
        assert plot.share is not None
        area = project(outline, 4326, plot.lattice.epsg).area
        assert plot.share.sum(dtype=float) * 100 == pytest.approx(area, rel=1e-6)
        assert plot.count.sum(dtype=float) == pytest.approx(float(total[0]), rel=1e-6)
        assert ((plot.share > 0) == (plot.labelled > 0)).all()


def test_a_folder_gives_back_what_was_written(made: Reference, tmp_path: Path) -> None:
    again = read_reference(write_reference(tmp_path / "ref", made))
    assert {path.suffix for path in (tmp_path / "ref").iterdir()} == {".tif", ".geojson", ".json"}
    assert again.objects == made.objects
    for one, other in zip(again.plots, made.plots, strict=True):
        for name in ("share", "totals", "count", "labelled", "points"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.name, one.window, one.lattice) == (other.name, other.window, other.lattice)


def test_plots_stand_beside_points_and_leave_their_files_as_they_were(tmp_path: Path) -> None:
    totals = some_totals(3)
    x, y = shapely.get_coordinates([shapely.point_on_surface(square(k)) for k in (20, 40)]).T
    points = gpd.GeoDataFrame({"object": ["palm"] * 2}, geometry=shapely.points(x, y), crs=4326)
    areas = gpd.GeoDataFrame({"unit_name": ["a", "plot 1"]}, geometry=[square(20), square(40)], crs=4326)
    alone = make_reference(points, areas, "2021", border=0)
    both = with_totals(alone, totals)
    assert both.names == ("a", "plot 1", "plot 0", "plot 1 2", "plot 2")
    assert both.points == {"palm": 2 + 0 + 10 + 19}  # halves are rounded
    before, after = (write_reference(tmp_path / name, one) for name, one in (("one", alone), ("two", both)))
    entries, more = (json.loads((one / "reference.json").read_text())["areas"] for one in (before, after))
    assert more[:2] == entries
    assert set(entries[0]) == {"name", "lattice", "window", "points", "files"}
    with pytest.raises(InputError, match="the totals are of car, the points of palm"):
        with_totals(alone, Totals(totals.names, totals.outlines, ("car",), totals.counts))


def test_splits_use_whole_plots_or_none_and_keep_apart(made: Reference) -> None:
    tiles = split_tiles(made, halo=HALO)
    require_apart(tiles, HALO)
    assert {tile.split for tile in tiles if tile.serves} == {"training", "calibration", "test"}
    for tile in tiles:
        assert not tile.used.any() or (tile.used == (tile.share > 0)).all()
    assert len(tiles) == len(made.plots)


def test_large_plots_calibrate_in_parts_but_do_not_teach() -> None:
    made = reference_of_totals(some_totals(12, side=1300.0, apart=2000.0), "2021")
    with pytest.raises(InputError, match=r"12 of 12 plots .* wider than 100 px.*plot 0"):
        split_tiles(made, halo=HALO)
    tiles = all_tiles(made, size=20)
    assert {tile.window.shape for tile in tiles} == {(100, 100)}
    for plot in made.plots:
        assert plot.share is not None
        parts = [tile for tile in tiles if tile.area.key == plot.key]
        assert len(parts) > 1
        assert sum(tile.share.sum(dtype=float) for tile in parts) == pytest.approx(plot.share.sum(dtype=float), 1e-6)


def test_totals_are_read_by_object(tmp_path: Path) -> None:
    path = write(tmp_path / "t.gpkg", name=["a", "b"], palms=[3, 0], cars=[1.5, 2])
    totals = read_totals(path, {"palm": "palms", "cars": "cars"})
    assert (totals.names, totals.objects) == (("a", "b"), ("palm", "cars"))
    np.testing.assert_array_equal(totals.counts, [[3, 1.5], [0, 2]])


def test_overlaps_and_totals_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"plots with totals overlap: plot 0 and plot 1"):
        reference_of_totals(some_totals(2, apart=60.0), "2021")
    with pytest.raises(InputError, match="1 totals of palm are 0"):
        reference_of_totals(some_totals(1), "2021")


BAD: dict[str, tuple[dict[str, list[Any]], str]] = {
    "negative": ({"name": ["a", "b"], "palms": [3, -2]}, "palms is below zero in 1 of 2 rows (first: b, -2"),
    "missing": ({"name": ["a", "b"], "palms": [None, 2.0]}, "palms is not a number in 1 of 2 rows (first: a"),
    "text": ({"name": ["a", "b"], "palms": ["3", "many"]}, "palms is not a number in 1 of 2 rows (first: b, many"),
    "too many": ({"name": ["a", "b"], "palms": [3, 9000]}, "plot b: 9000 palms on 151.3 pixels are 59.5 a pixel"),
    "another column": ({"name": ["a", "b"], "trees": [3, 9]}, "has no column palms; it has name, trees"),
}


@pytest.mark.parametrize(("columns", "told"), BAD.values(), ids=BAD)
def test_bad_totals_end_with_exit_code_2_and_one_line(
    columns: dict[str, list[Any]],
    told: str,
    subpixmap: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = write(tmp_path / "t.gpkg", **columns), tmp_path / "ref"
    assert subpixmap("reference", path, "--total-column", "palms", "--image-date", "2021", "-o", out) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not out.exists()


def test_files_that_do_not_belong_together_are_refused(
    subpixmap: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.gpkg", palms=[3, 2])
    bare = tmp_path / "bare.geojson"
    gpd.GeoDataFrame({"palms": [3, 2]}, geometry=[square(0), None], crs=4326).to_file(bare)

    def refused(*arguments: object) -> str:
        assert subpixmap("reference", *arguments, "--image-date", "2021", "-o", tmp_path / "ref") == 2
        return capsys.readouterr().err

    assert "give --labelled" in refused(path)
    assert "--labelled needs --totals" in refused(path, "--labelled", path, "--total-column", "palms")
    assert "--totals needs --total-column" in refused(path, "--labelled", path, "--totals", path)
    assert "give the file of plots as the first argument" in refused(path, "--totals", path, "--total-column", "palms")
    assert "1 of 2 totals have no polygon (first: 1)" in refused(bare, "--total-column", "palms")
    assert "write COLUMN or OBJECT=COLUMN" in refused(path, "--total-column", "=palms")
