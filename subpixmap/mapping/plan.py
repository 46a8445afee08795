"""Region, periods, locked items and a model -> the blocks that will be mapped; known before anything is read.

The *recipe* is everything that decides a number. A folder has one recipe for ever; periods may be added to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError, Refused, VerificationFailed
from subpixmap.files import make_folder, path_of, write_atomic
from subpixmap.grid import CHUNK, Block, Lattice
from subpixmap.mapping.quantise import STEP
from subpixmap.mapping.zones import BlockPlan, Zone, chunk_bits, chunks_of_bits, plan_zones
from subpixmap.model.mean import TRIM_FROM
from subpixmap.periods import ALL_MONTHS, Every, Period
from subpixmap.scenes.items import Item, by_acquisition, lattices
from subpixmap.scenes.radiometry import MaskRule

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model
    from subpixmap.region import Region

FORMAT = 2
"""Version of plan.json, of the ledger and of the map."""
_PACKAGES = ("subpixmap", "torch", "numpy", "zarr", "xarray", "dask", "stackstac", "rasterio", "pyproj", "shapely")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a number; it may not change in a folder."""

    region_sha256: str
    """Of the region's geometry (canonical WKB)."""
    model_sha256: str
    bands: tuple[str, ...]
    objects: tuple[str, ...]
    lattices: tuple[Lattice, ...]
    """One for each UTM zone, by EPSG code."""
    resolution: float
    """Metres."""
    block: int
    """Side of a block, pixels."""
    every: Every
    months: tuple[int, ...]
    max_scenes: int
    """Acquisitions of a block and period that are predicted, at most."""
    min_obs: int
    """Clear observations that a pixel must have."""
    max_cloud: float | None
    """Items with more cloud over the whole tile are not considered, percent."""
    mask: MaskRule
    numerics: Mapping[str, Any] = field(default_factory=dict)
    """What decides the last bits: device, threads, tile, dtype, version of torch, the step of the stored values."""

    def __post_init__(self) -> None:
        _require_block(self.block)
        if self.max_scenes < 1 or self.min_obs < 1 or self.min_obs > self.max_scenes:
            raise InputError(
                f"--max-scenes {self.max_scenes} and --min-obs {self.min_obs}: both must be at least 1, and the first "
                "no less than the second"
            )
        if not self.bands or not self.objects:
            raise InputError("a recipe needs at least one band and one object")

    @property
    def run_id(self) -> str:
        """16 hex digits: sha256 of the canonical JSON."""
        return _sha256(self.to_json())[:16]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the order of keys carries no meaning."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return found

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Recipe:
        """The recipe of `to_json`."""
        values: dict[str, Any] = _tuples(raw)
        values |= {"lattices": tuple(Lattice(**one) for one in raw["lattices"]), "mask": MaskRule.stated(raw["mask"])}
        return cls(**values)


@dataclass(frozen=True)
class ModelInfo:
    """What the plan keeps of a checkpoint's card."""

    name: str
    sha256: str
    evidence: str
    halo: int
    """Pixels around a window that decide it."""
    resolution: float
    """What it was trained at, metres."""
    definitions: Mapping[str, str]
    """Object -> what is counted, in words."""
    measures: Mapping[str, str]
    """Object -> count or occupancy."""
    presence_threshold: float = 0.5


@dataclass(frozen=True)
class Plan:
    """What a run does: every block of every zone, for every period."""

    recipe: Recipe
    region_name: str
    geometry: BaseGeometry
    """EPSG:4326."""
    boundary_source: str
    boundary_version: str
    periods: tuple[Period, ...]
    """In order of time."""
    zones: Mapping[int, Zone]
    """By EPSG code; only zones with blocks."""
    model: ModelInfo
    sources: tuple[str, ...]
    """Where the items come from, in order of preference."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Software that made the plan; for the record, not part of the recipe."""
    forced: bool = False
    """Whether --force was given: input unlike the model's card was accepted."""
    expected: Mapping[str, Any] = field(default_factory=dict)
    """What was expected of time, memory and room when the plan was made (see `Needs`); for the record."""

    @property
    def run_id(self) -> str:
        """Of the recipe."""
        return self.recipe.run_id

    @property
    def objects(self) -> tuple[str, ...]:
        """Objects that are mapped, in the map's order."""
        return self.recipe.objects

    @property
    def n_tasks(self) -> int:
        """Blocks x periods."""
        return sum(len(zone.blocks) for zone in self.zones.values()) * len(self.periods)

    def period(self, label: str) -> Period:
        """The period of this name."""
        for one in self.periods:
            if one.label == label:
                return one
        raise InputError(f"no period {label!r} in this run; it has {', '.join(p.label for p in self.periods)}")


def make_plan(
    region: Region,
    periods: Sequence[Period],
    items: Sequence[Item],
    model: Model,
    *,
    block: int = 1024,
    resolution: float = 10.0,
    max_scenes: int = 10,
    min_obs: int = 1,
    max_cloud: float | None = None,
    mask: MaskRule | None = None,
    every: Every = "year",
    months: tuple[int, ...] = ALL_MONTHS,
    objects: Sequence[str] | None = None,
    sources: Sequence[str] = (),
    device: str = "cpu",
    forced: bool = False,
) -> Plan:
    """Plan a run; nothing but the items is looked at.

    Parameters
    ----------
    region
        Its geometry is EPSG:4326.
    periods
        With `every="scene"` each acquisition of the items becomes a period of its own.
    items
        The lock of all periods.
    model
        From `load_model`.
    block
        Side of a block, pixels; a multiple of 256.
    resolution
        Metres.
    max_scenes, min_obs, max_cloud
        Acquisitions used at most for a block and period; clear observations a pixel needs; percent.
    mask
        Which pixels are valid; the model's own rule, or `MaskRule()`, when not given.
    every, months
        As the periods were made.
    objects
        Objects of the model to map, in the model's order; all when not given.
    sources
        Where the items come from, in order of preference; for the record.
    device
        "cpu" or "cuda".
    forced
        Input unlike the model's card is accepted, for the record.

    Raises
    ------
    InputError
        An unknown object, options that contradict each other, or a region that no item touches.
    """
    _require_block(block)
    card = model.card
    unknown = [name for name in objects or () if name not in card.objects]
    if unknown:
        raise InputError(
            f"model {card.name!r} does not count {', '.join(unknown)}; it counts {', '.join(card.objects)}"
        )
    chosen = tuple(name for name in card.objects if not objects or name in objects)
    zones = plan_zones(region.geometry, lattices(items, resolution), resolution, block)
    _require_items(region.name, zones, items)
    recipe = Recipe(
        region_sha256=hashlib.sha256(shapely.to_wkb(shapely.normalize(region.geometry))).hexdigest(),
        model_sha256=model.sha256,
        bands=tuple(card.bands),
        objects=chosen,
        lattices=tuple(zone.lattice for _, zone in sorted(zones.items())),
        resolution=float(resolution),
        block=block,
        every=every,
        months=tuple(months),
        max_scenes=max_scenes,
        min_obs=min_obs,
        max_cloud=None if max_cloud is None else float(max_cloud),
        mask=mask or MaskRule.stated(card.mask, chosen),
        numerics=numerics(device),
    )
    return Plan(
        recipe=recipe,
        region_name=region.name,
        geometry=region.geometry,
        boundary_source=region.boundary_source,
        boundary_version=region.boundary_version,
        periods=scene_periods(items) if every == "scene" else tuple(sorted(periods, key=_in_time)),
        zones=zones,
        model=ModelInfo(
            name=card.name,
            sha256=model.sha256,
            evidence=card.evidence,
            halo=model.halo,
            resolution=card.resolution,
            definitions={name: card.objects[name] for name in chosen},
            measures={name: card.measure[name] for name in chosen},
            presence_threshold=card.presence_threshold,
        ),
        sources=tuple(sources),
        versions={name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        forced=forced,
    )


def _require_block(block: int) -> None:
    if block <= 0 or block % CHUNK:
        raise InputError(f"--block {block} is not a multiple of {CHUNK} px")


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def numerics(device: str = "cpu") -> dict[str, Any]:
    """What decides the last bits of a prediction: they are the same on any number of workers."""
    import torch

    from subpixmap.model.predict import TILE

    return {
        "device": device,
        "torch": torch.__version__,
        "threads": 1,
        "tile": list(TILE),
        "batch": 1,
        "dtype": "float32",
        "memory_format": "channels_last",
        "trim_from": TRIM_FROM,
        "step": STEP,
    }


def scene_periods(items: Iterable[Item]) -> tuple[Period, ...]:
    """One period for each acquisition, named by its first ISO time."""
    found = []
    for group in by_acquisition(items).values():
        first = min(item.datetime for item in group)
        day = datetime.fromisoformat(first).date()
        found.append(Period(first, day, day))
    return tuple(sorted(found, key=_in_time))


def items_by_period(plan: Plan, items: Iterable[Item]) -> dict[str, list[Item]]:
    """The locked items of each period of the plan; empty lists where there are none."""
    found: dict[str, list[Item]] = {period.label: [] for period in plan.periods}
    if plan.recipe.every == "scene":
        for group in by_acquisition(items).values():
            found.setdefault(min(item.datetime for item in group), []).extend(group)
    else:
        for item in items:
            found.setdefault(item.period, []).append(item)
    return found


def _require_items(name: str, zones: Mapping[int, Zone], items: Sequence[Item]) -> None:
    if not zones:
        raise InputError(f"region {name} has no area to map")
    for epsg, zone in zones.items():
        west, south, east, north = zone.lattice.bounds(zone.extent)
        for item in items:
            w, s, e, n = item.bounds
            if item.epsg == epsg and w < east and e > west and s < north and n > south:
                return
    raise InputError(
        f"none of the {len(items)} items touches region {name} {tuple(zones)}; check --region and --source"
    )


def write_plan(out: str | os.PathLike[str], plan: Plan) -> Plan:
    """Write OUT/plan.json, or extend the one that is there; the plan that now holds, with the periods of both.

    Raises
    ------
    Refused
        The folder holds a run of another recipe; names the fields that differ.
    """
    path = path_of(out) / "plan.json"
    if path.exists():
        there = read_plan(out)
        require_same(there.recipe, plan.recipe, path)
        known = {period.label: period for period in there.periods}
        for period in plan.periods:
            if known.setdefault(period.label, period) != period:
                raise Refused(f"{path}: period {period.label} is {known[period.label]} there and {period} here")
        plan = replace(
            there,
            periods=tuple(sorted(known.values(), key=_in_time)),
            sources=tuple(dict.fromkeys(there.sources + plan.sources)),
            expected=plan.expected or there.expected,
        )
        if plan == there:
            return plan
    make_folder(path.parent)
    write_atomic(path, (json.dumps(_to_json(plan), indent=1, ensure_ascii=False) + "\n").encode())
    return plan


def require_same(there: Recipe, here: Recipe, path: Path) -> None:
    """Refuse another recipe, naming every field with both values."""
    old, new = _flat(there.to_json()), _flat(here.to_json())
    if differ := [key for key in sorted(old | new) if old.get(key) != new.get(key)]:
        told = "; ".join(f"{key} is {old.get(key)!r} there and {new.get(key)!r} here" for key in differ)
        raise Refused(f"{path} holds a run of another recipe: {told}; use another --out, or the same options")


def read_plan(out: str | os.PathLike[str]) -> Plan:
    """Read OUT/plan.json.

    Raises
    ------
    InputError
        There is no plan in the folder, or it cannot be read.
    Refused
        Another version of this software made it, in another format.
    VerificationFailed
        It is damaged.
    """
    path = path_of(out) / "plan.json"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"{out} holds no run: {path.name} is missing; start with subpixmap run --out {out}"
        raise InputError(missing) from error
    except Exception as error:  # the library of each object store has its own
        raise InputError(f"{path} cannot be read ({error}); check the address and the credentials") from error
    try:
        raw = json.loads(data)
        if raw["sha256"] != _sha256({k: v for k, v in raw.items() if k != "sha256"}):
            raise ValueError("its hash differs from its content")
        if raw["format"] != FORMAT:
            raise Refused(
                f"{path} is of format {raw['format']} and this version of subpixmap reads {FORMAT}: go on with the "
                "version that made it, or start in another folder"
            )
        plan = _from_json(raw)
        if raw["run_id"] != plan.run_id:
            raise ValueError("its hash differs from its content")
    except (ValueError, KeyError, TypeError, shapely.errors.GEOSException) as error:
        raise VerificationFailed(
            f"{path} is damaged ({error}); restore it, or start again in another folder"
        ) from error
    return plan


def _to_json(plan: Plan) -> dict[str, Any]:
    raw = {
        "format": FORMAT,
        "run_id": plan.run_id,
        "recipe": plan.recipe.to_json(),
        "region": {
            "name": plan.region_name,
            "boundary_source": plan.boundary_source,
            "boundary_version": plan.boundary_version,
            "geometry": shapely.to_wkb(plan.geometry, hex=True),
        },
        "periods": [asdict(p) | {"start": p.start.isoformat(), "end": p.end.isoformat()} for p in plan.periods],
        "model": asdict(plan.model),
        "sources": list(plan.sources),
        "versions": dict(plan.versions),
        "forced": plan.forced,
        "expected": dict(plan.expected),
        "zones": {
            str(epsg): [[b.block.row, b.block.col, chunk_bits(b)] for b in zone.blocks]
            for epsg, zone in plan.zones.items()
        },
    }
    raw = json.loads(json.dumps(raw))
    return raw | {"sha256": _sha256(raw)}


def _from_json(raw: Mapping[str, Any]) -> Plan:
    recipe = Recipe.from_json(raw["recipe"])
    by_epsg = {lattice.epsg: lattice for lattice in recipe.lattices}
    zones = {}
    for code, rows in raw["zones"].items():
        lattice = by_epsg[int(code)]
        blocks = [(Block(lattice, row, col, recipe.block), bits) for row, col, bits in rows]
        zones[int(code)] = Zone(lattice, tuple(BlockPlan(block, chunks_of_bits(block, bits)) for block, bits in blocks))
    return Plan(
        recipe=recipe,
        region_name=raw["region"]["name"],
        geometry=shapely.from_wkb(raw["region"]["geometry"]),
        boundary_source=raw["region"]["boundary_source"],
        boundary_version=raw["region"]["boundary_version"],
        periods=tuple(
            Period(p["label"], date.fromisoformat(p["start"]), date.fromisoformat(p["end"]), tuple(p["months"]))
            for p in raw["periods"]
        ),
        zones=zones,
        model=ModelInfo(**{f.name: raw["model"][f.name] for f in fields(ModelInfo)}),
        sources=tuple(raw["sources"] if "sources" in raw else raw["source"].split(", ")),  # one text in old plans
        versions=raw["versions"],
        expected=raw.get("expected", {}),
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested fields by dotted name, for messages."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(one.get("epsg", i)): one for i, one in enumerate(value)}
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, one in value.items() for k, v in _flat(one, f"{name}.{key}" if name else key).items()}


def _in_time(period: Period) -> tuple[date, str]:
    return period.start, period.label


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
