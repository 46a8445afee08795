import pytest
import torch

from subpixmap.model.net import DensityNet, fold, measure_halo, n_parameters


def lively(net: DensityNet, seed: int = 0) -> DensityNet:
    """Give batch normalisation statistics as training would, so that folding and clipping have something to do."""
    gen = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3, generator=gen)
            module.running_var.uniform_(0.5, 2.0, generator=gen)
            module.weight.data.uniform_(0.5, 1.5, generator=gen)
            module.bias.data.uniform_(-0.2, 0.2, generator=gen)
    for block in net.blocks:
        block.bn3.weight.data *= 6  # as much from the block as from its skip: the whole receptive field matters
    return net.eval()


@pytest.mark.parametrize(("width", "mid", "millions"), [(256, 64, 0.53), (128, 32, 0.14)])
def test_size_is_the_papers(width: int, mid: int, millions: float) -> None:
    net = DensityNet(10, 4, width=width, mid=mid)
    assert n_parameters(net) / 1e6 == pytest.approx(millions, abs=0.005)
    assert measure_halo(net) == net.halo == 8


@pytest.mark.parametrize("blocks", [1, 6])
def test_receptive_radius_is_the_halo(blocks: int) -> None:
    torch.manual_seed(1)
    net = lively(DensityNet(3, 2, width=16, mid=8, blocks=blocks))
    side = 2 * net.halo + 21
    x = torch.rand(1, 3, side, side, requires_grad=True)
    out = net(x)
    out[0, :, :, 10, 10].sum().backward()
    reached = x.grad.abs().sum(dim=(0, 1)) > 0
    rows = torch.nonzero(reached.any(dim=1)).ravel()
    assert (rows.min().item(), rows.max().item()) == (10, 10 + 2 * net.halo)
    assert out.shape == (1, 2, 2, 21, 21)


def test_folded_is_the_same_function() -> None:
    torch.manual_seed(2)
    net = lively(DensityNet(10, 4, mean=[0.1] * 10, std=[0.05] * 10))
    x = torch.rand(1, 10, 40, 44) * 0.4
    with torch.inference_mode():
        a, b = net(x), fold(net)(x)
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fold(net).modules())


def test_missing_input_is_the_training_mean() -> None:
    torch.manual_seed(3)
    net = lively(DensityNet(2, 1, width=8, mid=4, mean=[0.1, 0.3], std=[0.05, 0.1]))
    x = torch.rand(1, 2, 20, 20)
    filled = x.clone()
    x[:, 1, 8:12, 8:12], filled[:, 1, 8:12, 8:12] = torch.nan, 0.3
    x[:, 0, 3, 3], filled[:, 0, 3, 3] = torch.inf, 0.1
    with torch.inference_mode():
        assert torch.equal(net(x), net(filled))


def test_training_reaches_every_parameter() -> None:
    net = DensityNet(4, 2, width=8, mid=4, blocks=2)
    net(torch.rand(2, 4, 12, 12)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
