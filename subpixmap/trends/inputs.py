"""Describes the imagery of each period from the locked items, as evidence about steps that units share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import pandas as pd

from subpixmap.scenes.hrefs import host_of
from subpixmap.scenes.items import Item

COLUMNS = ("period", "baselines", "satellites", "catalogues", "offsets", "dark_reflectance")
_KINDS = {"baselines": "processing baseline", "satellites": "satellites", "catalogues": "catalogue"}
"""Columns whose change is a join, with their names in texts."""
_MIX = 0.25
"""Smallest change of an item share that counts as a changed mix."""
_DARK = 0.002
"""Smallest change of dark-ground reflectance that counts as changed."""


def inputs_by_period(items_by_period: Mapping[str, Sequence[Item]]) -> pd.DataFrame:
    """Properties of the items, a row per period.

    Returns
    -------
    pandas.DataFrame
        `period`; `baselines`, `satellites`, `catalogues` and `offsets`: {value: share of the items};
        `dark_reflectance`: median over the items whose dark ground was measured, NaN without any.
    """
    rows = []
    for period, items in items_by_period.items():
        dark = [item.dark_reflectance for item in items if item.dark_reflectance is not None]
        rows.append(
            {
                "period": period,
                "baselines": _shares(_generation(item.baseline) for item in items),
                "satellites": _shares(item.acquisition[1:4] for item in items),
                "catalogues": _shares(_host(item) for item in items),
                "offsets": _shares(str(item.offset_dn) for item in items),
                "dark_reflectance": median(dark) if dark else float("nan"),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class InputChange:
    """Changes of the imagery between two periods, in words."""

    joins: tuple[str, ...] = ()
    """Another processing baseline, other satellites or another catalogue: totals before and after may not be
    comparable."""
    changed: tuple[str, ...] = ()
    """What else is different."""
    unchanged: tuple[str, ...] = ()


def changed_inputs(inputs: pd.DataFrame, before: str, after: str) -> InputChange | None:
    """Changes between two periods; None if the imagery of one of them is unknown."""
    by_period = inputs.set_index("period")
    if not {before, after} <= set(by_period.index):
        return None
    first, second = by_period.loc[before].to_dict(), by_period.loc[after].to_dict()
    joins, changed, same = [], [], []
    for column, name in _KINDS.items():
        if _moved(first[column], second[column]) > _MIX:
            joins.append(f"{name} {_mix(first[column])} -> {_mix(second[column])}")
        else:
            same.append(name)
    step = second["dark_reflectance"] - first["dark_reflectance"]
    if step == step:  # known in both
        if abs(step) > _DARK:
            changed.append(f"dark pixels {step:+.4f}")
        else:
            same.append("dark pixels")
    return InputChange(tuple(joins), tuple(changed), tuple(same))


def _shares(values: Iterable[str]) -> dict[str, float]:
    counted = Counter(values)
    total = sum(counted.values())
    return {value: n / total for value, n in sorted(counted.items())}


def _generation(baseline: str) -> str:
    """Generation of baselines: from 04.00 on with an offset and another radiometry; within one they differ little."""
    if not baseline:
        return "unknown"
    return "before 04.00" if baseline < "04.00" else "04.00 or later"


def _host(item: Item) -> str:
    href = next(iter(item.assets.values())).href
    return host_of(href) or "local files"


def _moved(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Share of items of another kind (total variation distance)."""
    return sum(abs(first.get(key, 0) - second.get(key, 0)) for key in {*first, *second}) / 2


def _mix(shares: Mapping[str, float]) -> str:
    return " + ".join(f"{name} ({share:.0%})" if share < 1 else name for name, share in shares.items()) or "none"
