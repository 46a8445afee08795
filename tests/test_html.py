"""What nouns show of themselves: short, escaped, and no network printed."""

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import pandas as pd
import shapely

from subpixmap.counts.accounts import Accounts
from subpixmap.counts.count import Counted
from subpixmap.html import html_table, outline_svg
from subpixmap.model.checkpoint import Model
from subpixmap.region.resolve import Region, resolve_region
from subpixmap.verbs.job import Job
from subpixmap.verbs.request import Request
from subpixmap.verbs.settle import settle
from tests.helpers.mapping_data import tiny_model


def texts_of(markup: str) -> str:
    return " ".join(ElementTree.fromstring(markup).itertext())


def test_a_model_shows_its_card_and_not_its_network() -> None:
    model = tiny_model()
    assert "Conv2d" not in repr(model)
    assert len(repr(model)) < 300
    assert "\n" not in repr(model)
    card = dataclasses.replace(model.card, limits=("R2 < 0.1 & falling",))
    shown = texts_of(Model.of(model.net, card)._repr_html_())
    assert all(word in shown for word in (*card.objects, card.evidence, "R2 < 0.1 & falling"))


def test_a_region_shows_its_units_and_its_outline() -> None:
    region = resolve_region("philippines/palawan")
    assert len(repr(region)) < 300
    assert "Palawan" in texts_of(region._repr_html_())
    assert len(region._repr_html_()) < 10_000
    units = gpd.GeoDataFrame(
        {"unit_id": ["1"], "unit_name": ["<b>A & B</b>"], "parent_id": [""]},
        geometry=[shapely.box(0, 0, 1, 1)],
        crs="EPSG:4326",
    )
    small = Region("a", units.geometry[0], units, "<i>", "1")
    assert "<b>A & B</b>" in texts_of(small._repr_html_())


def test_an_outline_is_drawn_with_the_north_above() -> None:
    drawn = ElementTree.fromstring(outline_svg(shapely.Polygon([(0, 0), (2, 0), (0, 1)]), side=100))
    path = drawn[0].get("d")
    assert path is not None
    assert set(path.strip("MZ").split()) == {"0,50", "100,50", "0,0"}  # 1 degree is 50 px; the south lies below
    assert html_table("<x>", {"a": "1 < 2"}) == html_table("<x>", {"a": "1 < 2"}, picture="")


def test_a_job_and_counts_say_how_much_they_are(country: Path, stand_in: Path, tmp_path: Path) -> None:
    source = (str(country / "catalog.json"),)
    region = str(country / "region.geojson")
    job = settle(Request(region=region, years="2020-2021", source=source, model=str(stand_in), out=tmp_path / "out"))
    assert isinstance(job, Job)
    assert "2 periods, 2020 to 2021" in repr(job)
    assert len(repr(job)) < 400
    assert job.plan.run_id in texts_of(job._repr_html_())
    rows = pd.DataFrame(
        {"unit_id": ["A", "A"], "object": "palm", "period": ["2020", "2021"], "map_total_full": [1e3, 2]}
    )
    total = gpd.GeoDataFrame(rows.assign(unit_id="REGION"))
    empty = Accounts.__new__(Accounts)
    counted = Counted(gpd.GeoDataFrame(rows), rows, empty, total, rows)
    assert repr(counted) == "Counted(1 units x palm x 2 periods, 2020 to 2021)"
    assert "2020: 1,000, 2021: 2" in texts_of(counted._repr_html_())
