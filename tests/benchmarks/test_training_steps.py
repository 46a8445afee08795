"""A training step, compiled and in bfloat16, against eager float32: ratios of CPU time, rounds in turn.

`bench` holds what mapping costs.
"""

from typing import Any

import pytest
import torch

from subpixmap.model.net import DensityNet
from subpixmap.model.predict import one_thread
from subpixmap.training.batches import Batch
from subpixmap.training.config import TrainConfig
from subpixmap.training.process import require_machine
from subpixmap.training.state import start
from subpixmap.training.train import take_step
from tests.benchmarks.figures import fastest
from tests.benchmarks.scene import BANDS

pytestmark = pytest.mark.slow


def test_training_steps_against_eager(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps of the default network, compiled, in bfloat16, and both, against eager float32; on the same batch."""
    torch.manual_seed(0)
    count = torch.rand(8, 1, 40, 40)
    batch = Batch(torch.rand(8, len(BANDS), 56, 56), count, torch.ones_like(count), torch.ones(8))
    losses = {}

    def five_steps_of(mixed: Any, compiled: Any) -> Any:
        config = TrainConfig(mixed=mixed, compile=compiled)
        torch.manual_seed(0)
        run = start(lambda: DensityNet(len(BANDS), 1), config, torch.ones(1))
        if compiled:
            require_machine(config)
            run.net.compile()

        def five_steps() -> None:
            for _ in range(5):
                losses[mixed, compiled, run.step] = take_step(run, batch, torch.ones(1), config)["loss"]

        five_steps()  # which compiles
        return five_steps

    kinds = {"compiled": (False, True), "bfloat16": (True, False), "both": (True, True)}
    with one_thread():
        works = [five_steps_of(*kind) for kind in [(False, False), *kinds.values()]]
        plain, *ours = (spent.whole for spent in fastest(3, [(work, None) for work in works]))
    told = ", ".join(f"{name} {plain / seconds:.2f} x" for name, seconds in zip(kinds, ours, strict=True))
    with capsys.disabled():
        print(f"\ntraining steps: {told} eager float32 ({plain / 5:.2f} s of CPU a step)")
    for kind in kinds.values():
        assert losses[*kind, 4] == pytest.approx(losses[False, False, 4], rel=0.02)
