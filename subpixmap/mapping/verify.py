"""Progress of a run, and checks that no file has changed since it was written.

The ledger has the hashes of the arrays, the lock those of the items, every record and the plan their own, and
manifest.json those of all other files. Damaged files are listed, and damaged blocks can be marked as missing so that
the next run maps them again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from subpixmap import runpaths
from subpixmap.errors import Incomplete, SubpixmapError, VerificationFailed
from subpixmap.files import files_under, modified
from subpixmap.grid import Block
from subpixmap.machine import cores, thread_pool
from subpixmap.mapping.ledger import (
    OTHER_ITEMS,
    Failure,
    Record,
    array_sha256,
    locked_sha256,
    read_failures,
    read_ledger,
    record_path,
)
from subpixmap.mapping.manifest import MAPPING, announce, compare_files, read_manifest
from subpixmap.mapping.metadata import rebuild_metadata, require_mask, require_readable
from subpixmap.mapping.owner import Owner, is_held_here, live_owner
from subpixmap.mapping.plan import Plan, read_plan
from subpixmap.mapping.schema import N_OBS, arrays_of
from subpixmap.mapping.store import read_block
from subpixmap.progress import track

_STRAY = "a shard outside all blocks of the plan"
_RATE_OVER = 200  # number of latest records used for the rate of a run


@dataclass(frozen=True)
class Status:
    """Progress of a run."""

    done: int
    """Blocks x periods with a valid record."""
    total: int
    by_period: dict[str, tuple[int, int]]
    """Period -> (done, total)."""
    failed: tuple[Failure, ...]
    """What the last run gave up, and why."""
    damaged: tuple[Path, ...]
    """Ledger files that are not valid records; their blocks count as not done."""
    owner: Owner | None
    """The live run that holds the folder."""
    rate: float
    """Blocks x periods a second of the live run, by its latest records; 0 if none lives."""
    seconds_left: float
    """At that rate; infinite if it is 0 and something is left."""
    stale: tuple[str, ...] = ()
    """Tables and page that no longer belong to what they were made of, and why."""
    used_share: float | None = None
    """Share of the predicted pixels that entered a mean, over all blocks whose records say it; None without any."""


@dataclass(frozen=True)
class Damage:
    """A file that has changed since it was written."""

    what: str
    """File, or block and period."""
    reason: str
    block: tuple[str, str] | None = None
    """(block id, period label) that has to be made again."""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True)
class Verification:
    """Result of `verify`: what was checked and what is damaged."""

    blocks: int
    """Blocks x periods whose arrays were read and hashed."""
    files: int
    """Files hashed."""
    missing: int
    """Blocks x periods of the plan without a record: not done yet, which is not damage."""
    damaged: tuple[Damage, ...]
    unfinished: str = ""
    """What was interrupted before it was finished, which is not damage; empty if nothing was."""

    def require_sound(self) -> None:
        """Raise VerificationFailed with the damaged files, or Incomplete if a run was interrupted."""
        if self.damaged:
            shown = "; ".join(str(one) for one in self.damaged[:3])
            more = f" (and {len(self.damaged) - 3} more)" if len(self.damaged) > 3 else ""
            found = "1 artefact is" if len(self.damaged) == 1 else f"{len(self.damaged)} artefacts are"
            raise VerificationFailed(f"{found} damaged: {shown}{more}")
        if self.unfinished:
            raise Incomplete(self.unfinished)


def status(out: Path) -> Status:
    """Progress of a run from its folder, without reading arrays.

    Raises
    ------
    InputError, VerificationFailed
        The folder holds no run, or its plan is damaged.
    """
    plan = read_plan(out)
    records, damaged = read_ledger(out)
    planned, run_id = _planned(plan), plan.run_id
    done = {key for key, record in records.items() if record.run_id == run_id and key in planned}
    per_period = plan.n_tasks // max(len(plan.periods), 1)
    by_period = {p.label: (sum(label == p.label for _, label in done), per_period) for p in plan.periods}
    owner, manifest = live_owner(out), None
    with contextlib.suppress(VerificationFailed):  # `verify` reports a damaged one
        manifest = read_manifest(out)
    rate = _rate(out, done, owner.since) if owner else 0.0
    left = plan.n_tasks - len(done)
    return Status(
        done=len(done),
        total=plan.n_tasks,
        by_period=by_period,
        failed=tuple(one for one in read_failures(out) if (one.block_id, one.period) not in done),
        damaged=tuple(damaged),
        owner=owner,
        rate=rate,
        seconds_left=left / rate if rate else (float("inf") if left else 0.0),
        stale=tuple(manifest.stale_remarks()) if manifest and not owner else (),
        used_share=_used_share([records[key] for key in done]),
    )


def _used_share(records: Sequence[Record]) -> float | None:
    """Share of the predicted pixels that were used in a mean; None if no record has their number."""
    told = [record for record in records if record.predicted_px is not None]
    predicted = sum(record.predicted_px or 0 for record in told)
    return sum(record.used_px for record in told) / predicted if predicted else None


def _rate(out: Path, done: Collection[tuple[str, str]], since: float) -> float:
    """Records per second, from the times of the latest files."""
    changed = modified(out / runpaths.LEDGER) if done else {}
    times = sorted(changed.get(record_path(out, *key).name, 0.0) for key in done)
    times = [when for when in times if when >= since][-_RATE_OVER:]
    if not times:
        return 0.0
    first = since if len(times) < _RATE_OVER else times[0]
    return len(times) / max(time.time() - first, 1e-3)


def verify(out: Path, *, threads: int | None = None) -> Verification:
    """Check all hashes: arrays against the ledger; ledger, lock, plan and tables against the manifest.

    1. Check the files.
    2. Check that the records belong to the plan and the lock.
    3. Read the map, and hash every array against its record.

    Parameters
    ----------
    out
        The run's folder.
    threads
        Number of blocks read at the same time; one per core when None.

    Returns
    -------
    Verification
        `require_sound()` raises if something is damaged or unfinished.

    Raises
    ------
    Incomplete
        A live run writes into the folder.
    InputError, VerificationFailed
        The folder holds no run, or its plan is damaged and nothing else can be checked.
    """
    _require_idle(out)
    # 1. Files first, since all later checks read them: the ledger, and files in the manifest.
    plan = read_plan(out)
    records, bad_files = read_ledger(out)
    planned, run_id = _planned(plan), plan.run_id
    key_of = {record_path(out, *key): key for key in planned} if bad_files else {}
    damaged = [Damage(path.relative_to(out).as_posix(), reason, key_of.get(path)) for path, reason in bad_files.items()]
    done = set(records) & set(planned)
    checked, damaged_files, unfinished = _verify_files(out, complete=len(done) == len(planned))
    damaged += damaged_files
    # 2. Records that do not belong to this plan and lock. With a damaged lock they cannot be checked.
    for key in sorted(set(records) - set(planned)):
        damaged.append(Damage(f"block {key[0]}, period {key[1]}", "it is in the ledger but not in the plan"))
    for key in sorted(done):
        if records[key].run_id != run_id:
            damaged.append(Damage(f"block {key[0]}, period {key[1]}", f"of another run, {records[key].run_id}", key))
    mine = [records[key] for key in sorted(done) if records[key].run_id == run_id]
    if all(one.what != runpaths.ITEMS for one in damaged):
        damaged += _made_from_other_items(out, plan, mine)
    # 3. The map: metadata, shards that nobody planned, and every array against its record. A zone whose metadata are
    #    damaged cannot be read, and its arrays may be sound: they are not judged.
    only_planned = not records and not (out / runpaths.MAP).exists()  # not damage: nothing was mapped yet
    readable, damaged_zones = (set(), []) if only_planned else _readable_zones(out, plan)
    damaged += damaged_zones
    damaged += _stray_shards(out, plan)
    sound = [record for record in mine if planned[record.key].lattice.epsg in readable]
    names = tuple(arrays_of(plan.recipe.spread))
    with thread_pool(threads or cores()) as pool:
        results = pool.map(lambda record: _verify_block(out, planned[record.key], record, names), sound)
        checked_blocks = track(results, "verify", "blocks x periods", total=len(sound))
        damaged += [one for one in checked_blocks if one is not None]
    if damaged:
        _require_idle(out)  # a run started during the check and has changed files
    return Verification(len(sound), checked, len(planned) - len(done), tuple(damaged), unfinished)


def take_back(out: Path, damaged: Iterable[Damage]) -> list[tuple[str, str]]:
    """Mark damaged blocks as missing, so that the next run maps them again.

    Removes the records of damaged blocks and shards outside all blocks, and rewrites damaged metadata of the map. A
    damaged plan or lock cannot be rebuilt; `count` rewrites the tables.

    Returns
    -------
    list
        (block id, period label) of the blocks marked as missing.
    """
    announce(out, MAPPING)
    damaged = list(damaged)
    for one in damaged:
        if one.reason == _STRAY:
            (out / one.what).unlink(missing_ok=True)
    damaged = [one for one in damaged if one.reason != _STRAY]
    if any(one.what.startswith(runpaths.MAP) for one in damaged):
        rebuild_metadata(out, read_plan(out))
        damaged += verify(out).damaged
    keys = sorted({one.block for one in damaged if one.block is not None})
    for key in keys:
        record_path(out, *key).unlink(missing_ok=True)
        (out / runpaths.LEDGER / runpaths.shards_name(*key)).unlink(missing_ok=True)
    return keys


def _verify_block(out: Path, block: Block, record: Record, names: Iterable[str]) -> Damage | None:
    where = f"block {record.block_id}, period {record.period}"
    try:
        arrays = read_block(out, block, record.period, names)
    except SubpixmapError as error:
        return Damage(where, str(error), record.key)
    for name, values in arrays.items():
        if array_sha256(values) != record.sha256.get(name):
            return Damage(where, f"{name} differs from its hash in the ledger", record.key)
    return None


def _readable_zones(out: Path, plan: Plan) -> tuple[set[int], list[Damage]]:
    """Zones whose arrays can be opened; blocks of other zones cannot be checked."""
    readable, damaged = set(), []
    for epsg in plan.zones:
        try:
            require_readable(out, plan, epsg)
            readable.add(epsg)
            require_mask(out, epsg)
        except (VerificationFailed, OSError) as error:
            damaged.append(Damage(f"{runpaths.MAP}/{epsg}", str(error)))
    return readable, damaged


def _verify_files(out: Path, *, complete: bool) -> tuple[int, list[Damage], str]:
    """Check files against the manifest; `complete` means that every block of the plan has a record."""
    try:
        manifest = read_manifest(out)
    except VerificationFailed as error:
        return 1, [Damage(runpaths.MANIFEST, str(error))], ""
    if manifest is None:
        made = dict.fromkeys((*runpaths.COUNTED, *runpaths.TRENDED, runpaths.REPORT))
        tables = [name for name in made if (out / name).is_file()]
        if tables:
            return 0, [Damage(runpaths.MANIFEST, f"is missing, so {', '.join(tables)} cannot be checked")], ""
        ended = f"{out} is mapped, but the run was interrupted before its end: run `subpixmap map {out}` to finish it"
        return 0, [], ended if complete else ""
    damaged = [Damage(name, reason) for name, reason in compare_files(out, manifest).items()]
    damaged += [Damage(name, why) for name, why in manifest.stale().items()]
    unfinished = ""
    if manifest.writing:
        unfinished = (
            f"{out} is unfinished: a run was interrupted while it wrote {', '.join(manifest.writing)}; "
            "rerun the same command to resume"
        )
    return len(manifest.files) + 1, damaged, unfinished


def _require_idle(out: Path) -> None:
    """Raise Incomplete while another live run writes into the folder."""
    if not is_held_here(out) and (owner := live_owner(out)) is not None:
        raise Incomplete(f"{out} is running ({owner}): verify it after the run has ended")


def _made_from_other_items(out: Path, plan: Plan, records: Iterable[Record]) -> list[Damage]:
    """Blocks whose record has other items than the lock."""
    records = list(records)
    if not records:
        return []
    try:
        locked = locked_sha256(out, plan)
    except VerificationFailed as error:
        return [Damage(runpaths.ITEMS, str(error))]
    return [
        Damage(f"block {one.block_id}, period {one.period}", OTHER_ITEMS, one.key)
        for one in records
        if one.items_sha256 != locked.get(one.period)
    ]


def _stray_shards(out: Path, plan: Plan) -> list[Damage]:
    """Shards outside all blocks of the plan, such as those of another map."""
    side, path = plan.recipe.block, out / runpaths.MAP
    places = {
        (str(epsg), str(one.block.row - zone.extent.row // side), str(one.block.col - zone.extent.col // side))
        for epsg, zone in plan.zones.items()
        for one in zone.blocks
    }
    periods = {str(p) for p in range(len(plan.periods))}
    stray, names = [], arrays_of(plan.recipe.spread)
    for file in files_under(path):
        epsg, name, part, *place = (*file.relative_to(path).parts, "", "")
        place = place[:-2]
        if name not in names or part != "c" or not all(one.isdigit() for one in place):
            continue  # metadata, or a user's own file
        *lead, period, row, col = place if len(place) >= 3 else ("", "", "", "")
        if (epsg, row, col) not in places or period not in periods or lead != ([] if name == N_OBS else ["0"]):
            stray.append(Damage(file.relative_to(out).as_posix(), _STRAY))
    return stray


def _planned(plan: Plan) -> dict[tuple[str, str], Block]:
    return {
        (one.block.id, period.label): one.block
        for zone in plan.zones.values()
        for one in zone.blocks
        for period in plan.periods
    }
