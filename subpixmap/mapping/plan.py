"""Region, periods, locked items and a model -> the plan: a recipe and the blocks that will be mapped.

No pixel is read. OUT/plan.json keeps it, with its hash. A later run adds periods to it; the recipe stays.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap import runpaths
from subpixmap.errors import InputError, Refused, VerificationFailed, in_one_line
from subpixmap.files import make_folder, store_errors, write_atomic
from subpixmap.grid import BLOCK
from subpixmap.mapping.recipe import MappedBy, Recipe, json_sha256, level_of, numerics, require_block, require_same
from subpixmap.mapping.zones import Zone, plan_of_row, plan_zones, row_of
from subpixmap.model.backends import USUAL, Arithmetic
from subpixmap.periods import ALL_MONTHS, Every, Period
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.hrefs import redact
from subpixmap.scenes.items import Item, by_acquisition
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.radiometry import Missing

if TYPE_CHECKING:
    from subpixmap.model.card import Card
    from subpixmap.model.checkpoint import Model
    from subpixmap.region.resolve import Region

FORMAT = 2
"""Version of plan.json, of the ledger and of the map."""
_PACKAGES = ("subpixmap", "torch", "numpy", "zarr", "xarray", "dask", "stackstac", "rasterio", "pyproj", "shapely")


@dataclass(frozen=True)
class ModelInfo:
    """What the plan keeps of a checkpoint and its card."""

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
    sensor: str = "sentinel-2"
    level: str = "L2A"

    @classmethod
    def of(cls, model: Model, objects: Sequence[str]) -> ModelInfo:
        """Of a loaded model, for the objects that are mapped."""
        card = model.card
        return cls(
            name=card.name,
            sha256=model.sha256,
            evidence=card.evidence,
            halo=model.halo,
            resolution=card.resolution,
            definitions={name: card.objects[name] for name in objects},
            measures={name: card.measure[name] for name in objects},
            presence_threshold=card.presence_threshold,
            sensor=card.sensor,
            level=card.level,
        )


@dataclass(frozen=True)
class Plan:
    """What a run does: every block of every zone in every period."""

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
    """Whether --force was given: input unlike the card of the model was accepted."""
    expected: Mapping[str, Any] = field(default_factory=dict)
    """Time, memory and room that were expected when the plan was made (see `Needs`); for the record."""

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
        return len(self.periods) * sum(len(zone.blocks) for zone in self.zones.values())

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
    block: int = BLOCK,
    resolution: float = 10.0,
    max_scenes: int = 10,
    min_obs: int = 1,
    max_cloud: float | None = None,
    mask: MaskRule | None = None,
    every: Every = "year",
    months: tuple[int, ...] = ALL_MONTHS,
    objects: Sequence[str] | None = None,
    sources: Sequence[str] = (),
    arithmetic: Arithmetic = USUAL,
    forced: bool = False,
    missing: Missing = "stated",
    spread: bool = False,
    mapped_by: MappedBy = "cell",
) -> Plan:
    """Plan a run from its items only; no file is opened.

    1. Divide the region into blocks, UTM zone by UTM zone.
    2. Collect everything that affects a number in the recipe; its hash is the id of the run.
    3. Add what may differ between extensions of a run: names, periods, sources, versions.

    Parameters
    ----------
    region
        Its geometry is EPSG:4326.
    periods, every, months
        Periods and their kind; with `every="scene"` each acquisition of the items becomes a period.
    items, model
        The locked items of all periods, and the result of `load_model`.
    block, resolution
        Side of a block, pixels, a multiple of 256; metres.
    max_scenes, min_obs, max_cloud
        Acquisitions used at most for a block and period; clear observations a pixel needs; percent.
    mask, missing
        Rules for valid pixels (by default from the model's card) and missing pixels (see `read_window`).
    objects
        Objects of the model to map, in the model's order; all when not given.
    sources, forced
        Sources of the items in order of preference; input that does not match the card is accepted. For the record.
    arithmetic, spread, mapped_by
        Device, backend and precision; store the count of each network; what is computed near the region.

    Raises
    ------
    InputError
        An unknown object, options that contradict each other, or a region that no item touches.
    """
    # 1. By zone, because each place must be mapped in one zone only: otherwise it would be counted twice.
    require_block(block)
    card, chosen = model.card, chosen_objects(model.card, objects)
    mask = mask or MaskRule.stated(card.mask, chosen)
    zones = plan_zones(region.geometry, lattices(items, resolution), resolution, block, mapped_by)
    _require_items(region.name, zones, items)
    # 2. A run folder is only extended with the same recipe: one map must not mix two kinds of numbers.
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
        mask=mask,
        numerics=numerics(arithmetic, mask.by),
        missing=missing,
        level=level_of(items),
        spread=card.members_apart() if spread else 0,
        mapped_by=mapped_by,
    )
    # 3. Periods are not part of the recipe, because later runs add some.
    return Plan(
        recipe=recipe,
        region_name=region.name,
        geometry=region.geometry,
        boundary_source=region.boundary_source,
        boundary_version=region.boundary_version,
        periods=scene_periods(items) if every == "scene" else tuple(sorted(periods, key=_in_time)),
        zones=zones,
        model=ModelInfo.of(model, chosen),
        sources=tuple(sources),
        versions={name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        forced=forced,
    )


def chosen_objects(card: Card, objects: Sequence[str] | None) -> tuple[str, ...]:
    """The objects that are mapped, in the order of the card."""
    if unknown := [name for name in objects or () if name not in card.objects]:
        raise InputError(f"model {card.name} does not count {', '.join(unknown)}; it counts {', '.join(card.objects)}")
    return tuple(name for name in card.objects if not objects or name in objects)


def scene_periods(items: Iterable[Item]) -> tuple[Period, ...]:
    """One period for each acquisition, named by its first ISO time; acquisitions of one second share a period."""
    times = {min(item.datetime for item in group) for group in by_acquisition(items).values()}
    days = {first: datetime.fromisoformat(first).date() for first in times}
    return tuple(sorted((Period(first, day, day) for first, day in days.items()), key=_in_time))


def items_by_period(plan: Plan, items: Iterable[Item]) -> dict[str, list[Item]]:
    """The locked items of each period of the plan; empty lists where there are none."""
    groups: dict[str, list[Item]] = {period.label: [] for period in plan.periods}
    if plan.recipe.every == "scene":
        for group in by_acquisition(items).values():
            groups.setdefault(min(item.datetime for item in group), []).extend(group)
    else:
        for item in items:
            groups.setdefault(item.period, []).append(item)
    return groups


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


def write_plan(out: Path, plan: Plan) -> Plan:
    """Write OUT/plan.json, or extend the one that is there; the plan that now holds, with the periods of both.

    Raises
    ------
    Refused
        The folder holds a run of another recipe; names the fields that differ.
    """
    path = out / runpaths.PLAN
    if path.exists():
        there = read_plan(out)
        require_same(there.recipe, plan.recipe, path)
        plan = _extended(there, plan, path)
        if plan == there:
            return plan
    make_folder(path.parent)
    write_atomic(path, (json.dumps(_to_json(plan), indent=1, ensure_ascii=False) + "\n").encode())
    return plan


def _extended(there: Plan, here: Plan, path: Path) -> Plan:
    """The plan of the folder with the periods of both. What is for the record alone is kept from both, too."""
    periods = {period.label: period for period in there.periods}
    for period in here.periods:
        if periods.setdefault(period.label, period) != period:
            raise Refused(f"{path}: period {period.label} is {periods[period.label]} there and {period} here")
    return replace(
        there,
        periods=tuple(sorted(periods.values(), key=_in_time)),
        sources=tuple(dict.fromkeys(there.sources + here.sources)),
        forced=there.forced or here.forced,
        expected=here.expected or there.expected,
    )


def read_plan(out: Path) -> Plan:
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
    path = out / runpaths.PLAN
    try:
        with store_errors():
            data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"{out} holds no run: {path.name} is missing; start a run with subpixmap run --out {out}"
        raise InputError(missing) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({in_one_line(error)}); check address and credentials") from error
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict) or raw.get("sha256") != json_sha256(
            {key: value for key, value in raw.items() if key != "sha256"}
        ):
            raise ValueError("its hash does not match its content")
    except ValueError as error:
        raise _damaged(path, error) from error
    # The hash proves the content: an error from here on is a bug of ours, and must not be reported as damage.
    if raw["format"] != FORMAT:
        raise Refused(
            f"{path} is of format {raw['format']} but this version of subpixmap reads format {FORMAT}: use the "
            "version that made it, or start in another folder"
        )
    plan = _from_json(raw)
    if raw["run_id"] != plan.run_id:
        raise _damaged(path, "its run_id does not match its recipe")
    return plan


def _damaged(path: Path, reason: object) -> VerificationFailed:
    return VerificationFailed(f"{path} is damaged ({reason}); restore it, or start a new run in another folder")


def _to_json(plan: Plan) -> dict[str, Any]:
    raw: dict[str, Any] = {
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
        "zones": {str(epsg): [row_of(one) for one in zone.blocks] for epsg, zone in plan.zones.items()},
    }
    raw = json.loads(json.dumps(raw))
    return raw | {"sha256": json_sha256(raw)}


def _from_json(raw: Mapping[str, Any]) -> Plan:
    recipe = Recipe.from_json(raw["recipe"])
    sources = raw["sources"] if "sources" in raw else raw["source"].split(", ")  # one text in old plans
    by_epsg = {lattice.epsg: lattice for lattice in recipe.lattices}
    zones = {}
    for code, rows in raw["zones"].items():
        lattice = by_epsg[int(code)]
        zones[int(code)] = Zone(lattice, tuple(plan_of_row(lattice, recipe.block, row) for row in rows))
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
        model=ModelInfo(**{f.name: raw["model"][f.name] for f in fields(ModelInfo) if f.name in raw["model"]}),
        sources=tuple(map(redact, sources)),
        versions=raw["versions"],
        forced=raw.get("forced", False),
        expected=raw.get("expected", {}),
    )


def _in_time(period: Period) -> tuple[date, str]:
    return period.start, period.label
