"""Items with one field changed are accepted and right, or refused with their name; never a traceback."""

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes.items import lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import find_items
from tests.helpers import scenes_data

PERIODS = make_periods("2015-2025")
BANDS = ["B04", "B8A"]

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "NaN", "05.09", "2.12", "04.00", "EPSG:32652", "EPSG:4326", "MGRS-51PTS", "GS2B_x", "<VRT/>", "\0"]
    ),
    st.sampled_from(
        ["../../etc/passwd", "/vsicurl/http://a.b/c.tif", "http://169.254.169.254/a.tif", "2021-13-01", "2021"]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.floats(), st.integers(-5, 5), st.none(), st.text(max_size=3)), max_size=9),
    st.dictionaries(st.sampled_from(["href", "offset", "type"]), st.integers(), max_size=2),
)


def paths(value: Any, prefix: Any = ()) -> Iterator[Any]:
    """Every place in an item."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*prefix, key)
        yield from paths(child, (*prefix, key))


def mutated(item: Any, path: Any, value: Any, delete: Any) -> Any:
    item = copy.deepcopy(item)
    parent = item
    for key in path[:-1]:
        parent = parent[key]
    if delete:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return item


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As delivered, harmonised, before the offset; STAC 1.1 with proj:code."""
    folder = tmp_path_factory.mktemp("valid")
    options: dict[str, Any] = {"size_px": 20, "bands": {"B04": 10, "B8A": 20}}
    items = [
        scenes_data.make_item(folder / "a", **options),
        scenes_data.make_item(folder / "b", **options | {"earthsearch:boa_offset_applied": True}),
        scenes_data.make_item(folder / "c", **options, baseline="03.01"),
    ]
    newer = copy.deepcopy(items[0])
    newer["stac_version"] = "1.1.0"
    del newer["properties"]["proj:epsg"]
    newer["properties"]["proj:code"] = "EPSG:32651"
    for asset in newer["assets"].values():
        bands = asset.pop("raster:bands")
        asset["bands"] = [{f"raster:{key}": value for key, value in bands[0].items()}]
    return [*items, newer]


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mutated_item_is_accepted_and_right_or_refused_by_name(valid: Any, data: Any) -> None:
    item = data.draw(st.sampled_from(valid))
    path = data.draw(st.sampled_from(sorted(paths(item), key=str)))
    changed = mutated(item, path, data.draw(junk), data.draw(st.booleans()))
    refusal, locked = "", []
    try:
        locked = lock_items([changed], PERIODS, BANDS)
        lattices(locked)
    except InputError as error:
        refusal = str(error)
    if refusal:
        assert str(changed.get("id")) in refusal or path[0] == "id"
        assert "\n" not in refusal
        return
    if not locked:  # another time, outside the periods
        assert path[-1] == "datetime"
        return
    (expected,) = lock_items([item], PERIODS, BANDS)
    # Only a change of the evidence itself can change the offset, and then the evidence says so.
    if locked[0].offset_dn != expected.offset_dn:
        assert path[-1] in ("s2:processing_baseline", "earthsearch:boa_offset_applied"), (path, locked[0].offset_reason)
    assert (locked[0].epsg, locked[0].tile) == (expected.epsg, expected.tile)
    assert locked[0].acquisition == expected.acquisition or path[-1] == "s2:datatake_id"
    assert {band: asset.resolution for band, asset in locked[0].assets.items()} == {"B04": 10, "B8A": 20, "SCL": 20}


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused(valid: Any, tmp_path: Path, data: Any) -> None:
    import shapely

    item = data.draw(st.sampled_from(valid))
    path = data.draw(st.sampled_from(sorted(paths(item), key=str)))
    changed = mutated(item, path, data.draw(junk), data.draw(st.booleans()))
    file = tmp_path / "items.json"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [changed]}))
    locked = []
    with suppress(InputError):
        locked = lock_items(find_items(str(file), shapely.box(-180, -90, 180, 90), PERIODS), PERIODS, BANDS)
    for asset in (asset for one in locked for asset in one.assets.values()):
        assert asset.href.startswith("/"), asset.href
        assert not asset.href.startswith("/vsi")
