"""The workflow that estimates real trees: its numbers, on a city that is made up."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import trees_california_estimate as workflow
from trees_california import Crops


def city(n: int, seed: int = 0) -> tuple[Crops, np.ndarray]:
    rng = np.random.default_rng(seed)
    trees = rng.poisson(rng.gamma(4.0, 12.0, n))
    points = tuple(np.zeros((one, 2)) for one in trees)
    crops = Crops(np.zeros((n, 4, 1, 1), np.uint8), np.full(n, "here"), np.full(n, 2020), points)
    return crops, 1.3 * trees * rng.lognormal(0, 0.2, n)


def test_the_numbers_of_a_city() -> None:
    crops, predicted = city(130)
    found = workflow.estimate_city(crops, predicted, draws=2000)
    assert found["truth"] == crops.trees.sum()
    assert found["map_total"] == predicted.sum()
    assert set(found["n"]) == {"20", "40", "60"}
    for estimators in found["n"].values():
        assert set(estimators) == {"expansion", "difference", "regression", "ratio"}
        for one in estimators.values():
            assert set(one) == {"bias_pct", "rse_pct", "coverage_95", "mean_width_pct"}
            assert abs(one["bias_pct"]) < 1
    forty = found["n"]["40"]
    assert 93 <= forty["difference"]["coverage_95"] <= 97
    assert forty["regression"]["rse_pct"] < 0.6 * forty["expansion"]["rse_pct"]


def test_a_small_city_has_small_samples_only() -> None:
    crops, predicted = city(90)
    assert set(workflow.estimate_city(crops, predicted, draws=50)["n"]) == {"20", "40"}
