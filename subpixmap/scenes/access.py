"""How an href is opened: its GDAL path and options, signed at the moment of opening.

Locks and ledgers hold unsigned hrefs. Keys come from the user's environment, tokens from the catalogue; neither is
stored nor told.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import rasterio

from subpixmap.errors import InputError
from subpixmap.scenes.hrefs import host_of, is_private, is_remote, leads_to_private, redact, without_secrets
from subpixmap.scenes.http import require_public_answer
from subpixmap.scenes.items import Asset

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_TIMEOUT": 60,  # GDAL has none: a stalled server would hang the read for ever
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

# Decoded blocks that a process keeps, MB; GDAL's default is 5 % of the machine for each process. It is looked up when
# the first raster is read. It is none of the options above: there a number would mean bytes, and be set at every read.
os.environ.setdefault("GDAL_CACHEMAX", "256")

_STORES = re.compile(r"(.+\.)?s3([.-][a-z]{2}(-[a-z]+)+-\d)?\.amazonaws\.com|[a-z0-9]+\.blob\.core\.windows\.net")

_CDSE = {"AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_HTTPS": "YES"}


def gdal_path(href: str, *, renew: bool = False) -> str:
    """The path that GDAL opens; `renew` asks for a new token where hrefs are signed."""
    parts = urlsplit(href) if is_remote(href) else None
    if parts is None:
        return href
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    for ending, sign in SIGNERS.items():
        if (parts.hostname or "").endswith(ending):
            return f"/vsicurl/{sign(href, renew)}"
    return f"/vsicurl/{href}"


def require_harmless(asset: Asset, path: str) -> None:
    """Look again where a remote file lies, when it is opened: its name or a redirect may lead elsewhere by now.

    GDAL follows redirects to any host and has no option against it. So a server is first asked by us, one request for a
    file that is opened, except object stores, which redirect to nothing but their own. What a server answers
    to GDAL alone is not seen.

    Parameters
    ----------
    asset
        What is opened.
    path
        Its `gdal_path`.

    Raises
    ------
    InputError
        The name of its host leads to a private address, or a redirect does.
    OSError
        The server does not answer, or with an error.
    """
    host = host_of(asset.href)
    if urlsplit(asset.href).scheme not in ("http", "https") or asset.own_network or is_private(host):
        return  # files, stores with keys, and what the lock has only of a catalogue of the user's own
    if leads_to_private(host):
        raise InputError(f"{redact(asset.href)} is not opened: {host} leads to a private address by now")
    if not _STORES.fullmatch(host):
        require_public_answer(path.removeprefix("/vsicurl/"))


def gdal_env(href: str, *, renew: bool = False) -> AbstractContextManager[Any]:
    """What must be entered to open and read an href; with `renew`, GDAL forgets what it remembers, failures too."""
    return rasterio.Env(**gdal_options(href, renew=renew)) if is_remote(href) else nullcontext()


def gdal_options(href: str, *, renew: bool = False) -> dict[str, Any]:
    """GDAL options for a remote href; `InputError` where its store wants keys that the environment does not hold."""
    options = dict(GDAL_OPTIONS)
    keys = "AWS_ACCESS_KEY_ID" in os.environ or "AWS_PROFILE" in os.environ
    if href.startswith("s3://eodata/"):
        if not keys:
            raise InputError(
                f"{redact(href)} wants your own keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to S3 keys of "
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
    """Sign with a token of the Planetary Computer, which the library keeps until a minute before it ends."""
    from planetary_computer import sas

    if renew:
        sas.TOKEN_CACHE.clear()  # some tokens are refused before their time
    return sas.sign_url(href)


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_secrets(record.getMessage()), None
    return True


for _name in ("rasterio._env", "rasterio._err"):  # GDAL's warnings name the signed URL
    logging.getLogger(_name).addFilter(_redact_record)


SIGNERS: dict[str, Callable[[str, bool], str]] = {".blob.core.windows.net": _planetary_computer}
"""By ending of the host name: (href, whether to renew the token) -> signed href."""
