"""Locks STAC items: a sorted list without duplicates, stored in items.parquet (stac-geoparquet).

The catalogue is searched once per period. `lock_items` turns its dicts into items, which all later stages use. The same
response in another order gives the same list and the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from subpixmap import runpaths
from subpixmap.errors import InputError, VerificationFailed, in_one_line, several_problems
from subpixmap.files import path_of, write_atomic
from subpixmap.grid import transformer
from subpixmap.periods import Period
from subpixmap.scenes import dialect
from subpixmap.scenes.dialect import Level, Product, newest
from subpixmap.scenes.hrefs import RENEWED, host_of, unsigned
from subpixmap.scenes.pins import Pin
from subpixmap.scenes.radiometry import OffsetRule, decide_offset, require_level

DarkCheck = Literal["agrees", "contradicts", "cannot say", "not checked"]

_NOT_READ = ("dark_check", "dark_reflectance")  # evidence that does not change the pixels read
_COLLECTION = "subpixmap-lock"
_PART = 500


@dataclass(frozen=True, slots=True)  # a country has half a million of them
class Asset:
    """One raster of an item."""

    href: str
    """Absolute path or URL, unsigned."""
    transform: tuple[float, float, float, float, float, float]
    """(a, b, c, d, e, f) of the file, metres; north-up with square pixels."""
    shape: tuple[int, int]
    """(rows, columns)."""
    own_network: bool = False
    """Whether its host has a public name but a private address, which only the user's own catalogue may use."""
    nodata: int | None = None
    """Digital number of missing pixels, as declared by its item; None if it declares none."""
    pin: Pin | None = None
    """Version of the file when the lock was made; not part of `items_sha256`."""
    needs_signature: bool = False
    """Whether the catalogue signed its href, with a user, password or query."""
    signed: str = field(default="", repr=False, compare=False)
    """The href with its signature: only in memory, never stored or shown."""

    @property
    def resolution(self) -> float:
        """Pixel size, metres."""
        return self.transform[0]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north), metres."""
        a, _, c, _, e, f = self.transform
        return c, f + e * self.shape[0], c + a * self.shape[1], f


@dataclass(frozen=True)
class Item:
    """One tile of one acquisition, with everything needed to read it."""

    id: str
    """The catalogue's name."""
    tile: str
    """MGRS tile, such as 33TWL."""
    acquisition: str
    """Datatake without its baseline suffix, such as GS2A_20230815T095031_042547."""
    datetime: str
    """Sensing time, ISO 8601, UTC."""
    period: str
    """Label of its period."""
    epsg: int
    """UTM zone."""
    baseline: str
    """Processing baseline such as 05.09; empty if unknown, which requires an offset rule of the user."""
    offset_dn: int
    """Number to add to the digital numbers: 0 or -1000."""
    offset_reason: str
    """The evidence for the offset, in words."""
    cloud_cover: float | None
    """Cloud cover of the whole tile, percent."""
    orbit: int | None
    """Relative orbit, 1-143."""
    assets: dict[str, Asset]
    """Bands by canonical name, and SCL of Level-2A."""
    dark_check: DarkCheck = "not checked"
    """Whether dark ground agrees with the offset (see `check_darkness`)."""
    dark_reflectance: float | None = None
    """Reflectance of dark ground with the offset; None if not checked or too little dark ground."""
    level: Level = "L2A"
    """Processing level; only Level-2A has scene classes."""

    @property
    def offset_is_users(self) -> bool:
        """Whether the user has set the offset, whatever item and file declare."""
        return self.offset_reason.startswith("told by")

    @property
    def scene_key(self) -> dialect.SceneKey:
        """The name of the scene, the same in all catalogues."""
        return dialect.scene_key(self.acquisition, self.tile)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of its rasters, metres; bands and SCL share them."""
        return next(iter(self.assets.values())).bounds


def lock_items(
    raw_items: Iterable[dict[str, Any]],
    periods: Sequence[Period],
    bands: Sequence[str],
    *,
    offset_rule: OffsetRule = "auto",
    level: Level = "L2A",
    refused: dict[str, str] | None = None,
) -> list[Item]:
    """Lock the items of a catalogue.

    1. Group them by scene, one (acquisition, tile): catalogues list a scene again after reprocessing.
    2. Keep the newest baseline of each scene, with all its parts, and the fields that later stages need. One refused
       part refuses the scene: no older version is used instead.
    3. Sort, so that the order of the response does not change the lock.

    Parameters
    ----------
    raw_items
        STAC items as dicts, in any order, also repeated; items outside all periods are left out.
    periods
        Periods of the run; an item belongs to the first one that contains its sensing time.
    bands
        Canonical names of the bands that each item must have; SCL is added to those of Level-2A.
    offset_rule, level
        See `decide_offset`.
    refused
        If given, items that cannot be used are left out and written here, {id: reason}. By default they raise.

    Returns
    -------
    list of Item
        One for each acquisition and tile, or several of one baseline if a scene is split at the end of a datastrip;
        sorted by period, time, acquisition and tile.

    Raises
    ------
    InputError
        Items lack bands or contradict themselves; the message names the first ones and their number.
    """
    products: dict[dialect.SceneKey, list[Product]] = {}  # 1.
    problems: dict[str, str] = {}
    for raw in raw_items:
        try:
            when = dialect.observed_at(raw)
            period = next((p for p in periods if p.holds(when)), None)
            if period is None:
                continue
            key = dialect.scene_key(dialect.acquisition(raw), dialect.tile(raw))
            product = Product(dialect.baseline(raw) or "", dialect.item_id(raw), raw, period)
        except InputError as error:
            problems[str(raw.get("id"))] = str(error)
            continue
        products.setdefault(key, []).append(product)
    items = []
    for versions in products.values():  # 2.
        frozen = []
        for product in newest(versions):
            try:
                frozen.append(_freeze(product.raw, product.period, bands, offset_rule, level))
            except InputError as error:
                problems[product.id] = str(error)
                frozen = []
                break  # a part of a scene must not count as the whole scene
        items += frozen
    if refused is not None:
        refused.update(problems)
    elif problems:
        raise several_problems(list(problems.values()))
    return sort_items(items)  # 3.


def _freeze(raw: dict[str, Any], period: Period, bands: Sequence[str], rule: OffsetRule, level: Level) -> Item:
    require_level(raw, level)
    raw_assets = dialect.band_assets(raw, [*bands, *({dialect.SCL} - {*bands} if level == "L2A" else ())])
    offset = decide_offset(raw, rule=rule, level=level)
    codes = {dialect.epsg(raw, asset) for asset in raw_assets.values()}
    if len(codes) > 1:
        raise InputError(f"item {dialect.item_id(raw)}: its assets have several coordinate systems: {sorted(codes)}")
    code, tile = codes.pop(), dialect.tile(raw)
    if code != (32600 if tile[2] >= "N" else 32700) + int(tile[:2]):
        raise InputError(f"item {dialect.item_id(raw)} names EPSG:{code}, but its tile {tile} lies in another zone")
    assets = {band: _asset(raw, band, asset) for band, asset in raw_assets.items()}
    if len({asset.bounds for asset in assets.values()}) > 1:
        extents = ", ".join(f"{band} {asset.bounds}" for band, asset in assets.items())
        raise InputError(f"item {dialect.item_id(raw)}: its assets cover different places: {extents}")
    return Item(
        id=dialect.item_id(raw),
        tile=tile,
        acquisition=dialect.acquisition(raw),
        datetime=dialect.observed_at(raw).isoformat().replace("+00:00", "Z"),
        period=period.label,
        epsg=code,
        baseline=dialect.baseline(raw) or "",
        offset_dn=offset.dn,
        offset_reason=offset.reason,
        cloud_cover=dialect.cloud_cover(raw),
        orbit=dialect.relative_orbit(raw),
        assets=assets,
        level=level,
    )


def _asset(raw: dict[str, Any], band: str, asset: dict[str, Any]) -> Asset:
    href = unsigned(asset["href"])
    renewable = host_of(href).endswith(RENEWED)
    signed = "" if renewable or href == asset["href"] else asset["href"]
    return Asset(
        href,
        *dialect.raster(raw, band, asset),
        own_network=asset.get("own_network") is True,
        nodata=dialect.stated_nodata(raw, band, asset),
        needs_signature=bool(signed),
        signed=signed,
    )


def sort_items(items: Iterable[Item]) -> list[Item]:
    """The canonical order."""
    return sorted(items, key=lambda item: (item.period, item.datetime, item.acquisition, item.tile, *_name(item)))


def by_acquisition(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Group items by acquisition; acquisitions in order of time, the items of each in the order of a mosaic."""
    groups: dict[str, list[Item]] = {}
    for item in sort_items(items):
        groups.setdefault(item.acquisition, []).append(item)
    return {name: mosaic_order(group) for name, group in groups.items()}


def mosaic_order(items: Iterable[Item]) -> list[Item]:
    """Sort items of one acquisition by tile, newest first; where several have data, the first is used."""
    return sorted(sorted(items, key=lambda item: (item.baseline, *_name(item)), reverse=True), key=lambda i: i.tile)


def _name(item: Item) -> tuple[str, str]:
    """Its id and a file, because the parts of a split scene may share one id."""
    return item.id, next(iter(item.assets.values())).href


def items_sha256(items: Iterable[Item]) -> str:
    """Hash of the data read by items, usually of one period; without the local folder and the dark checks."""
    digest = hashlib.sha256()
    for item in sort_items(items):
        hrefs = {
            band: asset.href if "://" in asset.href else os.path.basename(asset.href)
            for band, asset in item.assets.items()
        }
        grids = {band: [asset.transform, asset.shape] for band, asset in item.assets.items()}
        record = {key: value for key, value in _stated(item).items() if key not in _NOT_READ}
        record |= {"assets": hrefs, "grids": grids}
        if nodata := {band: asset.nodata for band, asset in item.assets.items() if asset.nodata}:
            record["nodata"] = nodata  # 0 is always missing
        digest.update(json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def write_lock(path: str | os.PathLike[str], items: Iterable[Item], notes: Mapping[str, Any] | None = None) -> None:
    """Write items.parquet, a stac-geoparquet; the same items and notes give the same bytes.

    Parameters
    ----------
    path
        File; it is replaced as a whole.
    items
        At least one, in any order.
    notes
        Missing items as plain values; stored in the collection of the file (see `read_notes`).
    """
    import pyarrow as pa
    import stac_geoparquet.arrow as stac_arrow

    ordered = sort_items(items)
    if not ordered:
        raise InputError("there are no items to lock")
    # As dicts, items need ten times the memory of the table that they become: only some are dicts at a time.
    parts = [ordered[at : at + _PART] for at in range(0, len(ordered), _PART)]
    tables = [stac_arrow.parse_stac_items_to_arrow(map(_to_stac, part)).read_all() for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    collection = {"type": "Collection", "stac_version": "1.0.0", "id": _COLLECTION, "links": [], **(notes or {})}
    with tempfile.TemporaryDirectory(prefix="subpixmap-lock-") as folder:
        local = Path(folder) / runpaths.ITEMS
        stac_arrow.to_parquet(table, local, collections={_COLLECTION: collection})
        write_atomic(path_of(path), local.read_bytes())


def read_lock(path: str | os.PathLike[str]) -> list[Item]:
    """Read items.parquet.

    Raises
    ------
    VerificationFailed
        The file is missing, damaged, or was not written by this package.
    """
    import pyarrow.parquet
    import stac_geoparquet.arrow as stac_arrow
    from shapely.errors import ShapelyError

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(path_of(path).read_bytes()))
        return [_from_stac(raw) for raw in stac_arrow.stac_table_to_items(table)]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ShapelyError) as error:
        raise VerificationFailed(f"{path} is not a readable list of locked items ({in_one_line(error)})") from error


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The notes stored by `write_lock`; {} if there are none."""
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(io.BytesIO(path_of(path).read_bytes())).metadata or {}
        collection = json.loads(metadata.get(b"stac-geoparquet", b"{}")).get("collections", {}).get(_COLLECTION, {})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise VerificationFailed(f"{path} is not a readable list of locked items ({in_one_line(error)})") from error
    return {key: value for key, value in collection.items() if key not in ("type", "stac_version", "id", "links")}


def _to_stac(item: Item) -> dict[str, Any]:
    """A STAC 1.0 item with the extent of the rasters; own fields have the prefix `subpixmap:`."""
    west, south, east, north = item.bounds
    move = transformer(item.epsg, 4326).transform
    ring = [list(move(x, y)) for x, y in ((west, south), (east, south), (east, north), (west, north), (west, south))]
    longitudes, latitudes = zip(*ring, strict=True)
    own = {key: value for key, value in _stated(item).items() if key not in ("id", "datetime", "assets")}
    assets = {
        band: {"href": asset.href, "proj:transform": list(asset.transform), "proj:shape": list(asset.shape)}
        | ({"subpixmap:own_network": True} if asset.own_network else {})
        | ({"subpixmap:needs_signature": True} if asset.needs_signature else {})
        | ({} if asset.nodata is None else {"subpixmap:nodata": asset.nodata})
        | {f"subpixmap:pin_{name}": value for name, value in (asset.pin.to_json() if asset.pin else {}).items()}
        for band, asset in item.assets.items()
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": item.id,
        "bbox": [min(longitudes), min(latitudes), max(longitudes), max(latitudes)],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": item.datetime} | {f"subpixmap:{key}": value for key, value in own.items()},
        "links": [],
        "assets": assets,
    }


def _stated(item: Item) -> dict[str, Any]:
    """Its fields; without the level if it is Level-2A, so that older locks keep their hashes."""
    return {key: value for key, value in vars(item).items() if (key, value) != ("level", "L2A")}


def _from_stac(raw: dict[str, Any]) -> Item:
    props = raw["properties"]
    when = datetime.fromisoformat(props["datetime"]).isoformat().replace("+00:00", "Z")
    assets = {
        band: Asset(
            asset["href"],
            tuple(float(v) for v in asset["proj:transform"]),  # type: ignore[arg-type]
            (int(asset["proj:shape"][0]), int(asset["proj:shape"][1])),
            asset.get("subpixmap:own_network") is True,
            _whole(asset.get("subpixmap:nodata")),
            _pin(asset),
            asset.get("subpixmap:needs_signature") is True,
        )
        for band, asset in raw["assets"].items()
        if asset
    }
    own = {key.removeprefix("subpixmap:"): value for key, value in props.items() if key.startswith("subpixmap:")}
    own = {"cloud_cover": None, "orbit": None, "dark_reflectance": None} | own
    return Item(id=raw["id"], datetime=when, assets=assets, **own)


def _whole(number: Any) -> int | None:
    return None if number is None else int(number)


def _pin(asset: Mapping[str, Any]) -> Pin | None:
    pin = Pin.from_json({key.removeprefix("subpixmap:pin_"): value for key, value in asset.items()})
    return None if pin == Pin() else pin
