"""Compares training on totals of plots with training on points.

    python workflows/totals_as_labels.py [--data DIR] [--places 40] [--sides 10,24,48] [--steps 1000] [--json OUT]
    python workflows/totals_as_labels.py --country DIR [--size-km 3]      only this
    python workflows/totals_as_labels.py --dry-run

On simulated places, the same land is labelled twice: by points, and by the totals of square plots of some pixels a
side. With `--data` (the folder `trees_california`, see `trees_california.py`) also on real trees: points of crops of
2.4 ha, or one number a crop; Riverside is the test. Networks are small and alike, and so are their steps: the table
compares labels, it does not show what a model can reach. Each kind of label also calibrates, on places of its own.
With `--country` a simulated country is learnt by `subpixmap learn` from its west, and measured in its east.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from trees_california import (
    BANDS,
    CITIES,
    COARSE,
    TEST_CITY,
    N,
    card_errors,
    count_trees,
    make_patches,
    predict_crops,
    random_views,
    read_crops,
    see,
)

from subpixmap.errors import SubpixmapError
from subpixmap.model.card import Card
from subpixmap.model.net import halo_of
from subpixmap.reference.patches import Patches
from subpixmap.reference.samples import Scheme
from subpixmap.simulate import simulate_country
from subpixmap.training.calibrate import calibrate
from subpixmap.training.config import TrainConfig
from subpixmap.training.evaluate import evaluate
from subpixmap.training.from_simulator import SEEDS, simulated_patches
from subpixmap.training.inputs import input_statistics
from subpixmap.training.train import train
from subpixmap.verbs import teach
from subpixmap.verbs.request import Labelling

OBJECTS = ("coconut", "oil_palm")
WIDTH, MID, BLOCKS = 32, 8, 2
"""Of the network: that of the recipe for little land."""
CALIBRATION = 25
"""Simulated places that calibrate."""
CONFIG = TrainConfig(batch=8, crop=40, average=0.99, jitter_gain=0.012, jitter_offset=0.001, threads=1)
TREES = dataclasses.replace(CONFIG, batch=32, crop=N, jitter_brightness=0.2, jitter_gain=0.12, jitter_offset=0.05)
VIEWS = 8
"""In which every crop of trees is seen."""


def cut_plots(places: Patches, side: int) -> Patches:
    """Places cut into square plots of which the totals alone are known."""
    size = CONFIG.for_plots(side).crop
    made: dict[str, list[Any]] = {"reflectance": [], "valid": [], "count": [], "labelled": [], "share": [], "plots": []}
    for place, row, col in _corners(places, side):
        top, left = (min(max(0, at - (size - side) // 2), places.size - size) for at in (row, col))
        inner = slice(top, top + size), slice(left, left + size)
        wide = tuple(slice(one.start, one.stop + 2 * places.halo) for one in inner)
        share = np.zeros((size, size), np.float32)
        share[row - top : row - top + side, col - left : col - left + side] = 1
        totals = places.count[place][..., row : row + side, col : col + side].sum(axis=(-2, -1), dtype=float)
        made["reflectance"].append(places.reflectance[place][..., *wide])
        made["valid"].append(places.valid[place][..., *inner])
        made["count"].append((totals[..., None, None] / side**2 * share).astype(np.float32))
        made["labelled"].append(share > 0)
        made["share"].append(share)
        made["plots"].append(f"{place}/{row},{col}")
    arrays: dict[str, Any] = {name: np.stack(made[name]) for name in made if name != "plots"}
    names = tuple(name.split("/")[0] for name in made["plots"])
    return Patches(**arrays, bands=places.bands, objects=places.objects, names=names, plots=tuple(made["plots"]))


def _corners(places: Patches, side: int) -> Iterator[tuple[int, int, int]]:
    for place in range(len(places)):
        for row in range(0, places.size - side + 1, side):
            for col in range(0, places.size - side + 1, side):
                yield place, row, col


def totals_of_crops(patches: Patches) -> Patches:
    """Each place with its total in place of its count map."""
    total = patches.count.mean(axis=(-2, -1), keepdims=True, dtype=float)
    even = np.broadcast_to(total, patches.count.shape).astype(np.float32)
    plots = tuple(str(number) for number in range(len(patches)))
    return dataclasses.replace(patches, count=even, share=np.ones(patches.labelled.shape, np.float32), plots=plots)


def small_card(patches: Patches, *, resolution: float, evidence: str) -> Card:
    """A small network for the bands and objects of patches."""
    return Card(
        name="small",
        bands=patches.bands,
        objects={name: name for name in patches.objects},
        measure=dict.fromkeys(patches.objects, "count"),
        evidence=evidence,
        resolution=resolution,
        **input_statistics(patches),
        width=WIDTH,
        mid=MID,
        blocks=BLOCKS,
        halo=halo_of(BLOCKS),
    )


def places_of(part: str, number: int, chosen: argparse.Namespace) -> Patches:
    """Simulated places where olive trees and cars stand, too, with the context that the small network has."""
    options = {"acquisitions": 2, "cache": chosen.cache, "workers": chosen.workers}
    places = simulated_patches(SEEDS[part], number, **options).select_objects(OBJECTS)
    cut = places.halo - halo_of(BLOCKS)
    return dataclasses.replace(places, reflectance=places.reflectance[..., cut:-cut, cut:-cut])


def simulated_rows(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every kind of label and every object, on unseen simulated places."""
    numbers = {"training": chosen.places, "calibration": CALIBRATION, "test": chosen.places}
    land = {part: places_of(part, number, chosen) for part, number in numbers.items()}
    config = dataclasses.replace(CONFIG, steps=chosen.steps, warmup=chosen.steps // 10)
    for side in (0, *chosen.sides):
        of, labels = dict(land), "points"
        if side:
            config, labels = config.for_plots(side), f"totals of {side**2 / 100:g} ha"
            of |= {part: cut_plots(land[part], side) for part in ("training", "calibration")}
        model = train(of["training"], small_card(land["training"], resolution=10.0, evidence="simulated"), config)
        errors = evaluate(calibrate(model, of["calibration"]), land["test"])
        for name in OBJECTS:
            yield _row(f"simulated, {name}", labels, len(of["training"]), errors[name])
        config = dataclasses.replace(CONFIG, steps=config.steps, warmup=config.warmup)


def tree_rows(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Points, and totals of the same crops: trained on three cities, calibrated on a fourth, tested on Riverside."""
    crops = read_crops(chosen.data)
    *taught, calibrating = CITIES
    test = crops.of([TEST_CITY])
    config = dataclasses.replace(TREES, steps=chosen.steps, warmup=chosen.steps // 10)
    cut = slice_of(crops.of(taught), crops.of([calibrating]))
    for labels in ("points", "totals of crops (2.4 ha)"):
        of = cut if labels == "points" else {part: totals_of_crops(patches) for part, patches in cut.items()}
        card = small_card(cut["training"], resolution=COARSE, evidence="degraded-aerial")
        model = calibrate(train(of["training"], card, config), of["calibration"])
        errors = card_errors(TEST_CITY, predict_crops(model, _thin(see(test)[:, 0])), count_trees(test.points))
        yield _row("real trees", labels, len(of["training"]), errors["tree"])


def country_rows(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A country: its west labelled by points, or by totals of square plots, and its east measured by all its points."""
    out, year = chosen.country, 2021
    if not (out / "country" / "country.json").is_file():
        simulate_country(out / "country", seed=5, size_km=chosen.size_km, years=(year, year), acquisitions=8)
    points, source = out / "country" / "points.parquet", (str(out / "country"),)
    west, south, east, north = gpd.read_file(out / "country" / "region.geojson").total_bounds
    middle = west + 0.6 * (east - west)
    labelling = Labelling(objects=OBJECTS, border=halo_of(BLOCKS))
    areas = {"west": (west, south, middle, north), "east": (middle, south, east, north)}
    for name, bounds in areas.items():
        squares = grid(bounds, round((bounds[2] - bounds[0]) / (east - west) * 5), 4)
        gpd.GeoDataFrame({"name": [f"{name} {k}" for k in range(len(squares))]}, geometry=squares, crs=4326).to_file(
            out / f"{name}.geojson"
        )
    plots = write_totals(points, areas["west"], out / "plots.geojson")
    truth = out / "truth"
    teach.reference(points, out / "east.geojson", str(year), truth, labelling=labelling, quiet=True)
    totals = Labelling(total_columns={name: name for name in OBJECTS})
    ways = {"points": (points, out / "west.geojson", labelling), "totals of 4 ha": (plots, None, totals)}
    for labels, (first, labelled, how) in ways.items():
        model = out / f"{labels.replace(' ', '-')}.safetensors"
        scheme = Scheme(folds=2, max_scenes=4)
        taught = teach.learn(first, labelled, str(year), source, model, labelling=how, scheme=scheme, quiet=True)
        errors = teach.evaluate(str(model), folder=truth, source=source, scheme=Scheme(max_scenes=4), quiet=True)
        places = len(gpd.read_file(labelled or plots))
        for name in OBJECTS:
            yield _row(f"country, {name} ({taught.card.members} networks)", labels, places, errors[name])


def grid(bounds: Sequence[float], columns: int, rows: int, *, gap: float = 0.02) -> list[Any]:
    """Rectangles that share out a box, with gaps between them."""
    west, south, east, north = bounds
    dx, dy = (east - west) / columns, (north - south) / rows
    return [
        shapely.box(
            west + (i + gap) * dx, south + (j + gap) * dy, west + (i + 1 - gap) * dx, south + (j + 1 - gap) * dy
        )
        for i in range(columns)
        for j in range(rows)
    ]


def write_totals(points: Path, bounds: Sequence[float], path: Path, *, side: float = 200.0) -> Path:
    """Plots of about `side` metres in a box of degrees, with a column for the number of each object."""
    west, south, east, north = bounds
    degree = 111_320.0
    columns = round((east - west) * degree * np.cos(np.radians((south + north) / 2)) / side)
    squares = gpd.GeoDataFrame(geometry=grid(bounds, columns, round((north - south) * degree / side)), crs=4326)
    table = gpd.read_parquet(points).to_crs(4326)
    inside = squares.sjoin(table[["object", "geometry"]])
    for name in OBJECTS:
        squares[name] = (inside["object"] == name).groupby(inside.index).sum().reindex(squares.index, fill_value=0)
    squares.to_file(path)
    return path


def slice_of(training: Any, calibration: Any) -> dict[str, Patches]:
    """Patches of crops in some views, with the context that the small network has."""
    views = random_views(VIEWS, 0)
    both = {"training": make_patches(training, views), "calibration": make_patches(calibration, views)}
    return {part: dataclasses.replace(p, reflectance=_thin(p.reflectance), bands=BANDS) for part, p in both.items()}


def _thin(reflectance: Any) -> Any:
    """Reflectance with the context of the small network."""
    cut = (reflectance.shape[-1] - N) // 2 - halo_of(BLOCKS)
    return reflectance[..., cut:-cut, cut:-cut]


def _row(land: str, labels: str, n: int, errors: dict[str, Any]) -> dict[str, Any]:
    at = errors["1 ha"]
    facts = {"land": land, "labels": labels, "places": n, "r2": at["r2"], "mae": at["mae"]}
    return {**facts, "total": errors["total"]["error_pct"]}


def plan(chosen: argparse.Namespace) -> list[str]:
    """What would be trained."""
    if chosen.country is not None:
        return [
            f"a country of {chosen.size_km:g} km in {chosen.country}: {kind}" for kind in ("points", "totals of 4 ha")
        ]
    kinds = ["points", *(f"totals of {side**2 / 100:g} ha" for side in chosen.sides)]
    lines = [f"simulated, {chosen.places} places: {kind}, {chosen.steps} steps" for kind in kinds]
    if chosen.data is not None:
        lines += [
            f"real trees of {chosen.data}: {kind}, {chosen.steps} steps" for kind in ("points", "totals of crops")
        ]
    return lines


def show(row: dict[str, Any]) -> str:
    """A line of the table."""
    numbers = f"{row['r2']:.3f} | {row['mae']:.1f} | {row['total']:+.1f} %"
    return f"| {row['land']} | {row['labels']} | {row['places']} | {numbers} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder trees_california, for the rows of real trees")
    parser.add_argument(
        "--places", type=int, default=40, help="number of simulated places of 1 km2 to train on, and to test on"
    )
    parser.add_argument("--sides", type=lambda text: [int(side) for side in text.split(",")], default=[10, 24, 48])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--cache", type=Path, help="folder that caches rendered places")
    parser.add_argument("--workers", type=int, default=1, help="number of rendering processes")
    parser.add_argument("--country", type=Path, help="folder for a simulated country, instead of simulated places")
    parser.add_argument("--size-km", type=float, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="print the trainings without running them")
    chosen = parser.parse_args(argv)
    if chosen.dry_run:
        print(*plan(chosen), sep="\n")
        return 0
    rows = []
    print("| land | labels | places | R2 at 1 ha | MAE/ha | total |\n|---|---|---|---|---|---|", flush=True)
    try:
        ways = (country_rows,) if chosen.country is not None else (simulated_rows,)
        for made in (*ways, tree_rows) if chosen.data is not None else ways:
            for row in made(chosen):
                rows.append(row)
                print(show(row), flush=True)
    except SubpixmapError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
