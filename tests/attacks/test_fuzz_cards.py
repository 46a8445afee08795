"""Cards at random: a checkpoint whose card or bytes are damaged is loaded rightly, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from subpixmap.model.card import KEY
from subpixmap.model.checkpoint import Model, load_model, save_model
from subpixmap.model.sealed import hash_of
from tests.helpers.cards import small_card
from tests.helpers.fuzz import LONG, QUICK, command, damaged_bytes, damaged_json, right_or_refused


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, bytes]:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("card") / "small.safetensors"
    model = save_model(path, small_card().build_net(), small_card())
    path.with_suffix(".card.json").unlink()
    return path, model, path.read_bytes()


def attack(saved: tuple[Path, Model, bytes], data: Any) -> None:
    path, model, whole = saved
    tensors = {name: value for name, value in model.net.state_dict().items() if "num_batches" not in name}
    if data.draw(st.integers(0, 3)):
        card = json.dumps(data.draw(damaged_json(json.loads(model.card.to_json()))))
        digest = hash_of(card, {name: value.numpy() for name, value in tensors.items()})
        path.write_bytes(save(tensors, {KEY: json.dumps({"card": card, "sha256": digest})}))
        loaded = right_or_refused(lambda: load_model(path))
        if loaded is not None:
            assert sum(one.numel() for one in loaded.net.state_dict().values()) < 10 * loaded.card.n_values
    else:
        path.write_bytes(changed := data.draw(damaged_bytes(whole)))
        loaded = right_or_refused(lambda: load_model(path))
        assert loaded is None or changed == whole or loaded.sha256 == model.sha256
    command("models", path)


@QUICK
@given(data=st.data())
def test_cards(saved: tuple[Path, Model, bytes], data: Any) -> None:
    attack(saved, data)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_cards_for_long(saved: tuple[Path, Model, bytes], data: Any) -> None:
    attack(saved, data)
