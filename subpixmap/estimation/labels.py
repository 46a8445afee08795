"""Reads labelled cells from a filled sheet, and checks them against the design.

In: a file. Out: one count per cell, period and object, with blank rows and the agreement of interpreters. Blank means
not labelled, 0 means no object.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from subpixmap.errors import InputError, Refused
from subpixmap.estimation.sheets import FIELDS, KEYS, DrawnSample, cell_outlines, lattices_of
from subpixmap.region.layers import read_layer, require_file
from subpixmap.tables import LABELLED, typed

if TYPE_CHECKING:
    import geopandas as gpd

_MOVED = 1e-5  # degrees, 1 m
_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?(?:T.*)?")
_FAR_DAYS = 366
_SHOWN = 5
COUNTED = ("n_objects", "n_detected")
"""Columns with counts: by people and, if present, by a detector."""


@dataclass(frozen=True)
class Labels:
    """Imported labels."""

    table: pd.DataFrame
    """`tables.LABELLED`."""
    blank: tuple[str, ...]
    """Rows without a count: "cell, period, object"."""
    filled: float
    """Share of the rows with a count."""
    agreement: dict[str, Any]
    """Agreement of interpreters of the same cells; empty if each cell has one."""
    remarks: tuple[str, ...]
    """Notes for the user."""


def read_sheet(path: Path) -> pd.DataFrame:
    """Read the rows of a labelled file: GeoPackage, GeoJSON, GeoParquet, or CSV.

    Raises
    ------
    InputError
        The file cannot be read, or is not in longitude and latitude (EPSG:4326).
    """
    import geopandas as gpd

    require_file(path)
    texts: Any = dict.fromkeys([*KEYS, *FIELDS, "design"], str)
    if path.suffix.lower() != ".csv":
        table: pd.DataFrame = read_layer(path, "labelled cells", option="saving it in a separate file")
        if isinstance(table, gpd.GeoDataFrame) and (table.crs is None or not table.crs.equals("EPSG:4326")):
            raise InputError(
                f"{path} is in {table.crs}, but the sheet must be in EPSG:4326: export it again in that CRS"
            )
        return table
    try:
        return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); give a GeoPackage, GeoJSON, GeoParquet or CSV file"
        ) from error


def check_labels(
    sheet: pd.DataFrame | gpd.GeoDataFrame,
    sample: DrawnSample,
    *,
    periods: dict[str, tuple[date, date]],
    taught: Sequence[BaseGeometry] = (),
) -> Labels:
    """Check a sheet, and return its labelled cells.

    Parameters
    ----------
    sheet
        Result of `read_sheet`.
    sample
        The design of the sheet.
    periods
        Label -> first and last day.
    taught
        Land that the model was trained or calibrated on, EPSG:4326.

    Raises
    ------
    InputError
        Rows are missing, repeated, moved or changed, or a value is invalid.
    Refused
        The sheet belongs to another design, or cells lie on training areas of the model.
    """
    if missing := [name for name in [*KEYS, "n_objects"] if name not in sheet.columns]:
        raise InputError(f"the sheet lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    _require_design(sheet, sample)
    rows = _keyed(sheet)
    _require_rows(rows, sample)
    _require_places(rows, sample)
    _require_foreign_land(sample, taught)
    for name in COUNTED:
        rows[name] = _counts(rows, name)
    days = _days(rows)
    known, kept = rows["n_objects"].notna(), rows[list(COUNTED)].notna().any(axis=1)
    blank = tuple(", ".join(one) for one in rows.loc[~kept, ["cell_id", "period", "object"]].drop_duplicates().values)
    agreement = _agreement(rows[known])
    remarks = [
        *([f"{(~kept).sum()} of {len(rows)} rows are blank: {_some(blank)}"] if blank else []),
        *(
            [f"people checked {known.sum()} of {kept.sum()} rows, a detector counted all of them"]
            if (kept & ~known).any()
            else []
        ),
        *_date_remarks(rows[known], days, periods),
        *([_agreement_remark(agreement)] if agreement else []),
    ]
    return Labels(_joined(rows[kept]), blank, float(kept.mean()), agreement, tuple(remarks))


def _require_design(sheet: pd.DataFrame, sample: DrawnSample) -> None:
    if "design" in sheet.columns:
        others = sorted(set(sheet["design"].dropna().astype(str)) - {sample.id})
        if others:
            raise Refused(
                f"the sheet belongs to design {others[0]}, but this folder has design {sample.id}: import the sheet "
                "of this design"
            )
    known = set(sample.cells["cell_id"])
    if len(sheet) and not set(sheet["cell_id"].astype(str)) & known:
        raise Refused(
            f"none of the cells of the sheet ({sheet['cell_id'].iloc[0]}, ...) belongs to the sample of this folder; "
            "give the sheet of this folder"
        )


def _keyed(sheet: pd.DataFrame) -> pd.DataFrame:
    """The rows with their keys as text."""
    rows = pd.DataFrame(sheet).copy()
    for name in KEYS:
        if (empty := rows[name].isna()).any():
            raise InputError(
                f"{empty.sum()} rows have no {name}, the first is row {int(empty.argmax()) + 1}; fill it in"
            )
        rows[name] = [str(int(one)) if isinstance(one, float) and one.is_integer() else str(one) for one in rows[name]]
    for name in FIELDS:
        if name not in rows.columns:
            rows[name] = None
    return rows.reset_index(drop=True)


def _require_rows(rows: pd.DataFrame, sample: DrawnSample) -> None:
    """Require every row of the design once, and no other row."""
    repeated = rows[rows.duplicated(KEYS, keep=False)]
    if len(repeated):
        raise InputError(f"repeated rows: {len(repeated)}, such as {_row(repeated.iloc[0])}; keep one of each")
    people = [str(k + 1) for k in range(int(sample.record["interpreters"]))]
    wanted = sample.cells[KEYS[:3]].merge(pd.DataFrame({"interpreter": people}), how="cross").astype(str)
    both = wanted.merge(rows[KEYS], how="outer", indicator=True)
    if len(foreign := both[both["_merge"] == "right_only"]):
        raise InputError(
            f"rows that are not of the sample: {len(foreign)}, such as {_row(foreign.iloc[0])}; restore cell_id, "
            "period and object"
        )
    if len(lost := both[both["_merge"] == "left_only"]):
        raise InputError(
            f"missing rows of the sample: {len(lost)}, such as {_row(lost.iloc[0])}; add them again; cells that "
            "were not labelled need a row with a blank count"
        )


def _require_places(rows: pd.DataFrame, sample: DrawnSample) -> None:
    """Require unchanged outlines and probabilities."""
    first = sample.cells.drop_duplicates("cell_id").set_index("cell_id")
    chance = first["probability"].reindex(rows["cell_id"]).to_numpy()
    if "probability" in rows.columns:
        given = pd.to_numeric(rows["probability"], errors="coerce").to_numpy(float)
        if (wrong := ~np.isclose(given, chance, rtol=1e-6)).any():
            raise InputError(
                f"the probability of {_row(rows[wrong].iloc[0])} was changed; restore it, it belongs to the design"
            )
    if "geometry" not in rows.columns:
        return
    ids = rows["cell_id"].drop_duplicates().to_numpy()
    outlines = dict(zip(ids, cell_outlines(ids, lattices_of(sample.record)), strict=True))
    there = np.array([one if one is not None else shapely.Polygon() for one in rows["geometry"]], object)
    want = np.array([outlines[one] for one in rows["cell_id"]], object)
    with np.errstate(invalid="ignore"):
        off = np.abs(shapely.bounds(there) - shapely.bounds(want)).max(axis=1)
    if (moved := ~(off <= _MOVED)).any():
        raise InputError(
            f"{moved.sum()} rows have changed outlines, such as {_row(rows[moved].iloc[0])}; import the sheet with "
            "its original outlines"
        )


def _require_foreign_land(sample: DrawnSample, taught: Sequence[BaseGeometry]) -> None:
    """Require that no cell lies on training areas of the model, where it is better than elsewhere."""
    if not len(taught):
        return
    ids = sample.cells["cell_id"].drop_duplicates().to_numpy()
    tree = shapely.STRtree(cell_outlines(ids, lattices_of(sample.record)))
    hit = np.unique(tree.query(np.array(taught, object), predicate="intersects")[1])
    if hit.size:
        raise Refused(
            f"{hit.size} cells of the sample lie on land that the model was trained or calibrated on: "
            f"{_some(ids[hit])}; run `subpixmap sample design` again (it leaves out such land)"
        )


def _counts(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column of numbers of objects; NaN where it is blank, or the sheet has no such column."""
    if name not in rows:
        return pd.Series(np.nan, rows.index)
    values = pd.to_numeric(rows[name], errors="coerce").astype(float)
    given = rows[name].notna() & (rows[name].astype(str).str.strip() != "")
    wrong = given & ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        first = rows[wrong].iloc[0]
        raise InputError(
            f"{name} of {_row(first)} is {_said(first[name])}: give a number of 0 or more, or leave it blank"
        )
    return values.where(given)


def _said(value: Any) -> str:
    """A value as written in the sheet."""
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _days(rows: pd.DataFrame) -> list[date | None]:
    return [_day(value, rows.iloc[i]) for i, value in enumerate(rows["image_date"])]


def _day(value: Any, row: pd.Series) -> date | None:
    if value is None or value is pd.NaT or value != value or not str(value).strip():
        return None
    text = str(value).strip().replace(" ", "T").replace("/", "-")
    found = _DATE.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        year, month, day = (int(part) if part else None for part in found.groups())
        return date(year or 0, month or 7, day or 1)
    except ValueError:
        raise InputError(
            f"image_date of {_row(row)} is {value!r}: write 2021, 2021-03 or 2021-03-15, or leave it blank"
        ) from None


def _date_remarks(rows: pd.DataFrame, days: Sequence[date | None], periods: dict[str, tuple[date, date]]) -> list[str]:
    far = 0
    for at, period in zip(rows.index, rows["period"], strict=True):
        day = days[at]
        if day is not None and period in periods:
            first, last = periods[period]
            far += (first - day).days > _FAR_DAYS or (day - last).days > _FAR_DAYS
    dated = sum(days[at] is not None for at in rows.index)
    remarks = [f"{far} counts come from images more than a year outside their period"] if far else []
    if len(rows) and dated < len(rows):
        remarks.append(f"{len(rows) - dated} of {len(rows)} counts have no image date")
    return remarks


def _agreement(rows: pd.DataFrame) -> dict[str, Any]:
    """Agreement of interpreters on cells labelled by two or more of them."""
    groups = rows.groupby(["cell_id", "period", "object"])["n_objects"]
    many = groups.filter(lambda counts: len(counts) > 1)
    if not len(many):
        return {}
    of = groups.agg(["min", "max", "mean", "size"])
    of = of[of["size"] > 1]
    by_person = rows.loc[many.index].groupby("interpreter")["n_objects"].sum()
    return {
        "cells": len(of),
        "equal": round(float((of["min"] == of["max"]).mean()), 4),
        "mean_range": round(float((of["max"] - of["min"]).mean()), 4),
        "mean_count": round(float(of["mean"].mean()), 4),
        "totals": {str(name): round(float(total), 2) for name, total in by_person.items()},
    }


def _agreement_remark(agreement: dict[str, Any]) -> str:
    totals = agreement["totals"].values()
    return (
        f"interpreters agree exactly on {agreement['equal']:.0%} of {agreement['cells']} cells labelled twice; they "
        f"differ by {agreement['mean_range']:.2g} objects on average, their totals are "
        f"{' and '.join(f'{total:g}' for total in totals)}"
    )


def _joined(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, period and object: the mean of the interpreters."""
    groups = rows.groupby(["cell_id", "period", "object"], sort=True)
    table = groups["n_objects"].agg(["mean", "count"]).rename(columns={"mean": "n_objects", "count": "n_interpreters"})
    table["n_detected"] = groups["n_detected"].mean()
    for name in ("image_date", "note"):
        table[name] = groups[name].agg(lambda texts: "; ".join(str(one) for one in texts if _given(one)))
    return typed(table.reset_index(), LABELLED)


def _given(value: Any) -> bool:
    return value is not None and value == value and value is not pd.NaT and bool(str(value).strip())


def _row(row: pd.Series) -> str:
    return f"cell {row['cell_id']}, period {row['period']}, object {row['object']}, interpreter {row['interpreter']}"


def _some(names: Sequence[Any]) -> str:
    shown = "; ".join(str(one) for one in list(names)[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
