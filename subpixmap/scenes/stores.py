"""Gets the version of a file in an object store (`/vsis3/...`) through GDAL.

GDAL finds keys, endpoint, region and requester-pays in many places. A request by GDAL has the same access as its reads.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import Any

import rasterio
from rasterio.env import ensure_env_with_credentials

from subpixmap.scenes.hrefs import without_secrets
from subpixmap.scenes.pins import Pin


def can_ask() -> bool:
    """Whether this build of GDAL has the needed functions."""
    return _gdal() is not None


def version_of(path: str) -> Pin | None:
    """Present size, ETag and time of change from the store; None if this build of GDAL has no such function.

    Parameters
    ----------
    path
        GDAL path of the file. GDAL options come from the surrounding `rasterio.Env`.

    Raises
    ------
    OSError
        The file does not exist, the store does not respond, or refuses the keys.
    """
    if (gdal := _gdal()) is None:
        return None
    # GDAL's own search for keys is quick; keys that only boto3 finds are added, as `rasterio.open` does.
    headers = _headers(path) or ensure_env_with_credentials(_headers)(path)
    if not headers:
        told = (gdal.VSIGetLastErrorMsg() or b"").decode(errors="replace")
        reason = ": ".join(re.findall(r"<(?:Code|Message)>([^<]*)<", told)) or told[:200]  # not the keys in its answer
        raise OSError(f"its store does not return its version ({without_secrets(reason) or 'no response'})")
    total = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    return Pin(int(total) if total.isdigit() else None, headers.get("etag"), headers.get("last-modified"))


def _headers(path: str) -> dict[str, str]:
    """Headers of the store's response by lower-case name; empty if refused."""
    gdal: Any = _gdal()
    gdal.VSIErrorReset()
    listed = gdal.VSIGetFileMetadata(path.encode(), b"HEADERS", None)
    if not listed:
        return {}
    try:
        lines: list[str] = []
        while (line := listed[len(lines)]) is not None:
            lines.append(line.decode(errors="replace"))
    finally:
        gdal.CSLDestroy(listed)
    pairs = (line.partition("=") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


@cache
def _gdal() -> Any:
    """The GDAL library that rasterio uses; None if it lacks the functions."""
    try:
        library = ctypes.CDLL(rasterio._base.__file__)  # finds functions of the linked library
        ask, destroy = library.VSIGetFileMetadata, library.CSLDestroy
        reset, message = library.VSIErrorReset, library.VSIGetLastErrorMsg
    except (OSError, AttributeError):
        return None
    ask.argtypes, ask.restype = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.POINTER(ctypes.c_char_p)
    destroy.argtypes, destroy.restype = [ctypes.c_void_p], None
    reset.argtypes, reset.restype = [], None
    message.argtypes, message.restype = [], ctypes.c_char_p
    return library
