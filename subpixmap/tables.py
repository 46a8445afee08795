"""The columns of all tables of a run, and functions to write and read them.

In: a DataFrame. Out: CSV and Parquet with the same columns, deterministic and atomic; the CSV is rounded.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from subpixmap.errors import InputError, SubpixmapError, VerificationFailed, in_one_line
from subpixmap.files import make_folder, write_atomic

# What pandas, pyarrow and geopandas raise on bytes that are damaged.
_DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


class Column(NamedTuple):
    """One column of a table."""

    type: str
    """Pandas type."""
    unit: str
    """Empty for texts and pure numbers."""
    meaning: str
    former: str = ""
    """Name of the column in files of older versions."""
    later: bool = False
    """Whether files of older versions lack the column; it is blank then."""


Columns = Mapping[str, Column]
"""Name -> column, in the order of the file."""


def _text(meaning: str) -> Column:
    return Column("string", "", meaning)


def _number(unit: str, meaning: str) -> Column:
    return Column("float64", unit, meaning)


_UNIT: dict[str, Column] = {
    "unit_id": _text("id of the unit, as given"),
    "unit_name": _text("name of the unit"),
    "parent_id": _text("id of the unit that contains this one"),
    "object": _text("what is counted"),
}

REGION = "REGION"
"""`unit_id` of the row with the sum of the topmost units."""

COUNTS: dict[str, Column] = {
    **_UNIT,
    "object_definition": _text("what counts as one object, in the words of the model's card"),
    "measure": _text("count, or occupancy: a mean over dates of objects that move"),
    "period": _text("2018, 2018-Q1, 2018-03, or the time of an acquisition"),
    "period_start": _text("first day of the period, ISO 8601"),
    "period_end": _text("last day of the period, ISO 8601"),
    "map_total": _number(
        "objects", "sum of the map over the observed pixels of the unit; blank when none was observed"
    ),
    "map_total_full": _number("objects", "density of the observed part times the area of the unit"),
    "density_per_ha": _number("objects/ha", "map_total per observed hectare"),
    "object_area_ha": _number("ha", "observed pixels with the object, by presence"),
    "area_ha": _number("ha", "area of the unit's pixels on the lattice"),
    "observed_ha": _number("ha", "of these, pixels with enough clear observations"),
    "observed_frac": _number("0-1", "observed_ha / area_ha"),
    "n_obs_median": _number("observations", "median number of clear observations of a mapped pixel"),
    "ood_frac": _number("0-1", "share of the observed pixels whose inputs are unlike the training data"),
    "estimate": _number("objects", "estimate from a reference sample; blank without one"),
    "se": _number("objects", "standard error of the estimate"),
    "cv": _number("", "se / estimate"),
    "ci_low": _number("objects", "lower end of the interval of the estimate"),
    "ci_high": _number("objects", "upper end of the interval of the estimate"),
    "ci_level": _number("0-1", "confidence of the interval"),
    "estimator": _text("name of the estimator"),
    "n_ref": Column("Int64", "cells", "size of the reference sample"),
    "suppressed": Column("boolean", "", "the estimate is too uncertain to be shown"),
    "flag": _text("notes about the row; several are joined by ;"),
    "evidence": _text("data that the model was evaluated on: simulated, degraded-aerial or sentinel-2"),
    "boundary_source": _text("where the units come from"),
    "boundary_version": _text("version of the units"),
    "model_id": _text("name of the model"),
    "model_sha256": _text("hash of the model file"),
    "items_sha256": _text("hash of the items of the period"),
    "run_id": _text("hash of the recipe"),
    "software_version": _text("version of subpixmap that planned the run"),
    "total_se": _number(
        "objects",
        "standard error of map_total_full from differences between acquisitions: noise of the mapping, without the "
        "model's own error; blank with too few acquisitions",
    ),
    "below_zero": Column("boolean", "", "map_total is negative: noise around zero"),
    "sd_over_models": Column("float64", "objects", "standard deviation over the networks (--spread)", later=True),
}
"""counts.csv and counts.parquet: a row per unit, object and period, and last those of REGION, the sum of the topmost
units. Areas are hectares on the lattice."""

SERIES: dict[str, Column] = {
    "unit_id": _UNIT["unit_id"],
    "object": _UNIT["object"],
    "period": COUNTS["period"],
    "common_frac": _number("0-1", "share of the unit that was observed in every period"),
    "common_total": _number("objects", "density on those pixels times the area of the unit"),
    "noise_se": _number(
        "objects",
        "standard error of map_total_full, from the differences between acquisitions of the period",
    ),
    "n_noise_acquisitions": Column(
        "Int64",
        "acquisitions",
        "acquisitions behind noise_se: those that share observed cells with another",
        former="n_acquisitions",
    ),
    "background_per_ha": _number("objects/ha", "count of the whole region where the object is never present"),
}
"""series.parquet: values comparable between periods."""

TREND: dict[str, Column] = {
    **_UNIT,
    "change": _number("objects", "last_total - first_total, on the pixels that every period observed"),
    "change_se": _number("objects", "standard error of the change, from the differences between acquisitions"),
    "change_percent": _number("%", "change / first_total"),
    "change_q": _number("0-1", "false discovery rate of change_p over the units of an object (Benjamini-Hochberg)"),
    "change_significant": Column("boolean", "", "change_q is at most 1 - level"),
    "direction": _text("rise, fall, steady (within --steady-within) or unclear; never blank"),
    "because": _text("the reason of the direction, in words, with the error between years used by the tests"),
    "measure": COUNTS["measure"],
    "basis": _text("common_pixels: density on the pixels observed in every period times area"),
    "common_frac": SERIES["common_frac"],
    "n_periods": Column("Int64", "periods", "periods with a total"),
    "first_period": _text("first period with a total; a year if periods are parts of a year"),
    "last_period": _text("last period with a total; a year if periods are parts of a year"),
    "first_total": _number("objects", "total of the first period, on the pixels that every period observed"),
    "last_total": _number("objects", "total of the last period, on the pixels that every period observed"),
    "change_p": _number("0-1", "p-value of the change"),
    "min_detectable_change": _number("objects", "change that would be detected in 4 of 5 cases"),
    "direction_p": _number("0-1", "p-value of the strongest of change, line and step, corrected for their number"),
    "direction_q": _number("0-1", "false discovery rate of direction_p over the units of an object"),
    "step_from": _text("the one step that explains the totals best lies between this period"),
    "step_to": _text("and this one"),
    "step_earliest": _text("the step lies, at level, between this period"),
    "step_latest": _text("and this one"),
    "step_change": _number("objects", "mean after the step minus mean before it"),
    "step_se": _number("objects", "standard error of step_change"),
    "step_p": _number("0-1", "p-value that there is no step, corrected for all places where it could be"),
    "line_per_year": _number("objects/year", "slope of the straight line with the known error of each period"),
    "line_se": _number("objects/year", "standard error of line_per_year"),
    "line_p": _number("0-1", "p-value that the line is level"),
    "slope_per_year": _number("objects/year", "median slope (Theil-Sen)"),
    "slope_low": _number("objects/year", "lower end of the slope's interval"),
    "slope_high": _number("objects/year", "upper end of the slope's interval"),
    "slope_level": _number("0-1", "confidence of that interval"),
    "tau": _number("-1-1", "Kendall's rank correlation with time"),
    "p_value": _number("0-1", "p-value of the rank test (Mann-Kendall), which needs long series"),
    "p_method": _text("which rank test"),
    "q_value": _number("0-1", "false discovery rate of p_value over the units of an object (Benjamini-Hochberg)"),
    "trend_significant": Column("boolean", "", "of the rank test: q_value is at most 1 - level"),
    "persistent": Column("boolean", "", "whether the last two periods are both above or both below the first two"),
    "year_effect": _text("the shared effect of single periods that was removed"),
    "background_slope_per_year": _number(
        "objects/year",
        "slope of the unit's background: the count where the object is never present, times area",
    ),
    "shared_step": _text("steps that most units of the object make together"),
    "note": _text("limits of this row, with reasons"),
    "evidence": COUNTS["evidence"],
    "boundary_version": COUNTS["boundary_version"],
    "model_id": COUNTS["model_id"],
    "run_id": COUNTS["run_id"],
}
"""trend.csv and trend.parquet: a row per unit and object."""

CHANGES: dict[str, Column] = {
    "unit_id": _UNIT["unit_id"],
    "unit_name": _UNIT["unit_name"],
    "object": _UNIT["object"],
    "from": _text("period"),
    "to": _text("the next period; years if periods are parts of a year"),
    "change": _number("objects", "total of `to` minus total of `from`, on pixels observed in every period"),
    "se": _number("objects", "standard error of the change, from the differences between acquisitions"),
    "change_percent": _number("%", "change / total of `from`"),
    "p": _number("0-1", "p-value of the change"),
    "q": _number("0-1", "false discovery rate of p over the units and periods of an object (Benjamini-Hochberg)"),
    "significant": Column("boolean", "", "q is at most 1 - level"),
}
"""changes.csv: a row per unit, object and pair of neighbouring periods."""

SAMPLE_CELLS: dict[str, Column] = {
    "cell_id": _text("name of the cell: zone, pixels along a side, row and column on the lattice"),
    "longitude": _number("degrees", "of the cell's centre"),
    "latitude": _number("degrees", "of the cell's centre"),
    "units": _text("ids of the units that hold the centre, the highest first (JSON)"),
    "stratum": Column("int64", "", "number of the stratum in design.json"),
    "segment": Column("int64", "", "group of neighbouring cells of the stratum from which the cell was drawn"),
    "segment_cells": Column("int64", "cells", "cells of the frame in the segment"),
    "probability": _number("0-1", "inclusion probability of the cell"),
    "period": COUNTS["period"],
    "object": _UNIT["object"],
    "mapped": _number("objects", "map value of the whole cell; 0 if mostly unobserved"),
    "observed_frac": _number("0-1", "share of the cell that was observed"),
}
"""sample/cells.parquet: a row per drawn cell, period and object."""

SAMPLE_FRAME: dict[str, Column] = {
    "unit_id": _text("id of the unit, or REGION for all of the frame"),
    "stratum": SAMPLE_CELLS["stratum"],
    "period": COUNTS["period"],
    "object": _UNIT["object"],
    "cells": Column("int64", "cells", "cells whose centre lies in the unit"),
    "mapped": _number("objects", "map value of these cells"),
    "counted": _number("objects", "the part of it already included in map totals"),
}
"""sample/frame.parquet: a row per unit, stratum, period and object."""

LABELLED: dict[str, Column] = {
    "cell_id": SAMPLE_CELLS["cell_id"],
    "period": COUNTS["period"],
    "object": _UNIT["object"],
    "n_objects": _number("objects", "labelled in the cell, mean over the interpreters"),
    "n_interpreters": Column("int64", "", "interpreters who labelled it"),
    "image_date": _text("date of the labelled image"),
    "note": _text("notes of the interpreters"),
    "n_detected": Column("float64", "objects", "counted by a detector, if in the sheet", later=True),
}
"""sample/labelled.parquet: a row per labelled cell, period and object; n_objects is blank where only a detector
counted."""

ESTIMATES: dict[str, Column] = {
    **_UNIT,
    "period": COUNTS["period"],
    "from_period": _text("of a change: the period it starts from; blank for a total"),
    "estimator": _text("map total, expansion, difference, regression, ratio or synthetic"),
    "chosen": Column("boolean", "", "the published estimate: it fills the columns of counts.csv"),
    "estimate": _number("objects", "total, or change of the total"),
    "se": COUNTS["se"],
    "cv": COUNTS["cv"],
    "ci_low": COUNTS["ci_low"],
    "ci_high": COUNTS["ci_high"],
    "ci_level": COUNTS["ci_level"],
    "df": _number("", "degrees of freedom of the standard error"),
    "slope": _number("", "factor by which the estimator multiplies the map"),
    "n_ref": Column("Int64", "cells", "labelled cells of the unit"),
    "n_zero": Column("Int64", "cells", "of these, cells where the map predicts nothing"),
    "suppressed": COUNTS["suppressed"],
    "raked": Column("boolean", "", "scaled so that units sum to their parent"),
    "note": _text("why there is no interval, or no estimate"),
    "unseen": Column(
        "float64",
        "objects",
        "part of ci_high for objects that the map and the sample may both miss",
        later=True,
    ),
}
"""estimates.csv: a row per unit, object, period and estimator."""

# Spreadsheets run cells that start with one of these as a formula. Such texts get a leading apostrophe, which
# spreadsheets hide and `read_table` removes. Texts that already start with apostrophes get one more.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


_DECIMALS = {"objects": 1, "objects/year": 1, "%": 1, "ha": 2}
_FOUR_DIGITS = ("0-1", "-1-1", "objects/ha", "")


def types_of(columns: Columns) -> dict[str, str]:
    """Name -> pandas type."""
    return {name: column.type for name, column in columns.items()}


def typed(table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """These columns of a table in this order, each in its type; others (a geometry) are left out."""
    return pd.DataFrame(table)[list(columns)].astype(types_of(columns))


def rounded(table: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """The table as a CSV shows it: totals and errors to 0.1, areas to 0.01 ha, shares and densities to 4 digits."""
    shown = typed(table, columns)
    for name, column in columns.items():
        if column.type != "float64":
            continue
        if column.unit in _DECIMALS:
            shown[name] = shown[name].round(_DECIMALS[column.unit]) + 0.0  # no -0.0
        elif column.unit in _FOUR_DIGITS:
            shown[name] = shown[name].map(lambda value: float(f"{value:.4g}"), na_action="ignore").astype("float64")
    return shown


def write_table(table: pd.DataFrame, path: Path, columns: Columns) -> tuple[Path, Path]:
    """Write a table as rounded CSV and as Parquet with all digits.

    Parameters
    ----------
    table
        Table with the columns; others (a geometry) are left out.
    path
        Path of either file; the other one is next to it.
    columns
        Columns of the files, in order.

    Returns
    -------
    tuple of Path
        The CSV and the Parquet file.
    """
    csv, parquet = path.with_suffix(".csv"), path.with_suffix(".parquet")
    return write_csv(rounded(table, columns), csv, columns), write_parquet(table, parquet, columns)


def write_csv(table: pd.DataFrame, path: Path, columns: Columns) -> Path:
    """Write one CSV file with these columns, in this order."""
    make_folder(path.parent)
    write_atomic(path, to_csv(typed(table, columns)))
    return path


def write_parquet(table: pd.DataFrame, path: Path, columns: Columns) -> Path:
    """Write one Parquet file with these columns, in this order."""
    buffer = io.BytesIO()
    typed(table, columns).to_parquet(buffer, index=False, compression="zstd")
    make_folder(path.parent)
    write_atomic(path, buffer.getvalue())
    return path


def read_table(path: Path, columns: Columns) -> pd.DataFrame:
    """Read a table that `write_table` wrote, from either file: the same types, and values as rounded in the CSV.

    Raises
    ------
    InputError
        There is no such file, or it lacks a column.
    VerificationFailed
        It is damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; run subpixmap count or trend first")
    data = io.BytesIO(path.read_bytes())
    with damage_is_told(path, "write it again (subpixmap count, then trend)"):
        return _parsed(path, data, columns)


@contextlib.contextmanager
def damage_is_told(path: Path, advice: str) -> Iterator[None]:
    """Turn errors of libraries on a damaged file into one line; other errors stay unchanged."""
    try:
        yield
    except SubpixmapError:
        raise
    except _DAMAGE as error:
        raise VerificationFailed(f"{path} is damaged ({in_one_line(error)}): {advice}") from error


def _parsed(path: Path, data: io.BytesIO, columns: Columns) -> pd.DataFrame:
    types = types_of(columns)
    if path.suffix == ".parquet":
        table = pd.read_parquet(data)
    else:
        kinds: dict[Hashable, Any] = dict(types.items())
        texts = {name for name, kind in types.items() if kind == "string"}
        table = pd.read_csv(data, dtype=kinds, keep_default_na=False, na_values=[""], float_precision="round_trip")
        for name in texts & set(table.columns):
            table[name] = table[name].map(_unguarded, na_action="ignore").astype("string")
    table = table.rename(columns={column.former: name for name, column in columns.items() if column.former})
    for name, column in columns.items():
        if column.later and name not in table.columns:
            table[name] = None
    if missing := [name for name in columns if name not in table.columns]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; write it again (subpixmap count or trend)")
    return typed(table, columns)


def to_csv(table: pd.DataFrame) -> bytes:
    """CSV in UTF-8: texts quoted, numbers in the shortest form that reads back equal, unknown blank."""
    out = io.StringIO(newline="")
    out.write(",".join(f'"{name}"' for name in table.columns) + "\n")
    cells = [[_cell(value) for value in table[name].tolist()] for name in table.columns]
    out.writelines(",".join(row) + "\n" for row in zip(*cells, strict=True))
    return out.getvalue().encode("utf-8")


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value != value:  # NaN differs from itself
        return ""
    if isinstance(value, str):
        return '"' + ("'" + value if _FORMULA.match(value) else value).replace('"', '""') + '"'
    return repr(value) if isinstance(value, float) else str(value)


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
