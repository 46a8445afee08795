"""What is done and proven: one record per block and period, written last. The record is the commit.

A record holds the hash of what was stored (decoded, so any codec may read it), what went in, and sums on a grid of
128 px. It carries its own hash. A block without a valid record is not done, whatever the arrays hold.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.files import make_folder, path_of, read_many, write_atomic
from subpixmap.grid import CELL
from subpixmap.mapping.plan import Plan

_SUFFIX = ".json"


@dataclass(frozen=True)
class Used:
    """An acquisition that went into a block."""

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
    """One block in one period, done."""

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
    """Pixels of the computed chunks that the zone owns."""
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

    @property
    def key(self) -> tuple[str, str]:
        """(block id, period label)."""
        return self.block_id, self.period

    def to_json(self) -> str:
        """Canonical text, one line, with the record's own hash."""
        raw: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        raw["acquisitions"] = [vars(used) for used in self.acquisitions]
        raw["cells"] = {name: _pack(values) for name, values in self.cells.items()}
        return _with_hash(raw)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Parse a record; ValueError if a single character is not as it was written."""
        raw = json.loads(text)["record"]
        if _with_hash(raw) != text:
            raise ValueError("the record's hash differs from its content")
        raw["acquisitions"] = tuple(Used(**used) for used in raw["acquisitions"])
        raw["cells"] = {name: _unpack(packed) for name, packed in raw["cells"].items()}
        return cls(**raw)


@dataclass(frozen=True)
class Failure:
    """A block that is given up for this run; the next run tries it again."""

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
    return values.reshape(*values.shape[:-2], rows, CELL, cols, CELL).sum(axis=(-3, -1))


def ledger_path(out: str | os.PathLike[str]) -> Path:
    """OUT/ledger."""
    return path_of(out) / "ledger"


def record_path(out: str | os.PathLike[str], block_id: str, period: str) -> Path:
    """The record's file; a scene's time loses its colons."""
    return ledger_path(out) / f"{block_id}_{period.replace(':', '')}{_SUFFIX}"


def failure_path(out: str | os.PathLike[str], block_id: str, period: str) -> Path:
    """Where the reason is noted why a block could not be done; its record removes the note."""
    return record_path(out, block_id, period).with_suffix(".failed")


def write_record(out: str | os.PathLike[str], record: Record) -> None:
    """Commit a block: whole or not at all, and forced to disk."""
    path = record_path(out, *record.key)
    make_folder(path.parent)
    write_atomic(path, record.to_json().encode())
    failure_path(out, *record.key).unlink(missing_ok=True)


def write_failure(out: str | os.PathLike[str], failure: Failure) -> None:
    """Note why a block could not be done, for `status`."""
    path = failure_path(out, failure.block_id, failure.period)
    make_folder(path.parent)
    write_atomic(path, (json.dumps(vars(failure)) + "\n").encode())


def read_failures(out: str | os.PathLike[str]) -> list[Failure]:
    """Blocks that the last run could not do, in the order of their names."""
    found = []
    for _, data in read_many(sorted(ledger_path(out).glob("*.failed"))):
        with contextlib.suppress(ValueError, TypeError):
            found.append(Failure(**json.loads(data)))  # type: ignore[arg-type]
    return found


def read_records(out: str | os.PathLike[str], plan: Plan | None = None) -> dict[tuple[str, str], Record]:
    """Valid records by (block id, period label), in the order of their names.

    Damaged records are left out (`read_ledger` tells them), and so are those of another recipe where `plan` is given.
    """
    found, _ = read_ledger(out)
    run_id = None if plan is None else plan.run_id
    return {key: one for key, one in found.items() if run_id is None or one.run_id == run_id}


def read_ledger(out: str | os.PathLike[str]) -> tuple[dict[tuple[str, str], Record], dict[Path, str]]:
    """Valid records, and for each file that is none the reason."""
    records: dict[tuple[str, str], Record] = {}
    damaged: dict[Path, str] = {}
    for path, data in read_many(sorted(ledger_path(out).glob(f"*{_SUFFIX}"))):
        try:
            if isinstance(data, Exception):
                raise data
            record = Record.from_json(data.decode())
            if record_path(out, *record.key) != path:
                raise ValueError(f"it is the record of {record.block_id}, {record.period}")
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            damaged[path] = str(error)
            continue
        records[record.key] = record
    return records, damaged


def _pack(values: NDArray[Any]) -> dict[str, Any]:
    """An array as text: compressed little-endian bytes in base64."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(little.tobytes(), 6)).decode()
    return {"dtype": little.dtype.str, "shape": list(little.shape), "zlib": data}


def _unpack(packed: Mapping[str, Any]) -> NDArray[Any]:
    data = zlib.decompress(base64.b64decode(packed["zlib"], validate=True))
    return np.frombuffer(data, np.dtype(packed["dtype"])).reshape(packed["shape"])


def _with_hash(raw: Mapping[str, Any]) -> str:
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return f'{{"record":{canonical},"record_sha256":"{digest}"}}\n'
