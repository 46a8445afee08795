"""Options of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from subpixmap.errors import InputError

BASELINES = ("mean", "ridge", "random_forest", "strided")
"""Baselines to compare with a network, see `baselines.fit_baseline`."""


def require_baselines(names: Sequence[str]) -> None:
    """Refuse unknown names of baselines, before anything is read."""
    if unknown := set(names) - set(BASELINES):
        raise InputError(f"--baselines {', '.join(sorted(unknown))} is unknown; choose from {', '.join(BASELINES)}")


@dataclass(frozen=True)
class TrainConfig:
    """All options that affect the weights, except the patches."""

    steps: int = 0
    """0 chooses them by the labelled land (see `steps_for`)."""
    frozen_steps: int = 0
    """Steps after those, at a twentieth of the peak rate, from the averaged weights and with the statistics of
    normalisation frozen: the network then learns with what it will predict with, not with what it sees of a batch."""
    batch: int = 8
    """Samples a step; a sample is one acquisition of one place."""
    crop: int = 40
    """Useful pixels a side of a sample."""
    importance: float = 0.0
    """How much more often crops with many objects are drawn, and the less their losses weigh: odds are 1 + this times
    a crop's root mean square count relative to that of all. 0 draws all alike."""
    rate: float = 2e-3
    """Peak learning rate of AdamW."""
    head_rate: float = 0.1
    """That of the heads relative to `rate`: nothing normalises their output, which their many inputs all move."""
    muon_rate: float = 5e-3
    """Peak learning rate of Muon, which moves the kernels below the heads; 0 leaves them to AdamW, which needs many
    times the steps."""
    weight_decay: float = 1e-4
    warmup: int = 100
    """Steps."""
    mse_weight: float = 0.5
    """Of the squared error; the rest is the weight of the cross-entropy."""
    block_weight: float = 1.0
    """Of the squared error of block means, which keeps sums right where pixels are uncertain."""
    block: int = 8
    """Pixels a side of such a block."""
    sample_weight: float = 4.0
    """Of the squared error of sample means: a scene is seen under one sky, so its errors are shared and add up."""
    plot_weight: float = 4.0
    """Of the squared error of sums over plots whose total alone is known (see `losses`), where there are any."""
    pair_weight: float = 0.0
    """Of the squared difference between the errors of sample means of two acquisitions of one crop, which leaves what
    skies and seasons do to totals. Above 0, samples come in such pairs."""
    pair_after: float = 0.0
    """Share of the steps before the first pairs. A batch of pairs shows half as many crops, which teaches more slowly;
    dates can wait until objects are known."""
    present_above: float = 0.25
    """A reference pixel with more objects than this counts as a presence."""
    jitter_brightness: float = 0.1
    """Standard deviation of the logarithm of a gain per sample, the same in all bands. View and sun change a scene:
    its pixels hardly feel it, totals do (without this, a gain of 3 % moved the total of a scene by 17 %)."""
    jitter_gain: float = 0.04
    """Standard deviation of a gain per sample and band."""
    jitter_offset: float = 0.003
    """Standard deviation of a reflectance offset per sample and band."""
    average: float = 0.998
    """Decay of the exponential average of weights; 0 keeps the last weights."""
    members: int = 1
    """Networks trained apart, from seeds that follow each other; the model predicts their mean."""
    turns: bool = False
    """Whether the model averages over the eight turns and mirrors of its input. It costs eight times as much."""
    patience: int = 0
    """Steps after which training stops when the loss of the validation places has not fallen; 0 trains to the end."""
    mixed: bool = False
    """Convolutions in bfloat16 (fast on a GPU, or a processor with AMX); weights, normalisation statistics and losses
    stay float32."""
    compile: bool = False
    """Fuse the operations of a step (`torch.compile`): 1.4 times as fast, 2.8 times with `mixed`. Wants a C++
    compiler and changes the last bits."""
    seed: int = 0
    threads: int = 0
    """Of torch; 0 leaves its default. Another number may change the last bits."""
    device: str = "cpu"
    """Or "cuda"; another device changes the last bits."""
    log_every: int = 20
    save_every: int = 100

    def for_land(self, labelled_px: int) -> TrainConfig:
        """The config with its steps chosen, if not given; a shorter training has a shorter warm-up."""
        steps = self.steps or steps_for(labelled_px, batch=self.batch, crop=self.crop)
        return replace(self, steps=steps, warmup=min(self.warmup, max(1, steps // 5)))

    def for_plots(self, side: int) -> TrainConfig:
        """The same where totals alone are known, of plots of at most `side` pixels: small crops, and more of them."""
        crop = max(side, LEAST_PLOT_CROP)
        batch = self.batch * self.crop**2 // crop**2
        return replace(self, crop=crop, batch=2 * min(max(batch // 2, 2), MOST_PLOTS // 2))

    @property
    def all_steps(self) -> int:
        """With the frozen ones."""
        return self.steps + self.frozen_steps

    @property
    def recipe(self) -> dict[str, Any]:
        """The fields for a card: all except the intervals of progress and saving."""
        return {key: value for key, value in asdict(self).items() if key not in ("log_every", "save_every")}

    def at(self, step: int) -> TrainConfig:
        """The options of a step: the same, but without pairs until they begin."""
        return self if step >= self.pair_after * self.steps else replace(self, pair_weight=0.0)

    def __post_init__(self) -> None:
        if min(self.batch, self.crop, self.block, self.log_every, self.save_every) < 1:
            raise InputError("training: batch, crop, block, log_every and save_every must be at least 1")
        if not (0 <= self.mse_weight <= 1 and 0 <= self.average < 1 and self.rate > 0):
            raise InputError("training: mse_weight must be in 0-1, average in [0, 1), and rate positive")
        if min(self.importance, self.frozen_steps, self.steps) < 0:
            raise InputError("training: importance, steps and frozen_steps must be at least 0")
        if self.pair_weight < 0 or (self.pair_weight and self.batch % 2):
            raise InputError("training: pair_weight must be at least 0, and with pairs the batch must be even")
        if not 0 <= self.pair_after < 1:
            raise InputError("training: pair_after must be in [0, 1)")
        if self.members < 1 or self.patience < 0:
            raise InputError("training: members must be at least 1 and patience at least 0")


LEAST_PLOT_CROP, MOST_PLOTS = 24, 24
"""Side of the crops around small plots, pixels, and the most of them in a step."""
SEEN = 1000
"""How often a training uses each labelled pixel, over all acquisitions, unless its steps are given."""
LEAST_STEPS, MOST_STEPS = 1500, 10500
"""Smallest and largest number of steps chosen from the amount of land."""


def steps_for(labelled_px: int, *, batch: int, crop: int) -> int:
    """Steps for so much labelled land: each pixel is seen `SEEN` times, within `LEAST_STEPS` and `MOST_STEPS`.

    With samples of 40 px and 8 of them a step, 1 km2 is learnt in 1,500 steps, 5 km2 in 3,900, 13.5 km2 and more in
    10,500.
    """
    steps = SEEN * labelled_px / (batch * crop**2)
    return int(min(max(steps, LEAST_STEPS), MOST_STEPS))


SIMULATED = TrainConfig(
    steps=14000,
    frozen_steps=600,
    importance=10.0,
    pair_weight=5.0,
    pair_after=0.6,
    jitter_gain=0.012,
    jitter_offset=0.001,
    mixed=True,
    compile=True,
)
"""For simulated places, whose bands err by 1.2 % against each other. Crowns and green undergrowth differ by a few
percent in single bands: jitter beyond the sensor's own hides that, and the totals of dates follow the season. So many
steps take half an hour on two cores with AMX; in eager float32 they take an hour there."""
