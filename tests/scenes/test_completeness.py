"""Holes of a lock are named: in space, in time, and tile by tile."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import shapely

from subpixmap.grid import mgrs_square
from subpixmap.periods import make_periods
from subpixmap.scenes.completeness import completeness, squares_of
from subpixmap.scenes.items import Asset, Item

WHOLE = (10.0, 0.0, 499980.0, 0.0, -10.0, 1200000.0)


def item(day: Any, tile: str = "51PWM", baseline: str = "05.00", corner: Any = (499980.0, 1200000.0)) -> Any:
    asset = Asset("B04.tif", (10.0, 0.0, corner[0], 0.0, -10.0, corner[1]), (10980, 10980))
    start = day.replace("-", "")
    return Item(
        day, tile, f"GS2A_{start}", f"{day}T02:00:00Z", day[:4], 32651, baseline, 0, "", None, 1, {"B04": asset}
    )


def test_what_is_missing_is_named() -> None:
    items = [item("2020-11-03", baseline="02.14"), item("2021-01-05"), item("2021-01-15"), item("2021-03-01")]
    items += [item("2021-01-15", tile="51PXM", corner=(600000.0, 1200000.0))]
    region = shapely.box(123.05, 10.0, 126.5, 10.5)
    found = completeness(items, region, make_periods("2020-2021", months=(1, 2, 3, 11)), today=date(2021, 3, 31))
    assert found.acquisitions["51PWM", "2021-01"] == 2
    assert found.baselines == {"2020": {"02.14": 1}, "2021": {"05.00": 4}}
    assert found.months_without == ["2020-01", "2020-02", "2020-03", "2021-02"]
    assert found.gaps == [("51PXM", "2020-11"), ("51PXM", "2021-03")]
    assert {"51PYM", "51PZM", "52PBS"} <= set(found.squares_without)
    assert not {"51PWM", "51PXM"} & set(found.squares_without)
    told = found.lines()
    assert "51PYM" in told["no items for"]
    assert told["no items in"] == "4 (2020-01, 2020-02, 2020-03, 2021-02)"
    assert told["baselines"] == "2020: 1 of 02.14; 2021: 4 of 05.00"
    assert told["per tile"] == (
        "tiles: 2; acquisitions per tile and month: 1 to 2 (median 1, without empty months); fewest in all: 51PXM (1)"
        "; tiles with empty months: 1 (51PXM 2)"
    )
    assert found.missing()["tile_months_without"] == [["51PXM", "2020-11"], ["51PXM", "2021-03"]]


def test_nothing_at_all_is_missing_everywhere() -> None:
    found = completeness([], shapely.box(123.05, 10.0, 123.1, 10.1), make_periods("2021"), today=date(2021, 2, 1))
    assert found.missing() == {
        "squares_without": ["51PWM"],
        "months_without": ["2021-01", "2021-02"],
        "tile_months_without": [],
    }
    assert found.lines()["per tile"] == "none"


def test_names_of_squares() -> None:
    assert mgrs_square(32633, 510000, 5050000) == "33TWL"
    assert mgrs_square(32651, 510000, 1110000) == "51PWM"
    assert squares_of(shapely.box(0, 0, 0, 0)) == []


@pytest.mark.realdata
def test_squares_are_those_of_the_tile_table(real_data: Path) -> None:
    import pandas as pd

    tiles = set(pd.read_parquet(real_data / "s2_tiles" / "s2_tiles.parquet").tile)
    norway = squares_of(shapely.box(3.0, 56.5, 14.0, 63.0))
    assert len(norway) > 30
    assert set(norway) <= tiles
    philippines = squares_of(shapely.box(118.0, 5.0, 126.5, 19.0))
    assert len(philippines) > 150
    # Slivers at the seams of zones have no tile of their own: the next column's tile, or the next zone's, holds them.
    assert {name[:2] + name[3] for name in set(philippines) - tiles} == {"51S", "52A"}
