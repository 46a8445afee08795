"""Wrong inputs of every kind end in one line and the stated exit code; names are refused before torch is loaded."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from subpixmap import runpaths
from subpixmap.errors import Incomplete, InputError, SubpixmapError, VerificationFailed
from subpixmap.files import path_of, write_atomic
from subpixmap.periods import make_periods
from subpixmap.reference.points import read_points
from subpixmap.region.resolve import resolve_region
from subpixmap.region.units import read_units
from subpixmap.scenes.hrefs import resolve
from subpixmap.scenes.source import find_items
from subpixmap.simulate import simulate_country
from subpixmap.simulate.recognise import is_simulated, truth_of

RING = "0,0 1,0 1,1 0,1 0,0"


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, country: Path, stand_in: Path) -> Path:
    """A finished run of the small country, in this process."""
    from subpixmap.verbs.request import Request
    from subpixmap.verbs.run import run

    out = tmp_path_factory.mktemp("run") / "out"
    run(
        Request(
            region=str(country / "region.geojson"), years="2020-2021", source=(str(country / "catalog.json"),), out=out,
            admin=country / "admin.parquet", model=str(stand_in), block=256, workers=0, quiet=True,
        )
    )  # fmt: skip
    return out


@pytest.fixture
def copied(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


# Names ----------------------------------------------------------------------------------------------------------------
EARLY = {
    "model": "run --region demo --years 2020 --model palms",
    "object": "run --region demo --years 2020 --object coconat",
    "region": "run --region nowhereland --years 2020",
    "brackets of a scheduler": "run --region demo --years 2020 --scheduler tcp://[",
    "resolution": "run --region demo --years 2020 --resolution inf",
    "unit": "run --region philippines/nowhere --years 2020",
    "units' column": "run --region demo --years 2020 --admin {admin} --id-column nothing",
    "units' file": "run --region demo --years 2020 --admin nofile.gpkg",
    "scheduler": "run --region demo --years 2020 --scheduler nofile.json",
    "evaluated model": "evaluate palms --simulated 1",
    "world": "evaluate demo-s2 --simulated 1 --world mars",
    "baseline": "evaluate demo-s2 --simulated 1 --baselines oracle",
    "places": "evaluate demo-s2 --simulated 1 --places 0",
    "evaluated object": "evaluate demo-s2 --simulated 1 --objects coconat",
    "band": "train --reference ref --source cdse --bands B99 -o a.safetensors",
    "baselines of a training": "train --reference ref --source cdse --baselines oracle -o a.safetensors",
    "reference": "train --reference nothing --source cdse -o a.safetensors",
    "place of a checkpoint": "learn p.csv --labelled a.gpkg --image-date 2021 -o {admin}/a.safetensors",
    "shipped checkpoint": "train --simulated palms -o a.safetensors",
    "folder": "simulate {admin}",
    "simulated object": "simulate new --objects palm",
}  # fmt: skip


@pytest.mark.parametrize("case", EARLY)
def test_wrong_names_are_refused_before_torch_is_loaded(
    case: str, country: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    subpixmap: Callable[..., int],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUBPIXMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("subpixmap.simulate.demo._simulate", lambda *_, **__: pytest.fail("a country is simulated"))
    for name in ("subpixmap.model.checkpoint", "subpixmap.training.train", "subpixmap.model.predict"):
        monkeypatch.setitem(sys.modules, name, None)  # each needs torch
    words = EARLY[case].format(admin=country / "admin.parquet").split()
    before = time.process_time()
    code = subpixmap(*words)
    assert time.process_time() - before < 2
    shown = capsys.readouterr().err
    assert code == 2, shown
    assert shown.startswith("subpixmap: ")
    assert shown.count("\n") == 1, shown
    assert not (tmp_path / "cache").exists()


def test_the_same_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Torch is not loaded for a wrong name, whatever other tests have loaded."""
    code = (
        "import sys; sys.argv = ['subpixmap', 'run', '--region', 'demo', '--years', '2020', '--object', 'coconat']\n"
        "from subpixmap.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'distributed' in sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["2", "False", "False"], made.stderr


def test_names_that_an_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    plain = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "subpixmap", "regions"]
    made = subprocess.run(words, cwd=tmp_path, env=os.environ | plain, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    assert b"Cura\\xe7ao" in made.stdout


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_fault(closed: str, country: Path, tmp_path: Path) -> None:
    where = f"--region {country}/region.geojson --source {country}/catalog.json --years 2020 --model demo-s2"
    script = f"exec {sys.executable} -m subpixmap plan {where} {closed}"
    made = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


# Schedulers and workers -----------------------------------------------------------------------------------------------
def test_a_scheduler_that_is_gone_is_said_at_once(tmp_path: Path) -> None:
    from subpixmap.mapping.cluster import require_scheduler

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        (file := tmp_path / "s.json").write_text(json.dumps({"address": address}))
        assert require_scheduler(str(file)) == require_scheduler(address) == address
    for text, error in ((str(file), Incomplete), (address, InputError)):
        with pytest.raises(error, match="respond"):
            require_scheduler(text)
    for text in ("nofile.json", "", "tcp://", "host", "tcp://host:port"):
        with pytest.raises(InputError):
            require_scheduler(text)
    for content in ("", "[]", "{}", '{"address": 3}', "[" * 10**5):
        file.write_text(content)
        with pytest.raises(SubpixmapError):
            require_scheduler(str(file))
    with pytest.raises(InputError, match="not a scheduler file"):
        require_scheduler(str(tmp_path))


@pytest.mark.parametrize(("deaths", "comes_up"), [(1, True), (99, False)])
def test_a_worker_that_is_killed_while_it_starts(tmp_path: Path, deaths: int, comes_up: bool) -> None:
    """Really killed, by a module that each worker loads first."""
    import dask

    from subpixmap.mapping.cluster import connect

    (tmp_path / "deadly.py").write_text(
        "import os, pathlib, signal\n"
        "def dask_setup(worker):\n"
        f"    counter = pathlib.Path({str(tmp_path / 'deaths')!r})\n"
        "    n = len(counter.read_text()) if counter.exists() else 0\n"
        f"    if n < {deaths}:\n"
        "        counter.write_text('x' * (n + 1))\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with dask.config.set({"distributed.worker.preload": [str(tmp_path / "deadly.py")]}):
        if comes_up:
            with connect(workers=1) as client:
                client.wait_for_workers(1, timeout=60)
                assert client.submit(int, "7").result(timeout=60) == 7
        else:
            with pytest.raises(Incomplete, match="worker processes do not start on this machine") as caught:
                with connect(workers=1):
                    pass
            assert "\n" not in str(caught.value)


# Files of a run -------------------------------------------------------------------------------------------------------
DAMAGED = (
    runpaths.COUNTS_PARQUET, runpaths.SERIES_PARQUET, runpaths.UNITS, runpaths.ACCOUNTS, runpaths.TREND_PARQUET,
    runpaths.PLAN, runpaths.ITEMS, runpaths.MANIFEST,
)  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "folder"])
def test_damaged_files_of_a_run(
    copied: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    path = copied / name
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "other": b"{}"}[damage])
    for verb in ("verify", "trend", "report", "count", "status", "export"):
        code = subpixmap(verb, copied, *(["--format", "csv"] if verb == "export" else []))
        shown = capsys.readouterr().err
        assert code in ((2, 5) if verb == "verify" else (0, 2, 3, 4, 5)), (verb, shown)
        assert "Traceback" not in shown
        if code:
            errors = [line for line in shown.splitlines() if line.startswith("subpixmap: ")]
            assert len(errors) == 1, (verb, shown)
            assert "Errno" not in errors[0]


def test_a_full_disk_names_the_path(tmp_path: Path) -> None:
    """In a process of its own whose files may not grow: the system refuses as it does on a full disk."""
    code = (
        "import resource, signal, sys, pathlib\n"
        "from subpixmap.files import write_atomic, write_new\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for write in (write_atomic, write_new):\n"
        "    try: write(pathlib.Path(sys.argv[1]) / 'counts.csv', b'x' * 5000)\n"
        "    except OSError as error: print(error)\n"
    )
    made = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert made.stdout.count(f"{tmp_path}/counts.csv") == 2, made.stdout + made.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_mapping_names_the_folder(
    country: Path, stand_in: Path, tmp_path: Path, subpixmap: Callable[..., int], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("subpixmap.mapping.task.write_record", full)
    options = "--years 2020 --block 256 --workers 0 --quiet --allow-partial".split()
    where = ["--region", country / "region.geojson", "--source", country / "catalog.json", "--model", stand_in]
    assert subpixmap("run", *where, *options, "--out", tmp_path / "out") == 3
    shown = capsys.readouterr().err
    assert str(tmp_path / "out") in shown
    assert "No space left" in shown
    assert shown.count("\n") == 1


# Vector files ---------------------------------------------------------------------------------------------------------
def test_a_local_coordinate_system_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.shp"
    gpd.GeoDataFrame({"unit_id": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(path)
    (tmp_path / "u.prj").write_text('LOCAL_CS["site grid",UNIT["metre",1]]')
    with pytest.raises(InputError, match=r"u\.shp"):
        read_units(path)
    with pytest.raises(InputError, match=r"u\.shp"):
        resolve_region(str(path))


def test_points_of_a_multipoint_are_points(tmp_path: Path) -> None:
    path = tmp_path / "p.geojson"
    shapes = [shapely.MultiPoint([(0, 0), (0.1, 0.1)]), shapely.Point(1, 1)]
    gpd.GeoDataFrame({"object": ["palm", "olive"], "n": [1, 2]}, geometry=shapes, crs=4326).to_file(path)
    points = read_points(path)
    assert points["object"].tolist() == ["palm", "palm", "olive"]
    assert points.geometry.x.tolist() == pytest.approx([0, 0.1, 1])


GML = '<gml:FeatureCollection xmlns:gml="http://www.opengis.net/gml">{}</gml:FeatureCollection>'
NO_POLYGONS = {
    "member.gml": GML.format("<gml:featureMember><a><unit_id>a</unit_id></a></gml:featureMember>"),
    "none.gml": GML.format(""),
    "u.csv": "unit_id,name\na,b\n",
    "wkt.csv": 'unit_id,WKT\na,"POLYGON((0 0,1 0,1 1,0 0))"\n',
    "u.txt": "hello",
    "empty.geojson": "",
    "empty.gpkg": "",
    "half.geojson": '{"type": "FeatureCollection", "features": [{"type": "Fea',
    "nulls.geojson": '{"type":"FeatureCollection","features":[{"type":"Feature","properties":{},"geometry":null}]}',
    "nothing.geojson": '{"type": "FeatureCollection", "features": []}',
    "list.geojson": "[1, 2]",
    "deep.geojson": '{"type":"FeatureCollection","features":' + "[" * 5000 + "]" * 5000 + "}",
    "zeros.shp": "\0" * 100,
}


@pytest.mark.parametrize("name", NO_POLYGONS)
def test_files_without_polygons_are_refused_as_region_and_as_units(tmp_path: Path, name: str) -> None:
    (path := tmp_path / name).write_text(NO_POLYGONS[name])
    for read in (read_units, lambda path: resolve_region(str(path)), lambda p: resolve_region("0,0,1,1", admin=p)):
        with pytest.raises(InputError, match=name) as caught:
            read(path)
        assert "\n" not in str(caught.value)


# Hrefs, folders, tables -----------------------------------------------------------------------------------------------
def test_hrefs_that_are_uris_are_decoded(tmp_path: Path) -> None:
    base = str(tmp_path / "items.json")
    (tmp_path / "a b.tif").touch()
    (tmp_path / "100%25.tif").touch()
    assert resolve("a%20b.tif", base) == str(tmp_path / "a b.tif")
    assert resolve(f"file://{tmp_path}/a%20b.tif", base) == str(tmp_path / "a b.tif")
    assert resolve(f"file://localhost{tmp_path}/a%20b.tif", base) == str(tmp_path / "a b.tif")
    assert resolve("100%25.tif", base) == str(tmp_path / "100%25.tif")  # as it is written, if there is such a file
    assert path_of("file:///tmp/a%20b") == Path("/tmp/a b")
    assert resolve("https://a.example/a%20b.tif", base) == "https://a.example/a%20b.tif"


NO_URLS = (
    "http://[", "http://[bad/a.tif", "https://a]b/a.tif", "https://ex\u2100mple.com/a.tif", "https://a.example:b/a.tif",
    "https://a.example:99999/a.tif", "https://a..b/a.tif", "s3://[/a.tif", "file://[/a.tif", "//[x/a.tif", "\ud800.tif",
)  # fmt: skip


@pytest.mark.parametrize("href", NO_URLS)
def test_hrefs_that_no_server_can_have_are_refused_wherever_they_stand(
    href: str, tmp_path: Path, country: Path, capsys: pytest.CaptureFixture[str], subpixmap: Callable[..., int]
) -> None:
    """As source, as link of a static catalogue and as asset of an item, of this machine and of a server."""
    for base in (str(tmp_path / "items.json"), "https://a.example/items.json"):
        with pytest.raises(InputError) as caught:
            resolve(href, base)
        assert "\n" not in str(caught.value)
    catalogue = json.loads((country / "catalog.json").read_text()) | {"links": [{"rel": "item", "href": href}]}
    (tmp_path / "catalog.json").write_text(json.dumps(catalogue))
    for source in (tmp_path / "catalog.json", *([href] if href.isascii() else [])):
        words = ["plan", "--region", country / "region.geojson", "--years", "2020", "--model", "demo-s2"]
        assert subpixmap(*words, "--source", source) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("subpixmap: ")
        assert shown.count("\n") == 1, shown


def test_a_source_by_its_uri_is_that_of_its_path(country: Path, tmp_path: Path) -> None:
    from subpixmap.scenes.source import anchored

    (folder := tmp_path / "a b").symlink_to(country)
    uri = f"file://{tmp_path}/a%20b/catalog.json"
    assert anchored(uri) == str(country / "catalog.json")
    region, periods = resolve_region(str(country / "region.geojson")), make_periods("2020")
    by_path = find_items(str(folder / "catalog.json"), region.geometry, periods)
    assert find_items(uri, region.geometry, periods) == by_path


def test_a_truth_that_somebody_else_wrote_is_not_the_simulators(tmp_path: Path, country: Path) -> None:
    (tmp_path / "catalog.json").write_text("{}")
    (tmp_path / "truth.csv").write_text("unit_id,object,period,count\na,coconut,2020,7\n")
    (tmp_path / "highres").mkdir()
    (tmp_path / "highres" / "mine.tif").write_text("mine")
    for content in (None, "{}", "[]", '{"name": "Palawan"}', "not JSON"):
        if content is not None:
            (tmp_path / "country.json").write_text(content)
        assert not is_simulated([str(tmp_path / "catalog.json")])
        assert truth_of([str(tmp_path)]) is None
        with pytest.raises(InputError, match="not a simulated country"):
            simulate_country(tmp_path, size_km=1)
        assert (tmp_path / "highres" / "mine.tif").read_text() == "mine"
    truth = truth_of([str(country)])
    assert truth is not None
    assert len(truth)


@pytest.mark.parametrize(
    "verb", ["plan --region 0,0,1,1 --years 2020 --out {}", "simulate {}", "verify {}", "status {}"]
)
@pytest.mark.parametrize("place", ["file", "below a file", "dangling link", "loop", "long", "empty"])
def test_a_folder_that_cannot_be_one(
    tmp_path: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str], verb: str, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {"file": "file", "below a file": "file/run", "dangling link": "link", "loop": "loop", "long": "a" * 300}
    path = "" if place == "empty" else str(tmp_path / places[place])
    assert subpixmap(*[word.format(path) for word in verb.split()]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "Errno" not in shown
    assert (tmp_path / "file").read_text() == "mine"


def test_errors_of_the_system_have_no_numbers(
    copied: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "export").write_text("mine")
    assert subpixmap("export", copied, "--format", "csv") == 2
    shown = capsys.readouterr().err
    assert f"{copied}/export" in shown
    assert "Errno" not in shown


# Python ---------------------------------------------------------------------------------------------------------------
def test_python_says_what_is_meant(country: Path, stand_in: Path) -> None:
    from subpixmap.model.checkpoint import load_model
    from subpixmap.model.predict import predict
    from subpixmap.scenes.cube import open_cube
    from subpixmap.verbs.request import Labelling, Request

    region = resolve_region(str(country / "region.geojson"))
    source = str(country / "catalog.json")
    wrong: Any = {"bands": ["red"]}
    with pytest.raises(ValueError, match="red is B04"):
        open_cube(region, 2020, source=source, **wrong)
    wrong = {"bands": "B04"}
    with pytest.raises(ValueError, match=r"one text; give a list"):
        open_cube(region, 2020, source=source, **wrong)
    cube = open_cube(region, 2020, source=source)
    named, loaded = predict(cube, str(stand_in)), predict(cube, load_model(stand_in))
    at = {"time": slice(1), "y": slice(40), "x": slice(40)}
    np.testing.assert_array_equal(named["count"].isel(at).to_numpy(), loaded["count"].isel(at).to_numpy())
    with pytest.raises(ValueError, match="no model 'palms'"):
        predict(cube, "palms")
    with pytest.raises(TypeError, match="load_model"):
        predict(cube, wrong)
    wrong = {"objects": "coconut"}
    for make in (
        lambda: Request(region="demo", years="2020", **wrong),
        lambda: Labelling(**wrong),
        lambda: read_points(country / "points.parquet", **wrong),
        lambda: simulate_country("nowhere", **wrong),
    ):
        with pytest.raises(ValueError, match=r"objects='coconut' is one text; give"):
            make()


# Messages that named nothing ------------------------------------------------------------------------------------------
def test_messages_name_what_they_are_about(whole_run: Path) -> None:
    from subpixmap.reference.patches import join, make_patches
    from subpixmap.reference.reference import make_reference
    from subpixmap.runfolder import RunFolder
    from subpixmap.trends.run_trend import trend_of_run

    with pytest.raises(InputError, match="join: give at least one place"):
        join([])
    with pytest.raises(InputError, match="patches of palm"):
        make_patches([], bands=("B02",), objects=("palm",), halo=1)
    with pytest.raises(InputError, match="--unchanged a,b and --background"):
        trend_of_run(RunFolder.open(whole_run), unchanged=("a", "b"), background=True)
    none = gpd.GeoDataFrame({"unit_name": []}, geometry=[], crs=4326)
    points = gpd.GeoDataFrame({"object": ["palm"]}, geometry=[shapely.Point(0, 0)], crs=4326)
    with pytest.raises(InputError, match="--labelled"):
        make_reference(points, none, "2021")


def test_write_atomic_leaves_a_file_that_it_cannot_replace(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        write_atomic(tmp_path / "a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_tables_that_are_damaged_are_said_to_be(tmp_path: Path) -> None:
    from subpixmap.tables import COUNTS, read_table

    path = tmp_path / "counts.csv"
    for data in (b"\xff\xfe\x00", b'"unit_id\n', b"a,b\n1,2,3,4\n"):
        path.write_bytes(data)
        with pytest.raises((VerificationFailed, InputError), match=r"counts\.csv"):
            read_table(path, COUNTS)
    pd.DataFrame({"unit_id": [1]}).to_parquet(tmp_path / "counts.parquet")
    with pytest.raises(InputError, match="lacks the columns"):
        read_table(tmp_path / "counts.parquet", COUNTS)
