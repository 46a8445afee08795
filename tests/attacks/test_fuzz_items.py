"""Items at random: STAC files that are damaged as text and as values are locked rightly, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from subpixmap.periods import make_periods
from subpixmap.scenes.items import lock_items
from subpixmap.scenes.source import find_items
from tests.helpers import scenes_data
from tests.helpers.fuzz import LONG, QUICK, damaged_bytes, damaged_json, right_or_refused

PERIODS = make_periods("2015-2025")
BANDS = ["B04", "B8A"]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """The path of an ItemCollection, what it holds, and its lock."""
    folder = tmp_path_factory.mktemp("items")
    options: dict[str, Any] = {"size_px": 20, "bands": {"B04": 10, "B8A": 20}}
    items = [scenes_data.make_item(folder / "a", **options)]
    content = {"type": "FeatureCollection", "features": items}
    return folder / "items.json", content, locked(folder / "items.json", json.dumps(content).encode())


def locked(path: Path, data: bytes) -> Any:
    path.write_bytes(data)
    return lock_items(find_items(str(path), shapely.box(-180, -90, 180, 90), PERIODS), PERIODS, BANDS)


def attack(collection: tuple[Path, Any, Any], data: Any) -> None:
    path, content, whole = collection
    if data.draw(st.booleans()):
        text = json.dumps(data.draw(damaged_json(content)))
        found = right_or_refused(lambda: locked(path, text.encode()))
        for item in found or ():  # what is locked names only files beside the catalogue, or public servers
            for asset in item.assets.values():
                assert asset.href.startswith((str(path.parent), "/", "https://", "http://", "s3://"))
                assert not asset.href.startswith("/vsi")
    else:
        found = right_or_refused(lambda: locked(path, data.draw(damaged_bytes(json.dumps(content).encode()))))
    if found:
        assert {item.epsg for item in found} <= set(range(32601, 32661)) | set(range(32701, 32761))
        assert len(found) <= len(whole)


@QUICK
@given(data=st.data())
def test_items(collection: tuple[Path, Any, Any], data: Any) -> None:
    attack(collection, data)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_items_for_long(collection: tuple[Path, Any, Any], data: Any) -> None:
    attack(collection, data)
