"""The page in a real browser: axe, console, what follows the period. Part of a release: `make page`.

axe-core comes from the npm registry, pinned by version and hash (.ci/axe.sh); nothing of it is in this repository.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from subpixmap.report.page import render
from tests.report.test_page import make_run

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
AXE = Path(os.environ.get("SUBPIXMAP_AXE", "axe.min.js"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]
QUIET = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")


def browse(page: str, script: str, tmp_path: Path, *, size: str = "1280,900") -> Any:
    """What a script returns that runs in the page once it is there."""
    errors = "const errors = []; addEventListener('error', event => errors.push(event.message));"
    ending = (
        "<script>addEventListener('load', async () => { let found;"
        f" try {{ found = await (async () => {{ {script} }})(); }}"
        " catch (error) { errors.push(String(error)); }"
        " const out = document.createElement('pre'); out.id = 'found';"
        " out.textContent = JSON.stringify({found, errors}); document.body.append(out); });</script>"
    )
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', f"<script>{errors}</script>", page)
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", ending + "</body>"), encoding="utf-8")
    dumped = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", *QUIET, f"--user-data-dir={tmp_path / 'profile'}",
         f"--window-size={size}", "--virtual-time-budget=60000", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    ).stdout  # fmt: skip
    told = re.search(r'<pre id="found">(.*?)</pre>', dumped, re.DOTALL)
    assert told is not None, dumped[-2000:]
    import html

    said = json.loads(html.unescape(told[1]))
    assert said["errors"] == []
    return said["found"]


@pytest.fixture(scope="module")
def page() -> str:
    return render(replace(make_run(["2020", "2021", "2022"]), licence=("Software: Apache License 2.0.",)))


@pytest.mark.parametrize("size", ["1280,900", "390,844"])
def test_axe_finds_nothing(page: str, tmp_path: Path, size: str) -> None:
    if not AXE.is_file():
        pytest.skip("no axe.min.js: `make page` fetches it and sets SUBPIXMAP_AXE")
    script = (
        AXE.read_text(encoding="utf-8")
        + "; const bad = []; document.querySelectorAll('details').forEach(d => d.open = true);"
        "for (const card of document.querySelectorAll('.card')) { card.click();"
        " const told = await axe.run(document, {resultTypes: ['violations']});"
        " bad.push(...told.violations.map(one => [one.impact, one.id, one.nodes[0].html.slice(0, 200)])); } return bad;"
    )
    assert browse(page, script, tmp_path, size=size) == []


def test_table_and_texts_follow_the_period(page: str, tmp_path: Path) -> None:
    script = """
      const row = () => document.querySelector('#coconut-units tr[data-unit="0202"]').cells[2].textContent;
      const before = row(), slider = document.querySelector('#coconut-map input[type=range]');
      const choose = document.querySelector('#coconut-map .choose');
      choose.value = '0202'; choose.dispatchEvent(new Event('change'));
      slider.value = 0; slider.dispatchEvent(new Event('input'));
      const frame = document.querySelector('#coconut-map .frame');
      document.querySelector('#coconut-map [data-zoom="2"]').click();
      const wide = parseFloat(frame.querySelector('.sheet').style.width);
      frame.dispatchEvent(new KeyboardEvent('keydown', { key: '0' }));
      const images = [...document.querySelectorAll('#coconut-map img')].filter(image => !image.hidden);
      return { before, after: row(), title: document.querySelector('#coconut-units h3').textContent,
               tip: document.querySelector('#coconut-map .tip').textContent, wide,
               whole: parseFloat(frame.querySelector('.sheet').style.width), shown: images.map(image => image.alt),
               units: choose.options.length };
    """
    found = browse(page, script, tmp_path)
    run = make_run(["2020", "2021", "2022"])
    rows = run.counts[(run.counts.object == "coconut") & (run.counts.unit_id == "0202")].set_index("period")
    from subpixmap.report.formatting import number

    assert found["before"] == number(rows.map_total_full["2022"])
    assert found["after"] == number(rows.map_total_full["2020"])
    assert found["title"] == "Units, 2020"
    assert f"{number(rows.map_total_full['2020'])} in 2020" in found["tip"]
    assert found["wide"] > 100 == found["whole"]
    assert found["shown"] == ["Coconut, pixels, 2020", "Coconut, by unit, 2020"]
    assert found["units"] == 13  # and the whole region


def test_tables_sort_search_and_leave_as_csv(page: str, tmp_path: Path) -> None:
    script = """
      const section = document.getElementById('coconut-units'), heads = [...section.querySelectorAll('thead th')];
      heads[2].querySelector('button').click();
      const order = [...section.querySelectorAll('tbody tr')].map(row => row.cells[2].textContent);
      const find = section.querySelector('.find'); find.value = 'línea'; find.dispatchEvent(new Event('input'));
      let text; const made = URL.createObjectURL;
      URL.createObjectURL = blob => { text = blob.text(); return made(blob); };
      section.querySelector('.csv').click();
      return { order, sorted: heads[2].getAttribute('aria-sort'), csv: await text };
    """
    found = browse(page, script, tmp_path)
    values = [float(re.sub(r"[^\d.]", "", one)) for one in found["order"]]
    assert values == sorted(values, reverse=True)
    assert found["sorted"] == "descending"
    lines = found["csv"].strip("\ufeff\r\n").split("\r\n")
    assert len(lines) == 2
    assert lines[1].startswith('"Línea nueva')


def test_a_phone_does_not_scroll_sideways(page: str, tmp_path: Path) -> None:
    found = browse(page, "return [document.documentElement.scrollWidth, innerWidth];", tmp_path, size="500,844")
    assert found[0] <= found[1]
