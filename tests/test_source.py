"""Sources: local files, static catalogues."""

import json

import pytest
import scenes_data
import shapely

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes.source import find_items

SMALL = {"B02": 10}
PERIODS = make_periods(2021)
EVERYWHERE = shapely.box(-180, -90, 180, 90)


@pytest.fixture
def items(tmp_path):
    return [
        scenes_data.make_item(tmp_path, start=start, size_px=20, bands=SMALL)
        for start in ("20210105T021051", "20210205T021051", "20190101T021051")
    ]


def relative(item, folder):
    assets = {k: a | {"href": a["href"].removeprefix(f"{folder}/")} for k, a in item["assets"].items()}
    return item | {"assets": assets}


def test_item_collection_with_relative_hrefs(items, tmp_path):
    path = scenes_data.write_collection(tmp_path / "items.json", [relative(i, tmp_path) for i in items])
    assert find_items(str(path), EVERYWHERE, PERIODS) == items[:2]
    west, south, _, north = items[0]["bbox"]
    assert find_items(str(path), shapely.box(west, south, west + 1e-4, south + 1e-4), PERIODS) == items[:2]
    assert find_items(str(path), shapely.box(west - 2, south, west - 1, north), PERIODS) == []
    assert find_items(str(path), EVERYWHERE, make_periods(2021, months=(2,))) == items[1:2]


def test_static_catalogue_or_its_folder(items, tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    for index, item in enumerate(items):
        moved = {k: a | {"href": "../" + a["href"].removeprefix(f"{tmp_path}/")} for k, a in item["assets"].items()}
        (folder / f"{index}.json").write_text(json.dumps(item | {"assets": moved}))
    links = [{"rel": "item", "href": f"./{i}.json"} for i in range(3)] + [{"rel": "parent", "href": "../catalog.json"}]
    (folder / "collection.json").write_text(json.dumps({"type": "Collection", "links": links}))
    child = {"rel": "child", "href": "./collection/collection.json"}
    catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "x", "description": "", "links": [child, child]}
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    for source in (tmp_path / "catalog.json", tmp_path):
        assert find_items(str(source), EVERYWHERE, PERIODS) == items[:2]


def test_what_is_no_stac_is_said(tmp_path):
    (tmp_path / "points.geojson").write_text('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("hello")
    for name in ("points.geojson", "list.json", "text.json", "."):
        with pytest.raises(InputError, match="STAC"):
            find_items(str(tmp_path / name), EVERYWHERE, PERIODS)
    with pytest.raises(InputError, match="earth-search, "):
        find_items("erth-search", EVERYWHERE, PERIODS)
