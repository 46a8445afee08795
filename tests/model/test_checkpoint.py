import contextlib
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subpixmap.errors import InputError
from subpixmap.model.card import Card, shipped_models
from subpixmap.model.checkpoint import Model, load_model, save_model
from subpixmap.model.net import DensityNet
from tests.helpers.cards import small_card
from tests.helpers.mapping_data import raising


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = small_card()
    save_model(tmp_path / "small.safetensors", card.build_net(), card)
    return tmp_path / "small.safetensors"


def test_round_trip(saved: Path) -> None:
    model = load_model(saved)
    assert model.card == small_card()
    assert model.halo == 4
    assert Model.of(model.net, model.card).sha256 == model.sha256
    assert json.loads(saved.with_suffix(".card.json").read_text())["objects"]["car"] == "parked car"
    again = saved.with_name("again.safetensors")
    save_model(again, model.net, model.card)
    assert again.read_bytes() == saved.read_bytes()
    assert sorted(p.suffix for p in saved.parent.iterdir()) == [".json"] * 4 + [".safetensors"] * 2


def test_every_flipped_bit_is_found(saved: Path) -> None:
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, header, 200), *rng.integers(header, len(whole), 100), *range(8), header - 1, header]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(flipped)
        with pytest.raises(InputError):
            load_model(saved)
    saved.write_bytes(whole)
    load_model(saved)


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 3000, -1])
def test_truncated(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"small\.safetensors"):
        load_model(saved)


class Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    path, marker = tmp_path / "m.safetensors", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Trap(marker))) if how == "pickle" else torch.save(Trap(marker), path)
    with pytest.raises(InputError, match=r"m\.safetensors"):
        load_model(path)
    assert not marker.exists()


def test_unknown_model_lists_the_shipped_ones() -> None:
    with pytest.raises(InputError, match=r"nope.*" + ".*".join(shipped_models())):
        load_model("nope")


def test_card_beside_must_agree(saved: Path) -> None:
    beside = saved.with_suffix(".card.json")
    beside.write_text(beside.read_text().replace("parked car", "any car"))
    with pytest.raises(InputError, match=r"small\.card\.json"):
        load_model(saved)
    beside.write_text("{")
    with pytest.raises(InputError, match=r"small\.card\.json"):
        load_model(saved)
    beside.unlink()
    assert load_model(saved).card == small_card()


def test_a_card_must_describe_its_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.safetensors.*small"):
        save_model(tmp_path / "a.safetensors", DensityNet(2, 2, width=8, mid=4, blocks=3), small_card())
    with pytest.raises(InputError, match=r"a\.pt.*\.safetensors"):
        save_model(tmp_path / "a.pt", small_card().build_net(), small_card())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input_std": (0.0, 0.1)}, "input_std"),
        ({"input_mean": (0.1,)}, r"input_mean.*2"),
        ({"bands": ("B02", "B02")}, r"bands.*B02"),
        ({"measure": {"coconut": "count"}}, "measure"),
        ({"evidence": "hearsay"}, "evidence"),
        ({"calibration": {"olive": (0, 1)}}, "olive"),
        ({"input_low": (float("nan"), 0.0)}, "input_low"),
    ],
)
def test_a_wrong_card_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        small_card(**change)


def test_a_foreign_card_field_is_named() -> None:
    fields = dataclasses.asdict(small_card())
    with pytest.raises(InputError, match="colour"):
        Card.from_json(json.dumps({**fields, "colour": 1}))
    del fields["bands"]
    with pytest.raises(InputError, match="bands"):
        Card.from_json(json.dumps(fields))


@pytest.mark.parametrize("other", [None, 1, "x", True, [], [1], {}, {"a": 1}, {"coconut": [1]}, [[1, 2]]])
def test_a_field_of_another_type_is_refused_or_means_something(other: Any) -> None:
    fields = json.loads(small_card().to_json())
    for name in fields:
        with contextlib.suppress(InputError):
            Card.from_json(json.dumps({**fields, name: other}))


def test_a_mistake_of_ours_is_not_taken_for_a_bad_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = small_card()
    save_model(tmp_path / "a.safetensors", card.build_net(), card)
    for error in (AttributeError, TypeError, ValueError, KeyError):
        monkeypatch.setattr(Card, "from_json", raising(error))
        with pytest.raises(error) as raised:
            load_model(tmp_path / "a.safetensors")
        assert not isinstance(raised.value, InputError)


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
a_card: dict[str, st.SearchStrategy[Any]] = {
    "name": words,
    "sensor": words,
    "level": words,
    "resolution": st.floats(0.1, 100),
    "width": st.integers(1, 512),
    "members": st.integers(1, 5),
    "turns": st.booleans(),
    "calibration": st.dictionaries(st.just("coconut"), st.tuples(numbers, numbers)),
    "trimmed": st.dictionaries(st.just("coconut"), st.tuples(numbers, numbers)),
    "presence_threshold": st.floats(0, 1),
    "training": st.dictionaries(words, numbers | words | st.lists(words)),
    "limits": st.lists(words).map(tuple),
}


@settings(deadline=None)
@given(values=st.fixed_dictionaries({}, optional=a_card))
def test_every_field_of_a_card_survives(values: dict[str, Any]) -> None:
    card = dataclasses.replace(small_card(), **values)
    assert Card.from_json(card.to_json()) == card


def test_a_weight_that_is_no_number_is_refused(tmp_path: Path) -> None:
    card = small_card()
    net: Any = card.build_net()
    net.stem.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"a\.safetensors"):
        save_model(tmp_path / "a.safetensors", net, card)
