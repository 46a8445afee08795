"""Counts over periods -> slopes and changes with what can be said of their significance.

In: the rows of counts. Out: one row per unit and object. The statistics are scipy's; what is decided here is which
numbers may be compared, and with how many periods nothing can be said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.errors import InputError

TREND_COLUMNS: dict[str, str] = {
    "unit_id": "string",
    "unit_name": "string",
    "parent_id": "string",
    "object": "string",
    "measure": "string",
    "n_periods": "Int64",
    "first_period": "string",
    "last_period": "string",
    "first_total": "float64",
    "last_total": "float64",
    "change": "float64",
    "change_percent": "float64",
    "slope_per_year": "float64",
    "slope_low": "float64",
    "slope_high": "float64",
    "slope_level": "float64",
    "tau": "float64",
    "p_value": "float64",
    "p_method": "string",
    "note": "string",
    "evidence": "string",
    "boundary_version": "string",
    "model_id": "string",
    "run_id": "string",
}
"""Columns of trend.csv and trend.parquet, in order, and their pandas types."""

_EVIDENCE = ["evidence", "boundary_version", "model_id", "run_id"]


@dataclass(frozen=True)
class Slope:
    """A monotonic trend of one series."""

    per_year: float
    """Theil-Sen slope."""
    low: float
    high: float
    """Ends of its interval; NaN below three values."""
    level: float
    """Confidence of the interval: 0.95, or the highest that so few values allow."""
    tau: float
    """Kendall's tau."""
    p_value: float
    """Of the two-sided Mann-Kendall test."""
    p_method: str
    """`exact`, or `asymptotic` where values are equal."""


def theil_sen(years: NDArray[np.floating], values: NDArray[np.floating], *, level: float = 0.95) -> Slope:
    """Theil-Sen slope with its interval, and the Mann-Kendall test.

    Parameters
    ----------
    years
        (n,) decimal years, n >= 2.
    values
        (n,) finite.
    level
        Confidence wanted. The interval rests on the Mann-Kendall test, so n values allow no more than `1 - 2 / n!`.

    Returns
    -------
    Slope

    References
    ----------
    Sen 1968, doi:10.1080/01621459.1968.10480934; Kendall 1975, Rank Correlation Methods.
    """
    from scipy.stats import kendalltau, theilslopes

    n = len(values)
    reached = min(level, 1 - smallest_p(n))
    if np.all(values == values[0]):
        return Slope(0.0, 0.0 if n > 2 else math.nan, 0.0 if n > 2 else math.nan, reached, 0.0, 1.0, "exact")
    method = "exact" if np.unique(values).size == n else "asymptotic"
    test = kendalltau(years, values, method=method)
    slope, _, low, high = theilslopes(values, years, alpha=max(reached, 0.5))
    if n < 3:
        low = high = math.nan
    return Slope(float(slope), float(low), float(high), reached, float(test[0]), float(test[1]), method)


def smallest_p(n: int) -> float:
    """Smallest p that a two-sided Mann-Kendall test of n different values can reach: 2 / n!."""
    return min(1.0, 2 / math.factorial(n)) if n >= 2 else 1.0


def trend(counts: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Slope and change of every unit and object over the periods.

    Parameters
    ----------
    counts
        Rows as `count_by_unit` returns them. `map_total_full` is followed, over the periods where it is known.
    level
        Confidence of the slope's interval.

    Returns
    -------
    pandas.DataFrame
        `TREND_COLUMNS`, a row per unit and object in the order of `counts`; `note` says what cannot be said.
    """
    needed = {"unit_id", "object", "measure", "period", "period_start", "period_end", "map_total_full"}
    if missing := sorted(needed - set(counts.columns)):
        raise InputError(f"the counts lack the columns {', '.join(missing)}; give the rows of count_by_unit")
    rows = [
        _one(group.sort_values("period_start", kind="stable"), level)
        for _, group in counts.groupby(["unit_id", "object"], sort=False)
    ]
    return pd.DataFrame(rows, columns=list(TREND_COLUMNS)).astype(TREND_COLUMNS)


def _one(group: pd.DataFrame, level: float) -> dict[str, Any]:
    known = group[group["map_total_full"].notna()]
    first = group.iloc[0]
    row: dict[str, Any] = {name: first.get(name) for name in ("unit_id", "unit_name", "parent_id", "object", "measure")}
    row |= {name: first.get(name) for name in _EVIDENCE}
    row["n_periods"] = n = len(known)
    if first["measure"] != "count":
        return row | {"note": f"a measure of {first['measure']} has no trend"}
    if n < 2:
        return row | {"note": f"observed in {n} of {len(group)} periods: no trend"}
    years = np.array([_middle(*span) for span in zip(known["period_start"], known["period_end"], strict=True)])
    totals = known["map_total_full"].to_numpy(float)
    slope = theil_sen(years, totals, level=level)
    change = totals[-1] - totals[0]
    return row | {
        "first_period": known["period"].iloc[0],
        "last_period": known["period"].iloc[-1],
        "first_total": totals[0],
        "last_total": totals[-1],
        "change": change,
        "change_percent": 100 * change / totals[0] if totals[0] > 0 else math.nan,
        "slope_per_year": slope.per_year,
        "slope_low": slope.low,
        "slope_high": slope.high,
        "slope_level": slope.level if n > 2 else math.nan,
        "tau": slope.tau,
        "p_value": slope.p_value,
        "p_method": slope.p_method,
        "note": _note(n, len(group), 1 - level),
    }


def _note(n: int, periods: int, alpha: float) -> str | None:
    notes = []
    if n < periods:
        notes.append(f"observed in {n} of {periods} periods")
    if smallest_p(n) > alpha:
        notes.append(
            f"{n} periods cannot show a significant trend (smallest possible p: {smallest_p(n):.2g}; 5 are needed)"
        )
    return "; ".join(notes) or None


def _middle(start: str, end: str) -> float:
    """Decimal year of the middle of a period."""
    first, last = date.fromisoformat(str(start)[:10]), date.fromisoformat(str(end)[:10])
    middle = (first.toordinal() + last.toordinal() + 1) / 2
    year = date.fromordinal(int(middle)).year
    begin, after = date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal()
    return year + (middle - begin) / (after - begin)
