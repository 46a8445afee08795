"""Imagery in an object store that is read with keys: its version is asked for, and what changed is refused by name."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.windows import Window as RasterWindow

from subpixmap.periods import make_periods
from subpixmap.scenes import access, reader, stores
from subpixmap.scenes.fallback import lock_sources
from subpixmap.scenes.items import Asset, read_lock, write_lock
from subpixmap.scenes.pins import Changed, Pin
from subpixmap.scenes.source import find_by_source
from tests.helpers import scenes_data, stac_server

TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
VALUES = (np.arange(90000) % 30000 + 1).astype(np.uint16).reshape(300, 300)
WHOLE = RasterWindow(0, 0, 300, 300)


class Store:
    """A bucket: it gives to whoever signs, and pays if it is wanted, and states ETag and time of its files."""

    def __init__(self, server: Any, folder: Path) -> None:
        self.server, self.folder, self.paid_by_reader, self.fails = server, folder, False, 0
        server.files, server.fault = folder, self.answer

    def answer(self, server: Any, method: str, path: str, body: Any) -> Any:
        headers = {name.lower(): value for name, value in server.headers[-1].items()}
        signed = "Credential=someone/" in headers.get("authorization", "")
        payer = headers.get("x-amz-request-payer") == "requester"
        if not signed or (self.paid_by_reader and not payer):
            return 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
        if self.fails:
            self.fails -= 1
            return 503, {}, b"<Error><Code>SlowDown</Code></Error>"
        file = self.folder / path.lstrip("/")
        if not file.is_file():
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        content = file.read_bytes()
        status, told, part = server.part(path, content, headers.get("range"))
        return status, told | {"ETag": f'"{hash(content)}"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, part


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(reader, "BACKOFF_S", 0.01)
    monkeypatch.setitem(access.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", 0)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_NO_SIGN_REQUEST", "AWS_REQUEST_PAYER"):
        monkeypatch.delenv(name, raising=False)
    with stac_server.serve() as server:
        settings = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something", "AWS_REGION": "us-east-1"}
        settings |= {"AWS_S3_ENDPOINT": server.url.removeprefix("http://")}
        for name, value in (settings | {"AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}).items():
            monkeypatch.setenv(name, value)
        yield Store(server, tmp_path)


@pytest.fixture
def asset(store: Any, request: pytest.FixtureRequest) -> Asset:
    """A file in a bucket of its own: GDAL remembers the answers of before by their path."""
    bucket = f"bucket{abs(hash(request.node.nodeid))}"
    (store.folder / bucket).mkdir()
    scenes_data.write_raster(store.folder / bucket / "B04.tif", VALUES, TRANSFORM)
    return Asset(f"s3://{bucket}/B04.tif", TRANSFORM, (300, 300))


def file_of(store: Any, asset: Asset) -> Path:
    return Path(store.folder / asset.href.removeprefix("s3://"))


def brighter(store: Any, asset: Asset) -> None:
    scenes_data.write_raster(file_of(store, asset), VALUES + np.uint16(1000), TRANSFORM)


def test_a_store_states_the_version_to_whom_it_gives_the_file(store: Any, asset: Asset) -> None:
    size = file_of(store, asset).stat().st_size
    first = access.pin_of(asset)
    assert first is not None
    assert (first.size, first.modified) == (size, "Mon, 01 Jan 2024 00:00:00 GMT")
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    assert reader.seen(asset) == first
    brighter(store, asset)
    second = access.pin_of(asset)
    assert second is not None
    assert "ETag" in replace(first, size=second.size).difference(second)


def test_the_reader_pays_where_gdal_is_told_so(store: Any, asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    store.paid_by_reader = True
    with pytest.raises(OSError, match="version"):
        access.pin_of(asset)
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    pin = access.pin_of(asset)
    assert pin is not None
    assert pin.etag
    np.testing.assert_array_equal(reader.read_window(replace(asset, pin=pin), WHOLE, 32651), VALUES)


def test_keys_of_a_profile_are_found(store: Any, asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "credentials"
    keys.write_text("[mine]\naws_access_key_id = someone\naws_secret_access_key = something\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "CPL_AWS_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(keys))
    assert access.pin_of(asset) is not None


def test_a_file_that_is_exchanged_after_the_lock_is_refused_before_it_is_opened(store: Any, asset: Asset) -> None:
    pinned = replace(asset, pin=access.pin_of(asset))
    brighter(store, asset)
    with pytest.raises(Changed, match=r"s3://bucket\d+/B04\.tif has changed.*--refresh") as error:
        reader.read_window(pinned, WHOLE, 32651)
    assert error.value.exit_code == 4
    again = replace(asset, pin=access.pin_of(asset))
    np.testing.assert_array_equal(reader.read_window(again, WHOLE, 32651), VALUES + np.uint16(1000))


@pytest.mark.parametrize("after", range(1, 6))
def test_a_file_that_is_exchanged_under_the_reader_is_refused(store: Any, asset: Asset, after: int) -> None:
    pinned, answer = replace(asset, pin=access.pin_of(asset)), store.answer

    def exchange(server: Any, method: str, path: str, body: Any) -> Any:
        if sum(server.requests.values()) == after + 1:
            brighter(store, asset)
        return answer(server, method, path, body)

    store.server.fault = exchange
    with pytest.raises(Changed, match=r"B04\.tif"):
        [reader.read_window(pinned, WHOLE, 32651) for _ in range(6)]
    again = replace(asset, pin=access.pin_of(asset))
    np.testing.assert_array_equal(reader.read_window(again, WHOLE, 32651), VALUES + np.uint16(1000))


def test_a_lock_pins_the_files_of_a_store(store: Any, asset: Asset, tmp_path: Path) -> None:
    raw = scenes_data.make_item(tmp_path, size_px=300, bands={"B04": 10, "B08": 10}, baseline="02.14")
    source = scenes_data.write_collection(tmp_path / "items.json", [raw])
    source.write_text(source.read_text().replace(f"{tmp_path}/", "s3://"))
    periods = make_periods(2021)
    by_source = find_by_source(str(source), shapely.box(-180, -90, 180, 90), periods)
    (item,) = lock_sources(by_source, periods, ["B04", "B08"])
    for one in item.assets.values():
        assert one.href.startswith("s3://")
        assert one.pin is not None
        assert one.pin.size == file_of(store, one).stat().st_size
        assert one.pin.etag
    write_lock(tmp_path / "items.parquet", [item])
    assert read_lock(tmp_path / "items.parquet") == [item]
    assert b"something" not in (tmp_path / "items.parquet").read_bytes()


def test_a_store_that_does_not_answer_is_asked_again_and_then_named(store: Any, asset: Asset) -> None:
    store.fails = 1
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    file_of(store, asset).unlink()
    with pytest.raises(reader.ReadFailed, match=r"s3://bucket\d+/B04\.tif could not be read.*NoSuchKey"):
        reader.read_window(asset, WHOLE, 32651)
    with pytest.raises(OSError, match="NoSuchKey"):
        access.pin_of(asset)


def test_where_gdal_cannot_be_asked_files_have_no_version_and_are_read(
    store: Any, asset: Asset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_gdal", lambda: None)
    assert access.pin_of(asset) is None
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)


def test_a_public_bucket_is_asked_without_keys(store: Any, asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store.server.fault = None  # it gives to everybody, and states the size alone
    assert access.pin_of(asset) == Pin(file_of(store, asset).stat().st_size)
    assert not any("Authorization" in headers for headers in store.server.headers)
