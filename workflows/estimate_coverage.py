"""Makes the tables of docs/estimates.md: coverage of 95 % intervals over simulated samples of simulated places.

    python workflows/estimate_coverage.py [--draws 2000] [--seeds 11,12] [--json coverage.json]

Every seed is another place of each kind, and other samples. The rules of the estimators were settled on places of
seeds 0 and 5. Nothing here is real: it shows whether the intervals do what they promise.
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

from subpixmap.estimation.coverage import coverage_table, unit_table
from subpixmap.estimation.estimators import ESTIMATORS

SIZES, UNIT_SIZES = (100, 150, 300), (1200,)


def of_regions(draws: int, seeds: list[int]) -> pd.DataFrame:
    """A row per population, sample size and estimator: means over the seeds, and the lowest coverage of a seed."""
    parts = pd.concat([coverage_table(sizes=SIZES, draws=draws, seed=seed).assign(seed=seed) for seed in seeds])
    keys = ["population", "n", "estimator"]
    means = parts.groupby(keys, sort=False)[["coverage_95", "mean_width_pct", "printed", "bias_pct", "rse_pct"]].mean()
    return means.assign(lowest=parts.groupby(keys, sort=False)["coverage_95"].min()).reset_index()


def of_units(draws: int, seeds: list[int]) -> pd.DataFrame:
    """A row per population, sample size and band of labelled cells of a unit, pooled over the seeds."""
    parts = pd.concat([unit_table(sizes=UNIT_SIZES, draws=draws, seed=seed) for seed in seeds])
    shown = parts["pairs"] * parts["printed"] / 100
    sums = parts.assign(
        shown=shown,
        covered=(shown * parts["coverage_95"]).fillna(0.0),
        width=(shown * parts["mean_width_pct"]).fillna(0.0),
    )
    table = sums.groupby(["population", "n", "labelled"], sort=False)[["pairs", "shown", "covered", "width"]].sum()
    table["printed"] = 100 * table["shown"] / table["pairs"]
    table["coverage_95"], table["mean_width_pct"] = table["covered"] / table["shown"], table["width"] / table["shown"]
    return table.reset_index()[["population", "n", "labelled", "pairs", "printed", "coverage_95", "mean_width_pct"]]


def regions_as_markdown(table: pd.DataFrame) -> str:
    """Coverage (mean width, percent of the total) by population, size and estimator; the share that is printed."""
    text = [
        f"{c:.1f} ({w:.0f})" if c == c else "-"
        for c, w in zip(table["coverage_95"], table["mean_width_pct"], strict=True)
    ]
    wide = table.assign(text=text).pivot_table("text", ["population", "n"], "estimator", aggfunc="first", sort=False)
    printed = table[table["estimator"] == "regression"].set_index(["population", "n"])["printed"]
    wide["printed"] = printed.map("{:.0f} %".format)
    return as_markdown(wide.reset_index()[["population", "n", *ESTIMATORS, "printed"]])


def units_as_markdown(table: pd.DataFrame) -> str:
    """Coverage by population, size and band; a dash where no interval is printed."""
    shown = table[table["pairs"] >= 100].copy()
    known = shown["printed"] * shown["pairs"] >= 10_000  # a hundred intervals say something of coverage
    shown["coverage (width)"] = [
        f"{c:.1f} ({w:.0f})" if there else "-"
        for c, w, there in zip(shown["coverage_95"], shown["mean_width_pct"], known, strict=True)
    ]
    shown["printed"] = shown["printed"].map("{:.0f} %".format)
    return as_markdown(shown[["population", "n", "labelled", "printed", "coverage (width)"]])


def as_markdown(table: pd.DataFrame) -> str:
    """Any table."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in table.astype(str).to_numpy().tolist()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="samples of each place and size")
    parser.add_argument("--seeds", default="11", help="places of each kind")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    seeds = [int(one) for one in options.seeds.split(",")]
    regions, units = of_regions(options.draws, seeds), of_units(options.draws // 20, seeds)
    print(regions_as_markdown(regions), "", units_as_markdown(units), sep="\n")
    best = regions[regions["estimator"].isin(["difference", "regression"])]
    print(f"\nlowest coverage of difference and regression: {best['coverage_95'].min():.1f}", end="")
    print(f", in a single place {best['lowest'].min():.1f}; highest {best['coverage_95'].max():.1f}")
    print(f"largest bias of the difference: {regions[regions.estimator == 'difference'].bias_pct.abs().max():.2f} %")
    if options.json:
        tables = {"regions": regions.to_dict("records"), "units": units.to_dict("records")}
        options.json.write_text(json.dumps(tables, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
