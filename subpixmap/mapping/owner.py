"""OUT/run.lock: one live run per folder.

The file names its owner and is touched every few seconds (heartbeat). A second run is refused while the owner is alive.
A dead owner on the same system is replaced at once; one on another host or in another container when its heartbeat
stops. On a disk, processes of one host use a kernel lock to take the folder; in an object store, they upload a claim,
which succeeds only once.

A missing heartbeat does not prove that an owner is dead: it may only be slow. So the file holds a token, which every
writer compares before each commit. An owner that lost the folder stops then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from subpixmap.errors import InputError, Refused
from subpixmap.files import is_remote, make_folder, store_errors, touch, write_new
from subpixmap.runpaths import LOCK

BEAT_S = 5.0
"""Between heartbeats."""
STALE_S = 120.0
"""An owner on another host counts as dead after this time without a heartbeat, seconds."""

_held: dict[Path, tuple[int, Owner]] = {}  # folders held by this process: thread and owner


class FolderLost(Refused):
    """Another run has taken over the folder; this run stops writing."""


@dataclass(frozen=True)
class Owner:
    """The owner of a folder."""

    host: str
    pid: int
    born: str
    """Start time of its process, from the kernel, because process numbers are reused."""
    since: float
    """Time when it locked the folder, seconds since 1970, by the clock of the file system."""
    token: str
    system: str = ""
    """Scope of its process number: the boot of the host and the namespace of the process; empty if unknown."""

    def __str__(self) -> str:
        taken = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}, since {taken}"


@contextlib.contextmanager
def run_lock(out: Path) -> Iterator[Owner]:
    """Lock a folder while the body runs; reentrant in the same thread.

    Yields
    ------
    Owner
        The owner; tasks carry its token.

    Raises
    ------
    InputError
        The folder cannot be written.
    Refused
        Another live run holds it; the message names host, process and time.
    """
    folder = out.resolve()
    thread, owner = _held.get(folder, (None, None))
    if owner is not None and thread == threading.get_ident():
        yield owner
        return
    try:
        make_folder(folder)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{folder} cannot be used as a run folder ({error.strerror}); use another --out") from error
    path = folder / LOCK
    try:
        mine = _take(path)
    except PermissionError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); use another --out") from error
    _held[folder] = threading.get_ident(), mine
    stop = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, mine, stop), name="subpixmap-heartbeat", daemon=True)
    beats.start()
    try:
        yield mine
    finally:
        stop.set()
        beats.join()
        del _held[folder]
        with contextlib.suppress(OSError):
            if (now := read_owner(path)) is not None and now.token == mine.token:
                path.unlink(missing_ok=True)


def read_owner(path: Path) -> Owner | None:
    """The owner in the file; None without a file or owner. OSError: the file cannot be read."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def is_alive(owner: Owner, path: Path, now: float | None = None) -> bool:
    """Whether the owner may still write: its process lives (same system), or its last heartbeat is recent.

    `now` is the time by the clock of the file system; by default it is measured.
    """
    if (owner.host, owner.system) == (socket.gethostname(), _system()):
        return _born(owner.pid) == owner.born
    with contextlib.suppress(OSError):
        beat = path.stat().st_mtime
        return (_clock(path.parent) if now is None else now) - beat < STALE_S
    return False


def live_owner(out: Path) -> Owner | None:
    """The live run that holds a folder; None if there is none."""
    path = out / LOCK
    with contextlib.suppress(OSError):
        owner = read_owner(path)
        if owner is not None and is_alive(owner, path):
            return owner
    return None


def is_held_here(out: Path) -> bool:
    """Whether this process holds the folder."""
    return out.resolve() in _held


def require_held(out: Path, token: str | None = None) -> None:
    """Raise if the owner has lost the folder; call it before every commit.

    Parameters
    ----------
    out
        The run's folder.
    token
        Token of the owner for whom a task works. By default that of this process; no check if this process does not
        hold the folder.

    Raises
    ------
    FolderLost
        The lock has another owner, or does not exist any more.
    """
    if token is None:
        _, held = _held.get(out.resolve(), (None, None))
        token = held.token if held else None
    if not token:
        return
    owner = read_owner(out / LOCK)
    if owner is None or owner.token != token:
        who = f"was taken over by another run ({owner})" if owner else "is no longer locked: its run.lock was removed"
        raise FolderLost(f"{out} {who}; this run stops without writing; see `subpixmap status {out}`")


def _take(path: Path) -> Owner:
    """Write the lock file; if several processes try at once, one succeeds.

    1. Wait for our turn: no other process may take the folder between check and write.
    2. Refuse if the owner lives.
    3. Replace the file of a dead owner by ours.
    """
    token = secrets.token_hex(8)
    try:
        with _one_at_a_time(path.parent, token) as now:  # 1.
            owner = read_owner(path)  # 2.
            if owner is not None and is_alive(owner, path, now):
                raise Refused(f"{path.parent} is used by a live run ({owner}); wait for it, or use another --out")
            path.unlink(missing_ok=True)  # 3. `write_new` still fails if the file is back: not every system can lock.
            mine = Owner(socket.gethostname(), os.getpid(), _born(os.getpid()), now, token, _system())
            write_new(path, json.dumps(asdict(mine)).encode())
    except FileExistsError as error:
        raise Refused(
            f"{path.parent} is just being locked by another run; wait for that run, or use another --out"
        ) from error
    return mine


def _one_at_a_time(folder: Path, token: str) -> contextlib.AbstractContextManager[float]:
    """Lock to take the folder, for one process at a time; yields the time by the clock of the file system."""
    return _claimed(folder, token) if is_remote(folder) else _flocked(folder)


@contextlib.contextmanager
def _claimed(folder: Path, token: str) -> Iterator[float]:
    """Lock by an object that only one process can create; it exists for moments unless its creator died."""
    claim = folder / f".{LOCK}.claim"
    try:
        with store_errors():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - claim.stat().st_mtime > STALE_S:
                    claim.unlink(missing_ok=True)
            write_new(claim, token.encode())
    except FileExistsError:
        raise
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error}); check the address and the credentials") from error
    try:
        yield claim.stat().st_mtime
    finally:
        claim.unlink(missing_ok=True)


@contextlib.contextmanager
def _flocked(folder: Path) -> Iterator[float]:
    """Lock for one process of this host at a time; the kernel releases it when the process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot lock folders
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield _clock(folder)
    finally:
        os.close(handle)


def _clock(folder: Path) -> float:
    """The time by the clock of the file system: that of a file server may differ by minutes."""
    probe = folder / f".{LOCK}.{secrets.token_hex(8)}.partial"
    try:
        with store_errors():
            probe.write_bytes(b"")
            return probe.stat().st_mtime
    except OSError:  # the folder is read-only: use the local clock
        return time.time()
    finally:
        with contextlib.suppress(OSError), store_errors():
            probe.unlink(missing_ok=True)


def _system() -> str:
    """The scope of process numbers: hosts with the same name, and containers of one host, have their own."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _beat(path: Path, mine: Owner, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):
            now = read_owner(path)
            if now is None or now.token != mine.token:
                return
            touch(path)


def _born(pid: int) -> str:
    """When a process started, as text; empty if there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        # Clock ticks since boot, the 22nd field; the name before may hold blanks. A set clock does not change it.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    import psutil

    try:
        return str(round(psutil.Process(pid).create_time()))
    except psutil.NoSuchProcess:
        return ""
