"""Real units of the Philippines: codes as text, and a level that does not cover the one above it."""

from datetime import date
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from subpixmap.counts.count import count_blocks
from subpixmap.grid import Block
from subpixmap.periods import Period
from subpixmap.region.units import read_units
from tests.helpers.map_blocks import ZONE51, facts, map_block

pytestmark = pytest.mark.realdata


@pytest.fixture
def levels(real_data: Path) -> Any:
    """Provinces of 2023 and their municipalities, as one table of units; cities that are their own parent are not in
    the lower level of this file."""
    folder = real_data / "admin_philippines"
    upper = read_units(folder / "phl_adm2_lowres.parquet", id_column="adm2_psgc", name_column="adm2_en")
    lower = read_units(
        folder / "phl_adm3_lowres.parquet", id_column="adm3_psgc", name_column="adm3_en", parent_column="adm2_psgc"
    )
    return upper, lower


def test_the_municipalities_of_2023_do_not_cover_their_provinces_and_it_is_said(levels: Any) -> None:
    upper, lower = levels

    def area(units: Any) -> Any:
        return units.to_crs("ESRI:54034").area  # equal-area, the oracle

    share = lower.assign(ha=area(lower)).groupby("parent_id")["ha"].sum().reindex(upper["unit_id"]).to_numpy()
    share = np.nan_to_num(share) / area(upper).to_numpy()
    lacking = upper["unit_id"][(share < 0.75) & (share > 0.3)].tolist()
    covered = int(np.argmin(np.abs(share - 1)))
    assert len(lacking) >= 3
    assert share[covered] == pytest.approx(1, abs=5e-4)
    chosen = [*lacking[:2], upper["unit_id"].iloc[covered]]
    rows = [upper[upper["unit_id"].isin(chosen)], lower[lower["parent_id"].isin(chosen)]]
    units = gpd.GeoDataFrame(pd.concat(rows, ignore_index=True), crs=4326)
    block = Block(ZONE51, 3268, 116, 256)  # a map elsewhere: areas are known all the same
    period = Period("2023", date(2023, 1, 1), date(2023, 12, 31))
    counted = count_blocks([map_block(block, {"2023": np.zeros((1, 256, 256))})], units, facts((period,)), size=256)
    assert len(counted.table) == len(units)  # no unit is dropped
    found = counted.accounts.parents.set_index("parent_id")
    cover = (found["children_ha"] / found["parent_ha"]).to_dict()
    expected = dict(zip(upper["unit_id"], share, strict=True))
    assert [cover[one] for one in chosen] == pytest.approx([expected[one] for one in chosen], rel=2e-3)
    (told,) = [remark for remark in counted.accounts.remarks if "do not completely cover" in remark]
    names = upper.set_index("unit_id")["unit_name"]
    assert all(names[one] in told for one in lacking[:2])
    assert names[chosen[2]] not in told


def test_codes_are_text_without_decimals(levels: Any) -> None:
    for units in levels:
        assert units["unit_id"].str.fullmatch(r"\d+").all()
    assert levels[1]["parent_id"].str.fullmatch(r"\d+").all()
