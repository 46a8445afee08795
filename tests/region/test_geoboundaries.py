"""Units from geoBoundaries: downloaded once from a server on localhost, kept, and refused when it is not there."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely

from subpixmap.cli.main import main
from subpixmap.errors import InputError
from subpixmap.region.geoboundaries import fetch_boundaries
from subpixmap.region.resolve import given_units


class Server:
    """Answers as geoBoundaries does: facts of a boundary, then the file that they name."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                status, body = outer.answer(self.path)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()

    def answer(self, path: Any) -> Any:
        if path == "/api/PHL/ADM2/":
            facts = {
                "boundaryID": "PHL-ADM2-1", "boundaryYearRepresented": "2020", "boundaryLicense": "CC BY 4.0",
                "gjDownloadURL": f"{self.url}/phl.geojson",
            }  # fmt: skip
            return 200, json.dumps(facts).encode()
        if path == "/phl.geojson":
            units = gpd.GeoDataFrame(
                {"shapeID": ["007", "008"], "shapeName": ["Cebu", "Bohol, =1"], "shapeGroup": ["PHL"] * 2},
                geometry=[shapely.box(123, 9, 124, 10), shapely.box(124, 9, 125, 10)], crs=4326,
            )  # fmt: skip
            return 200, units.to_json().encode()
        if path == "/api/DEU/ADM1/":
            return 200, b"<html>not an API</html>"
        if path == "/api/FRA/ADM1/":
            return 503, b"busy"
        return 404, b"nothing"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    one = Server()
    monkeypatch.setenv("SUBPIXMAP_GEOBOUNDARIES", f"{one.url}/api")
    monkeypatch.setenv("SUBPIXMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield one
    one.close()


def test_units_are_downloaded_once_and_kept(server: Any) -> None:
    units, source, version = given_units("geoboundaries:PHL:ADM2")
    assert units["unit_id"].tolist() == ["007", "008"]
    assert units["unit_name"].tolist() == ["Cebu", "Bohol, =1"]
    assert source == "geoBoundaries PHL ADM2 (CC BY 4.0)"
    assert version == "PHL-ADM2-1, represents 2020"
    assert server.asked == ["/api/PHL/ADM2/", "/phl.geojson"]
    again, *same = given_units("geoBoundaries:phl:adm2")
    assert server.asked == ["/api/PHL/ADM2/", "/phl.geojson"]  # from the cache
    assert again.equals(units)
    assert same == [source, version]


def test_a_broken_download_is_not_taken_for_units(server: Any, tmp_path: Path) -> None:
    given_units("geoboundaries:PHL:ADM2")
    (tmp_path / "cache" / "geoboundaries" / "PHL-ADM2.json").unlink()  # killed before the facts were written
    given_units("geoboundaries:PHL:ADM2")
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("geoboundaries:PHL", "geoboundaries:ISO3:ADMn"),
        ("geoboundaries:PHL:ADM9", "geoboundaries:ISO3:ADMn"),
        ("geoboundaries:XXX:ADM1", "/XXX/ADM1"),
        ("geoboundaries:DEU:ADM1", "/DEU/ADM1"),
        ("geoboundaries:FRA:ADM1", "503"),
    ],
)
def test_what_cannot_be_had_is_said(server: Any, name: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as told:
        fetch_boundaries(name)
    assert str(told.value).count("--admin") == 1  # one message, not one inside another


def test_offline_ends_with_2_and_says_what_to_do(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.close()
    out = tmp_path / "run"
    arguments = ["run", "--region", "philippines", "--years", "2021", "--admin", "geoboundaries:PHL:ADM2"]
    monkeypatch.setattr("sys.argv", ["subpixmap", *arguments, "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip()
    assert "geoboundaries:PHL:ADM2" in told
    assert "127.0.0.1" in told
    assert "\n" not in told
    assert told.count("--admin") == 1
    assert not out.exists()
