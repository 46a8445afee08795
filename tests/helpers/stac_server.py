"""A small STAC API on localhost, with the faults of real ones; and a server of files that answers range requests."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ITEM_SEARCH = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]


class StacServer:
    """Answers `/search` from a list of items, by bounding box and time, in pages; `fault` may answer instead."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items
        self.searches: list[dict[str, Any]] = []
        self.requests: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.ranges: list[tuple[str, int, int]] = []
        self.files: Path | None = None
        # (server, method, path, body) -> (status, headers, bytes) instead of the answer, or None
        self.fault: Callable[[StacServer, str, str, Any], tuple[int, dict[str, str], bytes] | None] | None = None
        self.url = ""

    def answer(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, dict[str, str], bytes]:
        self.requests[urlsplit(path).path] += 1
        self.headers.append(dict(headers))
        if self.fault and (answer := self.fault(self, method, path, body)):
            return answer
        if self.files and (file := self.files / urlsplit(path).path.lstrip("/")).is_file():
            return self.part(urlsplit(path).path, file.read_bytes(), headers.get("Range"))
        if urlsplit(path).path == "/":
            return self.json(self.landing())
        if urlsplit(path).path == "/search":
            return self.json(self.page(body))
        return 404, {}, b"not found"

    def landing(self) -> dict[str, Any]:
        links = [{"rel": "search", "href": f"{self.url}/search", "method": "POST", "type": "application/geo+json"}]
        root = {"rel": "self", "href": self.url}
        return {
            "type": "Catalog",
            "id": "test",
            "stac_version": "1.0.0",
            "description": "test",
            "conformsTo": ITEM_SEARCH,
            "links": [root, *links],
        }

    def page(self, body: dict[str, Any]) -> dict[str, Any]:
        self.searches.append(body)
        west, south, east, north = body["bbox"]
        first, last = body["datetime"].split("/")
        hits = [
            item
            for item in self.items
            if item.get("collection") in body["collections"]
            and first <= item["properties"]["datetime"] <= last
            and item["bbox"][0] <= east
            and item["bbox"][2] >= west
            and item["bbox"][1] <= north
            and item["bbox"][3] >= south
        ]
        start, size = int(body.get("token", 0)), body["limit"]
        links = []
        if start + size < len(hits):
            more = {**body, "token": start + size}
            links = [{"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": more}]
        return {"type": "FeatureCollection", "features": hits[start : start + size], "links": links}

    def part(self, path: str, content: bytes, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
        if not wanted:
            return 200, {"Accept-Ranges": "bytes"}, content
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
        self.ranges.append((path, begin, end + 1))
        head = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {begin}-{end}/{len(content)}"}
        return 206, head, content[begin : end + 1]

    @staticmethod
    def json(content: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextmanager
def serve(items: list[dict[str, Any]] = []) -> Iterator[StacServer]:  # noqa: B006 (never changed)
    """Run a server as long as the block."""
    state = StacServer(items)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, headers, content = state.answer(self.command, self.path, body, self.headers)
            self.send_response(status)
            told = headers.pop("Content-Length", str(len(content)))
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", told)
            self.end_headers()
            if self.command != "HEAD":
                with suppress(ConnectionError):  # the client gave up waiting
                    self.wfile.write(content)
            self.close_connection = told != str(len(content))

        do_GET = do_POST = do_HEAD = reply

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
