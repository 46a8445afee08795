"""The learning curves of suggested areas, on areas whose best head is known."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import suggested_areas
from suggested_areas import Areas, areas_needed, as_table, curves_of, fit, r_squared

PIXELS = 9


@pytest.fixture
def areas() -> Areas:
    """Three features, of which the third is rare: only areas that hold it teach what it counts."""
    rng = np.random.default_rng(5)
    pixels = np.concatenate([rng.normal(size=(60, PIXELS, 3)), np.ones((60, PIXELS, 1))], axis=2)
    pixels[:, :, 2] = np.where(np.arange(60)[:, None] % 10 == 0, 3 + pixels[:, :, 2], 0)
    truth = pixels @ np.array([[1.0], [0.0], [2.0], [0.5]])
    return Areas(
        features=pixels[..., :3].mean(axis=1),
        gram=np.einsum("apf,apg->afg", pixels, pixels),
        moment=np.einsum("apf,apo->afo", pixels, truth),
        said_moment=np.zeros((60, 4, 1)),
        blocks=pixels.mean(axis=1, keepdims=True),
        truth=truth.mean(axis=1, keepdims=True),
        said=np.zeros((60, 1, 1)),
        disagreement=np.abs(pixels[..., 2]).sum(axis=1),
        share=truth[..., 0].sum(axis=1),
    )


def test_a_head_is_that_of_ridge_regression(areas: Areas) -> None:
    weights = np.r_[2.0, 1.0, np.zeros(58)]
    gram = 2 * areas.gram[0] + areas.gram[1] + PIXELS * suggested_areas.STRENGTH * np.eye(4)
    expected = np.linalg.inv(gram) @ (2 * areas.moment[0] + areas.moment[1])
    np.testing.assert_allclose(fit(areas, weights), expected, rtol=1e-9)
    assert r_squared(fit(areas, np.full(60, 1e6)), areas) == pytest.approx(1)
    assert r_squared(np.zeros((4, 1)), areas) < 0


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_rare_is_suggested_and_taught(areas: Areas, seed: int) -> None:
    found = curves_of(areas, np.arange(60) // 2, (2, 4, 8), seed)
    assert {len(curve) for curve in found.values()} == {4}
    assert len({curve[0] for curve in found.values()}) == 1  # before anything is learnt
    assert found["disagreement"][2] > 0.9
    assert found["all"][3] > 0.9


def test_areas_needed_are_read_off_the_curve() -> None:
    assert areas_needed([0.1, 0.3, 0.5], [4, 8, 16], 0.4) == pytest.approx(12)
    assert areas_needed([0.1, 0.3], [4, 8], 0.05) == 4
    assert np.isnan(areas_needed([0.1, 0.3], [4, 8], 0.6))
    told = as_table({"random": np.array([[0.1, 0.5]]), "all": np.array([[0.5, 0.6]])}, [4, 8])
    assert told.splitlines()[-1].split() == ["all", "1.00", "0.50"]


def test_a_dry_run_says_what_it_would_do(capsys: Any) -> None:
    assert suggested_areas.main(["shifted", "--seeds", "7", "--dry-run"]) == 0
    assert "7 seeds" in capsys.readouterr().out
