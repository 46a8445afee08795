"""How many objects a sample may have missed altogether: rare, crowded omissions where the map predicts nothing.

In: labelled counts of the strata in which the map predicts nothing. Out: objects that could stand there without having
been seen. A sample of 50 empty cells easily misses groves that fill one such cell in a hundred; its own spread says
nothing of them, and an interval that rests on it alone covers far too rarely. What bounds them:

- cells: without an object in n labelled cells, at most about 3 / n of all such cells hold some (rule of three);
- objects in a cell: at most as many as in the fullest labelled cell;
- a stated share of all objects (`MOST`), since the product of the two is large for small samples;
- less what the sample did find there, with its error: that is in the interval already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.estimators import Domains, spread_of
from subpixmap.estimation.layout import Array, Layout

MOST = 0.12
"""Share of all objects that may stand unseen where the map predicts nothing, unless it is stated otherwise."""
_CHANCE = 0.05
_GATHERED = 2.0  # a unit may hold twice its share of what the region may hold unseen
_REACH = 4.0  # standard errors of what was found: as far as an interval with few degrees of freedom goes


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
    """Objects of every domain that could stand unseen where the map predicts nothing.

    Parameters
    ----------
    y
        (..., cell) labelled counts.
    value
        (...) estimated totals.
    layout, domains
        How the cells were drawn, and what is estimated.
    zero
        (stratum,) whether the map predicts nothing there.
    region
        (...) estimated total of the region, if the domains are parts of it: what the region may hold unseen stands
        anywhere in such land, up to twice as dense in one unit as in all, also where few objects are predicted.
    most
        Share of all objects that may stand there unseen, at most.
    """
    inside = domains.member & zero[layout.stratum]
    labelled = layout.by_stratum(inside)
    # A share p of cells with objects leaves n labelled cells empty with chance (1 - p)^n; p is the share at 5 %. One
    # stratum may hold all of it: the likeliest place is the one with most cells for each that was labelled.
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
