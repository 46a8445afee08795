"""`subpixmap doctor`: what is broken is named with its remedy, in bounded time, and nothing is left behind."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from subpixmap.errors import Incomplete
from subpixmap.verbs import doctor


@pytest.fixture(params=[0, 3600], ids=["right", "an hour off"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A server whose clock may be off, and by how much."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + request.param, usegmt=True))
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_address[1]}", request.param
        one.shutdown()


def test_the_clock_is_compared_with_that_of_the_catalogue(server: tuple[str, int]) -> None:
    url, off = server
    found = doctor._catalogue(url)
    assert found.state == ("to do" if off else "ok")
    if off:
        assert "-3600 s" in found.text or "-3599 s" in found.text
        assert "NTP" in found.remedy


def test_a_catalogue_that_does_not_answer_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = doctor._catalogue("http://127.0.0.1:9/stac?token=secret")
    assert (refused.state, "cannot be reached" in refused.text) == ("to do", True)
    assert "secret" not in f"{refused}"
    monkeypatch.setattr(doctor, "CATALOGUE_WAIT_S", 0.2)
    monkeypatch.setattr(doctor, "_ask", lambda *_: time.sleep(3))  # a name that is looked up for ever
    began = time.monotonic()
    assert doctor._catalogue("https://example.org").state == "to do"
    assert time.monotonic() - began < 2


def test_a_folder_that_takes_no_files_is_named_and_a_good_one_left_as_it_was(tmp_path: Path) -> None:
    assert doctor._store(tmp_path / "runs").state == "ok"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    found = doctor._store(tmp_path / "file")
    assert (found.state, str(tmp_path / "file") in found.text) == ("to do", True)


def test_little_memory_is_told_with_the_workers_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subpixmap.machine.cores", lambda: 8)
    for gigabytes, state, remedy in ((1, "to do", "1.6 GB"), (5, "warning", "--workers 3"), (32, "ok", "")):
        monkeypatch.setattr("subpixmap.machine.memory", lambda gb=gigabytes: gb * 10**9)
        found = doctor._memory()
        assert (found.state, remedy in found.remedy) == (state, True)


def test_drivers_versions_and_network_are_those_that_the_tests_run_with() -> None:
    assert doctor._drivers().state == "ok"
    assert doctor._versions().state == "ok", doctor._versions()
    assert doctor._network("cpu").state == "ok"


def test_what_is_to_do_decides_how_it_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, country: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_versions", "_drivers", "_memory"):
        monkeypatch.setattr(doctor, name, lambda name=name: doctor.Finding(name, "ok", "fine"))
    for name in ("_network", "_run"):
        monkeypatch.setattr(doctor, name, lambda device, name=name: doctor.Finding(name, "warning", "so so", "wait"))
    source = [str(country / "catalog.json")]
    doctor.doctor(out=tmp_path, source=source)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if "->" not in line} == {"ok", "warning"}
    assert any(line.strip() == "-> wait" for line in lines)

    def broken() -> doctor.Finding:
        raise RuntimeError("no PROJ data")

    monkeypatch.setattr(doctor, "_drivers", broken)
    with pytest.raises(Incomplete, match="GDAL"):
        doctor.doctor(out=tmp_path, source=source, as_json=True)
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert "no PROJ data" in found["GDAL"]["text"]


@pytest.mark.slow
def test_all_is_well_here(
    subpixmap: Callable[..., int], country: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert subpixmap("doctor", "--out", tmp_path, "--source", country / "catalog.json", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found][-1] == "a run"
    assert {one["state"] for one in found} <= {"ok", "warning"}
    assert not list(tmp_path.iterdir())
