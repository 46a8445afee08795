"""Hrefs: what is opened, how it is signed, and that a retry really asks again."""

import json
import os
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes import access, hrefs, http, reader
from subpixmap.scenes.hrefs import is_private, redact, resolve, without_secrets
from subpixmap.scenes.items import Asset, lock_items, read_lock, write_lock
from subpixmap.scenes.pins import Pin
from subpixmap.scenes.source import find_items
from tests.helpers import scenes_data, stac_server

TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
VALUES = (np.arange(90000) % 30000 + 1).astype(np.uint16).reshape(300, 300)
WHOLE = RasterWindow(0, 0, 300, 300)


@pytest.mark.parametrize(
    "href",
    [
        '<VRTDataset rasterXSize="1" rasterYSize="1"/>',
        "/vsizip//vsicurl/http://a.example/x.zip/B04.tif",
        "/vsistdin/",
        "WMS:http://a.example/B04.tif",
        "vrt:///etc/passwd?bands=1",
        "file:///etc/B04.tif",
        "s3://me@10.0.0.1:80/B04.tif",
        "s3://b/B04.tif",
        "ftp://a.example/B04.tif",
        "http://169.254.169.254/latest/B04.tif",
        "http://localhost/B04.tif",
        "http://2130706433/B04.tif",
        "https://[::1]/B04.tif",
        "http://metadata.google.internal/B04.tif",
    ],
)
def test_a_public_catalogue_may_not_name_this(href: str) -> None:
    with pytest.raises(InputError, match=re.escape(href[:5])):
        resolve(href, "https://stac.example.org/v1/")


@pytest.mark.parametrize("base", ["https://stac.example.org/v1/", "/data/catalog/item.json"])
@pytest.mark.parametrize("store", ["gs://", "az://", "abfs://", "/vsigs/", "/vsiaz/", "/vsis3/"])
def test_stores_whose_versions_nobody_asks_for_are_not_opened(store: str, base: str) -> None:
    with pytest.raises(InputError, match=f"{store}bucket/B04.tif.*is refused"):
        resolve(f"{store}bucket/B04.tif", base)


def test_hrefs_are_made_absolute() -> None:
    assert resolve("../x/B04.tif", "https://a.example.org/b/c.json") == "https://a.example.org/x/B04.tif"
    assert resolve("./B04.jp2", "/data/catalog/item.json") == "/data/catalog/B04.jp2"
    assert resolve("file:///data/B04.tif", "/data/item.json") == "/data/B04.tif"
    assert resolve("s3://bucket/B04.tif", "https://a.example.org/") == "s3://bucket/B04.tif"
    assert resolve("http://127.0.0.1:80/B04.tif", "http://127.0.0.1:90/") == "http://127.0.0.1:80/B04.tif"
    assert resolve("http://127.0.0.1:80/B04.tif", "/data/item.json") == "http://127.0.0.1:80/B04.tif"
    with pytest.raises(InputError, match=r"10\.0\.0\.7"):
        resolve("http://10.0.0.7/B04.tif", "/data/item.json")
    assert not is_private("sentinel-cogs.s3.us-west-2.amazonaws.com")
    assert redact("https://u:p@a.example.org/B04.tif?sig=1#2") == "https://a.example.org/B04.tif"
    assert without_secrets("open https://u:p@a.example/B04.tif?sig=1 failed") == "open https://a.example/B04.tif failed"


def test_an_item_with_a_dangerous_href_is_refused_by_name_before_any_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = scenes_data.make_item(tmp_path, size_px=20, bands={"B04": 10})
    item["assets"]["red"]["href"] = "http://169.254.169.254/B04.tif"
    path = scenes_data.write_collection(tmp_path / "items.json", [item])
    found = find_items(str(path), shapely.box(-180, -90, 180, 90), make_periods(2021))
    monkeypatch.setattr("subpixmap.scenes.reader.rasterio.open", None)
    with pytest.raises(InputError, match=rf"{item['id']}.*red.*169\.254\.169\.254"):
        lock_items(found, make_periods(2021), ["B04"])


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(reader, "BACKOFF_S", 0.01)
    monkeypatch.setitem(access.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", 0)  # what is left is our own retry
    scenes_data.write_raster(tmp_path / "B04.tif", VALUES, TRANSFORM)
    with stac_server.serve() as server:
        server.files = tmp_path
        yield server, Asset(f"{server.url}/B04.tif", TRANSFORM, (300, 300))


@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_a_retry_asks_again_although_gdal_remembers_the_failure(remote: Any, status: int) -> None:
    server, asset = remote
    server.fault = lambda *_: (status, {}, b"") if sum(server.requests.values()) <= 1 else None
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)


def test_what_stays_broken_is_an_error_that_tells_no_secret(remote: Any, caplog: pytest.LogCaptureFixture) -> None:
    server, asset = remote
    asset = Asset(asset.href + "?sig=SECRETTOKEN", TRANSFORM, (300, 300))

    def refuse_gdal(server: Any, *_: Any) -> Any:
        return None if server.headers[-1].get("Range") == "bytes=1-2" else (403, {}, b"denied")

    server.fault = refuse_gdal
    with pytest.raises(reader.ReadFailed, match=r"B04\.tif.*3") as error:
        reader.read_window(asset, WHOLE, 32651)
    assert "SECRETTOKEN" not in f"{error.value} {error.value.__cause__} {caplog.text}"
    assert "HTTP response code" in caplog.text
    assert sum(server.requests.values()) >= 3


def test_a_stalled_server_does_not_hang(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, asset = remote
    monkeypatch.setitem(access.GDAL_OPTIONS, "GDAL_HTTP_TIMEOUT", 1)
    monkeypatch.setattr(http, "TIMEOUT_S", (1.0, 1.0))
    monkeypatch.setattr(reader, "ATTEMPTS", 1)
    over = threading.Event()
    server.fault = lambda *_: over.wait(120) and None
    start = time.monotonic()
    with pytest.raises(reader.ReadFailed):
        reader.read_window(asset, WHOLE, 32651)
    over.set()
    assert time.monotonic() - start < 60  # without a limit it waits for the server


def test_a_page_instead_of_pixels_is_an_error(remote: Any) -> None:
    server, asset = remote
    server.fault = lambda *_: (200, {"Content-Type": "text/html"}, b"<html>please log in</html>" * 100)
    with pytest.raises(reader.ReadFailed):
        reader.read_window(asset, WHOLE, 32651)


def test_hrefs_are_signed_at_opening_and_again_when_refused(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature that has ended is renewed, and it is nowhere but in the request."""
    server, asset = remote
    tokens = []

    def sign(href: Any, renew: Any) -> Any:
        tokens.append(renew)
        return f"{href}?sig={'fresh' if renew else 'ended'}"

    monkeypatch.setitem(access.SIGNERS, "127.0.0.1", sign)
    server.fault = lambda server, method, path, body: None if "sig=fresh" in path else (403, {}, b"")
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    assert tokens == [False, True]


def test_a_run_outlives_its_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token lives for ten requests: the server answers 403, hrefs are signed anew, the pixels are right."""
    from subpixmap.grid import Window
    from subpixmap.scenes.cube import read_reflectance
    from subpixmap.scenes.items import items_sha256, write_lock
    from subpixmap.scenes.lattices import lattices

    monkeypatch.setattr(reader, "BACKOFF_S", 0.01)
    bands = {"B04": 10, "B08": 10, "B11": 20}
    item = scenes_data.make_item(tmp_path, size_px=600, bands=bands)
    periods = make_periods(2021)
    (here,) = lock_items([item], periods, list(bands))
    (lattice,) = lattices([here]).values()
    first = lattice.window(here.assets["B04"].bounds)
    windows = [Window(first.row + row, first.col + col, 150, 150) for row in (0, 250, 450) for col in (0, 250, 450)]
    with stac_server.serve() as server:
        server.files = tmp_path
        text = json.dumps({"type": "FeatureCollection", "features": [item]}).replace(str(tmp_path), server.url)
        (tmp_path / "remote.json").write_text(text)
        token = {"sig": 0}
        uses: Counter[Any] = Counter()
        refused = []

        def sign(href: Any, renew: Any) -> Any:
            token["sig"] += renew
            return f"{href}?sig=SECRETTOKEN{token['sig']}"

        def expire(server: Any, method: Any, path: Any, body: Any) -> Any:
            used = path.partition("?")[2]
            uses[used] += 1
            if used and uses[used] <= 10:
                return None
            refused.append(used)
            return 403, {}, b"AuthenticationFailed"

        monkeypatch.setitem(access.SIGNERS, "127.0.0.1", sign)
        found = find_items(str(tmp_path / "remote.json"), shapely.box(-180, -90, 180, 90), periods)
        server.fault = expire
        there = lock_items(found, periods, list(bands))
        for window in windows:
            np.testing.assert_array_equal(
                read_reflectance(there, lattice, window, list(bands)),
                read_reflectance([here], lattice, window, list(bands)),
            )
        assert refused
        assert token["sig"] > 1
    write_lock(tmp_path / "items.parquet", there)
    assert b"SECRETTOKEN" not in (tmp_path / "items.parquet").read_bytes()
    assert "sig=" not in repr(there)
    assert items_sha256(there) != items_sha256([here])


def test_planetary_computer_hrefs_get_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # planetary-computer declares its models in pydantic's old way
        from planetary_computer import sas, settings

    ends = {"msft:expiry": "2999-01-01T00:00:00Z"}
    href = "https://account.blob.core.windows.net/container/B04.tif"
    sas.TOKEN_CACHE.clear()
    settings.Settings.get.cache_clear()
    with stac_server.serve() as server:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{server.url}/token")
        server.fault = lambda server, *_: server.json({**ends, "token": f"sig={sum(server.requests.values())}"})
        assert access.gdal_path(href) == f"/vsicurl/{href}?sig=1"
        assert access.gdal_path(href) == f"/vsicurl/{href}?sig=1"
        assert access.gdal_path(href, renew=True) == f"/vsicurl/{href}?sig=2"
    settings.Settings.get.cache_clear()
    sas.TOKEN_CACHE.clear()


def test_s3_is_anonymous_unless_the_user_has_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    assert access.gdal_path("s3://bucket/a/B04.tif") == "/vsis3/bucket/a/B04.tif"
    assert access.gdal_options("s3://bucket/a/B04.tif")["AWS_NO_SIGN_REQUEST"] == "YES"
    with pytest.raises(InputError, match=r"s3://eodata/a/B04\.jp2.*AWS_ACCESS_KEY_ID"):
        access.gdal_options("s3://eodata/a/B04.jp2")
    monkeypatch.setitem(os.environ, "AWS_ACCESS_KEY_ID", "mine")
    assert "dataspace" in access.gdal_options("s3://eodata/a/B04.jp2")["AWS_S3_ENDPOINT"]
    assert "AWS_NO_SIGN_REQUEST" not in access.gdal_options("s3://bucket/a/B04.tif")


def test_an_absurd_header_is_refused(tmp_path: Path) -> None:
    import rasterio
    from affine import Affine

    path = tmp_path / "B04.tif"
    options = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint16",
        "crs": "EPSG:32651",
        "sparse_ok": True,
        "compress": "deflate",
    }
    with rasterio.open(path, "w", width=200_000, height=200_000, transform=Affine(*TRANSFORM), tiled=True, **options):
        pass
    assert path.stat().st_size < 10_000_000  # it declares 80 GB
    with pytest.raises(InputError, match="200000"):
        reader.read_window(Asset(str(path), TRANSFORM, (200_000, 200_000)), RasterWindow(0, 0, 10, 10), 32651)


def test_another_coordinate_system_is_refused(remote: Any) -> None:
    with pytest.raises(InputError, match="EPSG:32652"):
        reader.read_window(remote[1], WHOLE, 32652)


@pytest.fixture
def public_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for a public host, localhost for a private one."""
    for module in (hrefs, access):
        monkeypatch.setattr(module, "is_private", lambda host: host == "localhost")
        monkeypatch.setattr(module, "leads_to_private", lambda host: host == "localhost")


@pytest.mark.parametrize("hops", [1, 2])
def test_a_redirect_of_pixels_to_a_private_host_is_refused_unasked(remote: Any, public_here: Any, hops: int) -> None:
    server, asset = remote

    def redirect(server: Any, method: Any, path: Any, body: Any) -> Any:
        if path == "/B04.tif":
            there = server.url.replace("127.0.0.1", "localhost") if hops == 1 else server.url
            return 302, {"Location": there + f"/{hops - 1}.tif"}, b""
        if path == "/1.tif":
            return 307, {"Location": server.url.replace("127.0.0.1", "localhost") + "/0.tif"}, b""
        return None

    server.fault = redirect
    with pytest.raises(InputError, match=r"http://localhost:\d+/0\.tif"):
        reader.read_window(asset, WHOLE, 32651)
    assert server.requests["/B04.tif"] == 1
    assert server.requests["/0.tif"] == 0


def test_a_redirect_of_pixels_to_another_public_host_is_followed(remote: Any, public_here: Any) -> None:
    server, asset = remote
    moved = Asset(f"{server.url}/old/B04.tif", asset.transform, asset.shape)
    server.fault = lambda server, method, path, body: (
        (302, {"Location": f"{server.url}/B04.tif?sig=x"}, b"") if path == "/old/B04.tif" else None
    )
    np.testing.assert_array_equal(reader.read_window(moved, WHOLE, 32651), VALUES)


def test_the_users_own_server_may_redirect_anywhere(remote: Any) -> None:
    server, asset = remote
    moved = Asset(f"{server.url}/old/B04.tif", asset.transform, asset.shape)
    there = server.url.replace("127.0.0.1", "localhost") + "/B04.tif"
    server.fault = lambda server, method, path, body: (302, {"Location": there}, b"") if "old" in path else None
    np.testing.assert_array_equal(reader.read_window(moved, WHOLE, 32651), VALUES)


def test_a_server_that_cannot_be_asked_first_is_asked_again(remote: Any, public_here: Any) -> None:
    server, asset = remote
    server.fault = lambda *_: (503, {}, b"") if sum(server.requests.values()) <= 1 else None
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    server.fault = lambda *_: (403, {}, b"")
    secret = Asset(asset.href + "?sig=SECRETTOKEN", asset.transform, asset.shape)
    with pytest.raises(reader.ReadFailed, match="403") as error:
        reader.read_window(secret, WHOLE, 32651)
    assert "SECRETTOKEN" not in str(error.value)


def test_a_name_that_has_become_private_is_refused_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the search it was public; a catalogue of the user's own may name it at any time."""
    monkeypatch.setattr(
        "subpixmap.scenes.hrefs.socket.getaddrinfo", lambda host, port: [(0, 0, 0, "", ("169.254.169.254", 0))]
    )
    monkeypatch.setattr("subpixmap.scenes.reader.rasterio.open", None)
    hrefs.addresses.cache_clear()
    for href in ("https://data.example.org/B04.tif", "https://bucket.s3.us-west-2.amazonaws.com/B04.tif"):
        with pytest.raises(InputError, match=r"B04\.tif"):
            reader.read_window(Asset(href, TRANSFORM, (300, 300)), WHOLE, 32651)
    own = Asset("https://data.example.org/B04.tif", TRANSFORM, (300, 300), own_network=True)
    monkeypatch.setattr(access, "first_answer", lambda url, trusted: Pin(etag=f"{url} {trusted}"))
    assert access.pin_of(own) == Pin(etag=f"{own.href} True")
    hrefs.addresses.cache_clear()


def test_names_of_the_users_own_network_are_kept_in_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = scenes_data.make_item(tmp_path, size_px=20, bands={"B04": 10})
    item["assets"]["scl"]["own_network"] = True  # a catalogue cannot say so itself
    item["assets"]["red"]["href"] = "https://minio.example.org/B04.tif"
    path = scenes_data.write_collection(tmp_path / "items.json", [item])
    monkeypatch.setattr(
        "subpixmap.scenes.hrefs.socket.getaddrinfo", lambda host, port: [(0, 0, 0, "", ("10.0.0.5", 0))]
    )
    hrefs.addresses.cache_clear()
    periods = make_periods(2021)
    items = lock_items(find_items(str(path), shapely.box(-180, -90, 180, 90), periods), periods, ["B04"])
    hrefs.addresses.cache_clear()
    write_lock(tmp_path / "items.parquet", items)
    (again,) = read_lock(tmp_path / "items.parquet")
    assert again == items[0]
    assert [again.assets[band].own_network for band in ("B04", "SCL")] == [True, False]
