"""The state of a training and its file: an interrupted training resumes with identical results."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import torch
from torch import Tensor, nn

from subpixmap.errors import InputError
from subpixmap.model.net import DensityNet, StridedNet
from subpixmap.training.config import TrainConfig
from subpixmap.training.optimize import make_optimizers

N = TypeVar("N", DensityNet, StridedNet)

_NO_RECIPE = ("threads", "device", "compile", "members", "turns")
"""Options in which a saved state may differ: a member does not know of the others."""


@dataclass
class TrainingState(Generic[N]):
    """The state of a training: weights, their average, optimizers and the best weights so far."""

    net: N
    averaged: N
    optimizers: list[torch.optim.Optimizer]
    recipe: dict[str, Any]
    """What a state on disk must agree with."""
    step: int = 0
    best_loss: float = math.inf
    """Lowest loss of the validation places, if there are any."""
    best_step: int = 0
    best: dict[str, Tensor] | None = None
    """Averaged weights at that step."""
    losses: list[float] = field(default_factory=list)
    """Of every step."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Losses, by name, of the steps that are not in the curves yet."""

    def is_stuck(self, patience: int) -> bool:
        """Whether the loss of the validation places has not fallen for so many steps."""
        return 0 < patience <= self.step - self.best_step

    def keep(self, row: dict[str, float]) -> None:
        """Keep the losses of a step."""
        self.losses.append(row["loss"])
        self.rows.append(row)

    def watch(self, loss: float, progress: TextIO | None) -> None:
        """Keep the averaged weights if they are the best so far."""
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = copy.deepcopy(self.averaged.state_dict())
        if progress is not None:
            best = f"lowest {self.best_loss:.4f} at step {self.best_step}"
            print(f"step {self.step} validation loss {loss:.4f}, {best}", file=progress, flush=True)

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        content: dict[str, Any] = {"recipe": self.recipe, "step": self.step}
        content |= {"net": self.net.state_dict(), "averaged": self.averaged.state_dict()}
        content |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        content |= {"best_loss": self.best_loss, "best_step": self.best_step, "best": self.best}
        content |= {"losses": torch.tensor(self.losses, dtype=torch.float64), "rows": self.rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        torch.save(content, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Load a saved state.

        Raises
        ------
        InputError
            The file is damaged, or belongs to another recipe.
        """
        try:
            # Tensors and plain values only: nothing is executed.
            saved = torch.load(path, weights_only=True, map_location="cpu")
            recipe, step = saved["recipe"], int(saved["step"])
        except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
            why = type(error).__name__
            raise InputError(f"{path}: is not a training state of this program ({why}); delete it") from error
        if recipe != self.recipe:
            raise InputError(f"{path}: belongs to another training recipe; delete it, or use another --output")
        self.net.load_state_dict(saved["net"])
        self.averaged.load_state_dict(saved["averaged"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.best_loss, self.best_step, self.best = saved["best_loss"], saved["best_step"], saved["best"]
        self.losses = saved["losses"].tolist() if "losses" in saved else []  # a state of an earlier version has none
        self.rows = saved.get("rows", [])
        self.step = step


def start(build: Callable[[], N], config: TrainConfig, scale: Tensor) -> TrainingState[N]:
    """An untrained network that counts next to nothing, with its optimizers and its average."""
    net: N = build().to(scale.device).to(memory_format=torch.channels_last).train()
    with torch.no_grad():
        net.heads.weight[: net.n_objects] *= scale[:, None, None, None]
        net.heads.bias[: net.n_objects] = 0.0  # type: ignore[index]
    kept = {k: v for k, v in config.recipe.items() if k not in _NO_RECIPE}
    shape = {name: list(value.shape) for name, value in net.state_dict().items()}
    scaling = [*net.mean.flatten().tolist(), *net.scale.flatten().tolist(), *scale.tolist()]
    recipe = {"config": kept, "shape": shape, "scaling": scaling}
    return TrainingState(net, copy.deepcopy(net), make_optimizers(net, config), recipe)


@torch.no_grad()
def update_average(averaged: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the averaged weights and running statistics towards those of the network."""
    for mean, now in zip(averaged.state_dict().values(), net.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(now, 1 - decay)


def remove_states(state: str | Path, members: int, *, folds: int = 0) -> None:
    """Delete the saved states of a training of so many members, in all folds; call it once the model is written."""
    parts = max(folds, 1)
    for k in range(members):
        fold = numbered(state, k * parts // members, parts)
        if (path := numbered(fold, k % (members // parts), members // parts)) is not None:
            path.unlink(missing_ok=True)


def numbered(path: str | Path | None, member: int, members: int) -> Path | None:
    """The file of one member: the path itself if there is one member only, else with its number."""
    if path is None:
        return None
    path = Path(path)
    return path if members == 1 else path.with_name(f"{path.stem}-{member + 1}{path.suffix}")
