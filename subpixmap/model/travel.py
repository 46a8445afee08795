"""Downloads models from `https://`, `s3://` or `hf://` URLs, optionally with `#sha256=...`, into the user's cache.

The sha256 is that of the model, over card and tensors: `subpixmap models FILE` shows it, and a run's recipe has it. A
server is not trusted: it sends at most `MAX_BYTES`, in a limited time, and what it sends is read as data by
`card.read_stored`. Its redirects go neither to http nor from a public host to a private one.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from subpixmap.errors import Incomplete, InputError, Refused, in_one_line
from subpixmap.files import cache_folder, path_of, store_errors, write_atomic
from subpixmap.model.card import read_stored
from subpixmap.progress import counter
from subpixmap.scenes.hrefs import parts_of, redact, without_secrets
from subpixmap.scenes.http import ANSWER_S, TIMEOUT_S, guarded

MAX_BYTES = 200 * 10**6
"""Largest model file to download."""
RETRIES = 2
"""Of a request that fails."""
HUB = "https://huggingface.co"
"""Where `hf://` leads, unless the environment variable HF_ENDPOINT names another server, as for the hub's own tools."""
_HERE = ("localhost", "127.0.0.1", "::1")
_PIECE = 2**18
_ON_HUB = re.compile(r"hf://([\w.-]+)/([\w.-]+)(?:@([\w.-]+))?/([^@]+)(?:@([\w./-]+))?", re.ASCII)

log = logging.getLogger("subpixmap")


class ModelUnreachable(Incomplete):
    """The server of a model did not respond completely; rerun the same command to try again."""


@dataclass(frozen=True)
class Address:
    """The address of a model."""

    url: str
    """https, http of this machine, or s3."""
    sha256: str | None
    """Of the model, over card and tensors."""

    def __post_init__(self) -> None:
        parts = parts_of(self.url)
        if parts.scheme not in ("https", "http", "s3") or not parts.netloc or not parts.path.strip("/"):
            raise InputError(f"model {self}: give https://, s3:// or hf:// with the path of a file, or a local file")
        if parts.scheme == "http" and parts.hostname not in _HERE:
            raise InputError(f"model {self}: http is refused, because it can be changed on the way; give https://")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise InputError(f"model {self}: after # give sha256= and the 64 hex digits shown by `subpixmap models`")

    def __str__(self) -> str:
        return redact(self.url)[:200]

    @classmethod
    def parse(cls, text: str) -> Address:
        """From what the user typed; `hf://` becomes the URL of the hub."""
        url, mark, behind = text.strip().partition("#")
        digest = behind.removeprefix("sha256=").lower() if mark else None
        return cls(_on_hub(url) if url.startswith("hf://") else url, digest)


def _on_hub(url: str) -> str:
    """The https URL of `hf://org/repo/path@revision`, or of `hf://org/repo@revision/path` as the hub writes it."""
    if (named := _ON_HUB.fullmatch(url)) is None or (named[3] and named[5]):
        raise InputError(f"model {redact(url)[:200]}: give hf://org/repo/path, with @revision at its end if you like")
    revision = quote(named[3] or named[5] or "main", safe="")
    hub = os.environ.get("HF_ENDPOINT") or HUB
    return f"{hub.rstrip('/')}/{named[1]}/{named[2]}/resolve/{revision}/{quote(named[4])}"


def local_copy(name: str | Path, *, known: str | None = None) -> str | Path:
    """The local file of a model at a URL, downloaded or cached; other names or paths unchanged.

    Parameters
    ----------
    name
        Name of a shipped checkpoint, path, or address.
    known
        sha256 of the model that a run folder was made with. Another one is refused; where the server does not answer,
        the cache is enough.

    Raises
    ------
    InputError
        The address is none, has no such file, or a file that is too large, no model, or not of the stated sha256.
    ModelUnreachable
        The server did not respond completely.
    Refused
        The model is not the known one.
    """
    if not isinstance(name, str) or "://" not in name:
        return name
    address = Address.parse(name)
    if address.sha256 is not None:
        _require_known(address, address.sha256, known)
        if (kept := _cached(address.sha256)) is not None:
            return kept
    try:
        content = _fetch(address)
    except ModelUnreachable as error:
        if known is None or (kept := _cached(known)) is None:
            raise
        log.warning("%s; using the copy in the cache, sha256 %s", error, known[:12])
        return kept
    sha256 = _sha256_of(content, address)
    if address.sha256 not in (None, sha256):
        raise InputError(
            f"model {address}: the file has sha256 {sha256}, not the one after #: check the address and the sha256"
        )
    _require_known(address, sha256, known)
    return _keep(content, sha256)


def _require_known(address: Address, sha256: str, known: str | None) -> None:
    if known not in (None, sha256):
        raise Refused(
            f"model {address}: sha256 {sha256[:12]} is not that of this run folder ({str(known)[:12]}); give the "
            "model of the folder, or another --out"
        )


def _place(sha256: str) -> Path:
    return cache_folder() / "models" / f"{sha256}.safetensors"


def _cached(sha256: str) -> Path | None:
    """The file in the cache, if it is whole."""
    path = _place(sha256)
    try:
        return path if path.is_file() and read_stored(path).sha256 == sha256 else None
    except InputError:
        return None


def _keep(content: bytes, sha256: str) -> Path:
    path = _place(sha256)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise InputError(
            f"the model cannot be stored in {path.parent} ({in_one_line(error)}); set SUBPIXMAP_CACHE to another folder"
        ) from error
    return path


def _sha256_of(content: bytes, address: Address) -> str:
    """Of the model in a file's bytes, which is read as any file is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        try:
            return read_stored(path).sha256
        except InputError as error:
            raise InputError(f"model {str(error).replace(str(path), str(address))}") from None


def _fetch(address: Address) -> bytes:
    from urllib3.exceptions import HTTPError

    try:
        if address.url.startswith("s3://"):
            with store_errors():
                return _from_store(address)
        return _from_server(address)
    except FileNotFoundError:
        raise InputError(f"model {address}: there is no such file") from None
    except PermissionError as error:
        raise InputError(f"model {address} cannot be read ({in_one_line(error)}); check your keys") from None
    except (OSError, HTTPError, Incomplete) as error:
        reason = without_secrets(in_one_line(error))[:300]
        raise ModelUnreachable(f"model {address} could not be downloaded: {reason}; rerun the same command") from None


def _from_store(address: Address) -> bytes:
    place: Any = path_of(address.url)
    size = place.stat().st_size
    with place.open("rb") as file:
        return _read(file.read, size, address)


def _from_server(address: Address) -> bytes:
    from requests.exceptions import InvalidSchema

    headers = {"Accept-Encoding": "identity"}
    try:
        with _session(address.url).get(address.url, headers=headers, timeout=TIMEOUT_S, stream=True) as answer:
            if answer.status_code != 200:
                wrong = InputError if answer.status_code < 500 and answer.status_code != 429 else ModelUnreachable
                raise wrong(f"model {address}: the server returned HTTP {answer.status_code}")
            if (encoding := answer.headers.get("Content-Encoding", "identity")) not in ("", "identity"):
                raise InputError(f"model {address} has the unexpected content encoding {encoding[:50]!r}")
            stated = answer.headers.get("Content-Length", "")
            size = int(stated) if stated.isdigit() else None
            return _read(lambda n: answer.raw.read1(n, decode_content=False), size, address)
    except InvalidSchema:
        raise InputError(
            f"model {address}: the server redirects to an address that is not https; give another address"
        ) from None


def _session(url: str) -> Any:
    """A session with the limits and guards of catalogues; of https, nothing leads to http."""
    import requests

    session = guarded(requests.Session(), url, retries=RETRIES)
    if url.startswith("https:"):
        del session.adapters["http://"]
    return session


def _read(read: Callable[[int], bytes], size: int | None, address: Address) -> bytes:
    """All bytes, `size` of them if it is known; no more than `MAX_BYTES`, and not for ever."""
    until, content = time.monotonic() + ANSWER_S, bytearray()
    with counter(f"fetch model {address}", (size or 0) // 1000 + 1, "kB") as bar:
        while True:
            if max(size or 0, len(content)) > MAX_BYTES:
                raise InputError(
                    f"model {address} has more than {MAX_BYTES // 10**6} MB: which is too large for a checkpoint"
                )
            if not (piece := read(_PIECE)):
                break
            content += piece
            bar.update(len(content) // 1000)
            if time.monotonic() > until:
                raise ModelUnreachable(f"it did not finish within {ANSWER_S:g} s")
    if size is not None and len(content) != size:
        raise ModelUnreachable(f"{len(content):,} of {size:,} bytes were received")
    return bytes(content)
