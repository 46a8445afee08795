"""Sources: local files, static catalogues."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import shapely

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes.items import lock_items
from subpixmap.scenes.source import find_items
from tests.helpers import scenes_data, stac_server

SMALL = {"B02": 10}
PERIODS = make_periods(2021)
EVERYWHERE = shapely.box(-180, -90, 180, 90)


@pytest.fixture
def items(tmp_path: Path) -> Any:
    found = [
        scenes_data.make_item(tmp_path, start=start, size_px=20, bands=SMALL)
        for start in ("20210105T021051", "20210205T021051", "20190101T021051")
    ]
    for item in found:
        for asset in item["assets"].values():
            del asset["type"]  # what is not used of an asset is not kept
    return found


def relative(item: Any, folder: Any) -> Any:
    assets = {k: a | {"href": a["href"].removeprefix(f"{folder}/")} for k, a in item["assets"].items()}
    return item | {"assets": assets}


def test_item_collection_with_relative_hrefs(items: Any, tmp_path: Path) -> None:
    path = scenes_data.write_collection(tmp_path / "items.json", [relative(i, tmp_path) for i in items])
    assert find_items(str(path), EVERYWHERE, PERIODS) == items[:2]
    west, south, _, north = items[0]["bbox"]
    assert find_items(str(path), shapely.box(west, south, west + 1e-4, south + 1e-4), PERIODS) == items[:2]
    assert find_items(str(path), shapely.box(west - 2, south, west - 1, north), PERIODS) == []
    assert find_items(str(path), EVERYWHERE, make_periods(2021, months=(2,))) == items[1:2]


def test_static_catalogue_or_its_folder(items: Any, tmp_path: Path) -> None:
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
    with stac_server.serve() as server:
        server.files = tmp_path
        found = find_items(f"{server.url}/catalog.json", EVERYWHERE, PERIODS)
        assert [item["id"] for item in found] == [item["id"] for item in items[:2]]
        blue = items[0]["assets"]["blue"]["href"]
        assert found[0]["assets"]["blue"]["href"] == blue.replace(str(tmp_path), server.url)
        assert server.requests["/collection/collection.json"] == 1
        (folder / "0.json").unlink()
        with pytest.raises(InputError, match=r"/collection/0\.json.*404"):
            find_items(f"{server.url}/catalog.json", EVERYWHERE, PERIODS)


@pytest.mark.parametrize("href", ["file:///etc/passwd.json", "/vsimem/x.json", "ftp://a.example.org/x.json"])
def test_links_of_a_served_catalogue_are_no_way_in(href: str) -> None:
    catalog = {"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": "item", "href": href}]}
    with stac_server.serve() as server:
        server.fault = lambda server, *_: server.json(catalog)
        with pytest.raises(InputError, match=re.escape(href)):
            find_items(f"{server.url}/catalog.json", EVERYWHERE, PERIODS)


def test_a_served_catalogue_without_end_ends() -> None:
    def child(server: Any, *_: Any) -> Any:
        link = {"rel": "child", "href": f"{sum(server.requests.values())}.json"}
        return server.json({"type": "Catalog", "stac_version": "1.0.0", "links": [link]})

    with stac_server.serve() as server:
        server.fault = child
        with pytest.raises(InputError, match=server.url):
            find_items(f"{server.url}/catalog.json", EVERYWHERE, PERIODS)
        assert sum(server.requests.values()) < 100


def test_stac_geoparquet(items: Any, tmp_path: Path) -> None:
    import stac_geoparquet.arrow as stac_arrow

    path = tmp_path / "items.parquet"
    stac_arrow.to_parquet(stac_arrow.parse_stac_items_to_arrow(items).read_all(), path)
    found = find_items(str(path), EVERYWHERE, PERIODS)
    assert lock_items(found, PERIODS, ["B02"]) == lock_items(items, PERIODS, ["B02"])


def test_a_later_source_gives_what_the_earlier_lacks(items: Any, tmp_path: Path) -> None:
    for item in items[1:]:
        item["properties"]["s2:processing_baseline"] = "05.11"  # newer, but from the fallback
    newer = {**items[0], "properties": {**items[0]["properties"], "s2:processing_baseline": "05.11"}}
    first = scenes_data.write_collection(tmp_path / "first.json", items[:1])
    second = scenes_data.write_collection(tmp_path / "second.json", [newer, *items[1:]])
    assert find_items([str(first), str(second)], EVERYWHERE, PERIODS) == items[:2]
    assert find_items([str(second), str(first)], EVERYWHERE, PERIODS)[0] == newer


def test_tiles_on_the_date_line(items: Any, tmp_path: Path) -> None:
    items[0]["geometry"] = shapely.geometry.mapping(shapely.box(-179.9, 10, 179.9, 11))  # as some catalogues write them
    path = scenes_data.write_collection(tmp_path / "items.json", items[:1])
    for west, found in ((178, 1), (-180, 1), (120, 0)):
        assert len(find_items(str(path), shapely.box(west, 10, west + 1.5, 11), PERIODS)) == found


def test_what_is_no_stac_is_said(tmp_path: Path) -> None:
    (tmp_path / "points.geojson").write_text('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("hello")
    for name in ("points.geojson", "list.json", "text.json", "."):
        with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
            find_items(str(tmp_path / name), EVERYWHERE, PERIODS)
    with pytest.raises(InputError, match=r"erth-search.*earth-search"):
        find_items("erth-search", EVERYWHERE, PERIODS)
