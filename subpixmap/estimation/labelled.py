"""Selects the labelled cells of one object and period, with the frame they represent.

In: the drawn cells, their labels, the counts of the map. Out: arrays for the estimators, for all units at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.estimation.estimators import Domains, Total, estimate_total
from subpixmap.estimation.layout import Array, Layout, merged_segments
from subpixmap.estimation.sheets import DrawnSample
from subpixmap.estimation.strata import ZERO
from subpixmap.estimation.unseen import unseen_objects
from subpixmap.tables import REGION

FILLED = 0.8
"""Share of the cells of each stratum that must be labelled."""


@dataclass(frozen=True)
class LabelledCells:
    """The labelled cells of one object and period (or of a change), and the frame they represent."""

    cells: pd.DataFrame
    """Rows of the sample with a count, ordered by segment: `n_objects`, `mapped`, `units`."""
    layout: Layout
    units: NDArray[np.object_]
    """(unit,) ids; the first is REGION."""
    domains: Domains
    zero: NDArray[np.bool_]
    """(stratum,) whether the map predicts nothing there."""
    zero_cells: Array
    """(unit,) cells of the frame in such strata."""

    @property
    def labelled(self) -> NDArray[np.int64]:
        """(unit,) labelled cells."""
        return np.asarray(self.domains.member.sum(axis=-1))

    @property
    def labelled_zero(self) -> NDArray[np.int64]:
        """(unit,) labelled cells where the map predicts nothing."""
        return np.asarray((self.domains.member & self.zero[self.layout.stratum]).sum(axis=-1))

    @property
    def least(self) -> Array:
        """(unit,) labelled objects: the total cannot be smaller."""
        return np.asarray((self.domains.member * self.cells["n_objects"].to_numpy(float)).sum(axis=-1))

    def total(self, estimator: str) -> Total:
        """Estimated total of every unit."""
        y, m = (self.cells[name].to_numpy(float) for name in ("n_objects", "mapped"))
        return estimate_total(estimator, y, m, self.layout, self.domains)

    def unseen(self, total: Total, most: float) -> Array:
        """(unit,) objects that the sample may have missed completely."""
        y = self.cells["n_objects"].to_numpy(float)
        return unseen_objects(y, total.value, self.layout, self.domains, self.zero, region=total.value[0], most=most)


def labelled_cells(
    sample: DrawnSample, labelled: pd.DataFrame, counts: pd.DataFrame, name: str, periods: Sequence[str]
) -> list[LabelledCells]:
    """Labelled cells of an object in some periods; only cells labelled in all of them.

    Raises
    ------
    InputError
        A stratum has too few labelled cells, or the counts have other units.
    """
    own = labelled[(labelled["object"] == name) & labelled["period"].isin(periods)]
    frames = own.groupby("cell_id").size()
    kept = set(frames.index[frames == len(periods)])
    return [_one(sample, own, counts, name, period, kept) for period in periods]


def _one(
    sample: DrawnSample, own: pd.DataFrame, counts: pd.DataFrame, name: str, period: str, kept: set[str]
) -> LabelledCells:
    drawn = sample.cells[(sample.cells["object"] == name) & (sample.cells["period"] == period)]
    cells = drawn.merge(own.loc[own["period"] == period, ["cell_id", "n_objects"]], on="cell_id", how="left")
    cells = cells[cells["cell_id"].isin(kept)].sort_values("segment", kind="stable", ignore_index=True)
    layout = _layout(sample, drawn, cells, f"{name}, {period}")
    frame = sample.frame[(sample.frame["object"] == name) & (sample.frame["period"] == period)]
    units = np.array([REGION, *(one for one in dict.fromkeys(frame["unit_id"]) if one != REGION)], object)
    at = {unit: i for i, unit in enumerate(units)}
    unit, stratum = frame["unit_id"].map(at).to_numpy(np.int64), frame["stratum"].to_numpy(np.int64)
    size, on_map, counted = (np.zeros((len(units), layout.n_strata)) for _ in range(3))
    for sums, column in ((size, "cells"), (on_map, "mapped"), (counted, "counted")):
        sums[unit, stratum] = frame[column].to_numpy(float)
    map_cells = on_map[:, layout.mapped].sum(axis=1)
    # Parts of the exact total outside the cells: cells cut by borders, and land left out of the frame.
    map_total = map_cells + _map_totals(counts, name, period, units) - counted.sum(axis=1)
    held = [{REGION, *json.loads(text)} for text in cells["units"]]
    member = np.array([[unit in ids for ids in held] for unit in units], bool).reshape(len(units), len(cells))
    zero = np.array([one["stratum"] in ZERO for one in sample.record["strata"]])
    domains = Domains(member, size, map_total, map_cells)
    return LabelledCells(cells, layout, units, domains, zero, size[:, zero].sum(axis=1))


def _layout(sample: DrawnSample, drawn: pd.DataFrame, cells: pd.DataFrame, what: str) -> Layout:
    """How the labelled cells were drawn; segments with too few labels are joined to their neighbours."""
    strata = sample.record["strata"]
    count = np.bincount(cells["stratum"], minlength=len(strata))
    want = np.bincount(drawn["stratum"], minlength=len(strata))
    for one, stratum in enumerate(strata):
        where = f"stratum {one} ({stratum['stratum']}{', ' + stratum['unit_id'] if stratum['unit_id'] else ''})"
        if count[one] < FILLED * want[one]:
            raise InputError(
                f"{what}: {where} has {count[one]} of {want[one]} cells labelled; estimates need {FILLED:.0%} of "
                "each stratum: label more cells"
            )
    segments = drawn.drop_duplicates("segment").sort_values("segment")
    number = segments["segment"].to_numpy(np.int64)
    stratum_of, size = segments["stratum"].to_numpy(), segments["segment_cells"].to_numpy()
    filled = np.bincount(cells["segment"], minlength=number.max() + 1)[number]
    new = merged_segments(stratum_of, filled)
    place = dict(zip(number.tolist(), new.tolist(), strict=True))
    joined = np.bincount(new, size).astype(np.int64)
    first = np.searchsorted(new, np.arange(len(joined)))
    mapped = np.array([bool(one["mapped"]) for one in strata])
    return Layout(cells["segment"].map(place).to_numpy(np.int64), joined, stratum_of[first], mapped)


def _map_totals(counts: pd.DataFrame, name: str, period: str, units: NDArray[np.object_]) -> Array:
    """(unit,) exact map totals, 0 without observations; REGION is the sum of the topmost units."""
    own = counts[(counts["object"] == name) & (counts["period"] == period)].set_index("unit_id")
    ids = set(own.index)
    top = ~own["parent_id"].isin(ids - {REGION}) & (own.index != REGION)
    totals = own["map_total"].astype(float).fillna(0.0)
    if lost := [one for one in units if one != REGION and one not in ids]:
        raise InputError(
            f"the counts lack unit {lost[0]} of the sample; count with the units of its design"
            ", or run `subpixmap sample design` again"
        )
    return np.array([totals[top].sum() if one == REGION else totals[one] for one in units], float)
