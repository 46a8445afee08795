"""Check whether this machine is ready: test each part that a run needs, within a bounded time, and say what to fix.

In: folder for runs, catalogue, device. Out: findings. No file is left behind.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from subpixmap.errors import Incomplete, InputError
from subpixmap.files import is_remote, path_of
from subpixmap.verbs.console import folded
from subpixmap.verbs.request import DEFAULT_SOURCE

State = Literal["ok", "warning", "to do"]

PACKAGES = ("torch", "numpy", "zarr", "xarray", "dask", "stackstac", "rasterio", "pyproj", "geopandas", "exactextract")
RASTERS = {"GTiff": "imagery", "COG": "exports", "JP2OpenJPEG": ".SAFE products"}
VECTORS = {"GPKG": "units", "GeoJSON": "units", "PMTiles": "exports"}
WORKER_BYTES = 1.6e9
"""Memory of a worker with the shipped models, blocks of 1024 px and ten acquisitions; a plan gives the exact value."""
DISK_BYTES = 10e9
CLOCK_S = 300.0
"""Largest difference from the clock of the catalogue, seconds: signed links are valid about this long."""
CATALOGUE_WAIT_S = 8.0
RUN_WAIT_S = 240.0
_SHOWN = {"ok": "ok", "warning": "warning", "to do": "TO DO"}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: State
    text: str
    remedy: str = ""
    """What the user should do; empty if the check passed."""


def doctor(
    *,
    out: Path = Path("."),
    source: Sequence[str] = (),
    device: str = "auto",
    as_json: bool = False,
) -> list[Finding]:
    """Check each part that a run needs, and print a line for each; raise Incomplete if something must be fixed.

    Parameters
    ----------
    out
        Folder where runs will be written, or `s3://bucket/folder`.
    source
        Catalogues to check; the default one if empty.
    device
        "cpu", "cuda" or "auto".
    as_json
        Print print one JSON array instead of lines.
    """
    parts: list[tuple[str, Callable[[], Finding]]] = [
        ("versions", _versions),
        ("GDAL", _drivers),
        ("network", partial(_network, device)),
        ("memory", _memory),
        ("disk", partial(_disk, path_of(out))),
        ("store", partial(_store, path_of(out))),
        *((f"catalogue {name}", partial(_catalogue, name)) for name in source or DEFAULT_SOURCE),
        ("a run", partial(_run, device)),
    ]
    findings = []
    for name, look in parts:
        if name == "a run" and not as_json:
            print(
                "running one simulated block from imagery to report (about half a minute) ...",
                file=sys.stderr,
                flush=True,
            )
        findings.append(_look(name, look))
        if not as_json:
            _show(findings[-1])
    if as_json:
        print(json.dumps([asdict(one) for one in findings], indent=1, ensure_ascii=False))
    if wanting := [one.name for one in findings if one.state == "to do"]:
        raise Incomplete(f"fix {', '.join(wanting)} as described above, then run `subpixmap doctor` again")
    return findings


def _look(name: str, look: Callable[[], Finding]) -> Finding:
    """The result of a check; an unexpected error becomes a failed check."""
    try:
        return look()
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Finding(name, "to do", what, "repair the installation: pip install --force-reinstall subpixmap")


def _show(finding: Finding) -> None:
    text = f"\n{'':<9}".join(folded(f"{finding.name}: {finding.text}", beside=9, to=sys.stdout))
    remedy = f"\n{'':<12}".join(folded(finding.remedy, beside=12, to=sys.stdout))
    print(f"{_SHOWN[finding.state]:<9}{text}" + (f"\n{'':<9}-> {remedy}" if remedy else ""), flush=True)


def _versions() -> Finding:
    """Check the versions of Python and packages against the project's requirements."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    wrong = []
    for text in requires("subpixmap") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            if not wanted.specifier.contains(version(wanted.name), prereleases=True):
                wrong.append(f"{wanted.name} {version(wanted.name)} (wanted: {wanted.specifier})")
        except PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
    shown = ", ".join(f"{name} {version(name)}" for name in PACKAGES if not any(w.startswith(name) for w in wrong))
    text = f"subpixmap {version('subpixmap')}, Python {sys.version.split()[0]}, {shown}"
    if wrong:
        return Finding("versions", "to do", f"{'; '.join(wrong)}", "pip install -c constraints.txt subpixmap")
    return Finding("versions", "ok", text)


def _drivers() -> Finding:
    """Check the formats of GDAL; rasterio and pyogrio each contain their own GDAL."""
    import pyogrio
    import rasterio
    from rasterio.env import Env

    with Env() as env:
        rasters = env.drivers()
    vectors = pyogrio.list_drivers()
    text = f"{rasterio.__gdal_version__} for rasters, {'.'.join(map(str, pyogrio.__gdal_version__))} for polygons"
    lacking = [f"{name} ({use})" for name, use in RASTERS.items() if name not in rasters]
    lacking += [f"{name} ({use})" for name, use in VECTORS.items() if name not in vectors]
    if lacking:
        needed = any(one.startswith(("GTiff", "GPKG", "GeoJSON")) for one in lacking)
        remedy = "install rasterio and pyogrio from wheels or conda-forge, which bring these drivers"
        return Finding("GDAL", "to do" if needed else "warning", f"{text}; without {', '.join(lacking)}", remedy)
    return Finding("GDAL", "ok", f"{text}, all drivers")


def _network(device: str) -> Finding:
    """Check whether the shipped model predicts on the device of a run, and how fast."""
    import numpy as np
    import torch

    from subpixmap.model.backends import Arithmetic
    from subpixmap.model.checkpoint import load_model
    from subpixmap.model.predict import predict_block

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        remedy = "install a driver and a torch build for it, or run with --device cpu"
        return Finding("network", "to do", f"torch {torch.__version__} finds no GPU", remedy)
    chosen = "cuda" if there and device != "cpu" else "cpu"
    model = load_model("demo-rgbn-v2")
    scene = np.full((len(model.card.bands), 272, 272), 0.1, np.float32)
    arithmetic = Arithmetic.chosen(device=chosen)
    predict_block(model, scene, arithmetic=arithmetic)  # the first one is slower
    began = time.perf_counter()
    count = predict_block(model, scene, arithmetic=arithmetic)[0]
    seconds = time.perf_counter() - began
    if not np.isfinite(count).all():
        return Finding(
            "network", "to do", f"predictions on {chosen} contain NaN or infinity", "install another torch build"
        )
    name = torch.cuda.get_device_name() if chosen == "cuda" else "CPU"
    speed = f"{256 * 256 / 1e6 / seconds:.2g} million pixels a second in one process"
    text = f"torch {torch.__version__} on {name}; {arithmetic.backend} computes {speed}"
    return Finding("network", "ok", text)


def _memory() -> Finding:
    """Check cores and memory, within container limits, and how many workers they allow."""
    from subpixmap.machine import available_memory, cores, memory

    text = f"{cores()} cores, {memory() / 1e9:.1f} GB, {available_memory() / 1e9:.1f} GB of it free"
    workers = int(memory() // WORKER_BYTES)
    if workers < 1:
        return Finding("memory", "to do", text, f"a worker needs about {WORKER_BYTES / 1e9:.1f} GB: raise the limit")
    if workers < cores():
        return Finding("memory", "warning", text, f"enough for {workers} workers: run with --workers {workers}")
    return Finding("memory", "ok", text)


def _disk(out: Path) -> Finding:
    """Check the free disk space for runs and for temporary files."""
    import shutil

    if is_remote(out):
        return Finding("disk", "ok", f"{out} is an object store; its free space is not checked")
    there = next(folder for folder in [out.absolute(), *out.absolute().parents] if folder.exists())
    free = {str(folder): shutil.disk_usage(folder).free for folder in (there, Path(tempfile.gettempdir()))}
    text = ", ".join(f"{size / 1e9:,.1f} GB free in {folder}" for folder, size in free.items())
    if min(free.values()) < DISK_BYTES:
        remedy = (
            "free some space, give --out on a larger disk, or set TMPDIR; `subpixmap plan` shows how much a run needs"
        )
        return Finding("disk", "warning", text, remedy)
    return Finding("disk", "ok", text)


def _store(out: Path) -> Finding:
    """Check the folder for runs: write, read, compare and remove a file."""
    from subpixmap.files import make_folder, write_atomic

    made = not out.exists()
    path, data = out / f".doctor-{os.getpid()}", os.urandom(4096)
    try:
        make_folder(out)
        write_atomic(path, data)
        same = path.read_bytes() == data
        path.unlink()
        if made and not is_remote(out):
            out.rmdir()
    except (OSError, InputError) as error:
        remedy = "give an --out that you may write to; for s3:// set AWS_PROFILE, or the keys of AWS"
        return Finding("store", "to do", f"{out} cannot be written ({error})", remedy)
    if not same:
        return Finding("store", "to do", f"{out} returns other bytes than were written", "use another disk")
    return Finding("store", "ok", f"a test file in {out} was written, read and removed")


def _catalogue(source: str) -> Finding:
    """Check whether the catalogue responds, and whether its clock agrees with the local one."""
    from subpixmap.scenes.hrefs import redact
    from subpixmap.scenes.source import CATALOGUES

    url = CATALOGUES[source].url if source in CATALOGUES else source
    name, shown = f"catalogue {redact(source)}", redact(url)
    if Path(url).exists():
        return Finding(name, "ok", f"{url} is on this machine")
    began, answers = time.perf_counter(), queue.Queue[tuple[int, float | None] | OSError](1)
    threading.Thread(target=_ask, args=(url, answers), daemon=True).start()  # looking up a name has no timeout
    try:
        answer = answers.get(timeout=CATALOGUE_WAIT_S)
    except queue.Empty:
        answer = TimeoutError()
    if isinstance(answer, OSError):
        remedy = "check the network; behind a proxy set HTTPS_PROXY; offline give --source PATH of a local catalogue"
        return Finding(name, "to do", f"{shown} cannot be reached ({type(answer).__name__})", remedy)
    status, ahead = answer
    if status >= 400:
        return Finding(name, "to do", f"{shown} returned HTTP status {status}", "check --source, or try again later")
    if ahead is not None and abs(ahead) > CLOCK_S:
        remedy = "set the clock (NTP): with a wrong clock, servers refuse signed links"
        return Finding(
            name, "to do", f"the clock of this machine differs by {ahead:+.0f} s from that of {shown}", remedy
        )
    return Finding(name, "ok", f"{shown} answered in {time.perf_counter() - began:.1f} s; the clocks agree")


def _ask(url: str, answers: queue.Queue[tuple[int, float | None] | OSError]) -> None:
    """HTTP status of a URL and seconds by which the local clock is ahead of the server's; or the error."""
    from email.utils import parsedate_to_datetime

    import requests

    try:
        with requests.get(url, timeout=CATALOGUE_WAIT_S / 2, stream=True) as answer:
            stated = answer.headers.get("Date")
            ahead = time.time() - parsedate_to_datetime(stated).timestamp() if stated else None
            answers.put((answer.status_code, ahead))
    except OSError as error:  # of requests, too
        answers.put(error)


def _run(device: str) -> Finding:
    """Map, count and report a simulated country of 1 km in a separate process."""
    own = [sys.executable, "-m", "subpixmap"]
    simulate = ["simulate", "country", "--size-km", "1", "--years", "2020", "--acquisitions", "1", "--quiet"]
    run = ["run", "--region", "country/region.geojson", "--source", "country/catalog.json", "--years", "2020"]
    run += ["--admin", "country/admin.parquet", "--model", "demo-rgbn-v2", "--block", "256", "--workers", "0"]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="subpixmap-doctor-") as scratch:
        for command in (simulate, [*run, "--device", device, "--out", "out", "--quiet"]):
            try:
                done = subprocess.run(
                    [*own, *command], cwd=scratch, capture_output=True, text=True, timeout=RUN_WAIT_S, check=False
                )
            except subprocess.TimeoutExpired:
                text = f"{command[0]} of one block was not finished after {RUN_WAIT_S:.0f} s"
                return Finding(
                    "a run",
                    "to do",
                    text,
                    "if the machine is busy, try again later; otherwise run `make demo` to see the error",
                )
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
                return Finding(
                    "a run", "to do", f"{command[0]} ended with {done.returncode}: {said}", "see what it said"
                )
        page = Path(scratch, "out", "report.html").is_file()
    if not page:
        return Finding("a run", "to do", "it left no report.html", "report this as an issue, with the lines above")
    seconds = time.perf_counter() - began
    return Finding("a run", "ok", f"one block, from imagery to report, in {seconds:.0f} s")
