"""Every recorded item of real catalogues: accepted with the right offset, or refused with its name and a reason.

The table of expected decisions was written down by reading the items.
"""

import csv
import json
from pathlib import Path

import pytest
import yaml

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes.dialect import BANDS, SCL
from subpixmap.scenes.lock import lattices, lock_items

PERIODS = make_periods("2015-2025")
TABLE = list(csv.DictReader((Path(__file__).parent / "data" / "offset_decisions.csv").read_text().splitlines()))


def items_of(path: Path) -> list[dict]:
    """Items of a JSON file, or of the answers in a recorded exchange."""
    if path.suffix == ".yaml":
        exchange = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        texts = [i["response"]["body"]["string"] for i in exchange["interactions"]]
    else:
        texts = [path.read_text()]
    found = []
    for text in texts:
        try:
            content = json.loads(text)
        except ValueError:
            continue
        found += content["features"] if content.get("type") == "FeatureCollection" else []
        found += [content] if content.get("type") == "Feature" else []
    return found


@pytest.fixture(scope="module")
def recorded(real_data) -> dict[tuple[str, str], dict]:
    folder = real_data / "stac_items"
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".csv", ".xml")]
    return {(str(p.relative_to(folder)), str(i.get("id") or "")): i for p in files for i in items_of(p)}


@pytest.mark.realdata
def test_the_table_holds_every_recorded_item(recorded):
    assert {(row["file"], row["id"]) for row in TABLE} == set(recorded)


@pytest.mark.realdata
def test_every_item_is_decided_as_a_reader_would(recorded):
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


@pytest.mark.realdata
def test_an_acquisition_in_two_catalogues_is_one_item(recorded):
    pair = [
        i for (_, name), i in recorded.items() if name in ("S2B_T24MUV_20250731T130245_L2A", "S2B_24MUV_20250731_0_L2A")
    ]
    assert len(pair) == 2
    assert len(lock_items(pair, PERIODS, BANDS)) == 1
