"""What the imagery of periods was made of: shares by hand, and what counts as a join."""

from typing import Any

import pandas as pd
import pytest

from subpixmap.scenes.items import Item
from subpixmap.trends.inputs import COLUMNS, changed_inputs, inputs_by_period
from tests.helpers.country_map import make_items
from tests.helpers.run_folders import PERIODS


def item(satellite: str = "S2A", baseline: str = "02.14", host: str = "old.org", **facts: Any) -> Item:
    from dataclasses import replace

    plain = make_items(PERIODS[:1])[0]
    assets = {name: replace(asset, href=f"https://{host}/{name}.tif") for name, asset in plain.assets.items()}
    acquisition = f"G{satellite}_20180815T095031_042547"
    return replace(plain, acquisition=acquisition, baseline=baseline, assets=assets, **facts)


def test_shares_of_each_period_are_those_of_its_items() -> None:
    items = {
        "2018": [item(), item("S2B"), item("S2B", "03.01", dark_reflectance=0.02), item("S2B", dark_reflectance=0.04)],
        "2022": [item("S2C", "05.11", "new.org", offset_dn=-1000)],
        "2023": [],
    }
    table = inputs_by_period(items)
    assert list(table.columns) == list(COLUMNS)
    first, second, none = table.to_dict("records")
    assert first["satellites"] == {"S2A": 0.25, "S2B": 0.75}
    assert first["baselines"] == {"before 04.00": 1.0}  # 02.14 and 03.01 are of one generation
    assert first["catalogues"] == {"old.org": 1.0}
    assert first["dark_reflectance"] == pytest.approx(0.03)
    assert second["baselines"] == {"04.00 or later": 1.0}
    assert second["offsets"] == {"-1000": 1.0}
    assert second["dark_reflectance"] != second["dark_reflectance"]
    assert none["satellites"] == {}


@pytest.mark.parametrize(
    ("after", "joins"),
    [
        ([item()] * 4, ()),
        ([item()] * 3 + [item("S2B")], ()),  # a quarter of the items is no change of the mix
        ([item()] * 2 + [item("S2B")] * 2, ("satellites S2A -> S2A (50%) + S2B (50%)",)),
        ([item("S2C")] * 4, ("satellites S2A -> S2C",)),
        ([item(baseline="04.00")] * 4, ("processing baseline before 04.00 -> 04.00 or later",)),
        ([item(host="new.org")] * 4, ("catalogue old.org -> new.org",)),
    ],
)
def test_a_new_baseline_satellite_or_catalogue_is_a_join(after: list[Item], joins: tuple[str, ...]) -> None:
    found = changed_inputs(inputs_by_period({"2021": [item()] * 4, "2022": after}), "2021", "2022")
    assert found is not None
    assert found.joins == joins
    assert len(found.joins) + len(found.unchanged) == 3
    assert found.changed == ()  # dark pixels were not measured


def test_dark_pixels_are_evidence_and_no_join() -> None:
    dark = {"2021": [item(dark_reflectance=0.020)], "2022": [item(dark_reflectance=0.021)],
            "2023": [item(dark_reflectance=0.030)]}  # fmt: skip
    table = inputs_by_period(dark)
    calm, moved = changed_inputs(table, "2021", "2022"), changed_inputs(table, "2022", "2023")
    assert calm is not None
    assert moved is not None
    assert "dark pixels" in calm.unchanged
    assert moved.changed == ("dark pixels +0.0090",)
    assert moved.joins == ()


def test_a_period_that_is_not_known_says_nothing() -> None:
    assert changed_inputs(inputs_by_period({"2021": [item()]}), "2021", "2022") is None
    assert changed_inputs(pd.DataFrame(columns=list(COLUMNS)), "2021", "2022") is None
