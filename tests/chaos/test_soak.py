"""A long run: memory and open files of the workers stay what they were (`make soak`)."""

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from subpixmap.mapping.cluster import connect
from subpixmap.mapping.ledger import read_records
from subpixmap.mapping.needs import worker_memory
from subpixmap.mapping.run import RunProgress, map_region
from tests.helpers.mapping_data import Tiny, hashes, tiny

MINUTES = float(os.environ.get("SUBPIXMAP_SOAK_MINUTES", "2"))
WORKERS = int(os.environ.get("SUBPIXMAP_SOAK_WORKERS", "2"))
WARM_UP = 0.25
"""Share of the time that is left out: libraries load, caches fill, the heap finds its size."""
NOISE_MB, MB_PER_HOUR = 6.0, 15.0
"""What a worker may grow by after that: a little at any length, and so much for every hour."""
PERIODS = 100
"""By which the run is extended until the time is over."""


def slope_per_hour(seconds: Any, values: Any) -> Any:
    return float(np.polyfit(np.array(seconds) / 3600, values, 1)[0])


def repeated(country: Tiny, n: int) -> Tiny:
    """The only period of a country and its items, n times under other labels."""
    labels = [f"{number:05d}" for number in range(n)]
    return replace(
        country,
        periods=tuple(replace(country.periods[0], label=label) for label in labels),
        items=[replace(item, period=label) for label in labels for item in country.items],
    )


@pytest.mark.slow
def test_workers_do_not_grow(tmp_path: Path) -> None:
    """One run of many periods on workers as a run starts them: spawned, with the settings that they get there."""
    country, out = tiny(tmp_path / "scenes", years="2021", dates=2, region_px=(340, 430)), tmp_path / "run"
    once = repeated(country, 1)
    with connect(WORKERS) as client:
        map_region(tmp_path / "once", once.plan(), once.items, country.model, client=client)
        truth = hashes(tmp_path / "once")
        processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        samples: list[tuple[float, list[float], list[int]]] = []

        def look(_: RunProgress) -> None:
            now = time.monotonic()
            if not samples or now > samples[-1][0] + 1:
                memory = [process.memory_info().rss / 1e6 for process in processes]
                samples.append((now, memory, [process.num_fds() for process in processes]))

        for number in itertools.count(1):
            longer = repeated(country, PERIODS * number)
            plan = longer.plan()
            map_region(out, plan, longer.items, country.model, client=client, progress=look)
            if samples[-1][0] > samples[0][0] + MINUTES * 60:
                break
    records = read_records(out, plan)
    assert len(records) == plan.n_tasks
    assert len({(r.block_id, *sorted(r.sha256.items())) for r in records.values()}) == plan.n_tasks / len(plan.periods)
    assert {key: dict(records[key].sha256) for key in truth} == truth != {}

    start, end = samples[0][0], samples[-1][0]
    warm = [one for one in samples if one[0] > start + (end - start) * WARM_UP]
    when = [one[0] - start for one in warm]
    hours = (when[-1] - when[0]) / 3600
    for k in range(len(processes)):
        megabytes = slope_per_hour(when, [one[1][k] for one in warm])
        files = slope_per_hour(when, [one[2][k] for one in warm])
        eighths = [f"{samples[len(samples) * i // 8 - 1][1][k]:.0f}" for i in range(1, 9)]
        print(
            f"worker {k}: {plan.n_tasks} blocks x periods in {(end - start) / 60:.1f} min; after the first "
            f"{when[0] / 60:.1f} min {megabytes:+.1f} MB/h, {files:+.1f} open files/h; MB after each eighth: "
            f"{' '.join(eighths)}"
        )
        assert megabytes * hours < NOISE_MB + MB_PER_HOUR * hours
        assert warm[-1][2][k] <= warm[0][2][k] + 8
        assert max(one[1][k] for one in samples) < worker_memory(plan) / 1e6
