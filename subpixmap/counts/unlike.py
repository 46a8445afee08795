"""Notes about counts on land unlike the training data, the same for all pages and tables."""

from __future__ import annotations

import pandas as pd

from subpixmap.tables import REGION

FLAG = "out_of_domain"
REMEDY = (
    "the model was not trained on such land: train it there, or estimate the totals from a labelled sample "
    "(subpixmap sample, estimate)"
)


def unlike_words(rows: pd.DataFrame) -> str | None:
    """A note about the totals and change of a unit; None if no row has the flag `out_of_domain`.

    Parameters
    ----------
    rows
        Rows of counts of one unit and object, one for each period, with `period`, `flag` and `ood_frac`.
    """
    unlike = _flagged(rows)
    if unlike.empty:
        return None
    worst = unlike.loc[unlike["ood_frac"].astype(float).idxmax()]
    share = f"{worst['ood_frac']:.0%} of the land is unlike the training data"
    if len(rows) == 1:
        return share
    most = "" if len(unlike) == 1 else f", most of it in {worst['period']}"
    return f"{share if len(unlike) == 1 else 'up to ' + share} ({len(unlike)} of {len(rows)} periods{most})"


def unlike_remarks(counts: pd.DataFrame) -> list[str]:
    """A note about units on land unlike the training data, with advice; empty if there are none."""
    unlike = _flagged(counts)
    if unlike.empty:
        return []
    units = [set(rows.loc[rows["unit_id"] != REGION, "unit_id"]) for rows in (unlike, counts)]
    number = "the region" if not units[1] else f"{len(units[0])} of {len(units[1])} units"
    periods = list(dict.fromkeys(unlike["period"]))
    when = f"in {', '.join(periods[:3])}{' ...' if len(periods) > 3 else ''}"
    if (counts.loc[counts["ood_frac"].notna(), "ood_frac"].astype(float) > 0.999).all():
        return [f"every observed pixel is unlike the training data: do not use these totals; {REMEDY}"]
    most = unlike["ood_frac"].astype(float).max()
    return [f"the land of {number} is unlike the training data {when} (up to {most:.0%} of the pixels): {REMEDY}"]


def _flagged(rows: pd.DataFrame) -> pd.DataFrame:
    if not {"flag", "ood_frac"} <= set(rows.columns):
        return rows.iloc[:0]
    return rows[rows["flag"].fillna("").str.split(";").map(lambda flags: FLAG in flags).astype(bool)]
