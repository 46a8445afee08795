"""What a user asks of a run; everything that can be judged without opening anything is judged here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.errors import InputError
from subpixmap.files import path_of
from subpixmap.grid import BLOCK, CHUNK
from subpixmap.periods import Every, Period, make_periods, parse_months

if TYPE_CHECKING:
    from subpixmap.scenes.radiometry import OffsetRule

DEFAULT_SOURCE = ("earth-search",)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of a run; checked when it is built."""

    region: str
    """`demo`, a country, country/unit, west,south,east,north in degrees, or a polygon file."""
    years: str
    """`2018-2023` or `2021`."""
    every: Every = "year"
    months: str | None = None
    out: Path | None = None
    """Run folder; `runs/<region>` by default."""
    objects: tuple[str, ...] = ()
    """Objects to count; empty means all of the checkpoint."""
    source: tuple[str, ...] = DEFAULT_SOURCE
    """Catalogues in order of preference."""
    collection: str | None = None
    offset_rule: OffsetRule = "auto"
    """Whether 1000 is subtracted from the digital numbers: decided for each item, or always, or never."""
    refresh: tuple[str, ...] = ()
    """Labels of periods that the catalogue is asked for again."""
    model: str | None = None
    """Shipped checkpoint or path; by default the first of `DEFAULT_MODELS` whose bands the items have."""
    admin: Path | None = None
    id_column: str | None = None
    name_column: str | None = None
    parent_column: str | None = None
    resolution: float = 10.0
    """Metres."""
    block: int = BLOCK
    """Pixels."""
    max_scenes: int = 10
    min_obs: int = 1
    max_cloud: float | None = None
    """Percent of the whole tile."""
    scheduler: str | None = None
    workers: int | None = None
    probe: bool = False
    """Map one block before the run, to tell time and room from what it took."""
    device: str = "auto"
    allow_partial: bool = False
    force: bool = False
    yes: bool = False
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        labels = [period.label for period in self.periods()]
        checks = {
            f"--resolution {self.resolution:g}: give a positive number of metres": self.resolution > 0,
            f"--block {self.block}: give a positive multiple of {CHUNK}": self.block > 0 and self.block % CHUNK == 0,
            f"--max-scenes {self.max_scenes}: at least 1 is needed": self.max_scenes >= 1,
            f"--min-obs {self.min_obs}: must lie between 1 and --max-scenes ({self.max_scenes})": (
                1 <= self.min_obs <= self.max_scenes
            ),
            f"--max-cloud {self.max_cloud}: must lie between 0 and 100 percent": (
                self.max_cloud is None or 0 <= self.max_cloud <= 100
            ),
            f"--workers {self.workers}: give 0 or more": self.workers is None or self.workers >= 0,
            f"--device {self.device!r} is unknown; choose cpu, cuda or auto": self.device in ("cpu", "cuda", "auto"),
            f"--offset-rule {self.offset_rule!r} is unknown; choose auto, subtract or none": (
                self.offset_rule in ("auto", "subtract", "none")
            ),
            f"--refresh {' '.join(self.refresh)}: the periods of this run are {', '.join(labels)}": (
                set(self.refresh) <= set(labels)
            ),
            "--refresh: with --every scene every acquisition is a period; use another --out": (
                not self.refresh or self.every != "scene"
            ),
        }
        if wrong := [text for text, fine in checks.items() if not fine]:
            raise InputError("; ".join(wrong))

    def periods(self) -> list[Period]:
        """Periods that are mapped."""
        return make_periods(self.years, self.every, parse_months(self.months))

    @property
    def folder(self) -> Path:
        """Where the run leaves its files."""
        if self.out is not None:
            return path_of(self.out)
        name = Path(self.region).stem if Path(self.region).is_file() else self.region
        return Path("runs") / re.sub(r"[^\w.-]+", "-", name.strip().lower())
