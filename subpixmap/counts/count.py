"""A map and units -> counts, with all that a report tells about them: the verbs of this package."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.counts import accounts
from subpixmap.counts.cells import EXTRA
from subpixmap.counts.rows import Facts, unit_rows
from subpixmap.counts.sums import MapBlock, Sums
from subpixmap.counts.units import prepare_units
from subpixmap.counts.walk import sum_blocks

if TYPE_CHECKING:
    import geopandas as gpd
    from distributed import Client


@dataclass(frozen=True)
class Counted:
    """The counts of a map."""

    table: gpd.GeoDataFrame
    """The rows, with the units' polygons (EPSG:4326) as geometry."""
    series: pd.DataFrame
    """`SERIES_COLUMNS`: what may be compared over the periods, and how sure each period is."""
    outside: pd.DataFrame
    """What the region holds outside all units: `object, period, map_total, near_total, area_ha, near_ha, observed_ha,
    observed_frac`; near is within 1 km of a unit (a coarse coastline). With `assign_nearest`, near is in the units.
    What is mapped beyond the region, because whole chunks are, is in no number."""
    balance: pd.DataFrame
    """`object, period, map, units, outside, counted_twice`: objects; `map` is summed over the region with the units,
    without looking at any unit. Of several levels only the topmost is in `units`;
    `counted_twice` = units + outside - map is what overlapping units share."""
    parents: pd.DataFrame
    """`parent_id, object, period, parent_total, children_total, difference, parent_ha, children_ha`: for each parent
    that is itself a unit. A positive difference lies in no child."""
    background: pd.DataFrame
    """`object, period, density_per_ha, area_ha`: what the map counts where the object was never present; it should be
    nothing, and a year in which it is more is an effect of that year."""
    overlap_ha: float
    """Mapped area that belongs to several topmost units, once for each unit too many."""
    remarks: tuple[str, ...] = ()
    """What a reader should know before the numbers are used, in plain words."""


def count_blocks(
    blocks: Iterable[MapBlock],
    units: gpd.GeoDataFrame,
    facts: Facts,
    *,
    size: int,
    region: BaseGeometry | None = None,
    assign_nearest: bool = False,
    client: Client | None = None,
) -> Counted:
    """Totals per unit, object and period from blocks of a map.

    Parameters
    ----------
    blocks
        Blocks of `size` pixels, in the order in which they are to be summed.
    units
        Polygons with a CRS and `unit_id`, `unit_name`, `parent_id`.
    facts
        What the rows say about the map.
    size
        Side of a block, pixels.
    region
        What is accounted for besides the units, EPSG:4326; all of the blocks' chunks without it.
    assign_nearest
        Count what lies in the region outside all units, within 1 km of one, in the nearest.
    client
        A Dask client whose workers see the map; in this process without one. The result does not depend on it.

    Returns
    -------
    Counted
    """
    ready = prepare_units(units)
    sums = sum_blocks(blocks, ready, facts, size=size, region=region, assign_nearest=assign_nearest, client=client)
    top = accounts.topmost(ready)
    table = unit_rows(ready, sums, facts)
    counted = Counted(
        table=table,
        series=accounts.series(ready, sums, facts),
        outside=accounts.outside(sums, facts),
        balance=accounts.balance(sums, facts, top),
        parents=accounts.parents(table),
        background=accounts.background(sums, facts),
        overlap_ha=_overlap(sums, top) * facts.px_ha,
    )
    return replace(counted, remarks=tuple(accounts.remarks(counted, assigned=assign_nearest)))


def _overlap(sums: Sums, top: NDArray[np.int64]) -> float:
    """Pixels that the topmost units and what is outside them have more than the region has."""
    near, far, everything = sums.mapped[-EXTRA:]
    return max(0.0, float(sums.mapped[top].sum() + near + far - everything))
