"""Two phases against the closed form, against svy, and against the truth of many samples."""

import numpy as np
import pandas as pd
import pytest

from subpixmap.errors import InputError
from subpixmap.estimation.estimators import Domains, estimate_total, spread_of
from subpixmap.estimation.layout import Layout
from subpixmap.estimation.two_phase import has_two_phases, two_phase_counts, with_detections

N = 4000


def layout_of(n: int) -> Layout:
    return Layout(np.zeros(n, np.int64), np.array([N]), np.array([0]), np.array([True]))


def total_of(u: np.ndarray) -> tuple[float, float]:
    """Expansion of the counts of one stratum, and its standard error."""
    n = len(u)
    layout = layout_of(n)
    domains = Domains(np.ones(n, bool), np.array([float(N)]), np.array(0.0), np.array(0.0))
    total = estimate_total("expansion", u, np.zeros(n), layout, domains)
    return float(total.value), float(np.sqrt(spread_of(total.influence, layout).variance))


def population(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True counts, and those of a detector that finds 80 % and invents one in two cells."""
    rng = np.random.default_rng(seed)
    y = rng.negative_binomial(2, 0.1, N).astype(float)
    return y, rng.binomial(y.astype(int), 0.8) + rng.poisson(0.5, N).astype(float)


def draw(y: np.ndarray, x: np.ndarray, rng: np.random.Generator, n1: int, n2: int) -> tuple[np.ndarray, np.ndarray]:
    first = rng.permutation(N)[:n1]
    checked = np.full(n1, np.nan)
    second = rng.permutation(n1)[:n2]
    checked[second] = y[first][second]
    return x[first], checked


def test_the_closed_form() -> None:
    """Cochran 1977, 12.51 and 12.67: N (ybar + b (xbar1 - xbar2)), and its variance but for 1 - f."""
    y, x = population(1)
    detected, checked = draw(y, x, np.random.default_rng(2), 600, 150)
    known = np.isfinite(checked)
    b = np.polyfit(detected[known], checked[known], 1)[0]
    want = N * (checked[known].mean() + b * (detected.mean() - detected[known].mean()))
    value, _ = total_of(two_phase_counts(detected, checked, np.zeros(600, np.int64)))
    assert value == pytest.approx(want, rel=1e-10)
    b = np.polyfit(x, y, 1)[0]
    s_e2, s_y2 = (y - b * x).var(ddof=1), y.var(ddof=1)
    variance = N**2 * (s_e2 * (1 / 150 - 1 / 600) + s_y2 * (1 / 600 - 1 / N))
    rng, zeros = np.random.default_rng(5), np.zeros(600, np.int64)
    errors = [total_of(two_phase_counts(*draw(y, x, rng, 600, 150), zeros))[1] for _ in range(200)]
    assert np.mean(np.square(errors)) == pytest.approx(variance, rel=0.08)


def test_over_many_samples_the_total_is_right_and_so_is_its_error() -> None:
    y, x = population(3)
    values, errors = [], []
    for seed in range(400):
        detected, checked = draw(y, x, np.random.default_rng(seed), 400, 80)
        value, se = total_of(two_phase_counts(detected, checked, np.zeros(400, np.int64)))
        values.append(value)
        errors.append(se)
    assert np.mean(values) == pytest.approx(y.sum(), rel=0.01)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    covered = np.abs(np.array(values) - y.sum()) < 1.98 * np.array(errors)
    assert 0.91 <= covered.mean() <= 0.98
    single = np.std([total_of(draw(y, x, np.random.default_rng(s), 80, 80)[1])[0] for s in range(400)])
    assert np.std(values) < 0.75 * single  # the checked cells alone say less


def test_when_all_are_checked_the_detector_says_nothing() -> None:
    y, x = population(4)
    detected, checked = draw(y, x, np.random.default_rng(0), 50, 50)
    assert two_phase_counts(detected, checked, np.zeros(50, np.int64)) == pytest.approx(checked)


def test_a_stratum_with_too_few_checked_cells_is_refused() -> None:
    checked = np.r_[np.ones(6), np.full(14, np.nan)]
    with pytest.raises(InputError, match="stratum 1 has 0 checked cells of 10"):
        two_phase_counts(np.ones(20), checked, np.repeat([0, 1], 10))


def test_a_table_of_cells() -> None:
    cells = pd.DataFrame({"cell_id": [f"c{k}" for k in range(12)], "object": "palm", "period": "2021"})
    labelled = cells.assign(n_detected=np.arange(12.0), n_objects=[*np.arange(6.0), *[np.nan] * 6])
    assert has_two_phases(labelled)
    assert not has_two_phases(labelled.iloc[:6])
    table = with_detections(labelled, cells.assign(stratum=0))
    assert table["n_objects"].mean() == pytest.approx(np.arange(12.0).mean())  # the detector is right: b = 1
    assert list(table.columns) == list(labelled.columns)
    labelled.loc[3, "n_detected"] = np.nan
    with pytest.raises(InputError, match="cell c3, object palm: n_detected is blank"):
        with_detections(labelled, cells.assign(stratum=0))
