"""The card of a checkpoint, which describes its tensors; read and checked without PyTorch.

`FILE.safetensors` holds the tensors with the card in its metadata; `FILE.card.json` repeats the card for people. A
pickle is refused unread.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.model.likeness import Likeness
from subpixmap.model.sealed import fields_from_json, unseal

if TYPE_CHECKING:
    from subpixmap.model.net import Averaged, DensityNet

EVIDENCE = ("simulated", "degraded-aerial", "sentinel-2")
MEASURES = ("count", "occupancy")
KEY = "subpixmap"  # the only metadata key, so that the same model gives the same bytes
MOST = {"width": 2048, "mid": 2048, "blocks": 64, "members": 32, "bands": 64, "objects": 64}
"""Largest sizes of a network: a larger one is a mistake, or an attack on the memory of those who load it."""
_LONGEST = 2000  # characters of a name or a definition
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them


@dataclass(frozen=True)
class Card:
    """Description, training data and limits of a checkpoint. Reflectance is in 0-1, bands in the given order."""

    name: str
    bands: tuple[str, ...]
    objects: Mapping[str, str]
    """Object -> its definition in words; the order is that of the network's outputs."""
    measure: Mapping[str, str]
    """Object -> "count", or "occupancy" where a mean over dates is no count (things that move)."""
    input_mean: tuple[float, ...]
    """Per band, of the training pixels."""
    input_std: tuple[float, ...]
    input_low: tuple[float, ...]
    """Per band; below it an input is unlike the training data."""
    input_high: tuple[float, ...]
    evidence: str
    """Kind of data behind the errors: "simulated", "degraded-aerial" or "sentinel-2"."""
    resolution: float = 10.0
    """Metres."""
    sensor: str = "sentinel-2"
    level: str = "L2A"
    width: int = 128
    mid: int = 32
    blocks: int = 6
    halo: int = 8
    """Receptive radius, pixels; measured again when a checkpoint is loaded."""
    members: int = 1
    """Networks whose mean is the prediction."""
    turns: bool = False
    """Whether each sees its input in all eight turns and mirrors."""
    calibration: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Object -> (background, slope): count = (raw - background) * slope. Missing: (0, 1)."""
    trimmed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The same for a mean of many acquisitions without its extremes, on top of `calibration`. Missing: (0, 1)."""
    presence_threshold: float = 0.5
    max_count_per_pixel: float = 20.0
    """A reference above this many objects in a pixel is absurd."""
    mask: Mapping[str, Any] = field(default_factory=dict)
    """Mask rule used in training, with what differs for an object under `objects` (see MaskRule.stated)."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Data, seeds, command, options."""
    error: Mapping[str, Any] = field(default_factory=dict)
    """Errors on held-out data."""
    limits: tuple[str, ...] = ()
    """Limits of the model, in words."""
    likeness: Mapping[str, Any] = field(default_factory=dict)
    """What the land of the training looks like (see `likeness.Likeness`). Missing: only the range of bands is known."""

    def __post_init__(self) -> None:
        self._require_sizes()
        self._require_texts()
        for name in ("input_mean", "input_std", "input_low", "input_high"):
            values = getattr(self, name)
            if len(values) != len(self.bands) or not np.isfinite(values).all():
                raise InputError(f"card {self.name!r}: {name} must be {len(self.bands)} finite numbers, one a band")
        if min(self.input_std) <= 0:
            raise InputError(f"card {self.name!r}: input_std must be positive")
        if len(set(self.bands)) != len(self.bands) or not self.bands:
            raise InputError(f"card {self.name!r}: bands {self.bands} are empty or repeated")
        if not self.objects or set(self.measure) != set(self.objects):
            raise InputError(f"card {self.name!r}: objects and measure must name the same objects")
        if unknown := (set(self.calibration) | set(self.trimmed)) - set(self.objects):
            raise InputError(f"card {self.name!r}: calibration of objects it does not count: {sorted(unknown)}")
        if not isinstance(self.mask.get("objects", {}), Mapping):
            raise InputError(f"card {self.name!r}: what the mask says of objects must be by object")
        if unknown := set(self.mask.get("objects", {})) - set(self.objects):
            raise InputError(f"card {self.name!r}: mask of objects it does not count: {sorted(unknown)}")
        if self.evidence not in EVIDENCE or not set(self.measure.values()) <= set(MEASURES):
            raise InputError(f"card {self.name!r}: evidence must be one of {EVIDENCE} and measures of {MEASURES}")
        if not 0 < self.resolution <= 10_000 or not 0 <= self.presence_threshold <= 1:
            raise InputError(f"card {self.name!r}: resolution must be up to 10000 m, presence_threshold 0 to 1")
        if not 0 < self.max_count_per_pixel < math.inf:
            raise InputError(f"card {self.name!r}: max_count_per_pixel must be a positive number")
        self.land_like_training()

    def _require_sizes(self) -> None:
        """Check sizes first, before anything is built from them."""
        sizes = {name: getattr(self, name) for name in ("width", "mid", "blocks", "members")}
        sizes |= {name: len(getattr(self, name)) for name in ("bands", "objects")}
        for name, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MOST[name]:
                raise InputError(f"card: {name} is {str(size)[:40]}; a whole number from 1 to {MOST[name]} is expected")
        if not isinstance(self.halo, int) or not 0 <= self.halo <= 1000:
            raise InputError(f"card: halo is {str(self.halo)[:40]}; pixels from 0 to 1000 are expected")

    def _require_texts(self) -> None:
        shown = [self.name, *self.bands, *self.objects, *self.objects.values(), self.sensor, self.level, *self.limits]
        for text in shown:
            if not isinstance(text, str) or len(text) > _LONGEST or _CONTROLS.search(text):
                raise InputError(f"card: {str(text)[:40]!r} is not a text of up to {_LONGEST} characters to be shown")

    @property
    def object_names(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return tuple(self.objects)

    @property
    def flops_per_pixel(self) -> float:
        """Floating point operations of the network for one output pixel."""
        block = 2 * self.width * self.mid + 9 * self.mid**2
        heads = 9 * self.width * 2 * len(self.objects)
        times = self.members * (8 if self.turns else 1)
        return 2.0 * times * (9 * len(self.bands) * self.width + self.width**2 + self.blocks * block + heads)

    @property
    def n_values(self) -> int:
        """Numbers in the tensors of its checkpoint, by arithmetic: nothing is built."""
        w, m, outputs = self.width, self.mid, 2 * len(self.objects)
        block = 2 * w * m + 9 * m * m + 8 * m + 4 * w
        stem, skip, heads = 9 * len(self.bands) * w + 4 * w, w * w + 4 * w, 9 * w * outputs + outputs
        return self.members * (stem + self.blocks * block + skip + heads)

    def members_apart(self) -> int:
        """Number of networks for --spread; InputError if there is only one."""
        if self.members < 2:
            raise InputError(
                f"--spread: model {self.name!r} has one network, so there is no spread; train a model with --members "
                "2 or more, or leave out --spread"
            )
        return self.members

    def land_like_training(self) -> Likeness | None:
        """Statistics of the training land; None if not in the card."""
        if not self.likeness:
            return None
        try:
            return Likeness.stated(self.likeness, len(self.bands))
        except InputError as error:
            raise InputError(f"card {self.name!r}: {error}") from error

    def to_json(self) -> str:
        """The canonical text that is hashed and stored."""
        plain = dataclasses.asdict(self)
        if not self.likeness:
            del plain["likeness"]  # so that cards older than the field keep their hash
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Parse a card; unknown or missing fields are refused by name."""
        fields = fields_from_json(cls, text)
        for name in ("calibration", "trimmed"):
            fields[name] = {k: (float(b), float(s)) for k, (b, s) in fields.get(name, {}).items()}
        return cls(**fields)

    def build_net(self) -> DensityNet | Averaged:
        """An untrained network of this card's shape and scaling."""
        from subpixmap.model.net import combined

        return combined([self.build_member() for _ in range(self.members)], turns=self.turns)

    def build_member(self) -> DensityNet:
        """One of its networks."""
        from subpixmap.model.net import DensityNet

        return DensityNet(
            len(self.bands),
            len(self.objects),
            width=self.width,
            mid=self.mid,
            blocks=self.blocks,
            mean=self.input_mean,
            std=self.input_std,
        )


@dataclass(frozen=True)
class Stored:
    """The content of a file: a card and its verified tensors."""

    path: Path
    card: Card
    sha256: str
    """Over card and tensors."""
    tensors: Mapping[str, NDArray[Any]]
    """Finite."""


def read_stored(name_or_path: str | Path) -> Stored:
    """Read a shipped checkpoint by name, or any by path, and check its hash, without building the network.

    Raises
    ------
    InputError
        No such model, not safetensors (say a pickle), truncated, or changed since it was saved.
    """
    path = _find(name_or_path)
    text, stated, tensors = unseal(path, key=KEY)
    try:
        card = Card.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    beside = card_path(path)
    if beside.exists() and _json_of(beside) != json.loads(text):
        raise InputError(
            f"{beside} differs from the card inside {path.name}, which is used: delete or restore the file"
        )
    if (n := sum(values.size for values in tensors.values())) != card.n_values:
        raise InputError(f"{path}: the tensors have {n:,} numbers, but the card needs {card.n_values:,}")
    if not all(np.isfinite(values).all() for values in tensors.values()):
        raise InputError(f"{path}: a weight is not a finite number")
    return Stored(path, card, stated, tensors)


def shipped_models() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.stem for path in _shipped_folder().glob("*.safetensors"))


def _shipped_folder() -> Path:
    return Path(str(importlib.resources.files("subpixmap"))) / "data" / "models"


def _find(name_or_path: str | Path) -> Path:
    shipped = _shipped_folder() / f"{name_or_path}.safetensors"
    if isinstance(name_or_path, str) and name_or_path in shipped_models():
        return shipped
    path = Path(name_or_path)
    if not str(name_or_path) or not path.is_file():
        raise InputError(
            f"no model {str(name_or_path)!r}: give a .safetensors file or one of {', '.join(shipped_models())}"
        )
    return path


def card_path(path: Path) -> Path:
    """The card that stands beside a checkpoint."""
    return path.with_suffix(".card.json")


def _json_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"{path}: is not JSON ({error}); delete it: the model file contains the card as well"
        ) from error
