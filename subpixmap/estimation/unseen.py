"""Bounds the number of objects that a sample may have missed: rare, crowded omissions where the map predicts nothing.

In: labelled counts of the strata in which the map predicts nothing. Out: number of objects that may be unseen there. A
sample of 50 empty cells easily misses groves in one of a hundred such cells. Its spread does not show them, so an
interval from it alone covers far too rarely. The bounds are:

- cells: without an object in n labelled cells, at most about 3 / n of all such cells have some (rule of three);
- objects in a cell: at most as many as in the fullest labelled cell;
- a stated share of all objects (`MOST`), since the product of the two is large for small samples;
- minus the objects found there, with their error, which the interval already includes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.estimators import Domains, spread_of
from subpixmap.estimation.layout import Array, Layout

MOST = 0.12
"""Default of the largest share of objects that map and sample may both miss."""
_CHANCE = 0.05
_GATHERED = 2.0  # a unit may have twice its share of the region's unseen objects
_REACH = 4.0  # standard errors of the found objects, as in an interval with few degrees of freedom


def unseen_objects(
    y: NDArray[Any],
    value: Array,
    layout: Layout,
    domains: Domains,
    zero: NDArray[np.bool_],
    *,
    region: Array | None = None,
    most: float = MOST,
) -> Array:
    """Objects of every domain that may be unseen where the map predicts nothing.

    Parameters
    ----------
    y
        (..., cell) labelled counts.
    value
        (...) estimated totals.
    layout, domains
        The layout of the sample, and the domains to estimate.
    zero
        (stratum,) whether the map predicts nothing there.
    region
        (...) estimated total of the region, if the domains are parts of it: the region's unseen objects may be anywhere
        on such land, up to twice as dense in one unit as in the region, also where few objects are predicted.
    most
        Largest share of all objects that may be unseen there.
    """
    inside = domains.member & zero[layout.stratum]
    labelled = layout.by_stratum(inside)
    # If a share p of cells has objects, n labelled cells are empty with probability (1 - p)^n; p is the share at 5 %.
    # All of it may be in one stratum, most likely the one with most cells per labelled cell.
    share = np.where(labelled > 0, 1 - _CHANCE ** (1 / np.maximum(labelled, 1)), 1.0)
    cells = (np.where(zero, np.maximum(domains.cells - labelled, 0), 0.0) * share).max(axis=-1, initial=0.0)
    found = spread_of(inside * y, layout)
    seen = (inside * layout.weight * y).sum(axis=-1) + _REACH * np.sqrt(found.variance)
    part = np.asarray(value)
    if region is not None:
        land = (domains.cells * zero).sum(axis=-1) / max(float(layout.stratum_size[zero].sum()), 1.0)
        part = np.maximum(part, np.minimum(_GATHERED * land, 1.0) * region)
    bound = np.minimum(cells * np.max(y, axis=-1), most / (1 - most) * np.maximum(part, 0.0))
    unseen: Array = np.maximum(bound - seen, 0.0)
    return unseen
