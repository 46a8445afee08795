"""Writes the report: one self-contained HTML page with map, series, tables and provenance.

The page needs no network: figures, style and script are in it. It shows the tables of the run, and adds only sums over
the topmost units and counts outside all units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from subpixmap import runpaths
from subpixmap.counts.rows import FLAGS
from subpixmap.estimation.results import SYNTHETIC
from subpixmap.files import write_atomic
from subpixmap.progress import track
from subpixmap.report.contents import Contents, read_contents
from subpixmap.report.formatting import compact, number, percent, shown, title
from subpixmap.report.map_section import chosen_periods, map_section
from subpixmap.report.object_section import object_section
from subpixmap.report.object_tables import MAX_ROWS
from subpixmap.report.page_tables import Column, Table, make_table
from subpixmap.report.summary import banner, leaves, region_totals, roots
from subpixmap.runfolder import RunFolder

_HERE = Path(__file__).parent
_MAX_LISTED = 1000  # acquisitions and items in the page; items.parquet and the ledger hold all of them


def write_report(out: str | Path, *, truth: pd.DataFrame | None = None, size: int = 560) -> Path:
    """Write OUT/report.html from a finished run folder.

    Parameters
    ----------
    out
        The run's folder: plan, lock, ledger, map, units and tables.
    truth
        Rows unit_id, object, period, count of a simulated country; the page compares the map with them.
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
    run = RunFolder.open(out)
    path = run.path / runpaths.REPORT
    write_atomic(path, render(read_contents(run, truth=truth, size=size)).encode())
    return path


def render(contents: Contents) -> str:
    """The page as text; the same contents give the same text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "compact": compact, "percent": percent, "title": title}
    totals, periods = region_totals(contents), chosen_periods(contents)
    flag_text = FLAGS | {SYNTHETIC: "too few labelled cells: the estimate is carried over from the whole sample"}
    environment.globals["flag_text"] = flag_text
    return environment.get_template("page.html").render(
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        run=contents,
        banner=banner(contents),
        objects=[
            object_section(contents, name, totals, periods) for name in track(contents.objects, "draw", "objects")
        ],
        maps=map_section(contents, periods),
        months=_months(contents),
        offsets=_offsets(contents),
        acquisitions=_acquisitions(contents),
        locked=_locked(contents),
        incomplete=contents.expected_blocks - contents.done_blocks,
        n_roots=len(roots(contents.units)),
        n_leaves=len(leaves(contents.units)),
        max_rows=MAX_ROWS,
    )


def _months(contents: Contents) -> dict[str, Any]:
    """Acquisitions used, by year and month."""
    if contents.acquisitions.empty:
        return {"years": [], "most": 0}
    times = pd.to_datetime(contents.acquisitions.time, utc=True, format="ISO8601")
    dates = pd.DataFrame({"id": contents.acquisitions.acquisition, "year": times.dt.year, "month": times.dt.month})
    dates = dates.drop_duplicates("id")
    table = dates.groupby(["year", "month"]).size()
    years = [
        {"year": int(year), "months": [int(table.get((year, month), 0)) for month in range(1, 13)]}
        for year in range(int(dates.year.min()), int(dates.year.max()) + 1)
    ]
    return {"years": years, "most": int(table.max())}


def _offsets(contents: Contents) -> Table | None:
    """The offset decisions of the lock: how many items were treated in which way, and why."""
    groups = contents.items.groupby(["baseline", "offset_dn", "offset_reason"], sort=True).size().rename("items")
    columns = (
        Column("Baseline", "baseline"),
        Column("Items", "items", "0"),
        Column("Added to the digital numbers", "offset_dn", "0"),
        Column("Why", "offset_reason"),
    )
    return make_table("offsets", "Radiometric offset", columns, _records(groups.reset_index()))


def _acquisitions(contents: Contents) -> Table | None:
    times = contents.acquisitions.time.astype(str).str[:16].str.replace("T", " ")
    columns = (
        Column("Acquisition", "acquisition"),
        Column("Time", "time"),
        Column("Period", "period"),
        Column("Blocks", "blocks", "0"),
        Column("Observed pixels", "observed_px", "0"),
    )
    records = _records(contents.acquisitions.assign(time=times))
    return make_table("acquisitions", "Acquisitions used", columns, records)


def _locked(contents: Contents) -> Table | None:
    columns = (
        Column("Item", "id"),
        Column("Tile", "tile"),
        Column("Period", "period"),
        Column("Baseline", "baseline"),
        Column("Offset", "offset_dn", "0"),
        Column("Cloud", "cloud", "%"),
    )
    records = _records(contents.items.assign(cloud=contents.items.cloud_cover.astype(float) / 100))
    return make_table("items", "Items locked", columns, records)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [shown(row) for row in table.head(_MAX_LISTED).to_dict("records")]
