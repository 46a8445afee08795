"""The network: reflectance in, objects per pixel and presence out, at full resolution throughout.

Every convolution of `DensityNet` is unpadded, so an output pixel depends on its receptive field and on nothing else: a
tile computes exactly what a whole image would. `Averaged` is the mean of several of them, over the eight turns and
mirrors if asked; `WithMembers` gives each of them beside it. `StridedNet` is what they are compared with.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def _crop(x: Tensor) -> Tensor:
    """Drop the outermost pixel, as a 3x3 convolution without padding does."""
    return x[:, :, 1:-1, 1:-1]


def halo_of(blocks: int) -> int:
    """Receptive radius of a `DensityNet`, pixels: one for each 3x3 convolution (stem, blocks, heads)."""
    return blocks + 2


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
        out: Tensor = y.add_(self.bn_skip(self.conv_skip(_crop(x)))).relu_()
        return out


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
    The output is smaller than the input by the receptive radius (`halo_of`) on every side.
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
        return halo_of(len(self.blocks))

    def forward(self, reflectance: Tensor) -> Tensor:
        """Reflectance (n, band, y, x), NaN where there is none -> (n, 2, object, y - 2 halo, x - 2 halo).

        Index 0 of the second axis is density (objects per pixel, linear, may be negative), index 1 the presence logit.
        What is not finite becomes the training mean.
        """
        out: Tensor = self.heads(self.features(reflectance)).unflatten(1, (2, self.n_objects))
        return out

    def features(self, reflectance: Tensor) -> Tensor:
        """What the heads see of it: (n, width, y, x), one pixel larger than the output on every side."""
        x = _normalised(reflectance, self.mean, self.scale)
        out: Tensor = self.bn(self.stem(x.contiguous(memory_format=torch.channels_last))).relu_()
        for block in self.blocks:
            out = block(out)
        return out


class Averaged(nn.Module):
    """Mean of several networks of one shape, each over the eight turns and mirrors of its input if asked.

    Parameters
    ----------
    members
        Networks trained apart.
    turns
        Average over the four quarter turns of the input and of its mirror image, each turned back: north then means
        nothing to the prediction, which costs eight times as much.
    """

    def __init__(self, members: Sequence[DensityNet], *, turns: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.turns = turns
        self.n_bands, self.n_objects, self.halo = members[0].n_bands, members[0].n_objects, members[0].halo

    def forward(self, reflectance: Tensor) -> Tensor:
        """As `DensityNet.forward`: the mean of densities and of presence logits."""
        return torch.stack(self.outputs(reflectance)).mean(dim=0)

    def outputs(self, reflectance: Tensor) -> list[Tensor]:
        """What every member says, view by view."""
        return [
            turned_back(net(turned(reflectance, turn, mirror)), turn, mirror)
            for turn, mirror in views(self.turns)
            for net in self.members
        ]


class WithMembers(nn.Module):
    """An average, and beside it what each of its members says alone; every member computes once.

    Parameters
    ----------
    mean
        The average of two members or more.
    """

    def __init__(self, mean: Averaged) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, reflectance: Tensor) -> Tensor:
        """As `DensityNet.forward`, (n, 1 + member, 2, object, y, x): the bits of the average and of each member."""
        outputs, n = self.mean.outputs(reflectance), len(self.mean.members)
        each = [torch.stack(outputs[k::n]).mean(dim=0) for k in range(n)]
        return torch.stack([torch.stack(outputs).mean(dim=0), *each], dim=1)


def views(turns: bool) -> list[tuple[int, bool]]:
    """Quarter turns, and whether mirrored, that `Averaged` averages over."""
    return [(turn, mirror) for mirror in (False, True) for turn in range(4)] if turns else [(0, False)]


def combined(members: Sequence[DensityNet], *, turns: bool = False) -> DensityNet | Averaged:
    """The only member itself, or the average of several or of turns."""
    return members[0] if len(members) == 1 and not turns else Averaged(members, turns=turns)


class StridedNet(nn.Module):
    """The baseline of the article in kind: down-sampling to 1/8, an atrous pyramid, bilinear upsampling (DeepLab).

    Parameters
    ----------
    n_bands, n_objects, mean, std
        As in `DensityNet`, with which it shares inputs and heads.
    width
        Features from the second stage on; the first has half of them. 128 gives 1.2 M parameters.
    halo
        Pixels of context that the input has on every side; convolutions are padded, so any number does.
    rates
        Dilations of the pyramid, in pixels of the coarsest stage.

    References
    ----------
    Chen et al., Rethinking atrous convolution for semantic image segmentation, 2017, arXiv 1706.05587: here with plain
    residual blocks trained from scratch, as there are no weights for these bands.
    """

    def __init__(
        self,
        n_bands: int,
        n_objects: int,
        *,
        width: int = 128,
        halo: int = 8,
        rates: Sequence[int] = (1, 2, 4),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.n_bands, self.n_objects, self.halo = n_bands, n_objects, halo
        self.down = nn.Sequential(
            _convolved(n_bands, width // 2, size=4, stride=2),
            _convolved(width // 2, width, size=4, stride=2),
            Residual(width),
        )
        self.coarse = nn.Sequential(_convolved(width, width, size=4, stride=2), Residual(width))
        self.pyramid = nn.ModuleList([_convolved(width, width // 2, size=1)])
        self.pyramid.extend(_convolved(width, width // 2, dilation=rate) for rate in rates)
        self.joined = _convolved(width // 2 * (1 + len(rates)), width, size=1)
        self.heads = nn.Conv2d(width, 2 * n_objects, 3, padding=1, padding_mode="replicate")
        self.register_buffer("mean", _per_band(mean, 0.0, n_bands), persistent=False)
        self.register_buffer("scale", 1 / _per_band(std, 1.0, n_bands), persistent=False)
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, reflectance: Tensor) -> Tensor:
        """As `DensityNet.forward`."""
        x = _normalised(reflectance, self.mean, self.scale)
        rows, cols = x.shape[-2:]
        x = F.pad(x, (0, -cols % 8, 0, -rows % 8), mode="replicate")
        whole, h = x.shape[-2:], self.halo
        x = self.coarse(self.down(x.contiguous(memory_format=torch.channels_last)))
        x = self.heads(self.joined(torch.cat([branch(x) for branch in self.pyramid], dim=1)))
        x = F.interpolate(x, size=whole, mode="bilinear", align_corners=False)
        out: Tensor = x[:, :, h : rows - h, h : cols - h].unflatten(1, (2, self.n_objects))
        return out


class Residual(nn.Module):
    """Two 3x3 convolutions with a skip (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _convolved(width, width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, y, x) -> the same shape."""
        out: Tensor = (x + self.bn2(self.conv2(self.conv1(x)))).relu()
        return out


def turned(x: Tensor, turn: int, mirror: bool) -> Tensor:
    """(..., y, x) by quarter turns, then mirrored."""
    x = torch.rot90(x, turn, (-2, -1))
    return x.flip(-1) if mirror else x


def turned_back(x: Tensor, turn: int, mirror: bool) -> Tensor:
    """What undoes `turned`."""
    return torch.rot90(x.flip(-1) if mirror else x, -turn, (-2, -1))


def fold(net: DensityNet | Averaged) -> DensityNet | Averaged:
    """A copy for inference: batch normalisation folded into the convolutions, channels last, no gradients."""
    net = copy.deepcopy(net).eval().requires_grad_(False)
    for member in net.modules():
        if isinstance(member, DensityNet):
            _fold_batch_norms(member)
    return net.to(memory_format=torch.channels_last)


def rounded(net: DensityNet | Averaged) -> DensityNet | Averaged:
    """A copy of a folded network with its blocks in bfloat16; stem and heads stay float32."""
    net = copy.deepcopy(net)
    for member in net.modules():
        if isinstance(member, DensityNet):
            blocks = [block.to(torch.bfloat16) for block in member.blocks]
            member.blocks = nn.ModuleList([nn.Sequential(_To(torch.bfloat16), *blocks, _To(torch.float32))])
    return net


class _To(nn.Module):
    """Into another type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def measure_halo(net: DensityNet | Averaged) -> int:
    """Pixels by which the output shrinks on every side; without padding this is the receptive radius."""
    side = 2 * net.halo + 9
    with torch.inference_mode():
        out = copy.deepcopy(net).eval()(torch.zeros(1, net.n_bands, side, side))
    return int(side - out.shape[-1]) // 2


def n_parameters(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters())


def _fold_batch_norms(net: DensityNet) -> None:
    for module, pairs in [(net, [("stem", "bn")])] + [
        (block, [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("conv_skip", "bn_skip")])
        for block in net.blocks
    ]:
        for conv, bn in pairs:
            if isinstance(getattr(module, bn), nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, bn)))
                setattr(module, bn, nn.Identity())


def _convolved(n_in: int, n_out: int, *, size: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Padded convolution, batch normalisation, ReLU. At a stride of 2 a size of 4 keeps the image in its place."""
    conv = nn.Conv2d(n_in, n_out, size, stride, dilation * ((size - 1) // 2), dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


def _normalised(reflectance: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Zero mean and unit variance; what is not finite becomes the training mean."""
    x = (reflectance - mean) * scale
    return torch.where(torch.isfinite(x), x, torch.zeros((), dtype=x.dtype, device=x.device))


def _per_band(values: Sequence[float] | None, default: float, n_bands: int) -> Tensor:
    flat = [default] * n_bands if values is None else list(values)
    if len(flat) != n_bands:
        raise ValueError(f"{len(flat)} values for {n_bands} bands")
    return torch.tensor(flat, dtype=torch.float32).view(1, n_bands, 1, 1)
