"""Estimators: a sample worked by hand, the survey package svy, and properties that hold for any data."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subpixmap.estimation.estimators import ESTIMATORS, Domains, estimate_total, spread_of
from subpixmap.estimation.intervals import interval
from subpixmap.estimation.layout import Layout, merged_segments

# Two strata of 10 and 20 cells; 2 and 4 are labelled.
Y = np.array([3.0, 5.0, 10.0, 14.0, 12.0, 8.0])
M = np.array([2.0, 6.0, 9.0, 12.0, 12.0, 7.0])
TWO = Layout(np.array([0, 0, 1, 1, 1, 1]), np.array([10, 20]), np.array([0, 1]), np.array([True, True]))
ALL = Domains(np.ones(6, bool), np.array([10.0, 20.0]), np.array(230.0), np.array(230.0))
MEMBER = np.array([True, False, True, True, False, True])
PART = Domains(MEMBER, np.array([4.0, 15.0]), np.array(160.0), np.array(161.0))


def run(name: str) -> tuple[float, float, float]:
    total = estimate_total(name, Y, M, TWO, ALL)
    spread = spread_of(total.influence, TWO)
    return float(total.value), float(np.sqrt(spread.variance)), float(spread.df)


def test_expansion_by_hand() -> None:
    # 10 * 4 + 20 * 11; 10^2 * (1 - 0.2) * 2 / 2 + 20^2 * (1 - 0.2) * (20 / 3) / 4 = 80 + 533.33
    value, se, df = run("expansion")
    assert value == pytest.approx(260, abs=1e-9)
    assert se == pytest.approx(np.sqrt(80 + 1600 / 3), abs=1e-9)
    assert df == pytest.approx((80 + 1600 / 3) ** 2 / (80**2 / 3 + (1600 / 3) ** 2 / 5) - 2, abs=1e-9)


def test_difference_by_hand() -> None:
    # Residuals 1, -1 | 1, 2, 0, 1: 230 + 10 * 0 + 20 * 1; 80 * 1 + 80 * (2 / 3)
    value, se, _ = run("difference")
    assert value == pytest.approx(250, abs=1e-9)
    assert se == pytest.approx(np.sqrt(100 * 0.8 * 2 / 2 + 400 * 0.8 * (2 / 3) / 4), abs=1e-9)


def test_degrees_of_freedom_of_one_sample() -> None:
    layout = Layout(np.zeros(6, np.int64), np.array([100]), np.array([0]), np.array([True]))
    assert spread_of(Y, layout).df == pytest.approx(5)


def test_ratio_by_hand() -> None:
    assert run("ratio")[0] == pytest.approx(230 * 260 / 240, abs=1e-9)


def test_regression_by_hand() -> None:
    # Squares of the map by stratum 8 and 18, products 4 and 18; weights 5 * 4 in both
    slope = (4 + 18) / (8 + 18)
    assert run("regression")[0] == pytest.approx(260 + slope * (230 - 240), abs=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_svy_agrees(name: str) -> None:
    """Totals and standard errors of the survey package, of what each estimator adds up."""
    svy = pytest.importorskip("svy")
    import polars as pl

    total = estimate_total(name, Y, M, TWO, ALL)
    frame = pl.DataFrame(
        {"z": total.influence, "w": TWO.weight, "h": TWO.stratum.astype(str), "N": TWO.segment_size[TWO.segment]}
    )
    found = svy.Sample(frame, svy.Design(stratum="h", wgt="w", pop_size="N")).estimation.total("z").estimates[0]
    assert found.est == pytest.approx(float((total.influence * TWO.weight).sum()), rel=1e-9, abs=1e-9)
    assert found.se == pytest.approx(float(np.sqrt(spread_of(total.influence, TWO).variance)), rel=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_influence_says_how_the_total_moves(name: str) -> None:
    """All are linear in the counts; the influence of a cell is its factor, times its residual, over its leverage."""
    total = estimate_total(name, Y, M, TWO, PART)
    none = estimate_total(name, np.zeros(6), M, TWO, PART).value if name != "difference" else 0.0
    if name == "difference":
        assert np.allclose(total.influence, MEMBER * (Y - M))
        return
    moves = np.array([float(estimate_total(name, one, M, TWO, PART).value - none) for one in np.eye(6)])
    residual = {"expansion": Y, "ratio": Y - total.slope * M}.get(name)
    if residual is None:
        residual = Y - TWO.means(Y)[TWO.stratum] - total.slope * (M - TWO.means(M)[TWO.stratum])
    plain = moves / TWO.weight * residual
    assert np.all(np.abs(total.influence) >= np.abs(plain) - 1e-9)
    assert np.all(np.abs(total.influence) <= 2 * np.abs(plain) + 1e-9)
    assert np.all(total.influence * plain >= -1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_children_sum_to_their_parent(name: str) -> None:
    cells, maps = np.array([[6.0, 12.0], [4.0, 8.0]]), np.array([140.0, 90.0])
    parts = estimate_total(name, Y, M, TWO, Domains(np.stack([MEMBER, ~MEMBER]), cells, maps, maps))
    assert parts.value.sum() == pytest.approx(run(name)[0], abs=1e-9)


def test_a_perfect_map_leaves_no_error_and_no_interval() -> None:
    total = estimate_total("difference", M, M, TWO, ALL)
    spread = spread_of(total.influence, TWO)
    low, high = interval(total.value, spread)
    assert total.value == 230
    assert spread.variance == 0
    assert np.isnan(low)
    assert np.isnan(high)


def test_unseen_strata_are_expanded() -> None:
    """The map says nothing there: what it holds in such cells changes nothing."""
    layout = Layout(TWO.segment, TWO.segment_size, TWO.segment_stratum, np.array([False, True]))
    domains = Domains(ALL.member, ALL.cells, np.array(200.0), np.array(200.0))
    first = estimate_total("difference", Y, M, layout, domains)
    second = estimate_total("difference", Y, np.where(layout.on_map, M, 99.0), layout, domains)
    assert first.value == second.value == pytest.approx(10 * 4 + 200 + 20 * 1)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_segments_are_merged_until_each_has_two(labelled: list[int], seed: int) -> None:
    stratum = np.sort(np.random.default_rng(seed).integers(0, 3, len(labelled)))
    new = merged_segments(stratum, np.array(labelled))
    groups = pd.DataFrame({"new": new, "stratum": stratum, "n": labelled}).groupby("new")
    assert (groups.stratum.nunique() == 1).all()
    assert (np.diff(new) >= 0).all()
    assert set(new) == set(range(new.max() + 1))
    for _, group in groups:
        if group.n.sum() < 2:  # only where the whole stratum has fewer
            assert (stratum == group.stratum.iloc[0]).sum() == len(group)


def test_a_layout_without_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="labelled cell"):
        Layout(np.array([0, 0]), np.array([5, 5]), np.array([0, 0]), np.array([True]))
