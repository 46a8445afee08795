"""All municipalities of the Philippines x 6 years from a generated map, on two workers.

`bench` measures what a block costs, in one process and less time.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from subpixmap.counts.count import count_run, write_counts
from subpixmap.export.formats import export_run
from subpixmap.mapping.cluster import connect
from subpixmap.region.resolve import resolve_region
from subpixmap.runfolder import RunFolder
from tests.helpers.country_map import OBJECT, country_plan, write_country

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def family() -> Any:
    """This process and all that it started."""
    me = psutil.Process(os.getpid())
    return [me, *me.children(recursive=True)]


class Watch(threading.Thread):
    """Memory and CPU time of a process and its children, looked at every second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0, threading.Event()
        self.cpu: dict[Any, Any] = {}

    def run(self) -> None:
        while not self.over.wait(1.0):
            total = 0
            for process in family():
                try:
                    total += process.memory_info().rss
                    self.cpu[process.pid] = sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


@pytest.fixture
def region(real_data: Path) -> Any:
    return resolve_region("philippines", admin=real_data / "admin_philippines" / "phl_adm3_2019_medres.parquet")


def test_all_municipalities_of_the_philippines(region: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = country_plan(region, "2018-2023")
    out = tmp_path / "country"
    write_country(out, region, plan)
    watch = Watch()
    watch.start()
    start, before = time.perf_counter(), time.process_time()
    with connect(2, None) as client:
        counted = count_run(out, client=client)
        wall = time.perf_counter() - start
    write_counts(out, counted)
    watch.over.set()
    watch.cpu[os.getpid()] = time.process_time() - before
    first = time.perf_counter()
    export_run(RunFolder.open(out), "csv")
    again = time.perf_counter() - first
    with capsys.disabled():
        print(
            f"\n{len(region.units)} units x {len(plan.periods)} years, {plan.n_tasks} blocks x periods: "
            f"{wall / 60:.1f} min, {sum(watch.cpu.values()) / 60:.1f} min of CPU, "
            f"{watch.peak / 1e9:.2f} GB in all processes; CSV again {again:.1f} s; load {os.getloadavg()[2]:.1f}"
        )
    table = counted.table
    assert len(table) == 1647 * 6
    assert table["object"].unique().tolist() == [OBJECT]
    balance = counted.accounts.balance
    assert (balance["counted_twice"].abs() < 1e-3 * balance["map"]).all()  # some municipalities overlap
    assert watch.peak < 2e9
