"""Connects to Dask: local worker processes, local GPUs, or a running scheduler.

Anyone who reaches a scheduler can run code as the user who started it. Local schedulers require a certificate made for
this cluster and kept in memory; their dashboard only shows plots.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from subpixmap.errors import Incomplete, InputError
from subpixmap.machine import usual_workers

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("subpixmap")

KEPT_BYTES = 2**28
"""Freed memory that a local worker keeps for its next tensors, bytes."""
_KEYS = (
    "a tls:// scheduler needs your certificate: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ...__CLIENT__CERT and "
    "...__CLIENT__KEY in the environment, see docs/security.md"
)
_CONNECT_S = 20.0
_REACH_S = 10.0
_STARTS = 3
"""Attempts to start the local processes; if one is killed while starting, Dask gives up all of them."""
_WARN_AFTER_S = 5.0
_WAIT = "30m"  # for the workers of a scheduler elsewhere
_HERE = "127.0.0.1:0"
"""Address of the local dashboard: only this machine, any free port."""
_PAGES = ["scheduler.prometheus", "scheduler.info", "scheduler.json", "health", "statics"]
"""Pages of the local dashboard: all of Dask's except the proxy to other hosts."""


@contextlib.contextmanager
def connect(
    workers: int | None = None,
    scheduler: str | None = None,
    device: str = "cpu",
    memory_limit: str | int | None = None,
) -> Iterator[Client]:
    """A Dask client of local worker processes, or of a running scheduler; options as in `pool.open_pool`."""
    import dask
    from distributed import Client

    if scheduler is not None:
        address = require_scheduler(scheduler)
        try:
            client = _client_of(address)
        except (OSError, TimeoutError, ValueError, TypeError) as error:  # Dask's message for a missing certificate
            keys = f"; {_KEYS}" if address.startswith("tls://") else ""
            raise InputError(f"no scheduler responds at {scheduler} ({error}); check --scheduler{keys}") from error
        with _quiet(), _closed_in_time(client):  # quiet also while the client closes
            _warn_if_open(client)
            Absence(client).wait(client)
            yield client
        return
    settings = {
        "distributed.worker.memory.target": False,  # tasks return little; nothing is worth spilling
        "distributed.worker.memory.spill": False,
        "distributed.worker.profile.enabled": False,  # its records grow by tens of MB in hours
        "distributed.admin.low-level-log-length": 100,
        "distributed.admin.tick.limit": "1h",
        "distributed.deploy.lost-worker-timeout": "60s",  # time for a worker to start again
        "distributed.scheduler.allowed-failures": 0,  # the driver counts attempts, retries and gives up
        "distributed.scheduler.http.routes": [f"distributed.http.{page}" for page in _PAGES],
        "distributed.scheduler.worker-saturation": 1.0,  # or a waiting task would be blamed for the running one
        # Dask hands every freed tensor back to the system: page faults then cost 0.7 times the arithmetic.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": KEPT_BYTES,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": KEPT_BYTES,
    }
    with dask.config.set(settings), _closed_in_time(_local_cluster(workers, device, memory_limit)) as cluster:
        with _closed_in_time(Client(cluster, set_as_default=False)) as client:
            yield client


def _client_of(address: str) -> Client:
    """A client of a remote scheduler; retries when Dask fails an assertion while connecting."""
    from distributed import Client

    for _ in range(_STARTS - 1):
        with contextlib.suppress(AssertionError):
            return Client(address, timeout=_CONNECT_S, set_as_default=False)
    return Client(address, timeout=_CONNECT_S, set_as_default=False)


@contextlib.contextmanager
def _closed_in_time(opened: Any) -> Iterator[Any]:
    """Close a cluster or client in time; a failure to close does not lose results."""
    entered = opened.__enter__()
    try:
        yield entered
    finally:
        try:
            opened.__exit__(*sys.exc_info())
        except (
            TimeoutError,
            AssertionError,
        ):  # a busy machine, or a client that was reconnecting; both end with this process
            log.warning("the client or workers of Dask did not stop in time")


def require_scheduler(scheduler: str) -> str:
    """The address of a scheduler, given by address or file, after checking quickly that it responds.

    Raises
    ------
    InputError
        The file does not exist, has no address, or no scheduler listens at the address.
    Incomplete
        The scheduler at the address in the file has stopped.
    """
    is_file = os.path.exists(scheduler)
    address = _address_in(scheduler) if is_file else scheduler
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "tcp", None, None
    if scheme in ("tcp", "tls") and not (host and port):
        found = f"it names {address[:80]!r}" if is_file else "this file does not exist"
        raise InputError(
            f"--scheduler {scheduler}: {found}; give an address such as tcp://host:8786, or a scheduler file"
        )
    if scheme not in ("tcp", "tls") or not (host and port):
        return address  # Dask knows others
    try:
        socket.create_connection((host, port), timeout=_REACH_S).close()
    except OSError as error:
        if is_file:
            raise Incomplete(
                f"the scheduler of {scheduler} does not respond at {address} ({error}): start it, then "
                "rerun the same command to resume"
            ) from error
        raise InputError(f"no scheduler responds at {scheduler} ({error}); check --scheduler") from error
    return address


def _address_in(file: str) -> str:
    """The address in a scheduler file."""
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file} is not a scheduler file: it is not JSON with an address; check --scheduler"
        ) from error


def _local_cluster(workers: int | None, device: str, memory_limit: str | int | None) -> Any:
    if device == "cuda":
        return _cuda_cluster(workers, memory_limit)
    from distributed import LocalCluster

    start = partial(
        LocalCluster,
        n_workers=workers or usual_workers(device),
        threads_per_worker=1,
        processes=True,
        memory_limit=memory_limit or "auto",
        host="127.0.0.1",
        security=True,
        dashboard_address=_HERE,
        silence_logs=logging.CRITICAL,
    )
    for attempt in range(_STARTS):
        try:
            return start()
        except (RuntimeError, OSError) as error:  # the name of Dask's own is not public
            if attempt + 1 == _STARTS:
                raise Incomplete(
                    f"the worker processes do not start on this machine ({_first_line(error)}): free some memory, or "
                    "use --workers 0, then rerun the same command to resume"
                ) from error
            log.warning(f"starting the worker processes again: {_first_line(error)}")
    raise AssertionError("unreachable")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _cuda_cluster(workers: int | None, memory_limit: str | int | None) -> Any:
    """One process per GPU; imported here, because dask-cuda cannot be imported without a driver."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            "no GPU was found on this machine; use --device cpu, or --scheduler with a cluster that has GPUs"
        )
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise InputError(f"GPUs need dask-cuda ({error}); install subpixmap[cuda]") from error
    n_gpus = usual_workers("cuda")
    if workers and workers > n_gpus:
        raise InputError(f"--workers {workers}: this machine has {n_gpus} GPU(s), and each takes one worker")
    return LocalCUDACluster(
        n_workers=workers or n_gpus,
        threads_per_worker=1,
        memory_limit=memory_limit or "auto",
        host="127.0.0.1",
        security=True,
        dashboard_address=_HERE,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the tracebacks that Dask writes when a scheduler stops; one line replaces them."""
    names = ("distributed", "distributed.client", "tornado.application", "asyncio")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _warn_if_open(client: Client) -> None:
    """Warn if a scheduler requires no certificate."""
    address = (client.scheduler and client.scheduler.address) or ""
    if address.startswith("tcp://"):
        log.warning(
            f"the scheduler at {address} does not require a certificate: anyone who reaches it can run code as you; "
            "see docs/security.md for tls://",
            extra={"tell": True},
        )


class Absence:
    """Warns that a scheduler has no workers, and stops waiting after a time limit."""

    def __init__(self, client: Client) -> None:
        import dask
        from dask.utils import parse_timedelta
        from distributed import LocalCluster

        self.address = client.scheduler.address if client.scheduler else "its address"
        # One on this machine starts its workers itself, and again when they die.
        self.ours = isinstance(client.cluster, LocalCluster)
        ended = "its processes end right after their start: check the memory and the installed software"
        self.advice = ended if self.ours else f"start one with: dask worker {self.address} --nthreads 1"
        self.limit_s = float(parse_timedelta(dask.config.get("subpixmap.wait-for-workers", _WAIT)))
        self.since: float | None = None
        self.warned = False

    def look(self, alive: int) -> None:
        """Note the number of workers; call it every few seconds."""
        if alive:
            self.since, self.warned = None, False
            return
        self.since = self.since or time.monotonic()
        waited = time.monotonic() - self.since
        if waited >= self.limit_s:
            raise Incomplete(
                f"the scheduler at {self.address} has had no workers for {waited / 60:.3g} min; {self.advice}, "
                "then rerun the same command to resume"
            )
        if waited >= min(_WARN_AFTER_S * (12 if self.ours else 1), self.limit_s / 2) and not self.warned:
            self.warned = True
            text = f"the scheduler at {self.address} has no workers yet; {self.advice}"
            log.warning(f"{text}; waiting {self.limit_s / 60:.3g} min", extra={"tell": True})

    def wait(self, client: Client) -> None:
        """Wait until there is a worker."""
        while True:
            try:
                alive = len(client.scheduler_info(n_workers=-1)["workers"])
            except (OSError, TimeoutError) as error:
                raise Incomplete(
                    f"the scheduler at {self.address} is lost; rerun the same command to resume"
                ) from error
            self.look(alive)
            if alive:
                return
            time.sleep(0.2)
