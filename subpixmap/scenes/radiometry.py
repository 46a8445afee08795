"""Digital numbers -> reflectance.

Since processing baseline 04.00 ESA adds 1000 to every digital number. Some catalogues subtract it again, and some claim
so without doing it. So the offset is decided for each item from its baseline and flags, never from its date; an item
that contradicts itself is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.scenes import dialect

_COMMON = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "nir08": "B8A", "swir16": "B11", "swir22": "B12"}

OffsetRule = Literal["auto", "subtract", "none"]
Missing = Literal["stated", "zero"]
"""Rule for missing digital numbers: as stated by file, item and standard, or only 0 (older run folders)."""
_OFFSET_DN = -1000  # BOA_ADD_OFFSET of every band since baseline 04.00

MOST_DN = 32_766
"""Largest digital number of a measurement: a reflectance above 3, which the sensor cannot reach at the sun heights of
Level-2A. Larger numbers are ESA's saturation value or fill values of other software."""


@dataclass(frozen=True)
class Offset:
    """Number to add to the digital numbers of an item before dividing by 10,000."""

    dn: int
    """0 or -1000."""
    reason: str
    """The evidence, in words."""


def known_level(text: str) -> dialect.Level:
    """The level with this name; `InputError` lists the known ones."""
    for level in dialect.LEVELS:
        if level == text:
            return level
    raise InputError(f"--level {text!r} is unknown; choose {' or '.join(dialect.LEVELS)}")


def require_level(item: dict[str, Any], level: dialect.Level) -> None:
    """Refuse an item of another level. An item without a level counts as Level-2A."""
    kind = dialect.properties(item).get("s2:product_type")
    collection = str(item.get("collection") or "").lower()
    stated = str(dialect.properties(item).get("processing:level"))
    is_1c = dialect.product(item).get("level") == "1C" or "l1c" in collection or "L1C" in (kind, stated)
    if level == "L2A" and (is_1c or kind not in (None, "S2MSI2A")):
        raise InputError(
            f"item {dialect.item_id(item)} is {kind or 'L1C'}, not Sentinel-2 L2A; choose an L2A collection "
            "(--collection), or give --level L1C with a model of Level-1C"
        )
    if level == "L1C" and not (is_1c or kind == "S2MSI1C"):
        raise InputError(
            f"item {dialect.item_id(item)} is not marked as Sentinel-2 L1C; choose an L1C collection (--collection), "
            "or leave out --level L1C"
        )


def decide_offset(item: dict[str, Any], *, rule: OffsetRule = "auto", level: dialect.Level = "L2A") -> Offset:
    """Decide the offset of one item.

    Parameters
    ----------
    item
        A STAC item of any catalogue.
    rule
        `auto` decides from baseline and flags; `subtract` and `none` are the user's own decision for all items.
    level
        Required level of the item; both levels have the same offset.

    Raises
    ------
    InputError
        The item is of another level, does not name its baseline, or contradicts itself.
    """
    require_level(item, level)
    # The reasons are part of the lock's hash: do not change their wording.
    if rule == "subtract":
        return Offset(_OFFSET_DN, "told by --offset-rule subtract")
    if rule == "none":
        return Offset(0, "told by --offset-rule none")
    evidence = dialect.offset_evidence(item)
    baseline, flag, declared = evidence.baseline, evidence.taken_away, evidence.declared
    if baseline is None:
        raise dialect.undecided_offset(item, "does not name its processing baseline")
    if declared not in (None, 0.0, -0.1):
        raise dialect.undecided_offset(item, f"declares a reflectance offset of {declared}; ESA's is 0 or -0.1")
    if float(baseline) < 4:
        if declared or flag:
            claim = f"offset {declared}" if declared else "boa_offset_applied true"
            raise dialect.undecided_offset(item, f"has baseline {baseline}, which has no offset, but declares {claim}")
        return Offset(0, f"baseline {baseline} has no offset")
    if flag is True:
        return Offset(0, f"baseline {baseline}, the catalogue has taken the offset away (boa_offset_applied)")
    if declared == 0.0:
        raise dialect.undecided_offset(item, f"has baseline {baseline}, which has an offset, but declares offset 0")
    if flag is None and evidence.flag_needed:
        raise dialect.undecided_offset(
            item, f"has baseline {baseline} but no boa_offset_applied, which decides in this catalogue"
        )
    return Offset(_OFFSET_DN, f"baseline {baseline}" + (", boa_offset_applied false" if flag is False else ""))


def to_reflectance(
    dn: NDArray[np.unsignedinteger], offset_dn: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(DN + offset) / 10000 in float32; NaN where DN is 0. Dark pixels and negative values stay."""
    out = np.add(dn, np.float32(offset_dn), out=out, dtype=np.float32)
    out /= np.float32(10000)
    np.copyto(out, np.nan, where=dn == 0)
    return out


def require_bands(names: Sequence[str]) -> None:
    """Refuse names that are not Sentinel-2 bands; suggest B04 for `red`."""
    if isinstance(names, str):
        raise InputError(f"bands={names!r} is one text; give a list, such as bands=[{names!r}]")
    if unknown := [str(name) for name in names if name not in dialect.BANDS]:
        meant = [f"{name} is {_COMMON[name]}" for name in unknown if name in _COMMON]
        raise InputError(f"no band {', '.join(unknown)}: {'; '.join(meant) or 'there are ' + ', '.join(dialect.BANDS)}")
