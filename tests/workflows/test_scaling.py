"""docs/scaling.md says what the package's own rates give, and its way of scaling is what `plan` sums."""

import sys
from pathlib import Path

import pytest

from subpixmap.grid import project
from subpixmap.region.resolve import resolve_region

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflows"))

import scaling  # noqa: E402


def test_the_page_holds_the_table() -> None:
    assert scaling.table() in (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"), (
        "run python workflows/scaling.py and copy its table into docs/scaling.md; see whether the text still holds"
    )


def test_what_is_scaled_is_what_a_plan_says() -> None:
    region = resolve_region("brunei")
    items = []
    for epsg in (32649, 32650):  # it lies in two zones
        west, south, east, north = project(region.geometry, 4326, epsg).bounds
        items += scaling.looks_at(epsg, (west - 2e4, south - 2e4, east + 2e4, north + 2e4), scaling.LOOKS)
    plan, told = scaling.a_year(region, items)
    place = scaling.measure("brunei")
    assert (place.blocks, place.chunks, place.pixels) == (told.blocks, told.chunks, scaling.pixels_of(plan))
    found = scaling.needs_of(place)
    assert found.predicted_px == told.predicted_px
    assert found.bytes_to_read == pytest.approx(told.bytes_to_read)
    assert found.map_bytes == pytest.approx(told.map_bytes)


@pytest.mark.slow
def test_the_philippines_are_planned_as_they_are_written_down() -> None:
    found, kept = scaling.measure("philippines"), scaling.PLACES["Philippines"]
    assert (found.blocks, found.chunks, found.pixels) == (kept.blocks, kept.chunks, kept.pixels)
    assert found.km2 == pytest.approx(kept.km2, rel=1e-5)
