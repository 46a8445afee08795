"""pystac-client against a real server on localhost: paging, faults, and what is said about them."""

import json
import threading
import time
from datetime import date
from typing import Any

import pytest
import shapely

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes import hrefs, http
from subpixmap.scenes import search as search_module
from subpixmap.scenes.http import SourceFailed
from subpixmap.scenes.search import month_spans, search, zone_boxes
from subpixmap.scenes.source import find_items
from tests.helpers import stac_server

REGION = shapely.box(119.0, 10.0, 121.0, 11.0)
PERIODS = make_periods(2021, "quarter")
TODAY = date(2026, 1, 1)


def item(number: int) -> dict[str, Any]:
    month = number % 12 + 1
    west = 119.0 + number % 5 * 0.3
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"item-{number:04d}",
        "collection": "s2",
        "bbox": [west, 10.0, west + 0.1, 10.1],
        "geometry": shapely.geometry.mapping(shapely.box(west, 10.0, west + 0.1, 10.1)),
        "properties": {"datetime": f"2021-{month:02d}-{number % 28 + 1:02d}T02:00:00Z"},
        "links": [],
        "assets": {"red": {"href": f"data/{number}/B04.tif"}},
    }


ITEMS = [item(number) for number in range(300)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    monkeypatch.setattr(http, "RETRIES", 4)
    monkeypatch.setattr(search_module, "PAGE_SIZES", (7, 3))


def ask(server: Any, **options: Any) -> Any:
    return list(search(server.url, "s2", REGION, PERIODS, today=TODAY, **options))


def test_all_items_are_found_once_in_small_questions() -> None:
    with stac_server.serve(ITEMS) as server:
        found = ask(server)
        assert sorted(i["id"] for i in found) == [i["id"] for i in ITEMS]
        assert len({(tuple(s["bbox"]), s["datetime"]) for s in server.searches}) == 2 * 12
        assert all(s["limit"] == 7 for s in server.searches)
        hrefs = {i["assets"]["red"]["href"] for i in find_items(server.url, REGION, PERIODS, collection="s2")}
        assert f"{server.url}/data/299/B04.tif" in hrefs


def test_months_that_do_not_count_are_not_asked_for() -> None:
    spans = month_spans(make_periods("2020-2021", months=(1, 2)), date(2021, 1, 20))
    assert spans == [(date(2020, m, 1), date(2020, m, e)) for m, e in ((1, 31), (2, 29))] + [
        (date(2021, 1, 1), date(2021, 1, 31))
    ]


def test_boxes_of_zones() -> None:
    fiji = shapely.union(shapely.box(177, -19, 180, -16), shapely.box(-180, -19, -178, -16))
    assert zone_boxes(fiji) == [(-180.0, -19.0, -178.0, -16.0), (177.0, -19.0, 180.0, -16.0)]
    assert [b[0::2] for b in zone_boxes(shapely.box(116, 5, 127, 20))] == [(116, 120), (120, 126), (126, 127)]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_passing_faults_are_retried_for_get_and_post(status: int) -> None:
    def fault(server: Any, method: Any, path: Any, body: Any) -> Any:
        server.requests[(method, status)] += 1
        return (status, {"Retry-After": "0"}, b"busy") if server.requests[(method, status)] <= 3 else None

    with stac_server.serve(ITEMS) as server:
        server.fault = fault
        assert len(ask(server)) == len(ITEMS)
        assert server.requests[("POST", status)] > 3  # type: ignore[index]


def on_search(answer: Any) -> Any:
    return lambda server, method, path, body: answer(server, body) if path == "/search" else None


@pytest.mark.parametrize(
    "answer",
    [
        (503, {}, b"down"),
        (200, {"Content-Type": "text/html"}, b"<html>gateway</html>"),
        (200, {}, b'{"type": "FeatureCollection", "features": [{"id": "a"'),
        (200, {"Content-Length": "5000"}, b'{"type": "FeatureCollection", "features": ['),
        (200, {}, b'{"type": "FeatureCollection", "features": [1, 2]}'),
        (200, {}, b"[" * 100_000),
    ],
    ids=["503", "html", "truncated json", "truncated body", "no items", "deep"],
)
def test_lasting_faults_are_named_with_the_url(answer: Any) -> None:
    with stac_server.serve(ITEMS) as server:
        server.fault = on_search(lambda *_: answer)
        with pytest.raises(SourceFailed, match=server.url):
            ask(server)


def test_a_bug_of_ours_is_not_called_a_bad_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    with stac_server.serve(ITEMS) as server:
        with monkeypatch.context() as patch:  # in what we do with a page
            patch.setattr(search_module, "MAX_PAGES", None)
            with pytest.raises(TypeError):
                ask(server)
        with monkeypatch.context() as patch:  # in the guard, which runs inside the library's requests
            patch.setattr(http, "require_public", lambda url, base: url.no_such_method())
            with pytest.raises(AttributeError):
                ask(server)


def test_a_refused_question_is_bad_input() -> None:
    with stac_server.serve(ITEMS) as server:
        server.fault = on_search(lambda *_: (400, {}, b"unknown collection s2"))
        with pytest.raises(InputError, match=r"400.*unknown collection s2"):
            ask(server)


@pytest.mark.parametrize("page", ["same", "growing"])
def test_paging_ends(page: str) -> None:
    def loop(server: Any, body: Any) -> Any:
        server.requests["loop"] += 1
        assert server.requests["loop"] < 100, "it goes on for ever"
        items = ITEMS[:3] if page == "same" else [item(server.requests["loop"])]
        link = {"rel": "next", "href": f"{server.url}/search", "method": "POST", "body": body}
        return stac_server.StacServer.json({"type": "FeatureCollection", "features": items, "links": [link]})

    with stac_server.serve(ITEMS) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "MAX_PAGES", 20)
        server.fault = on_search(loop)
        with pytest.raises(SourceFailed, match=server.url):
            ask(server)


def test_duplicates_over_pages_are_dropped() -> None:
    def twice(server: Any, body: Any) -> Any:
        page = server.page(body)
        return server.json({**page, "features": page["features"] * 2})

    with stac_server.serve(ITEMS) as server:
        server.fault = on_search(twice)
        assert len(ask(server)) == len(ITEMS)


def test_a_failing_page_size_is_made_smaller() -> None:
    def large_fails(server: Any, body: Any) -> Any:
        return (502, {}, b"too large") if body["limit"] > 3 else None

    with stac_server.serve(ITEMS[:20]) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "RETRIES", 1)
        server.fault = on_search(large_fails)
        assert len(ask(server)) == 20


def test_a_stalled_server_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT_S", (0.2, 0.2))
    monkeypatch.setattr(http, "RETRIES", 1)
    with stac_server.serve(ITEMS) as server:
        over = threading.Event()
        server.fault = lambda *_: over.wait(120) and None  # type: ignore[assignment]
        start = time.monotonic()
        with pytest.raises(SourceFailed, match=server.url):
            ask(server)
        over.set()
        assert time.monotonic() - start < 60  # without a limit it waits for the server


def test_what_is_no_api_is_said() -> None:
    with stac_server.serve() as server:
        for content in (b"<html>", b"{}", b'{"type": "Feature"}', json.dumps({"type": "Catalog"}).encode()):
            server.fault = lambda *_, content=content: (200, {}, content)
            with pytest.raises(InputError, match=server.url):
                ask(server)
        server.fault = lambda *_: (404, {}, b"nothing here")
        with pytest.raises(InputError, match="404"):
            ask(server)
    with pytest.raises(SourceFailed, match=r"127\.0\.0\.1"):
        ask(server)  # it is gone


def test_a_key_in_the_url_is_not_told() -> None:
    with stac_server.serve() as server:
        server.fault = lambda *_: (500, {}, b"failed for ?key=SECRETTOKEN")
        url = server.url.replace("http://", "http://user:SECRETTOKEN@") + "/?key=SECRETTOKEN"
        with pytest.raises(SourceFailed) as error:
            list(search(url, "s2", REGION, PERIODS, today=TODAY))
        assert "SECRETTOKEN" not in str(error.value)


@pytest.fixture
def public_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for a public host, localhost for a private one."""
    monkeypatch.setattr(hrefs, "is_private", lambda host: host == "localhost")
    monkeypatch.setattr(hrefs, "leads_to_private", lambda host: host == "localhost")


@pytest.mark.parametrize("how", ["redirect", "next"])
def test_a_public_catalogue_leads_to_no_private_host(how: str, public_here: Any) -> None:
    def elsewhere(server: Any, body: Any) -> Any:
        secret = server.url.replace("127.0.0.1", "localhost") + "/secret"
        if how == "redirect":
            return 302, {"Location": secret}, b""
        link = {"rel": "next", "href": secret, "method": "POST", "body": body}
        return server.json({"type": "FeatureCollection", "features": ITEMS[:3], "links": [link]})

    with stac_server.serve(ITEMS) as server:
        server.fault = on_search(elsewhere)
        with pytest.raises(InputError, match="localhost"):
            ask(server)
        assert server.requests["/search"] > 0
        assert server.requests["/secret"] == 0


def test_names_are_private_where_their_addresses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"a.example.org": "93.184.216.34", "b.example.org": "10.0.0.5", "c.example.org": "fe80::1%eth0"}
    looked_up = []

    def getaddrinfo(host: Any, port: Any) -> Any:
        looked_up.append(host)
        if host not in addresses:
            raise OSError("no such name")
        return [(0, 0, 0, "", (addresses[host], 0))]

    monkeypatch.setattr("subpixmap.scenes.hrefs.socket.getaddrinfo", getaddrinfo)
    hrefs.addresses.cache_clear()
    public, private = "https://a.example.org/", "http://b.example.org/"
    for url in (f"{public}B04.tif", "https://gone.example.org/B04.tif"):
        hrefs.require_public(url, public)
    for name in ("b", "c"):
        with pytest.raises(InputError, match=f"{name}.example.org"):
            hrefs.require_public(f"https://{name}.example.org/B04.tif", public)
    for base in (private, "http://127.0.0.1/", "/data/items.json"):  # the user's own
        hrefs.require_public("http://b.example.org/B04.tif", base)
    assert len(looked_up) == len(set(looked_up))
    hrefs.addresses.cache_clear()


def test_where_no_server_is_one_is_told_soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A server that answers with errors is asked longer than a host that does not answer at all."""
    monkeypatch.setattr(http, "RETRIES", 8)
    with stac_server.serve(ITEMS) as server:
        url = server.url
    with pytest.raises(SourceFailed, match=f"{url}.*Connection refused"):
        list(search(url, "s2", REGION, PERIODS, today=TODAY))
    asked = [record for record in caplog.records if record.getMessage().startswith("Retrying")]
    assert len(asked) == http.CONNECT_RETRIES < http.RETRIES
