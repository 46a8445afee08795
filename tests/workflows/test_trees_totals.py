"""The line that moves the total of a city: where it goes on and a mean does not, and what it leaves as it was."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import trees_california as trees
import trees_california_levels as levels
import trees_california_totals as totals


def some_city(n: int, density: tuple[float, float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops whose infrared is brighter, and rougher, the more trees stand on them."""
    rng = np.random.default_rng(seed)
    number = rng.uniform(*density, n)
    seen = rng.normal(0.45, 0.03, (n, 4, 16, 16))
    seen[:, 3] += 0.003 * number[:, None, None] * (1 + 0.3 * rng.normal(0, 1, (n, 16, 16)))
    return seen, number


def test_the_line_goes_on_beyond_the_densities_that_it_knows() -> None:
    seen, known = some_city(300, (20, 70), 0)
    dense, truth = some_city(80, (80, 120), 1)
    found = totals.line_totals(seen, known, dense)
    assert found.mean() > known.max()  # which no mean of known crops can be
    assert found.sum() == pytest.approx(truth.sum(), rel=0.2)
    assert np.array_equal(found, totals.line_totals(seen, known, dense))


def test_features_are_those_of_each_crop_alone() -> None:
    seen, _ = some_city(5, (20, 70), 2)
    found = totals.features(seen)
    assert found.shape == (5, 60)
    assert np.allclose(found[3], totals.features(seen[3:4])[0])
    assert np.allclose(found, totals.features(seen[:, :, ::-1, ::-1]), atol=1e-5)  # no direction is special
    assert np.allclose(found[:, 5], seen[:, 0].mean((1, 2)), atol=1e-6)


def test_totals_move_halfway_and_the_pattern_stays() -> None:
    rng = np.random.default_rng(3)
    count = rng.uniform(0, 1, (6, 16, 16))
    cities = np.array(["a", "a", "a", "b", "b", "c"])
    line = count.sum((1, 2)) * np.array([1.2, 1.2, 1.2, 9, 9, 0.8])
    moved = totals.balance(count, line, cities)
    factor = moved.sum((1, 2)) / count.sum((1, 2))
    assert factor == pytest.approx([1.1, 1.1, 1.1, 1.5, 1.5, 0.9], abs=1e-4)  # no further than by half
    assert np.allclose(moved[0] / moved[0].sum(), count[0] / count[0].sum(), atol=1e-6)
    assert not totals.balance(np.zeros((2, 4, 4)), np.ones(2), np.array(["a", "a"])).any()


def test_flights_are_brought_a_share_of_the_way_to_the_level() -> None:
    images = np.random.default_rng(4).integers(40, 120, (4, 4, 64, 64)).astype(np.uint8)
    points = tuple(np.empty((0, 2)) for _ in range(4))
    crops = trees.Crops(images, np.array(["a", "a", "b", "b"]), np.full(4, 2020), points)
    raw, half, level = (trees.see(crops, share=share) for share in (0.0, 0.5, 1.0))
    assert np.allclose(raw[:, 0], trees.degrade(images), atol=1e-6)
    assert np.allclose(half, (raw + level) / 2, atol=1e-5)


def test_recipes_are_judged_by_the_mean_and_the_worst_city() -> None:
    def one(bias: float, r2: float) -> dict[str, dict[str, float]]:
        return {"densitynet": {"total_bias_pct": bias, "r2_per_crop": r2, "mae_per_crop": 10.0}}

    found = trees.over_cities({"a": one(-16, 0.1), "b": one(4, 0.7)})["densitynet"]
    assert found == pytest.approx(
        {"mean_abs_bias_pct": 10, "worst_abs_bias_pct": 16, "mean_r2": 0.4, "worst_r2": 0.1, "mean_mae": 10}
    )


def test_a_small_network_sees_less_around_a_crop() -> None:
    seen = np.arange(32.0)
    assert trees.with_halo(np.tile(seen, (32, 1)), trees.HALO).shape == (32, 32)
    assert trees.with_halo(np.tile(seen, (32, 1)), 6)[0].tolist() == seen[2:-2].tolist()


def test_a_level_undoes_what_the_light_did_to_a_flight() -> None:
    rng = np.random.default_rng(5)
    pixels = rng.normal(0.45, 0.1, (4, 3000))
    lit = pixels * rng.uniform(0.8, 1.2, (4, 1)) + rng.uniform(-0.1, 0.1, (4, 1))
    for way in levels.WAYS[2:4]:
        one, other = (
            gain[:, None] * some + offset[:, None]
            for some in (pixels, lit)
            for gain, offset in [levels.gain_and_offset(way, some)]
        )
        assert np.allclose(one, other), way
    ground = levels.grey(np.vstack([pixels[:3], np.where(np.arange(3000) < 1200, pixels[2], pixels[2] + 0.4)]))
    assert ground.mean() == pytest.approx(1 / 3, abs=0.01)
    assert not ground[1200:].any()


def test_ways_to_a_level_are_compared_on_every_city() -> None:
    images = np.random.default_rng(6).integers(40, 120, (9, 4, 64, 64)).astype(np.uint8)
    points = tuple(np.zeros((3 + k, 2)) for k in range(9))
    crops = trees.Crops(images, np.repeat(["a", "b", "c"], 3), np.full(9, 2020), points)
    found = levels.compare_ways(crops, seeds=1)
    assert found["over_cities"].keys() == set(levels.WAYS)
    assert found["cities"].keys() == {"a", "b", "c"}
    assert all(way in levels.as_table(found) for way in levels.WAYS)
