"""A job: everything a run decides before it maps, and its files in the run folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap import runpaths
from subpixmap.errors import Refused
from subpixmap.html import html_table

if TYPE_CHECKING:
    from subpixmap.mapping.plan import Plan
    from subpixmap.model.checkpoint import Model
    from subpixmap.region.resolve import Region
    from subpixmap.runfolder import RunFolder
    from subpixmap.scenes.completeness import Completeness
    from subpixmap.scenes.items import Item

log = logging.getLogger("subpixmap")


@dataclass(frozen=True, repr=False)
class Job:
    """A run whose items, model and plan are decided and checked, before mapping."""

    out: Path
    plan: Plan
    items: list[Item]
    """The locked items of all periods of the folder."""
    model: Model
    region: Region | None = None
    """The region and its units; None if a run is only continued."""
    new_units: bool = True
    """Whether its units replace those of the folder."""
    asked: tuple[str, ...] = ()
    """Labels of the periods that were searched in the catalogue."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Items that were refused, with the reason."""
    lacks: Completeness | None = None
    """What the lock lacks."""
    notes: tuple[str, ...] = ()
    """Notes to the user, such as options without effect."""

    def __repr__(self) -> str:
        plan = self.plan
        return (
            f"Job({str(self.out)!r}: {plan.region_name}, {', '.join(plan.objects)} in {_span(plan)}, "
            f"{plan.n_tasks:,} blocks x periods, {len(self.items):,} items, run {plan.run_id})"
        )

    def _repr_html_(self) -> str:
        plan = self.plan
        facts = {
            "region": plan.region_name,
            "model": f"{plan.model.name} ({', '.join(plan.objects)}); evidence: {plan.model.evidence}",
            "periods": _span(plan),
            "work": f"{plan.n_tasks:,} blocks x periods from {len(self.items):,} items",
            "folder": str(self.out),
            "run": plan.run_id,
        }
        return html_table(f"job {self.out.name}", facts)


def _span(plan: Plan) -> str:
    """The periods of a plan in a few words."""
    labels = [period.label for period in plan.periods]
    return labels[0] if len(labels) == 1 else f"{len(labels)} periods, {labels[0]} to {labels[-1]}"


@contextlib.contextmanager
def hold(out: Path) -> Iterator[RunFolder]:
    """Lock a run folder while a verb writes into it; refuse a folder that is not a run."""
    from subpixmap.mapping.owner import run_lock
    from subpixmap.mapping.plan import read_plan
    from subpixmap.runfolder import RunFolder

    read_plan(out)
    with run_lock(out):
        yield RunFolder.open(out)


def freeze(job: Job, *, map_again: bool = False) -> Job:
    """Write items, units and plan into the run folder; refuse a folder with another recipe before writing.

    Blocks of a refreshed period mapped from other items are marked as missing with `map_again`, and refused without it.
    """
    from subpixmap.mapping.manifest import announce, write_manifest
    from subpixmap.mapping.plan import read_plan, write_plan
    from subpixmap.mapping.recipe import require_same
    from subpixmap.runfolder import RunUnits, write_units
    from subpixmap.scenes.items import write_lock

    path = job.out / runpaths.PLAN
    if path.is_file():
        require_same(read_plan(job.out).recipe, job.plan.recipe, path)
    stale = made_from_other_items(job.out, job.items, job.asked)
    if stale and not map_again:
        raise Refused(
            f"blocks of {', '.join(job.asked)} in {job.out} that were mapped from an earlier item list: {len(stale)}; "
            f"use `subpixmap run --refresh {job.asked[0]}` to map them again"
        )
    there = [name for name in (runpaths.ITEMS, runpaths.UNITS) if (job.out / name).is_file()]
    writes = {
        runpaths.PLAN: True,
        runpaths.LEDGER: bool(stale),
        runpaths.ITEMS: bool(job.asked) or runpaths.ITEMS not in there,
        runpaths.UNITS: job.region is not None and (job.new_units or runpaths.UNITS not in there),
    }
    written = [name for name, does in writes.items() if does]
    announce(job.out, written)
    for record in stale:  # first, so that an interruption leaves no block of another item list
        record.unlink(missing_ok=True)
    if writes[runpaths.ITEMS]:
        notes = {"refused": dict(job.refused)} | (job.lacks.missing() if job.lacks else {})
        write_lock(job.out / runpaths.ITEMS, job.items, notes)
    if job.region is not None and writes[runpaths.UNITS]:
        region = job.region
        write_units(job.out, RunUnits(region.units, region.boundary_source, region.boundary_version))
    job = replace(job, plan=write_plan(job.out, job.plan))
    if (job.out / runpaths.MANIFEST).is_file():  # there is no manifest before the first map
        write_manifest(job.out, written)
    return job


def made_from_other_items(out: Path, items: Sequence[Item], labels: Sequence[str]) -> list[Path]:
    """Ledger records of blocks of these periods that were mapped from other items."""
    from subpixmap.mapping.ledger import read_records, record_path
    from subpixmap.scenes.items import items_sha256

    digests = {label: items_sha256(item for item in items if item.period == label) for label in labels}
    return [
        record_path(out, *key)
        for key, record in (read_records(out).items() if digests else ())
        if digests.get(record.period, record.items_sha256) != record.items_sha256
    ]


def log_lock(job: Job) -> None:
    """Log which periods were searched, and which items were refused or not found."""
    if job.asked:
        lacks = job.lacks.lines() if job.lacks else {}
        log.info("locked", extra={"periods": list(job.asked), "refused": len(job.refused)} | lacks)
        for name, why in job.refused.items():
            log.warning("item refused", extra={"item": name, "reason": why})
