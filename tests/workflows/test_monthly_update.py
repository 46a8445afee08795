"""A folder that monthly_update.sh keeps up to date is the one that would be made of all items at once."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from subpixmap import runpaths
from tests.helpers.mapping_data import hashes

ROOT = Path(__file__).parents[2]
COMMAND = """#!/bin/sh
if [ "$1" = run ]; then set -- "$@" --admin {admin} --workers 0 --block 256 --quiet; fi
exec {python} -m subpixmap "$@"
"""


class Catalogue:
    """The catalogue of a simulated country, of which some items are not published yet."""

    def __init__(self, country: Path) -> None:
        self.path = country / "sentinel-2-l2a" / "collection.json"
        self.whole: dict[str, Any] = json.loads(self.path.read_text())

    def items(self) -> dict[str, str]:
        """Link of every item -> its day."""
        links = [link["href"] for link in self.whole["links"] if link["rel"] == "item"]
        days = [re.search(r"_(\d{4})(\d{2})(\d{2})_", link) for link in links]
        return {link: "-".join(day.groups()) for link, day in zip(links, days, strict=True) if day is not None}

    def publish(self, until: str, *, without: str = "") -> None:
        seen = {link for link, day in self.items().items() if day <= until and link != without}
        links = [link for link in self.whole["links"] if link["rel"] != "item" or link["href"] in seen]
        self.path.write_text(json.dumps(self.whole | {"links": links}))


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A year with about two acquisitions a month."""
    from subpixmap.simulate import simulate_country

    folder = tmp_path_factory.mktemp("year")
    return simulate_country(folder, seed=3, size_km=2, years=(2020, 2020), acquisitions=24)


@pytest.mark.slow
def test_a_folder_grows_month_by_month(country: Path, stand_in: Path, tmp_path: Path) -> None:
    catalogue = Catalogue(country)
    command = tmp_path / "subpixmap"
    command.write_text(COMMAND.format(admin=country / "admin.parquet", python=sys.executable))
    command.chmod(0o755)

    def update(out: Path, today: str) -> None:
        settings = {"REGION": country / "region.geojson", "OUT": out, "TODAY": today, "SUBPIXMAP": command,
                    "SOURCE": country / "catalog.json", "MODEL": stand_in, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1,
                    "SUBPIXMAP_CACHE": tmp_path / "cache"}  # fmt: skip
        environment = dict(os.environ) | {name: str(value) for name, value in settings.items()}
        script = ROOT / "workflows" / "monthly_update.sh"
        done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        verified = subprocess.run([command, "verify", out], env=environment, capture_output=True, text=True)
        assert verified.returncode == 0, verified.stderr[-3000:]

    by_month = Counter(day[:7] for day in catalogue.items().values())
    first, second, third = sorted(by_month)[:3]  # months with items; one of the first comes late
    late = next(link for link, day in catalogue.items().items() if day.startswith(first))

    def after(month: str) -> str:
        return f"2020-{int(month[5:]) + 1:02d}-08"

    grown, at_once = tmp_path / "grown", tmp_path / "at_once"
    catalogue.publish(after(first), without=late)
    update(grown, after(first))
    before = hashes(grown)
    catalogue.publish(after(second))
    update(grown, after(second))
    assert {key: sha for key, sha in hashes(grown).items() if key[1] == first} != {
        key: sha for key, sha in before.items() if key[1] == first
    }  # what came late is in
    records = {path.name: path.stat().st_mtime_ns for path in (grown / runpaths.LEDGER).glob(f"*_{second}.json")}
    catalogue.publish(after(third))
    update(grown, after(third))
    assert records == {
        path.name: path.stat().st_mtime_ns for path in (grown / runpaths.LEDGER).glob(f"*_{second}.json")
    }  # what did not change is not mapped again

    update(at_once, after(third))
    months = {first, second, third}
    alike = [{key: sha for key, sha in hashes(out).items() if key[1] in months} for out in (grown, at_once)]
    assert alike[0] == alike[1]
    counts = [
        pd.read_csv(out / runpaths.EXPORT / runpaths.COUNTS_CSV, dtype={"unit_id": str}) for out in (grown, at_once)
    ]
    same = [table[table["period"].isin(months)].drop(columns=["run_id"]).reset_index(drop=True) for table in counts]
    pd.testing.assert_frame_equal(same[0], same[1])
    assert (same[0]["observed_frac"] > 0).any()
