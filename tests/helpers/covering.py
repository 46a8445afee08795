"""Combinations of options, few of them, in which every pair (or triple) of values occurs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Row = dict[str, Any]


def covering(
    axes: Mapping[str, Sequence[Any]], strength: int = 2, *, allowed: Callable[[Row], bool] = lambda row: True
) -> list[Row]:
    """Rows in which every allowed combination of values of any `strength` axes occurs; as many axes: all rows.

    Greedy: a row starts from the first combination that is left, and every further axis takes the value that covers
    most of what is left, the first of equals. The same axes give the same rows.

    Parameters
    ----------
    axes
        Name -> hashable values, the cheapest first.
    strength
        Axes whose values are combined.
    allowed
        Whether a row, also one of a few axes, may be.
    """
    left = dict.fromkeys(part for part in _parts(axes, strength) if allowed(dict(part)))
    rows = []
    while left:
        row = dict(next(iter(left)))
        for name in axes:
            if name not in row:
                choices = [row | {name: value} for value in axes[name]]
                row = max(filter(allowed, choices), key=lambda one: sum(part in left for part in _of(one, strength)))
        rows.append({name: row[name] for name in axes})
        for part in _of(rows[-1], strength):
            left.pop(part, None)
    return rows


def _parts(axes: Mapping[str, Sequence[Any]], strength: int) -> Iterator[tuple[tuple[str, Any], ...]]:
    for names in combinations(sorted(axes), strength):
        for values in product(*(axes[name] for name in names)):
            yield tuple(zip(names, values, strict=True))


def _of(row: Row, strength: int) -> Iterable[tuple[tuple[str, Any], ...]]:
    return combinations(sorted(row.items(), key=lambda item: item[0]), strength)
