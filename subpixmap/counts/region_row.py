"""Adds the row of the region: the sum of the topmost units, with an error that includes their common acquisitions.

Units share acquisitions, and a bias of an acquisition affects all units: its deviations are added over units with their
signs before they are squared.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from subpixmap.counts.facts import Facts
from subpixmap.counts.rows import SEEN_PX, series_rows, unit_rows
from subpixmap.counts.sums import Sums
from subpixmap.counts.units import Units
from subpixmap.tables import REGION

if TYPE_CHECKING:
    import geopandas as gpd


def region_rows(
    units: Units, sums: Sums, facts: Facts, table: pd.DataFrame, series: pd.DataFrame
) -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    """The rows of counts and series for the sum of the topmost units, without a polygon.

    Parameters
    ----------
    units, sums, facts
        Of the count.
    table, series
        Rows of the units. Values scaled up to a unit's whole area are summed over these rows, so the region's row is
        their sum, without units that have no value.
    """
    top = units.topmost()
    name = pd.DataFrame({"unit_id": [REGION], "unit_name": ["all units"], "parent_id": [None]}, dtype=object)
    region = Units(name, np.array([shapely.Polygon()], dtype=object), ((),))
    whole = _sum_of(sums, top)
    rows, comparable = unit_rows(region, whole, facts), series_rows(region, whole, facts)
    ids = set(units.table["unit_id"].iloc[top])
    rows["map_total_full"] = _added(table, ids, "map_total_full", rows)
    comparable["common_total"] = _added(series, ids, "common_total", comparable)
    return rows, comparable


def _sum_of(sums: Sums, top: NDArray[np.int64]) -> Sums:
    """The sums of several units as one unit."""
    whole = replace(sums, noise=sums.noise)
    for field in fields(sums):
        if field.name in ("empty", "empty_total", "noise"):  # of the region already
            continue
        whole = replace(whole, **{field.name: getattr(sums, field.name)[top].sum(axis=0, keepdims=True)})
    # Scale up each unit's deviation to its area, as in its own row, before adding.
    area, informed = sums.area[top][:, None], sums.informed[top]
    with_noise = (informed > SEEN_PX) & (informed >= sums.observed[top] / 2)
    scale = np.zeros((len(sums.area), informed.shape[1]))
    scale[top] = np.divide(area, informed, out=np.zeros_like(informed), where=with_noise)
    covered = np.where(with_noise, area, 0).sum(axis=0, keepdims=True)
    return replace(whole, noise=sums.noise.summed(scale), informed=covered)


def _added(table: pd.DataFrame, ids: set[str], column: str, rows: pd.DataFrame) -> NDArray[np.float64]:
    """A column added over units, for the object and period of each of the rows; NaN where no unit has a value."""
    keys = ["object", "period"]
    sums = pd.DataFrame(table)[table["unit_id"].isin(ids)].groupby(keys, sort=False)[column].sum(min_count=1)
    return sums.reindex(pd.MultiIndex.from_frame(pd.DataFrame(rows)[keys])).to_numpy(float)
