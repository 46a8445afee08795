"""Sums -> what stands beside the published rows: comparable series, what lies outside, and whether all adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.cells import EXTRA
from subpixmap.counts.rows import SEEN_PX, Facts, ratio
from subpixmap.counts.sums import Sums
from subpixmap.counts.units import Units
from subpixmap.files import write_json
from subpixmap.tables import SERIES, typed

if TYPE_CHECKING:
    from subpixmap.counts.count import Counted

_WORTH = 0.001
"""Share below which a gap or an overlap is the width of a border, not worth a remark."""


def series(units: Units, sums: Sums, facts: Facts) -> pd.DataFrame:
    """What may be compared over the periods: densities on the pixels that every period observed."""
    n = len(units)
    variance, acquisitions = (a[:n] for a in sums.noise.variance(n + EXTRA, len(facts.periods), len(facts.objects)))
    area, common, observed = sums.area[:n, None, None], sums.common[:n, None, None], sums.observed[:n, :, None]
    informed = sums.informed[:n, :, None]
    seen = common > SEEN_PX
    total = ratio(sums.common_total[:n], np.where(seen, common, 0)) * area
    # Where only one acquisition saw a place its noise is not known; it is taken to be that of the rest, fully shared.
    noise = np.sqrt(variance) * ratio(area, np.where(informed >= observed / 2, informed, 0))
    shape = total.shape
    count = np.broadcast_to(acquisitions[:, :, None], shape)
    columns = {
        "unit_id": np.broadcast_to(units.table["unit_id"].to_numpy()[:, None, None], shape),
        "object": np.broadcast_to(np.array(list(facts.objects), object), shape),
        "period": np.broadcast_to(np.array([period.label for period in facts.periods], object)[:, None], shape),
        "common_frac": np.broadcast_to(np.minimum(ratio(common, area), 1), shape),
        "common_total": total,
        "noise_se": np.where(count >= 2, noise, np.nan),
        "n_noise_acquisitions": count,
        "background_per_ha": np.broadcast_to(ratio(sums.empty_total, sums.empty * facts.px_ha), shape),
    }
    rows = {name: np.swapaxes(values, 1, 2).ravel() for name, values in columns.items()}
    return typed(pd.DataFrame(rows), SERIES)


def outside(sums: Sums, facts: Facts) -> pd.DataFrame:
    """What the map holds in the region outside all units, and how much of it within 1 km of one."""
    near, both = slice(-EXTRA, 1 - EXTRA), slice(-EXTRA, 2 - EXTRA)
    area, near_area = (_known(sums.area[rows].sum()) for rows in (both, near))
    observed, near_observed = (_known(sums.observed[rows].sum(axis=0)) for rows in (both, near))
    return pd.DataFrame(
        [
            {
                "object": name,
                "period": period.label,
                "map_total": sums.total[both, p, o].sum() if observed[p] > 0 else np.nan,
                "near_total": sums.total[near, p, o].sum() if near_observed[p] > 0 else np.nan,
                "area_ha": area * facts.px_ha,
                "near_ha": near_area * facts.px_ha,
                "observed_ha": observed[p] * facts.px_ha,
                "observed_frac": min(observed[p] / area, 1.0) if area > 0 else np.nan,
            }
            for o, name in enumerate(facts.objects)
            for p, period in enumerate(facts.periods)
        ]
    )


def _known(pixels: NDArray) -> NDArray:
    """Pixels, without what is the rounding of a border."""
    return np.where(pixels > SEEN_PX, pixels, 0.0)


def topmost(units: Units) -> NDArray[np.int64]:
    """Positions of the units whose parent is not a unit itself."""
    ids = set(units.table["unit_id"])
    return np.flatnonzero([parent not in ids for parent in units.table["parent_id"]])


def balance(sums: Sums, facts: Facts, top: NDArray[np.int64]) -> pd.DataFrame:
    """Objects of the whole region, of the topmost units and outside them."""
    near, far, everything = sums.total[-EXTRA:]
    inside = sums.total[top].sum(axis=0)
    outside = np.where((sums.observed[-EXTRA : 2 - EXTRA].sum(axis=0) > SEEN_PX)[:, None], near + far, 0.0)
    return pd.DataFrame(
        [
            {
                "object": name,
                "period": period.label,
                "map": everything[p, o],
                "units": inside[p, o],
                "outside": outside[p, o],
                "counted_twice": inside[p, o] + outside[p, o] - everything[p, o],
            }
            for o, name in enumerate(facts.objects)
            for p, period in enumerate(facts.periods)
        ]
    )


def parents(table: pd.DataFrame) -> pd.DataFrame:
    """Each parent that is a unit itself, against the sum of its children."""
    plain = pd.DataFrame(table)[["unit_id", "parent_id", "object", "period", "map_total", "area_ha"]]
    keys = ["parent_id", "object", "period"]
    sums = plain.groupby(keys, sort=False, dropna=True)[["map_total", "area_ha"]].sum(min_count=1)
    children = sums.rename(columns={"map_total": "children_total", "area_ha": "children_ha"}).reset_index()
    own = plain.drop(columns="parent_id").rename(columns={"unit_id": "parent_id", "map_total": "parent_total"})
    both = own.rename(columns={"area_ha": "parent_ha"}).merge(children, on=keys)
    both["difference"] = both["parent_total"] - both["children_total"].fillna(0)
    order = [*keys, "parent_total", "children_total", "difference", "parent_ha", "children_ha"]
    return both[order].reset_index(drop=True)


def background(sums: Sums, facts: Facts) -> pd.DataFrame:
    """What the map counts where, by its own presence, there is nothing in any period."""
    return pd.DataFrame(
        [
            {
                "object": name,
                "period": period.label,
                "density_per_ha": sums.empty_total[p, o] / (sums.empty[o] * facts.px_ha) if sums.empty[o] else np.nan,
                "area_ha": sums.empty[o] * facts.px_ha,
            }
            for o, name in enumerate(facts.objects)
            for p, period in enumerate(facts.periods)
        ]
    )


def remarks(counted: Counted, *, assigned: bool = False) -> list[str]:
    """What a reader should know of units and coverage, in plain words.

    Parameters
    ----------
    counted
        The counts of a map.
    assigned
        What lies outside within 1 km of a unit was counted in the nearest.
    """
    found = []
    last = counted.outside["period"].iloc[-1]
    for row in counted.outside[counted.outside["period"] == last].itertuples():
        units = counted.balance.query("object == @row.object and period == @row.period")["units"].sum()
        if assigned or not row.near_total >= max(0.5, _WORTH * abs(units)):
            continue
        found.append(
            f"{row.object}, {row.period}: {row.near_total:,.0f} counted outside all units but within 1 km of one "
            f"({row.near_total / units:.1%} of what is in units); --assign-nearest counts them in the nearest unit"
            if units > 0
            else f"{row.object}, {row.period}: {row.near_total:,.0f} counted outside all units but within 1 km of one"
        )
    if counted.overlap_ha > _WORTH * counted.table["area_ha"].max():
        found.append(f"{counted.overlap_ha:,.0f} ha belong to several units and are counted in each of them")
    return found + _uncovered(counted.parents, counted.table)


def _uncovered(levels: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Parents that their children do not cover, the largest gap first."""
    once = levels.drop_duplicates("parent_id")
    gap = once["parent_ha"] - once["children_ha"]
    lacking = once.assign(gap=gap)[gap > _WORTH * once["parent_ha"]].sort_values("gap", ascending=False)
    names = dict(zip(table["unit_id"], table["unit_name"].fillna(table["unit_id"]), strict=True))
    if not len(lacking):
        return []
    told = ", ".join(
        f"{names[parent]} ({children / whole:.1%} of {whole:,.0f} ha)"
        for parent, children, whole in lacking[["parent_id", "children_ha", "parent_ha"]].head(3).to_numpy()
    )
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return [
        f"the units of the lower level do not cover {len(lacking)} of {len(once)} parents: {told}{more}; what they "
        "lack is in the parents' rows only"
    ]


def write_accounts(path: Path, counted: Counted) -> Path:
    """Write what lies outside the units and whether all adds up, as JSON: the tables of `Counted` beside its rows."""
    tables: dict[str, Any] = {
        name: _null_for_nan(getattr(counted, name)).to_dict("split", index=False)
        for name in ("outside", "balance", "parents", "background")
    }
    write_json(path, {**tables, "overlap_ha": counted.overlap_ha, "remarks": list(counted.remarks)})
    return path


def read_accounts(path: Path) -> dict[str, Any]:
    """The tables of `write_accounts`, with `overlap_ha` and `remarks`; empty where there is no such file."""
    if not path.is_file():
        return {}
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: pd.DataFrame(value["data"], columns=value["columns"]) if isinstance(value, dict) else value
        for name, value in raw.items()
    }


def _null_for_nan(table: pd.DataFrame) -> pd.DataFrame:
    """JSON has no NaN."""
    return table.astype(object).where(table.notna(), None)  # type: ignore[call-overload]
