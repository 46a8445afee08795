"""A finished run -> one self-contained HTML page: map, series, tables and where every number comes from.

The page needs no network: figures are inline, style and script are in it. What it shows is in the tables of the run; it
adds no number of its own except sums over the top units and what lies outside all units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subpixmap.counts.rows import FLAGS
from subpixmap.report import html_images as picture
from subpixmap.report.checks import balance_rows, parent_rows, shared_rows
from subpixmap.report.contents import Run, read_run
from subpixmap.report.figures import DENSITY, LOOKS, nice_limit, plot_reliability, plot_series, plot_units
from subpixmap.report.summary import (
    against_truth,
    compact,
    leaves,
    number,
    percent,
    region_totals,
    region_truth,
    roots,
    status,
    title,
)

_HERE = Path(__file__).parent
MAX_ROWS = 2000
"""Units listed for an object; the CSV holds them all."""
MAX_PICTURES = 120
"""Maps in a page; with more periods every second, third ... one is shown."""


def write_report(out: str | Path, *, truth: pd.DataFrame | None = None, size: int = 560) -> Path:
    """Write OUT/report.html from a finished run folder.

    Parameters
    ----------
    out
        The run's folder: plan, lock, ledger, map, units and tables.
    truth
        Rows unit_id, object, period, count; where they are known (a simulated country), mapped is shown against them.
    size
        Display pixels along the longer side of the map.

    Returns
    -------
    Path
        OUT/report.html.

    Raises
    ------
    InputError
        The folder holds no run, or its tables are missing.
    """
    from subpixmap.files import path_of, write_atomic

    path = path_of(out) / "report.html"
    write_atomic(path, render(read_run(out, truth=truth, size=size)).encode())
    return path


def render(run: Run) -> str:
    """The page of a run, as text; the same run gives the same text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "compact": compact, "percent": percent, "title": title}
    totals = region_totals(run)
    return environment.get_template("page.html").render(
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        run=run,
        status=status(run),
        objects=[_object(run, name, totals) for name in run.objects],
        maps=_maps(run),
        months=_months(run),
        offsets=_offsets(run),
        incomplete=run.expected_blocks - run.done_blocks,
        n_roots=len(roots(run.units)),
        n_leaves=len(leaves(run.units)),
        max_rows=MAX_ROWS,
        flag_text=FLAGS,
    )


@dataclass(frozen=True)
class ObjectPart:
    """What the page shows of one object."""

    name: str
    definition: str
    measure: str
    totals: list[dict[str, Any]]
    """A row per period, over the region."""
    latest: dict[str, Any] | None
    """The last period in which anything was observed."""
    change: float | None
    """From the first to the last observed period, as a share."""
    first: str
    """The first period in which anything was observed."""
    has_estimates: bool
    has_noise: bool
    common_flags: list[str]
    """Flags of every row; said once."""
    common_note: str
    """What every trend says it cannot say."""
    spark: str
    series: str
    by_unit: str
    units: list[dict[str, Any]]
    trends: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    reliability: str
    balance: list[dict[str, Any]]
    """Whether units and outside are the map; a row per period."""
    parents_period: str
    parents: list[dict[str, Any]]
    """Parents against the sum of their children."""
    shared: list[dict[str, Any]]
    """What all units share in a period."""
    year_effect: str
    """The shared effect that was taken out of the trends; empty when none was."""


def _object(run: Run, name: str, totals: pd.DataFrame) -> ObjectPart:
    mine = totals[totals.object == name].reset_index(drop=True)
    known = mine[mine.map_total.notna()]
    latest = _known(known.iloc[-1].to_dict()) if len(known) else None
    first = float(known.map_total_full.iloc[0]) if len(known) > 1 else 0.0
    counted = run.measures[name] == "count"
    counts = run.counts[run.counts.object == name]
    truth, pairs = region_truth(run), against_truth(run)
    truth = None if truth is None else truth[truth.object == name]
    pairs = None if pairs is None else pairs[(pairs.object == name) & pairs.unit_id.isin(leaves(run.units))]
    several = len(run.units) > 1 and counts.map_total_full.notna().any()
    shown = counts[counts.unit_id.isin(leaves(run.units))]
    rows = _unit_rows(run, counts, latest["period"] if latest else run.periods[-1])
    trends = _trend_rows(run, name) if counted else []
    notes = {row["note"] or "" for row in trends}
    effects = {row["year_effect"] or "" for row in trends}
    parents_period, parents = parent_rows(run, name)
    return ObjectPart(
        name=name,
        definition=run.objects[name],
        measure=run.measures[name],
        totals=[_known(row) for row in mine.to_dict("records")],
        latest=latest,
        change=float(known.map_total_full.iloc[-1]) / first - 1 if counted and first > 0 else None,
        first=str(known.period.iloc[0]) if len(known) else "",
        has_noise=bool(mine.noise_se.notna().any()),
        has_estimates=bool(counts.estimate.notna().any()),
        spark=picture.sparkline(mine.map_total_full.tolist()),
        series=picture.svg(plot_series(mine, truth=truth), f"{title(name)}: total of the region by period"),
        by_unit=picture.svg(plot_units(shown, run.periods), f"{title(name)}: total of the largest units by period")
        if several
        else "",
        common_flags=[flag for flag in FLAGS if rows and all(flag in row["flags"] for row in rows)],
        common_note=notes.pop() if len(notes) == 1 else "",
        units=rows,
        trends=trends,
        truth=[] if truth is None else [_known(row) for row in truth.to_dict("records")],
        reliability=picture.svg(
            plot_reliability(pairs.truth.to_numpy(float), pairs.mapped.to_numpy(float), unit="per unit and period"),
            f"{title(name)}: mapped against truth by unit and period",
        )
        if pairs is not None and len(pairs)
        else "",
        balance=balance_rows(run, name),
        parents_period=parents_period,
        parents=parents,
        shared=shared_rows(run, name),
        year_effect=", ".join(sorted(effects - {""})),
    )


def _unit_rows(run: Run, counts: pd.DataFrame, period: str) -> list[dict[str, Any]]:
    """Rows of one object in one period with their series, the largest first, unobserved units last."""
    series = counts.pivot_table(index="unit_id", columns="period", values="map_total_full", aggfunc="first", sort=False)
    series = series.reindex(columns=list(run.periods)).astype(float)
    rows = counts[counts.period == period].sort_values("map_total_full", ascending=False, kind="stable")
    parents = set(run.units.parent_id.dropna())
    found = []
    for row in map(_known, rows.head(MAX_ROWS).to_dict("records")):
        values = series.loc[row["unit_id"]].tolist() if row["unit_id"] in series.index else []
        row |= {"spark": picture.sparkline(values), "is_parent": row["unit_id"] in parents}
        row["flags"] = [flag for flag in str(row["flag"] or "").split(";") if flag]
        found.append(row)
    return found


def _trend_rows(run: Run, name: str) -> list[dict[str, Any]]:
    if run.trend is None:
        return []
    mine = run.trend[run.trend.object == name]
    mine = mine.sort_values("slope_per_year", key=lambda column: -column.abs(), kind="stable").head(MAX_ROWS)
    return [_known(row) for row in mine.to_dict("records")]


def _known(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row with None for whatever is not known."""
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}


def _maps(run: Run) -> dict[str, Any] | None:
    """Pictures by object and period, the pictures of clear observations, legends and unit outlines."""
    layers = run.layers
    if layers is None:
        return None
    every = -(-(len(layers.objects) + 1) * len(layers.periods) // MAX_PICTURES)
    chosen = list(range(len(layers.periods)))[::-every][::-1]  # the last one always
    looks_limit = nice_limit(layers.n_obs, share=1.0)
    rows, cols = layers.canvas.shape
    scale = nice_limit(np.array([cols * layers.canvas.step / 4]))
    return {
        "rows": rows,
        "cols": cols,
        "periods": [layers.periods[p] for p in chosen],
        "density": {
            name: _pictures(layers, o, chosen, run.measures.get(name, "count")) for o, name in enumerate(layers.objects)
        },
        "looks": {
            "uris": [picture.looks_uri(layers, p, LOOKS, looks_limit) for p in chosen],
            "ticks": _ticks(looks_limit),
            "gradient": _gradient(LOOKS),
        },
        "outlines": _outlines(run),
        "veil": f"M0 0H{cols}V{rows}H0Z" + picture.path_data(layers.canvas.to_pixels(run.geometry)),
        "scale_px": scale / layers.canvas.step,
        "scale": _length(scale),
        "step": _length(layers.canvas.step),
        "projection": layers.canvas.crs.name if layers.canvas.crs.to_epsg() else "Equidistant cylindrical",
    }


def _length(metres: float) -> str:
    return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


def _pictures(layers: Any, o: int, chosen: Sequence[int], measure: str) -> dict[str, Any]:
    limit = nice_limit(layers.density[o])
    return {
        "uris": [picture.density_uri(layers, o, p, DENSITY, limit) for p in chosen],
        "ticks": _ticks(limit),
        "gradient": _gradient(DENSITY),
        "unit": "objects per hectare" if measure == "count" else "mean number present per hectare",
    }


def _outlines(run: Run) -> list[dict[str, str]]:
    """Units as SVG paths: parents first (drawn bolder, without reacting), then the smallest ones on top."""
    assert run.layers is not None
    paths = picture.unit_paths(run.units, run.layers.canvas)
    inner = set(leaves(run.units))
    found = [
        {"id": str(unit), "name": str(name), "d": path, "kind": "leaf" if unit in inner else "parent"}
        for unit, name, path in zip(run.units.unit_id, run.units.unit_name, paths, strict=True)
        if path
    ]
    return sorted(found, key=lambda one: one["kind"])


def _ticks(limit: float) -> list[str]:
    """Labels of a legend: 0 to the limit in steps that are round for the limits of `nice_limit`."""
    lead = limit / 10.0 ** np.floor(np.log10(limit))
    steps = 3 if round(lead, 6) in (1.5, 3, 6) else 5 if round(lead, 6) in (1, 5) else 4
    return [f"{value:g}" for value in np.linspace(0, limit, steps + 1)]


def _gradient(cmap: Any) -> str:
    from matplotlib.colors import to_hex

    return f"linear-gradient(to right, {', '.join(to_hex(cmap(x)) for x in np.linspace(0, 1, 9))})"


def _months(run: Run) -> dict[str, Any]:
    """Acquisitions used, by year and month."""
    if run.acquisitions.empty:
        return {"years": [], "most": 0}
    times = pd.to_datetime(run.acquisitions.time, utc=True, format="ISO8601")
    unique = pd.DataFrame({"id": run.acquisitions.acquisition, "year": times.dt.year, "month": times.dt.month})
    table = unique.drop_duplicates("id").groupby(["year", "month"]).size()
    years = [
        {"year": int(year), "months": [int(table.get((year, month), 0)) for month in range(1, 13)]}
        for year in range(int(unique.year.min()), int(unique.year.max()) + 1)
    ]
    return {"years": years, "most": int(table.max())}


def _offsets(run: Run) -> list[dict[str, Any]]:
    """The offset decisions of the lock: how many items were treated in which way, and why."""
    groups = run.items.groupby(["baseline", "offset_dn", "offset_reason"], sort=True).size().rename("items")
    return [_known(row) for row in groups.reset_index().to_dict("records")]
