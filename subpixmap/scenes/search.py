"""Asks a STAC API, in small questions: one UTM zone and one month at a time.

Large questions time out and large answers are cut. Whatever goes wrong is said with the URL; an answer that repeats
itself does not go on for ever.
"""

from __future__ import annotations

import calendar
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError, SubpixmapError
from subpixmap.periods import Period
from subpixmap.scenes import http
from subpixmap.scenes.hrefs import redact, without_secrets
from subpixmap.scenes.http import SourceFailed, guarded

if TYPE_CHECKING:
    from pystac_client import Client

PAGE_SIZES = (100, 20)
"""Items asked for at once; the second when the first fails."""
MAX_PAGES = 500
"""Of one question: more means that the catalogue's paging is broken."""


def search(
    url: str, collection: str, geometry: BaseGeometry, periods: Sequence[Period], *, today: date | None = None
) -> list[dict[str, Any]]:
    """Items of a collection, in the order of the answers, each id once.

    Parameters
    ----------
    url
        Root of the STAC API.
    collection
        Its collection of Sentinel-2 L2A.
    geometry
        Region in EPSG:4326; it is asked for by the bounding boxes of its parts in the UTM zones.
    periods
        Months that do not count, or lie in the future, are not asked for.
    today
        For tests.

    Raises
    ------
    SourceFailed
        The catalogue cannot be reached, answers with an error after all retries, or repeats its pages.
    InputError
        The URL is no STAC API, or refuses the question.
    """
    client = _open(url)
    found: dict[str, dict[str, Any]] = {}
    spans = month_spans(periods, today or datetime.now(UTC).date())
    for bbox in zone_boxes(geometry):
        for first, last in spans:
            when = f"{first}T00:00:00Z/{last}T23:59:59.999Z"
            for item in _ask(client, url, collection, bbox, when):
                found.setdefault(str(item.get("id")), item)
    return list(found.values())


def month_spans(periods: Sequence[Period], today: date) -> list[tuple[date, date]]:
    """First and last day of each month that a period holds, in order, without repetition."""
    spans = set()
    for period in periods:
        first = period.start
        while first <= min(period.end, today):
            end_of_month = first.replace(day=calendar.monthrange(first.year, first.month)[1])
            if first.month in period.months:
                spans.add((first, min(end_of_month, period.end)))
            first = end_of_month + timedelta(days=1)
    return sorted(spans)


def zone_boxes(geometry: BaseGeometry) -> list[tuple[float, float, float, float]]:
    """Bounding boxes (west, south, east, north) of a geometry's parts in the strips of 6 degrees, from west to east.

    A geometry that crosses the date line comes as parts on both sides; no box crosses it.
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

    with _said(url, InputError):
        stac_io = StacApiIO()
        guarded(stac_io.session, url)
        # The timeout goes to `open`: it replaces that of the StacApiIO.
        client = Client.open(url, stac_io=stac_io, timeout=http.TIMEOUT_S)
        if client.get_search_link() is None:
            raise InputError(
                f"source {redact(url)} is a STAC catalogue without search: give the URL of its catalog.json, or a path"
            )
        return client


def _ask(
    client: Client, url: str, collection: str, bbox: tuple[float, float, float, float], when: str
) -> list[dict[str, Any]]:
    """All items of one question; asked again with smaller pages if it fails."""
    for size in PAGE_SIZES:
        try:
            return list(_pages(client, url, collection, bbox, when, size))
        except SourceFailed:
            if size == PAGE_SIZES[-1]:
                raise
    raise AssertionError("unreachable")


def _pages(
    client: Client, url: str, collection: str, bbox: tuple[float, float, float, float], when: str, size: int
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    with _said(url, SourceFailed):
        question = client.search(collections=[collection], bbox=bbox, datetime=when, limit=size, max_items=None)
        for number, page in enumerate(question.pages_as_dicts(), 1):
            items = page.get("features")
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise SourceFailed(f"source {redact(url)} answers what is no STAC: there is no list of features")
            new = [item for item in items if str(item.get("id")) not in seen]
            if (items and not new) or number > MAX_PAGES:
                raise SourceFailed(
                    f"{redact(url)} repeats its pages (page {number} for {collection}, {when} has no new item); "
                    "try again later or give another --source"
                )
            seen.update(str(item.get("id")) for item in new)
            yield from new


@contextmanager
def _said(url: str, otherwise: type[SubpixmapError]) -> Iterator[None]:
    """Turn whatever an answer raises into one line with the URL; `otherwise` if it is no sensible answer at all."""
    from pystac_client.exceptions import APIError

    where = f"source {redact(url)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # catalogues that conform loosely; what matters is checked here
            yield
    except SubpixmapError:
        raise
    except APIError as error:
        if isinstance(error.__context__, SubpixmapError):  # of the guard of its requests
            raise error.__context__ from None
        status = getattr(error, "status_code", None)
        text = without_secrets(" ".join(str(error).split()))[:300]
        if status is not None and 400 <= status < 500 and status != 429:
            raise InputError(f"{where} refuses the question with HTTP {status}: {text}") from error
        raise SourceFailed(f"{where} did not answer{f' (HTTP {status})' if status else ''}: {text}") from error
    except Exception as error:  # whatever the libraries raise on an answer that is not what it should be
        raise otherwise(f"{where} answers what is no STAC ({type(error).__name__})") from error
