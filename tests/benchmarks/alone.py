"""Measurements of memory, each in a process of its own: `python -m tests.benchmarks.alone NAME ...` prints JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from subpixmap.machine import peak_rss
from subpixmap.mapping.needs import needs
from subpixmap.mapping.plan import make_plan
from subpixmap.mapping.run import map_region, pending_tasks
from subpixmap.model.checkpoint import load_model
from subpixmap.periods import make_periods
from subpixmap.region.resolve import resolve_region
from tests.benchmarks.scene import load, without_network
from tests.helpers.country_lock import generated_lock
from tests.helpers.mapping_data import tiny_model


def alone(name: str, *arguments: object) -> dict[str, float]:
    """What a new process says."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.alone", name, *map(str, arguments)]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def mapping(folder: str, side: str, block: str) -> dict[str, float]:
    """Peak memory of a process that maps a region of a saved scene, without the network."""
    scene, model = load(Path(folder), int(side)), without_network(load_model("demo-s2"))
    plan = scene.plan(model, block=int(block))
    with tempfile.TemporaryDirectory() as out:
        map_region(Path(out) / "run", plan, list(scene.items), model, workers=0)
    return {"peak_mb": peak_rss() / 1e6}


def planning(n: str) -> dict[str, float]:
    """Seconds of CPU and peak memory to plan the Philippines for six years from a lock of about n items."""
    region, periods, model = resolve_region("philippines"), make_periods("2018-2023"), tiny_model()
    items = generated_lock(region, periods, int(n))
    before, began = peak_rss(), time.process_time()
    plan = make_plan(region, periods, items, model)
    found = needs(plan, items)
    with tempfile.TemporaryDirectory() as out:
        tasks = pending_tasks(Path(out), plan, items)
    assert len(tasks) == found.tasks == plan.n_tasks
    told: dict[str, Any] = {"seconds": time.process_time() - began, "peak_mb": peak_rss() / 1e6}
    return told | {"items": len(items), "tasks": len(tasks), "before_mb": before / 1e6}


if __name__ == "__main__":
    print(json.dumps(mapping(*sys.argv[2:]) if sys.argv[1] == "mapping" else planning(*sys.argv[2:])))
