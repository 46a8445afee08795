"""Numbers of errors on arrays whose errors are known."""

import numpy as np
import pytest

from subpixmap.training.metrics import (
    background,
    empty_land,
    errors_by_density,
    intervals,
    leakage,
    mixes,
    total_error,
)


def hectares(*per_ha: float) -> np.ndarray:
    """(place, y, x) of one hectare a place, evenly filled."""
    return np.stack([np.full((10, 10), value / 100) for value in per_ha])


def test_totals_are_signed_and_of_what_is_known() -> None:
    reference, found = hectares(100, 50), hectares(90, 50)
    assert total_error(found, reference)["error_pct"] == pytest.approx(-100 * 10 / 150)
    reference[0] = np.nan
    assert total_error(found, reference)["error_pct"] == pytest.approx(0)
    assert np.isnan(total_error(found, 0 * hectares(1, 1))["error_pct"])


def test_shrinkage_shows_by_density() -> None:
    reference = hectares(0, 0, 10, 30, 70, 150, 250)
    found = 20 + 0.8 * 100 * reference.mean(axis=(1, 2))
    rows = errors_by_density(hectares(*found), reference)
    assert [row["from_per_ha"] for row in rows] == [0, 5, 20, 50, 100, 200]
    assert [row["n_ha"] for row in rows] == [2, 1, 1, 1, 1, 1]
    assert [row["bias"] for row in rows] == pytest.approx([20, 18, 14, 6, -10, -30])
    assert all(row["mae"] == pytest.approx(abs(row["bias"])) for row in rows)


def test_mixes_find_what_the_total_hides() -> None:
    reference = hectares(0, 0, 50, 50, 150, 150)
    told = mixes(hectares(4, 0, 75, 75, 125, 125), reference)
    assert told["all_pct"] == pytest.approx(0)
    assert told["sparse_pct"] == pytest.approx(50)
    assert told["dense_pct"] == pytest.approx(-100 / 6)
    assert told["empty_per_ha"] == pytest.approx(2)
    assert set(mixes(hectares(1), hectares(0))) == {"empty_per_ha"}


def test_background_by_cover_and_gate() -> None:
    reference, found = np.zeros((1, 40, 40)), np.full((1, 40, 40), 0.02)
    cover = np.zeros((1, 40, 40), np.uint8)
    cover[:, 20:] = 1
    found[:, 20:] = 0.05
    present = np.zeros((1, 40, 40), bool)
    present[:, 30:] = True
    told = background(found, reference, present, cover, ("forest", "field"))
    assert told["forest"] == pytest.approx({"km2": 0.08, "per_km2": 200, "per_km2_gated": 0})
    assert told["field"] == pytest.approx({"km2": 0.08, "per_km2": 500, "per_km2_gated": 250})
    assert told["all"]["per_km2"] == pytest.approx(350)
    reference[0, 5, 5] = 0.5  # what is found beside a tree is not false: 5 x 5 pixels are left out
    assert background(found, reference)["all"]["km2"] == pytest.approx((1600 - 25) / 1e4)
    reference[0, 20:] = np.nan
    assert background(found, reference, None, cover, ("forest", "field")).keys() == {"all", "forest"}


def test_leakage_is_what_is_found_of_another_object() -> None:
    reference = np.stack([hectares(0, 0, 100), hectares(80, 120, 60)], axis=1)
    found = np.stack([hectares(8, 12, 90), hectares(80, 120, 60)], axis=1)
    told = leakage(("coconut", "oil_palm"), found, reference)
    assert set(told) == {"oil_palm as coconut"}
    assert told["oil_palm as coconut"] == pytest.approx({"n_ha": 2, "per_ha": 10, "share_pct": 10})


def test_empty_land() -> None:
    assert empty_land(hectares(0.5, 1.5, 90), hectares(0, 0, 100))["mean_per_ha"] == pytest.approx(1)
    assert empty_land(hectares(1), hectares(1))["n_ha"] == 0


def test_intervals_come_from_places_not_from_pixels() -> None:
    rng = np.random.default_rng(0)
    reference = np.repeat(rng.uniform(50, 150, 40), 4)
    gain = np.repeat(rng.normal(1.1, 0.2, 40), 4)  # a place is wrong as a whole
    found, truth = hectares(*(reference * gain)), hectares(*reference)
    places, apart = np.repeat(np.arange(40), 4), np.arange(160)
    told = intervals(found, truth, places)
    low, high = told["error_pct"]
    assert low < total_error(found, truth)["error_pct"] < high
    assert high - low == pytest.approx(2 * 1.96 * 20 / np.sqrt(40), rel=0.35)  # 20 % a place, 40 places
    narrow = intervals(found, truth, apart)["error_pct"]
    assert (narrow[1] - narrow[0]) < 0.65 * (high - low)  # as if pixels of a place were independent
    assert intervals(found, truth, places) == told
    assert intervals(found[:4], truth[:4], np.arange(4)) == {}
    assert set(told) == {"error_pct", "mae", "bias", "r2"}
