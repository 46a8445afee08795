"""Whole runs over a server that exchanges files or sends other bytes: the map is that of one version, or it stops."""

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from subpixmap.mapping import run
from subpixmap.scenes import access, reader, stores
from tests.helpers import stac_server
from tests.helpers.mapping_data import hashes

KINDS = ("http", "s3")


class Imagery:
    """A country behind a server, in two versions of its files: as they are, and 1000 digital numbers brighter."""

    def __init__(self, server: Any, country: Path, folder: Path, kind: str) -> None:
        self.server, self.kind = server, kind
        self.bucket = f"bucket{server.url.rpartition(':')[2]}"
        self.files = folder / self.bucket
        shutil.copytree(country, self.files)
        self.other: dict[Path, bytes] = {}
        self.gone: str | None = None
        self.before: Callable[[int], None] = lambda number: None
        server.files, server.fault = folder, self.answer

    def answer(self, server: Any, method: str, path: str, body: Any) -> Any:
        """With an ETag, to everybody over http, with keys over s3."""
        self.before(sum(server.requests.values()))
        file = server.files / path.lstrip("/")
        headers = {name.lower(): value for name, value in server.headers[-1].items()}
        if self.kind == "s3" and "credential=someone/" not in headers.get("authorization", "").lower():
            return 403, {}, b""
        if not file.is_file() or (self.gone and self.gone in path):
            return 404, {}, b""
        content = file.read_bytes()
        status, told, part = server.part(path, content, headers.get("range"))
        return status, told | {"ETag": f'"{hash(content)}"'}, part

    def exchange(self) -> None:
        """Give every band its other version, and back."""
        for path in sorted(self.files.rglob("B*.tif")):
            content = path.read_bytes()
            if path not in self.other:
                with rasterio.open(path) as dataset:
                    values, profile = dataset.read(), dataset.profile
                with rasterio.open(path, "w", **profile) as dataset:
                    dataset.write(np.where(values > 0, values + np.uint16(1000), values))
                self.other[path] = path.read_bytes()
                path.write_bytes(content)
            other = self.other[path]
            self.other[path] = content
            (path.parent / "new").write_bytes(other)
            (path.parent / "new").replace(path)  # a file is of one version at any moment, as in a store

    def exchange_at(self, moment: int) -> threading.Event:
        """Exchange once, before the answer to the request of this number; the event says that it happened."""
        happened, one = threading.Event(), threading.Lock()

        def before(number: int) -> None:
            with one:  # requests are answered by several threads: a number may be passed over
                if number >= moment and not happened.is_set():
                    self.exchange()
                    happened.set()

        self.before = before
        return happened

    @property
    def region(self) -> Path:
        return self.files / "region.geojson"

    def catalogue(self) -> str:
        """Its address: over http whole, over s3 on this machine with files in the store."""
        if self.kind == "http":
            return f"{self.server.url}/{self.bucket}/catalog.json"
        for path in self.files.rglob("*.json"):
            text = path.read_text()
            for tif in path.parent.glob("*.tif"):
                there = f"s3://{self.bucket}/{tif.relative_to(self.files)}"
                text = text.replace(f'"./{tif.name}"', f'"{there}"').replace(f'"{tif.name}"', f'"{there}"')
            path.write_text(text)
        return str(self.files / "catalog.json")


@pytest.fixture(params=KINDS)
def imagery(
    request: pytest.FixtureRequest, country: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    monkeypatch.setattr(reader, "BACKOFF_S", 0.01)
    monkeypatch.setattr(run, "_PAUSE_S", 0.0)
    for option, number in {"MAX_RETRY": 0, "TIMEOUT": 3}.items():  # after another answer than asked GDAL waits so long
        monkeypatch.setitem(access.GDAL_OPTIONS, f"GDAL_HTTP_{option}", number)
    with stac_server.serve() as server:
        keys = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something", "AWS_REGION": "us-east-1"}
        store = {"AWS_S3_ENDPOINT": server.url.removeprefix("http://"), "AWS_HTTPS": "NO"}
        of_store = keys | store | {"AWS_VIRTUAL_HOSTING": "FALSE"} if request.param == "s3" else {}
        for variable, text in of_store.items():
            monkeypatch.setenv(variable, text)
        yield Imagery(server, country, tmp_path / "served", request.param)


@pytest.fixture(scope="module")
def sound(country: Path, stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run over the same files on disk gives."""
    from subpixmap.cli.main import main

    out = tmp_path_factory.mktemp("sound") / "run"
    options = ["--region", country / "region.geojson", "--source", country / "catalog.json", "--model", stand_in]
    options += ["--years", "2020-2021", "--block", 256, "--workers", 0, "--out", out, "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["subpixmap", "run", *map(str, options)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return hashes(out)


def forget() -> None:
    """What a new process does not know: open files, versions, GDAL's caches."""
    gdal = stores._gdal()
    reader._threads.__dict__.clear()
    reader._seen.clear()
    reader._exchanged.clear()
    if gdal is not None:
        gdal.VSICurlClearCache()


def command(imagery: Any, source: str, model: Any, out: Path, years: str) -> list[Any]:
    options = {
        "--region": imagery.region, "--source": source, "--admin": imagery.files / "admin.parquet", "--model": model,
        "--years": years, "--block": 256, "--workers": 0, "--out": out,
    }  # fmt: skip
    return ["run", *itertools.chain.from_iterable(options.items()), "-q"]


@pytest.mark.slow
def test_imagery_that_changes_between_interruption_and_resume_is_refused_and_nothing_is_mixed(
    imagery: Any, sound: Any, stand_in: Path, tmp_path: Path, subpixmap: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = imagery.catalogue(), tmp_path / "run"
    resume = command(imagery, source, stand_in, out, "2020-2021")
    # 1. locked, and interrupted: the server gives nothing of the second year any more
    assert subpixmap("plan", *resume[1:]) == 0
    imagery.gone = "_2021"
    assert subpixmap(*resume) == 3
    first = hashes(out)
    assert {period for _, period in first} == {"2020"}
    # 2. every file is rewritten, and the run resumed
    imagery.gone = None
    imagery.exchange()
    capsys.readouterr()
    for verb in (resume, ["map", out, "--model", stand_in, "--workers", 0]):
        forget()
        assert subpixmap(*verb) == 4
        error = capsys.readouterr().err
        assert "has changed since its version was recorded" in error
        assert ".tif" in error
        assert "--refresh" in error
        assert "something" not in error
    assert hashes(out) == first
    # 3. it is restored, and the run goes on as if nothing had been
    imagery.exchange()
    forget()
    assert subpixmap(*resume) == 0
    assert hashes(out) == sound
    assert subpixmap("verify", out) == 0


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_imagery_that_is_exchanged_at_any_moment_of_a_run_is_never_mixed(
    imagery: Any, share: float, sound: Any, stand_in: Path, tmp_path: Path, subpixmap: Any, capsys: Any
) -> None:
    source, out = imagery.catalogue(), tmp_path / "run"
    for name in ("first", "again"):  # the second knows some files, as the next one does, and asks less
        before = sum(imagery.server.requests.values())
        assert subpixmap(*command(imagery, source, stand_in, tmp_path / name, "2020-2021")) == 0
        assert hashes(tmp_path / name) == sound
        asked = sum(imagery.server.requests.values()) - before
        forget()
    happened = imagery.exchange_at(before + asked + 1 + int(share * asked))
    code = subpixmap(*command(imagery, source, stand_in, out, "2020-2021"))
    there = hashes(out) if (out / "plan.json").exists() else {}
    assert there == {key: sound[key] for key in there}
    assert happened.is_set()
    error = capsys.readouterr().err
    if (out / "plan.json").exists():
        assert (code, ".tif" in error) == (4, True)
    else:  # before the lock: the ground of some files is too bright for their offset
        assert code in (2, 4)
    imagery.before = lambda number: None
    imagery.exchange()
    forget()
    code = subpixmap(*command(imagery, source, stand_in, out, "2020-2021"))
    if code == 4:  # the lock itself was made while the files were exchanged: it is made anew
        refresh = [part for year in (2020, 2021) for part in ("--refresh", year)]
        code = subpixmap(*command(imagery, source, stand_in, out, "2020-2021"), *refresh, "--yes")
    assert code == 0
    assert hashes(out) == sound
    assert subpixmap("verify", out) == 0


def whole_instead_of_part(imagery: Any, path: str) -> Any:
    return 200, {}, (imagery.server.files / path.lstrip("/")).read_bytes()


def another_part(imagery: Any, path: str) -> Any:
    status, headers, part = imagery.answer(imagery.server, "GET", path, None)
    total = headers.get("Content-Range", "/0").rpartition("/")[2]
    return status, headers | {"Content-Range": f"bytes 7-{6 + len(part)}/{total}"}, part


@pytest.mark.slow
@pytest.mark.parametrize("fault", [whole_instead_of_part, another_part])
@pytest.mark.parametrize("often", [50, 7, 1])
@pytest.mark.parametrize("imagery", ["http"], indirect=True)
def test_a_server_that_sends_other_bytes_now_and_then_gives_the_same_map_or_none(
    imagery: Any, fault: Any, often: int, sound: Any, stand_in: Path, tmp_path: Path, subpixmap: Any
) -> None:
    """Bands without check sums: any bytes would pass for pixels."""
    for path in imagery.files.rglob("B*.tif"):
        with rasterio.open(path) as dataset:
            values, profile = dataset.read(), dataset.profile
        profile.update(compress=None, predictor=1, driver="GTiff", interleave="band")
        with rasterio.MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                dataset.write(values)
                dataset.build_overviews([4, 16])
            # Its headers in front: where GDAL looks for them later, rasterio holds the lock that this server waits for.
            rasterio.shutil.copy(memory.name, path, driver="COG", compress="NONE", blocksize=256)
    source, out = imagery.catalogue(), tmp_path / "run"
    sound = {key: digest for key, digest in sound.items() if key[1] == "2020"}

    def now_and_then(server: Any, method: str, path: str, body: Any) -> Any:
        wrong = path.endswith(".tif") and sum(server.requests.values()) % often == 0
        return fault(imagery, path) if wrong else imagery.answer(server, method, path, body)

    imagery.server.fault = now_and_then
    codes = [subpixmap(*command(imagery, source, stand_in, out, "2020")) for _ in range(2)]
    there = hashes(out) if (out / "plan.json").exists() else {}
    assert set(codes) <= {0, 3}
    assert there == {key: sound[key] for key in there}
    assert (codes[-1] == 0) == (there == sound)
    if often == 50:
        assert codes[-1] == 0
    imagery.server.fault = imagery.answer
    assert subpixmap(*command(imagery, source, stand_in, out, "2020")) == 0
    assert hashes(out) == sound
