"""The section about estimates of one object: totals with intervals, changes, and advice.

In: the long table of estimates and the record of the sample. Out: rows and sentences in plain words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from subpixmap.report.formatting import shown
from subpixmap.tables import REGION


@dataclass(frozen=True)
class EstimatesSection:
    """The page section about the estimates of one object."""

    totals: list[dict[str, Any]]
    """A row per labelled period, over the region, with the map total beside it."""
    changes: list[dict[str, Any]]
    """A row per pair of periods."""
    n_synthetic: int
    """Units, in the last labelled period, whose estimate is carried over from the whole sample."""
    advice: list[str]
    """How many cells to label next, and what that would buy."""
    simulated: bool
    """The labels were simulated."""
    period: str
    """The last labelled period."""
    bands: dict[str, str]
    """Unit -> the class of its error in that period, on the map."""
    unseen: float | None
    """Of the upper end in that period: objects that may stand unseen where the map predicts nothing."""


def region_estimates(estimates: pd.DataFrame | None) -> pd.DataFrame:
    """Published totals of the region: object, period, estimate, ci_low, ci_high; empty without estimates."""
    columns = ["object", "period", "estimate", "ci_low", "ci_high"]
    if estimates is None:
        return pd.DataFrame(columns=columns)
    own = estimates[(estimates.unit_id == REGION) & estimates.chosen.fillna(False) & estimates.from_period.isna()]
    return pd.DataFrame(own[columns]).reset_index(drop=True)


def estimates_section(estimates: pd.DataFrame | None, sample: Mapping[str, Any], name: str) -> EstimatesSection | None:
    """The section of one object; None without estimates.

    Parameters
    ----------
    estimates
        `tables.ESTIMATES`.
    sample
        `design` and `labels`: the records of the design and of the import.
    name
        Of the object.
    """
    if estimates is None or not (estimates.object == name).any():
        return None
    own = estimates[estimates.object == name]
    chosen = own[own.chosen.fillna(False)]
    region = chosen[chosen.unit_id == REGION]
    mapped = own[(own.unit_id == REGION) & (own.estimator == "map total")].set_index("period").estimate
    totals = region[region.from_period.isna()]
    last = totals.period.iloc[-1]
    carried = chosen[(chosen.estimator == "synthetic") & (chosen.period == last)]
    return EstimatesSection(
        totals=[shown(row) | {"mapped": float(mapped[row["period"]])} for row in totals.to_dict("records")],
        changes=[shown(row) for row in region[region.from_period.notna()].to_dict("records")],
        n_synthetic=len(carried),
        advice=_advice(totals.iloc[-1], sample.get("design", {})),
        simulated=bool(sample.get("labels", {}).get("simulated")),
        period=str(last),
        bands={str(row["unit_id"]): _band(row) for row in map(shown, _of_units(chosen, last))},
        unseen=shown(totals.iloc[-1].to_dict())["unseen"] or None,
    )


ERROR_BANDS = {"e1": "up to 5 %", "e2": "5 to 10 %", "e3": "10 to 20 %", "e4": "above 20 %", "e0": "no interval"}
"""Class of a unit on the map -> standard error as a share of its estimate."""


def _of_units(chosen: pd.DataFrame, period: str) -> list[dict[Any, Any]]:
    """Published totals of the units in a period."""
    own = chosen[(chosen.period == period) & chosen.from_period.isna() & (chosen.unit_id != REGION)]
    return own.to_dict("records")


def _band(row: Mapping[str, Any]) -> str:
    if row["suppressed"] or row["estimate"] is None or row["ci_low"] is None:
        return "e0"
    return f"e{1 + sum(row['cv'] > limit for limit in (0.05, 0.1, 0.2))}"


def _advice(row: pd.Series, design: Mapping[str, Any]) -> list[str]:
    """The effect of more cells: the error falls with the square root of their number."""
    sentences = []
    if pd.notna(row.cv):
        sentences.append(
            f"The {row.n_ref:,} labelled cells give a standard error of {row.cv:.1%} of the region's total; "
            f"{2 * row.n_ref:,} cells would give about {row.cv / 2**0.5:.1%}, {4 * row.n_ref:,} about {row.cv / 2:.1%}."
        )
    target = design.get("target_cv") or 10
    needed = {level: n for level, n in dict(design.get("needed", {})).items() if n is not None and level != "region"}
    if needed:
        listed = ", ".join(f"{level}: {n:,}" for level, n in needed.items())
        sentences.append(
            f"For a standard error of {target:g} % in each unit, the sample needs about this many cells in total "
            f"({listed}); draw them with `subpixmap sample design --by lowest --target-cv {target:g} --pilot`."
        )
    return sentences
