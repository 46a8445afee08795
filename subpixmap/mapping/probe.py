"""Maps one block to predict the time of the whole plan on this machine and the disk space of its map."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.errors import InputError
from subpixmap.mapping.metadata import create_map
from subpixmap.mapping.needs import Needs, needs
from subpixmap.mapping.plan import Plan, write_plan
from subpixmap.mapping.run import pending_tasks
from subpixmap.mapping.task import map_block
from subpixmap.mapping.zones import Zone
from subpixmap.progress import track
from subpixmap.scenes.items import Item

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model


@dataclass(frozen=True)
class Probe:
    """Measurements of one block, and predictions for the plan."""

    block_id: str
    period: str
    """Label."""
    seconds: float
    """Wall time of the block in one process."""
    stages: Mapping[str, float]
    """Of these, by stage: read, wait, network, write."""
    peak_rss: int
    """Of the process, bytes."""
    expected_seconds: float
    """Of the whole plan in one process."""
    expected_bytes: float
    """Of the whole map and ledger on disk."""


def probe(plan: Plan, items: Sequence[Item], model: Model, whole: Needs) -> Probe:
    """Map the fullest block of a plan into a temporary folder, and scale its time and size to the plan.

    Time is scaled by the largest number of predicted pixels x acquisitions, size by computed pixels; clouds are assumed
    to be as in the probed block.

    Raises
    ------
    InputError
        No block of the plan has an acquisition.
    """
    from subpixmap.model.predict import one_thread

    small = _fullest(plan, items)
    with tempfile.TemporaryDirectory(prefix="subpixmap-probe-") as scratch:
        folder = Path(scratch)
        write_plan(folder, small)
        create_map(folder, small)
        empty = _bytes_in(folder)
        (task,) = pending_tasks(folder, small, items)
        began = time.perf_counter()
        with one_thread():
            (outcome,) = [map_block(one, model) for one in track([task], "probe", "blocks")]
        seconds = time.perf_counter() - began
        written = _bytes_in(folder) - empty
    one = needs(small, items)
    return Probe(
        block_id=task.key[0],
        period=task.period,
        seconds=seconds,
        stages=outcome.seconds,
        peak_rss=outcome.peak_rss,
        expected_seconds=seconds * whole.predicted_px / one.predicted_px,
        expected_bytes=written * whole.computed_px / one.computed_px,
    )


def _fullest(plan: Plan, items: Sequence[Item]) -> Plan:
    """The plan of one block and period, the one with the most pixels to predict."""
    best: Plan | None = None
    most = 0.0
    for period in plan.periods:
        here = [item for item in items if item.period == period.label] if plan.recipe.every != "scene" else items
        for epsg, zone in plan.zones.items():
            fullest = max(zone.blocks, key=lambda one: int(one.computed.sum()))
            small = replace(plan, periods=(period,), zones={epsg: Zone(zone.lattice, (fullest,))})
            predicted = needs(small, here).predicted_px
            if predicted > most:
                best, most = small, predicted
    if best is None:
        raise InputError(
            f"--probe: no block of region {plan.region_name} has an acquisition in "
            f"{', '.join(period.label for period in plan.periods[:5])}; choose other periods, or leave out --probe"
        )
    return best


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
