"""HTTP to untrusted servers: retries with back-off, limits of time and size, no access to private hosts.

Responses are read here in pieces, because libraries unpack any amount and wait forever while single bytes arrive. Every
open connection is checked, because a host name may resolve to another address than a moment before.
"""

from __future__ import annotations

import io
import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from subpixmap.errors import Incomplete, InputError
from subpixmap.scenes.hrefs import redact, require_public, require_public_address, without_secrets
from subpixmap.scenes.pins import Pin

if TYPE_CHECKING:
    from requests import Session

RETRIES = 8
"""Retries of a request."""
CONNECT_RETRIES = 4
"""Retries if no server can be reached; few, because usually the URL is wrong and the user waits."""
BACKOFF_S = 1.0
"""Seconds before the first retry; doubled for each further retry."""
TIMEOUT_S = (10.0, 60.0)
"""Timeouts to connect and to wait for the next bytes, seconds."""
ANSWER_S = 300.0
"""Timeout from a request to the last byte of its response, seconds."""
MAX_BYTES = 2**26
"""Largest size of a response, uncompressed, bytes."""
MAX_VALUES = 4_000_000
"""Largest number of brackets and commas in a response: each can become an object of some hundred bytes."""
_ERROR_BYTES = 2**14  # of an error page
_TRY_AGAIN = (429, 500, 502, 503, 504)
_PIECE = 2**16

_threads = threading.local()
T = TypeVar("T")


class SourceFailed(Incomplete):
    """A catalogue did not respond; rerun the same command to try again."""


def guarded(session: Session, base: str, retries: int | None = None, most: int | None = None) -> Session:
    """Add retries, limits and checks of every request (also of redirects and links) to a session.

    Parameters
    ----------
    session
        A session of requests; changed in place.
    base
        URL that the user gave; private hosts may only be requested if this one is private.
    retries
        Retries of a request that fails, with back-off; `RETRIES` by default.
    most
        Largest size of a response, uncompressed; `MAX_BYTES` by default. The caller limits streamed responses.
    """
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    total = RETRIES if retries is None else retries
    connecting = Retry(total, connect=CONNECT_RETRIES, backoff_factor=BACKOFF_S, allowed_methods=None)
    connecting.respect_retry_after_header = False  # requests are retried here, because responses are read here
    asking = Retry(total, backoff_factor=BACKOFF_S, raise_on_status=False, retry_after_max=300)

    class Guarded(HTTPAdapter):
        def send(self, request: Any, stream: bool = False, *args: Any, **options: Any) -> Any:
            require_public(request.url, base)
            if not stream:
                request.headers["Accept-Encoding"] = "gzip"
            ask = partial(super().send, request, True, *args, **options)
            again = asking
            while True:
                answer, raw = within(ANSWER_S, partial(_answered, ask, stream, most or MAX_BYTES), request.url)
                if answer.status_code not in _TRY_AGAIN or not again.total:
                    return answer
                again = again.increment(request.method, request.url, response=raw)
                again.sleep(raw)

    for scheme in ("http://", "https://"):
        adapter = Guarded(max_retries=connecting)
        adapter.poolmanager.pool_classes_by_scheme = _pools(base)
        session.mount(scheme, adapter)
    return session


def _pools(base: str) -> dict[str, Any]:
    """Connection pools that refuse private remote addresses, if the user gave a public URL."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            require_public_address(self.sock.getpeername()[0], self.host, base)

    class Encrypted(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            require_public_address(self.sock.getpeername()[0], self.host, base)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def within(seconds: float, call: Callable[[], T], url: str) -> T:
    """The result of a call within a time limit; a late thread is abandoned. Socket timeouts restart at each byte."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise SourceFailed(
            f"source {redact(url)[:200]} did not finish its response within {seconds:g} s; try again later"
        ) from None


def _answered(ask: Callable[[], Any], stream: bool, most: int) -> tuple[Any, Any]:
    """A response with its content read; a successful streamed response is not read."""
    answer = ask()
    raw, until = answer.raw, time.monotonic() + ANSWER_S
    where = f"source {redact(answer.url)[:200]}"
    if answer.status_code < 300 and stream:
        return answer, raw
    try:
        content = b"".join(_pieces(raw, most if answer.status_code < 300 else _ERROR_BYTES, until, where))
    finally:
        raw.close()
    answer.raw = io.BytesIO(content)
    if answer.status_code < 300 and (values := sum(map(content.count, (b"{", b"[", b",")))) > MAX_VALUES:
        raise InputError(f"{where} did not return valid STAC: {values} values, the limit is {MAX_VALUES}")
    return answer, raw


def _pieces(raw: Any, most: int, until: float, where: str) -> Any:
    """The uncompressed content of a response; beyond `most` an error page is cut, other content is refused."""
    encoding = raw.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise InputError(f"{where} returned the unexpected content encoding {encoding[:50]!r}")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if "gzip" in encoding else None
    got = 0
    while packed := raw.read1(_PIECE, decode_content=False):
        while packed:
            try:
                piece = packed if unpack is None else unpack.decompress(packed, _PIECE)
            except zlib.error as error:
                raise SourceFailed(f"{where} returned damaged gzip data ({error})") from None
            packed = b"" if unpack is None else unpack.unconsumed_tail
            got += len(piece)
            yield piece
            if got > most:
                if most == _ERROR_BYTES:
                    return
                raise InputError(
                    f"{where} did not return valid STAC: a response has more than {most} bytes; if it is "
                    "your own file, download it and give its path"
                )
        if time.monotonic() > until:
            raise SourceFailed(f"{where} did not finish its response within {ANSWER_S:g} s")
    missing = getattr(raw, "length_remaining", None)
    if missing or (unpack is not None and got and not unpack.eof):
        raise SourceFailed(f"{where} closed the connection before the end of its response")


def get_json(session: Session, url: str) -> dict[str, Any]:
    """The JSON object at a URL; the session is `guarded`.

    Raises
    ------
    SourceFailed
        No response or a server error after all retries.
    InputError
        The URL does not exist or is refused, or the response is not a JSON object.
    """
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    where = f"source {redact(url)[:200]}"
    try:
        answer = session.get(url, timeout=TIMEOUT_S)
        if answer.status_code >= 400:
            wrong = InputError if answer.status_code < 500 and answer.status_code != 429 else SourceFailed
            raise wrong(f"{where} returned HTTP {answer.status_code}")
        text = answer.content
    except (RequestException, HTTPError) as error:
        reason = without_secrets(" ".join(str(error).split()))[:300]
        raise SourceFailed(f"{where} did not respond: {reason}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where} did not return valid STAC: it cannot be read as JSON") from None
    if not isinstance(content, dict):
        raise InputError(f"{where} did not return valid STAC: it is not a JSON object")
    return content


def first_answer(url: str, *, trusted: bool = False) -> Pin:
    """Request two bytes of a file, to get its version and to check that the server supports ranges.

    Parameters and errors: see `get_bytes`.
    """
    return get_bytes(url, 1, 3, trusted=trusted)[1]


def get_bytes(url: str, first: int, last: int, *, trusted: bool = False) -> tuple[bytes, Pin]:
    """Bytes `first` to `last` - 1 of a file, and the version that its server returns.

    Parameters
    ----------
    url
        Signed URL of the file.
    first, last
        Start and end (exclusive), counted from 0.
    trusted
        Whether redirects may lead to a private host; otherwise such redirects are refused.

    Raises
    ------
    InputError
        A redirect leads to a private host.
    OSError
        No response, a server error, or other bytes than requested.
    """
    import requests

    sessions: dict[tuple[str, bool], Session] = _threads.__dict__.setdefault("sessions", {})
    key = "/".join(url.split("/", 3)[:3]), trusted
    if key not in sessions:  # the connection is kept for the next file of this host
        sessions[key] = requests.Session() if trusted else guarded(requests.Session(), url, retries=0)
    span = f"{first}-{last - 1}"
    wanted = {"Range": f"bytes={span}", "Accept-Encoding": "identity"}
    session, enough = sessions[key], last - first + 1

    def part() -> Any:
        with session.get(url, headers=wanted, timeout=TIMEOUT_S, stream=True) as answer:
            answer.raise_for_status()
            right = answer.status_code == 206
            return answer, answer.raw.read(enough, decode_content=False) if right else b""

    try:
        answer, content = within(ANSWER_S, part, url)
    except SourceFailed as error:
        raise OSError(str(error)) from None
    stated = answer.headers.get("Content-Range", "")
    size = re.fullmatch(rf"bytes {span}/(\d+)", stated.strip())
    if answer.status_code != 206 or size is None or len(content) != last - first:
        raise OSError(
            f"the server did not return the requested bytes: for bytes {span} it returned HTTP {answer.status_code} "
            f"with Content-Range {stated[:80]!r} and {len(content)} bytes"
        )
    return content, Pin(int(size[1]), answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
