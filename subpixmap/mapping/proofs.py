"""Checks that a shard belongs to its record: by the hash of its file, which is quick, or of its values.

Records of earlier versions have hashes of values only, which take longer to check than everything else in a count.
After such a check, a count notes the file's hash next to the record, and later counts are quick. A note means "a file
with this hash has values with that hash". This stays true whatever happens to the map, and is used only if the values
are those of the record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from subpixmap import runpaths
from subpixmap.files import store_errors, write_atomic
from subpixmap.mapping.ledger import Record, array_sha256
from subpixmap.mapping.recipe import json_sha256


@dataclass(frozen=True)
class Proof:
    """Known hashes of the arrays of a block, by array name."""

    values: Mapping[str, str]
    """Of the decoded values, by the block's record."""
    files: dict[str, str]
    """Of the shards' files: by the record, or for records of earlier versions by the notes of a count."""
    to_note: set[str] | None = None
    """Names of files that were proven by their values and are not noted yet; None where the record knows the files."""

    @classmethod
    def of(cls, record: Record, out: Path | None = None) -> Proof:
        """Of a record; with the run's folder, of the notes beside it too."""
        if record.shard_sha256:
            return cls(record.sha256, dict(record.shard_sha256))
        return cls(record.sha256, _read_notes(out, record) if out is not None else {}, set())

    def knows(self, name: str, content: bytes) -> bool:
        """Whether the hash of its file is known."""
        return name in self.files and hashlib.sha256(content).hexdigest() == self.files[name]

    def require(self, name: str, values: NDArray[Any], content: bytes) -> None:
        """Raise ValueError for a file whose values are not those of the record; else remember the file."""
        if array_sha256(values) != self.values.get(name):
            raise ValueError("its hash differs from the one in the ledger")
        self.files[name] = hashlib.sha256(content).hexdigest()
        if self.to_note is not None:
            self.to_note.add(name)


def write_notes(out: Path, record: tuple[str, str], proof: Proof) -> None:
    """Write notes about files that were checked by their values; skipped if the folder is read-only.

    Parameters
    ----------
    out
        The run's folder, locked by this run.
    record
        (block id, period label).
    proof
        Of the record; nothing is written if there is no new check.
    """
    if not proof.to_note:
        return
    notes = {name: {"values": proof.values[name], "file": digest} for name, digest in sorted(proof.files.items())}
    with contextlib.suppress(OSError), store_errors():
        write_atomic(_path(out, *record), (json.dumps(_sealed(notes)) + "\n").encode())
    proof.to_note.clear()


def _read_notes(out: Path, record: Record) -> dict[str, str]:
    """Array name -> hash of the file with the record's values; empty without valid notes."""
    try:
        with store_errors():
            content = json.loads(_path(out, *record.key).read_bytes())
        notes = content["notes"]
        if content != _sealed(notes):
            return {}
        return {name: one["file"] for name, one in notes.items() if one["values"] == record.sha256.get(name)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _sealed(notes: Mapping[str, Any]) -> dict[str, Any]:
    """The notes with their own hash, which detects any damage."""
    return {"notes": notes, "sha256": json_sha256(notes)}


def _path(out: Path, block_id: str, period: str) -> Path:
    return out / runpaths.LEDGER / runpaths.shards_name(block_id, period)
