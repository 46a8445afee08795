"""Several sources in order -> one lock: a scene that one lacks, or that is refused there, comes from the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subpixmap.periods import Period
from subpixmap.scenes.darkness import check_darkness
from subpixmap.scenes.dialect import scene_key
from subpixmap.scenes.items import Item, lock_items, several_problems, sort_items
from subpixmap.scenes.radiometry import OffsetRule


def lock_sources(
    found: Mapping[str, Sequence[dict[str, Any]]],
    periods: Sequence[Period],
    bands: Sequence[str],
    *,
    offset_rule: OffsetRule = "auto",
    look: bool = True,
    refused: dict[str, str] | None = None,
    allow_partial: bool = False,
) -> list[Item]:
    """Freeze what sources gave, each scene from the first source whose item can be taken.

    Parameters
    ----------
    found
        Items by source, in order of preference (see `find_by_source`).
    periods, bands, offset_rule
        As of `lock_items`.
    look
        Whether dark ground is looked at, where the offset is decided (see `check_darkness`).
    refused
        If given, items that were refused are written here, {id: reason}; a reason ends with what stands in for it.
    allow_partial
        Refused items for which nothing stands in are left out; without, they raise.

    Returns
    -------
    list of Item
        In canonical order.

    Raises
    ------
    InputError
        Names items that no source has as they should be.
    ReadFailed
        An overview of the last source could not be read.
    """
    taken: dict[tuple[str, str] | None, tuple[str, Item]] = {}
    problems: dict[str, tuple[tuple[str, str] | None, str]] = {}
    for number, (source, raws) in enumerate(found.items(), 1):
        keys = {str(raw.get("id")): scene_key(raw) for raw in raws}
        why: dict[str, str] = {}
        lacking = [raw for raw in raws if keys[str(raw.get("id"))] not in taken]
        items = lock_items(lacking, periods, bands, offset_rule=offset_rule, refused=why)
        strict = number == len(found) and not allow_partial  # then nothing can stand in any more
        if strict:
            have = {*taken, *map(_key, items)}
            now = problems | {name: (keys[name], told) for name, told in why.items()}
            if left := [told for key, told in now.values() if key not in have]:
                raise several_problems(left, advice="--allow-partial goes on without them" if have else "")
        if look and offset_rule == "auto":
            items = check_darkness(items, refused=None if strict else why)
        taken |= {_key(item): (source, item) for item in items}
        problems |= {name: (keys[name], told) for name, told in why.items()}
    if problems and not taken:
        raise several_problems([told for _, told in problems.values()])
    if refused is not None:
        for name, (key, told) in problems.items():
            stands_in = f"; {taken[key][1].id} of {taken[key][0]} stands in for it" if key in taken else ""
            refused[name] = told + stands_in
    return sort_items(item for _, item in taken.values())


def _key(item: Item) -> tuple[str, str]:
    return item.acquisition[:20], item.tile
