"""Every recorded item of real catalogues: accepted with the right offset, or refused with its name and a reason.

The table of expected decisions was written down by reading the items.
"""

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import shapely
import yaml

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes import http
from subpixmap.scenes.dialect import BANDS, SCL
from subpixmap.scenes.items import lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.search import search
from tests.helpers import stac_server

PERIODS = make_periods("2015-2025")
TABLE = list(csv.DictReader((Path(__file__).parent / "data" / "offset_decisions.csv").read_text().splitlines()))


def items_of(path: Path) -> list[dict[str, Any]]:
    """Items of a JSON file, or of the answers in a recorded exchange."""
    if path.suffix == ".yaml":
        exchange = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        texts = [i["response"]["body"]["string"] for i in exchange["interactions"]]
    else:
        texts = [path.read_text()]
    found: list[Any] = []
    for text in texts:
        try:
            content = json.loads(text)
        except ValueError:
            continue
        found += content["features"] if content.get("type") == "FeatureCollection" else []
        found += [content] if content.get("type") == "Feature" else []
    return found


@pytest.fixture(scope="module")
def recorded(real_data: Path) -> dict[tuple[str, str], dict[str, Any]]:
    folder = real_data / "stac_items"
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".csv", ".xml")]
    return {(str(p.relative_to(folder)), str(i.get("id") or "")): i for p in files for i in items_of(p)}


@pytest.mark.realdata
def test_the_table_holds_every_recorded_item(recorded: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert {(row["file"], row["id"]) for row in TABLE} == set(recorded)


@pytest.mark.realdata
def test_every_item_is_decided_as_a_reader_would(recorded: dict[tuple[str, str], dict[str, Any]]) -> None:
    for row in TABLE:
        item = recorded[row["file"], row["id"]]
        if row["decision"] == "refused":
            with pytest.raises(InputError) as error:
                lock_items([item], PERIODS, BANDS)
            assert (row["id"] or "no id") in str(error.value)
        else:
            (locked,) = lock_items([item], PERIODS, BANDS)
            assert (locked.id, locked.offset_dn) == (row["id"], int(row["decision"])), row
            assert set(locked.assets) == {*BANDS, SCL}
            assert {band: asset.resolution for band, asset in locked.assets.items()} == {
                band: 10.0 if band in ("B02", "B03", "B04", "B08") else 20.0 for band in (*BANDS, SCL)
            }
            (lattice,) = lattices([locked]).values()
            assert (lattice.x_phase, lattice.y_phase) == (0.0, 0.0)


FAULTS = {
    429: (429, {"Retry-After": "0"}, b"slow down"),
    500: (500, {}, b"internal error"),
    "html": (200, {"Content-Type": "text/html"}, b"<html>gateway</html>"),
    "truncated": (200, {}, b'{"type": "FeatureCollection", "features": [{"id": "S2A'),
}


@pytest.mark.realdata
@pytest.mark.parametrize("fault", list(FAULTS))
def test_recorded_items_come_through_an_api_that_fails_now_and_then(
    recorded: dict[tuple[str, str], dict[str, Any]], fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item is asked for by its place and month; every third answer of the server is a fault."""
    monkeypatch.setattr(http, "BACKOFF_S", 0.001)
    items = list({(i["id"], i["collection"]): i for i in recorded.values() if searchable(i)}.values())
    assert len(items) > 20

    def now_and_then(server: Any, method: Any, path: Any, body: Any) -> Any:
        return FAULTS[fault] if path == "/search" and server.requests[path] % 3 == 2 else None

    with stac_server.serve(items) as server:
        server.fault = now_and_then
        for item in items[:: 1 if fault == 429 else 4]:
            west, south, east, north = item["bbox"]
            middle = shapely.Point((west + east) / 2, (south + north) / 2).buffer(1e-3)
            year, month = item["properties"]["datetime"][:7].split("-")
            periods = make_periods(year, months=(int(month),))
            found = search(server.url, item["collection"], middle, periods, today=date(2026, 1, 1))
            assert item in found


def searchable(item: dict[str, Any]) -> bool:
    """Whether it says its collection, time and place, and the place is not on both sides of the date line."""
    bbox = item.get("bbox") or []
    when = (item.get("properties") or {}).get("datetime")
    return bool(item.get("collection") and when and len(bbox) == 4 and 0 < bbox[2] - bbox[0] < 10)


@pytest.mark.realdata
def test_an_acquisition_in_two_catalogues_is_one_item(recorded: dict[tuple[str, str], dict[str, Any]]) -> None:
    pair = [
        i for (_, name), i in recorded.items() if name in ("S2B_T24MUV_20250731T130245_L2A", "S2B_24MUV_20250731_0_L2A")
    ]
    assert len(pair) == 2
    assert len(lock_items(pair, PERIODS, BANDS)) == 1
