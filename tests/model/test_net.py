import pytest
import torch

from subpixmap.model.net import (
    Averaged,
    DensityNet,
    StridedNet,
    fold,
    measure_halo,
    n_parameters,
    turned,
    turned_back,
)
from tests.helpers.cards import lively


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
    assert x.grad is not None
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


def test_turns_and_members_are_averaged() -> None:
    torch.manual_seed(4)
    members = [lively(DensityNet(3, 2, width=8, mid=4, blocks=1), seed=k) for k in range(3)]
    x = torch.rand(2, 3, 15, 19)
    with torch.inference_mode():
        plain = Averaged(members)(x)
        assert torch.allclose(plain, sum(net(x) for net in members) / 3, atol=1e-6)
        net = Averaged(members, turns=True)
        there = net(x)
        assert not torch.allclose(there, plain, atol=1e-3)
        for turn, mirror in [(1, False), (2, True), (3, True), (0, True)]:
            again = turned_back(net(turned(x, turn, mirror)), turn, mirror)
            assert torch.allclose(again, there, atol=1e-5)
        assert torch.allclose(fold(net)(x), there, atol=1e-5)
    assert measure_halo(net) == members[0].halo
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fold(net).modules())


@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (37, 50)])
def test_strided_has_the_same_inputs_and_outputs(rows: int, cols: int) -> None:
    torch.manual_seed(5)
    net = StridedNet(4, 2, width=16, halo=5, mean=[0.1] * 4, std=[0.05] * 4)
    x = torch.rand(2, 4, rows, cols)
    x[:, 1, 3, 4] = torch.nan
    out = net(x)
    assert out.shape == (2, 2, 2, rows - 10, cols - 10) == DensityNet(4, 2, width=8, mid=4, blocks=3)(x).shape
    assert torch.isfinite(out).all()
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_strided_output_lies_where_its_input_does() -> None:
    # With equal weights the response to a bright pixel is symmetric about it, on the mean over the phases of a stride.
    # Far from the edges, which would cut it on one side, and in double precision, of which it is a tiny part.
    net = StridedNet(1, 1, width=8, halo=0).eval().double()
    for weight in net.parameters():
        if weight.ndim == 4:
            torch.nn.init.constant_(weight, 0.01)
    position = torch.arange(224.0, dtype=torch.float64)
    offsets = []
    for at in range(108, 116):
        x = torch.zeros(1, 1, 224, 224, dtype=torch.float64)
        x[0, 0, at, 112] = 1.0
        with torch.inference_mode():
            rows = (net(x) - net(0 * x))[0, 0, 0].sum(dim=1)
        offsets.append(float((rows * position).sum() / rows.sum()) - at)
    assert max(map(abs, offsets)) < 4
    assert sum(offsets) / 8 == pytest.approx(0, abs=1e-9)
