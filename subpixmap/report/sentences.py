"""Summarises one object in a sentence: count, change and place, and evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from subpixmap.counts.rows import OUT_OF_DOMAIN, PARTLY
from subpixmap.report.contents import Contents
from subpixmap.report.estimates_section import EstimatesSection
from subpixmap.report.formatting import percent, rough
from subpixmap.report.summary import leaves, roots

_PLUS_MINUS = "\u202f±\u202f"


def sentence(
    contents: Contents,
    name: str,
    latest: Mapping[str, Any] | None,
    change: Mapping[str, Any] | None,
    estimates: EstimatesSection | None,
) -> str:
    """One sentence on one object of a run.

    Parameters
    ----------
    name
        Object.
    latest
        Its total over the region in the last period in which anything was observed.
    change
        The region's row of the trends; None for one period or a measure without trends.
    estimates
        Estimates from a sample; None without a sample.
    """
    objects = plural(name, contents.model.definitions[name])
    if latest is None:
        return f"No pixel was observed, so there are no counts of {objects}."
    parts = [
        f"{_opening(contents)} {latest['period']} the map shows {rough(latest['map_total_full'])} {objects}"
        + (" on an average date" if contents.model.measures[name] != "count" else ""),
        _changed(contents, name, change),
        _confirmed(latest, estimates),
        *_limits(contents, name, latest),
    ]
    text = "; ".join(part for part in parts if part) + "."
    return text[0].upper() + text[1:]


def plural(name: str, definition: str) -> str:
    """The objects in the plural: the start of the definition if short, else the name."""
    first = re.split(r"[,;:(.]| (?:of|in|on|at|with|that|which|planted|parked|older|from)\b", definition.strip())[0]
    words = " ".join(first.split()).removeprefix("a ").removeprefix("an ")
    words = words if 0 < len(words.split()) <= 3 else name.replace("_", " ")
    if words.endswith("s"):
        return words
    return words + ("es" if words.endswith(("x", "ch", "sh", "z")) else "s")


def _opening(contents: Contents) -> str:
    if contents.simulated:
        return "In a simulated country, in"
    return "Not an estimate: in" if contents.model.evidence == "simulated" else "In"


def _changed(contents: Contents, name: str, change: Mapping[str, Any] | None) -> str:
    """The change with its standard error, and the unit that holds most of it."""
    if change is None or change["change"] is None:
        return ""
    value, se, since = change["change"], change["change_se"], change["first_period"]
    amount = rough(abs(value), like=se) + (f"{_PLUS_MINUS}{rough(se, like=se)}" if se else "")
    if change["direction"] in ("rise", "fall"):
        verb = "gained" if change["direction"] == "rise" else "lost"
        return f"since {since} it {verb} {amount}{_where(contents, name, value)}"
    signed = f"{'+' if value >= 0 else '−'}{amount}"
    if change["direction"] == "steady":
        return f"since {since} it stayed steady ({signed})"
    return f"its change since {since} ({signed}) is within the noise"


def _where(contents: Contents, name: str, change: float) -> str:
    """The unit that holds the largest part of a change; nothing where there is one unit only."""
    assert contents.trend is not None
    top = roots(contents.units)
    top = top if len(top) > 1 else leaves(contents.units)
    rows = contents.trend[(contents.trend.object == name) & contents.trend.unit_id.isin(top)]
    shares = rows.change.astype(float) / change
    if len(rows) < 2 or not shares.notna().any():
        return ""
    first = rows.loc[shares.idxmax()]
    where = str(first.unit_name) if pd.notna(first.unit_name) else str(first.unit_id)
    return f", most of them in {where}" if shares.max() > 0.5 else f", the largest part in {where}"


def _confirmed(latest: Mapping[str, Any], estimates: EstimatesSection | None) -> str:
    """The estimate of a sample with its interval, or that there is no sample."""
    if estimates is None:
        return "no reference sample confirms this yet"
    row = estimates.totals[-1]
    sample = f"a{' simulated' if estimates.simulated else ''} sample of {rough(row['n_ref'])} labelled cells"
    when = "" if row["period"] == latest["period"] else f" in {row['period']}"
    if row["estimate"] is None or row["suppressed"]:
        return f"{sample} is too small to confirm this"
    if row["ci_low"] is None:
        return f"{sample} puts them at {rough(row['estimate'])}{when}, without an interval"
    level = f"{percent(row['ci_level'])} interval "
    low, high = rough(row["ci_low"]), rough(row["ci_high"])
    return f"{sample} puts them at {rough(row['estimate'])}{when} ({level}{low} to {high})"


def _limits(contents: Contents, name: str, latest: Mapping[str, Any]) -> list[str]:
    """Limits to add to the sentence: evidence of the model, input unlike the training data, gaps."""
    limits = []
    if not contents.simulated and contents.model.evidence == "simulated":
        limits.append("the model was trained on simulated data only")
    if not contents.simulated and contents.model.evidence == "degraded-aerial":
        limits.append("the model has not been validated on Sentinel-2")
    rows = contents.counts[(contents.counts.object == name) & (contents.counts.period == latest["period"])]
    rows = rows[rows.unit_id.isin(roots(contents.units)) & rows.ood_frac.notna()]
    weights = rows.observed_ha.to_numpy(float)
    unlike = float(np.average(rows.ood_frac.to_numpy(float), weights=weights)) if weights.sum() > 0 else 0.0
    if unlike > OUT_OF_DOMAIN:
        limits.append(f"{percent(unlike)} of the imagery is unlike the model's training data")
    if latest["observed_frac"] < PARTLY:
        limits.append(f"only {percent(latest['observed_frac'])} of the region was observed")
    return limits
