"""Intervals cover, in a small version of the table in docs/estimates.md."""

import numpy as np
import pandas as pd
import pytest

from subpixmap.estimation.coverage import SamplePlan, plan_sample, plan_simple, simulate, unit_table
from subpixmap.estimation.populations import KINDS, make_population
from subpixmap.estimation.unseen import MOST


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover(kind: str) -> None:
    population = make_population(kind)
    found = simulate(population, plan_sample(population, 200), draws=1000).set_index("estimator")
    best = found.loc[["difference", "regression"]]
    assert (best.coverage_95 >= (91 if kind in ("rare", "clumped", "omission", "crowded", "hidden") else 92.5)).all()
    assert (best.coverage_95 <= (99 if kind in ("crowded", "hidden") else 97.5)).all()
    assert (best.printed >= (50 if kind in ("crowded", "hidden") else 99)).all()
    assert (best.bias_pct.abs() < 3 * best.rse_pct / np.sqrt(1000) + 1.5).all()


def test_the_map_halves_the_error() -> None:
    population = make_population("easy")
    found = simulate(population, plan_simple(population, 60), draws=1000).set_index("estimator")
    assert found.rse_pct["regression"] < 0.5 * found.rse_pct["expansion"]


def test_an_allocation_by_the_map_misses_what_the_map_omits() -> None:
    """The trap: hardly a cell is labelled where the map is smooth, and the interval does not know; none is printed."""
    population = make_population("omission")
    full, empty = np.flatnonzero(population.present), np.flatnonzero(~population.present)
    stratum, both = population.present.astype(np.int64), np.array([True, True])
    segments, honest = ((empty, 4), (full, 146)), plan_sample(population, 150)
    blind, known = (
        SamplePlan(stratum, both, np.array([zero, False]), segments, np.array([0, 1])) for zero in (False, True)
    )
    good, bad, held = (simulate(population, plan, draws=500).set_index("estimator") for plan in (honest, blind, known))
    assert bad.coverage_95["difference"] < 50
    assert held.printed["difference"] == 0
    assert good.coverage_95["difference"] > 90


def test_what_may_stand_unseen_is_allowed_for() -> None:
    """The trap: objects in one of a hundred empty cells, of which a sample often sees none."""
    population = make_population("crowded")
    plan = plan_sample(population, 150)
    honest, naive = (
        simulate(population, plan, draws=500, estimators=["difference"], most_unseen=most).iloc[0]
        for most in (MOST, 0.0)
    )
    assert naive.coverage_95 < 60
    assert honest.coverage_95 > 92
    assert honest.mean_width_pct < 1.5 * naive.mean_width_pct


def test_single_units_are_covered_where_an_interval_is_printed() -> None:
    table = unit_table(["easy", "rare", "crowded"], [1200], draws=60)
    assert (table.printed[table.labelled == "30 to 49"] == 0).all()
    shown = table[table.printed * table.pairs > 5_000]
    assert len(shown) >= 3
    assert (shown.coverage_95 >= 89).all()


def test_same_seed_same_table() -> None:
    population = make_population("clouded")
    plan = plan_sample(population, 80)
    pd.testing.assert_frame_equal(simulate(population, plan, draws=50), simulate(population, plan, draws=50))
