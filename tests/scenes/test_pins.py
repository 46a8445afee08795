"""Versions of files: imagery that is exchanged after planning or under the reader is refused by name."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window as RasterWindow

from subpixmap.periods import make_periods
from subpixmap.scenes import access, reader
from subpixmap.scenes.fallback import lock_sources
from subpixmap.scenes.items import Asset, items_sha256, read_lock, write_lock
from subpixmap.scenes.pins import Changed, Pin
from subpixmap.scenes.source import find_by_source
from tests.helpers import scenes_data, stac_server

TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
VALUES = (np.arange(90000) % 30000 + 1).astype(np.uint16).reshape(300, 300)
WHOLE = RasterWindow(0, 0, 300, 300)


def write_uncompressed(path: Path, values: np.ndarray) -> None:
    """A file in which no wrong byte shows: other pixels have the same places and sizes."""
    with rasterio.open(
        path, "w", driver="GTiff", height=300, width=300, count=1, dtype="uint16", crs="EPSG:32651", nodata=0,
        transform=Affine(*TRANSFORM), tiled=True, blockxsize=128, blockysize=128,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(reader, "BACKOFF_S", 0.01)
    monkeypatch.setitem(access.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", 0)
    write_uncompressed(tmp_path / "B04.tif", VALUES)
    with stac_server.serve() as server:
        server.files = tmp_path
        yield server, Asset(f"{server.url}/B04.tif", TRANSFORM, (300, 300))


def test_what_differs_is_named_and_what_is_unknown_is_not_compared() -> None:
    before = Pin(10, '"a"', "Mon")
    assert before.difference(Pin(10, '"a"', "Mon")) == ""
    assert before.difference(Pin()) == ""
    assert "size" in before.difference(Pin(11, '"a"', "Mon"))
    assert "ETag" in before.difference(Pin(10, '"b"', "Mon"))
    assert "time" in before.difference(Pin(10, None, "Tue"))
    assert Pin.from_json(before.to_json()) == before
    assert Pin().to_json() == {}


def test_a_lock_pins_local_files_and_refuses_them_when_they_are_rewritten(tmp_path: Path) -> None:
    raw = scenes_data.make_item(tmp_path, size_px=300, bands={"B04": 10})
    source = scenes_data.write_collection(tmp_path / "items.json", [raw])
    periods = make_periods(2021)
    by_source = find_by_source(str(source), shapely.box(-180, -90, 180, 90), periods)
    items = lock_sources(by_source, periods, ["B04"], look=False)
    asset = items[0].assets["B04"]
    assert asset.pin is not None
    assert asset.pin.size == os.stat(asset.href).st_size
    write_lock(tmp_path / "items.parquet", items)
    assert read_lock(tmp_path / "items.parquet") == items
    reader.read_window(asset, WHOLE, 32651)
    with rasterio.open(asset.href) as dataset:
        brighter = dataset.read(1) + np.uint16(1000)
    scenes_data.write_raster(Path(asset.href), brighter, TRANSFORM)
    with pytest.raises(Changed, match=r"B04\.tif.*--refresh") as error:
        reader.read_window(asset, WHOLE, 32651)
    assert error.value.exit_code == 4
    again = lock_sources(by_source, periods, ["B04"], look=False)
    assert again != items
    assert items_sha256(again) == items_sha256(items)  # a pin is not what is read, but which version of it
    np.testing.assert_array_equal(reader.read_window(again[0].assets["B04"], WHOLE, 32651), brighter)


def test_a_lock_pins_every_file_of_a_server(tmp_path: Path) -> None:
    """Also the bands that no check has read: they may be rewritten before the first block or between two."""
    raw = scenes_data.make_item(tmp_path, size_px=300, bands={"B04": 10, "B08": 10}, baseline="02.14")
    periods = make_periods(2021)
    with stac_server.serve() as server:
        server.files = tmp_path
        source = scenes_data.write_collection(tmp_path / "items.json", [raw])
        source.write_text(source.read_text().replace(str(tmp_path), server.url))
        by_source = find_by_source(str(source), shapely.box(-180, -90, 180, 90), periods)
        (item,) = lock_sources(by_source, periods, ["B04", "B08"])
        for asset in item.assets.values():
            assert asset.pin is not None
            assert asset.pin.size == (tmp_path / asset.href.removeprefix(server.url + "/")).stat().st_size
        nir = tmp_path / item.assets["B08"].href.removeprefix(server.url + "/")
        scenes_data.write_raster(nir, np.full((300, 300), 7, np.uint16), TRANSFORM)
        with pytest.raises(Changed, match=r"B08\.tif"):
            reader.read_window(item.assets["B08"], WHOLE, 32651)


def test_a_server_states_the_version(remote: Any) -> None:
    server, asset = remote
    size = (server.files / "B04.tif").stat().st_size
    assert access.pin_of(asset) == Pin(size)
    reader.read_window(asset, WHOLE, 32651)
    assert reader.seen(asset) == Pin(size)
    server.fault = with_headers({"ETag": '"x"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"})
    assert access.pin_of(asset) == Pin(size, '"x"', "Mon, 01 Jan 2024 00:00:00 GMT")


def test_keys_of_a_store_are_not_looked_for_where_none_is_read(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking takes longer than to read a small window."""
    session = pytest.importorskip("boto3").Session
    asked = []

    def look(*args: Any, **options: Any) -> Any:
        asked.append(args)
        return session(*args, **options)

    monkeypatch.setattr("boto3.Session", look)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mine")
    server, asset = remote
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    own = Asset(str(server.files / "B04.tif"), TRANSFORM, (300, 300))
    np.testing.assert_array_equal(reader.read_window(own, WHOLE, 32651), VALUES)
    assert not asked


def with_headers(more: dict[str, str]) -> Any:
    """The server's own answers with further headers."""

    def answer(server: Any, method: str, path: str, body: Any) -> Any:
        wanted = server.headers[-1].get("Range")
        status, headers, content = server.part(path, (server.files / path.lstrip("/")).read_bytes(), wanted)
        return status, headers | more, content

    return answer


@pytest.mark.parametrize("after", [2, 3, 4])
def test_content_that_is_exchanged_under_the_reader_is_refused(remote: Any, after: int) -> None:
    """Same size, same places of the blocks: only the ETag tells."""
    server, asset = remote
    first = (server.files / "B04.tif").read_bytes()
    write_uncompressed(server.files / "B04.tif", VALUES + np.uint16(1000))
    other = (server.files / "B04.tif").read_bytes()
    assert len(first) == len(other)

    def exchange(server: Any, method: str, path: str, body: Any) -> Any:
        old = sum(server.requests.values()) <= after
        status, headers, content = server.part(path, first if old else other, server.headers[-1].get("Range"))
        return status, headers | {"ETag": '"old"' if old else '"new"'}, content

    server.fault = exchange
    with pytest.raises(Changed, match=r"B04\.tif"):
        [reader.read_window(asset, WHOLE, 32651) for _ in range(2)]
    # A new attempt begins with the version of then.
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES + np.uint16(1000))


def test_a_pinned_file_of_a_server_is_refused_before_it_is_opened(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, asset = remote
    monkeypatch.setattr(rasterio, "open", None)
    pinned = Asset(asset.href, asset.transform, asset.shape, pin=Pin(1))
    with pytest.raises(Changed, match=r"B04\.tif.*size was 1"):
        reader.read_window(pinned, WHOLE, 32651)


def test_a_version_of_which_no_pixel_was_read_binds_nobody(remote: Any) -> None:
    """Half an upload is opened and cannot be read: when the file is whole, it is read, in the same process."""
    server, asset = remote
    whole = (server.files / "B04.tif").read_bytes()
    (server.files / "B04.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(reader.ReadFailed, match=r"B04\.tif"):
        reader.read_window(asset, WHOLE, 32651)
    assert reader.seen(asset) is None
    (server.files / "B04.tif").write_bytes(whole)
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    assert reader.seen(asset) == Pin(len(whole))
    (server.files / "B04.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Changed, match=r"B04\.tif"):
        reader.read_window(asset, WHOLE, 32651)


def test_a_later_lock_is_read_from_the_server_and_not_from_a_cache(remote: Any) -> None:
    """A worker that lives on has read the file of before."""
    server, asset = remote
    server.fault = with_headers({"ETag": '"old"'})
    reader.read_window(asset, WHOLE, 32651)
    write_uncompressed(server.files / "B04.tif", VALUES + np.uint16(1000))
    server.fault = with_headers({"ETag": '"new"'})
    refreshed = Asset(asset.href, asset.transform, asset.shape, pin=access.pin_of(asset))
    np.testing.assert_array_equal(reader.read_window(refreshed, WHOLE, 32651), VALUES + np.uint16(1000))


def whole_instead_of_part(server: Any, method: str, path: str, body: Any) -> Any:
    return 200, {}, (server.files / path.lstrip("/")).read_bytes()


def another_part(server: Any, method: str, path: str, body: Any) -> Any:
    content = (server.files / path.lstrip("/")).read_bytes()
    status, headers, part = server.part(path, content, server.headers[-1].get("Range"))
    return status, headers | {"Content-Range": f"bytes 7-{6 + len(part)}/{len(content)}"}, part


@pytest.mark.parametrize("fault", [whole_instead_of_part, another_part])
def test_a_server_that_sends_other_bytes_than_were_asked_for_is_an_error(remote: Any, fault: Any) -> None:
    server, asset = remote
    server.fault = fault
    with pytest.raises(reader.ReadFailed, match=r"B04\.tif.*did not return the requested bytes"):
        reader.read_window(asset, WHOLE, 32651)


@pytest.mark.parametrize("fault", [whole_instead_of_part, another_part])
@pytest.mark.parametrize("times", [1, 10**6])
@pytest.mark.parametrize("phase", range(5))
def test_a_server_that_errs_now_and_then_gives_no_wrong_pixel(remote: Any, fault: Any, times: int, phase: int) -> None:
    """The pixels are not compressed: GDAL alone would take any bytes for them."""
    server, asset = remote

    def now_and_then(server: Any, method: str, path: str, body: Any) -> Any:
        number = sum(server.requests.values()) - 1
        return fault(server, method, path, body) if phase <= number < phase + times else None

    server.fault = now_and_then
    try:
        found = reader.read_window(asset, WHOLE, 32651)
    except reader.ReadFailed:
        found = None
    assert (found is None) == (times > 1)
    assert found is None or np.array_equal(found, VALUES)


def test_a_file_without_check_sums_is_read_from_the_server_as_it_is(remote: Any) -> None:
    server, asset = remote
    rng = np.random.default_rng(1)
    for _ in range(10):
        row, col = (int(n) for n in rng.integers(0, 280, 2))
        window = RasterWindow(col, row, 20, 20)
        np.testing.assert_array_equal(reader.read_window(asset, window, 32651), VALUES[row : row + 20, col : col + 20])
    large = [last - first for _, first, last in server.ranges if last - first > 2]
    assert sum(large) <= 2 * (server.files / "B04.tif").stat().st_size + 65536
