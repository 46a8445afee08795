"""--price: a plan tells the money, by arithmetic that anyone can repeat; nothing else depends on it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from subpixmap.errors import InputError
from subpixmap.mapping.needs import Needs
from subpixmap.mapping.plan import read_plan
from subpixmap.model.backends import Arithmetic
from subpixmap.model.checkpoint import save_model
from subpixmap.verbs.price import money, money_line, parse_prices
from subpixmap.verbs.request import Request
from subpixmap.verbs.run import _require_fit, plan
from tests.helpers import mapping_data, scenes_data

NEEDS = Needs(1, 1, 16, 3, 3.0, bytes_to_read=200e9, predicted_px=1e9, worker_memory=1e9, map_bytes=50e9)
PRICES = {"core-hour": 0.05, "gpu-hour": 3.0, "gb-month": 0.02, "gb-read": 0.01}


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        ("cpu=1", "keys are core-hour"),
        ("0.04", "write KEY=NUMBER"),
        ("core-hour", "is not a number"),
        ("core-hour=x", "is not a number"),
        ("core-hour=-1", "is not a number >= 0"),
        ("gb-month=nan", "is not a number >= 0"),
        ("gb-month=inf", "is not a number >= 0"),
    ],
)
def test_a_price_that_is_none_is_refused_in_one_line(wrong: str, because: str) -> None:
    with pytest.raises(InputError, match=because) as caught:
        Request(region="1,2,3,4", years="2020", price=(wrong,))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert wrong in str(caught.value)


def test_a_price_is_given_once() -> None:
    with pytest.raises(InputError, match="core-hour is given twice"):
        parse_prices(("core-hour=1", "core-hour=1"))


def test_the_money_of_a_processor() -> None:
    found = money(PRICES, NEEDS, device="cpu", seconds=7200, measured=False)
    assert (found.compute, found.read, found.keep, found.once) == pytest.approx((0.10, 2.0, 1.0, 2.10))
    line = money_line(PRICES, found, measured=False)
    assert "at most 0.10 for 2 core-hours" in line
    assert "together 2.10" in line
    assert "about 1.00 a month" in line
    assert "gpu-hour is not used" in line


def test_the_money_of_a_gpu_wants_a_probe() -> None:
    guessed = money(PRICES, NEEDS, device="cuda", seconds=7200, measured=False)
    assert guessed.compute is None
    assert "--probe" in money_line(PRICES, guessed, measured=False)
    probed = money(PRICES, NEEDS, device="cuda", seconds=7200, measured=True)
    assert probed.compute == pytest.approx(6.0)
    assert "about 6.00 for 2 GPU-hours" in money_line(PRICES, probed, measured=True)


def test_a_plan_tells_the_money_and_stays_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = mapping_data.tiny_model()
    save_model(tmp_path / "tiny.safetensors", model.net, model.card)
    item = scenes_data.make_item(
        tmp_path, bands=mapping_data.BANDS, size_px=256, baseline="02.14", start="20210305T021051"
    )
    west, south, *_ = item["bbox"]
    options: dict[str, Any] = {
        "region": f"{west + 0.01},{south + 0.01},{west + 0.012},{south + 0.012}",
        "years": "2021",
        "model": str(tmp_path / "tiny.safetensors"),
        "source": (str(scenes_data.write_collection(tmp_path / "items.json", [item])),),
        "workers": 2,
        "block": 256,
        "out": tmp_path / "out",
    }
    plan(Request(**options))
    assert "\nmoney" not in capsys.readouterr().out
    before = read_plan(tmp_path / "out")
    assert "money" not in before.expected
    plan(Request(**options, price=("core-hour=3600000", "gb-month=1e9")))
    assert "\nmoney" in capsys.readouterr().out
    after = read_plan(tmp_path / "out")
    expected = json.loads((tmp_path / "out" / "plan.json").read_text())["expected"]
    assert (after.run_id, after.recipe) == (before.run_id, before.recipe)
    assert {key: value for key, value in expected.items() if key != "money"} == before.expected
    assert expected["money"]["once"] == pytest.approx(expected["seconds"] * 2 * 1000)  # 1,000 a second of two cores
    assert expected["money"]["a_month"] == pytest.approx(expected["map_bytes"])
    assert expected["money"]["prices"] == {"core-hour": 3_600_000.0, "gb-month": 1e9}


def test_memory_is_checked_for_a_process_on_each_gpu_not_on_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked: list[int] = []
    job: Any = SimpleNamespace(
        plan=SimpleNamespace(recipe=SimpleNamespace(arithmetic=Arithmetic(device="cuda"))), out=""
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("subpixmap.mapping.needs.require_fit", lambda *_, workers, **__: asked.append(workers))
    for workers in (None, 1, 0):
        _require_fit(job, NEEDS, scheduler=None, workers=workers)
    assert asked == [2, 1, 1]
