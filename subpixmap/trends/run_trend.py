"""A run folder with counts -> its trends, with an effect that all units share removed where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from subpixmap.errors import InputError
from subpixmap.runfolder import RunFolder
from subpixmap.trends.shared_effects import background_effect, unchanged_effect
from subpixmap.trends.unit_trends import trend


def trend_of_run(
    run: RunFolder, *, level: float = 0.95, unchanged: Sequence[str] = (), background: bool = False
) -> pd.DataFrame:
    """Trends of the counts of a run, on the pixels that were observed in every period.

    Parameters
    ----------
    run
        With counts.parquet and series.parquet.
    level
        Confidence of the intervals of the slopes.
    unchanged
        Ids of units that did not change, as the user knows; what their totals share in a period is removed from all
        units.
    background
        Remove instead what the map counts where the object is never present.

    Returns
    -------
    pandas.DataFrame
        The columns of `tables.TREND`.

    Raises
    ------
    InputError
        The run has no counts, an unchanged unit is not among them, or both effects are asked for.
    """
    if unchanged and background:
        raise InputError("a shared effect comes from unchanged units or from the background; give one of them")
    effect = None
    if unchanged:
        effect = unchanged_effect(run.series, unchanged)
    elif background:
        effect = background_effect(run.series)
    return trend(run.counts, run.series, level=level, year_effect=effect)
