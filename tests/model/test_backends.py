"""Backends and precisions of the network against PyTorch in float32, and against themselves in other windows."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from subpixmap.errors import InputError, Refused
from subpixmap.model import backends, device, openvino_graph
from subpixmap.model.backends import TILE, Arithmetic, network, require_here
from subpixmap.model.checkpoint import Model
from subpixmap.model.predict import predict_block, predict_members
from tests.helpers.cards import lively, small_card

BANDS = ("B02", "B03", "B04", "B08")
OPENVINO = Arithmetic(backend="openvino", tile=(32, 48))
TORCH = Arithmetic(tile=(32, 48))


def a_model(*, members: int = 1, turns: bool = False) -> Model:
    """A lively random network, or several that are averaged."""
    card = small_card(
        bands=BANDS,
        objects={"coconut": "", "car": ""},
        input_mean=(0.2,) * 4,
        input_std=(0.1,) * 4,
        input_low=(0.0,) * 4,
        input_high=(0.5,) * 4,
        width=32,
        mid=16,
        blocks=2,
        halo=4,
        calibration={"car": (0.25, 1.5)},
        members=members,
        turns=turns,
    )
    torch.manual_seed(0)
    net = card.build_net()
    for seed, member in enumerate(getattr(net, "members", [net])):
        lively(member, seed)
    return Model.of(net, card)


def a_scene(rows: int, cols: int) -> np.ndarray:
    scene = np.random.default_rng(1).uniform(0.0, 0.4, (4, rows, cols)).astype(np.float32)
    scene[:, 20:29, 30:52] = np.nan
    scene[2, 50:60, 10:14] = np.inf
    return scene


@pytest.fixture
def openvino() -> None:
    pytest.importorskip("openvino")


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize(("members", "turns"), [(1, False), (2, True)])
def test_openvino_in_float32_gives_what_pytorch_gives(members: int, turns: bool) -> None:
    model, scene = a_model(members=members, turns=turns), a_scene(80, 90)
    for got, expected in zip(
        predict_block(model, scene, arithmetic=OPENVINO), predict_block(model, scene, arithmetic=TORCH), strict=True
    ):
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
        totals, exact = (values.sum(axis=(1, 2), dtype=float) for values in (got, expected))
        assert np.abs(totals - exact).max() <= 1e-6 * np.abs(expected).sum()


@pytest.mark.usefixtures("openvino")
def test_networks_that_are_kept_apart_are_the_same_in_both() -> None:
    model, scene = a_model(members=2, turns=True), a_scene(80, 90)
    got, expected = (predict_members(model, scene, arithmetic=one) for one in (OPENVINO, TORCH))
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()
    assert np.abs(got[2][0] - got[2][1]).max() > 0.1
    assert all(
        np.array_equal(one, other)
        for one, other in zip(got, predict_block(model, scene, arithmetic=OPENVINO), strict=False)
    )


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_pixel_is_the_same_in_any_window(backend: Any, precision: Any) -> None:
    if (backend, precision) == ("openvino", "bfloat16") and not _has_bfloat16():
        pytest.skip("this processor has no units for bfloat16")
    arithmetic = Arithmetic(backend=backend, precision=precision, tile=(32, 48))
    model, scene, halo = a_model(), a_scene(80, 90), 4
    whole = predict_block(model, scene, arithmetic=arithmetic)
    for row, col, height, width in ((0, 0, 32, 48), (5, 11, 41, 50), (40, 3, 1, 60), (13, 29, 59, 1)):
        part = scene[:, row : row + height + 2 * halo, col : col + width + 2 * halo]
        for got, expected in zip(predict_block(model, part, arithmetic=arithmetic), whole, strict=True):
            assert np.array_equal(got, expected[:, row : row + height, col : col + width])


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_rounds_a_little(backend: Any, members: int) -> None:
    if backend == "openvino" and not _has_bfloat16():
        pytest.skip("this processor has no units for bfloat16")
    model, scene = a_model(members=members, turns=members > 1), a_scene(80, 90)
    arithmetic = Arithmetic(backend=backend, precision="bfloat16", tile=(32, 48))
    exact, got = (predict_block(model, scene, arithmetic=one)[0] for one in (TORCH, arithmetic))
    assert 1e-5 < np.abs(got - exact).max() / np.abs(exact).max() < 0.1
    assert got.dtype == np.float32


def test_stem_and_heads_stay_float32_in_pytorch() -> None:
    net: Any = a_model().rounded
    kinds = {name: values.dtype for name, values in net.named_parameters()}
    assert {kind for name, kind in kinds.items() if name.startswith("blocks")} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if not name.startswith("blocks")} == {torch.float32}


def _has_bfloat16() -> bool:
    return "BF16" in openvino_graph._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_recipes_of_before_are_pytorch_in_float32() -> None:
    before = {
        "device": "cpu",
        "torch": torch.__version__,
        "threads": 1,
        "tile": [64, 128],
        "batch": 1,
        "dtype": "float32",
        "memory_format": "channels_last",
    }
    assert Arithmetic.of(before) == Arithmetic() == Arithmetic.chosen(backend="torch")
    assert Arithmetic().numerics() == before


@pytest.mark.usefixtures("openvino")
def test_the_fastest_exact_backend_is_chosen_and_survives_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for units, tile in (("AMX", (256, 256)), ("AVX512", (64, 128)), ("AVX2", (256, 256)), ("aarch64", TILE)):
        monkeypatch.setattr(backends, "instruction_set", lambda units=units: units)
        chosen = Arithmetic.chosen()
        assert chosen == Arithmetic(backend="openvino", tile=tile)
        assert Arithmetic.of(chosen.numerics()) == chosen
    assert Arithmetic.chosen(precision="bfloat16").precision == "bfloat16"
    assert Arithmetic.chosen(device="cuda") == Arithmetic(device="cuda", tile=(256, 256))


def test_a_backend_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = {"backend": "openvino", "openvino": "2026.4.1"}
    monkeypatch.setattr(backends, "_openvino_version", lambda: "2027.0.0")
    monkeypatch.setattr(backends, "_has_openvino", lambda: True)
    with pytest.raises(Refused, match=r"2026\.4\.1.*2027\.0\.0"):
        require_here(planned)
    monkeypatch.setattr(backends, "_has_openvino", lambda: False)
    with pytest.raises(Refused, match=r"2026\.4\.1.*subpixmap\[fast\]"):
        require_here(planned)
    require_here({})
    assert Arithmetic.chosen().backend == "torch"
    with pytest.raises(InputError, match=r"subpixmap\[fast\]"):
        Arithmetic.chosen(backend="openvino")
    with pytest.raises(InputError, match="bfloat16"):
        Arithmetic(precision="int8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="torch"):
        Arithmetic(backend="openvino", device="cuda")


@pytest.mark.usefixtures("openvino")
def test_an_openvino_that_rounds_the_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not _has_bfloat16():
        pytest.skip("this processor has no units for bfloat16")
    monkeypatch.setattr(openvino_graph, "_marked", lambda graph: graph)
    with warnings.catch_warnings(), pytest.raises(Refused, match="float32"):
        openvino_graph.compiled(a_model(), "bfloat16", (16, 16))


def test_bfloat16_is_refused_on_a_gpu_without_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "torch_device", lambda name: "cpu")
    rounded, exact = Arithmetic(device="cuda", precision="bfloat16"), Arithmetic(device="cuda")
    for version in ((7, 5), (8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda version=version: version)
        network(a_model(), exact)
        if version < (8, 0):
            with pytest.raises(Refused, match=r"needs a GPU of compute capability 8.0 or newer, but this one has 7.5"):
                network(a_model(), rounded)
        else:
            network(a_model(), rounded)
