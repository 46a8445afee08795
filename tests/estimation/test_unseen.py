"""What a sample may have missed altogether, and the interval of a total that is known up to a range."""

import numpy as np
import pytest
from scipy import stats

from subpixmap.estimation.estimators import Domains, Spread
from subpixmap.estimation.intervals import interval
from subpixmap.estimation.layout import Layout
from subpixmap.estimation.unseen import unseen_objects

EMPTY, FULL = 50, 10
LAYOUT = Layout(
    np.repeat([0, 1], [EMPTY, FULL]), np.array([5000, 200]), np.array([0, 1]), np.array([True, True])
)  # all of a stratum is one segment
ZERO = np.array([True, False])
ALL = Domains(np.ones(EMPTY + FULL, bool), np.array([5000.0, 200.0]), np.array(2000.0), np.array(2000.0))


def counts(*found: float) -> np.ndarray:
    """Labelled counts: those of empty cells, and ten each in the others."""
    return np.concatenate([found, np.zeros(EMPTY - len(found)), np.full(FULL, 10.0)])


def test_the_rule_of_three_by_hand() -> None:
    """1 - 0.05^(1/50) = 5.8 % of 4,950 cells, with ten objects each: more than 12 % of all objects, which bound it."""
    value = np.array(2000.0)
    cells = 4950 * (1 - 0.05 ** (1 / 50))
    assert unseen_objects(counts(), value, LAYOUT, ALL, ZERO, most=0.9) == pytest.approx(cells * 10)
    assert unseen_objects(counts(), value, LAYOUT, ALL, ZERO, most=0.12) == pytest.approx(0.12 / 0.88 * 2000)
    assert unseen_objects(counts(), value, LAYOUT, ALL, ZERO, most=0.0) == 0


def test_what_was_found_is_not_allowed_for_again() -> None:
    """Ten objects in one cell of 50 stand for 1,000: the interval knows of omissions by itself."""
    assert unseen_objects(counts(10.0), np.array(3000.0), LAYOUT, ALL, ZERO) == 0


def test_land_that_is_not_empty_hides_nothing() -> None:
    assert unseen_objects(counts(), np.array(2000.0), LAYOUT, ALL, np.array([False, False])) == 0


def test_a_unit_without_predicted_objects_may_hold_its_share_of_the_region() -> None:
    """A fifth of the empty land: up to twice a fifth of what the region may hold unseen, though nothing was found."""
    fifth = Domains(np.arange(EMPTY + FULL) < 10, np.array([1000.0, 0.0]), np.array(0.0), np.array(0.0))
    found = unseen_objects(counts(), np.array(0.0), LAYOUT, fifth, ZERO, region=np.array(2000.0))
    assert found == pytest.approx(0.12 / 0.88 * 800)


@pytest.mark.parametrize("unseen", [0.0, 5.0, 30.0, 500.0])
def test_either_end_of_the_range_is_covered(unseen: float) -> None:
    """True totals at both ends of what is not known, and in the middle of it."""
    spread = Spread(np.array(100.0), np.array(1e6), np.array(0.0))
    low, high = interval(np.array(1000.0), spread, unseen=unseen)
    for missed in (0.0, unseen / 2, unseen):  # the estimate is too low by it
        covered = stats.norm.cdf((high - 1000 - missed) / 10) - stats.norm.cdf((low - 1000 - missed) / 10)
        assert covered >= 0.95 - 1e-6
    ends = stats.norm.cdf((high - 1000) / 10) - stats.norm.cdf((low - 1000) / 10)
    assert ends == pytest.approx(0.95, abs=1e-6)  # and no more than that, where nothing was missed
