"""Runs tasks in this process or as futures of a Dask client; the model is sent to every worker once.

The driver uses a small interface (`Pool`): number of tasks in flight, submit one, wait for one. This module does not
depend on what a task does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from subpixmap.errors import Incomplete, InputError
from subpixmap.mapping.cluster import Absence, connect

if TYPE_CHECKING:
    from distributed import Client, Future


class Brought(Protocol):
    """A model or a detector, which all tasks need."""

    @property
    def sha256(self) -> str:
        """Its key in the workers."""


_MODELS: dict[str, Any] = {}
"""Models of this worker process, by hash; filled once, when the worker starts."""
IN_FLIGHT = 2
"""Tasks in flight for each worker: one that runs and one that waits for it."""
_REGISTER_ATTEMPTS = 8


class WorkerDied(Incomplete):
    """The process of a task died, or was stopped because the task took too long."""

    def __init__(self, deaths: int, limit_s: float | None) -> None:
        limit = "" if limit_s is None else f", or because it took longer than {limit_s:,.0f} s"
        super().__init__(
            f"its worker process died, most likely because it ran out of memory{limit}; try a smaller --block"
        )
        self.deaths = deaths
        """How often, for this task, since it was submitted."""


class Pool(Protocol):
    """Something that runs tasks."""

    address: str
    """For people: where it runs, with the dashboard if there is one."""

    @property
    def slots(self) -> int:
        """Tasks that may be in flight."""

    def submit(self, task: Any) -> None:
        """Start a task."""

    def wait(self, seconds: float) -> tuple[Any, Any] | None:
        """The next finished task with its result or exception; None after the timeout."""


@contextlib.contextmanager
def open_pool(
    run: Callable[[Any, Any], Any],
    model: Brought,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    client: Client | None = None,
    device: str = "cpu",
    memory_limit: str | int | None = None,
    limit_s: float | None = None,
) -> Iterator[Pool]:
    """Open a pool that runs `run(task, model)`.

    Parameters
    ----------
    run
        A module-level function.
    model
        Sent to every worker once, also to workers that start later.
    workers
        0: in this process, one task after the other. Otherwise worker processes; one for each core (or GPU) when None.
    scheduler
        Address (`tls://...`) or scheduler file of a running Dask cluster to use instead.
    client
        A connected `distributed.Client` to use instead; it stays open.
    device
        "cuda" starts one process for each GPU.
    memory_limit
        Limit of each local worker process, in the notation of Dask; an equal share of the memory when None.
    limit_s
        Seconds after which a worker process is stopped if it still runs the same task; no limit in this process.

    Raises
    ------
    InputError
        The scheduler does not respond, there is no GPU, or the workers have other software than the driver.
    Incomplete
        The workers cannot be reached, or a scheduler has had none for half an hour. `subpixmap.wait-for-workers` of
        Dask's configuration changes that (DASK_SUBPIXMAP__WAIT_FOR_WORKERS=8h in the environment).
    """
    if workers == 0 and scheduler is None and client is None:
        yield _InProcess(run, model)
        return
    with contextlib.ExitStack() as stack:
        if client is None:
            client = stack.enter_context(connect(workers, scheduler, device, memory_limit))
        plugin = _plugin(model)
        _bring(client, plugin)
        try:
            yield _OnDask(run, client, model.sha256, limit_s)
        finally:
            with contextlib.suppress(Exception):  # a stopped scheduler has forgotten it anyway
                client.unregister_worker_plugin(plugin.name)


class _InProcess:
    """Runs a task when `wait` is called."""

    slots = 1

    def __init__(self, run: Callable[[Any, Any], Any], model: Brought) -> None:
        self.run, self.model, self.address = run, model, "this process"
        self.tasks: deque[Any] = deque()

    def submit(self, task: Any) -> None:
        self.tasks.append(task)

    def wait(self, seconds: float) -> tuple[Any, Any] | None:
        if not self.tasks:
            return None
        task = self.tasks.popleft()
        try:
            return task, self.run(task, self.model)
        except Exception as error:
            return task, error


class _OnDask:
    """Futures of a client; results come through a queue, so that waiting can time out."""

    def __init__(self, run: Callable[[Any, Any], Any], client: Client, sha256: str, limit_s: float | None) -> None:
        self.run, self.client, self.sha256, self.limit_s = run, client, sha256, limit_s
        self.finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.tasks: dict[Any, tuple[Any, Future[Any]]] = {}
        self.slots_then, self.asked_at = IN_FLIGHT, -math.inf
        self.absence = Absence(client)
        self.address = f"{client.scheduler.address}, dashboard {client.dashboard_link}"  # type: ignore[union-attr]

    @property
    def slots(self) -> int:
        """Twice the present number of workers, updated every few seconds; then lost workers are replaced."""
        if time.monotonic() - self.asked_at > 2:
            self.asked_at = time.monotonic()
            with contextlib.suppress(OSError):  # `wait` reports a lost scheduler
                alive = len(self.client.scheduler_info(n_workers=-1)["workers"])
                self.slots_then = IN_FLIGHT * max(alive, 1)
                self._replace_lost(alive)
                self.absence.look(alive)
        return self.slots_then

    def _replace_lost(self, alive: int) -> None:
        """Let a local cluster start workers again that died or were slow while starting."""
        from distributed import LocalCluster

        if isinstance(local := self.client.cluster, LocalCluster) and alive < len(local.worker_spec):
            local.scale(len(local.worker_spec))  # no effect while the cluster still waits for it

    def submit(self, task: Any) -> None:
        future = self.client.submit(run_with_cached_model, self.run, task, self.sha256, self.limit_s, pure=False)
        self.tasks[future.key] = task, future
        future.add_done_callback(self.finished.put)

    def wait(self, seconds: float) -> tuple[Any, Any] | None:
        from distributed import KilledWorker

        try:
            future = self.finished.get(timeout=seconds)
        except queue.Empty:
            self._require_scheduler()
            return None
        task, _ = self.tasks.pop(future.key)
        if future.status == "finished":
            return task, future.result()
        if future.status == "cancelled":
            self._require_scheduler(lost=True)
        error = future.exception()
        if isinstance(error, KilledWorker):
            return task, WorkerDied(error.allowed_failures + 1, self.limit_s)
        return task, error

    def _require_scheduler(self, *, lost: bool = False) -> None:
        if lost or self.client.status not in ("running", "connecting"):
            raise Incomplete(f"the scheduler at {self.absence.address} is lost; rerun the same command to resume")


def run_with_cached_model(run: Callable[[Any, Any], Any], task: Any, sha256: str, limit_s: float | None = None) -> Any:
    """Run a task in a Dask worker; after the time limit the process exits, and the scheduler notices."""
    if sha256 not in _MODELS:
        raise RuntimeError(f"this worker has no model {sha256[:12]}: it started without the plugin that loads it")
    if limit_s is None:
        return run(task, _MODELS[sha256])
    # Not a Python thread: a hanging library may hold the interpreter lock.
    faulthandler.dump_traceback_later(limit_s, exit=True, file=2)  # 2: the process's own stderr
    try:
        return run(task, _MODELS[sha256])
    finally:
        faulthandler.cancel_dump_traceback_later()


def _plugin(model: Brought) -> Any:
    import torch
    from distributed import WorkerPlugin

    class BringModel(WorkerPlugin):
        """Loads the model into every worker process before its first task.

        Torch uses one thread there until the plugin is removed.
        """

        def __init__(self) -> None:
            self.model, self.name, self.torch = model, f"subpixmap-model-{model.sha256}", torch.__version__

        def setup(self, worker: Any) -> None:
            import torch

            from subpixmap.mapping import pool
            from subpixmap.model.predict import one_thread

            if torch.__version__ != self.torch:
                raise InputError(
                    f"worker {worker.address} has torch {torch.__version__}but the driver has {self.torch}: install "
                    "the same version"
                )
            self.settings = contextlib.ExitStack()
            self.settings.enter_context(one_thread())
            pool._MODELS[self.model.sha256] = self.model

        def teardown(self, worker: Any) -> None:
            self.settings.close()

    return BringModel()


def _bring(client: Client, plugin: Any) -> None:
    """Send the model to all workers, also to those that start later.

    The scheduler stores the plugin for new workers before it sends it to the present ones. If one of these dies
    meanwhile, the call fails and it is unknown which workers have the plugin, so it is sent to all again.
    """
    for attempt in range(_REGISTER_ATTEMPTS):
        try:
            client.register_plugin(plugin, name=plugin.name)
            return
        except ModuleNotFoundError as error:
            where = client.scheduler.address if client.scheduler else "the scheduler"
            raise InputError(
                f"a worker of {where} cannot import {error.name}: install subpixmap on all workers"
            ) from error
        except (OSError, TimeoutError) as error:
            if client.status not in ("running", "connecting") or attempt + 1 == _REGISTER_ATTEMPTS:
                where = client.scheduler.address if client.scheduler else "the scheduler"
                raise Incomplete(f"the model could not be sent to the workers of {where}: {error!r}") from error
            time.sleep(min(0.2 * 2**attempt, 5.0))
