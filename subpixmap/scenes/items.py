"""What will be read, frozen: found items -> a de-duplicated, sorted list in items.parquet (a stac-geoparquet).

The catalogue is asked once for a period. An item is one (acquisition, tile); the newest processing baseline wins. An
answer of the catalogue that is shuffled or has repetitions gives the same list and the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from affine import Affine

from subpixmap.errors import InputError, VerificationFailed
from subpixmap.files import path_of, write_atomic
from subpixmap.grid import Lattice, transformer
from subpixmap.periods import Period
from subpixmap.scenes import dialect
from subpixmap.scenes.radiometry import OffsetRule, decide_offset

DarkCheck = Literal["agrees", "contradicts", "cannot say", "not checked"]

_TILE_STEP = 60.0  # metres: corners of Sentinel-2 tiles are multiples of it
_NOT_READ = ("dark_check", "dark_reflectance")  # evidence that changes nothing of what is read
_COLLECTION = "subpixmap-lock"
_PART = 500


@dataclass(frozen=True, slots=True)  # a country has half a million
class Asset:
    """One raster of an item."""

    href: str
    """Absolute path or URL, unsigned."""
    transform: tuple[float, float, float, float, float, float]
    """(a, b, c, d, e, f) of the file, metres; north-up with square pixels."""
    shape: tuple[int, int]
    """(rows, columns)."""
    own_network: bool = False
    """Whether its host has a public name and a private address, which only a catalogue of the user's own may name."""

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
    """One tile of one acquisition, with everything that reading it needs."""

    id: str
    """The catalogue's name."""
    tile: str
    """MGRS tile, such as 33TWL."""
    acquisition: str
    """Datatake without its baseline suffix, such as GS2A_20230815T095031_042547."""
    datetime: str
    """Sensing time, ISO 8601, UTC."""
    period: str
    """Label of the period it serves."""
    epsg: int
    """UTM zone."""
    baseline: str
    """Processing baseline such as 05.09; empty when the user's offset rule stands in for it."""
    offset_dn: int
    """Added to the digital numbers: 0 or -1000."""
    offset_reason: str
    """Why."""
    cloud_cover: float | None
    """Of the whole tile, percent."""
    orbit: int | None
    """Relative orbit, 1-143."""
    assets: dict[str, Asset]
    """By canonical band name and SCL."""
    dark_check: DarkCheck = "not checked"
    """What dark ground says of the offset (see `check_darkness`)."""
    dark_reflectance: float | None = None
    """Of that ground, after the offset; None where it was not looked at or is too little."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of its rasters, metres; bands and SCL share them."""
        return next(iter(self.assets.values())).bounds


def lock_items(
    found: Iterable[dict[str, Any]],
    periods: Sequence[Period],
    bands: Sequence[str],
    *,
    offset_rule: OffsetRule = "auto",
    refused: dict[str, str] | None = None,
) -> list[Item]:
    """Freeze found items.

    Parameters
    ----------
    found
        STAC items as dicts, in any order, repeated or not; items outside all periods are left out.
    periods
        Periods of the run; an item serves the first that holds its sensing time.
    bands
        Canonical band names that must be there; SCL is added.
    offset_rule
        See `decide_offset`.
    refused
        If given, items that cannot be taken are left out and written here, {id: reason}, for the caller to tell; an
        older version of the same tile does not stand in for one that is refused. By default they raise.

    Returns
    -------
    list of Item
        One for each acquisition and tile, sorted by period, time, acquisition and tile.

    Raises
    ------
    InputError
        Names the first items that lack bands or contradict themselves, and says how many there are.
    """
    newest: dict[tuple[str, str], tuple[tuple[str, str], dict[str, Any], Period]] = {}
    problems: dict[str, str] = {}
    for raw in found:
        try:
            when = dialect.observed_at(raw)
            period = next((p for p in periods if p.holds(when)), None)
            if period is None:
                continue
            key = dialect.acquisition(raw)[:20], dialect.tile(raw)
            rank = dialect.baseline(raw) or "", dialect.item_id(raw)
        except InputError as error:
            problems[str(raw.get("id"))] = str(error)
            continue
        if key not in newest or rank > newest[key][0]:
            newest[key] = rank, raw, period
    items = []
    for _, raw, period in newest.values():
        try:
            items.append(_freeze(raw, period, bands, offset_rule))
        except InputError as error:
            problems[dialect.item_id(raw)] = str(error)
    if refused is not None:
        refused.update(problems)
    elif problems:
        raise several_problems(list(problems.values()))
    return sort_items(items)


def _freeze(raw: dict[str, Any], period: Period, bands: Sequence[str], rule: OffsetRule) -> Item:
    dialect.require_level_2a(raw)
    found = dialect.band_assets(raw, [*bands, *([] if dialect.SCL in bands else [dialect.SCL])])
    offset = decide_offset(raw, rule=rule)
    codes = {dialect.epsg(raw, asset) for asset in found.values()}
    if len(codes) > 1:
        raise InputError(f"item {dialect.item_id(raw)}: its assets lie in several coordinate systems: {sorted(codes)}")
    code, tile = codes.pop(), dialect.tile(raw)
    if code != (32600 if tile[2] >= "N" else 32700) + int(tile[:2]):
        raise InputError(f"item {dialect.item_id(raw)} names EPSG:{code}, but its tile {tile} lies in another zone")
    assets = {band: _asset(raw, band, asset) for band, asset in found.items()}
    if len({asset.bounds for asset in assets.values()}) > 1:
        told = ", ".join(f"{band} {asset.bounds}" for band, asset in assets.items())
        raise InputError(f"item {dialect.item_id(raw)}: its assets cover different places: {told}")
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
    )


def _asset(raw: dict[str, Any], band: str, asset: dict[str, Any]) -> Asset:
    return Asset(asset["href"], *dialect.raster(raw, band, asset), own_network=asset.get("own_network") is True)


def sort_items(items: Iterable[Item]) -> list[Item]:
    """The canonical order."""
    return sorted(items, key=lambda item: (item.period, item.datetime, item.acquisition, item.tile, item.id))


def by_acquisition(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Group items by acquisition; acquisitions in order of time, the tiles of each in order of name."""
    groups: dict[str, list[Item]] = {}
    for item in sort_items(items):
        groups.setdefault(item.acquisition, []).append(item)
    return {name: sorted(group, key=lambda item: item.tile) for name, group in groups.items()}


def lattices(items: Iterable[Item], resolution: float = 10.0) -> dict[int, Lattice]:
    """The lattice of each UTM zone, its phase read from the items' transforms.

    All Sentinel-2 tiles of a zone lie on one lattice of 60 m and thus of 10 and 20 m; overviews of 120 m and more of
    two tiles may be 60 m apart. Such items are taken (`snap` says how); any other shift is refused.

    Raises
    ------
    InputError
        Items whose pixels do not fit the lattice that most of the zone's items share, or are finer than `resolution`;
        they are named.
    """
    zones: dict[int, dict[Lattice, set[str]]] = {}
    known: dict[tuple[Any, ...], Lattice] = {}  # the items of a tile share few transforms
    problems = []
    for item in items:
        for band, asset in item.assets.items():
            ratio = asset.resolution / resolution
            if ratio < 1 or abs(ratio - round(ratio)) > 1e-9:
                problems.append(
                    f"item {item.id}, asset {band}: pixels of {asset.resolution:g} m cannot fill a lattice of "
                    f"{resolution:g} m; choose a resolution that divides it"
                )
            grid = item.epsg, asset.transform
            if (lattice := known.get(grid)) is None:
                lattice = known[grid] = Lattice.of_transform(item.epsg, Affine(*asset.transform), resolution)
            zones.setdefault(item.epsg, {}).setdefault(lattice, set()).add(item.id)
    if problems:
        raise several_problems(problems)
    chosen = {}
    for epsg, names in sorted(zones.items()):
        common = max(names, key=lambda one: (len(names[one]), -one.x_phase, -one.y_phase))
        alike = [one for one in names if _tile_steps_apart(one, common)]
        apart = sorted(set().union(*(names[one] for one in names if one not in alike)))
        if apart:
            told = f"(phase {common.x_phase:g}, {common.y_phase:g} m at {resolution:g} m)"
            raise several_problems(
                [f"item {n} is off the pixel lattice of EPSG:{epsg} that most items share {told}" for n in apart]
            )
        chosen[epsg] = min(alike, key=lambda one: (one.x_phase, one.y_phase))
    return chosen


def _tile_steps_apart(one: Lattice, other: Lattice) -> bool:
    """Whether two lattices of a zone differ by whole steps of the tile grid."""
    shifts = one.x_phase - other.x_phase, one.y_phase - other.y_phase
    return all(shift % _TILE_STEP == 0 for shift in shifts)


def snap(asset: Asset, lattice: Lattice) -> Asset:
    """The asset with its corner on a pixel corner of the lattice.

    Nothing changes where the asset lies on the lattice. Otherwise each lattice pixel takes the asset's pixel that holds
    its centre, a tie going south and east, as GDAL's nearest neighbour does: it moves by at most half a lattice pixel.
    """
    a, b, c, d, e, f = asset.transform
    step = lattice.resolution
    west = lattice.x_phase + step * math.ceil((c - lattice.x_phase) / step - 0.5)
    north = lattice.top - step * math.ceil((lattice.top - f) / step - 0.5)
    return replace(asset, transform=(a, b, west, d, e, north))


def items_sha256(items: Iterable[Item]) -> str:
    """Hash of a canonical item list, usually of one period.

    The folder of a local catalogue does not enter, nor do the checks on dark ground: it says what is read.
    """
    digest = hashlib.sha256()
    for item in sort_items(items):
        hrefs = {
            band: asset.href if "://" in asset.href else os.path.basename(asset.href)
            for band, asset in item.assets.items()
        }
        grids = {band: [asset.transform, asset.shape] for band, asset in item.assets.items()}
        record = {key: value for key, value in vars(item).items() if key not in _NOT_READ}
        record |= {"assets": hrefs, "grids": grids}
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
        What was expected but is not there, as plain values; they are kept in the file's collection (see `read_notes`).
    """
    import pyarrow as pa
    import stac_geoparquet.arrow as stac_arrow

    ordered = sort_items(items)
    if not ordered:
        raise InputError("no item was found: there is nothing to lock")
    # As dicts, items take ten times the memory of the table that they become: only a part of them is held so.
    parts = [ordered[at : at + _PART] for at in range(0, len(ordered), _PART)]
    tables = [stac_arrow.parse_stac_items_to_arrow(map(_to_stac, part)).read_all() for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    collection = {"type": "Collection", "stac_version": "1.0.0", "id": _COLLECTION, "links": [], **(notes or {})}
    with tempfile.TemporaryDirectory(prefix="subpixmap-lock-") as folder:
        local = Path(folder) / "items.parquet"
        stac_arrow.to_parquet(table, local, collections={_COLLECTION: collection})
        write_atomic(path_of(path), local.read_bytes())


def read_lock(path: str | os.PathLike[str]) -> list[Item]:
    """Read items.parquet.

    Raises
    ------
    VerificationFailed
        The file is missing, damaged, or not one of ours.
    """
    import pyarrow.parquet
    import stac_geoparquet.arrow as stac_arrow

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(path_of(path).read_bytes()))
        return [_from_stac(raw) for raw in stac_arrow.stac_table_to_items(table)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationFailed(f"{path} is no readable lock of items ({error})") from error


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_lock` was told besides the items; {} if nothing."""
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_metadata(io.BytesIO(path_of(path).read_bytes())).metadata or {}
        collection = json.loads(found.get(b"stac-geoparquet", b"{}")).get("collections", {}).get(_COLLECTION, {})
    except (OSError, ValueError) as error:
        raise VerificationFailed(f"{path} is no readable lock of items ({error})") from error
    return {key: value for key, value in collection.items() if key not in ("type", "stac_version", "id", "links")}


def _to_stac(item: Item) -> dict[str, Any]:
    """A STAC 1.0 item of the rasters' extent; ours is kept under the prefix `subpixmap:`."""
    west, south, east, north = item.bounds
    move = transformer(item.epsg, 4326).transform
    ring = [list(move(x, y)) for x, y in ((west, south), (east, south), (east, north), (west, north), (west, south))]
    longitudes, latitudes = zip(*ring, strict=True)
    own = {key: value for key, value in vars(item).items() if key not in ("id", "datetime", "assets")}
    assets = {
        band: {"href": asset.href, "proj:transform": list(asset.transform), "proj:shape": list(asset.shape)}
        | ({"subpixmap:own_network": True} if asset.own_network else {})
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


def _from_stac(raw: dict[str, Any]) -> Item:
    props = raw["properties"]
    when = datetime.fromisoformat(props["datetime"]).isoformat().replace("+00:00", "Z")
    assets = {
        band: Asset(
            asset["href"],
            tuple(float(v) for v in asset["proj:transform"]),  # type: ignore[arg-type]
            (int(asset["proj:shape"][0]), int(asset["proj:shape"][1])),
            asset.get("subpixmap:own_network") is True,
        )
        for band, asset in raw["assets"].items()
        if asset
    }
    own = {key.removeprefix("subpixmap:"): value for key, value in props.items() if key.startswith("subpixmap:")}
    own = {"cloud_cover": None, "orbit": None, "dark_reflectance": None} | own
    return Item(id=raw["id"], datetime=when, assets=assets, **own)


def several_problems(problems: Sequence[str], *, advice: str = "") -> InputError:
    """One error of what is wrong with several items: the first three, and how many there are."""
    shown = sorted(set(problems))
    more = f" (and {len(shown) - 3} more items)" if len(shown) > 3 else ""
    return InputError("; ".join(shown[:3]) + more + (f"; {advice}" if advice else ""))
