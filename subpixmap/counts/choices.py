"""How a run folder is counted and followed: options of `count` and `trend` that every later recount keeps.

They stand in OUT/choices.json, with a hash. A folder without that file has the defaults.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from subpixmap import runpaths
from subpixmap.errors import InputError, VerificationFailed
from subpixmap.files import path_of, write_atomic

TREND_CHOICES = ("level", "steady_within", "unchanged", "background")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Options that decide numbers of counts.csv and trend.csv, and are no part of the recipe of the map."""

    assign_nearest: bool = False
    """Count what lies outside all units, within 1 km of one, in the nearest."""
    level: float = 0.95
    """Confidence of the intervals of trends."""
    steady_within: float = 0.05
    """Share of the first total within which a unit counts as steady."""
    unchanged: tuple[str, ...] = ()
    """Ids of units that have not changed; what they share in a year is removed from all units."""
    background: bool = False
    """Remove what the map counts where the object is never present."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise InputError(f"--level {self.level:g}: the confidence of an interval lies between 0.5 and 1")
        if not 0 < self.steady_within < 1:
            raise InputError(f"--steady-within {self.steady_within:g}: give a share between 0 and 1, such as 0.05")
        if self.unchanged and self.background:
            raise InputError(
                "--unchanged and --background: a shared year effect comes from unchanged units or from the background; "
                "give one of them"
            )

    def with_count(self, *, assign_nearest: bool | None) -> Choices:
        """With what is given anew; None keeps what was chosen before."""
        return self if assign_nearest is None else replace(self, assign_nearest=assign_nearest)

    def with_trend(
        self,
        *,
        level: float | None,
        unchanged: tuple[str, ...] | None,
        background: bool | None,
        steady_within: float | None = None,
    ) -> Choices:
        """With what is given anew; of `unchanged` and `background`, the one that is chosen now ends the other."""
        new = self if level is None else replace(self, level=level)
        new = new if steady_within is None else replace(new, steady_within=steady_within)
        if unchanged is None and background is None:
            return new
        if unchanged is None:
            unchanged = () if background else self.unchanged
        if background is None:
            background = self.background and not unchanged
        return replace(new, unchanged=unchanged, background=background)

    def for_units(self, ids: Collection[str]) -> tuple[Choices, list[str]]:
        """Without `unchanged` if other units are counted now that lack one of its ids; and a note that says so."""
        if lost := sorted(set(self.unchanged) - set(ids)):
            return replace(self, unchanged=()), [
                f"--unchanged {','.join(self.unchanged)} no longer applies: the new units have no {', '.join(lost)}"
            ]
        return self, []

    def notes(self, *names: str) -> list[str]:
        """What a recount keeps of earlier choices, with the option that ends it."""
        texts = {
            "assign_nearest": "`count --assign-nearest`, as chosen before; --no-assign-nearest ends it",
            "level": f"`trend --level {self.level:g}`, as chosen before; --level {Choices().level:g} is the default",
            "steady_within": f"`trend --steady-within {self.steady_within:g}`, as chosen before; "
            f"--steady-within {Choices().steady_within:g} is the default",
            "unchanged": f"`trend --unchanged {','.join(self.unchanged)}`, as chosen before; --unchanged '' ends it",
            "background": "`trend --background`, as chosen before; --no-background ends it",
        }
        return [texts[name] for name in names if getattr(self, name) != getattr(Choices(), name)]


def read_choices(out: Path) -> Choices:
    """The choices of a run folder; the defaults where none was ever made."""
    path = path_of(out) / runpaths.CHOICES
    if not path.is_file():
        return Choices()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        digest = raw.pop("sha256")
        if digest != _sha256(raw):
            raise ValueError("its hash differs from its content")
        return Choices(**raw | {"unchanged": tuple(raw["unchanged"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(
            f"{path} is damaged ({error}): remove it, then give the options of `count` and `trend` again"
        ) from error


def write_choices(out: Path, choices: Choices) -> None:
    """Keep the choices for later recounts; the defaults need no file."""
    path = path_of(out) / runpaths.CHOICES
    if choices == Choices():
        path.unlink(missing_ok=True)
        return
    raw = asdict(choices)
    write_atomic(path, (json.dumps(raw | {"sha256": _sha256(raw)}, indent=1) + "\n").encode())


def _sha256(raw: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
