"""Reads a STAC item of any catalogue: the few fields that a count needs.

Catalogues use different names (STAC 1.0 and 1.1, `proj:epsg` and `proj:code`, `red` and `B04`), and some change the
digital numbers. All differences between catalogues are handled here. A missing or invalid field raises `InputError`
with the item's id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

from subpixmap.errors import InputError
from subpixmap.periods import Period

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
"""Reflectance bands, in the order of wavelength number that all arrays use."""

PIXEL_M = {band: 10.0 if band in ("B02", "B03", "B04", "B08") else 20.0 for band in BANDS}
"""Pixel size of each band as the sensor delivers it, metres."""

SCALE = 1e-4
"""Reflectance per digital number."""

SCL = "SCL"

SENSOR = "sentinel-2"
"""Name of the sensor in cards."""

Level = Literal["L1C", "L2A"]
"""Processing levels: reflectance at the top of the atmosphere (L1C), or at the ground with scene classes (L2A)."""

LEVELS: tuple[Level, ...] = get_args(Level)

# First match wins: the native resolution comes before a coarser copy.
_ASSET_NAMES = {
    "B02": ("B02", "blue", "B02_10m"),
    "B03": ("B03", "green", "B03_10m"),
    "B04": ("B04", "red", "B04_10m"),
    "B05": ("B05", "rededge1", "B05_20m"),
    "B06": ("B06", "rededge2", "B06_20m"),
    "B07": ("B07", "rededge3", "B07_20m"),
    "B08": ("B08", "nir", "B08_10m"),
    "B8A": ("B8A", "nir08", "B8A_20m"),
    "B11": ("B11", "swir16", "B11_20m"),
    "B12": ("B12", "swir22", "B12_20m"),
    SCL: ("SCL", "scl", "SCL_20m"),
}

ASSET_NAMES = tuple(name for names in _ASSET_NAMES.values() for name in names)
"""All names that catalogues use for a band or SCL."""

ASSET_FIELDS = (
    "href",
    "proj:code",
    "proj:epsg",
    "proj:transform",
    "proj:shape",
    "raster:bands",
    "bands",
    "raster:offset",
    "raster:scale",
    "nodata",
)
"""The fields of an asset that are used."""

_PRODUCT = re.compile(
    r"(?P<platform>S2[A-Z])_MSIL(?P<level>1C|2A)_(?P<start>\d{8}T\d{6})(?:_N(?P<baseline>\d{4}))?_R(?P<orbit>\d{3})_T(?P<tile>\w{5})"
)
_GRANULE = re.compile(r"(?P<platform>S2[A-Z])_OPER_MSI_L2A_TL_\w{4}_\d{8}T\d{6}_A(?P<absolute>\d{6})_T(?P<tile>\w{5})")
_DATATAKE = re.compile(r"(?P<name>GS2[A-Z]_\d{8}T\d{6}(?:_\d{6})?)(?:_N(?P<baseline>\d\d\.\d\d))?")
_TILE = re.compile(r"(0?[1-9]|[1-5]\d|60)([C-HJ-NP-X])([A-HJ-NP-Z]{2})")
_BASELINE = re.compile(r"\d{1,2}\.\d{2}")
_DATATAKE_START = len("GS2A_20230815T095031")  # platform and start; catalogues add the absolute orbit or leave it out


def item_id(item: dict[str, Any]) -> str:
    """The item's name."""
    name = item.get("id")
    if not isinstance(name, str) or not name:
        raise InputError(f"a STAC item has no id (id is {name!r})")
    return name


def properties(item: dict[str, Any]) -> dict[str, Any]:
    """The item's properties."""
    props = item.get("properties")
    if not isinstance(props, dict):
        raise InputError(f"item {item_id(item)} has no properties")
    return props


def observed_at(item: dict[str, Any]) -> datetime:
    """Sensing time, UTC."""
    text = properties(item).get("datetime")
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        raise InputError(f"item {item_id(item)}: datetime is {text!r}, not an ISO time") from None
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)


def product(item: dict[str, Any]) -> dict[str, str]:
    """Parts of the item's ESA product or granule name: platform, level, start, baseline, orbit, tile.

    Read from `s2:product_uri`, `sentinel:product_id`, the id itself or the granule names; {} if none can be read.
    """
    props = properties(item)
    for text in (props.get("s2:product_uri"), props.get("sentinel:product_id"), item_id(item)):
        if isinstance(text, str) and (match := _PRODUCT.match(text)):
            return {k: v for k, v in match.groupdict().items() if v}
    for text in (props.get("s2:granule_id"), props.get("s2:tile_id"), item_id(item)):
        if isinstance(text, str) and (match := _GRANULE.match(text)):
            return match.groupdict() | {"level": "2A"}
    return {}


def tile(item: dict[str, Any]) -> str:
    """MGRS tile, five characters, such as 33TWL."""
    props = properties(item)
    parts = [props.get(f"mgrs:{k}") for k in ("utm_zone", "latitude_band", "grid_square")]
    older = [props.get(f"sentinel:{k}") for k in ("utm_zone", "latitude_band", "grid_square")]
    if older[0] is None and isinstance(props.get("proj:epsg"), int):
        older[0] = props["proj:epsg"] % 100
    texts = [
        str(props.get("grid:code") or "").removeprefix("MGRS-"),
        str(props.get("s2:mgrs_tile") or ""),
        "".join(map(str, parts)),
        "".join(map(str, older)),
        product(item).get("tile", ""),
    ]
    tiles = {m[1].zfill(2) + m[2] + m[3] for text in texts if (m := _TILE.fullmatch(text))}
    if len(tiles) > 1:
        raise InputError(f"item {item_id(item)} names several MGRS tiles: {', '.join(sorted(tiles))}")
    if not tiles:
        raise InputError(f"item {item_id(item)} does not name its MGRS tile (grid:code, s2:mgrs_tile, mgrs:*)")
    return tiles.pop()


def acquisition(item: dict[str, Any]) -> str:
    """Datatake without its baseline suffix, such as GS2A_20230815T095031_042547: one pass of the satellite."""
    for key in ("s2:datatake_id", "eopf:datatake_id"):
        text = properties(item).get(key)
        if isinstance(text, str) and (match := _DATATAKE.fullmatch(text)):
            return match["name"]
    name = product(item)
    if "start" in name:
        return f"G{name['platform']}_{name['start']}"
    if "absolute" in name:
        return f"G{name['platform']}_{observed_at(item):%Y%m%d}_{name['absolute']}"
    raise InputError(f"item {item_id(item)} does not name its datatake (s2:datatake_id or s2:product_uri)")


SceneKey = tuple[str, str]


def scene_key(acquisition: str, tile: str) -> SceneKey:
    """The name of a scene that all catalogues share: platform and start of its datatake, and its MGRS tile."""
    return acquisition[:_DATATAKE_START], tile


def scene_key_of(item: dict[str, Any]) -> SceneKey | None:
    """`scene_key` of an item; None if the item does not name its datatake or tile."""
    try:
        return scene_key(acquisition(item), tile(item))
    except InputError:
        return None


def baseline(item: dict[str, Any]) -> str | None:
    """Processing baseline such as 05.09; None if the item does not name it.

    The item's property has priority, then the product's name, then the datatake's name, which may hold the slightly
    older baseline of Level 1C. Raises if property and product's name lie on different sides of 04.00, where the offset
    begins.
    """
    props = properties(item)
    stated = props.get("s2:processing_baseline")
    if stated is not None and not _BASELINE.fullmatch(str(stated)):
        raise InputError(f"item {item_id(item)}: s2:processing_baseline is {stated!r}, not a number such as 05.09")
    code = product(item).get("baseline")
    named = f"{code[:2]}.{code[2:]}" if code else None
    if stated is not None and named is not None and (float(stated) < 4) != (float(named) < 4):
        raise InputError(
            f"item {item_id(item)} has baseline {stated} in its properties but {named} in its product's name"
        )
    datatake = _DATATAKE.fullmatch(str(props.get("s2:datatake_id") or ""))
    version = props.get("processing:version")
    texts = (stated, named, version, datatake["baseline"] if datatake else None)
    return next((str(t).zfill(5) for t in texts if t is not None and _BASELINE.fullmatch(str(t))), None)


def relative_orbit(item: dict[str, Any]) -> int | None:
    """Relative orbit number, 1-143; None when unknown."""
    props = properties(item)
    stated = props.get("sat:relative_orbit", props.get("s2:relative_orbit_number", product(item).get("orbit")))
    try:
        orbit = int(str(stated))
    except ValueError:
        return None
    return orbit if 1 <= orbit <= 143 else None


def cloud_cover(item: dict[str, Any]) -> float | None:
    """Cloud cover of the whole tile, percent; None when unknown."""
    percent = properties(item).get("eo:cloud_cover")
    if percent is None:
        return None
    if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 <= percent <= 100:
        raise InputError(f"item {item_id(item)}: eo:cloud_cover is {percent!r}, not a percentage")
    return float(percent)


def asset_names(band: str) -> tuple[str, ...]:
    """Names that catalogues use for a band's asset."""
    return _ASSET_NAMES[band]


def band_assets(item: dict[str, Any], bands: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Assets by canonical band name; `InputError` names the bands that the item lacks."""
    assets = item.get("assets")
    if not isinstance(assets, dict):
        raise InputError(f"item {item_id(item)} has no assets")
    chosen = {}
    for band in bands:
        for name in _ASSET_NAMES[band]:
            asset = assets.get(name)
            if isinstance(asset, dict) and "refused" in asset:
                raise InputError(f"item {item_id(item)}, asset {name}: {asset['refused']}")
            if isinstance(asset, dict) and isinstance(asset.get("href"), str):
                chosen[band] = asset
                break
    if missing := [band for band in bands if band not in chosen]:
        raise InputError(
            f"item {item_id(item)} has no asset for {', '.join(missing)}; it has {', '.join(sorted(assets)[:40])}"
        )
    return chosen


def epsg(item: dict[str, Any], asset: dict[str, Any]) -> int:
    """EPSG code of an asset, a UTM zone of WGS 84."""
    codes = set()
    for place in (asset, properties(item)):
        code = place.get("proj:code")
        number = place.get("proj:epsg")
        if isinstance(code, str) and code.upper().startswith("EPSG:") and code[5:].isdigit():
            codes.add(int(code[5:]))
        elif code is not None:
            raise InputError(f"item {item_id(item)}: proj:code is {code!r}, not a code such as EPSG:32651")
        if isinstance(number, (int, float)) and not isinstance(number, bool) and number == number // 1:
            codes.add(int(number))
        elif number is not None:
            raise InputError(f"item {item_id(item)}: proj:epsg is {number!r}, not a number such as 32651")
    if not codes:
        raise InputError(f"item {item_id(item)} has neither proj:code nor proj:epsg")
    if len(codes) > 1:
        raise InputError(f"item {item_id(item)} names several coordinate systems: {sorted(codes)}")
    code = codes.pop()
    if not (32601 <= code <= 32660 or 32701 <= code <= 32760):
        raise InputError(f"item {item_id(item)}: EPSG:{code} is not a UTM zone of WGS 84")
    return code


Transform = tuple[float, float, float, float, float, float]


def raster(item: dict[str, Any], band: str, asset: dict[str, Any]) -> tuple[Transform, tuple[int, int]]:
    """Transform (a, b, c, d, e, f) and shape (rows, columns) that an asset declares."""
    where = f"item {item_id(item)}, asset {band}"
    transform, shape = (asset.get(k, properties(item).get(k)) for k in ("proj:transform", "proj:shape"))
    if not isinstance(transform, list) or len(transform) not in (6, 9) or not _numbers(transform[:6]):
        raise InputError(f"{where}: proj:transform is {transform!r}, not six numbers")
    if not isinstance(shape, list) or len(shape) != 2 or not _numbers(shape) or not all(n == n // 1 > 0 for n in shape):
        raise InputError(f"{where}: proj:shape is {shape!r}, not [rows, columns]")
    a, b, c, d, e, f = (float(v) for v in transform[:6])
    if b or d or a <= 0 or e != -a:
        raise InputError(f"{where}: proj:transform {transform[:6]} is not north-up with square pixels")
    if not (1 <= c <= 1e6 and 1 <= f <= 1.1e7):
        raise InputError(f"{where}: proj:transform {transform[:6]} has a corner outside the UTM zone")
    return (a, b, c, d, e, f), (int(shape[0]), int(shape[1]))


def stated_nodata(item: dict[str, Any], band: str, asset: dict[str, Any]) -> int | None:
    """The digital number that an asset declares as missing (`nodata`); None if it declares none.

    Raises
    ------
    InputError
        The value is not a 16-bit integer, or the asset declares a scale other than 0.0001.
    """
    where = f"item {item_id(item)}, asset {band}"
    first = _first_band(asset)
    scale = first.get("scale", first.get("raster:scale", asset.get("raster:scale")))
    if scale is not None and not (_numbers([scale]) and any(abs(scale - s) <= 1e-9 for s in (1, SCALE))):
        raise InputError(f"{where} declares scale {scale!r}; a reflectance of {SCALE} a step is expected")
    nodata = first.get("nodata", asset.get("nodata"))
    if nodata is None:
        return None
    if not (_numbers([nodata]) and nodata == nodata // 1 and 0 <= nodata <= 65535):
        raise InputError(f"{where} declares nodata {nodata!r}, which is not a digital number of two bytes")
    return int(nodata)


@dataclass(frozen=True)
class OffsetEvidence:
    """The fields of an item about the offset of its digital numbers."""

    baseline: str | None
    """Processing baseline; ESA adds an offset from 04.00 on."""
    taken_away: bool | None
    """Flag of Earth Search: whether the catalogue has removed the offset; None without the flag."""
    flag_needed: bool
    """Whether the item comes from Earth Search, which removes the offset from some items only."""
    declared: float | None
    """Reflectance offset that all bands declare; None if they declare none."""


def offset_evidence(item: dict[str, Any]) -> OffsetEvidence:
    """Collect the fields of an item about its offset.

    Raises
    ------
    InputError
        Its baseline contradicts itself, its flag is neither true nor false, or its bands declare different offsets.
    """
    props, stated_baseline, declared = properties(item), baseline(item), _declared_offset(item)
    flag = props.get("earthsearch:boa_offset_applied")
    if flag not in (None, True, False):
        raise undecided_offset(item, f"has earthsearch:boa_offset_applied = {flag!r}, not true or false")
    earth_search = item.get("collection") == "sentinel-2-l2a" and any(key.startswith("earthsearch:") for key in props)
    return OffsetEvidence(stated_baseline, flag, earth_search, declared)


def undecided_offset(item: dict[str, Any], why: str) -> InputError:
    """The error for an item whose offset cannot be decided."""
    return InputError(f"item {item_id(item)} {why}; the offset cannot be decided (see --offset-rule)")


def _declared_offset(item: dict[str, Any]) -> float | None:
    """The single reflectance offset that the item's bands declare."""
    assets = item.get("assets") or {}
    present = [band for band in BANDS if any(isinstance(assets.get(name), dict) for name in _ASSET_NAMES[band])]
    offsets = {_asset_offset(asset) for asset in band_assets(item, present).values()} - {None}
    if len(offsets) > 1:
        raise undecided_offset(
            item, f"declares several reflectance offsets: {sorted(v for v in offsets if v is not None)}"
        )
    return offsets.pop() if offsets else None


def _asset_offset(asset: dict[str, Any]) -> float | None:
    """Reflectance offset that an asset declares (STAC 1.0 `raster:bands`, 1.1 `bands` or `raster:offset`)."""
    first = _first_band(asset)
    offset = first.get("offset", first.get("raster:offset", asset.get("raster:offset")))
    return float(offset) if isinstance(offset, (int, float)) and not isinstance(offset, bool) else None


def _first_band(asset: dict[str, Any]) -> dict[str, Any]:
    bands = asset.get("raster:bands") or asset.get("bands") or [{}]
    return bands[0] if isinstance(bands, list) and isinstance(bands[0], dict) else {}


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


class Product(NamedTuple):
    """One product of a scene; where several have data, the greatest one is used."""

    baseline: str
    id: str
    raw: dict[str, Any]
    period: Period

    @property
    def name(self) -> str:
        """The product's own name, which is the same in all catalogues, or the item's id."""
        return str(properties(self.raw).get("s2:product_uri") or self.id).removesuffix(".SAFE")


def newest(products: Sequence[Product]) -> list[Product]:
    """The products of the newest baseline, each once; a scene at the end of a datastrip has two products.

    They are read in this order; later ones only where earlier ones have no data.
    """
    newest = max(product.baseline for product in products)
    by_name: dict[str, Product] = {}
    for product in sorted((one for one in products if one.baseline == newest), key=lambda one: one.id, reverse=True):
        by_name.setdefault(product.name, product)
    return list(by_name.values())
