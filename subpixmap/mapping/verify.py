"""How far a run is, and whether everything on disk is what it was when it was written.

The ledger vouches for the arrays, every record and the plan for itself, and manifest.json, written last, for all other
files. What is damaged is named, and blocks can be taken back so that the next run makes them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subpixmap import runpaths
from subpixmap.errors import SubpixmapError, VerificationFailed
from subpixmap.files import file_sha256, modified, read_many, write_atomic
from subpixmap.grid import Block
from subpixmap.machine import cores
from subpixmap.mapping.ledger import (
    Failure,
    Record,
    array_sha256,
    read_failures,
    read_ledger,
    record_path,
)
from subpixmap.mapping.metadata import metadata_files, rebuild_metadata, require_readable
from subpixmap.mapping.owner import Owner, is_alive, read_owner
from subpixmap.mapping.plan import Plan, read_plan
from subpixmap.mapping.store import read_block

_NOT_LISTED = {runpaths.MANIFEST, runpaths.LOCK, runpaths.LOG}
_RATE_OVER = 200  # records: the pace of a run is that of its latest ones


@dataclass(frozen=True)
class Status:
    """How far a run is."""

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


@dataclass(frozen=True)
class Damage:
    """Something on disk that is not what it was when it was written."""

    what: str
    """File, or block and period."""
    reason: str
    block: tuple[str, str] | None = None
    """(block id, period label) that has to be made again."""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True)
class Verification:
    """What `verify` looked at, and what is damaged."""

    blocks: int
    """Blocks x periods whose arrays were read and hashed."""
    files: int
    """Files hashed."""
    missing: int
    """Blocks x periods of the plan without a record: not done yet, which is not damage."""
    damaged: tuple[Damage, ...]

    def require_sound(self) -> None:
        """Raise VerificationFailed that names what is damaged."""
        if self.damaged:
            shown = "; ".join(str(one) for one in self.damaged[:3])
            more = f" (and {len(self.damaged) - 3} more)" if len(self.damaged) > 3 else ""
            raise VerificationFailed(f"{len(self.damaged)} artefacts are damaged: {shown}{more}")


def status(out: Path) -> Status:
    """How far a run is, from its folder alone; reads no array.

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
    lock, owner = out / runpaths.LOCK, None
    with contextlib.suppress(OSError):
        owner = read_owner(lock)
    if owner is not None and not is_alive(owner, lock):
        owner = None
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
    )


def _rate(out: Path, done: Collection[tuple[str, str]], since: float) -> float:
    """Records a second, by the times of the latest files."""
    changed = modified(out / runpaths.LEDGER) if done else {}
    times = sorted(changed.get(record_path(out, *key).name, 0.0) for key in done)
    times = [when for when in times if when >= since][-_RATE_OVER:]
    if not times:
        return 0.0
    first = since if len(times) < _RATE_OVER else times[0]
    return len(times) / max(time.time() - first, 1e-3)


def write_manifest(out: Path) -> Path:
    """Write OUT/manifest.json: the hash of every file that the ledger does not vouch for, and of the ledger as a whole.

    It is written last; what is changed afterwards is damaged, until it is written again.
    """
    plan = read_plan(out)
    raw: dict[str, Any] = {
        "run_id": plan.run_id,
        "model": {"name": plan.model.name, "sha256": plan.model.sha256},
        "files": {name: file_sha256(path) for name, path in _listed(out)},
        "ledger": _ledger_sha256(out),
    }
    path = out / runpaths.MANIFEST
    write_atomic(path, _manifest_text(raw).encode())
    return path


def verify(out: Path, *, threads: int | None = None) -> Verification:
    """Hash everything again: arrays against the ledger, ledger, lock, plan and tables against the manifest.

    Parameters
    ----------
    out
        The run's folder.
    threads
        Blocks read at once; one for each core when None.

    Returns
    -------
    Verification
        `require_sound()` raises if something is damaged.

    Raises
    ------
    InputError, VerificationFailed
        The folder holds no run, or its plan is damaged: then nothing else can be judged.
    """
    plan = read_plan(out)
    records, bad_files = read_ledger(out)
    planned, run_id = _planned(plan), plan.run_id
    key_of = {record_path(out, *key): key for key in planned} if bad_files else {}
    damaged = [Damage(path.relative_to(out).as_posix(), reason, key_of.get(path)) for path, reason in bad_files.items()]
    checked, damaged_files = _verify_files(out)
    damaged += damaged_files
    for key in sorted(set(records) - set(planned)):
        damaged.append(Damage(f"block {key[0]}, period {key[1]}", "the ledger has it, the plan has not"))
    for key in sorted(set(records) & set(planned)):
        if records[key].run_id != run_id:
            damaged.append(Damage(f"block {key[0]}, period {key[1]}", f"of another run, {records[key].run_id}", key))
    only_planned = not records and not (out / runpaths.MAP).exists()  # which is no damage
    readable, damaged_zones = (set(), []) if only_planned else _readable_zones(out, plan)
    damaged += damaged_zones
    sound = [records[key] for key in sorted(set(records) & set(planned)) if records[key].run_id == run_id]
    sound = [record for record in sound if planned[record.key].lattice.epsg in readable]
    with ThreadPoolExecutor(threads or cores()) as pool:
        results = pool.map(lambda record: _verify_block(out, planned[record.key], record), sound)
        damaged += [one for one in results if one is not None]
    return Verification(len(sound), checked, len(planned) - len(set(records) & set(planned)), tuple(damaged))


def take_back(out: Path, damaged: Iterable[Damage]) -> list[tuple[str, str]]:
    """Prepare a repair: the next run makes damaged blocks again.

    Removes the records of damaged blocks and writes damaged metadata of the map anew. A damaged plan or lock cannot be
    made from anything else, and tables are written again by `count`.

    Returns
    -------
    list
        (block id, period label) of the blocks taken back.
    """
    damaged = list(damaged)
    if any(one.what.startswith(runpaths.MAP) for one in damaged):
        rebuild_metadata(out, read_plan(out))
        damaged += verify(out).damaged
    keys = sorted({one.block for one in damaged if one.block is not None})
    for key in keys:
        record_path(out, *key).unlink(missing_ok=True)
    return keys


def _verify_block(out: Path, block: Block, record: Record) -> Damage | None:
    where = f"block {record.block_id}, period {record.period}"
    try:
        arrays = read_block(out, block, record.period)
    except SubpixmapError as error:
        return Damage(where, str(error), record.key)
    for name, values in arrays.items():
        if array_sha256(values) != record.sha256.get(name):
            return Damage(where, f"{name} differs from what the ledger says", record.key)
    return None


def _readable_zones(out: Path, plan: Plan) -> tuple[set[int], list[Damage]]:
    """Zones whose arrays can be opened; of the others no block can be judged."""
    readable, damaged = set(), []
    for epsg in plan.zones:
        try:
            require_readable(out, plan, epsg)
            readable.add(epsg)
        except (VerificationFailed, OSError) as error:
            damaged.append(Damage(f"{runpaths.MAP}/{epsg}", str(error)))
    return readable, damaged


def _verify_files(out: Path) -> tuple[int, list[Damage]]:
    """Files against the manifest; without one, a run is not finished, and there is nothing to compare with."""
    path = out / runpaths.MANIFEST
    if not path.is_file():
        return 0, []
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        raw = {key: value for key, value in content.items() if key != "sha256"} if isinstance(content, dict) else {}
        if not raw or _manifest_text(raw) != text:
            raise ValueError("its hash differs from its content")
    except (OSError, ValueError) as error:
        return 1, [Damage(runpaths.MANIFEST, str(error))]
    now = dict(_listed(out))
    damaged = [Damage(name, "is missing") for name in sorted(set(raw["files"]) - set(now))]
    for name, digest in sorted(raw["files"].items()):
        if name in now and file_sha256(now[name]) != digest:
            damaged.append(Damage(name, "differs from what the manifest says"))
    if raw["ledger"] != _ledger_sha256(out):
        damaged.append(Damage("ledger", "records were removed, added or changed since the manifest was written"))
    return len(raw["files"]) + 1, damaged


def _listed(out: Path) -> Iterator[tuple[str, Path]]:
    """Files the manifest vouches for: those of the folder, and the map's metadata and coordinates."""
    folder = out
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in _NOT_LISTED and not path.name.startswith("."):
            yield path.name, path
    for path in metadata_files(out):
        yield path.relative_to(folder).as_posix(), path


def _ledger_sha256(out: Path) -> str:
    digest = hashlib.sha256()
    for path, data in read_many(sorted((out / runpaths.LEDGER).glob("*.json"))):
        if isinstance(data, Exception):
            raise data
        digest.update(f"{path.name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()


def _manifest_text(raw: dict[str, Any]) -> str:
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(raw | {"sha256": digest}, sort_keys=True, indent=1) + "\n"


def _planned(plan: Plan) -> dict[tuple[str, str], Block]:
    return {
        (one.block.id, period.label): one.block
        for zone in plan.zones.values()
        for one in zone.blocks
        for period in plan.periods
    }
