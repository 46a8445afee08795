"""Plan -> map -> count -> trend -> report. Each verb of the command line is one function here.

A run is asked for by a `Request`; what it settles (region, frozen items, model, plan) is a `Job`. Everything a user can
get wrong is refused while the job is made, before a pixel is read.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap.errors import Incomplete, InputError, Refused
from subpixmap.files import write_atomic
from subpixmap.machine import cores, memory
from subpixmap.periods import parse_months, parse_years
from subpixmap.progress import Progress
from subpixmap.simulate import demo
from subpixmap.verbs import console
from subpixmap.verbs.request import DEFAULT_SOURCE, Request
from subpixmap.verbs.settle import ask_items, known_periods, log_lock, made_from_other_items

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from distributed import Client

    from subpixmap.mapping.needs import Needs
    from subpixmap.mapping.plan import Plan
    from subpixmap.mapping.run import Summary
    from subpixmap.model.checkpoint import Model
    from subpixmap.region import Region
    from subpixmap.scenes.completeness import Completeness
    from subpixmap.scenes.items import Item

DEFAULT_MODELS = ("demo-s2", "demo-rgbn")
"""The first whose bands the items have is used."""

WORTH_WORKERS = 500
"""Blocks x periods from which counting starts worker processes: below, starting them takes longer."""

CPU_FLOPS = 35e9
"""Of one core in the network, floating point operations a second; 35-52 were measured on an AMD Milan core."""

log = logging.getLogger("subpixmap")


@dataclass(frozen=True)
class Job:
    """A run that is settled: everything is known and checked, nothing has been mapped by it."""

    out: Path
    plan: Plan
    items: list[Item]
    """The lock of all periods of the folder."""
    model: Model
    region: Region | None = None
    """Where its units come from; None for a run that is only continued."""
    asked: tuple[str, ...] = ()
    """Labels of periods that the catalogue was asked for."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Items that are left out of the lock, and why."""
    lacks: Completeness | None = None
    """What the lock lacks."""


def run(request: Request) -> Job:
    """Plan, map, count, trend and report into one folder; resumes where it stopped, extends with more years."""
    from subpixmap.mapping.owner import run_lock

    job, found, seconds = _settle_and_show(request)
    _require_fit(job, found, scheduler=request.scheduler, workers=request.workers)
    with run_lock(job.out), console.run_log(job.out):
        job = freeze(job, map_again=True)
        log.info("planned", extra={"run_id": job.plan.run_id, "items": len(job.items)} | asdict(found))
        log_lock(job)
        console.require_consent(found, seconds=seconds, yes=request.yes)
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
        report(job.out, quiet=True)
    console.show_results(job.out, quiet=request.quiet)
    console.show_remarks(_remarks(job.out), quiet=request.quiet)
    return job


def plan(request: Request) -> Job:
    """What a run would read, compute and need. Freezes its items and its plan; maps nothing."""
    from subpixmap.mapping.owner import run_lock

    job, found, _ = _settle_and_show(request, to_stdout=True)
    try:
        _require_fit(job, found, scheduler=request.scheduler, workers=request.workers)
    except Refused as error:  # the plan may be for another machine
        console.show_remarks([f"a run would be refused on this machine: {error}"], quiet=request.quiet)
    with run_lock(job.out):
        return freeze(job)


def settle(request: Request) -> Job:
    """Settle region, model, items and plan; writes nothing."""
    from subpixmap.mapping.plan import make_plan
    from subpixmap.model.predict import check_input
    from subpixmap.region import resolve_region
    from subpixmap.scenes.completeness import completeness
    from subpixmap.scenes.source import anchored

    if request.region.strip().lower() == "demo":
        request = _demo(request)
    models = _load_models(request)
    for model in models:
        check_input(model.card, bands=model.card.bands, resolution=request.resolution, force=request.force)
    region = resolve_region(
        request.region,
        admin=request.admin,
        id_column=request.id_column,
        name_column=request.name_column,
        parent_column=request.parent_column,
    )
    model, items, asked, refused = ask_items(request, region, models)
    made = make_plan(
        region,
        request.periods(),
        items,
        model,
        block=request.block,
        resolution=request.resolution,
        max_scenes=request.max_scenes,
        min_obs=request.min_obs,
        max_cloud=request.max_cloud,
        every=request.every,
        months=parse_months(request.months),
        objects=request.objects or None,
        sources=[anchored(source) for source in request.source] if asked else (),
        device=_device(request.device),
        forced=request.force,
    )
    lacks = completeness(items, region.geometry, known_periods(request))
    return Job(request.folder, made, items, model, region, asked, refused, lacks)


def freeze(job: Job, *, map_again: bool = False) -> Job:
    """Write items, units and plan into the run folder; another recipe there is refused before anything is written.

    Blocks of a refreshed period that were made from other items are taken back with `map_again`, and refused without.
    """
    from subpixmap.mapping.plan import read_plan, require_same, write_plan
    from subpixmap.scenes.items import write_lock

    path = job.out / "plan.json"
    if path.is_file():
        require_same(read_plan(job.out).recipe, job.plan.recipe, path)
    if stale := made_from_other_items(job.out, job.items, job.asked):
        if not map_again:
            raise Refused(
                f"{len(stale)} blocks of {', '.join(job.asked)} in {job.out} are mapped from the items of before: "
                f"`subpixmap run --refresh {job.asked[0]}` maps them again"
            )
        for record in stale:  # first: whenever this ends, the blocks that are left are of the items that are there
            record.unlink(missing_ok=True)
    if job.asked or not (job.out / "items.parquet").is_file():
        notes = {"refused": dict(job.refused)} | (job.lacks.missing() if job.lacks else {})
        write_lock(job.out / "items.parquet", job.items, notes)
    if job.region is not None:
        _write_units(job.out, job.region.units, job.region.boundary_source, job.region.boundary_version)
    return replace(job, plan=write_plan(job.out, job.plan))


def map_planned(
    out: Path,
    *,
    model: str | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    allow_partial: bool = False,
    quiet: bool = False,
) -> Summary:
    """Do the planned blocks of a run folder that are not done yet."""
    from subpixmap.mapping.needs import needs
    from subpixmap.mapping.plan import read_plan
    from subpixmap.model.checkpoint import load_model
    from subpixmap.scenes.items import read_lock

    planned = read_plan(out)
    job = Job(out, planned, read_lock(out / "items.parquet"), load_model(model or planned.model.name))
    _require_fit(job, needs(job.plan, job.items), scheduler=scheduler, workers=workers)
    with console.run_log(out):
        return map_job(job, scheduler=scheduler, workers=workers, allow_partial=allow_partial, quiet=quiet)


def map_job(
    job: Job, *, scheduler: str | None = None, workers: int | None = None, allow_partial: bool, quiet: bool
) -> Summary:
    """Map what is settled, with a progress bar."""
    from subpixmap.mapping.run import Progress as Standing
    from subpixmap.mapping.run import map_region

    told = set()
    with Progress("map", job.plan.n_tasks, "blocks x periods", quiet=quiet) as bar:

        def show(now: Standing) -> None:
            if now.where not in told and not quiet:
                told.add(now.where)
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
    log.info("mapped", extra=asdict(summary) | {"bottleneck": summary.bottleneck})
    console.show_map_summary(summary, quiet=quiet)
    return summary


def count(
    out: Path,
    *,
    admin: Path | None = None,
    id_column: str | None = None,
    name_column: str | None = None,
    parent_column: str | None = None,
    assign_nearest: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    allow_partial: bool = False,
    quiet: bool = False,
) -> gpd.GeoDataFrame:
    """Sum the map per unit, object and period into counts.csv and counts.parquet.

    Units that are given replace those of the run for this and later counts.
    """
    from subpixmap.counts.source import count_run, write_counts
    from subpixmap.mapping.plan import read_plan
    from subpixmap.mapping.verify import write_manifest
    from subpixmap.region import given_units, require_overlap

    _require_complete(out, allow_partial)
    planned = read_plan(out)
    if admin is not None:
        units, source, version = given_units(
            admin, id_column=id_column, name_column=name_column, parent_column=parent_column
        )
        require_overlap(units, source, planned.geometry, f"the map of {planned.region_name}")
    else:
        units, source, version = _read_units(out)
    with _counting(planned, scheduler, workers) as client:
        counted = count_run(
            out, units, boundary_source=source, boundary_version=version, assign_nearest=assign_nearest, client=client
        )
    if admin is not None:
        _write_units(out, units, source, version)  # only now: a count that fails leaves the folder as it was
    paths = write_counts(out, counted)
    console.show_remarks(counted.remarks, quiet=quiet)
    write_manifest(out)
    log.info("counted", extra={"units": len(units), "rows": len(counted.table)})
    console.say_files(paths, quiet=quiet)
    return counted.table


def trend(
    out: Path,
    *,
    level: float = 0.95,
    unchanged: Sequence[str] = (),
    background: bool = False,
    quiet: bool = False,
) -> pd.DataFrame:
    """Follow the counts over the periods into trend.csv and trend.parquet.

    What all units share in a period is told; it is taken out with `unchanged` (ids of units known not to have changed)
    or `background` (what the map counts where the object is never present).
    """
    from subpixmap.counts.source import follow_run, read_counts, write_trend
    from subpixmap.mapping.verify import write_manifest
    from subpixmap.trends.verdict import trend_remarks

    if not 0.5 <= level < 1:
        raise InputError(f"--level {level:g}: the confidence of an interval lies between 0.5 and 1")
    table = follow_run(out, level=level, unchanged=unchanged, background=background)
    paths = write_trend(out, table)
    if not quiet:  # `run` tells them at its end, with those of the counts
        console.show_remarks(trend_remarks(table, *read_counts(out), level=level), quiet=quiet)
    write_manifest(out)
    console.say_files(paths, quiet=quiet)
    return table


def report(out: Path, *, quiet: bool = False) -> Path:
    """Write report.html, then manifest.json over everything that was made."""
    from subpixmap.mapping.plan import read_plan
    from subpixmap.mapping.verify import write_manifest
    from subpixmap.report.page import write_report
    from subpixmap.simulate.recognise import truth_of

    path = write_report(out, truth=truth_of(read_plan(out).sources))
    write_manifest(out)
    console.say_files([path], quiet=quiet)
    return path


def verify(
    out: Path, *, repair: bool = False, model: str | None = None, workers: int | None = None, quiet: bool = False
) -> None:
    """Hash everything again and raise what is damaged; with `repair`, first make it again."""
    from subpixmap.mapping import verify as checks

    found = checks.verify(out)
    if found.damaged and repair:
        for damage in found.damaged:
            log.warning("repairing %s", damage)
        checks.take_back(out, found.damaged)
        map_planned(out, model=model, workers=workers, quiet=quiet)
        count(out, quiet=True)
        trend(out, quiet=True)
        report(out, quiet=True)
        found = checks.verify(out)
    found.require_sound()
    if not quiet:
        missing = f"; {found.missing} are not mapped yet" if found.missing else ""
        print(f"sound: {found.blocks} blocks x periods and {found.files} files are what they were{missing}")


def export(out: Path, format: str, *, to: Path | None = None, quiet: bool = False) -> list[Path]:
    """Write counts or map in another format into OUT/export, or another folder."""
    from subpixmap.counts.source import export_counts

    paths = export_counts(out, format, to=to)
    console.say_files(paths, quiet=quiet)
    return paths


# What the verbs are made of ------------------------------------------------------------------------------------------


def _demo(request: Request) -> Request:
    """The demo country in place of the word `demo`."""
    country = demo.demo_country(parse_years(request.years), quiet=request.quiet)
    return replace(
        request,
        region=str(country / "region.geojson"),
        out=request.folder,
        source=(str(country / "catalog.json"),) if request.source == DEFAULT_SOURCE else request.source,
        admin=request.admin or country / "admin.parquet",
    )


def _load_models(request: Request) -> list[Model]:
    """The model that was asked for, or the defaults in order of preference."""
    from subpixmap.model.checkpoint import load_model

    models = [load_model(name) for name in ([request.model] if request.model else DEFAULT_MODELS)]
    for name in request.objects:
        if not any(name in model.card.objects for model in models):
            known = ", ".join(dict.fromkeys(n for model in models for n in model.card.objects))
            raise InputError(f"--object {name!r} is unknown to model {models[0].card.name!r}; it counts {known}")
    return models


def _remarks(out: Path) -> list[str]:
    """What a reader should know of the units and trends of a finished run."""
    from subpixmap.counts.source import read_counts
    from subpixmap.export.formats import read_accounts, read_table
    from subpixmap.trends.changes import TREND_COLUMNS
    from subpixmap.trends.verdict import trend_remarks

    table = read_table(out / "trend.parquet", TREND_COLUMNS)
    return [
        *read_accounts(out / "accounts.json").get("remarks", ()),
        *trend_remarks(table, *read_counts(out), level=0.95),
    ]


@contextlib.contextmanager
def _counting(planned: Plan, scheduler: str | None, workers: int | None) -> Iterator[Client | None]:
    """Dask workers for a large map, or for whoever asks for them; a small one is summed in this process."""
    from subpixmap.mapping.cluster import connect

    if scheduler is None and (workers == 0 or (workers is None and planned.n_tasks < WORTH_WORKERS)):
        yield None
        return
    with connect(workers, scheduler) as client:
        yield client


def _require_complete(out: Path, allow_partial: bool) -> None:
    """Refuse to count a map with holes, unless that is allowed."""
    from subpixmap.mapping.ledger import read_records
    from subpixmap.mapping.plan import read_plan

    plan = read_plan(out)
    done = len(read_records(out, plan))
    if done < plan.n_tasks and not allow_partial:
        raise Incomplete(
            f"{plan.n_tasks - done} of {plan.n_tasks} blocks x periods of {out} are not mapped: `subpixmap map {out}` "
            "goes on, --allow-partial counts what is there"
        )


def _settle_and_show(request: Request, *, to_stdout: bool = False) -> tuple[Job, Needs, float]:
    """The settled job, what it needs, and its seconds of arithmetic; shown before anything is written."""
    from subpixmap.mapping.needs import needs
    from subpixmap.mapping.probe import Probe, probe

    job = settle(request)
    found = needs(job.plan, job.items)
    seconds = _arithmetic(job, found, request.workers)
    measured: Probe | None = None
    if request.probe:
        measured = probe(job.plan, job.items, job.model, found)
        seconds = measured.expected_seconds / _processes(request.workers)
        found = replace(found, map_bytes=measured.expected_bytes)
    if to_stdout or not request.quiet:
        shown = console.plan_table(job, found, seconds=seconds, measured=measured, verbose=request.verbose)
        print(shown, file=sys.stdout if to_stdout else sys.stderr, flush=True)
    expected = asdict(found) | {"seconds": seconds, "workers": _processes(request.workers)}
    if measured is not None:
        expected["probe"] = asdict(measured)
    return replace(job, plan=replace(job.plan, expected=expected)), found, seconds


def _require_fit(job: Job, found: Needs, *, scheduler: str | None, workers: int | None) -> None:
    """Refuse what does not fit on this machine; what the workers of a scheduler have is not known here."""
    from subpixmap.mapping.needs import require_fit

    if scheduler is None:
        require_fit(job.plan, found, job.out, memory=memory(), workers=_processes(workers))


def _arithmetic(job: Job, found: Needs, workers: int | None) -> float:
    """Seconds that the network needs on local cores."""
    return found.predicted_px * job.model.card.flops_per_pixel / CPU_FLOPS / _processes(workers)


def _processes(workers: int | None) -> int:
    """Local worker processes: as many as asked for, one a core when not said; 0 is this process."""
    return cores() if workers is None else max(1, workers)


def _device(asked: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def _write_units(out: Path, units: gpd.GeoDataFrame, source: str, version: str) -> None:
    """OUT/units.parquet: the units that are counted in, with where they come from."""
    told = units.assign(boundary_source=source, boundary_version=version)
    buffer = io.BytesIO()
    told.to_parquet(buffer, index=False)
    write_atomic(out / "units.parquet", buffer.getvalue())


def _read_units(out: Path) -> tuple[gpd.GeoDataFrame, str, str]:
    from subpixmap.counts.source import read_run_units

    units = read_run_units(out)
    source, version = units[["boundary_source", "boundary_version"]].iloc[0]
    return units.drop(columns=["boundary_source", "boundary_version"]), source, version
