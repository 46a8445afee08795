"""Decides which hrefs may be opened, because catalogues are untrusted input.

GDAL opens far more than files: an inline VRT can read any local file, and a URL can address an internal service. Where
possible, the decision uses only the text of the href, before any input or output.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urljoin, urlsplit, urlunsplit

from subpixmap.errors import InputError, in_one_line

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG"}
"""GDAL driver by extension; no other file is opened."""

VERSIONS = ("versionid", "generation")
"""Query parameters that are not secret: the version of an object in a store."""

RENEWED = ".blob.core.windows.net"
"""Host name endings of files that are signed each time they are opened (see `access.SIGNERS`)."""

REMOTE = ("https", "http", "s3")
"""Schemes of URLs that may be opened."""


def is_remote(href: str) -> bool:
    """Whether it is a URL."""
    return "://" in href


def parts_of(url: str) -> SplitResult:
    """The parts of a URL; `InputError` if it is not valid (open bracket, port of letters, empty label)."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        url.encode()
        if parts.port == 0:
            raise ValueError("port 0")
    except ValueError as error:
        raise InputError(f"{without_secrets(url)[:200]!a} is not a valid URL ({in_one_line(error)})") from None
    return parts


def redact(href: str) -> str:
    """The href without user, password, query and fragment: safe to show and store."""
    if not is_remote(href):
        return href
    try:
        parts = urlsplit(href)
    except ValueError:
        return without_secrets(href)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def unsigned(href: str) -> str:
    """The href as stored in a lock: without user, password and signature.

    Any part of a query may be secret, so only the version of the file is kept.
    """
    parts = urlsplit(href) if is_remote(href) else None
    if parts is None or not (parts.query or parts.fragment or "@" in parts.netloc):
        return href
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name.lower() in VERSIONS]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, urlencode(kept), ""))


def redact_urls(text: str) -> str:
    """A message without queries and passwords of URLs; only texts that are certainly URLs are changed."""
    return re.sub(r"(\b[A-Za-z][\w+.-]*:/{1,2})(?:[^\s'\"/@]*@)?([^\s'\"?]*)(\?[^\s'\"]*)?", r"\1\2", text)


def without_secrets(text: str) -> str:
    """A message without queries and passwords of the URLs in it."""
    return re.sub(r"\?[^\s'\"]+|(?<=//)[^/@\s]*@", "", text)


def for_readers(source: str) -> str:
    """The name of a source for reports and exports: without secrets; of a local path only the file name.

    Local folders are not published, because they contain user names. The same holds for `file://` URLs.
    """
    local = source.removeprefix("file://")
    if local == source and is_remote(source):
        return without_secrets(source)
    if re.match(r"(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\])", local) or (os.sep in local and os.path.splitext(local)[1]):
        return re.split(r"[/\\]", local.rstrip("/\\"))[-1] or local
    return without_secrets(source)


def driver(href: str) -> str:
    """GDAL driver of a raster, by its extension; `InputError` for any other extension."""
    path = urlsplit(href).path if is_remote(href) else href
    name = DRIVERS.get(os.path.splitext(path)[1].lower())
    if name is None or "<" in href or path.startswith("/vsi") or "\0" in href:
        raise InputError(f"{redact(href)[:200]!r} is refused: only {', '.join(DRIVERS)} files are opened")
    return name


def require_own_overviews(dataset: Any, where: str) -> None:
    """Refuse an open raster whose tags refer to overview files: GDAL would open any file or server."""
    if dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE"):
        raise InputError(
            f"{where} refers to another file for its overviews, which is refused for security; remove "
            "that tag from the file"
        )


def resolve(href: str, base: str) -> str:
    """The absolute href of an asset.

    Parameters
    ----------
    href
        As written in the item.
    base
        File or URL that the item was read from.

    Raises
    ------
    InputError
        The scheme is not allowed, a remote catalogue refers to a local file, or a public one to a private address.
    """
    if re.match(r"/?vsi\w*/|<|[A-Za-z]{2,}:(?!//)", href.strip()):
        raise InputError(
            f"href {without_secrets(href)[:200]!r} is refused: give a path or a URL with {', '.join(REMOTE)}"
        )
    parts_of(href)
    if is_remote(base):
        url = urljoin(base, href)
    elif href.startswith("file://") and urlsplit(href).netloc in ("", "localhost"):
        return os.path.abspath(unquote(urlsplit(href).path))
    elif not is_remote(href):
        return _local(os.path.abspath(os.path.join(os.path.dirname(base), href)))
    else:
        url = href
    scheme, host = parts_of(url).scheme, host_of(url)
    if scheme not in REMOTE:
        raise InputError(f"href {redact(url)[:200]!r} is refused: only {', '.join(REMOTE)} URLs are allowed")
    if scheme == "s3" and not re.fullmatch(r"[A-Za-z0-9][\w.-]{1,62}", urlsplit(url).netloc):
        raise InputError(f"href {redact(url)[:200]!r} is refused: it has no bucket name")
    if scheme != "s3" and is_private(host) and not _may_be_private(host, base):
        raise InputError(f"href {redact(url)[:200]!r} is refused: {host} is a private address")
    return url


def _local(path: str) -> str:
    """The path as written if that file exists, else decoded: hrefs are URIs, but many are plain paths."""
    return path if "%" not in path or os.path.exists(path) else os.path.abspath(unquote(path))


def is_private(host: str) -> bool:
    """Whether a host is on this machine or network, by its text only (without DNS)."""
    host = host.strip("[]").rstrip(".").lower()
    if not host or host == "localhost" or not ("." in host or ":" in host or host.isdigit()):
        return True
    if host.endswith((".localhost", ".local", ".internal", ".lan", ".home", ".corp")):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        # 2130706433, 0x7f.1 and so on: are other ways to write an address.
        return re.fullmatch(r"[0-9a-fx.]*", host) is not None and host[-1].isdigit()


def require_public(url: str, base: str) -> None:
    """Refuse a URL that a public catalogue must not use, by its text or the addresses of its host.

    Each name is looked up once. For a private or local catalogue, which is the user's own, only `resolve` decides.

    Raises
    ------
    InputError
        The URL is not on a public server.
    """
    host, own = host_of(url), host_of(base)
    if not is_remote(base) or is_private(own) or leads_to_private(own):
        return
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{redact(url)[:200]!r} is refused: it is not an http or https URL")
    if is_private(host) or leads_to_private(host):
        raise InputError(f"{redact(url)[:200]!r} is refused: {host} resolves to a private address")


def require_public_address(address: str, host: str, base: str) -> None:
    """Refuse an open connection by its remote address; same rules as `require_public`."""
    own = host_of(base)
    if is_remote(base) and not (is_private(own) or leads_to_private(own)) and is_private(address):
        raise InputError(f"{host} is refused: it resolves to {address}, a private address")


def leads_to_private(host: str) -> bool:
    """Whether any address of a host name is private; False if it has no address."""
    try:
        return any(not ipaddress.ip_address(address).is_global for address in addresses(host))
    except (OSError, UnicodeError):
        return False


@lru_cache(maxsize=1024)
def addresses(host: str) -> tuple[str, ...]:
    """Addresses of a host name; looked up once by each process, unless that fails."""
    return tuple(str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, None))


def _may_be_private(host: str, base: str) -> bool:
    """A private catalogue may use private hosts; a local file may use this machine."""
    if is_remote(base):
        return is_private(host_of(base))
    return host in ("localhost", "127.0.0.1", "::1")


def host_of(url: str) -> str:
    """Host name or address of a URL; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
