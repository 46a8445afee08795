"""Computes the trends of a run folder; removes an effect common to all units if requested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from subpixmap import runpaths
from subpixmap.errors import InputError
from subpixmap.runfolder import RunFolder
from subpixmap.tables import CHANGES, TREND, rounded, write_csv, write_table
from subpixmap.trends.inputs import inputs_by_period
from subpixmap.trends.shared_effects import background_effect, unchanged_effect
from subpixmap.trends.unit_trends import Followed, follow


def trend_of_run(
    run: RunFolder,
    *,
    level: float = 0.95,
    steady_within: float = 0.05,
    unchanged: Sequence[str] = (),
    background: bool = False,
) -> Followed:
    """Trends and changes of the counts of a run, on pixels observed in every period.

    Parameters
    ----------
    run
        With counts.parquet and series.parquet.
    level
        Confidence of the intervals.
    steady_within
        A unit is steady if its change is within this share of the first total.
    unchanged
        Ids of units known not to change; their common deviations in a period are removed from all units.
    background
        Instead subtract the count where the object is never present.

    Raises
    ------
    InputError
        The run has no counts, an unchanged unit is not among them, or both effects are requested.
    """
    if unchanged and background:
        raise InputError(
            f"--unchanged {','.join(unchanged)} and --background: the shared effect is taken from one of them; give "
            "only one"
        )
    effect = None
    if unchanged:
        effect = unchanged_effect(run.series, unchanged)
    elif background:
        effect = background_effect(run.series)
    return follow(
        run.counts,
        run.series,
        level=level,
        steady_within=steady_within,
        year_effect=effect,
        inputs=inputs_by_period(run.items_by_period),
    )


def write_trend(folder: Path, followed: Followed) -> list[Path]:
    """Write trend.csv, trend.parquet and changes.csv into a run folder; returns their paths."""
    return [
        *write_table(followed.trend, folder / runpaths.TREND_PARQUET, TREND),
        write_csv(rounded(followed.changes, CHANGES), folder / runpaths.CHANGES_CSV, CHANGES),
    ]
