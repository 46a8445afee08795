"""Compare the counts of a run with the truth of the simulated country it mapped.

    python workflows/compare_with_truth.py runs/demo --within 0.05

Prints a table per object and period; ends with 1 if a country total (`map_total_full`) is off by more than `--within`.
The data is simulated: this shows that the line from items to totals is right, not how well real objects are counted.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from subpixmap.mapping.plan import read_plan
from subpixmap.simulate.recognise import truth_of


def compare(counts: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Country totals per object and period, mapped and true; a country is the units without a parent."""
    keys = ["object", "period"]
    top = counts[counts["parent_id"].isna() | (counts["parent_id"] == "")]
    both = top.merge(truth, on=["unit_id", *keys], validate="one_to_one")
    table = both.groupby(keys)[["map_total_full", "count"]].sum().rename(columns={"count": "truth"})
    table["error"] = table["map_total_full"] / table["truth"] - 1
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--truth", type=Path, help="truth.csv  [default: beside the catalogue that the run read]")
    parser.add_argument("--within", type=float, default=0.05)
    options = parser.parse_args()
    kinds = {"unit_id": str, "object": str, "period": str}
    given = pd.read_csv(options.truth, dtype=kinds) if options.truth else None  # type: ignore[arg-type]
    truth = truth_of(read_plan(options.out).sources) if given is None else given
    if truth is None:
        parser.error(f"{options.out} did not map a simulated country; give its --truth")
    table = compare(pd.read_parquet(options.out / "counts.parquet"), truth)
    print(table.to_string(float_format=lambda v: f"{v:,.3f}"))
    worst = table["error"].abs().max()
    print(f"\nlargest error of a country total: {worst:.2%} (allowed {options.within:.0%}), n = {len(table)}")
    return int(not worst <= options.within)


if __name__ == "__main__":
    sys.exit(main())
