"""Digital numbers -> reflectance, and scene classes -> valid pixels.

Since processing baseline 04.00 ESA adds 1000 to every digital number. Some catalogues have taken it away again, some
say so and have not: the offset is decided for each item from its baseline and flags, never from its date, and a
contradiction is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.scenes import dialect

OffsetRule = Literal["auto", "subtract", "none"]
_OFFSET_DN = -1000  # BOA_ADD_OFFSET of every band since baseline 04.00


@dataclass(frozen=True)
class MaskRule:
    """Scene classes (SCL of the L2A product) -> valid pixels."""

    drop: tuple[int, ...] = (0, 1, 3, 8, 9, 10, 11)
    """Classes that are not valid: no data, saturated, shadow, cloud, cirrus and snow. Water (6) is valid."""
    dilate: tuple[int, ...] = (3, 8, 9)
    """Classes whose neighbourhood is dropped too: shadow and cloud."""
    dilate_m: float = 100.0
    """A pixel is dropped if its centre lies within this distance of the centre of such a pixel, metres."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dilate_m) and self.dilate_m >= 0):
            raise InputError(f"the mask's distance is {self.dilate_m} m; it must be zero or more")
        for code in (*self.drop, *self.dilate):
            if not 0 <= code <= 255:
                raise InputError(f"the mask names scene class {code}; classes are 0 to 255")

    def as_json(self) -> dict[str, Any]:
        """The fields as a card states them; `stated` reads them back."""
        return {"drop": list(self.drop), "dilate": list(self.dilate), "dilate_m": self.dilate_m}

    @classmethod
    def stated(cls, stated: Mapping[str, Any], objects: Sequence[str] = ()) -> MaskRule:
        """From JSON, such as the `mask` of a card: the rule that a model was trained with.

        Parameters
        ----------
        stated
            Fields of the rule. Under `objects` stands what differs for one, by its name: packed bright cars are
            often taken for cloud, and `{"objects": {"car": {"drop": [0, 1, 3, 10, 11], "dilate": [3]}}}` keeps them.
        objects
            Whose rule is asked for.

        Raises
        ------
        InputError
            They have several rules, for what is observed is the same for all objects of a run; or an unknown field.
        """
        shared, own = {k: v for k, v in stated.items() if k != "objects"}, stated.get("objects", {})
        rules: dict[MaskRule, list[str]] = {}
        for name in objects or ("",):
            values: dict[str, Any] = dict(shared) | own.get(name, {})
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            if unknown := set(values) - {field.name for field in fields(cls)}:
                raise InputError(f"the mask has unknown fields: {', '.join(sorted(unknown))}")
            rules.setdefault(cls(**values), []).append(name)
        if len(rules) > 1:
            told = " and ".join(", ".join(names) for names in rules.values())
            raise InputError(
                f"the model masks {told} in different ways: map each alone, with --object and its own --out"
            )
        return next(iter(rules))

    def margin(self, resolution: float) -> int:
        """Pixels around a window that can change its mask."""
        return int(self.dilate_m / resolution + 1e-9) if self.dilate else 0


@dataclass(frozen=True)
class Offset:
    """What is added to the digital numbers of an item before they are divided by 10,000."""

    dn: int
    """0 or -1000."""
    reason: str
    """The evidence, in words."""


def decide_offset(item: dict[str, Any], *, rule: OffsetRule = "auto") -> Offset:
    """Decide the offset of one item.

    Parameters
    ----------
    item
        A STAC item of any dialect.
    rule
        `auto` decides from baseline and flags; `subtract` and `none` are the user's own decision for all items.

    Raises
    ------
    InputError
        The item is not L2A, does not say its baseline, or contradicts itself; the item is named.
    """
    dialect.require_level_2a(item)
    if rule == "subtract":
        return Offset(_OFFSET_DN, "told by --offset-rule subtract")
    if rule == "none":
        return Offset(0, "told by --offset-rule none")
    baseline, flag = dialect.baseline(item), dialect.properties(item).get("earthsearch:boa_offset_applied")
    declared = _declared(item)
    if baseline is None:
        raise _refuse(item, "does not say its processing baseline")
    if flag not in (None, True, False):
        raise _refuse(item, f"has earthsearch:boa_offset_applied = {flag!r}, not true or false")
    if declared not in (None, 0.0, -0.1):
        raise _refuse(item, f"declares a reflectance offset of {declared}; ESA's is 0 or -0.1")
    if float(baseline) < 4:
        if declared or flag:
            told = f"offset {declared}" if declared else "boa_offset_applied true"
            raise _refuse(item, f"has baseline {baseline}, which has no offset, but declares {told}")
        return Offset(0, f"baseline {baseline} has no offset")
    if flag is True:
        return Offset(0, f"baseline {baseline}, the catalogue has taken the offset away (boa_offset_applied)")
    if declared == 0.0:
        raise _refuse(item, f"has baseline {baseline}, which has an offset, but declares offset 0")
    if flag is None and _is_earth_search_v1(item):
        raise _refuse(item, f"has baseline {baseline} but no boa_offset_applied, which decides in this catalogue")
    return Offset(_OFFSET_DN, f"baseline {baseline}" + (", boa_offset_applied false" if flag is False else ""))


def _declared(item: dict[str, Any]) -> float | None:
    """The one reflectance offset that the item's bands declare."""
    assets = item.get("assets") or {}
    present = [b for b in dialect.BANDS if any(isinstance(assets.get(n), dict) for n in dialect.asset_names(b))]
    found = {dialect.declared_offset(asset) for asset in dialect.band_assets(item, present).values()} - {None}
    if len(found) > 1:
        raise _refuse(item, f"declares several reflectance offsets: {sorted(v for v in found if v is not None)}")
    return found.pop() if found else None


def _is_earth_search_v1(item: dict[str, Any]) -> bool:
    """Earth Search `sentinel-2-l2a`: the one catalogue that changes digital numbers item by item."""
    props = dialect.properties(item)
    return item.get("collection") == "sentinel-2-l2a" and any(key.startswith("earthsearch:") for key in props)


def _refuse(item: dict[str, Any], why: str) -> InputError:
    return InputError(f"item {dialect.item_id(item)} {why}; the offset cannot be decided (see --offset-rule)")


def to_reflectance(
    dn: NDArray[np.unsignedinteger], offset_dn: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(DN + offset) / 10000 in float32; NaN where DN is 0. Dark pixels stay, negative values too."""
    out = np.add(dn, np.float32(offset_dn), out=out, dtype=np.float32)
    out /= np.float32(10000)
    np.copyto(out, np.nan, where=dn == 0)
    return out


def scl_valid(scl: NDArray[np.unsignedinteger], resolution: float, rule: MaskRule) -> NDArray[np.bool_]:
    """Valid pixels of a scene classification.

    Parameters
    ----------
    scl
        Scene classes, (y, x).
    resolution
        Pixel size of `scl`, metres.
    rule
        Classes and distance. Pixels outside the array are taken as clear: give a margin of `rule.margin(resolution)`.

    Returns
    -------
    numpy.ndarray
        bool, (y, x).
    """
    valid = _table(rule.drop)[scl]
    near = _table(rule.dilate)[scl]  # False where a class that spreads
    if rule.margin(resolution) and not near.all():
        from scipy.ndimage import distance_transform_edt

        valid &= distance_transform_edt(near) > rule.dilate_m / resolution + 1e-9
    return valid & near if rule.dilate else valid


def _table(classes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Look-up table over uint8: False for the given classes."""
    table = np.ones(256, bool)
    table[list(classes)] = False
    return table
