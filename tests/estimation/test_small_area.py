"""Units with too few cells, and units that are made to sum to their parents."""

import numpy as np
import pytest

from subpixmap.estimation.small_area import departure, raked, synthetic_error


def test_the_departure_of_units_is_found_behind_the_noise() -> None:
    rng = np.random.default_rng(0)
    synthetic = rng.uniform(500, 2000, 400)
    truth = synthetic * (1 + 0.2 * rng.standard_normal(400))
    se = 0.1 * synthetic
    direct = truth + se * rng.standard_normal(400)
    found = departure(direct, se**2, synthetic, np.full(400, 20))
    assert found == pytest.approx(0.2, rel=0.1)
    error = synthetic_error(synthetic, 0.02, found)
    assert np.mean(np.abs(truth - synthetic) < 1.96 * error) == pytest.approx(0.95, abs=0.03)


def test_units_that_do_not_depart_keep_the_error_of_chance() -> None:
    rng = np.random.default_rng(0)
    synthetic = np.full(50, 1000.0)
    found = departure(synthetic + 100 * rng.standard_normal(50), np.full(50, 1e4), synthetic, np.full(50, 20))
    assert 0 < found < 0.08


def test_too_few_units_say_nothing() -> None:
    two = np.array([100.0, 200.0])
    assert np.isnan(departure(two, two, two, np.array([20, 20])))
    assert np.isnan(departure(np.ones(5), np.ones(5), np.ones(5), np.full(5, 2)))


def test_children_are_scaled_to_their_parent() -> None:
    values = np.array([100.0, 30.0, 50.0, np.nan, 10.0])
    parent = np.array([-1, 0, 0, -1, 3])
    factor = raked(values, parent, values)
    assert factor.tolist() == [1, 1.25, 1.25, 1, 1]
