"""Expected residual spread of the strata, from a prior or a pilot sample.

In: what the map predicts in each stratum. Out: standard deviation of count - map in a cell, by stratum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.estimation.strata import UNSEEN, ZERO

Array = NDArray[np.float64]
_CROWDING = 2.0  # squared number of missed objects in a cell, relative to the mean of cells with predicted objects


@dataclass(frozen=True)
class Prior:
    """Assumed errors of a map before labelling."""

    omission: float = 0.1
    """Share of all objects on land where the map predicts nothing."""
    error: float = 0.5
    """Standard deviation of count - map as a share of the map, in addition to Poisson variation."""

    def spread(self, names: Sequence[str], size: NDArray[np.int64], total: Array) -> Array:
        """(stratum,) expected standard deviation of count - map.

        Parameters
        ----------
        names, size, total
            (stratum,) names of the strata (see `stratify`), cells of the frame, objects that the map predicts.
        """
        size, total = np.asarray(size, float), np.maximum(np.asarray(total, float), 0)
        zero = np.array([name in ZERO for name in names])
        unseen = np.array([name == UNSEEN for name in names])
        full = ~zero & ~unseen
        mean = total / np.maximum(size, 1)
        spread = np.sqrt(mean + (self.error * mean) ** 2)
        crowd = total[full].sum() / max(size[full].sum(), 1.0)  # objects in a cell that has some
        second = crowd + _CROWDING * crowd**2
        # Missed objects: half of them near others, equally crowded.
        missed = self.omission * total[full].sum() / max(zero.sum(), 1)
        holds = np.minimum(missed / np.maximum(size * max(crowd, 1e-9), 1e-9), 1.0)
        spread[zero] = np.sqrt(holds[zero] * second)
        seen = size[full].sum() / max(size[~unseen].sum(), 1.0)
        spread[unseen] = np.sqrt(max(seen, 0.01) * second)
        return spread


def pilot_spread(residual: Array, stratum: NDArray[np.int64], prior: Array) -> Array:
    """(stratum,) standard deviation of the residuals of a pilot sample; the prior with fewer than 5 cells.

    A stratum without errors in the pilot keeps half of its prior, because a few cells cannot prove that errors are
    zero.
    """
    spread = np.array(prior, float)
    for one in range(len(spread)):
        own = residual[stratum == one]
        if len(own) >= 5:
            spread[one] = max(float(np.std(own, ddof=1)), 0.5 * spread[one])
    return spread
