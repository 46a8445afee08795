"""Estimates every unit, object and period from labelled cells and map totals, and chooses the published estimate.

In: the sample, its labels, the counts of the map. Out: the long table `tables.ESTIMATES`. The published estimator
depends only on numbers of cells, never on the results:

- the whole region, and units with 30 labelled cells or more: `regression` where 50 or more labelled cells lie on the
  observed map, else `difference`;
- other units: `synthetic`, without an interval.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from subpixmap.errors import InputError
from subpixmap.estimation.estimators import ESTIMATORS, Spread, Total, spread_of
from subpixmap.estimation.intervals import MIN_CELLS, interval, why_none
from subpixmap.estimation.labelled import LabelledCells, labelled_cells
from subpixmap.estimation.layout import Array, Layout
from subpixmap.estimation.sheets import DrawnSample
from subpixmap.estimation.small_area import departure, raked, synthetic_error
from subpixmap.estimation.unseen import MOST
from subpixmap.tables import COUNTS, ESTIMATES, REGION, typed

MIN_REGRESSION = 50
"""Minimum number of labelled cells on the observed map to fit the slope; with fewer, the slope is 1."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules for publishing and suppressing estimates."""

    level: float = 0.95
    """Confidence of the intervals."""
    estimator: str | None = None
    """Estimator to publish; by the rule of this module when None."""
    min_cells: int = MIN_CELLS
    """Minimum number of labelled cells of a unit; with fewer, its estimate is synthetic, without an interval."""
    max_cv: float = 0.33
    """Largest coefficient of variation (se / estimate); larger ones are suppressed."""
    rake: bool = False
    """Scale units so that they sum to their parent."""
    unseen: float = MOST
    """Largest share of objects that map and sample may both miss; widens the upper ends of intervals."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.level < 1:
            raise InputError(f"--level {self.level:g}: give a confidence level between 0.5 and 1, such as 0.95")
        if self.estimator is not None and self.estimator not in ESTIMATORS:
            raise InputError(f"--estimator {self.estimator!r} is unknown; there are {', '.join(ESTIMATORS)}")
        if self.min_cells < 10:
            raise InputError(f"--min-cells {self.min_cells}: give 10 or more")
        if not self.max_cv > 0:
            raise InputError(f"--max-cv {self.max_cv:g}: give a positive share, such as 0.33")
        if not 0 <= self.unseen < 0.5:
            raise InputError(f"--unseen {self.unseen:g}: give a share of all objects, from 0 to below 0.5")


def estimate_all(
    sample: DrawnSample,
    labelled: pd.DataFrame,
    counts: pd.DataFrame,
    *,
    rules: Rules = Rules(),
    changes: Sequence[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """Estimates of all units by all estimators.

    Parameters
    ----------
    sample, labelled
        The sample, and its labelled cells (`tables.LABELLED`).
    counts
        Rows of the map's counts (`tables.COUNTS`).
    rules
        Rules for publishing.
    changes
        Pairs of periods to estimate the change between; all consecutive labelled periods when None.

    Returns
    -------
    pandas.DataFrame
        `tables.ESTIMATES`.

    Raises
    ------
    InputError
        A stratum has too few labelled cells, or a requested change includes a period without labels.
    """
    there = labelled[["object", "period"]].drop_duplicates()
    order = list(dict.fromkeys(counts["period"]))
    parts: list[pd.DataFrame] = []
    for name in dict.fromkeys(counts["object"]):
        periods = [one for one in order if one in set(there.loc[there["object"] == name, "period"])]
        parts += [_totals(sample, labelled, counts, name, period, rules) for period in periods]
        pairs = list(itertools.pairwise(periods)) if changes is None else changes
        for first, last in pairs:
            if missing := [one for one in (first, last) if one not in periods]:
                raise InputError(
                    f"the change of {name} from {first} to {last}: the sample has no labels of {missing[0]}; label "
                    "this period too, or choose other periods"
                )
            parts.append(_change(sample, labelled, counts, name, (first, last), rules))
    if not parts:
        raise InputError("no labelled cell has an object and period of the counts")
    table = pd.concat(parts, ignore_index=True)
    names = counts.drop_duplicates("unit_id").set_index("unit_id")[["unit_name", "parent_id"]]
    table = table.join(names, on="unit_id")
    return typed(table, ESTIMATES)


# One object and period ------------------------------------------------------------------------------------------------


def _totals(
    sample: DrawnSample, labelled: pd.DataFrame, counts: pd.DataFrame, name: str, period: str, rules: Rules
) -> pd.DataFrame:
    """Rows of every unit and estimator."""
    one = labelled_cells(sample, labelled, counts, name, [period])[0]
    wanted = chosen_estimator(one.layout, rules)
    rows, found = [], {}
    for estimator in ESTIMATORS:
        total = one.total(estimator)
        spread = spread_of(total.influence, one.layout)
        found[estimator] = total, spread
        rows.append(
            _rows(
                one, estimator, total.value, spread, rules, least=one.least, unseen=one.unseen(total, rules.unseen)
            ).assign(slope=total.slope)
        )
    rows.insert(0, _map_rows(one))
    table = pd.concat(rows, ignore_index=True).assign(object=name, period=period, from_period=None, raked=False)
    synthetic = _synthetic(one, *found[wanted], wanted, rules).assign(object=name, period=period, from_period=None)
    table = pd.concat([table, synthetic], ignore_index=True)
    few = dict(zip(one.units, one.labelled < rules.min_cells, strict=True)) | {REGION: False}
    table["chosen"] = table["estimator"] == np.where(table["unit_id"].map(few), "synthetic", wanted)
    return _raked(table, counts) if rules.rake else table


def chosen_estimator(layout: Layout, rules: Rules) -> str:
    """The estimator that is published."""
    if rules.estimator is not None:
        return rules.estimator
    return "regression" if layout.on_map.sum() >= MIN_REGRESSION else "difference"


# Rows -----------------------------------------------------------------------------------------------------------------


def _rows(
    one: LabelledCells,
    estimator: str,
    value: Array,
    spread: Spread,
    rules: Rules,
    *,
    least: Array | float,
    unseen: Array | float,
) -> pd.DataFrame:
    """Rows of one estimator, with an interval where allowed."""
    low, high = interval(value, spread, level=rules.level, least=least, unseen=unseen)
    note = why_none(
        value,
        spread,
        unseen=unseen,
        labelled=one.labelled,
        labelled_zero=one.labelled_zero,
        cells=one.domains.cells.sum(axis=-1),
        zero_cells=one.zero_cells,
        min_cells=rules.min_cells,
    )
    printed = note == ""
    se = np.where(spread.variance > 0, np.sqrt(spread.variance), np.nan)
    cv = np.divide(se, np.abs(value), out=np.full(len(value), np.nan), where=np.abs(value) > 0)
    return pd.DataFrame(
        {
            "unit_id": one.units,
            "estimator": estimator,
            "estimate": np.where(one.labelled > 0, value, np.nan),
            "se": np.where(one.labelled > 1, se, np.nan),
            "cv": np.where(one.labelled > 1, cv, np.nan),
            "ci_low": np.where(printed, low, np.nan),
            "ci_high": np.where(printed, high, np.nan),
            "ci_level": np.where(printed, rules.level, np.nan),
            "df": spread.df,
            "slope": np.nan,
            "n_ref": one.labelled,
            "n_zero": one.labelled_zero,
            "suppressed": ~(cv <= rules.max_cv),
            "note": [text or None for text in note],
            "unseen": np.where(printed, unseen, np.nan),
        }
    )


def _map_rows(one: LabelledCells) -> pd.DataFrame:
    """Rows of the map alone, whose error is unknown."""
    blank = dict.fromkeys(("se", "cv", "ci_low", "ci_high", "ci_level", "df", "unseen"), np.nan)
    return pd.DataFrame(
        {
            "unit_id": one.units,
            "estimator": "map total",
            "estimate": one.domains.map_total,
            **blank,
            "slope": 1.0,
            "n_ref": one.labelled,
            "n_zero": one.labelled_zero,
            "suppressed": False,
            "note": "a map total is not an estimate",
        }
    )


def _synthetic(one: LabelledCells, total: Total, spread: Spread, wanted: str, rules: Rules) -> pd.DataFrame:
    """Rows of synthetic estimates: the whole sample applied to each unit."""
    value = total.predicted if wanted != "expansion" else (one.domains.cells * _means(one)).sum(axis=-1)
    shared = float(np.sqrt(spread.variance[0]) / max(abs(float(total.value[0])), 1e-9))
    between = departure(total.value[1:], spread.variance[1:], value[1:], one.labelled[1:])
    error = synthetic_error(value, shared, between)
    cv = error / np.maximum(np.abs(value), 1e-9)
    note = f"synthetic: the {wanted} of the whole sample, applied to the unit"
    if np.isnan(between):
        note += "; its error for this unit is unknown"
    rows = pd.DataFrame(
        {
            "unit_id": one.units,
            "estimator": "synthetic",
            "estimate": np.maximum(value, 0.0),
            "se": error,
            "cv": cv,
            **dict.fromkeys(("ci_low", "ci_high", "ci_level", "df", "unseen"), np.nan),
            "slope": total.slope,
            "n_ref": one.labelled,
            "n_zero": one.labelled_zero,
            "suppressed": ~(cv <= rules.max_cv),
            "raked": False,
            "note": note,
        }
    )
    return rows[rows["unit_id"] != REGION]


def _means(one: LabelledCells) -> Array:
    return one.layout.means(one.cells["n_objects"].to_numpy(float))


def _raked(table: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """Published estimates, scaled from the top down so that units sum to their parent."""
    parents = counts.drop_duplicates("unit_id").set_index("unit_id")["parent_id"]
    own = table[table["chosen"]].drop_duplicates("unit_id")
    ids = own["unit_id"].tolist()
    place = {one: i for i, one in enumerate(ids)}
    top = place.get(REGION, -1)
    parent = np.array([-1 if one == REGION else place.get(parents.get(one), top) for one in ids])
    values = own["estimate"].to_numpy(float).copy()
    whole = np.ones(len(ids))
    for _ in range(len(ids)):  # once a level
        factor = raked(values, parent, values)
        if np.allclose(factor, 1, rtol=1e-12):
            break
        values, whole = values * factor, whole * factor
    scale = table["unit_id"].map(dict(zip(ids, whole, strict=True))).where(table["chosen"], 1.0).fillna(1.0)
    for name in ("estimate", "se", "ci_low", "ci_high"):
        table[name] = table[name] * scale
    table["raked"] = (scale - 1).abs() > 1e-12
    return table


# Change ---------------------------------------------------------------------------------------------------------------


def _change(
    sample: DrawnSample,
    labelled: pd.DataFrame,
    counts: pd.DataFrame,
    name: str,
    periods: tuple[str, str],
    rules: Rules,
) -> pd.DataFrame:
    """Rows of the change between two periods, from cells labelled in both, so that common errors cancel.

    Objects unseen in both periods cancel as well, so nothing is added to the upper end.
    """
    first, last = labelled_cells(sample, labelled, counts, name, periods)
    wanted, rows = chosen_estimator(last.layout, rules), []
    for estimator in ESTIMATORS:
        before, after = first.total(estimator), last.total(estimator)
        spread = spread_of(after.influence - before.influence, last.layout)
        rows.append(_rows(last, estimator, after.value - before.value, spread, rules, least=-np.inf, unseen=0.0))
    table = pd.concat(rows, ignore_index=True)
    # A change may be zero, so its error is not compared with its size.
    total = last.total(wanted).value
    large = dict(zip(last.units, total, strict=True))
    table["suppressed"] = ~(table["se"] <= rules.max_cv * table["unit_id"].map(large).abs())
    enough = set(last.units[last.labelled >= rules.min_cells]) | {REGION}
    table["chosen"] = (table["estimator"] == wanted) & table["unit_id"].isin(enough)
    return table.assign(object=name, period=periods[1], from_period=periods[0], raked=False)


COLUMNS = ("estimate", "se", "cv", "ci_low", "ci_high", "ci_level", "estimator", "n_ref", "suppressed")
"""Columns of counts.csv filled by estimates."""
SYNTHETIC = "synthetic"
"""Value of `flag` of a row whose estimate is synthetic, from the whole sample."""


def fill_counts(counts: pd.DataFrame, table: pd.DataFrame | None) -> pd.DataFrame:
    """Counts with the columns of published estimates; blank in other rows, and in all rows without a table.

    A suppressed estimate keeps its cv, without the number and its interval.
    """
    filled = counts.copy()
    for name in COLUMNS:
        filled[name] = None
    filled["flag"] = [_without_flag(text) for text in filled["flag"]]
    if table is None:
        return typed(filled, COUNTS)
    keys = ["unit_id", "object", "period"]
    own = table[table["chosen"].fillna(False) & table["from_period"].isna()].set_index(keys)
    both = own.reindex(pd.MultiIndex.from_frame(filled[keys]))
    hidden = both["suppressed"].fillna(False).to_numpy(bool)
    for name in COLUMNS:
        secret = hidden & (name in ("estimate", "se", "ci_low", "ci_high", "ci_level"))
        filled[name] = [None if pd.isna(one) or hide else one for one, hide in zip(both[name], secret, strict=True)]
    carried = (both["estimator"] == SYNTHETIC).fillna(False).to_numpy(bool)
    filled["flag"] = [
        ";".join([*([text] if isinstance(text, str) and text else []), SYNTHETIC]) if here else text
        for text, here in zip(filled["flag"], carried, strict=True)
    ]
    return typed(filled, COUNTS)


def _without_flag(text: Any) -> str | None:
    if not isinstance(text, str):
        return None
    return ";".join(one for one in text.split(";") if one != SYNTHETIC) or None
