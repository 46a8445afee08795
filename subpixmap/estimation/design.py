"""Designs a sample of a map: which cells to label, and the weight of each.

In: the cells of a frame and the user's options. Out: strata, numbers of cells, drawn cells, and sums of the frame for
estimates. This module does not read or write files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.counts.units import Units
from subpixmap.errors import InputError
from subpixmap.estimation.allocation import LEAST, allocate, expected_error, needed
from subpixmap.estimation.draw import Drawn, draw
from subpixmap.estimation.frame import FrameCells, levels_of, near_cells
from subpixmap.estimation.prior import Prior, pilot_spread
from subpixmap.estimation.strata import ALMOST_NONE, UNSEEN, ZERO, stratify
from subpixmap.tables import REGION

NEAR_M = 300.0
"""Distance within which a cell without predicted objects counts as near them, metres."""
MOST = 0.5
"""Largest share of the frame in a sample; a target that needs more is refused."""
USUAL_CV = 10.0
"""Target standard error used to allocate cells among units when none is given, percent."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Options of a sample design."""

    cell: float = 100.0
    """Side of a cell, metres."""
    n: int | None = None
    """Number of cells; when None, as many as the target needs, or 300 without a target."""
    by: str | None = None
    """Level of units to stratify by: 1 for the highest, 2, ..., or "lowest"."""
    target_cv: float | None = None
    """Target standard error, percent of each total."""
    periods: tuple[str, ...] = ()
    """Labels of periods; the last period of the run when empty."""
    objects: tuple[str, ...] = ()
    """Names of objects; all countable objects when empty."""
    interpreters: int = 1
    """Number of people who label each cell independently."""
    seed: int = 0
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 2:
            raise InputError(f"--n {self.n}: give 2 or more")
        if self.target_cv is not None and not 0 < self.target_cv < 100:
            raise InputError(f"--target-cv {self.target_cv:g}: give a percentage between 0 and 100")
        if not 1 <= self.interpreters <= 9:
            raise InputError(f"--interpreters {self.interpreters}: give a number between 1 and 9")
        if not (0 <= self.prior.omission < 1 and self.prior.error > 0):
            raise InputError("--omission must be a share between 0 and 1, --map-error must be positive")


@dataclass(frozen=True)
class Strata:
    """The strata of a frame, before cells are drawn."""

    of_cell: NDArray[np.int64]
    """(cell,)."""
    names: tuple[str, ...]
    """(stratum,) description of the map's values there."""
    group: NDArray[np.int64]
    """(stratum,) position of its unit; -1 if strata are not split by units."""
    size: NDArray[np.int64]
    """(stratum,) cells."""
    total: Array
    """(stratum, object) objects of the map, mean over the periods."""
    spread: Array
    """(stratum, object) expected standard deviation of count - map in a cell."""

    @property
    def zero(self) -> NDArray[np.bool_]:
        """(stratum,) whether the map predicts nothing there."""
        return np.array([name in ZERO for name in self.names])

    @property
    def mapped(self) -> NDArray[np.bool_]:
        """(stratum,) whether its cells are observed in the map."""
        return np.array([name != UNSEEN for name in self.names])

    @property
    def joint_spread(self) -> Array:
        """(stratum,) spread over all objects, each as a share of its total."""
        total = np.maximum(self.total.sum(axis=0), 1e-9)
        relative: Array = np.sqrt(((self.spread / total) ** 2).mean(axis=1)) * total.mean()
        return relative


@dataclass(frozen=True)
class SampleDesign:
    """A drawn sample."""

    cells: pd.DataFrame
    """`tables.SAMPLE_CELLS`: a row per drawn cell, period and object."""
    frame: pd.DataFrame
    """`tables.SAMPLE_FRAME`: sums of the frame."""
    strata: pd.DataFrame
    """A row per stratum: name, unit_id, cells, drawn, mapped, expected spread by object."""
    needed: dict[str, int | None]
    """Level -> number of cells needed for the target (or 10 %) in each of its units; None if unreachable."""
    expected_cv: dict[str, float]
    """Object -> expected standard error of the region's total, percent."""
    usual_cv: float = USUAL_CV


def make_design(
    cells: FrameCells,
    units: Units,
    wish: Wish,
    *,
    periods: Sequence[str],
    objects: Sequence[str],
    pilot: pd.DataFrame | None = None,
) -> SampleDesign:
    """Draw a stratified sample of cells.

    Parameters
    ----------
    cells, units
        The frame, and the units of its cells.
    wish
        Options of the design.
    periods, objects
        Of the cells.
    pilot
        Labelled cells of an earlier sample: `cell_id`, `period`, `object`, `n_objects`, `mapped`. Their residuals
        decide the allocation; without a pilot, a prior does.

    Raises
    ------
    InputError
        No sample of the frame reaches the target, or the frame has too few cells.
    """
    group = _groups(cells, units, wish.by)
    strata = make_strata(cells, group, wish, pilot=pilot, objects=objects)
    n, wanted_by_level = _sizes(strata, cells, units, wish)
    drawn = draw(*_places(cells), strata.of_cell, dict(enumerate(n.tolist())), seed=wish.seed)
    shown = pd.DataFrame(
        {
            "stratum": strata.names,
            "unit_id": [None if at < 0 else units.table["unit_id"].iloc[at] for at in strata.group],
            "cells": strata.size,
            "drawn": n,
            "mapped": strata.mapped,
            **{f"spread_{name}": strata.spread[:, o] for o, name in enumerate(objects)},
        }
    )
    return SampleDesign(
        cells=_cell_rows(cells, units, drawn, periods=periods, objects=objects),
        frame=frame_sums(cells, units, strata.of_cell, periods=periods, objects=objects),
        strata=shown,
        needed=wanted_by_level,
        expected_cv={name: _percent(strata, n, o) for o, name in enumerate(objects)},
    )


def _percent(strata: Strata, n: NDArray[np.int64], o: int) -> float:
    total = float(strata.total[:, o].sum())
    return 100 * expected_error(strata.size, strata.spread[:, o], n) / total if total > 0 else float("nan")


# Strata ---------------------------------------------------------------------------------------------------------------


def make_strata(
    cells: FrameCells, group: NDArray[np.int64], wish: Wish, *, objects: Sequence[str], pilot: pd.DataFrame | None
) -> Strata:
    """Make strata by the values of the map, and by unit if requested."""
    mapped = cells.mapped.mean(axis=1)  # (cell, object)
    total = mapped.sum(axis=0)
    share = total > 0
    # Several objects have equal weight, whatever their counts.
    scale = np.where(share, total[share].mean() / np.where(share, total, 1), 0.0) / max(share.sum(), 1)
    size = np.maximum(mapped * scale, 0).sum(axis=1)
    seen = np.asarray(cells.seen.all(axis=1))
    present = np.asarray(cells.present.any(axis=(1, 2)) | (cells.mapped >= ALMOST_NONE).any(axis=(1, 2)))
    reach = max(1, round(NEAR_M / (cells.px * next(iter(cells.grids.values())).lattice.resolution)))
    kind, kinds = stratify(size, seen, present, near_cells(cells, present & seen, reach))
    pairs, of_cell = np.unique(np.stack([group, kind]), axis=1, return_inverse=True)
    of_cell = of_cell.reshape(-1)
    names, count = tuple(kinds[one] for one in pairs[1]), np.bincount(of_cell)
    by_object = _sums(of_cell, mapped)
    spread = np.stack([wish.prior.spread(names, count, by_object[:, o]) for o in range(mapped.shape[1])], axis=1)
    if pilot is not None:
        spread = _pilot_spreads(cells, of_cell, pilot, objects, spread)
    return Strata(of_cell, names, pairs[0], count, by_object, spread)


def _sums(of_cell: NDArray[np.int64], values: Array) -> Array:
    """(cell, object) -> (stratum, object)."""
    return np.stack([np.bincount(of_cell, one).astype(float) for one in values.T], axis=1)


def _pilot_spreads(
    cells: FrameCells, of_cell: NDArray[np.int64], pilot: pd.DataFrame, objects: Sequence[str], prior: Array
) -> Array:
    """(stratum, object) spread of residuals of the pilot's cells in the frame."""
    place = {name: i for i, name in enumerate(cells.ids)}
    usable = pilot[pilot["cell_id"].isin(place)]
    spread = prior.copy()
    for o, name in enumerate(objects):
        own = usable[usable["object"] == name]
        at = of_cell[[place[one] for one in own["cell_id"]]] if len(own) else np.zeros(0, np.int64)
        residual = (own["n_objects"] - own["mapped"]).to_numpy(float)
        spread[:, o] = pilot_spread(residual, at, prior[:, o])
    return spread


def _groups(cells: FrameCells, units: Units, by: str | None) -> NDArray[np.int64]:
    """(cell,) the unit to stratify by; -1 for the rest of the region."""
    if by is None:
        return np.full(len(cells), -1, np.int64)
    n_levels = cells.unit.shape[1]
    level = n_levels if by == "lowest" else int(by) if by.isdigit() else 0
    if not 1 <= level <= n_levels:
        raise InputError(
            f"--by {by}: the units have {n_levels} level{'s' if n_levels > 1 else ''}; give 1 (the highest)"
            f"{f' to {n_levels}' if n_levels > 1 else ''}, or lowest"
        )
    return cells.unit[:, level - 1]


# Sizes ----------------------------------------------------------------------------------------------------------------


def _sizes(
    strata: Strata, cells: FrameCells, units: Units, wish: Wish
) -> tuple[NDArray[np.int64], dict[str, int | None]]:
    """(stratum,) cells to draw, and cells needed for the target at each level."""
    percent = wish.target_cv or USUAL_CV
    levels = _needed_by_level(strata, cells, units, percent, wish)
    groups = np.unique(strata.group)
    n = np.zeros(len(strata.size), np.int64)
    wants = {int(one): _needed_of(strata, strata.group == one, percent) for one in groups}
    if wish.target_cv is not None:
        if wish.n is None and (lost := [one for one, cells_of in wants.items() if cells_of is None]):
            where = "the region" if lost == [-1] else ", ".join(str(units.table["unit_id"].iloc[at]) for at in lost[:5])
            raise InputError(
                f"--target-cv {percent:g}: cannot be reached for {where} (no predicted objects, or too few cells); "
                "use a smaller --cell or a larger --target-cv, or give --n"
            )
    for one in groups:
        own = strata.group == one
        least, most = int(np.minimum(LEAST, strata.size[own]).sum()), int(strata.size[own].sum())
        want = wants[int(one)]
        if wish.target_cv is None or wish.n is not None:
            want = _share_of(wish.n or 300, int(one), wants, strata)
        size = want or least
        if len(groups) > 1:
            size = int(np.clip(size, least, most))
        n[own] = allocate(strata.size[own], strata.joint_spread[own], strata.zero[own], size)
    if wish.target_cv is not None and wish.n is None and n.sum() > MOST * len(cells):
        raise InputError(
            f"--target-cv {percent:g} needs {n.sum():,} of {len(cells):,} cells of the frame, which is too many: use "
            "a smaller --cell or a larger --target-cv, or give --n"
        )
    return n, levels


def _share_of(n: int, one: int, wants: dict[int, int | None], strata: Strata) -> int:
    """Share of n cells per unit, for the same relative error in each unit."""
    if len(wants) == 1:
        return n
    weight = {at: float(want or strata.size[strata.group == at].sum() ** 0.5) for at, want in wants.items()}
    return round(n * weight[one] / sum(weight.values()))


def _needed_of(strata: Strata, own: NDArray[np.bool_], percent: float) -> int | None:
    """Cells of some strata needed for the total of every object; None if unreachable."""
    size, spread, zero = strata.size[own], strata.joint_spread[own], strata.zero[own]
    totals = strata.total[own].sum(axis=0)
    targets = [(strata.spread[own, o], percent / 100 * total) for o, total in enumerate(totals) if total > 0]
    if not targets:
        return None
    try:
        return needed(size, spread, zero, targets=targets)
    except InputError:
        return None


def _needed_by_level(
    strata: Strata, cells: FrameCells, units: Units, percent: float, wish: Wish
) -> dict[str, int | None]:
    """Level -> cells needed so that each of its units reaches the target; without units that have no prediction."""
    found: dict[str, int | None] = {"region": _needed_in(strata, np.full(len(cells), -1), percent, cells)}
    for level in range(cells.unit.shape[1]):
        group = cells.unit[:, level]
        found[f"level {level + 1}"] = _needed_in(strata, group, percent, cells)
    return found


def _needed_in(strata: Strata, group: NDArray[np.int64], percent: float, cells: FrameCells) -> int | None:
    """Cells needed by all groups together, with the spread of their strata in the region."""
    pairs, of_cell = np.unique(np.stack([group, strata.of_cell]), axis=1, return_inverse=True)
    of_cell = of_cell.reshape(-1)
    mapped = cells.mapped.mean(axis=1)
    cut = Strata(
        of_cell,
        tuple(strata.names[one] for one in pairs[1]),
        pairs[0],
        np.bincount(of_cell),
        _sums(of_cell, mapped),
        strata.spread[pairs[1]],
    )
    wants = [_needed_of(cut, cut.group == one, percent) for one in np.unique(pairs[0])]
    reached = [one for one in wants if one is not None]
    return sum(reached) if reached else None


# Tables ---------------------------------------------------------------------------------------------------------------


def _places(cells: FrameCells) -> tuple[Array, Array]:
    """Places in degrees, with longitude scaled to the length of a degree of latitude."""
    lon, lat = cells.centres()
    return lon * np.cos(np.radians(lat.mean())), lat


def _cell_rows(
    cells: FrameCells, units: Units, drawn: Drawn, *, periods: Sequence[str], objects: Sequence[str]
) -> pd.DataFrame:
    """A row per drawn cell, period and object, ordered by segment."""
    part = cells.take(drawn.cell)
    lon, lat = part.centres()
    ids = units.table["unit_id"].to_numpy(object)
    size, stratum = drawn.segment_size[drawn.segment], drawn.segment_stratum[drawn.segment]
    drawn_of = np.bincount(drawn.segment)[drawn.segment]
    shape = (len(part), len(periods), len(objects))

    def spread(values: Any, axis: int) -> NDArray[Any]:
        view = [1, 1, 1]
        view[axis] = -1
        return np.broadcast_to(np.asarray(values).reshape(view), shape).ravel()

    held = np.array([json.dumps([str(ids[at]) for at in row if at >= 0]) for row in part.unit], object)
    return pd.DataFrame(
        {
            "cell_id": spread(np.array(part.ids, object), 0),
            "longitude": spread(lon, 0),
            "latitude": spread(lat, 0),
            "units": spread(held, 0),
            "stratum": spread(stratum, 0),
            "segment": spread(drawn.segment, 0),
            "segment_cells": spread(size, 0),
            "probability": spread(drawn_of / size, 0),
            "period": spread(np.array(periods, object), 1),
            "object": spread(np.array(objects, object), 2),
            "mapped": part.mapped.ravel(),
            "observed_frac": np.broadcast_to((part.observed_px / part.px**2)[..., None], shape).ravel(),
        }
    )


def frame_sums(
    cells: FrameCells, units: Units, stratum: NDArray[np.int64], *, periods: Sequence[str], objects: Sequence[str]
) -> pd.DataFrame:
    """Sums over the frame by unit and stratum: a row per unit (and REGION), stratum, period and object."""
    ids = units.table["unit_id"].to_numpy(object)
    level = levels_of(units)
    groups = [np.zeros(len(cells), np.int64)] + [cells.unit[:, one] for one in range(int(level.max(initial=0)) + 1)]
    parts = []
    for number, group in enumerate(groups):
        inside = group >= 0
        pairs, at = np.unique(np.stack([group[inside], stratum[inside]]), axis=1, return_inverse=True)
        at = at.reshape(-1)
        count = np.bincount(at, minlength=pairs.shape[1])
        names = np.full(pairs.shape[1], REGION, object) if number == 0 else ids[pairs[0]]
        for p, period in enumerate(periods):
            for o, name in enumerate(objects):
                mapped, counted = (
                    np.bincount(at, values[inside, p, o], pairs.shape[1]) for values in (cells.mapped, cells.counted)
                )
                parts.append(
                    pd.DataFrame(
                        {"unit_id": names, "stratum": pairs[1], "period": period, "object": name, "cells": count,
                         "mapped": mapped, "counted": counted}
                    )
                )  # fmt: skip
    return pd.concat(parts, ignore_index=True)
