"""Matching against an exhaustive search; metrics and intervals against hand-counted samples; nothing is corrected."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from subpixmap.detection.detections import detection_facts, write_points
from subpixmap.detection.evaluate import Checked, evaluate_points
from subpixmap.detection.matching import Tally, match

EPSG = 32650
WEST, SOUTH = 500_000.0, 1_000_000.0


def points(x: Any, y: Any, *, image: str = "a", name: str = "palm", size: float = 8.0) -> gpd.GeoDataFrame:
    geometry = gpd.points_from_xy(np.asarray(x, float) + WEST, np.asarray(y, float) + SOUTH)
    columns = {"object": name, "score": 0.9, "size_m": size, "image_date": "2021", "image_id": image}
    return gpd.GeoDataFrame(columns, index=range(len(geometry)), geometry=geometry, crs=EPSG).to_crs(4326)


def area(*boxes: tuple[float, float, float, float], images: tuple[str, ...] = ()) -> gpd.GeoDataFrame:
    shapes = [shapely.box(WEST + a, SOUTH + b, WEST + c, SOUTH + d) for a, b, c, d in boxes]
    named = {"image_id": images} if images else {}
    return gpd.GeoDataFrame(named, geometry=shapes, crs=EPSG).to_crs(4326)


@pytest.mark.parametrize("seed", range(6))
def test_as_many_as_possible_match_and_of_those_the_nearest(seed: int) -> None:
    """Against all assignments of a few points."""
    rng = np.random.default_rng(seed)
    found, true = rng.uniform(0, 6, (5, 2)), rng.uniform(0, 6, (4, 2))
    distance = np.hypot(*(found[:, None] - true[None]).transpose(2, 0, 1))
    best = (0, 0.0)
    for chosen in itertools.permutations(range(5), 4):
        pairs = [(a, b) for b, a in enumerate(chosen) if distance[a, b] <= 2]
        best = max(best, (len(pairs), -sum(distance[a, b] for a, b in pairs)))
    a, b = match(found, true, 2.0)
    assert len(set(a)) == len(a) == len(set(b)) == best[0]
    assert -distance[a, b].sum() == pytest.approx(best[1])


def test_a_pair_is_of_one_kind() -> None:
    xy = np.zeros((1, 2))
    kinds = np.array(["palm"]), np.array(["car"])
    assert len(match(xy, xy, 1.0, found_kind=kinds[0], true_kind=kinds[1])[0]) == 0
    assert len(match(xy, xy, 1.0)[0]) == 1
    assert len(match(np.zeros((0, 2)), xy, 1.0)[0]) == 0


def test_a_tally_is_what_it_says() -> None:
    tally = Tally(matched=8, detected=10, true=16) + Tally(0, 0, 0)
    assert (tally.recall, tally.precision, tally.bias) == (0.5, 0.8, -0.375)
    assert tally.f1 == pytest.approx(2 * 0.5 * 0.8 / 1.3)
    assert Tally(0, 0, 0).facts()["recall"] is None


def test_a_sample_counted_by_hand() -> None:
    """Two images: of 40 objects in one 30 are found, of 10 in the other all; 5 are invented in the second."""
    x, y = (a.ravel() for a in np.meshgrid(np.arange(5, 100, 10.0), np.arange(5, 40, 10.0)))
    true = points(x, y)
    found = points(x[:30] + 1, y[:30])
    more, more_y = np.arange(205.0, 300, 10), np.full(10, 55.0)
    true = gpd.GeoDataFrame(gpd.pd.concat([true, points(more, more_y, image="b")], ignore_index=True))
    found = gpd.GeoDataFrame(
        gpd.pd.concat(
            [found, points(more, more_y + 2, image="b"), points(more[:5], more_y[:5] + 30, image="b")],
            ignore_index=True,
        )
    )
    checked = Checked(area((0, 0, 100, 100), (200, 0, 300, 100), images=("a", "b")), true[["object", "geometry"]])
    facts = evaluate_points(found, checked)
    assert facts["matching_distance_m"] == 4
    assert facts["checked_ha"] == pytest.approx(2, rel=1e-3)
    whole = facts["all"]
    assert (whole["n"], whole["detected"], whole["matched"]) == (50, 45, 40)
    assert whole["recall"] == 0.8
    assert whole["precision"] == pytest.approx(40 / 45, abs=1e-4)
    assert whole["count_bias"] == -0.1
    assert whole["recall_ci"][0] < 0.8 < whole["recall_ci"][1]
    by_image = facts["by_image"]
    assert by_image["a"]["recall"] == 0.75
    assert by_image["b"]["count_bias"] == 0.5
    assert sum(row["n"] for row in facts["by_density"]) == 50
    assert facts["correction"]["factor"] == pytest.approx(50 / 45, abs=1e-4)
    assert facts["correction"]["applied"] is False


def test_a_pair_across_a_border_of_cells_counts_once() -> None:
    true, found = points([49.0], [10.0]), points([51.0], [10.0])
    facts = evaluate_points(found, Checked(area((0, 0, 100, 100)), true[["object", "geometry"]]))
    assert facts["all"]["cells"] == 1
    assert facts["all"]["f1"] == 1.0


def test_intervals_over_cells_hold_the_truth() -> None:
    """300 samples of 40 cells, whose recall differs: 95 % intervals hold the true recall in 88 to 99 %."""
    from subpixmap.detection.evaluate import _share_ci

    rng, hit = np.random.default_rng(0), 0
    for _ in range(300):
        true = rng.poisson(12, 40).astype(float)
        matched = rng.binomial(true.astype(int), rng.beta(8, 2, 40)).astype(float)
        low, high = _share_ci(matched, true, 0.95, few=False) or (np.nan, np.nan)
        hit += low <= 0.8 <= high
    assert 0.88 * 300 <= hit <= 0.99 * 300


def test_nothing_detected_is_measured_too() -> None:
    true = points([5.0, 25.0], [5.0, 5.0])
    facts = evaluate_points(points([], []), Checked(area((0, 0, 100, 100)), true[["object", "geometry"]]))
    assert facts["all"]["recall"] == 0
    assert facts["all"]["precision"] is None
    assert facts["correction"]["factor"] is None


def test_what_was_measured_stays_with_the_points(
    tmp_path: Path, subpixmap: Callable[..., int], refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    table = points([5.0, 25.0, 45.0], [5.0, 5.0, 5.0])
    path, true = tmp_path / "points.parquet", tmp_path / "true.gpkg"
    write_points(path, table, {"objects": ["palm"], "evaluation": None, "images": []})
    table.iloc[:2].to_file(true)
    area((0, 0, 100, 100)).assign(name="one").to_file(tmp_path / "areas.gpkg")
    evaluate = ("detect-evaluate", path, true, "--labelled", tmp_path / "areas.gpkg", "-o", tmp_path / "m.json")
    assert subpixmap(*evaluate) == 0
    assert "(not applied)" in capsys.readouterr().out
    facts = detection_facts(path)
    assert facts is not None
    assert facts["evaluation"]["all"]["matched"] == 2
    assert gpd.read_parquet(path).equals(table)  # no number was corrected
    assert (tmp_path / "m.json").is_file()
    assert "give with --labelled" in refused("detect-evaluate", path, true)
    assert "not a points.parquet written by subpixmap detect" in refused("detect-evaluate", true, true)
    assert "--distance -1: give a positive" in refused(*evaluate, "--distance", -1)
