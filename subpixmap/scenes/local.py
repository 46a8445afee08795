"""STAC items of this machine: an ItemCollection, a static catalogue, a stac-geoparquet, or a folder of L2A products."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from subpixmap.errors import InputError

MAX_BYTES = 2**30
"""Of a JSON file: more is no ItemCollection that a person keeps."""


def read_local(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Items with the file that each was read from (relative hrefs start there).

    Raises
    ------
    InputError
        The path holds no STAC.
    """
    if path.suffix == ".SAFE" or (path.is_dir() and any(path.glob("*.SAFE"))):
        from subpixmap.scenes.safe import read_safe

        products = [path] if path.suffix == ".SAFE" else sorted(path.glob("*.SAFE"))
        return ((read_safe(product), str(product / "item.json")) for product in products)
    if path.is_dir():
        found = [path / name for name in ("catalog.json", "collection.json") if (path / name).exists()]
        if not found:
            raise InputError(
                f"source {path} is a folder without catalog.json or .SAFE products: it is no STAC catalogue"
            )
        path = found[0]
    if path.suffix in (".parquet", ".geoparquet"):
        return ((item, str(path)) for item in _read_geoparquet(path))
    content = _read_json(path)
    kind = content.get("type")
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        items = content["features"]
        if not all(isinstance(item, dict) and isinstance(item.get("assets"), dict) for item in items):
            raise InputError(f"source {path} is GeoJSON but no STAC: its features have no assets")
        return ((item, str(path)) for item in items)
    if kind == "Feature" and "assets" in content:
        return iter([(content, str(path))])
    if kind in ("Catalog", "Collection") or ("links" in content and "stac_version" in content):
        return _walk(path, content, {path.resolve()})
    raise InputError(f"source {path} is no STAC: neither an ItemCollection, an item nor a catalogue")


def _walk(path: Path, content: dict[str, Any], seen: set[Path]) -> Iterator[tuple[dict[str, Any], str]]:
    """Items of a static catalogue, depth first; a file is visited once."""
    links = content.get("links")
    for link in links if isinstance(links, list) else []:
        if not isinstance(link, dict) or link.get("rel") not in ("child", "item"):
            continue
        target = path.parent / str(link.get("href"))
        if target.resolve() in seen:
            continue
        seen.add(target.resolve())
        child = _read_json(target)
        if link["rel"] == "item":
            yield child, str(target)
        else:
            yield from _walk(target, child, seen)


def _read_json(path: Path) -> dict[str, Any]:
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


def _read_geoparquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet
    import stac_geoparquet.arrow as stac_arrow

    try:
        return [_without_none(item) for item in stac_arrow.stac_table_to_items(pyarrow.parquet.read_table(path))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"source {path} is no stac-geoparquet ({error})") from None


def _without_none(value: Any) -> Any:
    """A table gives every item all fields; those that an item did not have are None there."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
