"""Chooses the acquisitions of a period for a block: the clearest, balanced over months and orbits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from subpixmap.errors import InputError
from subpixmap.scenes.items import Item

_REPEAT = 0.5  # weight of another acquisition of the same month or orbit, relative to the first one


def choose(acquisitions: Mapping[str, Sequence[Item]], clear: Mapping[str, float], max_scenes: int = 10) -> list[str]:
    """Choose acquisitions for one block and period.

    Clouds are seasonal, and reflectance changes with the view angle, which depends on the orbit. So ten scenes of one
    dry month and orbit are worth less than ten spread over both. Each step takes the acquisition with the highest
    score: its share of clear pixels, halved for each acquisition already chosen from its month, and for each from its
    orbit.

    Parameters
    ----------
    acquisitions
        Items by acquisition (see `by_acquisition`).
    clear
        Share of the block's pixels that are valid, 0 to 1, by acquisition; those at 0 or missing are never chosen.
    max_scenes
        Largest number of acquisitions.

    Returns
    -------
    list of str
        Names in order of time. The result does not depend on the order of the arguments.
    """
    if max_scenes < 1:
        raise InputError(f"--max-scenes is {max_scenes}; give 1 or more")
    first = {name: min(items, key=lambda item: item.datetime) for name, items in acquisitions.items()}
    left = {name: clear[name] for name in acquisitions if clear.get(name, 0) > 0}
    months: Counter[str] = Counter()
    orbits: Counter[int | None] = Counter()
    chosen: list[str] = []

    def worth(name: str) -> tuple[float, float, str]:
        repeats = months[first[name].datetime[:7]] + orbits[first[name].orbit] * several_orbits
        return left[name] * _REPEAT**repeats, left[name], name

    several_orbits = len({first[name].orbit for name in left}) > 1
    while left and len(chosen) < max_scenes:
        best = max(left, key=worth)
        chosen.append(best)
        months[first[best].datetime[:7]] += 1
        orbits[first[best].orbit] += 1
        del left[best]
    return sorted(chosen, key=lambda name: (first[name].datetime, name))
