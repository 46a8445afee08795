"""Files that are there whole or not at all, also after a power cut; their hashes; where the user's cache is."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file: written beside it, forced to disk, renamed, and the folder forced to disk too."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Replace a file by JSON for people: indented, UTF-8; a NaN is an error."""
    write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def sweep(folder: Path) -> None:
    """Remove what killed writers left half-written anywhere in a folder that nobody else writes to."""
    for partial in folder.rglob("*.partial"):
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: str | Path) -> str:
    """Hash of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The user's cache, or the folder that the environment variable SUBPIXMAP_CACHE names."""
    import platformdirs

    return Path(os.environ.get("SUBPIXMAP_CACHE") or platformdirs.user_cache_path("subpixmap"))
