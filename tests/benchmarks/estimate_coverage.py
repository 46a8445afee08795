"""The table of docs/estimates.md: how often 95 % intervals hold the truth, over 2,000 samples of each population.

python -m tests.benchmarks.estimate_coverage [--draws 2000]
"""

import argparse

import pandas as pd

from subpixmap.estimation.coverage import KINDS, coverage_table


def as_markdown(table: pd.DataFrame) -> str:
    """Coverage (mean width, percent of the total) by population, sample size and estimator."""
    table = table.assign(
        shown=[f"{c:.1f} ({w:.0f})" for c, w in zip(table.coverage_95, table.mean_width_pct, strict=True)]
    )
    wide = table.pivot_table(
        index=["population", "n"], columns="estimator", values="shown", aggfunc="first", sort=False
    )
    names = ["expansion", "difference", "regression", "ratio"]
    lines = ["| population | n | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    cells = wide.reset_index()[["population", "n", *names]].astype(str)
    lines += ["| " + " | ".join(row) + " |" for row in cells.itertuples(index=False)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    table = coverage_table(KINDS, (100, 150, 300), draws=options.draws)
    print(as_markdown(table))
    best = table[table.estimator.isin(["difference", "regression"])]
    print(f"\nlowest of difference and regression: {best.coverage_95.min():.1f}, highest {best.coverage_95.max():.1f}")
    print(f"largest bias of the difference: {table[table.estimator == 'difference'].bias_pct.abs().max():.2f} %")


if __name__ == "__main__":
    main()
