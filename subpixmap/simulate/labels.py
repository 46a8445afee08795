"""A simulated country -> what an interpreter without errors would count in cells.

In: the points of a country and outlines. Out: counts by cell, object and year. These are simulated labels, and
everything made of them must say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from subpixmap.simulate.worlds import VISIBLE_AGE


def true_counts(
    folder: Path, outlines: NDArray[np.object_], *, objects: Sequence[str], years: Sequence[str]
) -> NDArray[np.float64]:
    """(cell, object, year) objects of a country inside outlines.

    Parameters
    ----------
    folder
        Of the country.
    outlines
        (cell,) polygons in EPSG:4326.
    objects, years
        What is counted, and when ("2021"); an object younger than its visible age does not count.
    """
    points = gpd.read_parquet(folder / "points.parquet")
    tree = shapely.STRtree(points.geometry.to_numpy())
    cell, point = tree.query(outlines, predicate="contains")
    inside = pd.DataFrame(points.drop(columns="geometry")).iloc[point]
    planted = inside["year_planted"].to_numpy(float)
    removed = inside["year_removed"].astype("float64").fillna(np.inf).to_numpy()
    kind = inside["object"].to_numpy(object)
    counts = np.zeros((len(outlines), len(objects), len(years)))
    for o, name in enumerate(objects):
        for p, year in enumerate(map(int, years)):
            stands = (kind == name) & (year - planted >= VISIBLE_AGE[name]) & (removed > year)
            counts[:, o, p] = np.bincount(cell[stands], minlength=len(outlines))
    return counts
