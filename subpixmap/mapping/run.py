"""Maps a plan: the driver that keeps a limited number of block tasks in flight.

Only the ledger decides what is done. After a crash nothing needs repair: the next run does the blocks without a record.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from subpixmap import runpaths
from subpixmap.errors import Incomplete, InputError, Refused, VerificationFailed
from subpixmap.files import is_remote, path_of, sweep
from subpixmap.grid import CHUNK
from subpixmap.mapping.footprints import footprints_by_period_and_zone
from subpixmap.mapping.ledger import OTHER_ITEMS, Failure, read_records, write_failure
from subpixmap.mapping.metadata import create_map
from subpixmap.mapping.owner import require_held, run_lock
from subpixmap.mapping.plan import Plan, items_by_period, read_plan, write_plan
from subpixmap.mapping.pool import Pool, WorkerDied, open_pool
from subpixmap.mapping.recipe import numerics, require_same
from subpixmap.mapping.task import Outcome, Task, map_block
from subpixmap.model.backends import require_here
from subpixmap.scenes.hrefs import is_remote as is_remote_href
from subpixmap.scenes.items import Item, items_sha256, read_lock, read_notes, write_lock

if TYPE_CHECKING:
    from distributed import Client

    from subpixmap.model.checkpoint import Model

log = logging.getLogger("subpixmap")

_PAUSE_S = 0.5  # before a failed block is tried again; doubled each time
_LONGEST_PAUSE_S = 60.0
_LAST = 4  # tasks of each slot that are started from large to small
_SLOW_FLOPS = 1e10  # of a slow core in the network, floating point operations a second


@dataclass(frozen=True)
class RunProgress:
    """Progress of a run."""

    done: int
    """Blocks x periods with a valid record, those of earlier runs too."""
    total: int
    failed: int
    rate: float
    """Done in this run, each second."""
    seconds_left: float
    """At the pace of this run so far, by computed chunks; infinite before the first."""
    where: str = ""
    """What runs it, with the address of the dashboard if there is one."""


@dataclass(frozen=True)
class Summary:
    """Results of a run."""

    total: int
    """Blocks x periods of the plan."""
    earlier: int
    """Of these, done before this run."""
    done: int
    """Done in this run."""
    failed: tuple[Failure, ...]
    retries: int
    """Attempts that failed and were repeated."""
    seconds: float
    """Wall time of this run."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds over all workers: read (in the readers' threads), wait (for the readers), network, write."""
    peak_rss: int = 0
    """Largest of any worker process, bytes."""
    predicted_px: int = 0
    """Pixels that went through the network in this run, of all acquisitions."""
    used_px: int = 0
    """Of these, pixels that entered a mean: they were clear."""

    @property
    def bottleneck(self) -> str:
        """The stage that took most of the workers' time; reading counts only while the network waited for it."""
        return max(("wait", "network", "write"), key=lambda name: self.stages.get(name, 0.0))


class BlocksFailed(Incomplete):
    """Some blocks failed; all others are done."""

    def __init__(self, summary: Summary) -> None:
        shown = "; ".join(f"block {f.block_id}, period {f.period}: {f.reason}" for f in summary.failed[:3])
        more = f" (and {len(summary.failed) - 3} more)" if len(summary.failed) > 3 else ""
        done = summary.earlier + summary.done
        super().__init__(
            f"{len(summary.failed)} of {summary.total} blocks x periods failed, {done} are done: {shown}{more}; "
            "rerun the same command to try them again, or add --allow-partial to count without them"
        )
        self.summary = summary


def map_region(
    out: str | os.PathLike[str],
    plan: Plan,
    items: Sequence[Item],
    model: Model,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    client: Client | None = None,
    memory_limit: str | int | None = None,
    attempts: int = 3,
    limit_s: float | None = None,
    allow_partial: bool = False,
    progress: Callable[[RunProgress], None] | None = None,
) -> Summary:
    """Map every block of a plan without a valid ledger record; rerun to resume an interrupted run.

    Parameters
    ----------
    out
        The run's folder; its plan is extended by the plan's periods.
    plan
        From `make_plan` or `read_plan`.
    items
        The lock.
    model
        The plan's.
    workers, scheduler, client, memory_limit
        Where tasks run, see `open_pool`. `workers=0` is this process.
    attempts
        Attempts per block before it is given up; the death of its worker process counts as one.
    limit_s
        Time limit of a block, after which its worker process is stopped, seconds; hours, by block size, when None.
    allow_partial
        Whether to return instead of raising if blocks failed.
    progress
        Called at the start and after every block.

    Raises
    ------
    BlocksFailed
        Raised after all other blocks are done; contains the summary.
    InputError
        No local file of the lock exists any more.
    Incomplete
        The disk is full, the object store or the scheduler is lost; rerun the same command to resume.
    Refused
        The folder holds another recipe, another live run holds the folder or took it over, imagery has changed since it
        was locked, or the model is not that of the plan.
    """
    # 1. Refuse another model and other software before writing: one map must not mix two kinds of numbers.
    out = path_of(out)
    if model.sha256 != plan.recipe.model_sha256:
        raise Refused(
            f"model {model.sha256[:12]} is not the model of the plan ({plan.recipe.model_sha256[:12]}); "
            "give the model of the plan"
        )
    require_here(plan.recipe.numerics)
    arithmetic = plan.recipe.arithmetic
    here = numerics(arithmetic, plan.recipe.mask.by)
    require_same(plan.recipe, replace(plan.recipe, numerics=here), out / runpaths.PLAN)
    started = time.monotonic()
    where = {"workers": workers, "scheduler": scheduler, "client": client, "memory_limit": memory_limit}
    with run_lock(out) as owner, _lost_storage_is_resumable(out):
        # 2. No one else writes while we hold the folder, so half-written files are from dead runs: delete them.
        sweep(out)
        sweep(out / runpaths.LEDGER)
        # 3. Add new periods; another recipe is refused. The lock comes first: a plan without its items cannot be run.
        _lock_new_periods(out, plan, items)
        plan = write_plan(out, plan)
        create_map(out, plan)
        # 4. Blocks without a valid record in the ledger are left to do.
        tasks = pending_tasks(out, plan, items, owner.token)
        summary = Summary(plan.n_tasks, plan.n_tasks - len(tasks), 0, (), 0, 0.0)
        if tasks:
            # 5. Run it. Check the imagery first: one message instead of a failure per block.
            _require_imagery(tasks)
            limit_s = limit_s or time_limit(plan, model)
            with open_pool(map_block, model, device=arithmetic.device, limit_s=limit_s, **where) as pool:  # type: ignore[arg-type]
                summary = _Drive(pool, tasks, summary, attempts, progress).run()
    summary = replace(summary, seconds=time.monotonic() - started)
    if summary.failed and not allow_partial:
        raise BlocksFailed(summary)
    return summary


def _lock_new_periods(out: Path, plan: Plan, items: Sequence[Item]) -> None:
    """Write the lock of a new folder, or add the items of new periods."""
    path = out / runpaths.ITEMS
    if not path.is_file():
        write_lock(path, items)
    elif not (out / runpaths.PLAN).is_file() and not read_records(out):  # a run was ended between lock and plan
        write_lock(path, items, read_notes(path))
    elif new := {p.label for p in plan.periods} - {p.label for p in read_plan(out).periods}:
        kept, by_period = read_lock(path), items_by_period(plan, items)
        have = {one.id for one in kept}
        if added := [item for label in sorted(new) for item in by_period[label] if item.id not in have]:
            write_lock(path, [*kept, *added], read_notes(path))


def _require_imagery(tasks: Iterable[Task]) -> None:
    """Refuse to start if no local file of the lock exists: each block would fail."""
    hrefs = {next(iter(item.assets.values())).href: item.period for task in tasks for item in task.items}
    local = [href for href in hrefs if not is_remote_href(href)]
    if local and len(local) == len(hrefs) and not any(os.path.exists(href) for href in local):
        raise InputError(
            f"{local[0]} does not exist, and neither do the other {len(local) - 1} scenes that are left to read: the "
            "imagery was moved or deleted. Restore it, or give its new location: `subpixmap run ... --source "
            f"NEW --refresh {hrefs[local[0]]}` (one --refresh for each period)"
        )


def time_limit(plan: Plan, model: Model) -> float:
    """Seconds after which a block counts as hung: an hour plus twenty times the computing time of a slow core."""
    largest = max(len(one.chunks) for zone in plan.zones.values() for one in zone.blocks) * CHUNK**2
    return 3600.0 + 20 * largest * plan.recipe.max_scenes * model.card.flops_per_pixel / _SLOW_FLOPS


def pending_tasks(out: Path, plan: Plan, items: Iterable[Item], token: str = "") -> list[Task]:
    """Tasks without a valid record, by period, in row-major order; they commit for the owner of the token.

    Raises
    ------
    Refused
        A block was mapped from other items than the locked ones.
    """
    records = read_records(out, plan)
    tasks = []
    digests: dict[str, str] = {}
    run_id, folder = plan.run_id, str(out.absolute())
    for period, epsg, locked, near in footprints_by_period_and_zone(plan, items):
        if period not in digests:
            digests[period] = items_sha256(locked)
        digest = digests[period]
        zone = plan.zones[epsg]
        for one in zone.blocks:
            if (record := records.get((one.block.id, period))) is not None:
                if record.items_sha256 != digest:
                    raise Refused(
                        f"block {one.block.id}, period {period}: {OTHER_ITEMS}; restore items.parquet, or run "
                        f"`subpixmap verify {out} --repair` to map the block again"
                    )
                continue
            # A pixel more than the halo: a raster may be shifted by up to half a pixel.
            over = near.over(zone.lattice.bounds(one.window.padded(plan.model.halo + 1)))
            touching = tuple(near.items[i] for i in over)
            tasks.append(Task(folder, one, period, plan.recipe, run_id, touching, digest, plan.model.halo, token))
    return tasks


class _Drive:
    """Keeps a limited number of tasks in flight; retries failed tasks with growing pauses, then gives up.

    1. Fill the free slots of the pool, first with failed tasks whose pause is over. A window of tasks, not all of them:
       a country has too many for a scheduler's memory.
    2. Wait for one task to end.
    3. Handle its result: count it as done, retry it later, give it up, or stop the run.
    """

    def __init__(
        self,
        pool: Pool,
        tasks: Sequence[Task],
        summary: Summary,
        attempts: int,
        progress: Callable[[RunProgress], None] | None,
    ) -> None:
        self.pool, self.summary, self.attempts, self.progress = pool, summary, attempts, progress
        self.todo: deque[Task] = deque(_large_to_small_at_the_end(tasks, pool.slots))
        self.delayed: list[tuple[float, int, Task]] = []  # a heap: when, a tie breaker, what
        self.tried: Counter[tuple[str, str]] = Counter()
        self.stages: Counter[str] = Counter()
        self.in_flight = self.chunks_done = 0
        self.chunks_total = sum(len(task.plan.chunks) for task in tasks)
        self.started = time.monotonic()

    def run(self) -> Summary:
        """Run until no task is left."""
        log.info(
            "mapping", extra={"where": self.pool.address, "tasks": len(self.todo), "earlier": self.summary.earlier}
        )
        self._report()
        while self.todo or self.delayed or self.in_flight:
            while self.in_flight < self.pool.slots and (task := self._next()):  # 1.
                self.pool.submit(task)
                self.in_flight += 1
            if not self.in_flight:
                time.sleep(max(0.0, self.delayed[0][0] - time.monotonic()))
            elif event := self.pool.wait(1.0):  # 2. A second at most, so that paused tasks start in time.
                self.in_flight -= 1
                self._settle(*event)  # 3.
                self._report()
        failed = sorted(self.summary.failed, key=lambda one: (one.period, one.block_id))
        return replace(self.summary, failed=tuple(failed), stages=dict(self.stages))

    def _next(self) -> Task | None:
        if self.delayed and self.delayed[0][0] <= time.monotonic():
            return heapq.heappop(self.delayed)[2]
        return self.todo.popleft() if self.todo else None

    def _settle(self, task: Task, result: Outcome | BaseException) -> None:
        now = self.summary
        if isinstance(result, Outcome):
            self.summary = _with(now, result)
            self.stages.update(result.seconds)
            self.chunks_done += len(task.plan.chunks)
            cost = {"seconds": {k: round(v, 3) for k, v in result.seconds.items()}, "peak_rss": result.peak_rss}
            done = {"observed_px": result.record.observed_px, "total": dict(result.record.total)}
            log.info("block done", extra={"block": task.key[0], "period": task.period} | cost | done)
            return
        if isinstance(result, Refused):  # folder lost or imagery changed: stop all blocks
            raise result
        if _stops_everything(result):  # every other block would fail as well
            raise Incomplete(
                f"{task.out}: {_reason(result)} ({task.label}); free some space, then rerun the same command"
            ) from result
        self.tried[task.key] += result.deaths if isinstance(result, WorkerDied) else 1
        facts = {
            "block": task.key[0],
            "period": task.period,
            "attempt": self.tried[task.key],
            "reason": _reason(result),
        }
        # Do not retry wrong input: it would fail again.
        if self.tried[task.key] >= self.attempts or isinstance(result, InputError | VerificationFailed):
            failure = Failure(*task.key, _reason(result))
            self.summary = replace(now, failed=(*now.failed, failure))
            require_held(path_of(task.out), task.token)
            write_failure(path_of(task.out), failure)
            log.error("block given up", extra=facts)
            return
        log.warning("block repeated", extra=facts)
        self.summary = replace(now, retries=now.retries + 1)
        pause = min(_PAUSE_S * 2 ** self.tried[task.key], _LONGEST_PAUSE_S)
        heapq.heappush(self.delayed, (time.monotonic() + pause, self.summary.retries, task))

    def _report(self) -> None:
        if self.progress is None:
            return
        now, elapsed = self.summary, time.monotonic() - self.started
        left = elapsed / self.chunks_done * (self.chunks_total - self.chunks_done) if self.chunks_done else math.inf
        rate = now.done / elapsed if elapsed else 0.0
        where = self.pool.address
        self.progress(RunProgress(now.earlier + now.done, now.total, len(now.failed), rate, left, where))


def _large_to_small_at_the_end(tasks: Sequence[Task], slots: int) -> list[Task]:
    """The last tasks from large to small, so that all workers end at about the same time."""
    kept = max(0, len(tasks) - _LAST * slots)
    return [*tasks[:kept], *sorted(tasks[kept:], key=lambda task: -int(task.plan.computed.sum()))]


def _with(summary: Summary, done: Outcome) -> Summary:
    """The summary with one more finished task."""
    record = done.record
    return replace(
        summary,
        done=summary.done + 1,
        peak_rss=max(summary.peak_rss, done.peak_rss),
        predicted_px=summary.predicted_px + (record.predicted_px or 0),
        used_px=summary.used_px + record.used_px,
    )


@contextlib.contextmanager
def _lost_storage_is_resumable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if _stops_everything(error):
            raise Incomplete(f"{out}: {error}; free some space, then rerun the same command") from error
        if is_remote(out):
            raise Incomplete(f"{out} cannot be reached ({error}); rerun the same command to resume") from error
        raise


def _stops_everything(error: BaseException) -> bool:
    """Whether the disk is full or read-only."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text and isinstance(error, InputError | Incomplete) else f"{type(error).__name__}: {error}"
