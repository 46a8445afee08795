"""Measures the coverage of intervals with simulated samples of a population with known total.

In: counts and map counts of all cells. Out: bias, standard error and coverage of the interval for every estimator. All
samples are drawn at once: 2,000 of them take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.estimation.allocation import allocate
from subpixmap.estimation.draw import hilbert, segments_of
from subpixmap.estimation.estimators import ESTIMATORS, Domains, estimate_total, spread_of
from subpixmap.estimation.intervals import MIN_CELLS, interval, why_none
from subpixmap.estimation.layout import Array, Layout
from subpixmap.estimation.populations import KINDS, Population, make_population
from subpixmap.estimation.prior import Prior
from subpixmap.estimation.strata import UNSEEN, ZERO, stratify
from subpixmap.estimation.unseen import MOST, unseen_objects

_AT_ONCE = 500  # samples


@dataclass(frozen=True)
class SamplePlan:
    """A stratified design of a population."""

    stratum: NDArray[np.int64]
    """(cell,)."""
    mapped: NDArray[np.bool_]
    """(stratum,) whether its cells are observed in the map."""
    zero: NDArray[np.bool_]
    """(stratum,) whether the map predicts nothing there."""
    segments: tuple[tuple[NDArray[np.int64], int], ...]
    """Cells of each segment, and how many are drawn from it; by stratum."""
    segment_stratum: NDArray[np.int64]
    """(segment,)."""

    @property
    def layout(self) -> Layout:
        """The layout of any sample of this plan."""
        drawn = [n for _, n in self.segments]
        size = np.array([len(cells) for cells, _ in self.segments])
        return Layout(np.repeat(np.arange(len(drawn)), drawn), size, self.segment_stratum, self.mapped)


def plan_sample(population: Population, n: int, *, prior: Prior = Prior()) -> SamplePlan:  # noqa: B008 (frozen)
    """The design of `sample design` for a population."""
    stratum, names = stratify(population.predicted, population.seen, population.present, population.near)
    size = np.bincount(stratum)
    spread = prior.spread(names, size, np.bincount(stratum, population.predicted).astype(float))
    zero = np.array([name in ZERO for name in names])
    wanted = allocate(size, spread, zero, n)
    place = hilbert(population.x, population.y)
    segments, strata = [], []
    for one, n_one in enumerate(wanted.tolist()):
        own = np.flatnonzero(stratum == one)
        parts = segments_of(own[np.argsort(place[own], kind="stable")], n_one)
        segments += parts
        strata += [one] * len(parts)
    mapped = np.array([name != UNSEEN for name in names])
    return SamplePlan(stratum, mapped, zero, tuple(segments), np.array(strata))


def plan_simple(population: Population, n: int) -> SamplePlan:
    """A simple random sample."""
    cells = np.arange(len(population.count))
    return SamplePlan(np.zeros(len(cells), np.int64), np.array([True]), np.array([False]), ((cells, n),), np.array([0]))


def draw_many(plan: SamplePlan, draws: int, *, seed: int) -> NDArray[np.int64]:
    """(draw, cell) positions of the cells of many samples of one design."""
    rng = np.random.default_rng(seed)
    return np.concatenate([_choose(rng, cells, n, draws) for cells, n in plan.segments], axis=1)


def _choose(rng: np.random.Generator, cells: NDArray[np.int64], n: int, draws: int) -> NDArray[np.int64]:
    """(draw, n) distinct cells with equal probability."""
    if n == len(cells):
        return np.tile(cells, (draws, 1))
    if n == 2:
        first = rng.integers(len(cells), size=draws)
        second = rng.integers(len(cells) - 1, size=draws)
        return cells[np.stack([first, second + (second >= first)], axis=1)]
    parts = [
        cells[np.argpartition(rng.random((rows, len(cells)), np.float32), n - 1, axis=1)[:, :n]]
        for rows in np.diff(np.append(np.arange(0, draws, 100), draws))
    ]
    return np.concatenate(parts)


def simulate(
    population: Population,
    plan: SamplePlan,
    *,
    draws: int = 2000,
    seed: int = 0,
    estimators: Sequence[str] = ESTIMATORS,
    min_cells: int = MIN_CELLS,
    most_unseen: float = MOST,
) -> pd.DataFrame:
    """Performance of the estimators over many samples.

    Parameters
    ----------
    population, plan
        The population and the design.
    draws, seed
        Number of samples, and random seed.
    estimators
        Names of the estimators.
    min_cells, most_unseen
        As `Rules.min_cells` and `Rules.unseen`.

    Returns
    -------
    pandas.DataFrame
        A row per estimator: `bias_pct` and `rse_pct` of the truth, `coverage_95` and `mean_width_pct` of the printed
        intervals, `printed` (their share), `missed_low` and `missed_high` (truth below or above the interval).
    """
    chosen = draw_many(plan, draws, seed=seed)
    everywhere = np.ones(len(population.count), bool)
    rows = []
    for name in estimators:
        of = _estimate_draws(name, population, plan, everywhere, chosen, min_cells=min_cells, most_unseen=most_unseen)
        rows.append({"estimator": name, **_judge(of, population.truth)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Draws:
    """Estimates of one domain from many samples: (draw,) each."""

    value: Array
    se: Array
    low: Array
    """NaN without an interval."""
    high: Array
    labelled: NDArray[np.int64]
    """Labelled cells of the domain."""


def _estimate_draws(
    name: str,
    population: Population,
    plan: SamplePlan,
    within: NDArray[np.bool_],
    chosen: NDArray[np.int64],
    *,
    min_cells: int,
    most_unseen: float,
) -> _Draws:
    """One estimator for the cells `within`, for every sample in `chosen`."""
    cells = np.bincount(plan.stratum[within], minlength=len(plan.mapped)).astype(float)
    on_map = np.array(population.predicted[within & plan.mapped[plan.stratum]].sum())
    parts = []
    for some in np.array_split(chosen, -(-len(chosen) // _AT_ONCE)):
        domains, layout, y = Domains(within[some], cells, on_map, on_map), plan.layout, population.count[some]
        total = estimate_total(name, y, population.predicted[some], layout, domains)
        spread = spread_of(total.influence, layout)
        region = None if within.all() else _region_total(name, y, population, some, plan)
        unseen = unseen_objects(y, total.value, layout, domains, plan.zero, region=region, most=most_unseen)
        low, high = interval(total.value, spread, least=(y * domains.member).sum(axis=-1), unseen=unseen)
        labelled = domains.member.sum(axis=-1)
        why = why_none(
            total.value,
            spread,
            unseen=unseen,
            labelled=labelled,
            labelled_zero=(domains.member & plan.zero[layout.stratum]).sum(axis=-1),
            cells=cells.sum(),
            zero_cells=cells[plan.zero].sum(),
            min_cells=min_cells,
        )
        none = why != ""
        parts.append(
            (total.value, np.sqrt(spread.variance), np.where(none, np.nan, low), np.where(none, np.nan, high), labelled)
        )
    return _Draws(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _region_total(name: str, y: Array, population: Population, some: NDArray[np.int64], plan: SamplePlan) -> Array:
    """(draw,) estimated total of the whole place."""
    everywhere = np.ones(some.shape, bool)
    on_map = np.array(population.predicted[plan.mapped[plan.stratum]].sum())
    domains = Domains(everywhere, plan.layout.stratum_size, on_map, on_map)
    return estimate_total(name, y, population.predicted[some], plan.layout, domains).value


def _judge(of: _Draws, truth: float) -> dict[str, Any]:
    printed = np.isfinite(of.low)
    below, above = (truth < of.low)[printed], (truth > of.high)[printed]
    some = bool(printed.any())
    return {
        "bias_pct": 100 * (of.value.mean() / truth - 1),
        "rse_pct": 100 * of.value.std() / truth,
        "se_ratio": float(np.sqrt((of.se**2).mean()) / of.value.std()),
        "coverage_95": 100 * float(1 - (below | above).mean()) if some else np.nan,
        "missed_low": 100 * float(below.mean()) if some else np.nan,
        "missed_high": 100 * float(above.mean()) if some else np.nan,
        "mean_width_pct": 100 * float((of.high - of.low)[printed].mean()) / truth if some else np.nan,
        "printed": 100 * float(printed.mean()),
    }


# Tables ---------------------------------------------------------------------------------------------------------------


def coverage_table(
    kinds: Sequence[str] = KINDS, sizes: Sequence[int] = (100, 150, 300), *, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """`simulate` for several populations and sample sizes, with columns `population` and `n`."""
    parts = []
    for kind in kinds:
        population = make_population(kind, seed=seed)
        for n in sizes:
            found = simulate(population, plan_sample(population, n), draws=draws, seed=seed + n)
            parts.append(found.assign(population=kind, n=n))
    return pd.concat(parts, ignore_index=True)


BANDS = (10, 30, 50, 100, 10_000)
"""Classes of labelled cells per unit: limits of the rows of `unit_table`."""


def unit_table(
    kinds: Sequence[str] = KINDS,
    sizes: Sequence[int] = (300, 600, 1200),
    *,
    draws: int = 500,
    seed: int = 0,
    across: int = 4,
    max_cv: float = 0.33,
) -> pd.DataFrame:
    """Coverage of single units in the sample of the region; each place has `across` x `across` square units.

    Returns
    -------
    pandas.DataFrame
        A row per population, size of the sample and band of labelled cells of a unit (see `BANDS`): `pairs` (unit and
        draw), `printed` (share with an interval that is not suppressed), `coverage_95` and `mean_width_pct` of those.
    """
    parts = []
    for kind in kinds:
        population = make_population(kind, seed=seed)
        side = int(population.x.max()) + 1
        unit = (population.y * across // side * across + population.x * across // side).astype(np.int64)
        for n in sizes:
            plan = plan_sample(population, n)
            found = pd.concat(
                [_unit_draws(population, plan, unit == one, draws, seed + n, max_cv) for one in range(across**2)]
            )
            parts.append(_by_band(found).assign(population=kind, n=n))
    return pd.concat(parts, ignore_index=True)


def _unit_draws(
    population: Population, plan: SamplePlan, within: NDArray[np.bool_], draws: int, seed: int, max_cv: float
) -> pd.DataFrame:
    """(draw,) labelled cells of a unit, whether an interval is printed and covers, and its width."""
    truth = float(population.count[within].sum())
    chosen = draw_many(plan, draws, seed=seed)
    name = "regression" if chosen.shape[1] >= 100 else "difference"
    of = _estimate_draws(name, population, plan, within, chosen, min_cells=MIN_CELLS, most_unseen=MOST)
    with np.errstate(divide="ignore", invalid="ignore"):
        printed = np.isfinite(of.low) & (of.se <= max_cv * np.abs(of.value))
    return pd.DataFrame(
        {
            "labelled": of.labelled,
            "printed": printed,
            "covers": (of.low <= truth) & (truth <= of.high),
            "width": (of.high - of.low) / max(truth, 1.0),
        }
    )


def _by_band(found: pd.DataFrame) -> pd.DataFrame:
    names = [f"{low} to {high - 1}" if high < BANDS[-1] else f"{low} or more" for low, high in pairwise(BANDS)]
    band = pd.cut(found["labelled"], BANDS, right=False, labels=names)
    rows = []
    for name, own in found.groupby(band, observed=True):
        shown = own[own["printed"]]
        rows.append(
            {
                "labelled": name,
                "pairs": len(own),
                "printed": 100 * own["printed"].mean(),
                "coverage_95": 100 * shown["covers"].mean(),
                "mean_width_pct": 100 * shown["width"].mean(),
            }
        )
    return pd.DataFrame(rows)
