"""A SOCKS proxy through which GDAL reaches untrusted servers; it connects to public addresses only.

GDAL follows redirects to any host, cannot be kept from it, and looks up names by itself. But it supports SOCKS proxies.
This one runs in a thread of each reading process. It looks up a name once, checks the address, and connects to that
address. It passes on encrypted bytes unseen.
"""

from __future__ import annotations

import os
import secrets
import selectors
import socket
import threading
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any

from rasterio.env import getenv, hasenv

from subpixmap.scenes import hrefs

CONNECT_S = 10.0
"""Seconds to connect to a server."""
GREETING_S = 30.0
"""Timeout for the request of GDAL, seconds."""
_PIECE = 2**18
_OURS = "socks5h://127.0.0.1:"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "gdal_http_proxy", "gdal_https_proxy")
_DONE, _FAILED, _FORBIDDEN = 0, 5, 2  # replies of SOCKS (RFC 1928)

_refused: tuple[float, str] = (0.0, "")


def gdal_proxy() -> dict[str, str]:
    """GDAL options for the tunnel of this process; empty if the user has set a proxy."""
    stated = dict(os.environ) | (getenv() if hasenv() else {})
    proxies = {value for name, value in stated.items() if name.lower() in _PROXIES and value}
    if any(not str(proxy).startswith(_OURS) for proxy in proxies):
        return {}
    port, password = _tunnel(os.getpid())
    return {"GDAL_HTTP_PROXY": f"{_OURS}{port}", "GDAL_HTTP_PROXYUSERPWD": f"gdal:{password}"}


def refused_since(moment: float) -> str | None:
    """The host refused last, if after the given time of `time.monotonic`."""
    when, host = _refused
    return host if when >= moment else None


@lru_cache(maxsize=1)
def _tunnel(process: int) -> tuple[int, str]:
    """Port and password of the tunnel of a process; starts it if needed, also in a forked process."""
    for name in ("no_proxy", "NO_PROXY"):  # there is no other proxy to bypass this one
        os.environ.pop(name, None)
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    password = secrets.token_urlsafe(24)

    def accept() -> None:
        while True:
            near, _ = listening.accept()
            threading.Thread(target=_serve, args=(near, password), daemon=True).start()

    threading.Thread(target=accept, name="subpixmap-tunnel", daemon=True).start()
    return listening.getsockname()[1], password


def _serve(near: socket.socket, password: str) -> None:
    """Handle one connection of GDAL."""
    with near, suppress(OSError, ValueError):
        near.settimeout(GREETING_S)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (target := _greet(near, password)) is None:
            return
        far = _connect(*target)
        reply = far if isinstance(far, int) else _DONE
        near.sendall(bytes((5, reply, 0, 1)) + bytes(6))
        if not isinstance(far, int):
            with far:
                _pass_on(near, far)


def _greet(near: socket.socket, password: str) -> tuple[str, int] | None:
    """Host and port requested by GDAL, after it sent the password, which other users of the machine do not know."""
    version, count = _take(near, 2)
    if version != 5 or 2 not in _take(near, count):
        near.sendall(b"\x05\xff")
        return None
    near.sendall(b"\x05\x02")
    user = _take(near, _take(near, 2)[1])
    right = secrets.compare_digest(_take(near, _take(near, 1)[0]), password.encode()) and user == b"gdal"
    near.sendall(b"\x01" + (b"\x00" if right else b"\x01"))
    if not right:
        return None
    _, command, _, kind = _take(near, 4)
    if kind == 3:
        host = _take(near, _take(near, 1)[0]).decode("ascii")
    else:
        family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, _take(near, size))
    port = int.from_bytes(_take(near, 2), "big")
    return (host, port) if command == 1 else None


def _take(near: socket.socket, count: int) -> bytes:
    taken = b""
    while len(taken) < count:
        if not (piece := near.recv(count - len(taken))):
            raise ValueError("the connection was closed")
        taken += piece
    return taken


def _connect(host: str, port: int) -> socket.socket | int:
    """A connection to a public address of a host, or the reason for none."""
    global _refused
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return _FAILED
    addresses = list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
    if hrefs.is_private(host) or any(map(hrefs.is_private, addresses)):
        _refused = time.monotonic(), host
        return _FORBIDDEN
    for address in addresses:
        with suppress(OSError):
            return socket.create_connection((address, port), CONNECT_S)
    return _FAILED


def _pass_on(near: socket.socket, far: socket.socket) -> None:
    """Pass on bytes in both directions until one side closes."""
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    others: dict[Any, socket.socket] = {near: far, far: near}
    with selectors.DefaultSelector() as ready:
        for one in others:
            one.settimeout(None)
            ready.register(one, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if not (piece := key.fileobj.recv(_PIECE)):  # type: ignore[union-attr]
                    return
                others[key.fileobj].sendall(piece)
