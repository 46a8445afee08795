"""Reads STAC files: an ItemCollection, an item or a static catalogue, local or on a server.

Local sources can also be a stac-geoparquet or a folder of L2A products (.SAFE).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpixmap.errors import InputError
from subpixmap.machine import thread_pool
from subpixmap.scenes.hrefs import is_remote, redact, resolve
from subpixmap.scenes.http import MAX_BYTES as MAX_REMOTE_BYTES
from subpixmap.scenes.http import SourceFailed, get_json, guarded

if TYPE_CHECKING:
    from requests import Session

MAX_BYTES = 2**30
"""Largest size of a file."""
MAX_DOCUMENTS = 200_000
"""Largest number of documents of a catalogue."""
MAX_DEPTH = 40
"""Largest number of levels of a catalogue."""
THREADS = 8
"""Number of documents requested from a server at the same time."""
AHEAD = 32
"""Number of items requested from a server ahead of their use."""
ITEM_BYTES = 2**20
"""Largest size of an item on a server; 10 to 60 kB are usual."""
CATALOGUE_S = 4 * 3600.0
"""Time limit for all documents of a remote catalogue, seconds."""

Read = Callable[[str], dict[str, Any]]


def read_local(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Items of a path, each with its file, the base of relative hrefs.

    Raises
    ------
    InputError
        The path is not STAC.
    """
    if path.suffix == ".SAFE" or (path.is_dir() and any(path.glob("*.SAFE"))):
        from subpixmap.scenes.safe import read_safe

        products = [path] if path.suffix == ".SAFE" else sorted(path.glob("*.SAFE"))
        return ((read_safe(product), str(product / "item.json")) for product in products)
    if path.is_dir():
        catalogues = [path / name for name in ("catalog.json", "collection.json") if (path / name).exists()]
        if not catalogues:
            raise InputError(f"source {path} is not a STAC catalogue: the folder has no catalog.json or .SAFE product")
        path = catalogues[0]
    if path.suffix in (".parquet", ".geoparquet"):
        return ((item, str(path)) for item in _read_geoparquet(path))
    return read_static(os.path.abspath(path))


def read_static(where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Items of a file or URL, each with its own path or URL, the base of relative hrefs.

    Links follow the rules of hrefs (see `resolve`): a remote catalogue cannot refer to local files, and a public
    catalogue cannot refer to private hosts.

    Raises
    ------
    InputError
        It is not STAC, or a link must not be opened.
    SourceFailed
        A server does not respond.
    """
    read = read_item = _read_file
    if is_remote(where):
        import requests

        until = time.monotonic() + CATALOGUE_S
        read, read_item = (
            partial(_read_remote, guarded(requests.Session(), where, most=most), where, until)
            for most in (MAX_REMOTE_BYTES, ITEM_BYTES)
        )
    content = read(where)
    kind = content.get("type")
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        items = content["features"]
        if not all(isinstance(item, dict) and isinstance(item.get("assets"), dict) for item in items):
            raise InputError(f"source {redact(where)} is GeoJSON but not STAC: its features have no assets")
        return ((item, where) for item in items)
    if kind == "Feature" and "assets" in content:
        return iter([(content, where)])
    if kind in ("Catalog", "Collection") or ("links" in content and "stac_version" in content):
        return _walk(where, content, read, read_item, {where}, MAX_DEPTH)
    raise InputError(f"source {redact(where)} is not STAC: it is not an ItemCollection, an item or a catalogue")


def _walk(
    where: str, content: dict[str, Any], read: Read, read_item: Read, seen: set[str], depth: int
) -> Iterator[tuple[dict[str, Any], str]]:
    """Items of a static catalogue, then those of its children; each document is read once."""
    items, children = (_follow(where, content, rel, seen) for rel in ("item", "child"))
    if len(seen) > MAX_DOCUMENTS or (children and not depth):
        raise InputError(f"source {redact(where)} has more than {MAX_DOCUMENTS} documents or {MAX_DEPTH} levels")
    if is_remote(where):
        with thread_pool(THREADS) as pool:
            for first in range(0, len(items), AHEAD):
                some = items[first : first + AHEAD]
                yield from zip(pool.map(read_item, some), some, strict=True)
    else:
        yield from ((read_item(item), item) for item in items)
    for child in children:
        yield from _walk(child, read(child), read, read_item, seen, depth - 1)


def _follow(where: str, content: dict[str, Any], rel: str, seen: set[str]) -> list[str]:
    """Targets of links of a kind that were not followed yet."""
    links = content.get("links")
    targets = []
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == rel:
            target = resolve(str(link.get("href")), where)
            if target not in seen:
                seen.add(target)
                targets.append(target)
    return targets


def _read_remote(session: Session, catalogue: str, until: float, where: str) -> dict[str, Any]:
    if time.monotonic() > until:
        raise SourceFailed(
            f"source {redact(catalogue)} was not completely read within {CATALOGUE_S:g} s; download "
            "it, or try again later"
        )
    return get_json(session, where)


def _read_file(name: str) -> dict[str, Any]:
    if is_remote(name):
        raise InputError(
            f"source {redact(name)} is a server that a local catalogue refers to: give its URL as --source"
        )
    path = Path(name)
    try:
        size = path.stat().st_size
        content = json.loads(path.read_bytes()) if size <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"source {path} is not STAC: it cannot be read as JSON ({error})") from None
    if size > MAX_BYTES:
        raise InputError(f"source {path} is not STAC: it has more than {MAX_BYTES} bytes")
    if not isinstance(content, dict):
        raise InputError(f"source {path} did not return valid STAC: it is not a JSON object")
    return content


def _read_geoparquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet
    import stac_geoparquet.arrow as stac_arrow

    try:
        return [_without_none(item) for item in stac_arrow.stac_table_to_items(pyarrow.parquet.read_table(path))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"source {path} is not a stac-geoparquet ({error})") from None


def _without_none(value: Any) -> Any:
    """Drop fields that are None: a table has all fields for every item."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
