"""A catalogue that wants the memory or the time of whoever asks it: refused or given up, within bounds of both."""

import gzip
import itertools
import json
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any

import pytest
import shapely

from subpixmap.errors import InputError, SubpixmapError
from subpixmap.periods import make_periods
from subpixmap.scenes import http, source, static
from subpixmap.scenes import search as search_module
from subpixmap.scenes.http import SourceFailed, get_bytes
from subpixmap.scenes.search import search
from subpixmap.scenes.source import find_items

REGION = shapely.box(119.0, 10.0, 119.5, 11.0)
PERIODS = make_periods(2021, months=(3,))
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
CONFORMS = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]


def body_of(request: bytes) -> int:
    found = re.search(rb"Content-Length: (\d+)", request)
    return int(found[1]) if found else 0


@contextmanager
def serve(answer: Callable[[str, str], Iterable[bytes]]) -> Iterator[str]:
    """A server that sends what it is told: (url, path) -> pieces of an answer, head and all."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    over = threading.Event()

    def talk(to: socket.socket) -> None:
        with to, suppress(OSError):
            got = b""
            while len(got) < got.find(b"\r\n\r\n") + 4 + body_of(got) or b"\r\n\r\n" not in got:
                got += to.recv(2**16)
            path = got.split(b" ")[1].decode()
            for piece in answer(url, path):
                if over.is_set():
                    return
                to.sendall(piece)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=listening.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield url
    finally:
        over.set()
        listening.close()


def api(page: Callable[[str], Iterable[bytes]]) -> Callable[[str, str], Iterable[bytes]]:
    """A STAC API whose pages are `page(url)`."""

    def answer(url: str, path: str) -> Iterable[bytes]:
        if path != "/":
            return page(url)
        links = [{"rel": "search", "href": f"{url}/search", "method": "POST", "type": "application/geo+json"}]
        landing = {"type": "Catalog", "id": "a", "stac_version": "1.0.0", "description": "a", "links": links}
        return [JSON + b"\r\n", json.dumps(landing | {"conformsTo": CONFORMS}).encode()]

    return answer


def ask(url: str) -> list[Any]:
    return list(search(url, "s2", REGION, PERIODS, today=date(2026, 1, 1)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    monkeypatch.setattr(http, "RETRIES", 2)
    monkeypatch.setattr(http, "ANSWER_S", 1.0)


@contextmanager
def within_bounds(megabytes: float, seconds: float) -> Iterator[None]:
    tracemalloc.start()
    start = time.monotonic()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < megabytes * 1e6
    assert time.monotonic() - start < seconds


BOMB = gzip.compress(b" " * 300_000_000, 6)
PACKED = b"Content-Encoding: gzip\r\n\r\n"


def page_of(count: int) -> bytes:
    return b'{"type":"FeatureCollection","features":[' + b",".join([b'{"id":"%d"}' % i for i in range(count)]) + b"]}"


def for_ever(piece: bytes, pause: float = 0.0) -> Iterator[bytes]:
    while True:
        yield piece
        time.sleep(pause)


LARGE = {
    "gzip bomb": [JSON, PACKED, BOMB],
    "another encoding": [JSON, b"Content-Encoding: gzip, gzip\r\n\r\n", gzip.compress(BOMB)],
    "more items than asked for": [JSON, b"\r\n", page_of(50_000)],
    "many small values": [JSON, b"\r\n", b'{"features":[' + b"{}," * 4_100_000 + b"{}]}"],
}


@pytest.mark.parametrize("what", LARGE)
def test_a_page_too_large_is_refused_before_it_fills_the_memory(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_S", 30.0)  # the size is what ends it, on a busy machine too
    with serve(api(lambda url: LARGE[what])) as url, within_bounds(120, 60):
        with pytest.raises(InputError, match=url):
            ask(url)


@pytest.mark.parametrize("head", [b"200 OK", b"503 Busy", b"302 Found\r\nLocation: /elsewhere"])
def test_an_answer_without_end_is_cut(head: bytes) -> None:
    """Of an error and a redirect too, which libraries read to their end before they go on."""
    answers = itertools.chain
    with (
        serve(lambda url, path: answers([b"HTTP/1.1 " + head + b"\r\n\r\n"], for_ever(b" " * 2**20))) as url,
        within_bounds(200, 60),
        pytest.raises(SubpixmapError, match=url),
    ):
        ask(url)


SLOW = {
    "body": lambda: itertools.chain([JSON, b"\r\n"], for_ever(b" ", 0.05)),
    "head": lambda: itertools.chain([JSON, b"X-More: "], for_ever(b"x", 0.05)),
    "packed": lambda: itertools.chain([JSON, PACKED, BOMB[:20]], for_ever(b"\0", 0.05)),
    "chunks": lambda: itertools.chain([JSON, b"Transfer-Encoding: chunked\r\n\r\n"], for_ever(b"1\r\n \r\n", 0.05)),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_byte_now_and_then_does_not_keep_anybody(what: str) -> None:
    with serve(api(lambda url: SLOW[what]())) as url, within_bounds(20, 30), pytest.raises(SubpixmapError, match=url):
        ask(url)


def test_pixels_byte_by_byte_are_given_up() -> None:
    head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-999/5000\r\nContent-Length: 1000\r\n\r\n"
    with (
        serve(lambda url, path: itertools.chain([head], for_ever(b" ", 0.05))) as url,
        within_bounds(20, 30),
        pytest.raises(OSError, match=r"1 s"),
    ):
        get_bytes(f"{url}/B04.tif", 0, 1000, trusted=True)


def test_pages_without_end_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "SEARCH_S", 0.5)
    numbers = itertools.count()

    def page(url: str) -> Iterable[bytes]:
        link = {"rel": "next", "href": f"{url}/search?token={next(numbers)}"}
        content = {"type": "FeatureCollection", "features": [{"id": str(next(numbers))}], "links": [link]}
        return [JSON + b"\r\n", json.dumps(content).encode()]

    with serve(api(page)) as url, within_bounds(20, 30), pytest.raises(SourceFailed, match="pages"):
        ask(url)


def item(number: int, size: int = 0) -> dict[str, Any]:
    properties = {"datetime": "2021-03-05T00:00:00Z", "filling": "x" * size}
    return {"type": "Feature", "id": str(number), "properties": properties, "assets": {}, "links": []}


def test_items_that_do_not_fit_into_memory_are_refused_while_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "memory", lambda: 12 * 500_000)
    numbers = itertools.count()

    def page(url: str) -> Iterable[bytes]:
        link = {"rel": "next", "href": f"{url}/search?token={next(numbers)}"}
        features = [item(next(numbers), 10_000) for _ in range(20)]
        return [JSON + b"\r\n", json.dumps({"features": features, "links": [link]}).encode()]

    with serve(api(page)) as url, within_bounds(40, 30), pytest.raises(InputError, match="fewer"):
        find_items(url, REGION, PERIODS, collection="s2")


@pytest.mark.parametrize("size", [300_000, 2_000_000])
def test_an_item_too_large_is_refused(size: int) -> None:
    def answer(url: str, path: str) -> Iterable[bytes]:
        if path == "/catalog.json":
            links = [{"rel": "item", "href": f"{url}/{n}.json"} for n in range(100)]
            return [JSON + b"\r\n", json.dumps({"type": "Catalog", "stac_version": "1.0.0", "links": links}).encode()]
        return [JSON + b"\r\n", json.dumps(item(1, size)).encode()]

    with serve(answer) as url, within_bounds(100, 30), pytest.raises(InputError, match="bytes"):
        find_items(f"{url}/catalog.json", REGION, PERIODS)


def test_a_static_catalogue_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "CATALOGUE_S", 0.5)
    numbers = itertools.count()

    def answer(url: str, path: str) -> Iterable[bytes]:
        time.sleep(0.02)
        links = [{"rel": "child", "href": f"{url}/{next(numbers)}/catalog.json"}]
        return [JSON + b"\r\n", json.dumps({"type": "Catalog", "stac_version": "1.0.0", "links": links}).encode()]

    with serve(answer) as url, within_bounds(20, 30), pytest.raises(SourceFailed, match="not completely read"):
        find_items(f"{url}/catalog.json", REGION, PERIODS)
