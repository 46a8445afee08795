"""Digital numbers -> reflectance, and scene classes -> valid pixels.

Since processing baseline 04.00 ESA adds 1000 to every digital number. Some catalogues take it away again, and some say
so but have not done it. So the offset is decided for each item from its baseline and flags, never from its date; an
item that contradicts itself is refused.
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
Missing = Literal["stated", "zero"]
"""Which digital numbers are missing: all that file, item and standard say, or 0 alone (run folders of before)."""
_OFFSET_DN = -1000  # BOA_ADD_OFFSET of every band since baseline 04.00

MOST_DN = 32_766
"""Largest digital number of a measurement: a reflectance over 3, of which the sensor's full scale falls short wherever
the sun stands high enough for Level-2A. Above lie ESA's mark of saturation and the fill values of other software."""
MOST_CLASS = 11
"""Largest scene class; what a number above it means is unknown, so such pixels are not valid."""
DROPPED_CLASSES = (0, 1, 3, 8, 9, 10, 11)
"""Scene classes that are not valid: no data, saturated, shadow, cloud, cirrus and snow. Water (6) is valid."""
DILATED_CLASSES = (3, 8, 9)
"""Scene classes whose neighbourhood is not valid either: shadow and cloud."""
DILATION_M = 100.0
"""A pixel whose centre lies within this distance of the centre of such a pixel is not valid, metres."""


@dataclass(frozen=True)
class MaskRule:
    """Scene classes (SCL of the L2A product) -> valid pixels."""

    drop: tuple[int, ...] = DROPPED_CLASSES
    """Classes that are not valid."""
    dilate: tuple[int, ...] = DILATED_CLASSES
    """Classes whose neighbourhood is not valid either."""
    dilate_m: float = DILATION_M
    """Distance of that neighbourhood, between centres of pixels, metres."""

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
            Fields of the rule. `objects` holds the fields that differ for one object, by its name: densely parked
            bright cars often look like cloud, and `{"objects": {"car": {"drop": [0, 1, 3, 10, 11], "dilate": [3]}}}`
            keeps them.
        objects
            The objects to map.

        Raises
        ------
        InputError
            The objects have different rules (all objects of a run share their observations), or a field is unknown.
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
            groups = " and ".join(", ".join(names) for names in rules.values())
            raise InputError(
                f"the model has different masks for {groups}: map each alone, with --object and its own --out"
            )
        return next(iter(rules))

    def margin(self, resolution: float) -> int:
        """Pixels around a window that can change its mask."""
        return int(self.dilate_m / resolution + 1e-9) if self.dilate else 0


@dataclass(frozen=True)
class Offset:
    """Number that is added to the digital numbers of an item before they are divided by 10,000."""

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
        The item is not L2A, does not name its baseline, or contradicts itself.
    """
    dialect.require_level_2a(item)
    # The reasons are part of the lock's hash: reword none of them.
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


def scl_valid(
    scl: NDArray[np.unsignedinteger], resolution: float, rule: MaskRule, *, missing: Missing = "stated"
) -> NDArray[np.bool_]:
    """Valid pixels of a scene classification.

    Parameters
    ----------
    scl
        Scene classes, (y, x).
    resolution
        Pixel size of `scl`, metres.
    rule
        Classes and distance. Pixels outside the array count as clear: add a margin of `rule.margin(resolution)`.
    missing
        With "zero", unknown classes are valid.

    Returns
    -------
    numpy.ndarray
        bool, (y, x).
    """
    unknown = range(MOST_CLASS + 1, 256) if missing == "stated" else ()
    valid: NDArray[np.bool_] = _table((*rule.drop, *unknown))[scl]
    near = _table(rule.dilate)[scl]  # False on classes that spread
    if rule.margin(resolution) and not near.all():
        from scipy.ndimage import distance_transform_edt

        valid &= distance_transform_edt(near) > rule.dilate_m / resolution + 1e-9
    if rule.dilate:
        valid &= near
    return valid


def _table(classes: tuple[int, ...]) -> NDArray[np.bool_]:
    """Look-up table over uint8: False for the given classes."""
    table = np.ones(256, bool)
    table[list(classes)] = False
    return table
