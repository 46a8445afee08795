"""Intervals cover, in a small version of the table in docs/estimates.md."""

import numpy as np
import pandas as pd
import pytest

from subpixmap.estimation.coverage import KINDS, SamplePlan, make_population, plan_sample, plan_simple, simulate


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover(kind: str) -> None:
    population = make_population(kind)
    found = simulate(population, plan_sample(population, 200), draws=1000).set_index("estimator")
    best = found.loc[["difference", "regression"]]
    assert (best.coverage_95 >= (91 if kind in ("rare", "clumped", "omission") else 92.5)).all()
    assert (best.coverage_95 <= 97.5).all()
    assert (best.printed >= 99).all()
    assert (best.bias_pct.abs() < 3 * best.rse_pct / np.sqrt(1000) + 1.5).all()


def test_the_map_halves_the_error() -> None:
    population = make_population("easy")
    found = simulate(population, plan_simple(population, 60), draws=1000).set_index("estimator")
    assert found.rse_pct["regression"] < 0.5 * found.rse_pct["expansion"]


def test_an_allocation_by_the_map_misses_what_the_map_omits() -> None:
    """The trap: hardly a cell is labelled where the map is smooth, and the interval does not know."""
    population = make_population("omission")
    full, empty = np.flatnonzero(population.present), np.flatnonzero(~population.present)
    stratum, both = population.present.astype(np.int64), np.array([True, True])
    blind = SamplePlan(stratum, both, ((empty, 4), (full, 146)), np.array([0, 1]))
    honest = plan_sample(population, 150)
    good, bad = (simulate(population, plan, draws=500).set_index("estimator") for plan in (honest, blind))
    assert bad.coverage_95["difference"] < 50
    assert good.coverage_95["difference"] > 90


def test_same_seed_same_table() -> None:
    population = make_population("clouded")
    plan = plan_sample(population, 80)
    pd.testing.assert_frame_equal(simulate(population, plan, draws=50), simulate(population, plan, draws=50))
