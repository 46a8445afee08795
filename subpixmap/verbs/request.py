"""What a user requests: a run, a reference, a network. Checks everything that needs no file.

The command line takes its defaults from these classes, so heavy packages are not imported at the top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from subpixmap.errors import InputError
from subpixmap.files import path_of
from subpixmap.periods import Every, Period, make_periods, parse_months
from subpixmap.scenes.dialect import LEVELS, Level
from subpixmap.sizes import BLOCK, CHUNK
from subpixmap.verbs.price import parse_prices

if TYPE_CHECKING:
    from subpixmap.scenes.clouds import MaskBy
    from subpixmap.scenes.radiometry import OffsetRule

DEFAULT_SOURCE = ("earth-search",)


def require_list(name: str, values: object) -> None:
    """Refuse one text where a list is needed: its letters would be taken as the elements."""
    if isinstance(values, (str, bytes)):
        raise InputError(f"{name}={values!r} is one text; give a list, such as {name}=({values!r},)")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user requests from a run; checked when built."""

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
    source: tuple[str, ...] = ()
    """Catalogues in order of preference; empty means `DEFAULT_SOURCE` (for the demo: its own catalogue)."""
    collection: str | None = None
    level: Level = "L2A"
    """Processing level:

    L2A (surface reflectance with scene classes), or L1C, in which every pixel with data is valid.
    """
    offset_rule: OffsetRule = "auto"
    """Offset of 1000 in the digital numbers: "auto" (decide for each item), "subtract" or "none"."""
    refresh: tuple[str, ...] = ()
    """Labels of periods to search in the catalogue again."""
    model: str | None = None
    """Shipped checkpoint or path; by default the first of `DEFAULT_MODELS` whose bands the items have."""
    admin: Path | None = None
    id_column: str | None = None
    name_column: str | None = None
    parent_column: str | None = None
    layer: str | None = None
    """Layer of the file of units, or of the region's file."""
    encoding: str | None = None
    """Of its texts."""
    resolution: float = 10.0
    """Metres."""
    block: int = BLOCK
    """Pixels."""
    max_scenes: int = 10
    min_obs: int = 1
    max_cloud: float | None = None
    """Largest cloud cover of an item, percent of its tile."""
    mask: MaskBy | None = None
    """Cloud mask: "scl" (scene classes), "learned" (a network) or "both"; by default from the model's card."""
    spread: bool = False
    """Also store the count of each network of the model, and their standard deviation."""
    scheduler: str | None = None
    workers: int | None = None
    probe: bool = False
    """Map one block before the run, and predict time and disk space from it."""
    price: tuple[str, ...] = ()
    """`core-hour=0.04`, `gpu-hour=...`, `gb-month=...`, `gb-read=...`: prices to estimate the cost."""
    device: str = "auto"
    backend: str | None = None
    """Library that runs the network: torch or openvino; default: as in the folder, else the fastest exact one."""
    precision: str | None = None
    """float32 or bfloat16; by default as in the folder, else float32."""
    allow_partial: bool = False
    force: bool = False
    yes: bool = False
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("objects", "source", "refresh", "price"):
            require_list(name, getattr(self, name))
        parse_prices(self.price)
        labels = [period.label for period in self.periods()]
        checks = {
            f"--resolution {self.resolution:g}: give a positive number of metres": 0 < self.resolution < 1e6,
            f"--block {self.block}: give a positive multiple of {CHUNK}": self.block > 0 and self.block % CHUNK == 0,
            f"--max-scenes {self.max_scenes}: give 1 or more": self.max_scenes >= 1,
            f"--min-obs {self.min_obs}: must lie between 1 and --max-scenes ({self.max_scenes})": (
                1 <= self.min_obs <= self.max_scenes
            ),
            f"--max-cloud {self.max_cloud}: must lie between 0 and 100 percent": (
                self.max_cloud is None or 0 <= self.max_cloud <= 100
            ),
            f"--mask {self.mask!r} is unknown; choose scl, learned or both": (
                self.mask in (None, "scl", "learned", "both")
            ),
            f"--workers {self.workers}: give 0 or more": self.workers is None or self.workers >= 0,
            "--workers and --scheduler cannot be combined: the cluster of --scheduler has its own workers; leave out "
            "one of the two": (self.workers is None or self.scheduler is None),
            f"--device {self.device!r} is unknown; choose cpu, cuda or auto": self.device in ("cpu", "cuda", "auto"),
            f"--offset-rule {self.offset_rule!r} is unknown; choose auto, subtract or none": (
                self.offset_rule in ("auto", "subtract", "none")
            ),
            f"--level {self.level!r} is unknown; choose {' or '.join(LEVELS)}": self.level in LEVELS,
            f"--refresh {' '.join(self.refresh)}: the periods of this run are {', '.join(labels)}": (
                set(self.refresh) <= set(labels)
            ),
            "--region demo is a simulated country with its own imagery: leave out --source and --collection": (
                not self.is_demo or not (self.source or self.collection)
            ),
            "--refresh does not work with --every scene, where every acquisition is a period; use another --out": (
                not self.refresh or self.every != "scene"
            ),
            f"{self.region!r} has no file of units, but --id-column, --name-column, --parent-column, --layer and "
            f"--encoding need one: give --admin": not self._reads_units or self._has_file_of_units(),
        }
        checks |= self._of_what_computes()
        if wrong := [text for text, fine in checks.items() if not fine]:
            raise InputError("; ".join(wrong))

    def _of_what_computes(self) -> dict[str, bool]:
        """Check device, backend and precision."""
        return {
            f"--backend {self.backend!r} is unknown; choose torch or openvino": self.backend
            in (None, "torch", "openvino"),
            f"--precision {self.precision!r} is unknown; choose float32 or bfloat16": self.precision
            in (None, "float32", "bfloat16"),
            "--backend openvino runs on the processor only: leave out --device cuda": self.backend != "openvino"
            or self.device != "cuda",
        }

    @property
    def is_demo(self) -> bool:
        """Whether the region is the built-in simulated country."""
        return self.region.strip().lower() == "demo"

    @property
    def sources(self) -> tuple[str, ...]:
        """Catalogues to search."""
        return self.source or DEFAULT_SOURCE

    def periods(self) -> list[Period]:
        """Periods to map."""
        return make_periods(self.years, self.every, parse_months(self.months))

    @property
    def names_units(self) -> bool:
        """Whether the request names units; otherwise those of the run folder or of the region are used."""
        return bool(self.admin or self._reads_units)

    @property
    def _reads_units(self) -> bool:
        """Whether the request has options for reading a file of units."""
        return bool(self.id_column or self.name_column or self.parent_column or self.layer or self.encoding)

    def _has_file_of_units(self) -> bool:
        return self.is_demo or self.admin is not None or bool(Path(self.region).suffix) or Path(self.region).is_file()

    @property
    def folder(self) -> Path:
        """The run folder."""
        if self.out is not None:
            return path_of(self.out)
        name = Path(self.region).stem if Path(self.region).is_file() else self.region
        return Path("runs") / re.sub(r"[^\w.-]+", "-", name.strip().lower())


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """Options that turn points in labelled areas into a reference."""

    crs: str | None = None
    """Of files without one."""
    objects: tuple[str, ...] = ()
    """Objects to take; empty means all."""
    object_column: str = "object"
    layer: str | None = None
    """Layer of the file of points."""
    labelled_layer: str | None = None
    """Layer of the file of labelled areas."""
    totals: Path | None = None
    """File of plots with totals, in addition to points; without labelled areas, the file of points holds the plots."""
    total_columns: Mapping[str, str] = field(default_factory=dict)
    """Object -> name of the column with its totals."""
    totals_layer: str | None = None
    """Layer of the file of plots given in addition to points."""
    encoding: str | None = None
    """Text encoding of both files."""
    where: str | None = None
    """Points to keep: an expression of columns of the file."""
    definitions: Mapping[str, str] = field(default_factory=dict)
    """Object -> what exactly was labelled, in words."""
    measure: str = "count"
    """`count`, or `occupancy` for things that move."""
    border: int = 8
    """Width of the strip along the edge of an area that is not used, pixels."""
    box: float | None = None
    """Side of the box that a point is spread over, metres; None spreads it by a Gaussian."""
    present_above: float = 0.25
    """A reference pixel with more objects than this counts as a presence."""
    max_per_pixel: float = 20.0
    """Largest number of points in a pixel; more are refused."""
    resolution: float = 10.0
    """Metres."""

    def __post_init__(self) -> None:
        require_list("objects", self.objects)


class Shape(NamedTuple):
    """The size of a network; None leaves it to the recipe."""

    width: int | None = None
    """Channels."""
    mid: int | None = None
    """Channels inside a block."""
    blocks: int | None = None
    """Residual blocks."""
