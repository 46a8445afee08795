"""The catalogue is asked once for a period, again when told to; what is refused or missing is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subpixmap.errors import InputError, Refused
from subpixmap.mapping.ledger import read_records
from subpixmap.model.checkpoint import save_model
from subpixmap.model.predict import predict
from subpixmap.scenes import reader
from subpixmap.scenes.cube import open_cube
from subpixmap.scenes.items import read_lock, read_notes
from subpixmap.verbs.count import report
from subpixmap.verbs.request import Request
from subpixmap.verbs.run import map_planned, plan, run
from tests.helpers import mapping_data, scenes_data, stac_server

# No offset: what lies on dark ground is as dark as it should be.
WHERE: dict[str, Any] = {"bands": mapping_data.BANDS, "size_px": 256, "baseline": "02.14"}


@pytest.fixture
def place(tmp_path: Path) -> Any:
    """Options of a run over a tile of 2.5 km, and one item a year."""
    model = mapping_data.tiny_model()
    save_model(tmp_path / "tiny.safetensors", model.net, model.card)
    items = [scenes_data.make_item(tmp_path, start=f"{year}0305T021051", **WHERE) for year in (2021, 2022)]
    west, south, east, north = items[0]["bbox"]
    options = {
        "region": f"{west + 0.002},{south + 0.002},{east - 0.002},{north - 0.002}",
        "years": "2021-2022",
        "model": str(tmp_path / "tiny.safetensors"),
        "out": tmp_path / "out",
        "workers": 0,
        "block": 256,
        "quiet": True,
    }

    def request(found: Any = items, **changed: Any) -> Any:
        path = scenes_data.write_collection(tmp_path / "items.json", found)
        return Request(**{**options, "source": (str(path),), **changed})

    return items, request


def test_a_simulated_source_is_seen_in_any_order_and_from_anywhere(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run over a simulated country and another catalogue: the page says that the data is simulated."""
    items, request = place
    country = tmp_path / "country"
    country.mkdir()
    (country / "country.json").write_text('{"seed": 1, "world": "base", "dialect": "earth-search", "epsg": 32651}')
    (country / "truth.csv").write_text("unit_id,object,period,count\nregion,coconut,2021,7\n")
    scenes_data.write_collection(country / "items.json", items[:1])
    scenes_data.write_collection(tmp_path / "other.json", items[1:])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    pages = []
    for number, source in enumerate([("country/items.json", "other.json"), ("other.json", "country/items.json")]):
        monkeypatch.chdir(tmp_path)
        job = run(request(source=source, out=tmp_path / f"out{number}"))
        assert job.plan.sources == tuple(str(tmp_path / name) for name in source)
        monkeypatch.chdir(elsewhere)
        pages.append(report(job.out, quiet=True).read_text(encoding="utf-8"))
    for page in pages:
        assert "banner note" in page


def test_a_mask_that_cannot_be_made_is_refused_before_the_catalogue_is_asked(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, request = place
    monkeypatch.setattr("subpixmap.scenes.source.find_by_source", mapping_data.raising(AssertionError))
    with pytest.raises(InputError, match=r"--mask learned: .* \(no B03, B04\): use --mask scl"):
        plan(request(mask="learned"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="--mask 'guess' is unknown; choose scl, learned or both"):
        request(mask="guess")


def test_a_refreshed_period_is_as_if_it_had_been_asked_for_later(
    place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, request = place
    later = [*items, scenes_data.make_item(tmp_path, start="20220705T021051", seed=5, **WHERE)]
    run(request())
    before = pd.read_csv(tmp_path / "out" / "counts.csv")
    run(request(later))  # asked once: what came later is not seen
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out" / "counts.csv"), before)
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "ledger").glob("*.json")}
    with pytest.raises(Refused, match="--refresh 2022"):
        plan(request(later, refresh=("2022",)))
    assert len(read_lock(tmp_path / "out" / "items.parquet")) == 2

    run(request(later, refresh=("2022",)))
    touched = [path for path, when in records.items() if path.stat().st_mtime_ns != when]
    assert touched
    assert all("2022" in path.name for path in touched)
    run(request(later, out=tmp_path / "once"))
    for name in ("counts.csv", "items.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    after = pd.read_csv(tmp_path / "out" / "counts.csv")
    changed = set(after.period[after.items_sha256 != before.items_sha256])
    assert {str(period) for period in changed} == {"2022"}


def test_refreshing_what_has_not_changed_maps_nothing(place: Any, tmp_path: Path) -> None:
    _, request = place
    run(request())
    records = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "ledger").glob("*.json")}
    plan(request(refresh=("2021", "2022")))
    run(request(refresh=("2021",)))
    assert {path: path.stat().st_mtime_ns for path in records} == records


@pytest.mark.parametrize(("options", "words"), [({"refresh": ("2020",)}, "2021, 2022"), ({"every": "scene"}, "--out")])
def test_what_cannot_be_refreshed_is_said(place: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"--refresh.*{words}"):
        place[1](**{"refresh": ("2021",), **options})


def test_refused_items_stop_a_run_or_are_left_out_and_told(
    place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, request = place
    lacking, bright = (
        scenes_data.make_item(tmp_path, start=start, **WHERE) for start in ("20210405T021051", "20220405T021051")
    )
    del lacking["assets"]["blue"]
    for asset in bright["assets"].values():  # it says that its pixels have the offset, but they do not
        asset["raster:bands"][0]["offset"] = -0.1
    for key in ("s2:product_uri", "s2:datatake_id"):
        bright["properties"][key] = bright["properties"][key].replace("0214", "0500").replace("02.14", "05.00")
    bright["properties"]["s2:processing_baseline"] = "05.00"
    found = [*items, lacking, bright]
    with pytest.raises(InputError, match=rf"{lacking['id']}.*B02.*--allow-partial"):
        plan(request(found))
    with pytest.raises(InputError, match=f"{bright['id']}.*-0.0"):
        plan(request([*items, bright]))
    with pytest.raises(InputError) as error:
        plan(request([lacking], allow_partial=True))
    assert "--allow-partial" not in str(error.value)
    assert not (tmp_path / "out").exists()

    run(request(found, allow_partial=True))
    lock = tmp_path / "out" / "items.parquet"
    assert [item.id for item in read_lock(lock)] == [item["id"] for item in items]
    assert {item.dark_check for item in read_lock(lock)} == {"agrees"}
    assert list(read_notes(lock)["refused"]) == [lacking["id"], bright["id"]]
    events = [json.loads(line) for line in (tmp_path / "out" / "run.log").read_text().splitlines()]
    assert [e["item"] for e in events if e["event"] == "item refused"] == [lacking["id"], bright["id"]]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Items refused" in page
    assert bright["id"] in page

    # Asked again, one of them is as it should be; the other period's stays refused.
    capsys.readouterr()
    lacking["assets"]["blue"] = items[0]["assets"]["blue"]
    run(request(found, allow_partial=True, refresh=("2021",)))
    assert list(read_notes(lock)["refused"]) == [bright["id"]]
    assert len(read_lock(lock)) == 3


def test_a_plan_says_what_is_missing(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    items, request = place
    west, south, _, north = items[0]["bbox"]
    options = {"years": "2020-2021", "region": f"{west - 0.2},{south + 0.002},{west + 0.01},{north - 0.002}"}
    plan(request(verbose=True, quiet=False, **options))
    text = capsys.readouterr().out
    shown = {line[:14].strip(): line[14:] for line in text.splitlines() if line[0] != " "}
    assert shown["baselines"] == "2021: 1 of 02.14"
    assert shown["no items for"].startswith("1 (51P")
    assert shown["no items in"].startswith("23 (2020-01, 2020-02")
    assert shown["per tile"].startswith("tiles: 1; acquisitions per tile and month: 1 to 1")
    assert "51PTT  2021    .   .   1   ." in text


def test_one_item_that_lacks_bands_does_not_decide_the_model(place: Any, tmp_path: Path) -> None:
    from subpixmap.scenes.source import common_bands

    items, _ = place
    lacking = {**items[0], "assets": {k: v for k, v in items[0]["assets"].items() if k != "swir16"}}
    assert common_bands([*items, lacking], least=0.5) == list(mapping_data.BANDS)
    assert common_bands([*items, lacking]) == ["B02", "B08"]


def served(stac: Any, items: Any, name: Any, change: Any = None) -> Any:
    """The items as a catalogue serves them under names of its own."""
    stac.items = json.loads(json.dumps(items))
    for item in stac.items:
        item |= {"id": item["id"].replace("L2A", name), "collection": "sentinel-2-l2a"}
        for asset in item["assets"].values():
            asset["href"] = asset["href"].replace(str(stac.files), stac.url)
        if change:
            change(item)
    return stac.items


def spoil(item: Any) -> None:
    """An offset that its baseline does not have, a place that its files do not have, a file that is not there."""
    month = item["properties"]["datetime"][:7]
    for name, asset in item["assets"].items():
        if month == "2021-04" and name != "scl":
            asset["raster:bands"][0]["offset"] = -0.1
        if month == "2021-06":
            asset["proj:transform"][2] += 120
    if month == "2022-04":
        item["assets"]["scl"]["href"] += "f"


@pytest.fixture
def two_servers(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two catalogues of the same five scenes; the first one's last three cannot be taken."""
    monkeypatch.setattr(reader, "BACKOFF_S", 0.01)
    starts = ("20210405T021051", "20210605T021051", "20220405T021051")
    items = [*place[0], *(scenes_data.make_item(tmp_path, start=start, seed=9, **WHERE) for start in starts)]
    with stac_server.serve() as first, stac_server.serve() as second:
        first.files = second.files = tmp_path
        served(first, items, "first", spoil)
        served(second, items, "second")
        yield first, second, {"collection": "sentinel-2-l2a", "source": (first.url, second.url)}


def test_what_cannot_be_taken_from_the_first_source_comes_from_the_next(
    place: Any, two_servers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, options = two_servers
    bad, good = ([item["id"] for item in stac.items] for stac in (first, second))
    alone = options | {"source": (first.url,)}
    with pytest.raises(InputError, match=f"{bad[2]}.*02.14.*--allow-partial"):
        plan(place[1](**alone))
    assert not (tmp_path / "out").exists()

    job = plan(place[1](**options, quiet=False))
    assert sorted(item.id for item in job.items) == sorted([*bad[:2], *good[2:]])
    assert all(item.assets["B02"].href.startswith(second.url) == (item.id in good) for item in job.items)
    told = read_notes(tmp_path / "out" / "items.parquet")["refused"]
    assert list(told) == sorted(bad[2:])
    for number, named in ((2, "02.14"), (3, ".tif"), (4, ".tif")):
        assert named in told[bad[number]]
        assert {good[number], second.url} <= set(told[bad[number]].split())
    assert f"{good[2]} of {second.url}" in capsys.readouterr().out


def test_a_fallback_that_is_not_needed_is_not_looked_at(place: Any, two_servers: Any, tmp_path: Path) -> None:
    first, second, options = two_servers
    job = plan(place[1](**options | {"source": (second.url, first.url)}))
    assert sorted(item.id for item in job.items) == sorted(item["id"] for item in second.items)
    assert not job.refused
    assert not [path for path in first.requests if path.endswith(".tif")]


def test_what_every_source_has_wrong_stops_a_run(place: Any, two_servers: Any, tmp_path: Path) -> None:
    first, second, options = two_servers
    bad, good = first.items[2]["id"], second.items[2]["id"]
    del second.items[2]["assets"]["nir"]
    with pytest.raises(InputError, match=f"{bad}.*{good}.*B08.*--allow-partial"):
        plan(place[1](**options))
    job = plan(place[1](**options, allow_partial=True))
    assert len(job.items) == 4
    assert "stands in" not in job.refused[bad] + job.refused[good]


def test_a_cube_takes_from_the_next_source_too(two_servers: Any) -> None:
    first, second, options = two_servers
    where = {"bands": ["B02"], "months": [3, 4], "collection": options["collection"]}
    box = tuple(first.items[0]["bbox"])
    with pytest.raises(InputError, match=f"{first.items[2]['id']}.*02.14"):
        open_cube(box, 2021, source=first.url, **where)
    cube = open_cube(box, 2021, source=options["source"], **where)
    assert list(cube.time.dt.month.values) == [3, 4]
    assert first.requests["/search"] == 2 * second.requests["/search"] > 0
    expected = open_cube(box, 2021, source=second.url, **where)
    np.testing.assert_array_equal(cube.reflectance.values, expected.reflectance.values)


def test_files_with_larger_pixels_are_unlike_the_card(place: Any, tmp_path: Path) -> None:
    """Overviews of 120 m fill a lattice of 10 m, but they are not what the model has learned from."""
    _, request = place
    coarse = scenes_data.make_item(
        tmp_path / "coarse",
        start="20210305T021051",
        baseline="02.14",
        size_px=264,
        bands=dict.fromkeys(mapping_data.BANDS, 120),
    )
    with pytest.raises(Refused, match=r"B02 120 m.*--source") as error:
        plan(request([coarse], years="2021"))
    assert error.value.exit_code == 4
    out = run(request([coarse], years="2021", force=True))
    assert all("unlike_card" in flag for flag in pd.read_csv(tmp_path / "out" / "counts.csv").flag)
    assert out is not None


def test_a_cube_of_larger_pixels_is_unlike_the_card(tmp_path: Path) -> None:
    model = mapping_data.tiny_model()
    coarse = scenes_data.make_item(tmp_path, bands=dict.fromkeys(mapping_data.BANDS, 120), size_px=264)
    source = scenes_data.write_collection(tmp_path / "items.json", [coarse])
    cube = open_cube(coarse["bbox"], 2021, source=str(source))
    assert cube.pixel_m.values.tolist() == [120.0] * 3
    with pytest.raises(Refused, match="B02 120 m"):
        predict(cube, model)
    assert predict(cube, model, force=True).sizes["object"] == 2


def test_a_run_keeps_the_backend_it_began_with(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    _, request = place
    exact: dict[str, Any] = {"years": "2021", "out": tmp_path / "torch", "backend": "torch"}
    jobs = plan(request(**exact)), plan(request(years="2021"))
    plain, fast = (job.plan.recipe.numerics for job in jobs)
    assert "backend" not in plain  # as in folders of before the option
    assert (fast["backend"], fast["dtype"]) == ("openvino", "float32")
    for job in jobs:
        map_planned(job.out, model=str(tmp_path / "tiny.safetensors"), workers=0, quiet=True)
    totals = [[record.total["coconut"] for record in read_records(job.out).values()] for job in jobs]
    np.testing.assert_allclose(totals[1], totals[0], rtol=1e-6, atol=1e-4)
    # Nothing said: each goes on as it was begun, whatever tile this machine would choose now.
    monkeypatch.setattr("subpixmap.model.backends.instruction_set", lambda: "another")
    assert [plan(request(out=job.out)).plan.recipe.numerics for job in jobs] == [plain, fast]
    for changed in ({"backend": "openvino"}, {"precision": "bfloat16"}):
        with pytest.raises(Refused, match=r"numerics\.(backend|dtype)"):
            plan(request(**{**exact, **changed}))
    monkeypatch.setattr("subpixmap.model.backends._has_openvino", lambda: False)
    with pytest.raises(Refused, match=r"subpixmap\[fast\]"):
        plan(request())


def test_a_folder_of_before_is_extended_as_it_was_begun(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recipe knows only 0 as missing, and says nothing of it; pins were not known either."""
    _, request = place
    with monkeypatch.context() as before:
        before.setattr("subpixmap.verbs.settle._missing", lambda request: "zero")
        before.setattr("subpixmap.verbs.settle._mapped_by", lambda request: "chunk")
        before.setattr("subpixmap.scenes.fallback.pin", lambda items, ask: list(items))
        run(request(years="2021"))
    assert "missing" not in json.loads((tmp_path / "out" / "plan.json").read_text())["recipe"]
    first = pd.read_csv(tmp_path / "out" / "counts.csv")
    run(request())
    assert not {"missing", "mapped_by"} & json.loads((tmp_path / "out" / "plan.json").read_text())["recipe"].keys()
    again = pd.read_csv(tmp_path / "out" / "counts.csv")
    both = again[again.period == 2021].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        both[["map_total", "items_sha256", "run_id"]], first[["map_total", "items_sha256", "run_id"]]
    )
    pins = {item.period: item.assets["B02"].pin for item in read_lock(tmp_path / "out" / "items.parquet")}
    assert pins["2021"] is None
    assert pins["2022"] is not None
    (tmp_path / "out" / "plan.json").unlink()  # a new plan would map all blocks again, in the present way
    with pytest.raises(Refused, match=r"plan\.json is missing, and the \d+ finished blocks"):
        plan(request())
