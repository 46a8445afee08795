"""Searches a STAC API in small steps: one UTM zone and one month at a time.

Large searches time out and large responses are cut off. Every error names the URL. Repeated pages are detected. Only
errors from bad responses are reported as such: bugs in this package stay visible.
"""

from __future__ import annotations

import calendar
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError, SubpixmapError
from subpixmap.periods import Period
from subpixmap.progress import track
from subpixmap.scenes import http
from subpixmap.scenes.hrefs import redact, without_secrets
from subpixmap.scenes.http import SourceFailed, guarded

if TYPE_CHECKING:
    from pystac_client import Client

Box = tuple[float, float, float, float]

PAGE_SIZES = (100, 20)
"""Items per page; the second size is used if the first fails."""
MAX_PAGES = 500
"""Largest number of pages of a search; more means that the catalogue repeats pages."""
MAX_TIMES = 10
"""Largest number of items in a page, as a multiple of the requested number."""
PAGE_BYTES = 2**25
"""Largest size of a page, uncompressed; an item has 10 to 60 kB."""
SEARCH_S = 1800.0
"""Time limit of one search (one UTM zone and month), seconds."""


def search(
    url: str, collection: str, geometry: BaseGeometry, periods: Sequence[Period], *, today: date | None = None
) -> Iterator[dict[str, Any]]:
    """Yield items of a collection, each id once, in the order of the responses.

    Parameters
    ----------
    url
        Root of the STAC API.
    collection
        Its collection of Sentinel-2 L2A.
    geometry
        Region in EPSG:4326; the search uses the bounding boxes of its parts in the UTM zones.
    periods
        Unused and future months are left out.
    today
        Present day; for tests.

    Raises
    ------
    SourceFailed
        The catalogue cannot be reached, still returns an error after all retries, or repeats its pages.
    InputError
        The URL is not a STAC API, or the API refuses the search.
    """
    client = _open(url)
    seen: set[str] = set()
    spans = month_spans(periods, today or datetime.now(UTC).date())
    questions = [(bbox, span) for bbox in zone_boxes(geometry) for span in spans]
    for bbox, (first, last) in track(questions, "ask the catalogue", "months of a UTM zone"):
        when = f"{first}T00:00:00Z/{last}T23:59:59.999Z"
        for item in _ask(client, url, collection, bbox, when):
            if (name := str(item.get("id"))) not in seen:
                seen.add(name)
                yield item


def month_spans(periods: Sequence[Period], today: date) -> list[tuple[date, date]]:
    """First and last day of each month of the periods, in order, without duplicates."""
    spans = set()
    for period in periods:
        first = period.start
        while first <= min(period.end, today):
            end_of_month = first.replace(day=calendar.monthrange(first.year, first.month)[1])
            if first.month in period.months:
                spans.add((first, min(end_of_month, period.end)))
            first = end_of_month + timedelta(days=1)
    return sorted(spans)


def zone_boxes(geometry: BaseGeometry) -> list[Box]:
    """Bounding boxes (west, south, east, north) of a geometry's parts in strips of 6 degrees, from west to east.

    A geometry across the date line must be split into parts on both sides; no box crosses it.
    """
    if geometry.is_empty:
        return []
    west, _, east, _ = geometry.bounds
    boxes = []
    for strip in range(int((west + 180) // 6), int((east + 180) // 6) + 1):
        part = shapely.intersection(geometry, shapely.box(strip * 6 - 180, -90, strip * 6 - 174, 90))
        if not part.is_empty and strip < 60:
            boxes.append(part.bounds)
    return boxes


def _open(url: str) -> Client:
    """The API's root."""
    from pystac_client import Client
    from pystac_client.stac_api_io import StacApiIO

    stac_io = StacApiIO()
    guarded(stac_io.session, url, most=PAGE_BYTES)
    with _bad_answers_as(InputError, url):
        # The timeout goes to `open`: it replaces that of the StacApiIO.
        client = Client.open(url, stac_io=stac_io, timeout=http.TIMEOUT_S)
    if client.get_search_link() is None:
        raise InputError(
            f"source {redact(url)} is a STAC catalogue without a search API: give the URL of its catalog.json, or a "
            "path"
        )
    return client


def _ask(client: Client, url: str, collection: str, bbox: Box, when: str) -> Iterator[dict[str, Any]]:
    """All items of one search; repeated with smaller pages if it fails."""
    for size in PAGE_SIZES:
        try:
            yield from _pages(client, url, collection, bbox, when, size)
            return
        except SourceFailed:
            if size == PAGE_SIZES[-1]:
                raise


def _pages(client: Client, url: str, collection: str, bbox: Box, when: str, size: int) -> Iterator[dict[str, Any]]:
    with _bad_answers_as(SourceFailed, url):
        query = client.search(collections=[collection], bbox=bbox, datetime=when, limit=size, max_items=None)
        pages = query.pages_as_dicts()
    seen: set[str] = set()
    until = time.monotonic() + SEARCH_S
    for number in count(1):
        with _bad_answers_as(SourceFailed, url):
            page = next(pages, None)
        if page is None:
            return
        items = page.get("features")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise SourceFailed(f"source {redact(url)} did not return valid STAC: there is no list of features")
        if len(items) > MAX_TIMES * size:
            raise InputError(f"source {redact(url)} returned {len(items)} items but {size} were requested")
        if time.monotonic() > until:
            raise SourceFailed(
                f"source {redact(url)} did not finish a search within {SEARCH_S:g} s ({number} pages); try again later"
            )
        new = [item for item in items if str(item.get("id")) not in seen]
        if (items and not new) or number > MAX_PAGES:
            raise SourceFailed(
                f"source {redact(url)} repeats its pages (page {number} for {collection}, {when} has no new item); "
                "try again later or give another --source"
            )
        seen.update(str(item.get("id")) for item in new)
        yield from new


@contextmanager
def _bad_answers_as(wrong: type[SubpixmapError], url: str) -> Iterator[None]:
    """Turn errors of pystac-client into one line with the URL; `wrong` is the message for invalid content.

    The checks of `guarded` run inside these calls. The library wraps their errors in an APIError; here they are raised
    again unchanged.
    """
    from pystac import STACError
    from pystac.errors import STACTypeError
    from pystac_client.errors import ClientTypeError
    from pystac_client.exceptions import APIError
    from pystac_client.warnings import PystacClientWarning
    from urllib3.exceptions import HTTPError

    # Exceptions of the library for incomplete, deep or invalid JSON.
    bad_content = (
        STACError, STACTypeError, ClientTypeError, PystacClientWarning, ValueError, KeyError, IndexError, TypeError,
        AttributeError, RecursionError,
    )  # fmt: skip
    where = f"source {redact(url)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about loose conformance; required fields are checked here
            yield
    except SubpixmapError:
        raise
    except APIError as error:
        cause = error.__context__
        if cause is not None and not isinstance(cause, (OSError, UnicodeError, HTTPError)):
            raise cause from None
        status = getattr(error, "status_code", None)
        text = without_secrets(" ".join(str(error).split()))[:300]
        if status is not None and 400 <= status < 500 and status != 429:
            raise InputError(f"{where} refused the search with HTTP {status}: {text}") from error
        raise SourceFailed(f"{where} did not respond{f' (HTTP {status})' if status else ''}: {text}") from error
    except bad_content as error:
        raise wrong(f"{where} did not return valid STAC ({type(error).__name__})") from error
