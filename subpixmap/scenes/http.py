"""HTTP to catalogues: retries with back-off, timeouts, and no way from a public catalogue to a private host."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from subpixmap.errors import Incomplete, InputError
from subpixmap.scenes.hrefs import redact, require_public, without_secrets

if TYPE_CHECKING:
    from requests import Session

RETRIES = 8
CONNECT_RETRIES = 4
"""Of those, where no server is reached at all: most often the URL is wrong, and a person waits."""
BACKOFF_S = 1.0
"""Doubles with every retry."""
TIMEOUT_S = (10.0, 60.0)
"""To connect, and for each answer."""
MAX_BYTES = 2**28
"""Of an answer: more is no page of a catalogue."""

_threads = threading.local()


class SourceFailed(Incomplete):
    """A catalogue did not answer; the same command tries again."""


def guarded(session: Session, base: str, retries: int | None = None) -> Session:
    """The session with our retries, and a guard of every request: redirects and links of the answers too.

    Parameters
    ----------
    session
        Of requests.
    base
        URL that the user gave; only if it is private itself, others may be.
    retries
        Of a request that fails, with back-off; `RETRIES` when not given.
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
        The URL does not exist or is refused, or the answer is no JSON object.
    """
    from requests import RequestException

    where = f"source {redact(url)[:200]}"
    try:
        with session.get(url, timeout=TIMEOUT_S, stream=True) as answer:
            if answer.status_code >= 400:
                wrong = InputError if answer.status_code < 500 and answer.status_code != 429 else SourceFailed
                raise wrong(f"{where} answers with HTTP {answer.status_code}")
            text = b""
            for part in answer.iter_content(2**20):
                text += part
                if len(text) > MAX_BYTES:
                    raise InputError(f"{where} is no STAC: it has more than {MAX_BYTES} bytes")
    except RequestException as error:
        told = without_secrets(" ".join(str(error).split()))[:300]
        raise SourceFailed(f"{where} did not answer: {told}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where} is no STAC: it cannot be read as JSON") from None
    if not isinstance(content, dict):
        raise InputError(f"{where} is no STAC: it holds no JSON object")
    return content


def require_public_answer(url: str) -> None:
    """Ask for the first byte of a public URL: no redirect leads to a private host, or it is refused unasked.

    Raises
    ------
    InputError
        A redirect leads to a private host.
    requests.RequestException
        No answer, or an error of the server; it is an `OSError`.
    """
    import requests

    sessions: dict[str, Session] = _threads.__dict__.setdefault("sessions", {})
    origin = "/".join(url.split("/", 3)[:3])
    if origin not in sessions:  # its connection is kept for the host's next file
        sessions[origin] = guarded(requests.Session(), url, retries=0)
    with sessions[origin].get(url, headers={"Range": "bytes=0-0"}, timeout=TIMEOUT_S, stream=True) as answer:
        answer.raise_for_status()
        answer.raw.read(1)
