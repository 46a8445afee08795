"""Optimizers: AdamW, and Muon for convolution kernels if the recipe has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subpixmap.training.config import TrainConfig


class KernelMuon(torch.optim.Muon):
    """Muon for kernels of convolutions, each seen as a matrix (out, y x in).

    The step of a matrix is its momentum brought close to an orthogonal matrix: all directions learn at one rate, where
    AdamW follows the few that dominate the gradient.

    Parameters
    ----------
    kernels
        (out, in, y, x), in channels-last memory, which the matrices share.
    lr
        Relative to entries: on the scale of AdamW's.

    References
    ----------
    Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; the scale of its steps from Liu et al.
    2025, Muon is scalable for LLM training, arXiv 2502.16982.
    """

    def __init__(self, kernels: Sequence[Tensor], lr: float) -> None:
        self.kernels = list(kernels)
        matrices = [nn.Parameter(_matrix(kernel.detach())) for kernel in self.kernels]
        if any(m.data_ptr() != k.data_ptr() for m, k in zip(matrices, self.kernels, strict=True)):
            raise ValueError("kernels must be in channels-last memory")
        super().__init__(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the kernels by their gradients."""
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad)
        step: Any = super().step
        step(closure)


def make_optimizers(net: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """For all parameters of a network with `heads`; each group says at which `peak` rate it learns."""
    named = list(net.named_parameters())
    kernels = [p for n, p in named if config.muon_rate and p.ndim == 4 and not n.startswith("heads")]
    taken = {id(kernel) for kernel in kernels}
    groups: list[dict[str, Any]] = [
        {"params": list(part), "weight_decay": decay, "peak": peak}
        for heads, peak in ((True, config.rate * config.head_rate), (False, config.rate))
        for decay, matrices in ((config.weight_decay, True), (0.0, False))  # biases and normalisation do not decay
        if (
            part := [
                p for n, p in named if id(p) not in taken and (p.ndim > 1, n.startswith("heads")) == (matrices, heads)
            ]
        )
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.rate)]
    if kernels:
        muon = KernelMuon(kernels, lr=config.muon_rate)
        muon.param_groups[0]["peak"] = config.muon_rate
        optimizers.append(muon)
    return optimizers


def _matrix(kernel: Tensor) -> Tensor:
    """(out, in, y, x) -> (out, y x in); the order of columns means nothing to Muon."""
    return kernel.permute(0, 2, 3, 1).flatten(1)
