"""Reads STAC items of a source as plain dicts, with absolute, unsigned hrefs.

A source is the name of a listed catalogue, the URL of a STAC API, or local STAC files. Several sources are used as
fallbacks in the given order.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError, in_one_line
from subpixmap.files import local_path
from subpixmap.machine import memory
from subpixmap.periods import Period
from subpixmap.scenes import dialect
from subpixmap.scenes.hrefs import (
    host_of,
    is_private,
    leads_to_private,
    parts_of,
    redact,
    require_public,
    resolve,
    unsigned,
)
from subpixmap.scenes.items import Item
from subpixmap.scenes.search import search
from subpixmap.scenes.static import read_local, read_static

MAX_ITEM_BYTES = 2**18
"""Largest size of the kept part of an item, as JSON, bytes; 3 to 10 kB are usual."""
TIMES_AS_OBJECTS = 12
"""Memory of an item relative to its size as JSON; items may use half of the memory."""


@dataclass(frozen=True)
class Catalogue:
    """A STAC API with a short name."""

    url: str
    """Root of the API."""
    collection: str
    """Collection of Sentinel-2 L2A."""
    collection_l1c: str = ""
    """Collection of Sentinel-2 L1C; empty if there is none."""

    def of(self, level: dialect.Level) -> str:
        """Its collection of a level; `InputError` if there is none."""
        name = self.collection if level == "L2A" else self.collection_l1c
        if not name:
            having = ", ".join(key for key, one in CATALOGUES.items() if one.collection_l1c)
            raise InputError(
                f"--level {level}: {self.url} has no {level} collection; use --source with one of {having}"
            )
        return name


CATALOGUES = {
    "earth-search": Catalogue("https://earth-search.aws.element84.com/v1", "sentinel-2-l2a", "sentinel-2-l1c"),
    "earth-search-c1": Catalogue("https://earth-search.aws.element84.com/v1", "sentinel-2-c1-l2a"),
    "planetary-computer": Catalogue("https://planetarycomputer.microsoft.com/api/stac/v1", "sentinel-2-l2a"),
    "cdse": Catalogue("https://stac.dataspace.copernicus.eu/v1", "sentinel-2-l2a", "sentinel-2-l1c"),
}


def find_items(
    source: str | Sequence[str],
    geometry: BaseGeometry,
    periods: Sequence[Period],
    *,
    collection: str | None = None,
    level: dialect.Level = "L2A",
) -> list[dict[str, Any]]:
    """Items of a source that touch a region in the given periods.

    Parameters
    ----------
    source
        A name in `CATALOGUES`, the URL of a STAC API, the path or URL of an ItemCollection (JSON) or static catalogue
        (`catalog.json`; a path may be its folder), a stac-geoparquet, or a folder of .SAFE products. Of several
        sources, later ones only add acquisitions and tiles missing in earlier ones.
    geometry
        Region in EPSG:4326; split at the date line.
    periods
        Periods; unused months are left out.
    collection
        Collection of an API; the catalogues in `CATALOGUES` have a default.
    level
        Processing level of the default collection: "L2A" or "L1C".

    Returns
    -------
    list of dict
        STAC items in the order of the source, with the assets used here. `lock_items` reports invalid items.

    Raises
    ------
    InputError
        The source is unknown, cannot be read, or is not STAC.
    SourceFailed
        A catalogue does not respond.
    """
    return preferred(find_by_source(source, geometry, periods, collection=collection, level=level))


def find_by_source(
    source: str | Sequence[str],
    geometry: BaseGeometry,
    periods: Sequence[Period],
    *,
    collection: str | None = None,
    level: dialect.Level = "L2A",
) -> dict[str, list[dict[str, Any]]]:
    """All items of each source, in order of preference; otherwise as `find_items`."""
    sources = list(dict.fromkeys(map(local_path, [source] if isinstance(source, str) else source)))
    for name in sources:
        _require_source(name)
    if collection and not any(map(_is_api, sources)):
        raise InputError(
            f"--collection {collection}: {', '.join(map(redact, sources))} is not a STAC API, so all its items are "
            "used: leave out --collection"
        )
    shapely.prepare(geometry)
    return {
        name: list(
            _bounded(
                item for item in _ask(name, geometry, periods, collection, level) if _wanted(item, geometry, periods)
            )
        )
        for name in sources
    }


def with_signatures(
    items: Sequence[Item],
    source: str | Sequence[str],
    geometry: BaseGeometry,
    periods: Sequence[Period],
    *,
    collection: str | None = None,
) -> list[Item]:
    """Items of a lock with new signatures; searches the source again if signatures are needed."""
    lost = {
        item.period for item in items if any(one.needs_signature and not one.signed for one in item.assets.values())
    }
    if not lost:
        return list(items)
    wanted = [period for period in periods if period.label in lost]
    asked = find_by_source(source, geometry, wanted, collection=collection, level=items[0].level)
    raws = [asset for found in asked.values() for raw in found for asset in raw["assets"].values() if "href" in asset]
    signed = {unsigned(asset["href"]): asset["href"] for asset in raws}
    return [
        replace(item, assets={b: replace(a, signed=signed.get(a.href, a.signed)) for b, a in item.assets.items()})
        if item.period in lost
        else item
        for item in items
    ]


def preferred(by_source: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Items of the first source, and missing scenes from the later ones."""
    chosen: list[dict[str, Any]] = []
    have: set[dialect.SceneKey] = set()
    for items in by_source.values():
        chosen += [item for item in items if dialect.scene_key_of(item) not in have]
        have |= {key for item in items if (key := dialect.scene_key_of(item))}
    return chosen


def common_bands(raw_items: Sequence[dict[str, Any]], *, least: float = 1.0) -> list[str]:
    """Bands of all items of a catalogue, or of at least the share `least` of them."""
    have = Counter(
        b for item in raw_items for b in dialect.BANDS if any(n in item["assets"] for n in dialect.asset_names(b))
    )
    names = [b for b in dialect.BANDS if have[b] >= least * len(raw_items)]
    if not names:
        raise InputError("the items have no band in common; use other items")
    return names


def anchored(source: str) -> str:
    """The source, with an absolute path if it is a path."""
    path = Path(local_path(source))
    return str(path.resolve()) if source not in CATALOGUES and path.exists() else source


def _require_source(source: str) -> None:
    try:
        if source in CATALOGUES or Path(source).exists():
            return
    except (OSError, ValueError) as error:  # too long, a zero in it
        raise InputError(f"source {source[:200]!r} is not a path or a URL ({in_one_line(error)})") from error
    if re.match(r"https?://", source, re.IGNORECASE) and parts_of(source).hostname:
        return
    raise InputError(
        f"source {redact(source)!r} is not a file, a URL or one of {', '.join(CATALOGUES)}; give one of these, or "
        "the path of an ItemCollection or catalog.json"
    )


def _is_api(source: str) -> bool:
    is_file = urlsplit(source).path.endswith((".json", ".geojson"))
    return source in CATALOGUES or not (Path(source).exists() or is_file)


def _ask(
    source: str, geometry: BaseGeometry, periods: Sequence[Period], collection: str | None, level: dialect.Level
) -> Iterable[dict[str, Any]]:
    """Items of one source."""
    catalogue = CATALOGUES.get(source)
    if catalogue is None and Path(source).exists():
        return (_absolute(item, base) for item, base in read_local(Path(source)))
    if catalogue is None and urlsplit(source).path.endswith((".json", ".geojson")):
        return (_absolute(item, base) for item, base in read_static(source))
    url = catalogue.url if catalogue else source
    name = collection or (catalogue.of(level) if catalogue else f"sentinel-2-{level.lower()}")
    return (_absolute(item, url.rstrip("/") + "/") for item in search(url, name, geometry, periods))


def _bounded(items: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the items; raise if they would fill the memory of this machine."""
    most, kept = memory() // TIMES_AS_OBJECTS, 0
    for number, item in enumerate(items):
        size = len(json.dumps(item, default=str))
        kept += size
        if size > MAX_ITEM_BYTES:
            raise InputError(
                f"item {str(item.get('id'))[:100]} has {size} bytes, which is too large for a STAC item of a scene"
            )
        if kept > most:
            raise InputError(
                f"the catalogue returned more items than fit in the memory of this machine ({number} so far): "
                "use fewer --years per run"
            )
        yield item


def _wanted(item: dict[str, Any], geometry: BaseGeometry, periods: Sequence[Period]) -> bool:
    """Whether an item lies in the region and periods; unreadable items are kept, so that the lock can report them."""
    try:
        when = dialect.observed_at(item)
    except InputError:
        return True
    return any(period.holds(when) for period in periods) and _touches(item, geometry)


def _touches(item: dict[str, Any], geometry: BaseGeometry) -> bool:
    try:
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            footprint = shape(item["geometry"])
            west, south, east, north = footprint.bounds
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, shapely.errors.ShapelyError):
        return True
    if not np.isfinite([west, south, east, north]).all():
        return True
    if east - west < 180:
        return bool(geometry.intersects(footprint))
    # A tile on the date line has a shape around the globe: it lies on both sides.
    sides = shapely.union(shapely.box(-180, south, -174, north), shapely.box(174, south, 180, north))
    return bool(geometry.intersects(sides))


def _absolute(item: dict[str, Any], base: str) -> dict[str, Any]:
    """The item with absolute hrefs, and only the assets and fields used here.

    A forbidden href is replaced by the reason, so that the lock refuses the item by name.
    """
    assets = item.get("assets")
    used: dict[str, Any] = {}
    for name in dialect.ASSET_NAMES:
        asset = assets.get(name) if isinstance(assets, dict) else None
        if isinstance(asset, dict) and isinstance(asset.get("href"), str):
            try:
                used[name] = {key: asset[key] for key in dialect.ASSET_FIELDS if key in asset}
                used[name]["href"] = href = resolve(asset["href"], base)
                if href.startswith("http"):
                    require_public(href, base)
                    host = host_of(href)
                    used[name]["own_network"] = not is_private(host) and leads_to_private(host)
            except InputError as error:
                used[name] = {"refused": str(error)}
    return item | {"assets": used, "links": []}
