"""Options of training a detector."""

from __future__ import annotations

from dataclasses import dataclass

from subpixmap.errors import InputError


@dataclass(frozen=True)
class DetectConfig:
    """All options that affect a detector, except the tiles."""

    steps: int = 1200
    batch: int = 4
    """Crops a step."""
    crop: int = 128
    """Side of a crop, pixels of the image."""
    rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-3
    warmup: int = 60
    """Steps."""
    average: float = 0.99
    """Decay of the exponential average of weights."""
    check_every: int = 100
    """Steps between looks at the validation blocks; the state is saved then."""
    distance: float | None = None
    """Metres within which a detection matches an object; half the median size of objects when None."""
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.check_every) < 1 or self.crop < 32:
            raise InputError("training: steps, batch and check_every must be at least 1, and crop at least 32 px")
        if not (self.rate > 0 and 0 <= self.average < 1):
            raise InputError("training: rate must be positive, and average in [0, 1)")
        if self.distance is not None and self.distance <= 0:
            raise InputError(f"--distance {self.distance:g}: give a positive distance in metres")
