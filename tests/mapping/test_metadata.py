"""Damaged metadata of the map are named and nothing else is; a mistake of ours stays what it is."""

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from subpixmap.errors import VerificationFailed
from subpixmap.mapping.metadata import create_map, metadata_files, read_zone, require_readable
from subpixmap.mapping.plan import Plan
from subpixmap.mapping.run import map_region
from subpixmap.mapping.schema import ARRAYS
from subpixmap.mapping.verify import take_back, verify
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
    """Files that every reader opens: all but the shards of the region's mask."""
    return sorted(path for path in (out / MAP).rglob("*") if path.is_file() and "region/c" not in path.as_posix())


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
            others = list(mutations(raw))
            bad += [json.dumps(one).encode() for one in draw.sample(others, min(30, len(others)))]
        for data in bad:
            path.write_bytes(data)
            with contextlib.suppress(VerificationFailed):  # what changes no meaning may pass
                require_readable(out, plan, ZONE)
        for data in (b"not JSON", b"", good[: len(good) // 2]):
            path.write_bytes(data)
            with pytest.raises(VerificationFailed, match=str(ZONE)):
                require_readable(out, plan, ZONE)
        path.write_bytes(good)
    require_readable(out, plan, ZONE)


def test_metadata_that_no_manifest_vouches_for_are_named_and_made_anew(tmp_path: Path) -> None:
    """A run that was ended before its manifest: what the next run cannot read, `verify` has to find."""
    made = tiny(tmp_path / "scenes", dates=1, years="2021", region_px=(90, 90))
    out = tmp_path / "run"
    map_region(out, made.plan(), made.items, made.model, workers=0)
    assert not (out / "manifest.json").exists()
    for path in metadata_files(out):
        good, records = path.read_bytes(), sorted((out / "ledger").iterdir())
        path.write_bytes(good[: len(good) // 2])
        damaged = verify(out).damaged
        assert damaged, path
        if "region/c" in path.as_posix():  # nothing is made from it: a run goes on, `verify` names it
            map_region(out, made.plan(), made.items, made.model, workers=0)
            assert verify(out).damaged == damaged
            assert take_back(out, damaged) == []
            assert path.read_bytes() == good
            continue
        with pytest.raises(VerificationFailed, match="verify --repair"):
            map_region(out, made.plan(), made.items, made.model, workers=0)
        assert take_back(out, damaged) == []
        assert sorted((out / "ledger").iterdir()) == records
        assert path.read_bytes() == good
        assert not verify(out).damaged


def test_a_repair_keeps_the_order_in_which_periods_were_added(tmp_path: Path) -> None:
    made = tiny(tmp_path / "scenes", dates=1, region_px=(90, 90))
    out = tmp_path / "run"
    for years in ("2022", "2021"):
        one = made.years(years)
        map_region(out, one.plan(), made.items, made.model, workers=0)
    (out / MAP / "zarr.json").write_bytes(b"")
    assert take_back(out, verify(out).damaged) == []
    assert read_zone(out / MAP, ZONE).labels == ("2022", "2021")
    assert not verify(out).damaged


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
