"""The shipped models know their land: the same networks as before, with statistics whose command stands in the card."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import out_of_domain as workflow
from trees_california import NAME

from subpixmap.model.card import read_stored
from subpixmap.model.checkpoint import load_model

NAMES = (*workflow.SIMULATED, NAME)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_with_likeness_is_the_earlier_network(name: str) -> None:
    new, old = read_stored(name), read_stored(name.removesuffix("-v2"))
    assert new.tensors.keys() == old.tensors.keys()
    assert all(np.array_equal(new.tensors[key], old.tensors[key]) for key in old.tensors)
    assert new.card.likeness["made_from"] == old.sha256
    assert f"--teach {old.card.name} --output {name}.safetensors" in new.card.likeness["command"]
    cards = [json.loads(one.card.to_json()) for one in (new, old)]
    assert not old.card.likeness
    assert {k for k in cards[0] if cards[0].get(k) != cards[1].get(k)} == {"name", "likeness"}


def test_land_is_judged_in_the_chunks_of_a_map(capsys: Any) -> None:
    model = load_model("demo-rgbn-v2")
    noise = np.random.default_rng(0).normal(0, 0.03, (4, 300, 280))
    scene = (np.array(model.card.input_mean)[:, None, None] + noise).astype(np.float32)
    observed = np.ones(scene.shape[1:], bool)
    observed[:40] = False
    found = workflow.judge(model, [(scene, observed)])
    assert found["pixels"] == 260 * 280
    assert found["unlike"] > 0.9 > 0.1 > found["range_alone"]  # white noise looks like no land
    row = workflow.row_of(found, np.full(10, -5.0))
    assert row["auroc"] == 1
    workflow.show({"m": {"noise": row}})
    assert "noise" in capsys.readouterr().out


def test_what_cannot_be_measured_is_told(tmp_path: Path, capsys: Any) -> None:
    assert workflow.main([]) == 2
    assert workflow.main(["--teach", "trees-california-rgbn", "--output", str(tmp_path / "m.safetensors")]) == 2
    assert workflow.main(["--teach", "demo-rgbn"]) == 2
    told = capsys.readouterr().err
    assert told.count("--data") == 2
    assert "--output" in told
