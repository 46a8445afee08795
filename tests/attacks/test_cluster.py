"""Another user of this machine, or of the network, cannot reach the processes of a run: they would do what he says."""

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from subpixmap.errors import InputError
from subpixmap.mapping import cluster
from subpixmap.mapping.cluster import connect

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def local(quick_processes: object) -> Iterator[Any]:
    """A client of a local cluster as every run starts it."""
    with connect(1) as client:
        yield client


def run_a_function(address: str, security: Any) -> Any:
    """What whoever has the address tries: to have a function executed there; the scheduler's own protocol."""
    from distributed.core import rpc

    async def attack() -> Any:
        peer = rpc(address, timeout=1.0, connection_args=security and security.get_connection_args("client"))
        try:
            return await asyncio.wait_for(peer.identity(), 3.0)
        finally:
            await peer.close_rpc()

    return asyncio.run(attack())


def addresses(client: Any) -> list[str]:
    """Of the scheduler, its workers and their nannies."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return [client.scheduler.address, *workers, *(worker["nanny"] for worker in workers.values())]


def test_who_holds_the_certificate_gets_an_answer(local: Any) -> None:
    for address in addresses(local):
        assert address.startswith("tls://127.0.0.1:")
        assert run_a_function(address, local.security)["type"]


@pytest.mark.parametrize("who", ["no certificate", "a certificate of their own", "no encryption"])
def test_strangers_are_refused(local: Any, who: str) -> None:
    from distributed.security import Security

    security = {"no certificate": Security(), "no encryption": None}.get(who, Security.temporary())
    for address in addresses(local):
        there = address.replace("tls://", "tcp://") if who == "no encryption" else address
        with pytest.raises((OSError, RuntimeError, TypeError, TimeoutError)):
            run_a_function(there, security)


def test_nothing_listens_beyond_this_machine(local: Any) -> None:
    here = psutil.Process()
    heard = {
        socket.laddr.ip
        for process in (here, *here.children(recursive=True))
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    }
    assert heard == {"127.0.0.1"}


def test_the_dashboard_is_where_the_log_says_and_forwards_nothing(local: Any) -> None:
    link = local.dashboard_link
    assert link.startswith("http://127.0.0.1:")
    assert urllib.request.urlopen(link, timeout=10).status == 200
    with pytest.raises(OSError, match="404"):
        urllib.request.urlopen(link.replace("/status", "/proxy/80/127.0.0.1/"), timeout=10)


@contextlib.contextmanager
def running(command: str, *options: Any, **environment: str) -> Iterator[None]:
    """A process of a cluster that somebody started by hand."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{command}", *map(str, options), "--no-dashboard"],
        env=dict(os.environ, PYTHONPATH=str(ROOT), **environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_cluster_of_ones_own_with_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the recipes for SLURM, GPUs and Kubernetes start it: by the environment alone."""
    import dask

    script = ROOT / "workflows" / "certificates.py"
    folder, file = tmp_path / "certificates", tmp_path / "scheduler.json"
    told = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=True).stdout
    again = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=True).stdout
    assert again == told
    keys = dict(line.removeprefix("export ").split("=", 1) for line in told.splitlines())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with running("dask_scheduler", "--scheduler-file", file, "--host", "127.0.0.1", "--port", 0, **keys):
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        with running("dask_worker", "--scheduler-file", file, "--nthreads", 1, "--no-nanny", **keys):
            with monkeypatch.context() as hasty:
                hasty.setattr(cluster, "_CONNECT_S", 3.0)
                with (
                    pytest.raises(InputError, match=r"tls://.*certificate.*TLS__CA_FILE"),
                    connect(scheduler=str(file)),
                ):
                    pass
            settings = {name.removeprefix("DASK_").lower().replace("__", "."): value for name, value in keys.items()}
            with dask.config.set(settings), connect(scheduler=str(file)) as client:
                assert client.submit(os.getpid).result(timeout=60) != os.getpid()


def test_an_open_scheduler_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, processes=False, protocol="tcp://", dashboard_address=":0", silence_logs=50) as open_,
        connect(scheduler=open_.scheduler_address),
    ):
        assert f"{open_.scheduler_address} does not require a certificate" in caplog.text


def test_assertions_of_dask_while_it_connects_and_closes_take_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a crowded machine: the first connection is disturbed, or the client is not closed when it says so."""
    from distributed import Client, LocalCluster

    asked = []
    really_close: Any = Client.close
    really_connect: Any = Client._ensure_connected

    async def disturbed(self: Client, timeout: Any = None) -> None:
        asked.append(self)
        assert len(asked) > 1
        await really_connect(self, timeout=timeout)

    def out_of_order(self: Client, *options: Any, **more: Any) -> None:
        really_close(self, *options, **more)
        raise AssertionError

    monkeypatch.setattr(Client, "_ensure_connected", disturbed)
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0", silence_logs=50) as there:
        with monkeypatch.context() as patch, connect(scheduler=there.scheduler_address) as client:
            patch.setattr(Client, "close", out_of_order)
            assert client.submit(int, "7").result(timeout=60) == 7
    assert len(asked) > 1
