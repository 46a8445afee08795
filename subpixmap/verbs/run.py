"""Plan and map: `run` does all stages, `plan` does not map, `map_planned` maps a planned folder.

A `Request` becomes a `Job`. Wrong input is refused while the job is made, before any pixel is read.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.errors import Refused
from subpixmap.machine import memory, usual_workers
from subpixmap.progress import Progress
from subpixmap.verbs import console
from subpixmap.verbs.count import count, remarks_on, report, trend
from subpixmap.verbs.job import Job, freeze, hold, log_lock
from subpixmap.verbs.price import money, money_line, parse_prices, told
from subpixmap.verbs.request import Request
from subpixmap.verbs.sample import simulate_sample
from subpixmap.verbs.settle import settle

if TYPE_CHECKING:
    from subpixmap.mapping.needs import Needs
    from subpixmap.mapping.run import Summary

DEMO = "demo"
"""Name of the demo region: its truth is known, so its run ends with estimates from a simulated sample."""
CPU_FLOPS = 35e9
"""Speed of one core in the network, floating point operations per second (35-52e9 measured on an AMD Milan core)."""

log = logging.getLogger("subpixmap")


def run(request: Request) -> Job:
    """Plan, map, count, compute trends and report into one folder; rerun to resume, or with more years to extend."""
    from subpixmap.mapping.owner import run_lock

    job, needed, seconds = _settle_and_show(request)
    _require_fit(job, needed, scheduler=request.scheduler, workers=request.workers)
    with run_lock(job.out), console.run_log(job.out):
        job = freeze(job, map_again=True)
        log.info("planned", extra={"run_id": job.plan.run_id, "items": len(job.items)} | asdict(needed))
        log_lock(job)
        console.require_consent(needed, seconds=seconds, yes=request.yes)
        map_job(
            job,
            scheduler=request.scheduler,
            workers=request.workers,
            allow_partial=request.allow_partial,
            quiet=request.quiet,
        )
        count(
            job.out,
            scheduler=request.scheduler,
            workers=request.workers,
            allow_partial=request.allow_partial,
            quiet=True,
        )
        trend(job.out, quiet=True)
        if request.region.strip().lower() == DEMO:
            _estimate_demo(job)
        report(job.out, quiet=True)
    console.show_results(job.out, quiet=request.quiet)
    console.show_remarks(remarks_on(job.out), quiet=request.quiet)
    return job


def _estimate_demo(job: Job) -> None:
    """Estimates of the demo country from a sample labelled with its truth; marked as simulated."""
    from subpixmap.simulate.recognise import countries_of

    for country in countries_of(job.plan.sources)[:1]:
        simulate_sample(job.out, country, quiet=True)


def plan(request: Request) -> Job:
    """Show what a run would read, compute and need. Saves its items and plan, without mapping."""
    from subpixmap.mapping.owner import run_lock

    job, needed, _ = _settle_and_show(request, to_stdout=True)
    try:
        _require_fit(job, needed, scheduler=request.scheduler, workers=request.workers)
    except Refused as error:  # not an error here: the plan may be for another machine
        console.show_remarks([f"this machine cannot run this plan: {error}"], quiet=request.quiet)
    with run_lock(job.out):
        return freeze(job)


def map_planned(
    out: Path,
    *,
    model: str | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    allow_partial: bool = False,
    quiet: bool = False,
) -> Summary:
    """Map the planned blocks of a run folder that are still missing."""
    from subpixmap.mapping.needs import needs
    from subpixmap.model.checkpoint import load_model
    from subpixmap.model.clouds import require_network
    from subpixmap.scenes.access import signed_href

    with hold(out) as folder:
        planned = folder.plan
        require_network(planned.recipe.bands, planned.recipe.mask, planned.recipe.level)
        job = Job(out, planned, folder.items, load_model(model or planned.model.name, known=planned.model.sha256))
        for asset in (asset for item in job.items for asset in item.assets.values()):
            signed_href(asset)  # raises for assets that only the catalogue can sign
        _require_fit(job, needs(job.plan, job.items), scheduler=scheduler, workers=workers)
        with console.run_log(out):
            return map_job(job, scheduler=scheduler, workers=workers, allow_partial=allow_partial, quiet=quiet)


def map_job(
    job: Job, *, scheduler: str | None = None, workers: int | None = None, allow_partial: bool, quiet: bool
) -> Summary:
    """Map a job with a progress bar, and record the map in the manifest."""
    from subpixmap.mapping.manifest import MAPPING, announce, write_manifest
    from subpixmap.mapping.run import RunProgress, map_region

    shown_addresses = set()
    announce(job.out, MAPPING)
    with Progress("map", job.plan.n_tasks, "blocks x periods", quiet=quiet) as bar:

        def show(now: RunProgress) -> None:
            if now.where not in shown_addresses and not quiet:
                shown_addresses.add(now.where)
                console.show_where(now.where)
            bar.update(now.done, note=f"{now.failed} failed" if now.failed else "")

        summary = map_region(
            job.out,
            job.plan,
            job.items,
            job.model,
            workers=workers,
            scheduler=scheduler,
            allow_partial=allow_partial,
            progress=show,
        )
    write_manifest(job.out, MAPPING)
    log.info("mapped", extra=asdict(summary) | {"bottleneck": summary.bottleneck})
    console.show_map_summary(summary, quiet=quiet)
    return summary


def _settle_and_show(request: Request, *, to_stdout: bool = False) -> tuple[Job, Needs, float]:
    """The job, its needs, and its seconds of computing; printed before anything is written."""
    from subpixmap.mapping.needs import needs
    from subpixmap.mapping.probe import Probe, probe

    job = settle(request)
    console.show_remarks(job.notes, quiet=request.quiet)
    needed = needs(job.plan, job.items)
    device = job.plan.recipe.arithmetic.device
    processes = _processes(device, request.workers)
    in_one, n = _seconds_on_a_core(job, needed), _processes("cpu", request.workers)
    measured: Probe | None = None
    if request.probe:
        measured = probe(job.plan, job.items, job.model, needed)
        in_one, n = measured.expected_seconds, processes
        needed = replace(needed, map_bytes=measured.expected_bytes)
    seconds = in_one / n
    expected = asdict(needed) | {"seconds": seconds, "workers": processes}
    line = ""
    if prices := parse_prices(request.price):
        probed = measured is not None
        cost = money(prices, needed, device=device, seconds=in_one, measured=probed)
        line, expected["money"] = money_line(prices, cost, measured=probed), told(prices, cost)
    if not request.quiet:
        shown = console.plan_table(job, needed, seconds=seconds, measured=measured, money=line, verbose=request.verbose)
        print(shown, file=sys.stdout if to_stdout else sys.stderr, flush=True)
    if measured is not None:
        expected["probe"] = asdict(measured)
    return replace(job, plan=replace(job.plan, expected=expected)), needed, seconds


def _require_fit(job: Job, needed: Needs, *, scheduler: str | None, workers: int | None) -> None:
    """Refuse a job that does not fit on this machine; the workers of a scheduler are not checked."""
    from subpixmap.mapping.needs import require_fit

    if scheduler is None:
        processes = _processes(job.plan.recipe.arithmetic.device, workers)
        require_fit(job.plan, needed, job.out, memory=memory(), workers=processes)


def _seconds_on_a_core(job: Job, needed: Needs) -> float:
    """Of the network, and of the cloud network."""
    from subpixmap.model.clouds import TILE_SECONDS

    counting = needed.predicted_px * job.model.card.flops_per_pixel / CPU_FLOPS
    return counting + needed.mask_tiles * TILE_SECONDS


def _processes(device: str, workers: int | None) -> int:
    """Number of local processes: as requested, else one per core or GPU; 0 means this process, counted as 1."""
    return usual_workers(device) if workers is None else max(1, workers)
