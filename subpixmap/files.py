"""Atomic files, safe also after a power cut; their hashes; and the user's cache folder.

A run folder is on a disk or in an object store. Only this module handles the difference; both are paths (`path_of`). On
a disk, files are written beside the target and renamed. In an object store, an upload is visible only when complete;
renaming, appending and syncing do not exist there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from subpixmap.errors import InputError, SubpixmapError

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?!/)")  # pathlib.Path of a URL drops one of the two slashes
_DRAFT = re.compile(r"\..+\.(\d+|[0-9a-f]{16})\.partial|[^.]+\.[0-9a-f]{32}\.partial")  # ours; Zarr's
_AT_ONCE = 256  # files asked for in one go


def path_of(path: str | os.PathLike[str]) -> Path:
    """A local path, or for a URL known to fsspec (`s3://bucket/run`) an object with the same methods.

    Credentials and endpoint are those of the environment, as the store's own library reads them (`AWS_PROFILE`,
    `AWS_ENDPOINT_URL_S3`, ...).

    Raises
    ------
    InputError
        The URL has an unknown store, or its library is not installed.
    """
    if is_remote(path):
        return cast(Path, path)
    text = local_path(str(path))
    if (url := _URL.match(text)) is None:
        return Path(text)
    try:
        from upath import UPath

        # No cache of listings, because other workers write files.
        remote = UPath(f"{url[1]}://{text[url.end() :]}", use_listings_cache=False)
        remote.fs  # noqa: B018  (imports what the store needs)
    except (ImportError, ValueError) as error:
        advice = "install subpixmap[s3]" if isinstance(error, ImportError) else "give a folder or s3://bucket/folder"
        raise InputError(f"{text} cannot be used ({error}): {advice}") from error
    return cast(Path, remote)


def local_path(text: str) -> str:
    """The path of a `file://` URI, decoded; any other text as it is."""
    if not re.match(r"file:/", text):
        return text
    return unquote(re.sub(r"^file:/+(?:localhost/)?", "/", text))


def is_remote(path: object) -> bool:
    """Whether a result of `path_of` is in an object store."""
    return not isinstance(path, (str, os.PathLike))


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of the library of an object store into OSError; other errors stay unchanged."""
    try:
        yield
    except Exception as error:
        if type(error).__module__ == "builtins" or isinstance(error, SubpixmapError):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Add the file name to system errors while writing, because the error of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file atomically: write beside it, sync, rename, and sync the folder."""
    if is_remote(path):
        _store(path).pipe_file(_key(path), data)
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with named_errors(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    sync(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write a new file atomically; of several writers only one succeeds.

    In an object store this is a conditional upload (`If-None-Match: *`), which the store must support.

    Raises
    ------
    FileExistsError
        It exists.
    """
    if is_remote(path):
        try:
            _store(path).pipe_file(_key(path), data, mode="create")
        except FileExistsError:
            present = None
            with contextlib.suppress(FileNotFoundError):  # another writer has deleted it in the meantime
                present = path.read_bytes()
            if present != data:  # equal bytes are ours: a response was lost, and the library retried
                raise
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    with named_errors(path):
        try:
            draft.write_bytes(data)
            os.link(draft, path)  # fails if the file exists
        finally:
            draft.unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Set the modification time of a file to now."""
    if is_remote(path):
        write_atomic(path, path.read_bytes())
    else:
        os.utime(path)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; an object store needs none. `InputError` if a file is in the way."""
    if not is_remote(path):
        require_place(path)
        path.mkdir(parents=True, exist_ok=True)


def require_place(folder: Path) -> None:
    """Refuse early a folder that is a file, lies below a file, or cannot be written to.

    Raises
    ------
    InputError
        The message names the folder or file that is in the way.
    """
    if is_remote(folder):
        return
    try:
        there = next((one for one in (folder, *folder.absolute().parents) if os.path.lexists(one)), folder)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: the current folder does not exist any more; change to an existing folder"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(folder)[:200]} is not a valid folder name ({error.args[-1]}); give another path"
        ) from error
    if not there.is_dir():
        what = "leads nowhere" if there.is_symlink() and not there.exists() else "is a file, not a folder"
        raise InputError(f"{there} {what}; give another folder, or remove it")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there} cannot be written to; give another folder, or change its permissions")


def files_under(folder: Path) -> list[Path]:
    """All files at any depth, sorted; none if the folder does not exist."""
    if not is_remote(folder):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    root = _key(folder).rstrip("/")
    return [folder / name[len(root) + 1 :] for name in sorted(_store(folder).find(root))]


def read_many(paths: Sequence[Path]) -> Iterator[tuple[Path, bytes | OSError]]:
    """Each file with its bytes or its error; files of an object store are read many at a time."""
    for start in range(0, len(paths), _AT_ONCE):
        part = paths[start : start + _AT_ONCE]
        if is_remote(part[0]):
            contents = _store(part[0]).cat([_key(path) for path in part], on_error="return")
            for path in part:
                content = contents[_key(path)]
                foreign = isinstance(content, Exception) and not isinstance(content, OSError)
                yield path, OSError(f"{type(content).__name__}: {content}") if foreign else content
            continue
        for path in part:
            try:
                yield path, path.read_bytes()
            except OSError as error:
                yield path, error


def modified(folder: Path) -> dict[str, float]:
    """Name of each file of a folder -> modification time, seconds since 1970."""
    if not is_remote(folder):
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_mtime for entry in entries}
    listed = _store(folder).ls(_key(folder), detail=True, refresh=True)
    return {one["name"].rpartition("/")[2]: one["LastModified"].timestamp() for one in listed if "LastModified" in one}


def _store(path: Path) -> Any:
    """The fsspec file system of a path in an object store."""
    return cast(Any, path).fs


def _key(path: Path) -> str:
    return str(cast(Any, path).path)


def write_json(path: Path, content: Any) -> None:
    """Replace a file by JSON for people: indented, UTF-8; a NaN is an error."""
    write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def sweep(folder: Path, *, below: bool = False) -> None:
    """Remove half-written files of killed writers in a folder that no one else writes to.

    Only files named by `write_atomic`, `write_new` and Zarr; other `.partial` files belong to users. With `below`, also
    in folders inside.
    """
    if is_remote(folder) or not folder.is_dir():
        return
    for path in folder.rglob("*.partial") if below else folder.glob("*.partial"):
        if _DRAFT.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync a file's bytes, or a folder's entries, to disk."""
    if is_remote(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def geoparquet_bytes(table: Any) -> bytes:
    """A GeoDataFrame as GeoParquet 1.1.

    The box of every row stands in a column (`bbox`, the covering of the format), so that a reader who wants a part
    finds it without looking at geometries. GeoPandas hides the column.
    """
    buffer = io.BytesIO()
    covered = "bbox" not in table.columns  # which may be a column of the user's own
    table.to_parquet(buffer, index=False, compression="zstd", schema_version="1.1.0", write_covering_bbox=covered)
    return buffer.getvalue()


def file_sha256(path: str | Path) -> str:
    """Hash of a file's bytes."""
    if is_remote(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[union-attr]
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The user's cache folder, or the one in the environment variable SUBPIXMAP_CACHE."""
    import platformdirs

    return Path(os.environ.get("SUBPIXMAP_CACHE") or platformdirs.user_cache_path("subpixmap"))
