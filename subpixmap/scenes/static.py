"""STAC as files, of this machine or of a server: an ItemCollection, an item, or a static catalogue -> items."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from subpixmap.errors import InputError
from subpixmap.scenes.hrefs import is_remote, redact, resolve
from subpixmap.scenes.http import get_json, guarded

MAX_BYTES = 2**30
"""Of a file: more is no ItemCollection that a person keeps."""
MAX_DOCUMENTS = 200_000
"""Of a catalogue."""
MAX_DEPTH = 40
THREADS = 8
"""Documents of a server that are asked for at once."""

Read = Callable[[str], dict[str, Any]]


def read_static(where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Items with the path or URL that each was read from (relative hrefs start there).

    Links are followed as hrefs are (see `resolve`): a catalogue of a server cannot name files of this machine, nor a
    public one private hosts.

    Raises
    ------
    InputError
        What is there is no STAC, or names what must not be opened.
    SourceFailed
        A server does not answer.
    """
    read: Read = _read_file
    if is_remote(where):
        import requests

        read = partial(get_json, guarded(requests.Session(), where))
    content = read(where)
    kind = content.get("type")
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        items = content["features"]
        if not all(isinstance(item, dict) and isinstance(item.get("assets"), dict) for item in items):
            raise InputError(f"source {redact(where)} is GeoJSON but no STAC: its features have no assets")
        return ((item, where) for item in items)
    if kind == "Feature" and "assets" in content:
        return iter([(content, where)])
    if kind in ("Catalog", "Collection") or ("links" in content and "stac_version" in content):
        return _walk(where, content, read, {where}, MAX_DEPTH)
    raise InputError(f"source {redact(where)} is no STAC: neither an ItemCollection, an item nor a catalogue")


def _walk(
    where: str, content: dict[str, Any], read: Read, seen: set[str], depth: int
) -> Iterator[tuple[dict[str, Any], str]]:
    """Items of a static catalogue, those of a catalogue before those of its children; a document is read once."""
    items, children = (_follow(where, content, rel, seen) for rel in ("item", "child"))
    if len(seen) > MAX_DOCUMENTS or (children and not depth):
        raise InputError(f"source {redact(where)} has more than {MAX_DOCUMENTS} documents or {MAX_DEPTH} levels")
    if is_remote(where):
        with ThreadPoolExecutor(THREADS) as pool:
            yield from zip(pool.map(read, items), items, strict=True)
    else:
        yield from ((read(item), item) for item in items)
    for child in children:
        yield from _walk(child, read(child), read, seen, depth - 1)


def _follow(where: str, content: dict[str, Any], rel: str, seen: set[str]) -> list[str]:
    """Where the links of a kind lead that were not followed yet."""
    links = content.get("links")
    found = []
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == rel:
            target = resolve(str(link.get("href")), where)
            if target not in seen:
                seen.add(target)
                found.append(target)
    return found


def _read_file(name: str) -> dict[str, Any]:
    if is_remote(name):
        raise InputError(f"source {redact(name)} is named by a catalogue of this machine: give its URL as a --source")
    path = Path(name)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"source {path} is no STAC: it has more than {MAX_BYTES} bytes")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"source {path} is no STAC: it cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"source {path} is no STAC: it holds no JSON object")
    return content
