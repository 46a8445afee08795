"""A public server that leads GDAL to a private one, though not us: by a redirect, or by a name that changes."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import InputError
from subpixmap.scenes import access, hrefs, http, reader, tunnel
from subpixmap.scenes.items import Asset
from tests.helpers import stac_server

TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
VALUES = (np.arange(90000) % 30000 + 1).astype(np.uint16).reshape(300, 300)
WHOLE = RasterWindow(0, 0, 300, 300)
PRIVATE = {"localhost"}


@pytest.fixture
def public_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for a public host, localhost for a private one."""
    PRIVATE.clear()
    PRIVATE.add("localhost")
    for module in (hrefs, access):
        monkeypatch.setattr(module, "is_private", lambda host: host in PRIVATE)
        monkeypatch.setattr(module, "leads_to_private", lambda host: host in PRIVATE)
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")  # by which GDAL would go past the tunnel
    tunnel._tunnel.cache_clear()


@pytest.fixture
def remote(tmp_path: Path, public_here: None) -> Iterator[tuple[stac_server.StacServer, Asset]]:
    options = {"driver": "GTiff", "width": 300, "height": 300, "count": 1, "dtype": "uint16", "tiled": True}
    options |= {"blockxsize": 64, "blockysize": 64, "compress": "deflate", "crs": "EPSG:32651"}
    with rasterio.open(tmp_path / "B04.tif", "w", transform=Affine(*TRANSFORM), **options) as file:
        file.write(VALUES, 1)
    with stac_server.serve() as server:
        server.files = tmp_path
        yield server, Asset(f"{server.url}/B04.tif", TRANSFORM, (300, 300))


def asked_by_us(server: Any) -> bool:
    return "python-requests" in server.headers[-1].get("User-Agent", "")


def test_pixels_of_public_servers_come_through_the_tunnel(remote: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, asset = remote
    seen = []
    connect = tunnel._connect

    def noted(host: str, port: int) -> Any:
        seen.append((host, port))
        return connect(host, port)

    monkeypatch.setattr(tunnel, "_connect", noted)
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), VALUES)
    assert set(seen) == {("127.0.0.1", int(server.url.rpartition(":")[2]))}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_that_redirects_gdal_alone_leads_to_no_private_host(remote: Any, status: int) -> None:
    server, asset = remote
    there = server.url.replace("127.0.0.1", "localhost") + "/secret.tif"

    def redirect(server: Any, method: Any, path: Any, body: Any) -> Any:
        return None if asked_by_us(server) or path == "/secret.tif" else (status, {"Location": there}, b"")

    server.fault = redirect
    with pytest.raises(InputError, match=r"B04\.tif.*localhost"):
        reader.read_window(asset, WHOLE, 32651)
    assert server.requests["/B04.tif"] > 1
    assert server.requests["/secret.tif"] == 0


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch, remote: Any) -> Any:
    """A name that was public when it was looked up, and leads to this machine now: 127.0.0.1 is private here."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        return look_up("127.0.0.1" if host == "data.example.org" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    PRIVATE.add("127.0.0.1")
    server, asset = remote
    return server, Asset(asset.href.replace("127.0.0.1", "data.example.org"), TRANSFORM, (300, 300))


def test_a_name_that_changes_before_gdal_looks_leads_to_no_private_host(changed: Any) -> None:
    server, asset = changed
    start, path = time.monotonic(), access.gdal_path(asset.href)
    with access.gdal_env(asset), pytest.raises(rasterio.errors.RasterioIOError):
        reader.open_raster(asset.href, path)
    assert tunnel.refused_since(start) == "data.example.org"
    assert not server.requests


def test_a_name_that_changes_before_we_connect_is_refused_at_the_connection(changed: Any) -> None:
    server, asset = changed
    with pytest.raises(InputError, match=r"data\.example\.org .*127\.0\.0\.1, a private address"):
        http.get_bytes(asset.href, 0, 10)
    assert not server.requests


def test_the_tunnel_answers_who_knows_its_password_alone(public_here: None) -> None:
    options = tunnel.gdal_proxy()
    port = int(options["GDAL_HTTP_PROXY"].rpartition(":")[2])
    for greeting, answer in (
        (b"\x05\x01\x00", b"\x05\xff"),
        (b"\x05\x01\x02\x01\x04gdal\x05wrong", b"\x05\x02\x01\x01"),
    ):
        with socket.create_connection(("127.0.0.1", port), 5) as stranger:
            stranger.sendall(greeting)
            got = b""
            while piece := stranger.recv(10):
                got += piece
            assert got == answer


def test_the_users_own_proxy_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    assert tunnel.gdal_proxy() == {}
