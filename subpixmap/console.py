"""What a run says to the person who started it: its plan, a summary, the names of its files, a log in the folder."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.errors import InputError

if TYPE_CHECKING:
    from subpixmap.mapping.needs import Needs
    from subpixmap.mapping.plan import Plan
    from subpixmap.mapping.run import Summary
    from subpixmap.scenes.lock import Item

HOURS, GIGABYTES = 24.0, 200.0
"""A run that is expected to need more of either wants --yes."""
_RECORD = set(vars(logging.makeLogRecord({})))


def show_plan(plan: Plan, items: Sequence[Item], needs: Needs, *, quiet: bool, to_stdout: bool = False) -> None:
    """The plan as a short table: stdout for `plan`, stderr before a run."""
    if quiet and not to_stdout:
        return
    per_period = Counter(item.period for item in items)
    acquisitions = {label: len({i.acquisition for i in items if i.period == label}) for label in per_period}
    found = "  ".join(f"{label}: {acquisitions.get(label, 0)}" for label in sorted(acquisitions))
    rows = {
        "region": f"{plan.region_name}, {needs.pixels * plan.recipe.resolution**2 / 1e6:,.0f} km2 mapped, "
        f"EPSG {', '.join(map(str, plan.zones))}",
        "model": f"{plan.model.name} ({', '.join(plan.objects)}); evidence: {plan.model.evidence}",
        "acquisitions": f"{needs.acquisitions} in {len(items)} items  ({found})",
        "work": f"{needs.blocks} blocks x {len(plan.periods)} periods = {needs.tasks} tasks, "
        f"{needs.predictions / 1e6:,.1f} Mpx to predict, {needs.flops / 1e12:,.1f} TFLOP",
        "reading": f"up to {_bytes(needs.read_bytes)}",
        "memory": f"about {_bytes(needs.worker_bytes)} a worker",
        "map": f"up to {_bytes(needs.map_bytes)} before compression",
        "time": f"about {_duration(needs.hours * 3600)} of arithmetic",
    }
    missing = [p.label for p in plan.periods if not acquisitions.get(p.label) and plan.recipe.every != "scene"]
    if missing:
        rows["no items"] = ", ".join(missing)
    rows["run"] = plan.run_id
    text = "\n".join(f"{name:<13}{value}" for name, value in rows.items())
    print(text, file=sys.stdout if to_stdout else sys.stderr, flush=True)


def require_consent(needs: Needs, *, yes: bool) -> None:
    """Refuse a very large run that was not asked for by --yes."""
    if not yes and (needs.hours > HOURS or needs.read_bytes > GIGABYTES * 1e9):
        raise InputError(
            f"this run would read up to {_bytes(needs.read_bytes)} and compute for about "
            f"{_duration(needs.hours * 3600)}: add --yes to start it, or look at it with `subpixmap plan`"
        )


def show_map_summary(summary: Summary, *, quiet: bool) -> None:
    """What mapping did, how long each stage took, and what held it back."""
    if quiet or not summary.done:
        return
    stages = ", ".join(f"{name} {seconds:,.0f} s" for name, seconds in summary.stages.items())
    print(
        f"map: {summary.done} done in {_duration(summary.seconds)} ({stages} over all workers; most of it "
        f"{summary.bottleneck}), peak memory of a worker {_bytes(summary.peak_rss)}"
        + (f", {summary.retries} attempts repeated" if summary.retries else "")
        + (f", {len(summary.failed)} failed" if summary.failed else ""),
        file=sys.stderr,
    )


def show_results(out: Path, *, quiet: bool) -> None:
    """The country's totals and the names of the files, on stdout."""
    if quiet:
        return
    import pandas as pd

    counts = pd.read_parquet(out / "counts.parquet")
    top = counts[counts["parent_id"].isna() | ~counts["parent_id"].isin(counts["unit_id"])]
    named_objects = top["object"] + " (" + top["measure"] + ")"
    totals = top.groupby(["period", named_objects], sort=False)["map_total_full"].sum(min_count=1)
    table = totals.unstack().rename_axis(columns=None)
    named = ", ".join(top["unit_name"].unique()[:3]) + (" ..." if top["unit_id"].nunique() > 3 else "")
    print(f"\nmap_total_full of {named}")
    print(table.to_string(float_format=lambda value: f"{value:,.0f}"))
    if (counts["evidence"] == "simulated").all():
        print("The model has only seen simulated data: these numbers are not estimates of real objects.")
    print()
    for name in ("report.html", "counts.csv", "trend.csv", "map.zarr"):
        print(out / name)


def say_files(paths: Sequence[Path], *, quiet: bool) -> None:
    """Name the files that were written, on stdout."""
    if not quiet:
        for path in paths:
            print(path)


@contextlib.contextmanager
def run_log(out: Path) -> Iterator[None]:
    """Write what happens to OUT/run.log, one JSON object a line."""
    log = logging.getLogger("subpixmap")
    handler = logging.FileHandler(out / "run.log", encoding="utf-8")
    handler.setFormatter(_JsonLines())
    log.addHandler(handler)
    level, log.level = log.level, logging.INFO
    try:
        yield
    except BaseException as error:
        log.error(f"{type(error).__name__}: {error}")
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _RECORD | {"message", "asctime"}}
        return json.dumps(told | extra, ensure_ascii=False, default=str)


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
