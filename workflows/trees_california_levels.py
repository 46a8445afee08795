"""Compares ways to normalise the brightness of flights over five cities, with linear models on left-out cities.

    python workflows/trees_california_levels.py --data DIR [--seeds 4] [--json OUT]

DIR is the folder of `trees_california.py`. Each city is left out once and its trees are counted by the line of
`trees_california_totals.py`, which is fitted in seconds where a network needs half an hour. The imagery is aerial,
degraded to 9.6 m.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trees_california import HALO, LEVEL, Crops, degrade, over_cities, read_crops
from trees_california_totals import line_totals

from subpixmap.errors import SubpixmapError

Pixels = NDArray[np.floating]
MEAN, SPREAD = np.array(LEVEL).T
ENDS = (0.28, 0.70)
"""Where the darkest and brightest fiftieth come to lie."""
DARK, GREY = 0.27, np.array([0.19, 0.19, 0.21, 0.19])
"""Where the darkest hundredth comes to lie, and how far above it grey ground."""
BARE_MEAN, BARE_SPREAD = np.array([0.47, 0.48, 0.47, 0.47]), np.array([0.105, 0.105, 0.11, 0.105])


def grey(pixels: Pixels) -> NDArray[np.bool_]:
    """(n,) the third of the pixels whose greenness is most alike: roofs, roads, bare ground."""
    above = pixels - np.quantile(pixels, 0.01, axis=1, keepdims=True)
    green = (above[3] - above[2]) / (above[3] + above[2] + 0.05)
    ranked, third = np.sort(green), green.size // 3
    start = (ranked[third:] - ranked[:-third]).argmin()
    return np.asarray((green >= ranked[start]) & (green <= ranked[start + third]))


def gain_and_offset(way: str, pixels: Pixels) -> tuple[Pixels, Pixels]:
    """(4,) each, from the pixels (4, n) of a flight and nothing else."""
    if way == "dark and bright ends":
        low, high = np.quantile(pixels, (0.02, 0.98), axis=1)
        gain = (ENDS[1] - ENDS[0]) / (high - low)
        return gain, ENDS[0] - gain * low
    if way == "dark end and grey ground":
        low = np.quantile(pixels, 0.01, axis=1)
        gain = GREY / (pixels[:, grey(pixels)].mean(axis=1) - low)
        return gain, DARK - gain * low
    if way == "grey ground only":
        ground = pixels[:, grey(pixels)]
        gain = BARE_SPREAD / ground.std(axis=1)
        return gain, BARE_MEAN - gain * ground.mean(axis=1)
    share = {"none": 0.0, "halfway": 0.5, "all pixels": 1.0}[way]
    gain = SPREAD / pixels.std(axis=1)
    return 1 + share * (gain - 1), share * (MEAN - gain * pixels.mean(axis=1))


WAYS = ("none", "halfway", "all pixels", "dark and bright ends", "dark end and grey ground", "grey ground only")


def levelled(plain: Pixels, crops: Crops, way: str) -> Pixels:
    """(crop, 4, y, x), the flights (a city in a year) at one level."""
    out = np.empty_like(plain)
    for flight in {*zip(crops.city.tolist(), crops.year.tolist(), strict=True)}:
        mine = (crops.city == flight[0]) & (crops.year == flight[1])
        pixels = np.moveaxis(plain[mine], 1, 0).reshape(4, -1).astype(float)
        gain, offset = gain_and_offset(way, pixels)
        out[mine] = plain[mine] * gain[:, None, None] + offset[:, None, None]
    return out


def score_totals(found: Pixels, trees: Pixels) -> dict[str, float]:
    """Errors of (crop,) trees."""
    spread = ((trees - trees.mean()) ** 2).mean()
    return {
        "total_bias_pct": float(100 * (found.sum() / trees.sum() - 1)),
        "mae_per_crop": float(np.abs(found - trees).mean()),
        "r2_per_crop": float(1 - ((found - trees) ** 2).mean() / spread),
    }


def compare_ways(crops: Crops, *, seeds: int) -> dict[str, Any]:
    """City -> way -> scores, of the mean over seeds of the jitter."""
    plain = degrade(crops.images)[..., HALO:-HALO, HALO:-HALO]
    cities: dict[str, Any] = {city: {} for city in crops.cities}
    for way in WAYS:
        seen = levelled(plain, crops, way)
        for city in crops.cities:
            mine = crops.city == city
            runs = [line_totals(seen[~mine], crops.trees[~mine], seen[mine], seed=seed) for seed in range(seeds)]
            cities[city][way] = score_totals(np.mean(runs, axis=0), crops.trees[mine])
    return {"cities": cities, "over_cities": over_cities(cities)}


def as_table(found: dict[str, Any]) -> str:
    """A row for every way."""
    names = list(found["cities"])
    lines = [f"{'level':<26}" + "".join(f"{name:>16}" for name in names) + "   mean |total|  worst    R2  worst"]
    for way, over in found["over_cities"].items():
        scores = [found["cities"][name][way] for name in names]
        cells = "".join(f"{s['total_bias_pct']:>+9.1f}% {s['r2_per_crop']:>5.2f}" for s in scores)
        sums = f"{over['mean_abs_bias_pct']:>13.1f}% {over['worst_abs_bias_pct']:>5.1f}%"
        lines.append(f"{way:<26}{cells} {sums} {over['mean_r2']:>5.2f} {over['worst_r2']:>6.2f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the format of trees_california")
    parser.add_argument("--seeds", type=int, default=4, help="number of seeds of the jitter; scores are of their mean")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    try:
        found = compare_ways(read_crops(options.data), seeds=options.seeds)
    except SubpixmapError as error:
        print(f"trees_california_levels: {error}", file=sys.stderr)
        return error.exit_code
    print(as_table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
