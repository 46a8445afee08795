"""The version of a file in an object store (`/vsis3/...`), asked for by GDAL itself.

GDAL finds keys, endpoint, region and requester pays in many places. A request of its own is allowed what its reads are
allowed, whatever library is installed beside it.
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
    """Whether this build of GDAL can be asked."""
    return _gdal() is not None


def version_of(path: str) -> Pin | None:
    """Size, ETag and time of change as the store states them now; None if this build of GDAL cannot be asked.

    Parameters
    ----------
    path
        GDAL's path of the file. GDAL's options are those of the `rasterio.Env` around the call.

    Raises
    ------
    OSError
        The file is not there, the store does not answer, or it wants other keys.
    """
    if (gdal := _gdal()) is None:
        return None
    # GDAL's own search for keys is quick; keys that only boto3 finds are added, as `rasterio.open` does.
    headers = _headers(path) or ensure_env_with_credentials(_headers)(path)
    if not headers:
        told = (gdal.VSIGetLastErrorMsg() or b"").decode(errors="replace")
        reason = ": ".join(re.findall(r"<(?:Code|Message)>([^<]*)<", told)) or told[:200]  # not the keys in its answer
        raise OSError(f"its store does not state its version ({without_secrets(reason) or 'no answer'})")
    total = headers.get("content-range", "").rpartition("/")[2] or headers.get("content-length", "")
    return Pin(int(total) if total.isdigit() else None, headers.get("etag"), headers.get("last-modified"))


def _headers(path: str) -> dict[str, str]:
    """Lower-case names of the headers of the store's answer -> values; empty if it refuses."""
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
    """The library that rasterio is linked to, as rasterio has no such call; None where it has no such functions."""
    try:
        library = ctypes.CDLL(rasterio._base.__file__)  # finds the functions of what it is linked to
        ask, destroy = library.VSIGetFileMetadata, library.CSLDestroy
        reset, message = library.VSIErrorReset, library.VSIGetLastErrorMsg
    except (OSError, AttributeError):
        return None
    ask.argtypes, ask.restype = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.POINTER(ctypes.c_char_p)
    destroy.argtypes, destroy.restype = [ctypes.c_void_p], None
    reset.argtypes, reset.restype = [], None
    message.argtypes, message.restype = [], ctypes.c_char_p
    return library
