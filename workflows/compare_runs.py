"""Compares two runs of one region, by unit and by square kilometre.

Say what another backend or precision does to your own model and region:

    subpixmap run --region aoi.geojson --years 2021 --out exact --backend torch
    subpixmap run --region aoi.geojson --years 2021 --out rounded --precision bfloat16
    python compare_runs.py exact rounded

Differences are relative: to the total of the same unit and period, and per km2 to the mean of all km2 with objects.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from subpixmap import open_map

KEYS = ["unit_id", "object", "period"]


def by_unit(exact: Path, other: Path) -> pd.DataFrame:
    """Object -> largest and mean difference of the totals of units and of the region."""
    tables = [
        pd.read_csv(out / "counts.csv", dtype={"unit_id": str, "period": str}).set_index(KEYS) for out in (exact, other)
    ]
    totals = pd.concat([table["map_total"] for table in tables], axis=1, keys=["exact", "other"]).reset_index()
    totals = totals[totals.exact != 0]
    totals["error"] = (totals.other / totals.exact - 1).abs()
    region = totals[totals.unit_id == "REGION"].groupby("object").error.max()
    units = totals[totals.unit_id != "REGION"].groupby("object").error.agg(["mean", "max"])
    return pd.DataFrame({"region, worst period": region, "units, mean": units["mean"], "units, worst": units["max"]})


def by_km2(exact: Path, other: Path) -> pd.DataFrame:
    """Object -> root mean square and largest difference of squares of 1 km."""
    rows = []
    for epsg, zone in open_map(exact).items():
        side = round(1000 / abs(float(zone.x[1] - zone.x[0])))
        a, b = (one["count"].coarsen(y=side, x=side, boundary="trim").sum() for one in (zone, open_map(other)[epsg]))
        for name in zone.object.values:
            sums = a.sel(object=name).values.ravel()
            errors = (b - a).sel(object=name).values.ravel() / np.abs(sums[sums != 0]).mean()
            rows.append((str(name), np.sqrt(np.mean(errors[sums != 0] ** 2)), np.abs(errors).max()))
    return pd.DataFrame(rows, columns=["object", "km2, rms", "km2, worst"]).groupby("object").max()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exact", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="print the comparisons without running them")
    given = parser.parse_args()
    if given.dry_run:
        print(f"compare counts.csv and map.zarr of {given.exact} and {given.other}")
        return
    table = by_unit(given.exact, given.other).join(by_km2(given.exact, given.other))
    print(table.to_string(float_format=lambda value: f"{value:.1e}"))


if __name__ == "__main__":
    main()
