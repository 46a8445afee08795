"""HTTP to catalogues: retries with back-off, timeouts, and no way from a public catalogue to a private host."""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

from subpixmap.errors import Incomplete, InputError
from subpixmap.scenes.hrefs import redact, require_public, without_secrets
from subpixmap.scenes.pins import Pin

if TYPE_CHECKING:
    from requests import Session

RETRIES = 8
"""Retries of a request."""
CONNECT_RETRIES = 4
"""Retries if no server can be reached: most often the URL is wrong, and a person is waiting."""
BACKOFF_S = 1.0
"""Seconds before the first retry; doubled for each further one."""
TIMEOUT_S = (10.0, 60.0)
"""Seconds to connect, and to wait for an answer."""
MAX_BYTES = 2**28
"""Largest size of an answer."""

_threads = threading.local()


class SourceFailed(Incomplete):
    """A catalogue did not answer; run the same command to try again."""


def guarded(session: Session, base: str, retries: int | None = None) -> Session:
    """Add our retries to a session, and a guard for every request, redirects and links included.

    Parameters
    ----------
    session
        A session of requests; it is changed.
    base
        URL that the user gave; private hosts may only be requested if this one is private.
    retries
        Retries of a request that fails, with back-off; `RETRIES` by default.
    """
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    class Guarded(HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            require_public(request.url, base)
            return super().send(request, *args, **options)

    retry = Retry(
        total=RETRIES if retries is None else retries,
        connect=CONNECT_RETRIES,
        backoff_factor=BACKOFF_S,
        status_forcelist=[429, 500, 502, 503, 504],
        allowed_methods=None,  # POST too: a search changes nothing
        raise_on_status=False,
        retry_after_max=300,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, Guarded(max_retries=retry))
    return session


def get_json(session: Session, url: str) -> dict[str, Any]:
    """The JSON object at a URL.

    Raises
    ------
    SourceFailed
        No answer, or an error of the server, after all retries.
    InputError
        The URL does not exist or is refused, or the answer is not a JSON object.
    """
    from requests import RequestException

    where = f"source {redact(url)[:200]}"
    try:
        with session.get(url, timeout=TIMEOUT_S, stream=True) as answer:
            if answer.status_code >= 400:
                wrong = InputError if answer.status_code < 500 and answer.status_code != 429 else SourceFailed
                raise wrong(f"{where} answered with HTTP {answer.status_code}")
            text = b""
            for part in answer.iter_content(2**20):
                text += part
                if len(text) > MAX_BYTES:
                    raise InputError(f"{where} is not STAC: it has more than {MAX_BYTES} bytes")
    except RequestException as error:
        reason = without_secrets(" ".join(str(error).split()))[:300]
        raise SourceFailed(f"{where} did not answer: {reason}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is not STAC: it cannot be read as JSON") from None
    if not isinstance(content, dict):
        raise InputError(f"{where} is not STAC: it is not a JSON object")
    return content


def first_answer(url: str, *, trusted: bool = False) -> Pin:
    """Request two bytes of a file: the version that its server states, and whether it sends what is asked for.

    Parameters, errors: as of `get_bytes`.
    """
    return get_bytes(url, 1, 3, trusted=trusted)[1]


def get_bytes(url: str, first: int, last: int, *, trusted: bool = False) -> tuple[bytes, Pin]:
    """Bytes `first` to before `last` of a file, and the version that its server states.

    Parameters
    ----------
    url
        The file, signed.
    first, last
        From 0.
    trusted
        Whether redirects may lead to a private host; otherwise they are refused before they are followed.

    Raises
    ------
    InputError
        A redirect leads to a private host.
    OSError
        No answer, an error of the server, or other bytes than those that were asked for.
    """
    import requests

    sessions: dict[tuple[str, bool], Session] = _threads.__dict__.setdefault("sessions", {})
    key = "/".join(url.split("/", 3)[:3]), trusted
    if key not in sessions:  # the connection is kept for the next file of this host
        sessions[key] = requests.Session() if trusted else guarded(requests.Session(), url, retries=0)
    span = f"{first}-{last - 1}"
    wanted = {"Range": f"bytes={span}", "Accept-Encoding": "identity"}
    with sessions[key].get(url, headers=wanted, timeout=TIMEOUT_S, stream=True) as answer:
        answer.raise_for_status()
        content, stated = answer.raw.read(last - first + 1), answer.headers.get("Content-Range", "")
        size = re.fullmatch(rf"bytes {span}/(\d+)", stated.strip())
        if answer.status_code != 206 or size is None or len(content) != last - first:
            raise OSError(
                f"the server does not send the part that is asked for: for bytes {span} it answers HTTP "
                f"{answer.status_code} with Content-Range {stated[:80]!r} and {len(content)} bytes"
            )
        return content, Pin(int(size[1]), answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
