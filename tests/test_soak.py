"""A long run: memory and open files of the workers stay what they were (`make soak`)."""

import itertools
import os
import shutil
import time

import numpy as np
import psutil
import pytest
from mapping_data import hashes, tiny

from subpixmap.mapping.cluster import connect
from subpixmap.mapping.needs import worker_memory
from subpixmap.mapping.run import map_region

MINUTES = float(os.environ.get("SUBPIXMAP_SOAK_MINUTES", "2"))
WORKERS = int(os.environ.get("SUBPIXMAP_SOAK_WORKERS", "2"))
WARM_UP = 0.25
"""Share of the time that is left out: libraries load, caches fill, the heap finds its size."""
NOISE_MB, MB_PER_HOUR = 6.0, 15.0
"""What a worker may grow by after that: a little at any length, and so much for every hour."""


def slope_per_hour(seconds, values):
    return float(np.polyfit(np.array(seconds) / 3600, values, 1)[0])


@pytest.mark.slow
def test_workers_do_not_grow(tmp_path):
    """Workers as a run starts them: spawned, with the settings that they get there."""
    country = tiny(tmp_path / "scenes", dates=2, region_px=(340, 430))
    plan, truth, samples = country.plan(), None, []
    with connect(WORKERS) as client:
        processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        start = time.monotonic()
        for number in itertools.count():
            out = tmp_path / f"run{number}"
            map_region(out, plan, country.items, country.model, client=client)
            truth = truth or hashes(out)
            assert hashes(out) == truth
            shutil.rmtree(out)
            now = time.monotonic() - start
            samples.append((now, [p.memory_info().rss / 1e6 for p in processes], [p.num_fds() for p in processes]))
            if now > MINUTES * 60 and number >= 5:
                break
    warm = [one for one in samples if one[0] > samples[-1][0] * WARM_UP]
    when = [one[0] for one in warm]
    hours = (when[-1] - when[0]) / 3600
    for k in range(len(processes)):
        megabytes = slope_per_hour(when, [one[1][k] for one in warm])
        files = slope_per_hour(when, [one[2][k] for one in warm])
        eighths = [f"{samples[len(samples) * i // 8 - 1][1][k]:.0f}" for i in range(1, 9)]
        print(
            f"worker {k}: {len(samples)} runs of {plan.n_tasks} blocks in {samples[-1][0] / 60:.1f} min; after the "
            f"first {when[0] / 60:.1f} min {megabytes:+.1f} MB/h, {files:+.1f} open files/h; MB after each eighth of "
            f"the runs: {' '.join(eighths)}"
        )
        assert megabytes * hours < NOISE_MB + MB_PER_HOUR * hours
        assert warm[-1][2][k] <= warm[0][2][k] + 8
        assert max(one[1][k] for one in samples) < worker_memory(plan) / 1e6
