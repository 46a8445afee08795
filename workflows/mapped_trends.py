"""Checks the trend directions of mapped simulated countries, for docs/trends.md.

    python workflows/mapped_trends.py worlds --seeds 301-320 [--every quarter --overpasses 12]

Simulates and maps a small country for every seed with the shipped model (what is there already is kept), follows its
counts, and compares every direction with the truth: of units that change by more than 20 % and 500 objects, how many
are told right; of those below 5 %, how many are told to change; the sign of every country's change that is told; and
steps that are dated to the year. All of it is simulated: it shows what the statistics make of a map, not how well real
objects are counted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from subpixmap import simulate_country
from subpixmap.periods import Every
from subpixmap.runfolder import RunFolder
from subpixmap.simulate.recognise import truth_of
from subpixmap.tables import REGION
from subpixmap.trends.run_trend import trend_of_run
from subpixmap.verbs.count import count
from subpixmap.verbs.request import Request
from subpixmap.verbs.run import map_planned, plan

CENTER = (119.506915, 10.498287)
"""Of a country of 2.4 km: it lies in a single chunk of the map."""


def mapped(folder: Path, seed: int, *, size_km: float, years: str, overpasses: int, every: Every) -> Path:
    """The run folder of a simulated country, mapped and counted unless it is there."""
    country, out = folder / f"country-{seed}", folder / f"run-{seed}"
    first, last = (int(year) for year in years.split("-"))
    if not (country / "country.json").is_file():
        simulate_country(
            country, seed=seed, size_km=size_km, years=(first, last), acquisitions=overpasses, center=CENTER
        )
    if not (out / "counts.parquet").is_file():
        region, units, source = (country / name for name in ("region.geojson", "admin.parquet", "catalog.json"))
        plan(
            Request(
                region=str(region), years=years, out=out, every=every, source=(str(source),), admin=units, quiet=True
            )
        )
        map_planned(out, workers=0, quiet=True)
        count(out, workers=0, quiet=True)
    return out


def judged(out: Path, truth: pd.DataFrame | None = None) -> pd.DataFrame:
    """The trend of a run beside the truth, a row per unit and object that has one.

    Returns
    -------
    pandas.DataFrame
        `unit_id`, `object`, `direction`, `first` and `last` (true counts), `true_change`, `largest` (year before the
        largest true step), `share` (of the change that this step is), `step_from`, `change`, `because`.
    """
    run = RunFolder.open(out)
    truth = truth_of(run.plan.sources) if truth is None else truth
    assert truth is not None, f"{out} did not map a simulated country"
    wide = truth.pivot_table(index=["unit_id", "object"], columns="period", values="count", fill_value=0)
    tops = run.units.table
    tops = tops[tops["parent_id"].fillna("") == ""]["unit_id"]
    whole = wide[wide.index.get_level_values("unit_id").isin(tops)].groupby("object").sum()
    whole.index = pd.MultiIndex.from_product([[REGION], whole.index], names=wide.index.names)
    wide = pd.concat([wide, whole])
    steps = wide.diff(axis=1).iloc[:, 1:]
    known = pd.DataFrame({"first": wide.iloc[:, 0], "last": wide.iloc[:, -1]})
    known["true_change"] = known["last"] - known["first"]
    at = np.argmax((steps.to_numpy() * np.sign(known[["true_change"]].to_numpy())), axis=1)
    known["largest"] = wide.columns[at]
    known["share"] = steps.to_numpy()[np.arange(len(at)), at] / known["true_change"].replace(0, np.nan)
    told = trend_of_run(run).trend
    columns = ["unit_id", "object", "direction", "step_from", "change", "change_se", "because", "direction_p"]
    return told[columns].merge(known.reset_index(), on=["unit_id", "object"], validate="one_to_one")


def score(table: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """What is asked of directions -> (how many, of how many)."""
    units, regions = table[table["unit_id"] != REGION], table[table["unit_id"] == REGION]
    return {
        "above 20 % and 500 objects: told right": _counted(_large(units), _right(units)),
        "above 20 % and 500 objects: told wrong": _counted(_large(units), _told(units) & ~_right(units)),
        "any unit that is told: wrong sign": _counted(_told(units), ~_right(units)),
        "below 5 %: told to change": _counted(_small(units), _told(units)),
        "countries that are told: right sign": _counted(_told(regions), _right(regions)),
        "one step (80 % of a change above 20 % and 500), told: dated to the year": _counted(
            _large(units) & _right(units) & (units["share"] >= 0.8), units["step_from"] == units["largest"]
        ),
        "steady, but changed by more than 5 %": _counted(units["direction"] == "steady", _share(units).abs() > 0.05),
    }


def _share(table: pd.DataFrame) -> pd.Series[float]:
    return table["true_change"] / table["first"].clip(lower=1)


def _large(table: pd.DataFrame) -> pd.Series[bool]:
    return (_share(table).abs() > 0.2) & (table["true_change"].abs() > 500)


def _small(table: pd.DataFrame) -> pd.Series[bool]:
    return (_share(table).abs() < 0.05) & (table["first"] >= 500)


def _told(table: pd.DataFrame) -> pd.Series[bool]:
    return table["direction"].isin(["rise", "fall"])


def _right(table: pd.DataFrame) -> pd.Series[bool]:
    rises, falls = table["direction"] == "rise", table["direction"] == "fall"
    return (rises & (table["true_change"] > 0)) | (falls & (table["true_change"] < 0))


def _counted(among: pd.Series[bool], holds: pd.Series[bool]) -> tuple[int, int]:
    return int((among & holds).sum()), int(among.sum())


def _seeds(text: str) -> Sequence[int]:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=_seeds, default=range(301, 321))
    parser.add_argument("--size-km", type=float, default=2.4)
    parser.add_argument("--years", default="2018-2022")
    parser.add_argument("--overpasses", type=int, default=4)
    parser.add_argument("--every", choices=("year", "quarter", "month"), default="year")
    options = parser.parse_args()
    tables = []
    for seed in options.seeds:
        out = mapped(
            options.folder,
            seed,
            size_km=options.size_km,
            years=options.years,
            overpasses=options.overpasses,
            every=options.every,
        )
        tables.append(judged(out).assign(seed=seed))
        print(f"{seed}: {dict(Counter(tables[-1]['direction']))}", flush=True)
    for what, (n, of) in score(pd.concat(tables)).items():
        print(f"{what}: {n} of {of}" + (f" ({n / of:.1%})" if of else ""))


if __name__ == "__main__":
    main()
