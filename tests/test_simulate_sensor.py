"""The sensor: mixing, point spread, place, noise, numbers."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from subpixmap.simulate.ground import FINE, MARGIN, Frame, draw_discs
from subpixmap.simulate.sensor import sample
from subpixmap.simulate.spectra import BAND_FACTS, BANDS


def frame(size: int = 32) -> Frame:
    return Frame(500000.0, 1200000.0, size, size, lambda x, y: (x, y), lambda x, y: (x, y))


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (4.2, -3.1)])
def test_impulse_has_the_width_and_place_of_the_point_spread(band: str, shift: tuple[float, float]) -> None:
    f, facts = frame(), BAND_FACTS[band]
    scene = np.zeros(f.cells(FINE), np.float32)
    row, col = scene.shape[0] // 2 + 3, scene.shape[1] // 2 - 5
    scene[row, col] = 1
    image = sample(scene, f, band, shift).astype(np.float64)
    at = (np.arange(image.shape[0]) + 0.5) * facts.gsd + MARGIN * 10
    for axis, cell, moved in ((0, row, -shift[1]), (1, col, shift[0])):
        # The samples are too far apart for moments: fit a Gaussian of free height, place and width.
        profile = image.max(axis=1 - axis)
        start = (profile.max(), at[profile.argmax()], facts.gsd / 2)
        (_, mean, sigma), _ = curve_fit(lambda x, h, m, s: h * np.exp(-(((x - m) / s) ** 2) / 2), at, profile, start)
        assert abs(mean - ((cell + 0.5) * FINE + moved)) < 0.1 * facts.gsd
        assert abs(sigma) == pytest.approx(np.hypot(facts.sigma, FINE / 12**0.5), rel=0.01)


def test_a_constant_scene_stays_constant() -> None:
    f = frame()
    image = sample(np.full(f.cells(FINE), 0.3, np.float32), f, "B11", (5.0, -2.0))
    np.testing.assert_allclose(image, 0.3, rtol=1e-5)


def test_discs_have_their_area_wherever_they_lie() -> None:
    rng = np.random.default_rng(0)
    radius = rng.uniform(0.4, 4.5, 200)
    col, row = rng.uniform(8, 120, (2, 200))
    drawn = draw_discs(col, row, radius, None, (128, 128))
    assert drawn.sum() == pytest.approx((np.pi * radius**2).sum(), rel=1e-4)
