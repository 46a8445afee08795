"""A record is there whole or not at all, and any change of it is noticed."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from subpixmap.mapping.ledger import (
    Record,
    Used,
    array_sha256,
    cell_sums,
    read_ledger,
    read_records,
    record_path,
    write_record,
)
from tests.helpers.mapping_data import raising


def record(block_id: str = "32651-r00001-c00002", period: str = "2021") -> Any:
    rng = np.random.default_rng(0)
    cells = {
        "observed_px": rng.integers(0, 99, (2, 2)).astype(np.int32),
        "acquisition_total": rng.normal(size=(3, 2, 2, 2)).astype(np.float32),
        "acquisition_observed_px": np.zeros((0, 2, 2), np.int32),
    }
    used = (Used("GS2A_20210105T021051_028940", "2021-01-05T02:10:51Z", 7, "ab"),)
    return Record(
        block_id, period, "run", "items", {"count": "00"}, used, 9, 8, {"car": 0.1 + 0.2}, cells, {"threads": 1}
    )


def same(one: Any, other: Any) -> None:
    assert one.to_json() == other.to_json()
    for name, values in one.cells.items():
        np.testing.assert_array_equal(values, other.cells[name])
        assert values.dtype == other.cells[name].dtype


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    write_record(tmp_path, record(period="2021-01-05T02:10:51Z"))
    found = read_records(tmp_path)
    assert list(found) == [
        ("32651-r00001-c00002", "2021-01-05T02:10:51Z"),
        ("32651-r00001-c00002", "2021"),
    ]
    same(found["32651-r00001-c00002", "2021"], record())
    assert found["32651-r00001-c00002", "2021"].total["car"] == 0.1 + 0.2
    assert sorted(p.name for p in (tmp_path / "ledger").iterdir()) == [
        "32651-r00001-c00002_2021-01-05T021051Z.json",
        "32651-r00001-c00002_2021.json",
    ]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    path = record_path(tmp_path, *record().key)
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.integers(0, len(good) * 8 - 8, 200):  # the last byte is the newline
        bad = bytearray(good)
        bad[at // 8] ^= 1 << (at % 8)
        path.write_bytes(bad)
        records, damaged = read_ledger(tmp_path)
        if records:  # a blank or the case of an escape may change; then nothing that is said has changed
            same(records[record().key], record())
        else:
            assert damaged.keys() == {path}
    path.write_bytes(good[: len(good) // 2])
    assert read_records(tmp_path) == {}


def test_a_mistake_of_ours_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, record())
    for error in (AttributeError, TypeError, ValueError, KeyError):
        monkeypatch.setattr("subpixmap.mapping.ledger._unpack", raising(error))
        with pytest.raises(error):
            read_ledger(tmp_path)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
kinds_of_cells: Any = st.sampled_from([np.int32, np.float32])
a_record: dict[str, st.SearchStrategy[Any]] = {
    "sha256": st.dictionaries(words, words),
    "acquisitions": st.lists(st.builds(Used, words, words, st.integers(), words)).map(tuple),
    "observed_px": st.integers(),
    "predicted_px": st.none() | st.integers(),
    "total": st.dictionaries(words, st.floats(allow_nan=False, allow_infinity=False)),
    "cells": st.dictionaries(words, arrays(kinds_of_cells, array_shapes(max_dims=4, max_side=3, min_side=0))),
    "numerics": st.dictionaries(words, st.integers() | words | st.lists(st.integers())),
}


@settings(deadline=None)
@given(values=st.fixed_dictionaries(a_record))
def test_every_field_of_a_record_survives(values: dict[str, Any]) -> None:
    one = replace(record(), **values)
    other = Record.from_json(one.to_json())
    for name in (field.name for field in fields(Record) if field.name != "cells"):
        assert getattr(other, name) == getattr(one, name)
    assert other.cells.keys() == one.cells.keys()
    for name, expected in one.cells.items():
        assert other.cells[name].dtype == expected.dtype
        np.testing.assert_array_equal(other.cells[name], expected)


def test_a_record_under_another_name_is_no_record(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    path = record_path(tmp_path, *record().key)
    path.rename(record_path(tmp_path, "32651-r00001-c00003", "2021"))
    records, damaged = read_ledger(tmp_path)
    assert not records
    assert "it is the record of 32651-r00001-c00002" in next(iter(damaged.values()))


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, record())

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"subpixmap.files.os.{call}", fail)
            with pytest.raises(OSError, match="No space"):
                write_record(tmp_path, record(period="2021"))
        assert [p.name for p in (tmp_path / "ledger").iterdir()] == ["32651-r00001-c00002_2021.json"]
        same(read_records(tmp_path)[record().key], record())


def test_hashes_are_of_values_not_of_memory() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert array_sha256(values) == array_sha256(np.asfortranarray(values)) == array_sha256(values.astype(">f4"))
    assert array_sha256(values) != array_sha256(values.astype(np.float64))


def test_cells_sum_to_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=(2, 256, 384))
    cells = cell_sums(values)
    assert cells.shape == (2, 2, 3)
    assert cells[1, 0, 2] == pytest.approx(values[1, :128, 256:].sum())
    assert cells.sum() == pytest.approx(values.sum())
