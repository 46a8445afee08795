"""Draw, strata and allocation of cells."""

import numpy as np
import pytest

from subpixmap.errors import InputError
from subpixmap.estimation.allocation import allocate, expected_error, needed, zero_floor
from subpixmap.estimation.draw import draw, hilbert, segments_of
from subpixmap.estimation.prior import Prior, pilot_spread
from subpixmap.estimation.strata import FAR, NEAR, UNSEEN, stratify

SIZE, SPREAD = np.array([100, 9000, 400, 500]), np.array([3.0, 0.5, 1.0, 8.0])
ZERO = np.array([False, True, True, False])


def test_neighbours_on_the_curve_are_neighbours_on_the_land() -> None:
    side = 64
    row, col = np.divmod(np.arange(side * side), side)
    order = np.argsort(hilbert(col.astype(float), row.astype(float)))
    step = np.abs(np.diff(row[order])) + np.abs(np.diff(col[order]))
    assert (step == 1).all()


def test_every_cell_has_about_the_same_chance_and_segments_hold_all_cells() -> None:
    for n in (2, 3, 7, 20, 61):
        parts = segments_of(np.arange(123), n)
        assert np.array_equal(np.concatenate([cells for cells, _ in parts]), np.arange(123))
        assert sum(wanted for _, wanted in parts) == n
        assert min(wanted for _, wanted in parts) >= 2
        chances = np.array([wanted / len(cells) for cells, wanted in parts])
        assert np.ptp(chances) < 0.35 * chances.mean()


def test_a_draw_is_spread_over_the_land() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 4000))
    drawn = draw(x, y, np.zeros(4000, np.int64), {0: 64}, seed=1)
    assert len(set(drawn.cell)) == 64
    quarter = (x[drawn.cell] * 4).astype(int) * 4 + (y[drawn.cell] * 4).astype(int)
    assert np.bincount(quarter, minlength=16).min() >= 2  # of 4 on average
    again = draw(x, y, np.zeros(4000, np.int64), {0: 64}, seed=1)
    assert np.array_equal(drawn.cell, again.cell)


@pytest.mark.parametrize("n", [30, 100, 150, 300])
def test_the_zero_strata_get_their_share(n: int) -> None:
    wanted = allocate(SIZE, SPREAD, ZERO, n)
    assert wanted.sum() == n
    assert (wanted >= 4).all()
    assert (wanted <= SIZE).all()
    assert wanted[ZERO].sum() >= zero_floor(n) >= n / 3
    if n >= 150:
        assert wanted[ZERO].sum() >= 50


def test_target() -> None:
    n = needed(SIZE, SPREAD, ZERO, targets=[(SPREAD, 400.0)])
    assert expected_error(SIZE, SPREAD, allocate(SIZE, SPREAD, ZERO, n)) <= 400
    assert expected_error(SIZE, SPREAD, allocate(SIZE, SPREAD, ZERO, n - 1)) > 400
    with pytest.raises(InputError, match="no sample of this frame"):
        needed(SIZE, SPREAD, ZERO, targets=[(SPREAD, 0.0)])


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="the frame has only 10000 cells"):
        allocate(SIZE, SPREAD, ZERO, 10_001)
    with pytest.raises(InputError, match="4 strata need 16"):
        allocate(SIZE, SPREAD, ZERO, 15)


def test_strata_by_what_the_map_says() -> None:
    predicted = np.array([0.0, 0.1, 0.2, 1.0, 4.0, 30.0])
    seen = np.array([False, True, True, True, True, True])
    stratum, names = stratify(predicted, seen, predicted > 0.5, predicted > 0.15)
    assert names[:3] == [UNSEEN, FAR, NEAR]
    assert stratum[:3].tolist() == [0, 1, 2]
    assert (np.diff(stratum[3:]) >= 0).all()
    assert stratum[5] == len(names) - 1


def test_the_prior_looks_for_omissions_where_the_map_is_smooth() -> None:
    names = [UNSEEN, FAR, NEAR, "predicted"]
    spread = Prior().spread(names, SIZE, np.array([0.0, 0.0, 0.0, 5000.0]))
    assert (spread > 0).all()
    pilot = pilot_spread(np.array([0.0] * 6 + [1.0, -9.0, 4.0, 2.0, 2.0]), np.repeat([1, 3], [6, 5]), spread)
    assert pilot[1] == spread[1] / 2
    assert pilot[3] == max(np.std([1.0, -9.0, 4.0, 2.0, 2.0], ddof=1), spread[3] / 2)
    assert pilot[0] == spread[0]
