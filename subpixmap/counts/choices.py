"""Options of `count` and `trend` that later recounts keep.

They are stored in OUT/choices.json, with a hash. A folder without that file has the defaults.
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
    """Options that affect counts.csv and trend.csv but are not part of the map's recipe."""

    assign_nearest: bool = False
    """Count objects up to 1 km outside all units in the nearest unit."""
    level: float = 0.95
    """Confidence of the intervals of trends."""
    steady_within: float = 0.05
    """A unit is steady if its change is within this share of the first total."""
    unchanged: tuple[str, ...] = ()
    """Ids of units known not to change; their shared deviations in a year are removed from all units."""
    background: bool = False
    """Subtract the count where the object is never present."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise InputError(f"--level {self.level:g}: give a confidence level between 0.5 and 1, such as 0.95")
        if not 0 < self.steady_within < 1:
            raise InputError(f"--steady-within {self.steady_within:g}: give a share between 0 and 1, such as 0.05")
        if self.unchanged and self.background:
            raise InputError(
                "--unchanged and --background: the shared year effect is taken from unchanged units or from the "
                "background; give only one of them"
            )

    def with_count(self, *, assign_nearest: bool | None) -> Choices:
        """The choices with new options; None keeps the previous choice."""
        return self if assign_nearest is None else replace(self, assign_nearest=assign_nearest)

    def with_trend(
        self,
        *,
        level: float | None,
        unchanged: tuple[str, ...] | None,
        background: bool | None,
        steady_within: float | None = None,
    ) -> Choices:
        """The choices with new options; `unchanged` and `background` replace each other."""
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
        """The choices without `unchanged` if the new units lack one of its ids, and a note about it."""
        if lost := sorted(set(self.unchanged) - set(ids)):
            return replace(self, unchanged=()), [
                f"--unchanged {','.join(self.unchanged)} no longer applies: the new units have no {', '.join(lost)}"
            ]
        return self, []

    def notes(self, *names: str) -> list[str]:
        """Notes about kept earlier choices, with the option to end each."""
        texts = {
            "assign_nearest": "`count --assign-nearest`, as chosen before; end it with --no-assign-nearest",
            "level": f"`trend --level {self.level:g}`, as chosen before; --level {Choices().level:g} is the default",
            "steady_within": f"`trend --steady-within {self.steady_within:g}`, as chosen before; "
            f"--steady-within {Choices().steady_within:g} is the default",
            "unchanged": f"`trend --unchanged {','.join(self.unchanged)}`, as chosen before; end it with --unchanged "
            "''",
            "background": "`trend --background`, as chosen before; end it with --no-background",
        }
        return [texts[name] for name in names if getattr(self, name) != getattr(Choices(), name)]


def read_choices(out: Path) -> Choices:
    """The choices of a run folder; the defaults if there are none."""
    path = path_of(out) / runpaths.CHOICES
    if not path.is_file():
        return Choices()
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        digest = raw.pop("sha256")
        if digest != _sha256(raw):
            raise ValueError("its hash does not match its content")
        return Choices(**raw | {"unchanged": tuple(raw["unchanged"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationFailed(
            f"{path} is damaged ({error}): remove it, then give the options of `count` and `trend` again"
        ) from error


def write_choices(out: Path, choices: Choices) -> None:
    """Store the choices for later recounts; defaults are not written."""
    path = path_of(out) / runpaths.CHOICES
    if choices == Choices():
        path.unlink(missing_ok=True)
        return
    raw = asdict(choices)
    write_atomic(path, (json.dumps(raw | {"sha256": _sha256(raw)}, indent=1) + "\n").encode())


def _sha256(raw: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
