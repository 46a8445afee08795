"""The path of a GPU, with the processor in its place: the same code sends, cuts, computes in batches and takes back."""

from typing import Any

import numpy as np
import pytest
import torch

from subpixmap.model import device
from subpixmap.model.backends import GPU_TILE, Arithmetic
from subpixmap.model.device import Batches, outputs, packed, unpacked
from subpixmap.scenes.radiometry import to_reflectance
from tests.model.test_backends import a_model, a_scene

TILE = (32, 48)
PLACES = [(r, c, min(32, 70 - r), min(48, 80 - c)) for r in (0, 32, 64) for c in (0, 48)]


def of_numbers(rows: int, cols: int) -> Any:
    """Reflectance as read: of digital numbers, with an offset, missing and negative pixels."""
    numbers = np.random.default_rng(2).integers(0, 9000, (4, rows, cols)).astype(np.uint16)
    numbers[:, 3:9, 5:8] = 0
    return to_reflectance(numbers, -1000)


@pytest.mark.parametrize("scene", [of_numbers(78, 88), a_scene(78, 88)], ids=["numbers", "any reflectance"])
@pytest.mark.parametrize("tiles", [1, 4, 6])
def test_batches_give_what_single_tiles_give(scene: Any, tiles: int) -> None:
    net: Any = a_model().folded
    with torch.inference_mode():
        got = list(outputs(net, scene, PLACES, device="cpu", tile=TILE, halo=4, batches=Batches(tiles)))
        assert len(got) == len(PLACES)
        for (r, c, h, w), out in zip(PLACES, got, strict=True):
            part = np.full((4, 40, 56), np.nan, np.float32)
            part[:, : h + 8, : w + 8] = scene[:, r : r + h + 8, c : c + w + 8]
            assert np.allclose(out, net(torch.from_numpy(part[None]))[0].numpy(), rtol=0, atol=1e-5)


def test_reflectance_travels_in_16_bits_and_loses_none() -> None:
    scene = of_numbers(50, 60)
    small = packed(scene)
    assert small is not None
    assert small.dtype == np.uint16
    assert np.array_equal(unpacked(torch.from_numpy(small)).numpy(), scene, equal_nan=True)
    assert (scene[np.isfinite(scene)] < 0).any()
    assert packed(a_scene(20, 20)) is None
    assert packed(np.full((1, 2, 2), 6.6, np.float32)) is None  # beyond what 16 bits hold


def test_batches_are_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net, scene = a_model().folded, of_numbers(78, 88)
    with torch.inference_mode():
        expected = list(outputs(net, scene, PLACES, device="cpu", tile=TILE, halo=4, batches=Batches(1)))
    sizes = []

    class Small(torch.nn.Module):
        def forward(self, tiles: Any) -> Any:
            sizes.append(len(tiles))
            if len(tiles) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return net(tiles)

    batches = Batches(6)
    with torch.inference_mode():
        got = list(outputs(Small(), scene, PLACES, device="cpu", tile=TILE, halo=4, batches=batches))
    assert max(np.abs(one - other).max() for one, other in zip(got, expected, strict=True)) < 1e-5
    assert sizes == [6, 3, 2, 1, 3, 2, 1]
    assert batches.tiles == 2
    with pytest.raises(torch.OutOfMemoryError):
        list(outputs(NoMemory(), scene, PLACES, device="cpu", tile=TILE, halo=4, batches=Batches(4)))


class NoMemory(torch.nn.Module):
    def forward(self, tiles: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")


def test_float32_stays_float32_while_it_computes() -> None:
    seen = []

    class Looks(torch.nn.Module):
        def forward(self, tiles: Any) -> Any:
            seen.append(torch.backends.cudnn.allow_tf32)
            return tiles[:, :2, None, 4:-4, 4:-4]

    before = torch.backends.cudnn.allow_tf32
    for tf32 in (False, True):
        list(
            outputs(
                Looks(), a_scene(78, 88), PLACES[:1], device="cpu", tile=TILE, halo=4, batches=Batches(1), tf32=tf32
            )
        )
    assert seen == [False, before]
    assert torch.backends.cudnn.allow_tf32 == before


def test_recipes_of_gpus_say_what_decides_their_numbers() -> None:
    new = Arithmetic.chosen(device="cuda", precision="bfloat16")
    assert (new.tile, new.tf32) == (GPU_TILE, False)
    stated = new.numerics()
    assert (stated["batch"], stated["tf32"], stated["dtype"]) == ("any", False, "bfloat16")  # memory changes no recipe
    assert Arithmetic.of(stated) == new
    old = {"device": "cuda", "tile": [64, 128], "batch": 1, "dtype": "float32"}
    assert Arithmetic.of(old) == Arithmetic(device="cuda", tf32=True)
    assert old.items() <= Arithmetic.of(old).numerics().items()
    assert "tf32" not in Arithmetic.of(old).numerics()
    assert device.batches_for("a device", GPU_TILE) is device.batches_for("a device", GPU_TILE)
