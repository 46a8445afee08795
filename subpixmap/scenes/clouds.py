"""From scene classes to valid pixels: which classes are not valid, and how far their neighbourhood reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.scenes.radiometry import Missing

MaskBy = Literal["scl", "learned", "both"]
"""Sources of the mask: the scene classes of the product, a cloud network (`model.clouds`), or both (valid in both)."""
MASKS: tuple[MaskBy, ...] = get_args(MaskBy)
MOST_CLASS = 11
"""Largest scene class; pixels with a larger number have an unknown meaning and are not valid."""
DROPPED_CLASSES = (0, 1, 3, 8, 9, 10, 11)
"""Scene classes that are not valid: no data, saturated, shadow, cloud, cirrus and snow. Water (6) is valid."""
DILATED_CLASSES = (3, 8, 9)
"""Scene classes whose neighbourhood is not valid either: shadow and cloud."""
DILATION_M = 100.0
"""Pixels within this distance (between pixel centres) of such a pixel are not valid, metres."""


@dataclass(frozen=True)
class MaskRule:
    """Scene classes (SCL of the L2A product) -> valid pixels."""

    drop: tuple[int, ...] = DROPPED_CLASSES
    """Classes that are not valid."""
    dilate: tuple[int, ...] = DILATED_CLASSES
    """Classes whose neighbourhood is not valid either."""
    dilate_m: float = DILATION_M
    """Size of that neighbourhood, between pixel centres, metres."""
    by: MaskBy = "scl"
    """Source of the mask; older cards and run folders without this field mean "scl"."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dilate_m) and self.dilate_m >= 0):
            raise InputError(f"the mask's distance is {self.dilate_m} m; it must be zero or more")
        if self.by not in MASKS:
            raise InputError(f"the mask is by {self.by!r}; choose {', '.join(MASKS)}")
        for code in (*self.drop, *self.dilate):
            if not 0 <= code <= 255:
                raise InputError(f"the mask names scene class {code}; classes are 0 to 255")

    def as_json(self) -> dict[str, Any]:
        """The fields as stored in cards and recipes; `stated` reads them."""
        plain = {"drop": list(self.drop), "dilate": list(self.dilate), "dilate_m": self.dilate_m}
        return plain if self.by == "scl" else plain | {"by": self.by}  # so that older cards and folders keep their hash

    @classmethod
    def stated(cls, stated: Mapping[str, Any], objects: Sequence[str] = ()) -> MaskRule:
        """Read a rule from JSON, such as the `mask` of a model's card.

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
                f"the model has different cloud masks for {groups}: map each one in a run of its own, with --object "
                "and --out"
            )
        return next(iter(rules))

    def margin(self, resolution: float) -> int:
        """Margin around a window that can change its mask, pixels."""
        return int(self.dilate_m / resolution + 1e-9) if self.dilate else 0


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
