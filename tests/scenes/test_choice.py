"""Scene choice: clear, spread over months and orbits, and the same for any order."""

import random
from typing import Any

import pytest

from subpixmap.errors import InputError
from subpixmap.scenes.choice import choose
from subpixmap.scenes.items import Item


def scene(name: Any, day: Any, orbit: int = 1) -> Any:
    return [Item(name, "51PTT", name, f"{day}T02:00:00Z", "2021", 32651, "05.00", -1000, "", None, orbit, {})]


def test_the_clearest_are_taken_and_the_overcast_never() -> None:
    scenes = {f"s{i}": scene(f"s{i}", f"2021-01-{i + 1:02d}") for i in range(6)}
    clear = {"s0": 0.2, "s1": 0.9, "s2": 0.0, "s3": 0.8, "s4": 0.1}
    assert choose(scenes, clear, 2) == ["s1", "s3"]
    assert choose(scenes, clear, 10) == ["s0", "s1", "s3", "s4"]
    assert choose(scenes, {}, 10) == []


def test_months_and_orbits_are_balanced() -> None:
    dry = {f"dry{i}": scene(f"dry{i}", f"2021-03-{i + 1:02d}") for i in range(9)}
    wet = {f"wet{m}": scene(f"wet{m}", f"2021-{m:02d}-01") for m in (6, 7, 8)}
    clear = dict.fromkeys(dry, 0.9) | dict.fromkeys(wet, 0.4)
    assert {"wet6", "wet7", "wet8"} <= set(choose(dry | wet, clear, 6))
    two = {f"o{o}{m}": scene(f"o{o}{m}", f"2021-{m:02d}-01", o) for o in (1, 2) for m in range(1, 7)}
    names = choose(two, {n: 0.9 if n[1] == "1" else 0.8 for n in two}, 6)
    assert sum(n[1] == "1" for n in names) == 3
    assert len({n[2:] for n in names}) == 6


def test_the_order_of_the_arguments_does_not_matter() -> None:
    rng = random.Random(0)
    scenes = {f"s{i}": scene(f"s{i}", f"2021-{i % 12 + 1:02d}-03", i % 3) for i in range(40)}
    clear = {name: rng.choice([0.3, 0.5, 0.9]) for name in scenes}
    expected = choose(scenes, clear, 10)
    for _ in range(5):
        shuffled = list(scenes)
        rng.shuffle(shuffled)
        assert choose({n: scenes[n] for n in shuffled}, clear, 10) == expected


def test_no_scene_is_no_choice() -> None:
    with pytest.raises(InputError, match="max-scenes"):
        choose({}, {}, 0)
