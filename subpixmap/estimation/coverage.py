"""Do the intervals cover? Simulated samples of a population whose total is known.

In: counts and map counts of all cells. Out: for every estimator the bias, the standard error and how often the interval
holds the truth. All samples are drawn at once: 2,000 of them take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.estimation.allocation import allocate
from subpixmap.estimation.draw import hilbert, segments_of
from subpixmap.estimation.estimators import ESTIMATORS, Domains, estimate_total, spread_of
from subpixmap.estimation.intervals import interval
from subpixmap.estimation.layout import Layout
from subpixmap.estimation.prior import Prior
from subpixmap.estimation.strata import UNSEEN, ZERO, stratify

Array = NDArray[np.float64]
_AT_ONCE = 500  # samples


@dataclass(frozen=True)
class Population:
    """All cells of a place: what stands there, and what a map says."""

    x: Array
    """(cell,) place, cells."""
    y: Array
    count: Array
    """(cell,) objects."""
    predicted: Array
    """(cell,) objects of the map; 0 where it saw nothing."""
    seen: NDArray[np.bool_]
    """(cell,) whether the map saw it."""
    present: NDArray[np.bool_]
    """(cell,) whether the map predicts objects."""
    near: NDArray[np.bool_]
    """(cell,) whether it predicts some close by."""

    @property
    def truth(self) -> float:
        """Objects in all."""
        return float(self.count.sum())


@dataclass(frozen=True)
class SamplePlan:
    """A stratified design of a population."""

    stratum: NDArray[np.int64]
    """(cell,)."""
    mapped: NDArray[np.bool_]
    """(stratum,) whether the map saw its cells."""
    segments: tuple[tuple[NDArray[np.int64], int], ...]
    """Cells of each segment, and how many are drawn from it; by stratum."""
    segment_stratum: NDArray[np.int64]
    """(segment,)."""

    @property
    def layout(self) -> Layout:
        """Of any sample."""
        drawn = [n for _, n in self.segments]
        size = np.array([len(cells) for cells, _ in self.segments])
        return Layout(np.repeat(np.arange(len(drawn)), drawn), size, self.segment_stratum, self.mapped)


def plan_sample(population: Population, n: int, *, prior: Prior = Prior()) -> SamplePlan:  # noqa: B008 (frozen)
    """The design that `sample design` makes for a population."""
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
    return SamplePlan(stratum, mapped, tuple(segments), np.array(strata))


def plan_simple(population: Population, n: int) -> SamplePlan:
    """A simple random sample."""
    cells = np.arange(len(population.count))
    return SamplePlan(np.zeros(len(cells), np.int64), np.array([True]), ((cells, n),), np.array([0]))


def draw_many(plan: SamplePlan, draws: int, *, seed: int) -> NDArray[np.int64]:
    """(draw, cell) positions of the cells of many samples of one design."""
    rng = np.random.default_rng(seed)
    return np.concatenate([_choose(rng, cells, n, draws) for cells, n in plan.segments], axis=1)


def _choose(rng: np.random.Generator, cells: NDArray[np.int64], n: int, draws: int) -> NDArray[np.int64]:
    """(draw, n) different cells, any with the same chance."""
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
    inside: NDArray[np.bool_] | None = None,
    estimators: Sequence[str] = ESTIMATORS,
) -> pd.DataFrame:
    """How the estimators do over many samples.

    Parameters
    ----------
    population, plan
        What is sampled, and how.
    draws, seed
        Samples, and where their numbers start.
    inside
        (cell,) the part of the population that is estimated; all of it by default.

    Returns
    -------
    pandas.DataFrame
        A row per estimator: `bias_pct` and `rse_pct` of the truth, `coverage_95` and `mean_width_pct` of the intervals
        that are printed, `printed` (their share), `missed_low` and `missed_high` (truth below or above the interval).
    """
    within = np.ones(len(population.count), bool) if inside is None else inside
    layout = plan.layout
    cells = np.bincount(plan.stratum[within], minlength=len(plan.mapped)).astype(float)
    on_map = float(population.predicted[within & plan.mapped[plan.stratum]].sum())
    truth = float(population.count[within].sum())
    chosen = draw_many(plan, draws, seed=seed)
    rows = []
    for name in estimators:
        parts = [
            _one(
                name, population, within, layout, Domains(within[some], cells, np.array(on_map), np.array(on_map)), some
            )
            for some in np.array_split(chosen, -(-draws // _AT_ONCE))
        ]
        value, se, low, high = (np.concatenate(part) for part in zip(*parts, strict=True))
        rows.append({"estimator": name, **_judge(value, se, low, high, truth)})
    return pd.DataFrame(rows)


def _one(
    name: str,
    population: Population,
    within: NDArray[np.bool_],
    layout: Layout,
    domains: Domains,
    chosen: NDArray[np.int64],
) -> tuple[Array, Array, Array, Array]:
    y = population.count[chosen]
    total = estimate_total(name, y, population.predicted[chosen], layout, domains)
    spread = spread_of(total.influence, layout)
    least = (y * within[chosen]).sum(axis=-1)
    low, high = interval(total.value, spread, least=least)
    return total.value, np.sqrt(spread.variance), low, high


def _judge(value: Array, se: Array, low: Array, high: Array, truth: float) -> dict[str, Any]:
    printed = np.isfinite(low)
    below, above = (truth < low)[printed], (truth > high)[printed]
    some = bool(printed.any())
    return {
        "bias_pct": 100 * (value.mean() / truth - 1),
        "rse_pct": 100 * value.std() / truth,
        "se_ratio": float(np.sqrt((se**2).mean()) / value.std()),
        "coverage_95": 100 * float(1 - (below | above).mean()) if some else np.nan,
        "missed_low": 100 * float(below.mean()) if some else np.nan,
        "missed_high": 100 * float(above.mean()) if some else np.nan,
        "mean_width_pct": 100 * float((high - low)[printed].mean()) / truth if some else np.nan,
        "printed": 100 * float(printed.mean()),
    }


# Populations ----------------------------------------------------------------------------------------------------------

KINDS = ("easy", "rare", "omission", "biased", "clouded", "clumped")
"""What `make_population` makes."""


def make_population(kind: str, *, side: int = 120, seed: int = 0) -> Population:
    """A simulated place of `side` x `side` cells, and a map of it.

    Parameters
    ----------
    kind
        "easy": plantations, seen well. "rare": objects in one cell of a hundred. "omission": the map misses a ninth of
        the objects, which stand in one of twenty cells of empty land. "biased": the map is 40 % too high and blurs.
        "clouded": a quarter of the land was not seen. "clumped": few cells hold most objects, and the map errs by a
        factor.
    """
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(side * side), side)
    field = _smooth(rng, side, 6).ravel()
    share = {"rare": 0.01, "clumped": 0.08}.get(kind, 0.15)
    full = field > np.quantile(field, 1 - share)
    mean = np.where(full, 40 * (field - np.quantile(field, 1 - share)) / np.ptp(field) + 8, 0.0)
    if kind == "clumped":
        mean = mean * rng.gamma(0.5, 2.0, mean.shape)
    count = rng.poisson(mean).astype(float)
    error = {"clumped": rng.lognormal(-0.3, 0.8, count.shape)}.get(kind, rng.lognormal(-0.03, 0.25, count.shape))
    predicted = count * error + rng.normal(0, 0.15, count.shape)
    if kind == "biased":
        predicted = 1.4 * (0.8 * predicted + 0.2 * _blurred(predicted, side))
    if kind == "omission":
        alone = ~full & (rng.random(count.shape) < 0.05)
        count[alone] += rng.poisson(count.sum() / 8 / alone.sum(), int(alone.sum()))
    seen = np.ones(count.shape, bool)
    if kind == "clouded":
        cloud = _smooth(rng, side, 8).ravel()
        seen = cloud < np.quantile(cloud, 0.75)
    predicted = np.where(seen, predicted, 0.0)
    present = seen & (predicted > 1)
    near = _dilated(present.reshape(side, side), 2).ravel() & ~present
    return Population(col.astype(float), row.astype(float), count, predicted, seen, present, near)


def _smooth(rng: np.random.Generator, side: int, sigma: float) -> Array:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(rng.standard_normal((side, side)), sigma))


def _blurred(values: Array, side: int) -> Array:
    from scipy.ndimage import uniform_filter

    return np.asarray(uniform_filter(values.reshape(side, side), 3)).ravel()


def _dilated(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(mask.astype(np.uint8), 2 * reach + 1)) > 0


def coverage_table(
    kinds: Sequence[str] = KINDS, sizes: Sequence[int] = (50, 100, 150, 300), *, draws: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """`simulate` for several populations and sample sizes, of the whole place and of its western third."""
    return pd.concat(list(_tables(kinds, sizes, draws, seed)), ignore_index=True)


def _tables(kinds: Sequence[str], sizes: Sequence[int], draws: int, seed: int) -> Iterator[pd.DataFrame]:
    for kind in kinds:
        population = make_population(kind, seed=seed)
        for n in sizes:
            plan = plan_sample(population, n)
            results = simulate(population, plan, draws=draws, seed=seed + n)
            yield results.assign(population=kind, n=n, of="region")
