"""Opens hrefs: GDAL path and options, signed when opened.

Locks and ledgers contain unsigned hrefs. Keys come from the user's environment, tokens and signatures from the
catalogue; none is stored or shown. GDAL options apply only inside `gdal_env`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio.env import getenv, hasenv
from rasterio.session import DummySession

from subpixmap.errors import InputError
from subpixmap.scenes.hrefs import RENEWED, host_of, is_private, is_remote, leads_to_private, redact, without_secrets
from subpixmap.scenes.http import first_answer
from subpixmap.scenes.items import Asset
from subpixmap.scenes.pins import Pin
from subpixmap.scenes.stores import version_of
from subpixmap.scenes.tunnel import gdal_proxy

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_TIMEOUT": 60,  # GDAL has no default timeout: a read from a stalled server would never end
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif,.tiff,.jp2",
}

GDAL_CACHE_BYTES = 256_000_000
"""GDAL cache of decoded blocks per process; GDAL's own default is 5 % of the memory for each process."""

_CDSE = {"AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_HTTPS": "YES"}


def gdal_path(href: str, *, renew: bool = False) -> str:
    """The path for GDAL; `renew` requests a new token if hrefs are signed."""
    parts = urlsplit(href) if is_remote(href) else None
    if parts is None:
        return href
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    for ending, sign in SIGNERS.items():
        if (parts.hostname or "").endswith(ending):
            return f"/vsicurl/{sign(href, renew)}"
    return f"/vsicurl/{href}"


def signed_href(asset: Asset) -> str:
    """The href to open; `InputError` if it needs a signature that this process does not have."""
    if asset.needs_signature and not asset.signed:
        raise InputError(
            f"{asset.href} needs a new signature from its catalogue: rerun `subpixmap run` with the same --source"
        )
    return asset.signed or asset.href


def pin_of(asset: Asset, path: str | None = None) -> Pin | None:
    """The present version of a file, from one request; None for a store that does not return it.

    The request also gives a clear error for what `tunnel` would refuse: a host name or redirect that leads to a private
    host. Object stores redirect only within themselves.

    Parameters
    ----------
    asset
        The file.
    path
        Its `gdal_path`; by default a new one.

    Raises
    ------
    InputError
        The host name or a redirect leads to a private address.
    OSError
        The file does not exist, or its server does not respond, returns an error, or returns other bytes.
    """
    if not is_remote(asset.href):
        status = os.stat(asset.href)
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        return Pin(
            status.st_size, modified=f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z"
        )
    path = path or gdal_path(signed_href(asset))
    if not path.startswith("/vsicurl/"):
        with gdal_env(asset):
            return version_of(path)
    host, trusted = host_of(asset.href), is_trusted(asset)
    if not trusted and leads_to_private(host):
        raise InputError(f"{redact(asset.href)} is refused: its host {host} now resolves to a private address")
    return first_answer(path.removeprefix("/vsicurl/"), trusted=trusted)


def is_trusted(asset: Asset) -> bool:
    """Whether its host is private, which only the user's own catalogue can use."""
    return asset.own_network or is_private(host_of(asset.href))


def gdal_env(asset: Asset, *, renew: bool = False) -> AbstractContextManager[Any]:
    """The context to open and read a file; `renew` clears GDAL's cache of it, including failures."""
    # A limit set by the user, in the environment or around this call, stays.
    limited = "GDAL_CACHEMAX" in os.environ or (hasenv() and "GDAL_CACHEMAX" in getenv())
    cache = {} if limited else {"GDAL_CACHEMAX": GDAL_CACHE_BYTES}
    options = gdal_options((asset.signed or asset.href).partition("?")[0], renew=renew) if is_remote(asset.href) else {}
    if asset.href.startswith(("http://", "https://")) and not is_trusted(asset):
        options |= gdal_proxy()
    if not asset.href.startswith(
        "s3://"
    ):  # else rasterio searches for keys each time, which takes longer than a small window
        options["session"] = DummySession()
    context: AbstractContextManager[Any] = rasterio.Env(**cache, **options)
    return context


def gdal_options(href: str, *, renew: bool = False) -> dict[str, Any]:
    """GDAL options for a remote href; `InputError` if its store needs keys that are not set."""
    options = dict(GDAL_OPTIONS)
    keys = "AWS_ACCESS_KEY_ID" in os.environ or "AWS_PROFILE" in os.environ
    if href.startswith("s3://eodata/"):
        if not keys:
            raise InputError(
                f"{redact(href)} needs your own keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to S3 keys of "
                "the Copernicus Data Space (made at https://eodata-s3keysmanager.dataspace.copernicus.eu)"
            )
        options |= _CDSE
    elif href.startswith("s3://") and not keys:
        options["AWS_NO_SIGN_REQUEST"] = "YES"
    if renew:
        parts = urlsplit(href)
        whole = f"/vsis3/{parts.netloc}{parts.path}" if parts.scheme == "s3" else f"/vsicurl/{href}"
        options["CPL_VSIL_CURL_NON_CACHED"] = whole
    return options


def _planetary_computer(href: str, renew: bool) -> str:
    """Sign with a token of the Planetary Computer, which the library caches until a minute before it expires."""
    from planetary_computer import sas

    if renew:
        sas.TOKEN_CACHE.clear()  # some tokens are refused before they expire
    return str(sas.sign_url(href))


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), None
    return True


for _name in ("rasterio._env", "rasterio._err"):  # GDAL's warnings name the signed URL
    logging.getLogger(_name).addFilter(_redact_record)


SIGNERS: dict[str, Callable[[str, bool], str]] = {RENEWED: _planetary_computer}
"""Ending of the host name -> (href, whether to renew the token) -> signed href."""
