"""The ledger of finished work: one record per block and period, written last. The record is the commit.

A record holds hashes of the stored arrays (of decoded values, independent of the codec, and of files, quick to
compare), the inputs, sums on a grid of 128 px, and its own hash. A block without a valid record is not done, whatever
the arrays contain. A block whose arrays do not match its record is not counted.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap import runpaths
from subpixmap.errors import VerificationFailed
from subpixmap.files import make_folder, read_many, write_atomic
from subpixmap.grid import CELL
from subpixmap.mapping.plan import Plan, items_by_period
from subpixmap.scenes.items import items_sha256, read_lock

OTHER_ITEMS = "it was mapped from other items than those in items.parquet"
"""Reason why a block with an intact record is not used."""


@dataclass(frozen=True)
class Used:
    """An acquisition used in a block."""

    id: str
    """Datatake without its baseline suffix."""
    time: str
    """First sensing time of its tiles, ISO 8601, UTC."""
    observed_px: int
    """Pixels of the block that it observed."""
    input_sha256: str
    """Of the reflectance that was read, float32."""


@dataclass(frozen=True)
class Record:
    """One finished block and period."""

    block_id: str
    period: str
    """Label."""
    run_id: str
    items_sha256: str
    """Of the period's locked items."""
    sha256: Mapping[str, str]
    """Array name -> hash of its decoded bytes, little-endian, row by row."""
    acquisitions: tuple[Used, ...]
    """In order of time."""
    computed_px: int
    """Pixels of the computed cells that the zone owns."""
    observed_px: int
    """Of these, pixels with enough clear observations: where `count` is not NaN."""
    total: Mapping[str, float]
    """Object -> sum of `count` over the block (float64)."""
    cells: Mapping[str, NDArray[Any]]
    """Sums on a 128 px grid of the block, (cy, cx): `observed_px`; `out_of_domain_px`, every observed pixel counted by
    the share of its observations whose input is unlike the training data; and for each acquisition, in the order of
    `acquisitions`: `acquisition_observed_px` (acquisition, cy, cx) and `acquisition_total` (acquisition, object, cy,
    cx)."""
    numerics: Mapping[str, Any]
    """The recipe's numerics and the processor's capability: what decides the last bits."""
    shard_sha256: Mapping[str, str] = field(default_factory=dict)
    """Array name -> hash of its shard's file; empty in records of earlier versions."""
    predicted_px: int | None = None
    """Pixels that went through the network, of all acquisitions together; None in records of earlier versions."""

    @property
    def key(self) -> tuple[str, str]:
        """(block id, period label)."""
        return self.block_id, self.period

    @property
    def used_px(self) -> int:
        """Predicted pixels that were used in a mean, over all acquisitions."""
        return sum(used.observed_px for used in self.acquisitions)

    def to_json(self) -> str:
        """Canonical text, one line, with the record's own hash."""
        raw: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        raw["acquisitions"] = [vars(used) for used in self.acquisitions]
        raw["cells"] = {name: _pack(values) for name, values in self.cells.items()}
        if not self.shard_sha256:
            del raw["shard_sha256"]
        if self.predicted_px is None:
            del raw["predicted_px"]
        return _with_hash(raw)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Parse a record; ValueError if a single character was changed."""
        return cls._of(_proven(text))

    @classmethod
    def _of(cls, raw: dict[str, Any]) -> Record:
        """Make a record from checked values."""
        raw["acquisitions"] = tuple(Used(**used) for used in raw["acquisitions"])
        raw["cells"] = {name: _unpack(packed) for name, packed in raw["cells"].items()}
        return cls(**raw)


@dataclass(frozen=True)
class Failure:
    """A block that failed in this run; the next run tries it again."""

    block_id: str
    period: str
    """Label."""
    reason: str


def array_sha256(values: NDArray[Any]) -> str:
    """Hash of an array's bytes, little-endian, row by row."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(little.data if little.size else b"").hexdigest()


def cell_sums(values: NDArray[Any]) -> NDArray[Any]:
    """Sum (..., y, x) over cells of 128 px, in the dtype of a sum of its values."""
    rows, cols = values.shape[-2] // CELL, values.shape[-1] // CELL
    sums: NDArray[Any] = values.reshape(*values.shape[:-2], rows, CELL, cols, CELL).sum(axis=(-3, -1))
    return sums


def record_path(out: Path, block_id: str, period: str) -> Path:
    """The file of a record."""
    return out / runpaths.LEDGER / runpaths.record_name(block_id, period)


def failure_path(out: Path, block_id: str, period: str) -> Path:
    """The file with the reason of a failure; removed when the block is recorded."""
    return out / runpaths.LEDGER / runpaths.failure_name(block_id, period)


def write_record(out: Path, record: Record) -> None:
    """Commit a block: written atomically and synced to disk."""
    path = record_path(out, *record.key)
    make_folder(path.parent)
    write_atomic(path, record.to_json().encode())
    failure_path(out, *record.key).unlink(missing_ok=True)


def write_failure(out: Path, failure: Failure) -> None:
    """Write the reason of a failure, for `status`."""
    path = failure_path(out, failure.block_id, failure.period)
    make_folder(path.parent)
    write_atomic(path, (json.dumps(vars(failure)) + "\n").encode())


def read_failures(out: Path) -> list[Failure]:
    """Failed blocks of the last run, in the order of their names."""
    failures = []
    for _, data in read_many(sorted((out / runpaths.LEDGER).glob("*.failed"))):
        with contextlib.suppress(ValueError, TypeError):
            failures.append(Failure(**json.loads(data)))  # type: ignore[arg-type]
    return failures


def read_record(out: Path, block_id: str, period: str) -> Record | None:
    """The record of a block and period, or None.

    Raises
    ------
    VerificationFailed
        The record is damaged, or belongs to another block.
    """
    path = record_path(out, block_id, period)
    if not path.is_file():
        return None
    try:
        record = Record.from_json(path.read_text(encoding="utf-8"))
        if record.key != (block_id, period):
            raise ValueError(f"it is the record of {record.block_id}, {record.period}")
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationFailed(f"{path} is damaged ({error}); run `subpixmap verify {out} --repair`") from error
    return record


def locked_sha256(out: Path, plan: Plan) -> dict[str, str]:
    """Period label -> hash of its items in the lock."""
    locked = items_by_period(plan, read_lock(out / runpaths.ITEMS))
    return {label: items_sha256(items) for label, items in locked.items()}


def require_items(record: Record, locked: Mapping[str, str]) -> None:
    """Refuse a block that was mapped from other items than the locked ones.

    Parameters
    ----------
    record
        The block's.
    locked
        Period label -> hash of its locked items.

    Raises
    ------
    VerificationFailed
        Another process wrote late, or the block is a copy from before a refresh.
    """
    if record.items_sha256 != locked.get(record.period):
        raise VerificationFailed(
            f"block {record.block_id}, period {record.period}: {OTHER_ITEMS}; run `subpixmap verify --repair` to map "
            "it again"
        )


def read_records(out: Path, plan: Plan | None = None) -> dict[tuple[str, str], Record]:
    """Valid records by (block id, period label), in the order of their names.

    Leaves out damaged records (`read_ledger` lists them) and, if `plan` is given, records of another recipe.
    """
    records, _ = read_ledger(out)
    run_id = None if plan is None else plan.run_id
    return {key: one for key, one in records.items() if run_id is None or one.run_id == run_id}


def read_ledger(out: Path) -> tuple[dict[tuple[str, str], Record], dict[Path, str]]:
    """Valid records, and the reason for each invalid file."""
    records: dict[tuple[str, str], Record] = {}
    damaged: dict[Path, str] = {}
    for path, data in read_many(sorted((out / runpaths.LEDGER).glob("*.json"))):
        try:
            if isinstance(data, Exception):
                raise data
            raw = _proven(data.decode())
        except (OSError, ValueError) as error:
            damaged[path] = str(error)
            continue
        record = Record._of(raw)
        if record_path(out, *record.key) == path:
            records[record.key] = record
        else:
            damaged[path] = f"it is the record of {record.block_id}, {record.period}"
    return records, damaged


def _pack(values: NDArray[Any]) -> dict[str, Any]:
    """An array as text: compressed little-endian bytes in base64."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(little.tobytes(), 6)).decode()
    return {"dtype": little.dtype.str, "shape": list(little.shape), "zlib": data}


def _unpack(packed: Mapping[str, Any]) -> NDArray[Any]:
    data = zlib.decompress(base64.b64decode(packed["zlib"], validate=True))
    return np.frombuffer(data, np.dtype(packed["dtype"])).reshape(packed["shape"])


def _proven(text: str) -> dict[str, Any]:
    """The values of a record's text; ValueError if they were changed."""
    content = json.loads(text)
    raw = content.get("record") if isinstance(content, dict) else None
    if not isinstance(raw, dict) or _with_hash(raw) != text:
        raise ValueError("the hash of the record differs from its content")
    return raw


def _with_hash(raw: Mapping[str, Any]) -> str:
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f'{{"record":{canonical},"record_sha256":"{digest}"}}\n'
