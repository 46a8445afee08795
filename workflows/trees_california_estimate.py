"""Real trees: totals with intervals of cities outside the training, and the coverage of the intervals.

    python workflows/trees_california_estimate.py --data DIR [--model M] [--json OUT]

DIR is a folder of the format of `trees_california.py`. The whole city is known there, so thousands of samples of 20, 40
and 60 crops can be drawn, estimated, and compared with the truth. A crop (153.6 m) is a cell, the mapped cell is the
sum of its prediction, the labelled count that of the annotated trees.

The imagery is aerial, degraded to 9.6 m: what is measured is the estimator, not a satellite product.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trees_california import BANDS, HALO, NAME, Crops, predict_crops, read_crops, see

from subpixmap.errors import InputError, SubpixmapError
from subpixmap.estimation.coverage import plan_simple, simulate
from subpixmap.estimation.populations import Population
from subpixmap.model.checkpoint import load_model

SIZES = (20, 40, 60)
"""Crops that are labelled; a city needs twice as many."""
COLUMNS = ("bias_pct", "rse_pct", "coverage_95", "mean_width_pct")


def population_of(crops: Crops, predicted: NDArray[np.float64]) -> Population:
    """The crops of a city as cells."""
    n = len(predicted)
    everywhere = np.ones(n, bool)
    place = np.arange(n, dtype=float)
    return Population(place, np.zeros(n), crops.trees, predicted, everywhere, everywhere, ~everywhere)


def estimate_city(crops: Crops, predicted: NDArray[np.float64], *, draws: int, seed: int = 0) -> dict[str, Any]:
    """Truth, map total, and the estimators over many simple random samples of each size."""
    population = population_of(crops, predicted)
    found: dict[str, Any] = {
        "truth": population.truth,
        "map_total": float(predicted.sum()),
        "crops": len(predicted),
        "r2": float(np.corrcoef(predicted, population.count)[0, 1] ** 2),
        "n": {},
    }
    for n in SIZES:
        if len(predicted) >= 2 * n:
            table = simulate(population, plan_simple(population, n), draws=draws, seed=seed + n, min_cells=min(SIZES))
            rows = table.set_index("estimator")[list(COLUMNS)].to_dict("index")
            found["n"][str(n)] = {
                str(name): {k: round(float(v), 3) for k, v in row.items()} for name, row in rows.items()
            }
    return found


def estimate_cities(data: Path, model_name: str, *, draws: int) -> dict[str, Any]:
    """Every city of a folder that the model was not trained on."""
    model, crops = load_model(model_name), read_crops(data)
    if (model.halo, model.card.bands, model.card.object_names) != (HALO, BANDS, ("tree",)):
        raise InputError(f"{model_name}: not a model of trees_california.py (halo, bands or objects differ)")
    taught = model.card.training.get("cities", ())
    names = [city for city in crops.cities if city not in taught]
    if not names:
        raise InputError(f"{data}: the model was trained on every city here ({', '.join(crops.cities)})")
    found = {}
    for city in names:
        own = crops.of([city])
        predicted = predict_crops(model, see(own)[:, 0]).sum(axis=(1, 2), dtype=float)
        found[city] = estimate_city(own, predicted, draws=draws)
    return {"cities": found}


def as_table(found: dict[str, Any]) -> str:
    """A text table."""
    lines = [f"{'city':<14}{'n':>4}  {'estimator':<12}{'bias':>8}{'rse':>8}{'coverage':>10}{'width':>8}"]
    for city, one in found["cities"].items():
        error = 100 * (one["map_total"] / one["truth"] - 1)
        lines.append(
            f"{city:<14}{one['crops']} crops, {one['truth']:.0f} trees, map total {error:+.1f} %, R2 {one['r2']:.2f}"
        )
        lines += [
            f"{'':<14}{n:>4}  {name:<12}{s['bias_pct']:>+7.2f}%{s['rse_pct']:>7.2f}%{s['coverage_95']:>9.1f}%"
            f"{s['mean_width_pct']:>7.1f}%"
            for n, estimators in one["n"].items()
            for name, s in estimators.items()
        ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the format of trees_california")
    parser.add_argument("--model", default=NAME, help="checkpoint; cities that it was trained on are left out")
    parser.add_argument("--draws", type=int, default=2000, help="samples of each size")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    try:
        found = estimate_cities(options.data, options.model, draws=options.draws)
    except SubpixmapError as error:
        print(f"trees_california_estimate: {error}", file=sys.stderr)
        return error.exit_code
    print(as_table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
