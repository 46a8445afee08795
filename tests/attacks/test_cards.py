"""A checkpoint from somebody else is right or refused in one line, before anything is built from what it says."""

import contextlib
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from subpixmap.errors import InputError
from subpixmap.model.card import KEY, MOST, Card, read_stored
from subpixmap.model.checkpoint import load_model, save_model
from subpixmap.model.sealed import hash_of
from tests.helpers.cards import small_card

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("card") / "honest.safetensors"
    save_model(path, small_card().build_net(), small_card())
    return path


@pytest.fixture
def forged(tmp_path: Path, honest: Path) -> Callable[..., Path]:
    """The honest checkpoint with another card, whose hash is right; a text stands for the whole card."""

    def write(card: str | None = None, **changes: Any) -> Path:
        model = load_model(honest)
        tensors = {name: value for name, value in model.net.state_dict().items() if "num_batches" not in name}
        text = card if card is not None else json.dumps(json.loads(model.card.to_json()) | changes)
        metadata = {
            KEY: json.dumps(
                {"card": text, "sha256": hash_of(text, {name: value.numpy() for name, value in tensors.items()})}
            )
        }
        (path := tmp_path / "forged.safetensors").write_bytes(save(tensors, metadata))
        return path

    return write


def refused(path: Path) -> str:
    """The message of `load_model` and of `read_stored`; quick, and in little memory."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(InputError) as caught:
            load_model(path)
        with contextlib.suppress(InputError):  # what only a built network shows is left to `load_model`
            read_stored(path)
        assert time.process_time() - begun < 5
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_numbers_of_a_checkpoint_are_known_without_building_it(honest: Path) -> None:
    for card in (load_model(honest).card, load_model("demo-s2").card, load_model("trees-california-rgbn").card):
        net = card.build_net()
        assert card.n_values == sum(v.numel() for k, v in net.state_dict().items() if "num_batches" not in k)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("width", "mid", "blocks", "members")
          for value in (0, -1, 10**9, 2 * 10**5, 8.0, "8", None, True, [8], 1e400)],
        ("halo", -1), ("halo", 10**9), ("halo", 4.0),
        ("bands", []), ("bands", ["B02"] * 3), ("bands", [f"B{n}" for n in range(10**5)]), ("bands", "B02"),
        ("bands", ["B02", 3]), ("bands", [["B02"], ["B08"]]),
        ("objects", {}), ("objects", {f"o{n}": "x" for n in range(10**5)}), ("objects", ["coconut", "car"]),
        ("objects", {"coconut": "\x1b[2J", "car": "x"}), ("objects", {"coconut": "a" * 10**6, "car": "x"}),
        ("measure", {"coconut": "count", "car": "weight"}),
        ("input_std", [-1.0, 0.1]), ("input_std", [0.1]), ("input_std", [0.1] * 10**5), ("input_mean", ["a", "b"]),
        ("input_low", [1e400, 0.0]), ("input_high", [float("nan"), 0.0]), ("input_mean", [10**400, 0]),
        ("resolution", 0), ("resolution", -10), ("resolution", float("nan")), ("resolution", float("inf")),
        ("resolution", 1e300), ("resolution", "10"),
        ("presence_threshold", float("nan")), ("presence_threshold", 2), ("max_count_per_pixel", 0),
        ("max_count_per_pixel", float("nan")), ("calibration", {"coconut": [0.0]}), ("calibration", {"coconut": 1}),
        ("calibration", {"coconut": [10**400, 1]}), ("trimmed", {"coconut": [0, float("inf")]}),
        ("evidence", "rumour"), ("name", "\x1b]0;x\x07"), ("name", 3), ("limits", ["a", 3]), ("mask", {"objects": 3}),
        ("turns", 1), ("training", []), ("bands", ["B02", "B08", "B03"]), ("width", 64), ("blocks", 3), ("members", 2),
    ],
)  # fmt: skip
def test_absurd_cards_are_refused_before_anything_is_built(
    forged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    path = forged(**{name: value})
    monkeypatch.setattr(Card, "build_net", lambda self: pytest.fail("a network is built"))
    refused(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        DEEP,
        '{"name": ' + DEEP + "}",
        '{"width": ' + "9" * 5000 + "}",
        "\ud800",
        "{}",
        "1" * 5000,
    ],
    ids=range(10),
)
def test_cards_that_are_not_what_they_should_be(forged: Callable[..., Path], text: str) -> None:
    refused(forged(text if text != "\ud800" else '{"name": "\\ud800"}'))


@pytest.mark.parametrize(
    "inside",
    [
        DEEP,
        "[]",
        "3",
        "null",
        '{"card": 3, "sha256": "a"}',
        '{"card": "{}"}',
        '{"card": "{}", "sha256": 3}',
        "9" * 5000,
    ],
    ids=range(8),
)
def test_metadata_that_lies(tmp_path: Path, inside: str) -> None:
    (path := tmp_path / "a.safetensors").write_bytes(save({"a": torch.zeros(2)}, {KEY: inside}))
    refused(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 200_000) + DEEP.encode(),
        *(
            struct.pack("<Q", len(header)) + header + b"\0" * 8
            for header in (
                b'{"a": {"dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 8]}}',
                b'{"a": {"dtype": "F32", "shape": [1000000, 1000000], "data_offsets": [0, 4000000000000]}}',
                b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
                b'{"a": {"dtype": "XX", "shape": [2], "data_offsets": [0, 8]}}',
                b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}',
            )
        ),
    ],
    ids=range(11),
)
def test_headers_that_lie(tmp_path: Path, data: bytes) -> None:
    (path := tmp_path / "a.safetensors").write_bytes(data)
    refused(path)


def test_a_card_within_the_limits_is_read_at_them() -> None:
    card = small_card(width=MOST["width"], mid=MOST["mid"], blocks=MOST["blocks"], halo=MOST["blocks"] + 2)
    assert Card.from_json(card.to_json()) == card


@pytest.mark.parametrize("kind", ["folder", "missing", "empty name", "nul"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    kinds: dict[str, str | Path] = {"folder": tmp_path, "missing": tmp_path / "no", "empty name": "", "nul": "\0"}
    path = kinds[kind]
    for read in (load_model, read_stored):
        with pytest.raises(InputError, match="no model"):
            read(path)
