"""Compares totals of simulated countries with their truth, in the training world and a shifted one.

    python workflows/simulated_worlds.py --seeds 101,102 --size-km 9 --out worlds [--model demo-s2-v2]
        [--json worlds.json] [--overpasses 4] [--recalibrate 100]

For every world and seed: simulates the country, maps and counts it with `subpixmap run`, compares `map_total_full` with
the truth, per object and year, for the country and for its units of 2,000 objects or more. Cars are compared with their
mean over the acquisitions of a year, which is what a mean over dates measures. What the model counts is what exists
there. Countries and maps that are there already are kept.

With `--recalibrate N` the totals are told a second time, calibrated anew on N places of the same world (in landscapes
that are not the country's): what reference data of a few local areas is worth, without a new training.

All of it is simulated: it shows how a model behaves where the truth is known, not how well real objects are counted.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import compare_with_truth
import pandas as pd

from subpixmap.errors import SubpixmapError
from subpixmap.model.checkpoint import Model, load_model
from subpixmap.training.calibrate import calibrate
from subpixmap.training.from_simulator import simulated_patches

WORLDS = ("base", "shifted")
LARGE = 2000
"""Objects from which a unit is judged."""
LOCAL_SEED = 3000
"""Of the places for `--recalibrate`."""
KEYS = ["unit_id", "object", "period"]


def make_country(folder: Path, world: str, seed: int, objects: Sequence[str], options: argparse.Namespace) -> None:
    """`subpixmap simulate`, unless it is there."""
    if not (folder / "country.json").is_file():
        words = ["--seed", seed, "--size-km", options.size_km, "--years", options.years, "--world", world]
        call("simulate", folder, *words, "--acquisitions", options.overpasses, "--objects", ",".join(objects))


def map_country(country: Path, out: Path, model: str, years: str) -> None:
    """`subpixmap run`, which goes on where it stopped."""
    region, units, source = (country / name for name in ("region.geojson", "admin.parquet", "catalog.json"))
    call("run", "--region", region, "--admin", units, "--source", source, "--years", years, "--model", model,
         "--out", out, "--yes", "--quiet")  # fmt: skip


def call(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "subpixmap", *map(str, words)], check=True)


def true_counts(country: Path) -> pd.DataFrame:
    """`unit_id, object, period, count`: trees of the year, and cars on the mean over its acquisitions."""
    trees = pd.read_csv(country / "truth.csv", dtype=dict.fromkeys(KEYS, str))
    types = {"unit_id": str, "object": str, "datetime": str, "count": "int64"}  # there may be no row to tell them from
    cars = pd.read_csv(country / "truth_scene.csv", dtype=types)  # type: ignore[arg-type]
    cars["period"] = cars["datetime"].str[:4]
    cars = cars.groupby(KEYS, as_index=False)["count"].mean()  # type: ignore[assignment]
    trees = trees[~trees["object"].isin(cars["object"])]
    return pd.concat([trees, cars])[[*KEYS, "count"]]


def compare(counts: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Per object: `country`, the errors in percent by year, `truth`, and what units of `LARGE` objects or more have."""
    country = compare_with_truth.compare(counts, truth)
    units = counts[counts["parent_id"].fillna("") != ""].merge(truth, on=KEYS, validate="one_to_one")
    found = {}
    for name, years in country.groupby(level="object"):
        years = years.droplevel("object")
        large = units[(units["object"] == name) & (units["count"] >= LARGE)]
        errors = 100 * (large["map_total_full"] / large["count"] - 1)
        found[str(name)] = {
            "truth": years["truth"].round().astype(int).to_dict(),
            "country": (100 * years["error"]).round(2).to_dict(),
            "units": len(large),
            "units_within_10": int((errors.abs() <= 10).sum()),
            "units_worst": round(float(errors[errors.abs().idxmax()]), 2) if len(large) else None,
        }
    return found


def calibrated_anew(model: Model, world: str, places: int) -> Model:
    """The same network with background and slope from places of a world."""
    options: dict[str, Any] = {"objects": model.card.object_names, "world": world, "halo": model.halo}
    return calibrate(model, simulated_patches(LOCAL_SEED, places, **options))


def with_calibration(counts: pd.DataFrame, old: Model, new: Model) -> pd.DataFrame:
    """Totals as the other calibration would have had them: it is linear, and so are sums.

    Where means leave out extremes (six observations or more) only the calibration of all values is exchanged.
    """
    totals = counts["map_total_full"].copy()
    pixels = counts["area_ha"] * (100 / old.card.resolution) ** 2
    for name in old.card.objects:
        (b0, s0), (b1, s1) = (model.card.calibration.get(name, (0.0, 1.0)) for model in (old, new))
        mine = counts["object"] == name
        totals[mine] = s1 * (totals[mine] / s0 + (b0 - b1) * pixels[mine])
    return counts.assign(map_total_full=totals)


def as_table(found: dict[str, dict[str, Any]]) -> str:
    """A line per country and object; errors in percent."""
    lines = ["world     seed  object     objects a year     errors by year, %                        units within 10 %"]
    for key, objects in found.items():
        world, seed, *more = key.split()
        lines += [" ".join(more) + ":"] if more else []
        for name, one in objects.items():
            least, most = min(one["truth"].values()), max(one["truth"].values())
            errors = " ".join(f"{error:+6.1f}" for error in one["country"].values())
            units = f"{one['units_within_10']}/{one['units']}"
            lines.append(f"{world:<9} {seed:>4}  {name:<9} {least:>8,}-{most:<8,} {errors}  {units}")
    return "\n".join(lines)


def compare_worlds(options: argparse.Namespace) -> dict[str, Any]:
    """Errors by world and seed, and once more where they are calibrated anew."""
    model = load_model(options.model)
    found = {}
    for world in options.worlds.split(","):
        local = calibrated_anew(model, world, options.recalibrate) if options.recalibrate else None
        for seed in map(int, options.seeds.split(",")):
            country = options.out / f"{world}-{seed}-{options.size_km:g}km-{options.overpasses}"
            run = options.out / f"{country.name}-{Path(options.model).stem}"
            make_country(country, world, seed, model.card.object_names, options)
            map_country(country, run, options.model, options.years)
            counts, truth = pd.read_parquet(run / "counts.parquet"), true_counts(country)
            found[f"{world} {seed}"] = compare(counts, truth)
            if local:
                anew = with_calibration(counts, model, local)
                found[f"{world} {seed} calibrated on {options.recalibrate} places"] = compare(anew, truth)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="101,102", help="seeds of the countries, not used in any training")
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--size-km", type=float, default=9)
    parser.add_argument("--years", default="2018-2023")
    parser.add_argument(
        "--overpasses", type=int, default=4, help="acquisitions per year; a run uses the ten clearest at most"
    )
    parser.add_argument("--model", default="demo-s2-v2")
    parser.add_argument("--out", type=Path, default=Path("worlds"))
    parser.add_argument("--recalibrate", type=int, default=0, metavar="N", help="recalibrate on N places of each world")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    if options.recalibrate < 0:
        parser.error(f"--recalibrate is {options.recalibrate}; want a number of places")
    try:
        found = compare_worlds(options)
    except SubpixmapError as error:
        print(f"simulated_worlds: {error}", file=sys.stderr)
        return error.exit_code
    except subprocess.CalledProcessError as error:  # it has said why
        return error.returncode
    print(as_table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
