"""Damaged metadata of the map are named and nothing else is; a mistake of ours stays what it is."""

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subpixmap.errors import VerificationFailed
from subpixmap.mapping.metadata import create_map, require_readable
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.schema import ARRAYS
from subpixmap.model.mean import Accumulator
from subpixmap.runpaths import MAP
from tests.helpers.mapping_data import raising, tiny

ZONE = 32651


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    plan = tiny(tmp_path_factory.mktemp("scenes"), dates=1).plan(block=512)
    out = tmp_path_factory.mktemp("out")
    create_map(out, plan)
    return out, plan


def metadata(out: Path) -> list[Path]:
    return sorted(path for path in (out / MAP / str(ZONE)).rglob("*") if path.is_file())


def mutations(value: Any) -> Iterator[Any]:
    """The value with one of its parts replaced by something else, or left out."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        for other in (None, [], {}, "x", -1, [1], {"a": 1}, *mutations(part)):
            yield {**value, key: other} if isinstance(value, dict) else [*value[:key], other, *value[key + 1 :]]
        if isinstance(value, dict):
            yield {name: kept for name, kept in value.items() if name != key}


def test_damaged_metadata_are_named_and_raise_nothing_else(made: tuple[Path, Plan]) -> None:
    out, plan = made
    draw = random.Random(0)
    for path in metadata(out):
        good = path.read_bytes()
        bad = [b"", b"[]", b"1", good[: len(good) // 2]]
        for _ in range(10):
            at = draw.randrange(len(good))
            bad.append(good[:at] + bytes([good[at] ^ 1 << draw.randrange(8)]) + good[at + 1 :])
        if path.name == "zarr.json":
            raw = json.loads(good)
            raw.pop("consolidated_metadata", None)
            bad += [json.dumps(one).encode() for one in draw.sample(list(mutations(raw)), 30)]
        for data in bad:
            path.write_bytes(data)
            with contextlib.suppress(VerificationFailed):  # what changes no meaning may pass
                require_readable(out, plan, ZONE)
        path.write_bytes(b"not JSON")
        if "spatial_ref" not in path.parts and "object" not in path.parts:
            with pytest.raises(VerificationFailed):
                require_readable(out, plan, ZONE)
        path.write_bytes(good)
    require_readable(out, plan, ZONE)


def test_a_new_period_is_not_added_to_a_damaged_map(made: tuple[Path, Plan]) -> None:
    out, plan = made
    path = out / MAP / str(ZONE) / "count" / "zarr.json"
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(VerificationFailed, match=str(ZONE)):
        create_map(out, plan)
    path.write_bytes(good)
    create_map(out, plan)


@pytest.mark.parametrize("error", [AttributeError, TypeError, ValueError, KeyError])
@pytest.mark.parametrize("name", ["labels_in", "create_zones", "consolidate"])
def test_a_mistake_of_ours_is_not_taken_for_damage(
    made: tuple[Path, Plan], monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception]
) -> None:
    out, plan = made
    monkeypatch.setattr("subpixmap.mapping.metadata.create_zones", lambda *_: True)
    monkeypatch.setattr(f"subpixmap.mapping.metadata.{name}", raising(error))
    with pytest.raises(error) as raised:
        create_map(out, plan)
    assert not isinstance(raised.value, VerificationFailed)


def test_the_map_holds_what_the_mean_gives() -> None:
    result = Accumulator(2, (4, 4)).result(min_obs=1)
    assert list(result) == list(ARRAYS)
    assert {name: values.ndim for name, values in result.items()} == {
        name: 2 if name == "n_obs" else 3 for name in ARRAYS
    }
