"""The path of a GPU, with the processor in its place: the same code sends, cuts, computes in batches and takes back."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from subpixmap.model import device
from subpixmap.model.backends import GPU_TILE, Arithmetic
from subpixmap.model.device import Batches, DeviceWindow, outputs
from subpixmap.model.packing import packed, unpacked
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
    assert np.array_equal(unpacked(torch.from_numpy(small.view(np.int16))).numpy(), scene, equal_nan=True)
    assert (scene[np.isfinite(scene)] < 0).any()
    assert packed(a_scene(20, 20)) is None
    assert packed(np.full((1, 2, 2), 6.6, np.float32)) is None  # beyond what 16 bits hold


def test_a_gpu_divides_as_the_processor_does() -> None:
    """PyTorch on CUDA multiplies by the reciprocal of a divisor that lies in the host's memory: another rounding."""
    divisors = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket is torch.ops.aten.div:
                divisors.append(args[1])
            return func(*args, **(kwargs or {}))

    with Watched():  # type: ignore[no-untyped-call]
        unpacked(torch.empty((2, 3), dtype=torch.int16, device="meta"))
    assert [(type(one), one.device.type) for one in divisors] == [(torch.Tensor, "meta")]
    numbers = (np.arange(65535, dtype=np.float32) - 1000) / np.float32(10000)
    small = packed(numbers[None, None])
    assert small is not None
    assert (small[0, 0] == np.arange(1, 65536)).all()
    assert (unpacked(torch.from_numpy(small.view(np.int16))).numpy() == numbers).all()
    assert packed(numbers[None, None, :1] - np.float32(1e-4)) is None  # 0 is the missing pixel


def as_delivered(rows: int, cols: int, phase: tuple[int, int]) -> Any:
    """Ten bands of digital numbers, the last six of 20 m: a pixel of them is the same in a square of 2 x 2."""
    rng = np.random.default_rng(3)
    numbers = rng.integers(0, 60000, (10, rows, cols)).astype(np.uint16)
    coarse = rng.integers(0, 60000, (6, rows // 2 + 2, cols // 2 + 2)).astype(np.uint16)
    coarse[:, 1:4, 2:5] = 0
    row, col = (2 - first for first in phase)
    numbers[4:] = coarse.repeat(2, 1).repeat(2, 2)[:, row : row + rows, col : col + cols]
    return to_reflectance(numbers, -1000)


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(("rows", "cols"), [(90, 140), (141, 77), (1, 6), (3, 1)])
def test_bands_of_20_m_travel_with_each_pixel_once(phase: tuple[int, int], rows: int, cols: int) -> None:
    scene = as_delivered(rows, cols, phase)
    sent = DeviceWindow(scene, "cpu")
    assert np.array_equal(unpacked(sent.tensor()).numpy(), scene, equal_nan=True)
    if min(rows, cols) > 6:
        coarse = np.prod(
            [len({(at - first) // 2 for at in range(side)}) for side, first in ((rows, phase[0]), (cols, phase[1]))]
        )
        assert sent.nbytes == 2 * (4 * rows * cols + 6 * coarse)
    if (rows, cols, phase) == (90, 140, (0, 0)):
        assert sent.nbytes == 11 * rows * cols


def test_a_band_that_differs_in_one_pixel_travels_whole() -> None:
    scene = as_delivered(80, 90, (1, 0))
    for band, row, col in ((4, 79, 3), (5, 40, 89), (6, 0, 0)):
        broken = scene.copy()
        broken[band, row, col] = np.nan if np.isfinite(broken[band, row, col]) else np.float32(0.5)
        sent = DeviceWindow(broken, "cpu")
        assert np.array_equal(unpacked(sent.tensor()).numpy(), broken, equal_nan=True)
        assert 2 * 80 * 90 * 4 < sent.nbytes <= DeviceWindow(scene, "cpu").nbytes + 2 * 80 * 90
    scene[0, 0, 0] = np.pi  # not of a digital number: all stays float32, the bands of 20 m still with each pixel once
    sent = DeviceWindow(scene, "cpu")
    assert np.array_equal(sent.tensor().numpy(), scene, equal_nan=True)
    assert sent.nbytes < 0.6 * scene.nbytes


class Recorded:
    """Stands for `torch.cuda`: streams that run apart, and what each of them is sure to run after.

    Every stream, and the host, has a clock: how many steps of which stream lie surely behind it. A step of a stream
    counts on; an event carries a clock from the stream that records it to whoever waits for it.
    """

    def __init__(self) -> None:
        self.clocks: dict[str, Counter[str]] = {}
        self.current = "usual"
        self.names = iter(["there", "back"])
        self.steps: list[tuple[str, str, Counter[str]]] = []

    def Stream(self) -> str:
        return next(self.names)

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        before, self.current = self.current, name
        yield
        self.current = before

    def Event(self) -> "RecordedEvent":
        return RecordedEvent(self)

    def clock(self, name: str) -> Counter[str]:
        return self.clocks.setdefault(name, Counter())

    def step(self, what: str) -> None:
        """Something runs on the current stream, after all that this stream has waited for."""
        clock = self.clock(self.current)
        clock[self.current] += 1
        self.steps.append((what, self.current, Counter(clock)))


class RecordedEvent:
    def __init__(self, module: Recorded) -> None:
        self.module = module
        self.clock: Counter[str] | None = None

    def record(self, stream: str | None = None) -> None:
        self.clock = Counter(self.module.clock(stream or self.module.current))

    def _reach(self, who: str) -> None:
        assert self.clock is not None, "nobody recorded it: on a GPU, waiting for it waits for nothing"
        self.module.clocks[who] = self.module.clock(who) | self.clock

    def wait(self) -> None:
        self._reach(self.module.current)

    def synchronize(self) -> None:
        self._reach("host")


def test_copies_run_beside_the_network_and_what_needs_them_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    module, net, sent_by, taken_by = Recorded(), a_model().folded, device._copied, torch.Tensor.copy_
    streams = device.Streams(module, module.Stream(), module.Stream())
    monkeypatch.setattr(device, "streams_of", lambda name: streams)

    def copied(values: Any, where: str) -> Any:
        module.step("copied there")
        return sent_by(values, where)

    def copied_back(self: Any, *args: Any, **options: Any) -> Any:
        module.step("copied back")
        return taken_by(self, *args, **options)

    class Computed(torch.nn.Module):
        def forward(self, tiles: Any) -> Any:
            module.step("computed")
            return net(tiles)

    monkeypatch.setattr(device, "_copied", copied)
    monkeypatch.setattr(torch.Tensor, "copy_", copied_back)
    scene = of_numbers(78, 88)
    monkeypatch.setattr(device, "torch_device", lambda name: "cpu")
    one, following = DeviceWindow(scene, "gpu"), DeviceWindow(scene, "gpu")
    one.copy_early()
    following.copy_early()
    with torch.inference_mode():
        for n, _ in enumerate(outputs(Computed(), one, PLACES, device="gpu", tile=TILE, halo=4, batches=Batches(2))):
            assert module.clock("host")["back"] > n // 2, "taken before it was copied"
    computed = [clock for what, stream, clock in module.steps if (what, stream) == ("computed", "usual")]
    back = [clock for what, stream, clock in module.steps if (what, stream) == ("copied back", "back")]
    there = [clock for what, stream, clock in module.steps if (what, stream) == ("copied there", "there")]
    assert (len(computed), len(back), len(there), len(module.steps)) == (3, 3, 2, 8)
    assert all(clock["there"] == 1 for clock in computed)  # after its own window, not after the next one
    assert [clock["usual"] for clock in back] == [1, 2, 3]
    assert all(clock["back"] == 0 for clock in computed)  # no batch waits for copies back
    assert all(clock["usual"] == clock["back"] == 0 for clock in there)  # nor a copy there for the network


def test_few_windows_lie_on_the_device_and_a_full_one_takes_them_later(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, copied, copies = of_numbers(20, 30), device._copied, list[Any]()

    def copy(values: Any, where: str) -> Any:
        if full:
            raise torch.OutOfMemoryError("no room")
        copies.append(values)
        return copied(values, where)

    monkeypatch.setattr(device, "_copied", copy)
    full = False
    windows = [DeviceWindow(scene, "cpu") for _ in range(5)]
    for window in windows:
        window.copy_early()
    assert len(copies) == device._AHEAD == 3
    assert np.array_equal(unpacked(windows[4].tensor()).numpy(), scene, equal_nan=True)  # later, when it is its turn
    assert len(copies) == 4
    del windows[0]
    windows[2].copy_early()
    assert len(copies) == 5
    del windows[0], windows[0]
    full = True
    windows[1].copy_early()
    full = False
    assert np.array_equal(unpacked(windows[1].tensor()).numpy(), scene, equal_nan=True)


def test_a_network_is_copied_to_a_device_once_and_stays_where_it_is() -> None:
    net = a_model().folded
    there = device.on_device(net, "meta")
    assert device.on_device(net, "meta") is there
    assert {one.device.type for one in there.parameters()} == {"meta"}
    assert {one.device.type for one in net.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_batches_are_halved_whoever_says_that_memory_ran_out(text: str) -> None:
    net = a_model().folded

    class Small(torch.nn.Module):
        def forward(self, tiles: Any) -> Any:
            if len(tiles) > 3:
                raise RuntimeError(text)
            return net(tiles)

    class Wrong(torch.nn.Module):
        def forward(self, tiles: Any) -> Any:
            raise RuntimeError("another error")

    scene, batches = of_numbers(78, 88), Batches(6)
    with torch.inference_mode():
        got = list(outputs(Small(), scene, PLACES, device="cpu", tile=TILE, halo=4, batches=batches))
    assert (len(got), batches.tiles) == (6, 3)
    with pytest.raises(RuntimeError, match="another error"):
        list(outputs(Wrong(), scene, PLACES, device="cpu", tile=TILE, halo=4, batches=Batches(6)))


def test_memory_of_a_batch_that_was_too_large_is_free_before_the_next_try() -> None:
    net, alive = a_model().folded, list[Any]()

    class Small(torch.nn.Module):
        def forward(self, tiles: Any) -> Any:
            assert not any(ref() is not None for ref in alive), "the failed batch still holds its memory"
            if len(tiles) > 2:
                held = torch.ones(1000)
                alive.append(weakref.ref(held))
                raise torch.OutOfMemoryError("out of memory")
            return net(tiles)

    with torch.inference_mode():
        list(outputs(Small(), of_numbers(78, 88), PLACES, device="cpu", tile=TILE, halo=4, batches=Batches(6)))
    assert len(alive) == 3


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
