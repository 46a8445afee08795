"""What a run is said to need, against what it took; and refusals that name what would fit."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from subpixmap.errors import Refused
from subpixmap.machine import peak_rss
from subpixmap.mapping.ledger import read_records
from subpixmap.mapping.needs import needs, require_fit, worker_memory
from subpixmap.mapping.run import map_region
from tests.helpers.mapping_data import Tiny, tiny


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("scenes"), dates=2, years="2021")


def test_needs_are_upper_bounds_of_what_was_taken(country: Tiny, tmp_path: Path) -> None:
    plan = country.plan(block=512, max_scenes=1)
    found = needs(plan, country.items)
    summary = map_region(tmp_path, plan, country.items, country.model, workers=0)
    records = read_records(tmp_path, plan).values()
    assert (found.tasks, found.blocks, found.items) == (4, 4, 8 // 2)
    assert found.chunks == 9
    assert sum(u.observed_px for r in records for u in r.acquisitions) <= found.predicted_px
    assert sum(r.computed_px for r in records) * 1 == found.predicted_px == found.computed_px == 4 * 5 * 128**2
    used = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert 0.1 * found.map_bytes < used < found.map_bytes  # one scene has no spread, and the tiles end in the region
    assert found.bytes_to_read > 0
    assert summary.done == 4


def test_the_peak_of_a_process_is_its_own() -> None:
    """What getrusage says of a child starts with the memory of the process that started it."""
    large = np.ones(100_000_000)  # 800 MB
    child = subprocess.run([sys.executable, "-c", "from subpixmap.machine import peak_rss; print(peak_rss())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert 5e6 < int(child.stdout) < large.nbytes < peak_rss()


def test_memory_grows_with_the_block_not_with_the_region(country: Tiny) -> None:
    small, large = country.plan(block=256), country.plan(block=512)
    assert worker_memory(small) < worker_memory(large)
    (zone,) = large.zones.values()
    one = replace(large, zones={32651: replace(zone, blocks=zone.blocks[:1])})
    assert worker_memory(one) <= worker_memory(large)


def test_what_cannot_fit_is_refused_with_what_would(
    country: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = country.plan(block=512)
    found = needs(plan, country.items)
    require_fit(plan, found, tmp_path / "not" / "there", memory=4e9, workers=2)
    limit = (worker_memory(plan) + worker_memory(country.plan(block=256))) / 2
    with pytest.raises(Refused, match=r"512.*--block 256"):
        require_fit(plan, found, tmp_path, memory=limit)
    with pytest.raises(Refused, match=r"4.*--workers 3.*--block 256"):
        require_fit(plan, found, tmp_path, memory=4 * limit, workers=4)
    with pytest.raises(Refused, match=r"512 px(?!.*--block)"):
        require_fit(plan, found, tmp_path, memory=1e8)
    with pytest.raises(Refused, match=r"1e\+09 GB"):
        require_fit(plan, replace(found, map_bytes=1e18), tmp_path, memory=None)
