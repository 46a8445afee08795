"""Options of count and trend outlive the command that gave them."""

import json
from pathlib import Path
from typing import Any

import pytest

from subpixmap import runpaths
from subpixmap.counts.choices import Choices, read_choices, write_choices
from subpixmap.errors import InputError, VerificationFailed

ODD = Choices(assign_nearest=True, level=0.9, unchanged=("01", "02"))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_choices(tmp_path) == Choices()  # a folder of an older version
    for choices in (ODD, Choices(background=True)):
        write_choices(tmp_path, choices)
        assert read_choices(tmp_path) == choices
    write_choices(tmp_path, Choices())
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named_and_never_taken_for_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / runpaths.CHOICES
    write_choices(tmp_path, ODD)
    text = path.read_text()
    changed = json.dumps(json.loads(text) | {"level": 0.8})
    for damaged in ("", "[]", text[:-5], text.replace("0.9", "0.8"), changed):
        path.write_text(damaged)
        with pytest.raises(VerificationFailed) as error:
            read_choices(tmp_path)
        assert str(path) in str(error.value)


def test_what_is_given_replaces_what_was_chosen() -> None:
    nothing: dict[str, Any] = {"level": None, "unchanged": None, "background": None}
    assert ODD.with_count(assign_nearest=None).with_trend(**nothing) == ODD
    assert ODD.with_count(assign_nearest=False) == Choices(level=0.9, unchanged=("01", "02"))
    assert Choices().with_trend(**nothing | {"level": 0.8}) == Choices(level=0.8)
    background = ODD.with_trend(**nothing | {"background": True})
    assert (background.unchanged, background.background) == ((), True)
    assert background.with_trend(**nothing | {"unchanged": ("03",)}).background is False
    assert background.with_trend(**nothing | {"background": False}).background is False
    assert ODD.with_trend(**nothing | {"background": False}).unchanged == ("01", "02")
    assert ODD.with_trend(**nothing | {"unchanged": ()}).unchanged == ()


def test_choices_that_cannot_be_are_refused() -> None:
    for wrong in ({"level": 95}, {"level": 0.2}, {"unchanged": ("01",), "background": True}):
        with pytest.raises(InputError):
            Choices(**wrong)


def test_other_units_end_a_choice_that_names_units() -> None:
    assert ODD.for_units({"01", "02", "03"}) == (ODD, [])
    choices, notes = ODD.for_units({"01", "a"})
    assert choices == Choices(assign_nearest=True, level=0.9)
    assert "02" in notes[0]
