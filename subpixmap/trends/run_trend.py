"""A run folder with counts -> its trends, with an effect that all units share removed where that is asked for."""

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
    """Trends and changes of the counts of a run, on the pixels that were observed in every period.

    Parameters
    ----------
    run
        With counts.parquet and series.parquet.
    level
        Confidence of the intervals.
    steady_within
        Share of the first total within which a unit counts as steady.
    unchanged
        Ids of units that did not change, as the user knows; what their totals share in a period is removed from all
        units.
    background
        Remove instead what the map counts where the object is never present.

    Raises
    ------
    InputError
        The run has no counts, an unchanged unit is not among them, or both effects are asked for.
    """
    if unchanged and background:
        raise InputError(
            f"--unchanged {','.join(unchanged)} and --background: a shared effect comes from one of them; give one"
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
