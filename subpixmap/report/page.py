"""A finished run -> one self-contained HTML page: map, series, tables and where every number comes from.

The page needs no network: figures, style and script are in it. It shows the tables of the run; the only numbers that it
adds are sums over the top units and what lies outside all units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from subpixmap import runpaths
from subpixmap.counts.rows import FLAGS
from subpixmap.estimation.results import SYNTHETIC
from subpixmap.files import write_atomic
from subpixmap.report.contents import Contents, read_contents
from subpixmap.report.estimates_section import ERROR_BANDS
from subpixmap.report.formatting import compact, number, percent, shown, title
from subpixmap.report.map_section import map_section
from subpixmap.report.object_section import MAX_ROWS, object_section
from subpixmap.report.summary import banner, leaves, region_totals, roots
from subpixmap.runfolder import RunFolder

_HERE = Path(__file__).parent


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
    totals = region_totals(contents)
    return environment.get_template("page.html").render(
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        run=contents,
        banner=banner(contents),
        objects=[object_section(contents, name, totals) for name in contents.objects],
        maps=map_section(contents),
        months=_months(contents),
        offsets=_offsets(contents),
        incomplete=contents.expected_blocks - contents.done_blocks,
        n_roots=len(roots(contents.units)),
        n_leaves=len(leaves(contents.units)),
        max_rows=MAX_ROWS,
        error_bands=ERROR_BANDS,
        flag_text=FLAGS | {SYNTHETIC: "too few labelled cells: the estimate is carried over from the whole sample"},
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


def _offsets(contents: Contents) -> list[dict[str, Any]]:
    """The offset decisions of the lock: how many items were treated in which way, and why."""
    groups = contents.items.groupby(["baseline", "offset_dn", "offset_reason"], sort=True).size().rename("items")
    return [shown(row) for row in groups.reset_index().to_dict("records")]
