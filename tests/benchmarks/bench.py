"""`make bench`: what we cost against plain code and against usual tools, as ratios of paired runs on generated places.

    python -m tests.benchmarks.bench                      the full form: some ten minutes
    python -m tests.benchmarks.bench --short              the short form: less than a minute
    python -m tests.benchmarks.bench --page docs/benchmarks.md
                                                          put the table into the page
    python -m tests.benchmarks.bench --json bench.json    write the figures there, too; a folder gets bench.json

Both sides of a ratio take turns in one process on one thread. CPU time counts, of the fastest round, so other load on
the machine matters little. The last line of output says which goals are missed. The exit code is 1 if one of those is
missed that no load can touch: the others never fail.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["GDAL_CACHEMAX"] = "48"  # MB, before the first raster is read: less than a scene, so that each round decodes

from subpixmap.mapping.cluster import KEPT_BYTES
from subpixmap.model.checkpoint import load_model
from subpixmap.model.predict import one_thread
from tests.benchmarks import country, gpu, network, whole_map
from tests.benchmarks.figures import Figure, as_markdown, machine
from tests.benchmarks.scene import make_scene

BEGIN, END = "<!-- table of make bench -->", "<!-- end of the table -->"
"""Around the table of docs/benchmarks.md."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How much is measured; sides in pixels."""

    rounds: int
    network_side: int
    side: int
    """Of the scene; a block has 1024."""
    dates: int
    """Acquisitions of the scene."""
    small: tuple[int, int]
    """Side and acquisitions of the part of it that is mapped with the whole network."""
    memory_block: int
    bf16_km: int
    """Of the country on which bfloat16 is measured; 0 leaves it out."""
    map_blocks: int
    years: str
    every: int
    """Every which block of a country is counted."""
    items: int
    """Of the plan of the Philippines; 0 leaves it out."""


FULL = Form(
    rounds=3, network_side=512, side=2048, dates=10, small=(1024, 2), memory_block=512, bf16_km=4, map_blocks=17,
    years="2018-2023", every=60, items=52_000,
)  # fmt: skip
SHORT = Form(
    rounds=2, network_side=128, side=1024, dates=2, small=(256, 4), memory_block=256, bf16_km=0, map_blocks=2,
    years="2021", every=1200, items=0,
)  # fmt: skip


def measure(form: Form, *, admin: Path | None = None) -> Iterator[Figure]:
    """Every figure, in the order of the table.

    1. The network alone. 2. A whole map, beside what others would write. 3. What a country needs. 4. A GPU.
    """
    model, rounds = load_model("demo-s2"), form.rounds
    with tempfile.TemporaryDirectory(prefix="subpixmap-bench-") as scratch, one_thread(), quiet():
        folder = Path(scratch)
        figures, tile = network.network(model, side=form.network_side, rounds=rounds)
        yield from figures
        yield network.exactness(model, side=200)
        yield network.bf16_on_this_processor(size_km=form.bf16_km)

        scene = make_scene(folder, side=form.side, dates=form.dates)
        part = scene.part(*form.small)
        yield from whole_map.around_the_network(scene.part(1024), folder, model, block=1024, rounds=rounds)
        yield from whole_map.whole(part, folder, model, block=form.small[0], rounds=rounds, tile=tile)
        yield from whole_map.usual_tools(scene.part(form.side // 2, 2), folder, model, rounds=2)
        yield from whole_map.reading(scene.part(1024, 4), rounds=rounds)
        yield from whole_map.decodes(scene, folder, model, block=1024)
        yield whole_map.tasks(part, folder, model)

        yield from country.map_on_disk(folder / "map", blocks=form.map_blocks)
        yield from country.memory(scene, folder, block=form.memory_block)
        yield country.counting(folder / "country", years=form.years, every=form.every, rounds=rounds, admin=admin)
        yield from country.planning(form.items)
        yield from gpu.gpu(km=form.bf16_km or 2)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="smaller places and fewer rounds")
    parser.add_argument("--json", type=Path, help="a file, or a folder for bench.json")
    parser.add_argument("--page", type=Path, help="a page whose table between two comments is replaced")
    parser.add_argument("--admin", type=Path, help="municipalities of the Philippines, to count by them")
    asked = parser.parse_args()
    place, figures, began = machine(), list[Figure](), time.process_time()
    for one in measure(SHORT if asked.short else FULL, admin=asked.admin):
        figures.append(one)
        print(f"{time.process_time() - began:6.1f} s of CPU  {one.key} {one.value}", file=sys.stderr)
    table = as_markdown(figures, place, short=asked.short)
    print(table)
    if asked.page:
        before, _, rest = asked.page.read_text(encoding="utf-8").partition(BEGIN)
        asked.page.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    if asked.json:
        write(asked.json, figures, place, short=asked.short)
    missed = [one.key for one in figures if one.reached is False]
    print(f"\ngoals missed: {', '.join(missed) or 'none'}")
    sys.exit(any(one.certain and one.reached is False for one in figures))


def write(path: Path, figures: list[Figure], place: dict[str, Any], *, short: bool) -> None:
    """bench.json: machine and versions, and of each key its value, goal and meaning."""
    path = path / "bench.json" if path.is_dir() else path
    told = {"form": "short" if short else "full", "machine": place}
    path.write_text(json.dumps(told | {"figures": [asdict(one) for one in figures]}, indent=1) + "\n")


def as_a_worker() -> None:
    """Start again with the memory settings of worker processes, which the C library reads once, at the start."""
    kept = {f"MALLOC_{name}_THRESHOLD_": str(KEPT_BYTES) for name in ("TRIM", "MMAP")}
    if not kept.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | kept)


if __name__ == "__main__":
    as_a_worker()
    main()
