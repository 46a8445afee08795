"""The network: reflectance in, objects per pixel and presence out, at full resolution throughout.

Every convolution is unpadded, so an output pixel depends on its receptive field and on nothing else: a tile computes
exactly what a whole image would.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def _crop(x: Tensor) -> Tensor:
    """Drop the outermost pixel, as a 3x3 convolution without padding does."""
    return x[:, :, 1:-1, 1:-1]


class Bottleneck(nn.Module):
    """1x1 -> 3x3 -> 1x1 with a cropped skip, which the first block projects (Rodriguez & Wegner 2018)."""

    def __init__(self, width: int, mid: int, *, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, mid, 1, bias=False), nn.BatchNorm2d(mid)
        self.conv2, self.bn2 = nn.Conv2d(mid, mid, 3, bias=False), nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = nn.Conv2d(mid, width, 1, bias=False), nn.BatchNorm2d(width)
        nn.init.constant_(self.bn3.weight, 0.2)  # a block starts as little more than its skip
        self.conv_skip: nn.Module = nn.Conv2d(width, width, 1, bias=False) if project else nn.Identity()
        self.bn_skip: nn.Module = nn.BatchNorm2d(width) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, y, x) -> (n, width, y - 2, x - 2)."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        return y.add_(self.bn_skip(self.conv_skip(_crop(x)))).relu_()


class DensityNet(nn.Module):
    """Stride-1 bottleneck network with a density and a presence head.

    Parameters
    ----------
    n_bands
        Bands of the reflectance.
    n_objects
        Objects counted; they may share a pixel, so each has its own density and its own presence logit.
    width, mid, blocks
        Features, bottleneck features, residual blocks. 256/64/6 is the paper's (0.53 M parameters at 10 bands and four
        objects), 128/32/6 what the package ships (0.14 M).
    mean, std
        Per band, reflectance; the input is normalised inside. Default 0 and 1.

    Notes
    -----
    The receptive radius is blocks + 2 pixels: the output is smaller than the input by that on every side.
    """

    def __init__(
        self,
        n_bands: int,
        n_objects: int,
        *,
        width: int = 128,
        mid: int = 32,
        blocks: int = 6,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.n_bands, self.n_objects = n_bands, n_objects
        self.stem, self.bn = nn.Conv2d(n_bands, width, 3, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(Bottleneck(width, mid, project=i == 0) for i in range(blocks))
        self.heads = nn.Conv2d(width, 2 * n_objects, 3)  # density and presence heads, side by side in one convolution
        # The card is the only place where the statistics are kept, hence persistent=False.
        self.register_buffer("mean", _per_band(mean, 0.0, n_bands), persistent=False)
        self.register_buffer("scale", 1 / _per_band(std, 1.0, n_bands), persistent=False)
        self.mean: Tensor
        self.scale: Tensor

    @property
    def halo(self) -> int:
        """Receptive radius by construction, pixels."""
        return len(self.blocks) + 2

    def forward(self, reflectance: Tensor) -> Tensor:
        """Reflectance (n, band, y, x), NaN where there is none -> (n, 2, object, y - 2 halo, x - 2 halo).

        Index 0 of the second axis is density (objects per pixel, linear, may be negative), index 1 the presence logit.
        What is not finite becomes the training mean.
        """
        x = (reflectance - self.mean) * self.scale
        x = torch.where(torch.isfinite(x), x, torch.zeros((), dtype=x.dtype, device=x.device))
        x = self.bn(self.stem(x.contiguous(memory_format=torch.channels_last))).relu_()
        for block in self.blocks:
            x = block(x)
        return self.heads(x).unflatten(1, (2, self.n_objects))


def fold(net: DensityNet) -> DensityNet:
    """A copy for inference: batch normalisation folded into the convolutions, channels last, no gradients."""
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for module, pairs in [(net, [("stem", "bn")])] + [
        (block, [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("conv_skip", "bn_skip")])
        for block in net.blocks
    ]:
        for conv, bn in pairs:
            if isinstance(getattr(module, bn), nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, bn)))
                setattr(module, bn, nn.Identity())
    return net.to(memory_format=torch.channels_last)


def measure_halo(net: DensityNet) -> int:
    """Pixels by which the output shrinks on every side; without padding this is the receptive radius."""
    side = 2 * net.halo + 9
    with torch.inference_mode():
        out = copy.deepcopy(net).eval()(torch.zeros(1, net.n_bands, side, side))
    return (side - out.shape[-1]) // 2


def n_parameters(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters())


def _per_band(values: Sequence[float] | None, default: float, n_bands: int) -> Tensor:
    flat = [default] * n_bands if values is None else list(values)
    if len(flat) != n_bands:
        raise ValueError(f"{len(flat)} values for {n_bands} bands")
    return torch.tensor(flat, dtype=torch.float32).view(1, n_bands, 1, 1)
