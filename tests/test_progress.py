"""Progress on stderr: who is quiet, what is too short to tell, what is inside something else."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from subpixmap import progress
from subpixmap.progress import Progress, duration, shown, track
from tests.helpers.run_folders import make_plan, make_run


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line is worth printing."""
    monkeypatch.setattr(progress, "_WORTH_A_LINE_S", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_loop_is_shown_where_somebody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2, 3], "read", "items")) == [1, 2, 3]
    with shown(quiet=True):
        assert list(track([1, 2], "read", "items")) == [1, 2]
    assert capsys.readouterr().err == ""
    with shown():
        assert list(track(iter("ab"), "read", "items", total=2)) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert "read: 2/2 items  100 %" in lines[-1]
    assert list(track([1], "read", "items")) == [1]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("at_once")
def test_of_two_loops_the_outer_one_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with shown():
        for _ in track([1, 2], "outer", "blocks"):
            list(track([1, 2], "inner", "items"))
        list(track([1], "after", "items"))
    told = capsys.readouterr().err
    assert "outer: 2/2" in told
    assert "inner" not in told
    assert "after: 1/1" in told


def test_a_short_loop_says_nothing_and_a_slow_piece_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shown():
        list(track([1, 2, 3], "read", "items"))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(progress, "_WORTH_A_LINE_S", 0.01)

        def slow() -> Iterator[int]:
            time.sleep(0.5)
            yield 1

        list(track(slow(), "read", "items", total=1))
    assert capsys.readouterr().err.startswith("read: 0/1 items")


def test_what_fails_inside_a_loop_does_not_silence_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), Progress("map", 2, "blocks"):
        raise ValueError("no")
    with Progress("map", 2, "blocks") as bar:
        bar.update(2)
    assert "map: 2/2 blocks" in capsys.readouterr().err


def test_spans_of_time_are_told_in_words_of_people() -> None:
    assert [duration(seconds) for seconds in (4, 89, 90, 5399, 5400, 36000)] == [
        *("4 s", "89 s", "2 min", "90 min", "1.5 h", "10.0 h")
    ]


@pytest.mark.usefixtures("at_once")
def test_what_makes_numbers_and_pages_says_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from subpixmap.verbs.count import count, report, trend

    out, plan = tmp_path / "out", make_plan()
    make_run(out, plan)
    n = plan.n_tasks // 2
    with shown():
        for verb in (count, trend, report):
            verb(out)
    told = capsys.readouterr().err
    for last in (
        f"count: {n}/{n} blocks",
        "trend: 6/6 units x objects",
        "read the map: 4/4 periods",
        "draw: 2/2 objects",
    ):
        assert last in told, told
