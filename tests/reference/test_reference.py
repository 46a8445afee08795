"""From files of points and areas to reference data on disk, and what is refused on the way."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely

from subpixmap.errors import InputError, VerificationFailed
from subpixmap.grid import transformer, utm_epsg
from subpixmap.reference.align import Shift, agreed, estimate_shifts
from subpixmap.reference.countmap import count_map
from subpixmap.reference.folder import read_reference, write_reference
from subpixmap.reference.imagery import days_off, find_imagery, read_scenes
from subpixmap.reference.points import read_points
from subpixmap.reference.question import Question
from subpixmap.reference.reference import LABELLED, USED, Area, Reference, make_reference, parse_image_date
from subpixmap.region.units import read_area
from subpixmap.verbs import teach as verbs
from subpixmap.verbs.request import Labelling
from tests.helpers.reference_data import EMPTY, EPSG, Painted, paint


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Painted:
    return paint(tmp_path_factory.mktemp("painted"))


@pytest.fixture(scope="module")
def made(painted: Painted) -> Reference:
    return reference_of(painted)


def reference_of(painted: Painted, **options: Any) -> Reference:
    points = read_points(painted.points)
    return make_reference(points, read_area(painted.labelled), "2021-03", **{"border": 3, **options})


def test_mass_is_conserved_and_lies_on_the_lattice(painted: Painted, made: Reference) -> None:
    assert made.points == {"coconut": painted.x.size}
    assert sum(float(area.count.sum()) for area in made.areas) == pytest.approx(painted.x.size, rel=1e-6)
    whole = count_map(painted.x, painted.y, painted.lattice, painted.window)
    for area in made.areas:
        inside = area.labelled == USED
        assert np.allclose(area.count[0][inside], whole[area.window.slices(painted.window)][inside], atol=1e-5)


def test_a_border_is_labelled_but_not_used(made: Reference) -> None:
    for area in made.areas:
        assert (area.labelled >= LABELLED).sum() == 40 * 40
        assert (area.labelled == USED).sum() == 34 * 34


def test_an_area_across_a_seam_is_cut_there_and_no_point_is_lost() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(119.995, 120.005, 400), rng.uniform(10.0, 10.008, 400)
    points = gpd.GeoDataFrame({"object": "coconut"}, geometry=shapely.points(lon, lat), index=range(400), crs=4326)
    area = gpd.GeoDataFrame({"unit_name": ["seam"]}, geometry=[shapely.box(119.994, 9.999, 120.006, 10.009)], crs=4326)
    made = make_reference(points, area, "2021")
    assert [one.lattice.epsg for one in made.areas] == [32650, 32651]
    assert made.points["coconut"] == 400
    assert [int(one.points[0]) for one in made.areas] == [int((utm_epsg(lon, lat) == e).sum()) for e in (32650, 32651)]
    assert sum(float(one.count.sum()) for one in made.areas) == pytest.approx(400, rel=1e-6)
    km2 = sum((one.labelled >= LABELLED).sum() for one in made.areas) / 1e4
    assert km2 == pytest.approx(area.to_crs(EPSG).area.sum() / 1e6, rel=0.03)  # less the pixels that the edge cuts


def test_a_folder_is_what_was_written_and_a_gis_reads_it(made: Reference, tmp_path: Path) -> None:
    write_reference(tmp_path, made)
    again = read_reference(tmp_path)
    assert again.objects == made.objects
    assert again.image_date == made.image_date
    for one, other in zip(made.areas, again.areas, strict=True):
        assert np.array_equal(one.count, other.count)
        assert np.array_equal(one.labelled, other.labelled)
        assert (one.window, one.lattice, one.outline.bounds) == (other.window, other.lattice, other.outline.bounds)
    area = made.areas[0]
    with rasterio.open(tmp_path / f"{area.key}_count.tif") as raster:
        assert raster.descriptions == ("coconut",)
        assert raster.crs.to_epsg() == EPSG
        assert raster.transform == area.lattice.transform(area.window)
        assert raster.read(1).sum(dtype=float) == pytest.approx(area.points[0], rel=1e-6)
    with rasterio.open(tmp_path / f"{area.key}_presence.tif") as raster:
        assert set(np.unique(raster.read(1)[area.labelled == 0])) == {255}
    path = tmp_path / f"{area.key}_count.tif"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(VerificationFailed, match=r"area-0_32651_count\.tif"):
        read_reference(tmp_path)


def test_every_field_of_a_reference_comes_back(made: Reference, tmp_path: Path) -> None:
    names = ("a b", "a-b", "a b", "a b 2", "\u00e9", "")
    areas = gpd.GeoDataFrame(
        {"unit_name": names}, geometry=[area.outline for area in made.areas][: len(names)], crs=4326
    )
    lon, lat = np.transpose([area.outline.centroid.coords[0] for area in made.areas])
    points = gpd.GeoDataFrame({"object": ["car"] * 9}, geometry=shapely.points(lon, lat), crs=4326)
    written = make_reference(
        points, areas, "2021", definitions={"car": "parked"}, measure="occupancy", border=2, box=20.0,
        present_above=0.125, max_per_pixel=7.5, source={"points": "p.gpkg", "rows": 9, "where": ""},
    )  # fmt: skip
    with pytest.raises(InputError, match="--definition of palm"):
        make_reference(points, areas, "2021", definitions={"palm": "a crown"})
    written = dataclasses.replace(written, shifts={"a b": {"east": 1.5, "spread": None, "corrected": True}})
    read = read_reference(write_reference(tmp_path, written))
    for field in dataclasses.fields(Reference):
        if field.name != "areas":
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    assert len(read.areas) == len({area.key for area in read.areas}) == len(names)
    for one, other in zip(read.areas, written.areas, strict=True):
        for field in dataclasses.fields(Area):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert np.array_equal(a, b) and a.dtype == b.dtype if isinstance(b, np.ndarray) else a == b, field.name


def test_a_lock_answers_less_than_it_was_asked(made: Reference) -> None:
    def about(**changes: Any) -> Question:
        options = {"within_days": 90, "halo": 0, "months": (3, 4, 5), "bands": (), "collection": None, **changes}
        return Question.about(changes.pop("reference", made), options.pop("source", "earth-search"), **options)

    wide = about()
    asked, bands = wide.with_margin(), ("B02", "B04", "B08")
    assert Question.from_json(json.loads(json.dumps(asked.as_json()))) == asked
    assert wide.answered_by(asked, bands)
    for less in ({"within_days": 10}, {"halo": 12}, {"months": (4,)}, {"bands": ("B04",)}):
        assert about(**less).answered_by(asked, bands), less
    for more in ({"within_days": 91}, {"halo": 65}, {"months": (4, 6)}, {"bands": ("B11",)}, {"collection": "c1"},
                 {"source": "cdse"}):  # fmt: skip
        assert not about(**more).answered_by(asked, bands), more
    few = about(bands=("B04",)).with_margin()
    assert not wide.answered_by(few, ("B04",))  # which bands all items share was not asked


def test_warnings(painted: Painted, made: Reference) -> None:
    assert made.empty_share > 0.2
    assert not made.warnings()
    areas, points = read_area(painted.labelled), read_points(painted.points)
    full = make_reference(points, areas[areas.unit_name == "area 8"], "2021-03")
    assert [text.split()[0] for text in full.warnings()] == ["0", "there"]


def test_boxes_become_their_centres_in_any_format(painted: Painted, tmp_path: Path) -> None:
    x, y = painted.x[:50], painted.y[:50]
    boxes = gpd.GeoDataFrame({"object": ["coconut"] * 50}, geometry=shapely.box(x - 3, y - 2, x + 3, y + 2), crs=EPSG)
    boxes.to_file(tmp_path / "boxes.gpkg")
    boxes.to_parquet(tmp_path / "boxes.parquet")
    boxes.to_crs(4326).set_geometry(shapely.points(*transformer(EPSG, 4326).transform(x, y))).to_file(
        tmp_path / "points.geojson"
    )
    pd.DataFrame({"xmin": x - 3, "ymin": y - 2, "xmax": x + 3, "ymax": y + 2}).to_csv(tmp_path / "boxes.csv")
    pd.DataFrame({"Easting": x, "Northing": y, "object": "coconut"}).to_csv(tmp_path / "points.csv")
    for name in ("boxes.gpkg", "boxes.parquet", "points.geojson", "boxes.csv", "points.csv"):
        csv = name.endswith(".csv")
        named: dict[str, Any] = {"objects": ("coconut",)} if name == "boxes.csv" else {}
        read = read_points(tmp_path / name, crs=f"EPSG:{EPSG}" if csv else None, **named)
        back = read.to_crs(EPSG)
        assert np.allclose(back.geometry.x, x, atol=0.02), name
        assert np.allclose(back.geometry.y, y, atol=0.02)
        assert set(read["object"]) == {"coconut"}


def test_dates() -> None:
    assert [str(day) for day in parse_image_date("2021-02")] == ["2021-02-01", "2021-02-28"]
    assert [str(day) for day in parse_image_date("2021")] == ["2021-01-01", "2021-12-31"]
    for text in ("2021-13", "March", "2021-02-30", ""):
        with pytest.raises(InputError, match="--image-date"):
            parse_image_date(text)


def write(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(path, index=False)
    return path


def test_bad_points_are_refused_by_name_and_number(painted: Painted, tmp_path: Path) -> None:
    plain = pd.DataFrame({"lon": [120.0, 120.1], "lat": [10.0, 10.1], "object": "palm"})
    path = write(tmp_path / "p.csv", plain)
    with pytest.raises(InputError, match=r"p\.csv.*2 rows.*--crs"):
        read_points(path)
    with pytest.raises(InputError, match=r"--crs.*nowhere"):
        read_points(path, crs="nowhere")
    with pytest.raises(InputError, match=r"p\.csv.*2 of 2"):
        read_points(write(tmp_path / "p.csv", plain.assign(lat=500000.0)), crs="EPSG:4326")
    with pytest.raises(InputError, match=r"p\.csv.*1 rows"):
        read_points(write(tmp_path / "p.csv", plain.assign(lat=["10", "ten"])), crs="EPSG:4326")
    with pytest.raises(InputError, match=r"'object'.*--object"):
        read_points(write(tmp_path / "p.csv", plain.drop(columns="object")), crs="EPSG:4326")
    with pytest.raises(InputError, match=r"p\.csv.*x, y"):
        read_points(write(tmp_path / "p.csv", plain.rename(columns={"lon": "a"})), crs="EPSG:4326")
    with pytest.raises(InputError, match="olive"):
        read_points(write(tmp_path / "p.csv", plain), crs="EPSG:4326", objects=("palm", "olive"))
    with pytest.raises(InputError, match="--where"):
        read_points(path, crs="EPSG:4326", where="height > 3")
    with pytest.raises(InputError, match=r"p\.csv.*0\.1 m.*2 of palm.*120"):
        read_points(write(tmp_path / "p.csv", pd.concat([plain, plain, plain[:0]])), crs="EPSG:4326")
    with pytest.raises(InputError, match=r"nothing\.gpkg"):
        read_points(tmp_path / "nothing.gpkg")
    (tmp_path / "broken.gpkg").write_bytes(b"no")
    with pytest.raises(InputError, match=r"broken\.gpkg"):
        read_points(tmp_path / "broken.gpkg")


@pytest.mark.parametrize("broken", ["_open", "_query"])
def test_a_fault_of_ours_is_not_called_bad_data(broken: str, painted: Painted, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(gpd, "read_parquet", fault) if broken == "_open" else monkeypatch.setattr(
        pd.DataFrame, "query", fault
    )
    with pytest.raises(AssertionError, match="ours"):
        read_points(painted.points, where="object == 'coconut'")


def test_bad_areas_and_crowds_are_refused(painted: Painted) -> None:
    areas, points = read_area(painted.labelled), read_points(painted.points)
    with pytest.raises(InputError):
        make_reference(points, areas[:0], "2021-03")
    with pytest.raises(InputError, match=f"{len(points)} points"):
        make_reference(points, areas.set_geometry(areas.geometry.translate(1.0)), "2021-03")
    with pytest.raises(InputError, match="coconut"):
        make_reference(points, areas, "2021-03", max_per_pixel=1)
    with pytest.raises(InputError, match="--measure"):
        make_reference(points, areas, "2021-03", measure="weight")


def test_imagery_is_asked_for_before_it_is_read(painted: Painted, made: Reference) -> None:
    source = str(painted.source)
    with pytest.raises(InputError, match=r"9 of 9.*area 0"):
        find_imagery(reference_of(painted, border=3), source, within_days=0, months=(7,))
    with pytest.raises(InputError, match="B11"):
        find_imagery(made, source, bands=("B02", "B11"))
    imagery = find_imagery(made, source, halo=3)
    assert imagery.bands == ("B02", "B04", "B08")
    scenes = read_scenes(made.areas[0], imagery, max_scenes=2)
    assert scenes.reflectance.shape == (2, 3, *made.areas[0].window.shape)
    assert scenes.valid[:, made.areas[0].labelled > 0].all()
    assert days_off(made, scenes.days) <= 55
    moved = json.loads(painted.source.read_text())
    for item in moved["features"]:
        for asset in item["assets"].values():
            asset["proj:transform"][2] += 5.0
    other = painted.source.with_name("moved.json")
    other.write_text(json.dumps(moved))
    with pytest.raises(InputError, match=r"area \d.*\(5, 0\)"):
        find_imagery(made, str(other))


def test_a_shift_of_the_labels_is_found_and_corrected(tmp_path: Path) -> None:
    painted = paint(tmp_path, shift=(8.0, -13.0))
    wrong = reference_of(painted, border=0)
    imagery = find_imagery(wrong, str(painted.source), halo=0)
    found = {name: one for name, one in estimate_shifts(wrong, imagery).items() if one.certain}
    assert len(found) >= 3
    for one in found.values():
        assert (one.east, one.north) == pytest.approx((8.0, -13.0), abs=1.5)
    right = reference_of(painted, border=0, shifts={name: (one.east, one.north) for name, one in found.items()})
    for name, one in estimate_shifts(right, imagery).items():
        if name in found:
            assert max(abs(one.east), abs(one.north)) < 2


def one_acquisition(painted: Painted) -> Path:
    """The same imagery, of its first date only."""
    items = json.loads(painted.source.read_text())
    other = painted.source.with_name("one.json")
    other.write_text(json.dumps({**items, "features": items["features"][:1]}))
    return other


def shifts_of(painted: Painted, labelled: Path, folder: Path) -> dict[str, Any]:
    """What a reference with one acquisition keeps of the shifts of its areas, if they are to be corrected."""
    made = verbs.reference(
        painted.points,
        labelled,
        "2021-01",
        folder,
        source=[str(one_acquisition(painted))],
        correct_shift=True,
        labelling=Labelling(border=0),
        quiet=True,
    )
    return dict(made.shifts or {})


def test_areas_that_agree_are_evidence_where_there_is_one_acquisition(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    painted = paint(tmp_path, shift=(8.0, -13.0))
    shifts = shifts_of(painted, painted.labelled, tmp_path / "ref")
    corrected = {name: one for name, one in shifts.items() if one["corrected"]}
    assert corrected.keys() == {f"area {k}" for k in range(9) if k not in EMPTY}
    for one in corrected.values():
        assert one["areas"] == 6
        assert (one["east"], one["north"]) == pytest.approx((8.0, -13.0), abs=1.5)
    assert re.search(r"6 areas agree, area 0, .* m east and -1\d\.\d m north .*; corrected", caplog.text)


def test_a_large_shift_that_is_uncertain_is_told_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    painted = paint(tmp_path, shift=(8.0, -13.0))
    three = tmp_path / "three.geojson"  # too few to agree
    gpd.read_file(painted.labelled).iloc[[1, 3, 5]].to_file(three)
    shifts = shifts_of(painted, three, tmp_path / "ref")
    assert not any(one["corrected"] or one["certain"] for one in shifts.values())
    (told,) = [text for text in caplog.messages if "uncertain" in text]
    worst = max(shifts, key=lambda name: math.hypot(shifts[name]["east"], shifts[name]["north"]))
    assert told.startswith("areas with a large but uncertain shift, which is not corrected: 3.")
    assert re.search(rf"in {worst}: .* north .*uncertain: (the area holds|there is only one)", told)


def test_areas_agree_if_four_lie_close_together() -> None:
    def shift(east: float, north: float, **other: Any) -> Shift:
        usual: dict[str, Any] = {"explained": 0.1, "gain": 0.08, "spread": math.nan, "objects": 300}
        return Shift(**usual | other, east=east, north=north)

    close = {"a": shift(1, -7), "b": shift(0, -6), "c": shift(2, -8), "d": shift(1, -5)}
    silent = {"e": shift(0, 0, gain=0.0), "f": shift(30, 30, objects=20)}
    found = agreed(close | silent)
    assert {(one.east, one.north, one.areas) for name, one in found.items() if name in close} == {(1.0, -6.5, 4)}
    assert all(found[name] == one for name, one in silent.items())
    assert [name for name, one in found.items() if one.certain] == list(close)
    for no_agreement in (close | {"d": shift(20, -5)}, {name: close[name] for name in "abc"}):
        assert not any(one.certain for one in agreed(no_agreement).values())
    known = shift(2, -9, spread=1.0, objects=800)
    assert agreed(close | {"g": known})["g"] == known  # it says it for itself
