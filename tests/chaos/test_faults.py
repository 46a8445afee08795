"""Imagery over a server that fails in every way: what is read is right, or its block is refused by name."""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.windows import Window as RasterWindow

from subpixmap.grid import Window
from subpixmap.mapping import run
from subpixmap.mapping.run import BlocksFailed, map_region
from subpixmap.mapping.verify import verify
from subpixmap.scenes import access, reader
from subpixmap.scenes.items import Asset
from tests.helpers import scenes_data, stac_server
from tests.helpers.mapping_data import hashes, region_of, tiny

TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
VALUES = np.random.default_rng(0).integers(1, 9000, (300, 300), dtype=np.uint16)
WHOLE = RasterWindow(0, 0, 300, 300)


def part(server: Any, path: Any) -> Any:
    """The answer that a sound server would give to the latest request."""
    return server.part(path, (server.files / path.lstrip("/")).read_bytes(), server.headers[-1].get("Range"))


def short(server: Any, path: Any) -> Any:
    status, headers, content = part(server, path)
    return status, headers | {"Content-Length": str(len(content))}, content[: len(content) // 2]


def stall(server: Any, path: Any) -> Any:
    time.sleep(1.4)
    return part(server, path)


FAULTS = {
    **{str(status): lambda *_, status=status: (status, {}, b"") for status in (401, 403, 404, 429, 500, 502, 503)},
    "truncated": short,
    "empty": lambda server, path: (*part(server, path)[:2], b""),
    "zeros": lambda server, path: (*part(server, path)[:2], bytes(len(part(server, path)[2]))),
    "page": lambda server, path: (*part(server, path)[:2], b"<html>please log in</html>" * 9999),
    "stall": stall,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(reader, "BACKOFF_S", 0.01)
    monkeypatch.setattr(run, "_PAUSE_S", 0.0)
    for name, value in {"MAX_RETRY": 1, "RETRY_DELAY": 0.01, "TIMEOUT": 1}.items():
        monkeypatch.setitem(access.GDAL_OPTIONS, f"GDAL_HTTP_{name}", value)
    with stac_server.serve() as one:
        one.files = tmp_path
        yield one


def read_under(server: Any, name: Any, fault: Any, *, phase: Any, times: Any) -> Any:
    """Read a file while some requests for it fail; 'right', 'refused' or 'wrong'."""
    path = f"/{name}.tif"
    scenes_data.write_raster(server.files / path[1:], VALUES, TRANSFORM)

    def answer(server: Any, method: Any, asked: Any, body: Any) -> Any:
        number = server.requests[asked] - phase
        return fault(server, asked) if 1 <= number <= times else None

    server.fault = answer
    try:
        found = reader.read_window(Asset(server.url + path, TRANSFORM, VALUES.shape), WHOLE, 32651)
    except reader.ReadFailed as error:
        return "refused" if path[1:] in str(error) else f"a message that does not name it: {error}"
    return "right" if np.array_equal(found, VALUES) else "wrong"


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_of_a_server_gives_a_wrong_pixel(server: Any, fault: Any) -> None:
    phases, persistence = ([0], [1]) if fault == "stall" else ([0, 1, 2], [1, 4, 10**6])
    outcomes = {
        (phase, times): read_under(server, f"B{phase}{i}", FAULTS[fault], phase=phase, times=times)
        for phase, (i, times) in itertools.product(phases, enumerate(persistence))
    }
    assert set(outcomes.values()) <= {"right", "refused"}
    assert outcomes[0, 1] == "right"  # a single failure costs nothing
    if fault != "stall":
        assert outcomes[0, 10**6] == "refused"


@pytest.fixture
def country(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One block and two acquisitions, its rasters behind the server; and what the same files on disk give."""
    made = tiny(server.files, dates=2, years="2021", size_px=300)
    (zone,) = made.plan().zones.values()
    first = zone.blocks[0].block.window
    made = replace(made, region=region_of(Window(first.row + 100, first.col + 100, 99, 99), zone.lattice))

    def remote(asset: Any) -> Any:
        return replace(asset, href=asset.href.replace(str(server.files), server.url))

    items = [replace(item, assets={band: remote(asset) for band, asset in item.assets.items()}) for item in made.items]
    map_region(server.files / "sound", made.plan(), made.items, made.model, workers=0)
    return replace(made, items=items), hashes(server.files / "sound")


def test_a_run_over_a_flaky_server_ends_with_the_same_bits(server: Any, country: Any, tmp_path: Path) -> None:
    country, sound = country
    rng, failed = random.Random(0), []

    def answer(server: Any, method: Any, path: Any, body: Any) -> Any:
        if rng.random() < 0.35:
            failed.append(rng.choice(["503", "truncated", "429", "zeros", "403"]))
            return FAULTS[failed[-1]](server, path)
        return None

    server.fault = answer
    map_region(tmp_path / "flaky", country.plan(), country.items, country.model, workers=0, attempts=10)
    assert len(failed) > 3
    assert hashes(tmp_path / "flaky") == sound


def test_signatures_that_end_in_the_middle_of_a_run_are_renewed_and_never_kept(
    server: Any, country: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued: list[Any] = []

    def sign(href: Any, renew: Any) -> Any:
        if renew or not issued:
            issued.append(f"SECRETTOKEN{len(issued)}")
        return f"{href}?sig={issued[-1]}"

    used = []

    def answer(server: Any, method: Any, path: Any, body: Any) -> Any:
        token = path.partition("sig=")[2]
        used.append(token)
        if token != issued[-1] or used.count(token) > 9:  # every signature is good for nine requests
            return 403, {}, b""
        return None

    country, sound = country
    monkeypatch.setitem(access.SIGNERS, "127.0.0.1", sign)
    server.fault = answer
    out = tmp_path / "signed"
    map_region(out, country.plan(), country.items, country.model, workers=0, attempts=10)
    assert len(issued) > 1
    assert hashes(out) == sound
    assert not [path for path in out.rglob("*") if path.is_file() and b"SECRETTOKEN" in path.read_bytes()]


def test_a_file_that_is_gone_fails_its_block_by_name_and_commits_nothing(
    server: Any, country: Any, tmp_path: Path
) -> None:
    country, sound = country
    gone = next(iter(country.items[0].assets.values())).href.replace(server.url, "")
    server.fault = lambda server, method, path, body: (404, {}, b"") if path == gone else None
    with pytest.raises(BlocksFailed, match=rf"32651-r\d+-c\d+.*2021.*{gone.rsplit('/')[-1]}"):
        map_region(tmp_path / "run", country.plan(), country.items, country.model, workers=0)
    assert hashes(tmp_path / "run") == {}
    server.fault = None
    assert map_region(tmp_path / "run", country.plan(), country.items, country.model, workers=0).done == 1
    assert hashes(tmp_path / "run") == sound
    assert not verify(tmp_path / "run").damaged
