"""What one block took, scaled to the plan: against what the plan then takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from subpixmap.errors import InputError
from subpixmap.mapping.needs import needs
from subpixmap.mapping.plan import read_plan
from subpixmap.mapping.probe import probe
from subpixmap.mapping.run import map_region
from tests.helpers.mapping_data import tiny


def bytes_in(folder: Any) -> Any:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_probe_tells_the_room_of_the_map_and_leaves_nothing(tmp_path: Path) -> None:
    country = tiny(tmp_path / "scenes", dates=2, years="2021")
    plan = country.plan()
    whole = needs(plan, country.items)
    found = probe(plan, country.items, country.model, whole)
    assert found.period == "2021"
    assert found.stages.keys() == {"read", "wait", "network", "write"}
    assert found.expected_seconds == pytest.approx(found.seconds * whole.predicted_px / (2 * 256**2))
    out = tmp_path / "run"
    map_region(out, plan, country.items, country.model, workers=0)
    used = bytes_in(out / "map.zarr") + bytes_in(out / "ledger")
    assert 0.5 * used < found.expected_bytes < 2 * used  # the region's edge blocks are half empty
    with pytest.raises(
        InputError, match=r"--probe: no block of region .* has an acquisition in 2021; choose other periods"
    ):
        probe(plan, [], country.model, whole)


def test_a_plan_with_a_probe_is_in_the_table_and_in_the_file(
    country: Path, stand_in: Path, tmp_path: Path, subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    asked = ["--region", country / "region.geojson", "--years", "2020", "--source", country / "catalog.json"]
    assert subpixmap("plan", *asked, "--model", stand_in, "--out", out, "--block", "256", "--probe") == 0
    told = capsys.readouterr().out
    assert "(block 326" in told
    expected = read_plan(out).expected
    assert expected["probe"]["seconds"] > 0
    assert expected["tasks"] == json.loads((out / "plan.json").read_text())["expected"]["tasks"] > 0
    assert expected["map_bytes"] == expected["probe"]["expected_bytes"] > 0
