"""Power and false alarms of the trend tests: a table for docs/trends.md.

    python workflows/trend_power.py [--units 100] [--seed 1]

Every world holds units that are felled, planted, hit by a storm (they are back in two years), slowly ageing, or
unchanged, with 2 to 6 acquisitions a year. Prints, for each noise and number of periods, the share of units that get
each verdict.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from subpixmap.trends.unit_trends import follow

Array = NDArray[np.float64]


def worlds(n: int, units: int, rng: np.random.Generator, *, join: float = 0.0) -> dict[str, Array]:
    """{kind: (unit, period) true totals}; a join adds this share to all totals of the second half of the periods."""
    base = rng.uniform(500, 5000, (units, 1))
    time = np.arange(n)[None]
    at = rng.integers(1, n, (units, 1))
    late = time >= at
    kinds = {
        "felled -30 %": base * np.where(late, 0.7, 1.0),
        "planted +30 %": base * np.where(late, 1.3, 1.0),
        "ageing -25 %": base * (1 - 0.25 * time / (n - 1)),
        "storm, back": base * np.where((time == at) | (time == at + 1), 0.75, 1.0),
        "-3 to +3 %": base * (1 + rng.uniform(-0.03, 0.03, (units, 1)) * time / (n - 1)),
        "unchanged": np.repeat(base, n, axis=1),
    }
    return {kind: totals * (1 + join * (time >= n / 2)) for kind, totals in kinds.items()}


def observe(truth: Array, noise: float, rng: np.random.Generator, kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts and series of units whose acquisitions err by chance; `noise` is that of a year of four acquisitions."""
    units, n = truth.shape
    acquisitions = rng.integers(2, 7, truth.shape)
    sigma = noise * 2 * truth[:, :1]
    total = truth + rng.standard_normal(truth.shape) * sigma / np.sqrt(acquisitions)
    spread = np.sqrt(rng.chisquare(acquisitions - 1) / (acquisitions - 1))
    years = np.tile(np.arange(2018, 2018 + n), units).astype(str)
    names = np.repeat([f"{kind} {i}" for i in range(units)], n)
    key = {"unit_id": names, "object": "tree", "period": years}
    counts = pd.DataFrame(key).assign(
        unit_name=names, parent_id=None, measure="count", area_ha=100.0, map_total_full=total.ravel()
    )
    counts = counts.assign(period_start=counts["period"] + "-01-01", period_end=counts["period"] + "-12-31")
    series = pd.DataFrame(key).assign(
        common_frac=0.9,
        common_total=total.ravel(),
        noise_se=(spread * sigma / np.sqrt(acquisitions)).ravel(),
        n_noise_acquisitions=acquisitions.ravel(),
        background_per_ha=0.0,
    )
    return counts, series


def inputs(n: int, join: float) -> pd.DataFrame:
    """What the imagery was made of; a join is a new catalogue in the second half of the periods."""
    catalogues = ["new" if join and i >= n / 2 else "old" for i in range(n)]
    rows = [{"baselines": {"05.00": 1.0}, "satellites": {"S2A": 1.0}, "catalogues": {name: 1.0}} for name in catalogues]
    return pd.DataFrame(rows).assign(period=[str(2018 + i) for i in range(n)], dark_reflectance=float("nan"))


def verdicts(n: int, noise: float, units: int, rng: np.random.Generator, *, join: float = 0.0) -> pd.DataFrame:
    """Share of the units of each kind that get each verdict; a row per kind."""
    parts = [observe(truth, noise, rng, kind) for kind, truth in worlds(n, units, rng, join=join).items()]
    counts, series = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    table = follow(counts, series, inputs=inputs(n, join)).trend
    kind = table["unit_id"].str.rsplit(" ", n=1).str[0]
    shares = pd.crosstab(kind, table["direction"], normalize="index")
    order = list(dict.fromkeys(kind))
    return shares.reindex(index=order, columns=["rise", "fall", "steady", "unclear"], fill_value=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print("| noise | periods | units | rise | fall | steady | unclear |\n|---|---|---|---|---|---|---|")
    cases = [(noise, n, 0.0) for noise in (0.01, 0.03, 0.06) for n in (3, 4, 6, 8)] + [(0.03, 6, 0.1)]
    for noise, n, join in cases:
        for kind, row in verdicts(n, noise, options.units, rng, join=join).iterrows():
            what = f"{kind}, join of {join:+.0%}" if join else str(kind)
            print(f"| {noise:.0%} | {n} | {what} | " + " | ".join(f"{100 * share:.0f} %" for share in row) + " |")


if __name__ == "__main__":
    main()
