"""A source of scenes -> STAC items as plain dicts, hrefs absolute and unsigned.

A source is the name of a known catalogue, the URL of a STAC API, or a local ItemCollection or static catalogue.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError
from subpixmap.periods import Period
from subpixmap.scenes import dialect


@dataclass(frozen=True)
class Catalogue:
    """A STAC API that is known by name."""

    url: str
    """Root of the API."""
    collection: str
    """Collection of Sentinel-2 L2A."""


CATALOGUES = {
    "earth-search": Catalogue("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a"),
    "earth-search-c1": Catalogue("https://earth-search.aws.element84.com/v1", "sentinel-2-c1-l2a"),
    "planetary-computer": Catalogue("https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a"),
    "cdse": Catalogue("https://stac.dataspace.copernicus.eu/v1", "sentinel-2-l2a"),
}


def find_items(
    source: str, geometry: BaseGeometry, periods: Sequence[Period], *, collection: str | None = None
) -> list[dict[str, Any]]:
    """Ask a source for the items that touch a region in some periods.

    Parameters
    ----------
    source
        A name of `CATALOGUES`, the URL of a STAC API, the path of an ItemCollection (JSON), or of a static catalogue
        (`catalog.json` or its folder).
    geometry
        Region in EPSG:4326.
    periods
        Periods; months that do not count are left out.
    collection
        Collection to ask an API for; known catalogues have theirs.

    Returns
    -------
    list of dict
        STAC items in the source's order.

    Raises
    ------
    InputError
        An unknown source, an unreadable file, or what is no STAC.
    """
    if source in CATALOGUES:
        known = CATALOGUES[source]
        found = _search(known.url, collection or known.collection, geometry, periods)
    elif urlsplit(source).scheme in ("http", "https"):
        found = _search(source, collection or "sentinel-2-l2a", geometry, periods)
    elif Path(source).exists():
        found = _local(Path(source))
    else:
        raise InputError(
            f"source {source!r} is neither a file, a URL nor one of {', '.join(CATALOGUES)}; "
            "give one of these, or the path of an ItemCollection or catalog.json"
        )
    shapely.prepare(geometry)
    return [item for item in found if _wanted(item, geometry, periods)]


def _wanted(item: dict[str, Any], geometry: BaseGeometry, periods: Sequence[Period]) -> bool:
    when = dialect.observed_at(item)
    return any(period.holds(when) for period in periods) and geometry.intersects(_footprint(item))


def _footprint(item: dict[str, Any]) -> BaseGeometry:
    """Where the item lies (EPSG:4326), from its geometry."""
    try:
        return shape(item["geometry"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, shapely.errors.ShapelyError):
        raise InputError(f"item {dialect.item_id(item)} has no readable geometry") from None


def _search(url: str, collection: str, geometry: BaseGeometry, periods: Sequence[Period]) -> list[dict[str, Any]]:
    """Ask a STAC API, period by period."""
    import pystac_client

    client = pystac_client.Client.open(url)
    found: dict[str, dict[str, Any]] = {}
    for period in periods:
        search = client.search(
            collections=[collection],
            bbox=list(geometry.bounds),
            datetime=f"{period.start}T00:00:00Z/{period.end}T23:59:59.999Z",
            limit=100,
        )
        for item in search.items_as_dicts():
            found.setdefault(dialect.item_id(item), _absolute(item, url.rstrip("/") + "/"))
    return list(found.values())


def _local(path: Path) -> list[dict[str, Any]]:
    """Items of a local ItemCollection, item, or static catalogue."""
    if path.is_dir():
        found = [path / name for name in ("catalog.json", "collection.json") if (path / name).exists()]
        if not found:
            raise InputError(f"source {path} is a folder without catalog.json: it is no STAC catalogue")
        path = found[0]
    content = _read_json(path)
    kind = content.get("type")
    if kind == "FeatureCollection" and isinstance(content.get("features"), list):
        items = content["features"]
        if not all(isinstance(item, dict) and "assets" in item for item in items):
            raise InputError(f"source {path} is GeoJSON but not STAC: its features have no assets")
        return [_absolute(item, str(path)) for item in items]
    if kind == "Feature" and "assets" in content:
        return [_absolute(content, str(path))]
    if kind in ("Catalog", "Collection") or ("links" in content and "stac_version" in content):
        return list(_walk(path, content, set()))
    raise InputError(f"source {path} is no STAC: neither an ItemCollection, an item nor a catalogue")


def _walk(path: Path, content: dict[str, Any], seen: set[Path]) -> Iterator[dict[str, Any]]:
    """Items of a static catalogue, depth first; a file is visited once."""
    seen.add(path.resolve())
    for link in content.get("links", []):
        if not isinstance(link, dict) or link.get("rel") not in ("child", "item"):
            continue
        target = path.parent / str(link.get("href"))
        if target.resolve() in seen:
            continue
        child = _read_json(target)
        if link["rel"] == "item":
            seen.add(target.resolve())
            yield _absolute(child, str(target))
        else:
            yield from _walk(target, child, seen)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"source {path} is no STAC: it cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"source {path} is no STAC: it holds no JSON object")
    return content


def _absolute(item: dict[str, Any], base: str) -> dict[str, Any]:
    """The item with absolute hrefs; `base` is the file or URL that it was read from."""
    assets = item.get("assets")
    if not isinstance(assets, dict):
        raise InputError(f"item {dialect.item_id(item)} has no assets")
    moved = {
        name: asset | {"href": _join(base, asset["href"])} if isinstance(asset, dict) and "href" in asset else asset
        for name, asset in assets.items()
    }
    return item | {"assets": moved}


def _join(base: str, href: str) -> str:
    if "://" in href or os.path.isabs(href):
        return href
    if "://" in base:
        return urljoin(base, href)
    return os.path.abspath(os.path.join(os.path.dirname(base), href))
