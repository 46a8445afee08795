"""Checks that a count adds up: counts outside the units, units against the region, children against parents.

In: the sums and rows of a count. Out: `Accounts`, and the file accounts.json. No number of a unit depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.cover import EXTRA
from subpixmap.counts.facts import Facts
from subpixmap.counts.rows import SEEN_PX
from subpixmap.counts.sums import Sums
from subpixmap.counts.units import Units
from subpixmap.counts.unlike import unlike_remarks
from subpixmap.files import make_folder, write_json
from subpixmap.tables import damage_is_told

_WORTH = 0.001
"""Share below which a gap or an overlap is rounding along a border and not reported."""
_NEAR, _FAR, _ALL = (slice(i - EXTRA, i - EXTRA + 1 or None) for i in range(EXTRA))
_OUTSIDE = slice(-EXTRA, 2 - EXTRA)


@dataclass(frozen=True)
class Accounts:
    """Checks that a count adds up."""

    outside: pd.DataFrame
    """Counts of the region outside all units: `object, period, map_total, near_total, area_ha, near_ha, observed_ha,
    observed_frac`; near is within 1 km of a unit (a coarse coastline). With `assign_nearest`, near is counted in the
    units. Pixels mapped beyond the region (whole cells are mapped) are never counted."""
    balance: pd.DataFrame
    """`object, period, map, units, outside, counted_twice`: objects; `map` is the sum over the region and the units,
    computed without using unit borders. `units` has only the topmost level; `counted_twice` = units + outside - map is
    the count in overlaps of units."""
    parents: pd.DataFrame
    """`parent_id, object, period, parent_total, children_total, difference, parent_ha, children_ha`: for each parent
    that is itself a unit. A positive difference is counted in no child."""
    background: pd.DataFrame
    """`object, period, density_per_ha, area_ha`: the count where the object was never present; it should be zero, so
    its changes between years are year effects."""
    overlap_ha: float
    """Mapped area in overlaps of topmost units, once per extra unit."""
    remarks: tuple[str, ...] = ()
    """Notes for readers of the numbers, in plain words."""


_TABLES = ("outside", "balance", "parents", "background")


def make_accounts(units: Units, sums: Sums, table: pd.DataFrame, facts: Facts) -> Accounts:
    """The accounts of a count; `table` is its rows."""
    top = units.topmost()
    outside, balance, parents = _outside(sums, facts), _balance(sums, facts, top), _parents(table)
    overlap_ha = _overlap(sums, top) * facts.px_ha
    remarks = [] if facts.assign_nearest else _near_remarks(outside, balance)
    if overlap_ha > _WORTH * table["area_ha"].max():
        remarks.append(f"{overlap_ha:,.0f} ha belong to more than one unit and are counted in each of them")
    remarks += [*_uncovered_remarks(parents, table), *unlike_remarks(table)]
    return Accounts(outside, balance, parents, _background(sums, facts), overlap_ha, tuple(remarks))


def write_accounts(path: Path, accounts: Accounts) -> Path:
    """Write accounts as JSON; unknown values are null."""
    tables: dict[str, Any] = {}
    for name in _TABLES:
        table = getattr(accounts, name)
        tables[name] = table.astype(object).where(table.notna(), None).to_dict("split", index=False)
    make_folder(path.parent)
    write_json(path, {**tables, "overlap_ha": accounts.overlap_ha, "remarks": list(accounts.remarks)})
    return path


def read_accounts(path: Path) -> dict[str, Any]:
    """The tables of `write_accounts`, with `overlap_ha` and `remarks`; empty where there is no such file."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    with damage_is_told(path, "write it again (subpixmap count)"):
        raw: dict[str, Any] = json.loads(data)
        if not {*_TABLES, "overlap_ha", "remarks"} <= raw.keys():
            raise ValueError("it lacks tables")
        if not all(isinstance(remark, str) for remark in raw["remarks"]):
            raise ValueError("its remarks are not texts")
        return {
            name: _table(name, value) if isinstance(value, dict) or name in _TABLES else value
            for name, value in raw.items()
        }


def _table(name: str, value: dict[str, Any]) -> pd.DataFrame:
    columns = value["columns"]
    if columns and not {"object", "period"} <= set(columns):  # a table of no rows has none
        raise ValueError(f"its table {name} has no columns object and period")
    return pd.DataFrame(value["data"], columns=columns)


def _objects_and_periods(facts: Facts) -> Iterator[tuple[int, int, dict[str, str]]]:
    """Positions in the sums, and the first columns of a row."""
    for o, name in enumerate(facts.objects):
        for p, period in enumerate(facts.periods):
            yield o, p, {"object": name, "period": period.label}


def _outside(sums: Sums, facts: Facts) -> pd.DataFrame:
    """Counts of the region outside all units, and their part within 1 km of a unit."""
    area, near_area = (_without_rounding(sums.area[rows].sum()) for rows in (_OUTSIDE, _NEAR))
    observed, near_observed = (_without_rounding(sums.observed[rows].sum(axis=0)) for rows in (_OUTSIDE, _NEAR))
    return pd.DataFrame(
        [
            names
            | {
                "map_total": sums.total[_OUTSIDE, p, o].sum() if observed[p] > 0 else np.nan,
                "near_total": sums.total[_NEAR, p, o].sum() if near_observed[p] > 0 else np.nan,
                "area_ha": area * facts.px_ha,
                "near_ha": near_area * facts.px_ha,
                "observed_ha": observed[p] * facts.px_ha,
                "observed_frac": min(observed[p] / area, 1.0) if area > 0 else np.nan,
            }
            for o, p, names in _objects_and_periods(facts)
        ]
    )


def _without_rounding(pixels: Any) -> NDArray[np.float64]:
    """Pixels, with rounding errors of borders set to 0."""
    return np.where(pixels > SEEN_PX, pixels, 0.0)


def _balance(sums: Sums, facts: Facts, top: NDArray[np.int64]) -> pd.DataFrame:
    """Objects of the whole region, of the topmost units and outside them."""
    near, far, everything = sums.total[-EXTRA:]
    inside = sums.total[top].sum(axis=0)
    outside = np.where((sums.observed[_OUTSIDE].sum(axis=0) > SEEN_PX)[:, None], near + far, 0.0)
    return pd.DataFrame(
        [
            names
            | {
                "map": everything[p, o],
                "units": inside[p, o],
                "outside": outside[p, o],
                "counted_twice": inside[p, o] + outside[p, o] - everything[p, o],
            }
            for o, p, names in _objects_and_periods(facts)
        ]
    )


def _overlap(sums: Sums, top: NDArray[np.int64]) -> float:
    """Pixels in overlaps: topmost units plus outside, minus the region."""
    near, far, everything = sums.mapped[-EXTRA:]
    return max(0.0, float(sums.mapped[top].sum() + near + far - everything))


def _parents(table: pd.DataFrame) -> pd.DataFrame:
    """Each parent that is itself a unit, compared with the sum of its children."""
    plain = pd.DataFrame(table)[["unit_id", "parent_id", "object", "period", "map_total", "area_ha"]]
    keys = ["parent_id", "object", "period"]
    sums = plain.groupby(keys, sort=False, dropna=True)[["map_total", "area_ha"]].sum(min_count=1)
    children = sums.rename(columns={"map_total": "children_total", "area_ha": "children_ha"}).reset_index()
    own = plain.drop(columns="parent_id").rename(columns={"unit_id": "parent_id", "map_total": "parent_total"})
    both = own.rename(columns={"area_ha": "parent_ha"}).merge(children, on=keys)
    both["difference"] = both["parent_total"] - both["children_total"].fillna(0)
    order = [*keys, "parent_total", "children_total", "difference", "parent_ha", "children_ha"]
    return both[order].reset_index(drop=True)


def _background(sums: Sums, facts: Facts) -> pd.DataFrame:
    """Counts where the map shows no presence in any period."""
    return pd.DataFrame(
        [
            names
            | {
                "density_per_ha": sums.empty_total[p, o] / (sums.empty[o] * facts.px_ha) if sums.empty[o] else np.nan,
                "area_ha": sums.empty[o] * facts.px_ha,
            }
            for o, p, names in _objects_and_periods(facts)
        ]
    )


def _near_remarks(outside: pd.DataFrame, balance: pd.DataFrame) -> list[str]:
    """Objects outside all units but within 1 km of one, in the last period."""
    remarks = []
    for row in outside[outside["period"] == outside["period"].iloc[-1]].itertuples():
        units = balance.query("object == @row.object and period == @row.period")["units"].sum()
        if not row.near_total >= max(0.5, _WORTH * abs(units)):
            continue
        what = f"{row.object}, {row.period}: {row.near_total:,.0f} counted outside all units but within 1 km of a unit"
        if units > 0:
            what += (
                f" ({row.near_total / units:.1%} of the count in units); add --assign-nearest to count them in the "
                "nearest unit"
            )
        remarks.append(what)
    return remarks


def _uncovered_remarks(parents: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Parents not covered by their children, the largest gap first."""
    once = parents.drop_duplicates("parent_id")
    gap = once["parent_ha"] - once["children_ha"]
    gaps = once.assign(gap=gap)[gap > _WORTH * once["parent_ha"]].sort_values("gap", ascending=False)
    if not len(gaps):
        return []
    names = dict(zip(table["unit_id"], table["unit_name"].fillna(table["unit_id"]), strict=True))
    largest = ", ".join(
        f"{names[parent]} ({children / whole:.1%} of {whole:,.0f} ha)"
        for parent, children, whole in gaps[["parent_id", "children_ha", "parent_ha"]].head(3).to_numpy()
    )
    more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return [
        f"the lower-level units do not completely cover {len(gaps)} of {len(once)} parents: {largest}{more}; objects "
        "in the gaps are only in the rows of the parents"
    ]
