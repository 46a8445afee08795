"""One lock from several sources: a scene missing or refused in one source comes from the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from subpixmap.errors import several_problems
from subpixmap.periods import Period
from subpixmap.scenes.darkness import check_darkness
from subpixmap.scenes.dialect import Level, SceneKey, scene_key_of
from subpixmap.scenes.hrefs import redact
from subpixmap.scenes.items import Item, lock_items, sort_items
from subpixmap.scenes.radiometry import OffsetRule
from subpixmap.scenes.reader import pin


def lock_sources(
    by_source: Mapping[str, Sequence[dict[str, Any]]],
    periods: Sequence[Period],
    bands: Sequence[str],
    *,
    offset_rule: OffsetRule = "auto",
    level: Level = "L2A",
    look: bool = True,
    refused: dict[str, str] | None = None,
    allow_partial: bool = False,
) -> list[Item]:
    """Lock the items of several sources: each scene from the first source with an accepted item.

    Parameters
    ----------
    by_source
        Items by source, in order of preference (see `find_by_source`).
    periods, bands, offset_rule, level
        See `lock_items`.
    look
        Whether to check the offset on dark ground (see `check_darkness`; not if the user has set it), and to request
        the versions of files from servers.
    refused
        If given, refused items are written here, {id: reason}; a reason ends with the item used instead, if any.
    allow_partial
        Whether refused items without a replacement are left out; by default they raise.

    Returns
    -------
    list of Item
        In canonical order, with the versions of their files (see `reader.pin`).

    Raises
    ------
    InputError
        Some items are refused in all sources; the message names them.
    ReadFailed
        An overview of the last source could not be read.
    """
    taken: dict[SceneKey | None, tuple[str, list[Item]]] = {}
    problems: dict[str, tuple[SceneKey | None, str]] = {}
    for number, (source, raws) in enumerate(by_source.items(), 1):
        keys = {str(raw.get("id")): scene_key_of(raw) for raw in raws}
        why: dict[str, str] = {}
        lacking = [raw for raw in raws if keys[str(raw.get("id"))] not in taken]
        items = lock_items(lacking, periods, bands, offset_rule=offset_rule, level=level, refused=why)
        strict = number == len(by_source) and not allow_partial  # no later source has it
        if strict:
            have = {*taken, *(item.scene_key for item in items)}
            so_far = problems | {name: (keys[name], reason) for name, reason in why.items()}
            if left := [reason for key, reason in so_far.values() if key not in have]:
                raise several_problems(left, advice="--allow-partial continues without them" if have else "")
        if look and offset_rule == "auto":
            items = check_darkness(items, refused=None if strict else why)
            contradicted = {keys[name] for name in why}  # a part of a scene must not count as the whole scene
            items = [item for item in items if item.scene_key not in contradicted]
        for item in items:
            taken.setdefault(item.scene_key, (source, []))[1].append(item)
        problems |= {name: (keys[name], reason) for name, reason in why.items()}
    if problems and not taken:
        raise several_problems([reason for _, reason in problems.values()])
    if refused is not None:
        for name, (key, reason) in problems.items():
            stands_in = f"; {taken[key][1][0].id} of {redact(taken[key][0])} is used instead" if key in taken else ""
            refused[name] = reason + stands_in
    return sort_items(pin((item for _, items in taken.values() for item in items), ask=look))
