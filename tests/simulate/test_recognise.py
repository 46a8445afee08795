"""A simulated country is recognised in any order of sources and from any working directory."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from subpixmap.simulate.recognise import countries_of, is_simulated, truth_of


@pytest.fixture
def country(tmp_path: Path) -> Any:
    """What `simulate_country` leaves that matters here; the name holds what joined texts were split at."""
    folder = tmp_path / "a country, simulated"
    folder.mkdir()
    (folder / "catalog.json").write_text("{}")
    (folder / "country.json").write_text('{"seed": 1, "world": "base", "dialect": "earth-search", "epsg": 32651}')
    (folder / "truth.csv").write_text("unit_id,object,period,count\n01,coconut,2020,5\n")
    return folder


def test_the_order_of_the_sources_does_not_matter(country: Any, tmp_path: Path) -> None:
    real = tmp_path / "items.json"
    real.write_text("{}")
    sources = (str(real), str(country / "catalog.json"), "earth-search")
    for ordered in permutations(sources):
        assert is_simulated(ordered)
        truth = truth_of(ordered)
        assert truth is not None
        assert truth.to_dict("list") == {
            "unit_id": ["01"], "object": ["coconut"], "period": ["2020"], "count": [5]
        }  # fmt: skip
    assert countries_of([str(country), str(country / "catalog.json")]) == [country]


def test_the_working_directory_does_not_make_a_catalogue_simulated(
    country: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(country)
    for source in ("earth-search", "https://example.org/stac", "gone.json"):
        assert not is_simulated([source])
        assert truth_of([source]) is None


def test_two_countries_have_no_truth_in_common(country: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("catalog.json", "country.json", "truth.csv"):
        (other / name).write_bytes((country / name).read_bytes())
    assert is_simulated([str(other), str(country)])
    assert truth_of([str(other), str(country)]) is None
