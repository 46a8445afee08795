"""The recipe of a run: all options that affect a number, the model and the lattices.

A run folder keeps one recipe; only periods are added. The hash of the recipe is the id of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from subpixmap.errors import InputError, Refused
from subpixmap.grid import CHUNK, Lattice
from subpixmap.mapping.quantise import STEP
from subpixmap.model.backends import Arithmetic
from subpixmap.model.mean import TRIM_FROM
from subpixmap.periods import Every
from subpixmap.scenes.clouds import MaskBy, MaskRule
from subpixmap.scenes.dialect import SENSOR, Level
from subpixmap.scenes.items import Item
from subpixmap.scenes.radiometry import Missing

MappedBy = Literal["chunk", "cell"]
"""What is computed where it comes near the region: whole inner chunks, or only cells of 128 px."""


@dataclass(frozen=True)
class Recipe:
    """Everything that affects a number. It never changes in a run folder."""

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
    """Acquisitions that are predicted for a block and period, at most."""
    min_obs: int
    """Clear observations that a pixel must have."""
    max_cloud: float | None
    """Items with more cloud over the whole tile are not considered, percent."""
    mask: MaskRule
    numerics: Mapping[str, Any] = field(default_factory=dict)
    """What decides the last bits: backend, device, threads, tile, dtype, versions, step of the stored values."""
    missing: Missing = "zero"
    """Which pixels of the files are missing; run folders older than the field have "zero"."""
    sensor: str = SENSOR
    """Of the items."""
    level: Level = "L2A"
    """Of the items."""
    spread: int = 0
    """Networks of the model whose counts the map keeps apart; 0 keeps their mean alone."""
    mapped_by: MappedBy = "chunk"
    """What is computed near the region; run folders older than the field have "chunk"."""

    def __post_init__(self) -> None:
        require_block(self.block)
        if self.max_scenes < 1 or self.min_obs < 1 or self.min_obs > self.max_scenes:
            raise InputError(
                f"--max-scenes {self.max_scenes} and --min-obs {self.min_obs}: both must be 1 or more, and --min-obs "
                "must not exceed --max-scenes"
            )
        if not self.bands or not self.objects:
            raise InputError("a recipe needs at least one band and one object")

    @property
    def run_id(self) -> str:
        """16 hex digits: sha256 of the canonical JSON."""
        return json_sha256(self.to_json())[:16]

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain values; the order of keys has no meaning."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        if self.missing == "zero":
            del plain["missing"]  # so that older folders keep their run_id
        for name, usual in (("sensor", SENSOR), ("level", "L2A"), ("spread", 0), ("mapped_by", "chunk")):
            if plain[name] == usual:
                del plain[name]  # likewise
        plain["mask"] = self.mask.as_json()  # likewise
        return plain

    @property
    def arithmetic(self) -> Arithmetic:
        """What computes the network."""
        return Arithmetic.of(self.numerics)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Recipe:
        """The recipe of `to_json`."""
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
        values |= {"lattices": tuple(Lattice(**one) for one in raw["lattices"]), "mask": MaskRule.stated(raw["mask"])}
        return cls(**values)


def numerics(arithmetic: Arithmetic, mask_by: MaskBy = "scl") -> dict[str, Any]:
    """Settings that affect the last bits of a map; independent of the number of workers."""
    from subpixmap.model.clouds import versions

    return arithmetic.numerics() | {"trim_from": TRIM_FROM, "step": STEP} | versions(mask_by)


def level_of(items: Iterable[Item]) -> Level:
    """The common level of all items."""
    levels = {item.level for item in items}
    if len(levels) > 1:
        raise InputError(f"the items are of levels {' and '.join(sorted(levels))}; use one level per run (--level)")
    return levels.pop() if levels else "L2A"


def require_same(there: Recipe, here: Recipe, path: Path) -> None:
    """Refuse another recipe; the message names each field with both values."""
    old, new = _flat(there.to_json()), _flat(here.to_json())
    if differ := [key for key in sorted(old | new) if old.get(key) != new.get(key)]:
        values = "; ".join(f"{key} is {old.get(key)!r} there and {new.get(key)!r} here" for key in differ)
        raise Refused(f"{path} holds a run with other options: {values}; use another --out, or the same options")


def require_block(block: int) -> None:
    """Refuse a block size that is not a multiple of inner chunks."""
    if block <= 0 or block % CHUNK:
        raise InputError(f"--block {block} is not a multiple of {CHUNK} px")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested fields by dotted name, for messages."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = {str(one.get("epsg", i)): one for i, one in enumerate(value)}
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, one in value.items() for k, v in _flat(one, f"{name}.{key}" if name else key).items()}


def json_sha256(value: Any) -> str:
    """Hash of plain values; independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
