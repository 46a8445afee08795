import dataclasses

import pytest
import torch
from torch import nn

from subpixmap.model.net import DensityNet
from subpixmap.training.config import TrainConfig
from subpixmap.training.optimize import KernelMuon, make_optimizers
from subpixmap.training.train import train
from tests.helpers.patches import some_patches
from tests.helpers.trainings import SMALL, a_card, weights

ADAMW = dataclasses.replace(SMALL, muon_rate=0.0)


def kernel(*shape: int) -> nn.Parameter:
    return nn.Parameter(
        torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    )


@pytest.mark.parametrize("shape", [(6, 4, 1, 1), (4, 6, 3, 3)])
def test_a_kernel_moves_as_its_matrix_would(shape: tuple[int, ...]) -> None:
    mine = kernel(*shape)
    matrix = nn.Parameter(mine.detach().clone().contiguous().flatten(1))  # columns in another order: (in, y, x)
    ours = KernelMuon([mine], lr=0.01)
    theirs = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    before = mine.detach().clone()
    for step in range(3):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step + 1))
        mine.grad, matrix.grad = gradient.clone(memory_format=torch.channels_last), gradient.flatten(1)
        ours.step()
        theirs.step()
    moved = (mine.detach() - before).flatten(1)
    assert moved.abs().max() > 0.005
    # It iterates in bfloat16, where the order of columns rounds differently.
    assert torch.allclose(mine.detach().flatten(1), matrix.detach(), atol=0.03 * float(moved.abs().max()))


def test_kernels_must_share_their_memory() -> None:
    with pytest.raises(ValueError, match="channels-last"):
        KernelMuon([nn.Parameter(torch.zeros(4, 3, 3, 3))], lr=0.01)


@pytest.mark.parametrize("config", [SMALL, ADAMW])
def test_every_parameter_is_moved_by_one_optimizer(config: TrainConfig) -> None:
    net = DensityNet(3, 2, width=8, mid=4, blocks=2).to(memory_format=torch.channels_last)
    optimizers = make_optimizers(net, config)
    moved = [p.data_ptr() for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(moved) == sorted(p.data_ptr() for p in net.parameters())
    assert len(optimizers) == (2 if config.muon_rate else 1)
    heads = {p.data_ptr() for p in net.heads.parameters()}
    of_heads = [g for g in optimizers[0].param_groups if {p.data_ptr() for p in g["params"]} & heads]
    assert {g["peak"] for g in of_heads} == {config.rate * config.head_rate}


def test_it_decides_the_weights() -> None:
    patches = some_patches()
    card = a_card(patches)
    with_it, without = (weights(train(patches, card, config, progress=None)) for config in (SMALL, ADAMW))
    assert not torch.equal(with_it[0], without[0])
