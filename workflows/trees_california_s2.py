"""The same trees with real Sentinel-2: makes a checkpoint with the evidence "sentinel-2".

    python workflows/trees_california_s2.py --data DIR --source earth-search --out trees-s2

DIR is a clone of https://github.com/jonathanventura/urban-tree-detection-data (CC BY 4.0), or the folder of
`trees_california.py`; of it, only the trees and where the crops lie are used. For each city and
year the catalogue is asked once; each crop is then opened with `open_cube`, its clearest acquisitions of the season are
read, and its trees become a count map on the 10 m lattice. Four cities train a model, the fifth tests it. OUT keeps the
patches of each city (a second run reads them), the catalogue's answers, the checkpoint, its card and metrics.json with
its figure. `first_real_checkpoint.py california` runs it and makes a pull request of what it leaves.

Pixels of a crop's edge are not used: trees outside it are not known. Crops are in NAD83, Sentinel-2 in WGS 84, about a
metre apart, which is left as it is. Sentinel-2 Level-2A of 2016 is missing in most catalogues, hence 2018 and 2020.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import rasterio.transform
import shapely
from numpy.typing import NDArray
from trees_california import BANDS, BLOCKS, HALO, MID, RECIPE, TEST_CITY, WIDTH, N

from subpixmap import open_cube
from subpixmap.errors import InputError, SubpixmapError
from subpixmap.grid import Lattice, project, transformer
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model, save_model
from subpixmap.periods import make_periods
from subpixmap.reference.countmap import labelled_mask
from subpixmap.reference.patches import Patches, join, make_patches
from subpixmap.scenes.source import find_items
from subpixmap.training.baselines import fit_baselines
from subpixmap.training.config import TrainConfig
from subpixmap.training.evaluate import brief, evaluate, rounded
from subpixmap.training.inputs import input_statistics
from subpixmap.training.train import train
from subpixmap.verbs.teach import write_metrics

NAME = "trees-california-s2"
MONTHS = (5, 6, 7, 8, 9)
"""The dry season in which the aerial imagery is flown."""
BORDER = 1  # pixels along the edge of a crop: as far as a count map is short of the trees beyond
CONTEXT = 120.0  # metres around a crop that are opened: the halo, and a pixel for the phase of the lattice
LEAST_CLEAR = 0.5
BASELINES = ("mean", "ridge", "random_forest")
LICENCE = "CC BY 4.0"
POINTS_FROM = "urban-tree-detection-data, Ventura et al., https://github.com/jonathanventura/urban-tree-detection-data"


@dataclass(frozen=True)
class Seen:
    """One crop on the 10 m lattice, as `make_patches` wants it."""

    reflectance: NDArray[np.float32]
    """(acquisition, band, 16 + 2 halo, 16 + 2 halo)."""
    valid: NDArray[np.bool_]
    points: dict[str, tuple[NDArray[np.float64], ...]]
    """(tree, 2) in pixels, for each acquisition."""
    labelled: NDArray[np.bool_]
    """(16, 16)."""


def read_index(folder: Path, years: Sequence[int]) -> tuple[pd.DataFrame, dict[Any, NDArray[np.float64]]]:
    """Crops of some years, and the (easting, northing) of their trees in the crop's own zone."""
    try:
        if not (folder / "index.csv").is_file() and (folder / "images").is_dir():
            index, trees = read_clone(folder)
        else:
            index, trees = pd.read_csv(folder / "index.csv"), pd.read_parquet(folder / "trees.parquet")
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} is missing; want a clone of urban-tree-detection-data, or a folder like trees_california"
        ) from error
    index = index[index["year"].isin(list(years))]
    if index.empty:
        raise InputError(f"{folder}: no crop of {', '.join(map(str, years))}")
    return index, {crop: group[["e", "n"]].to_numpy(float) for crop, group in trees.groupby("crop")}


def read_clone(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Crops and trees of a clone: images/CITY_YEAR_N.tif, and csv/CITY_YEAR_N.csv with the trees' columns and rows."""
    rows: list[dict[str, Any]] = []
    trees: list[pd.DataFrame] = []
    for crop, path in enumerate(sorted((folder / "images").glob("*_[12][0-9][0-9][0-9]_*.tif"))):
        city, year, idx = path.stem.rsplit("_", 2)
        with rasterio.open(path) as image:
            if image.crs is None or image.crs.to_epsg() is None:
                raise InputError(f"{path}: has no coordinate reference system with an EPSG code")
            box, to_ground = image.bounds, image.transform
            sides = {"left": box.left, "bottom": box.bottom, "right": box.right, "top": box.top}
            rows.append(
                {"crop": crop, "city": city, "year": int(year), "idx": idx, "epsg": image.crs.to_epsg(), **sides}
            )
        marked = folder / "csv" / f"{path.stem}.csv"
        if marked.is_file():  # a crop without trees has none
            xy = pd.read_csv(marked)
            e, n = rasterio.transform.xy(to_ground, xy["y"].to_numpy(), xy["x"].to_numpy())  # of pixels' middles
            trees.append(pd.DataFrame({"crop": crop, "e": e, "n": n}))
    if not trees:
        raise InputError(f"{folder}: no images/CITY_YEAR_N.tif with trees in csv/CITY_YEAR_N.csv")
    return pd.DataFrame(rows), pd.concat(trees)


def ask(rows: pd.DataFrame, source: str, collection: str | None, path: Path) -> Path:
    """What a catalogue has over the crops of a city and year, kept as an ItemCollection."""
    if not path.is_file():
        boxes = shapely.box(*(rows[side].to_numpy() for side in ("left", "bottom", "right", "top")))
        around = shapely.box(*shapely.union_all(shapely.buffer(boxes, CONTEXT)).bounds)
        periods = make_periods(str(rows["year"].iloc[0]), "year", MONTHS)
        found = find_items(source, project(around, int(rows["epsg"].iloc[0]), 4326), periods, collection=collection)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return path


def see_crop(row: Any, trees: NDArray[np.float64], items: Path, *, dates: int) -> Seen | None:
    """One crop through `open_cube`; None where no acquisition is clear."""
    epsg, crop = int(row.epsg), shapely.box(row.left, row.bottom, row.right, row.top)
    bounds = project(shapely.segmentize(crop.buffer(CONTEXT), 50), epsg, 4326).bounds
    cube = open_cube(bounds, int(row.year), source=str(items), bands=BANDS, months=MONTHS, chunk=64)
    # The 16 px that hold the crop, wherever its corner falls in them, and the halo around.
    west, north = float(cube["x"][0]) - 5, float(cube["y"][0]) + 5
    lattice = Lattice(cube.attrs["epsg"], 10, west % 10, north % 10)
    to_cube = transformer(epsg, lattice.epsg)
    outline = shapely.transform(crop, lambda xy: np.column_stack(to_cube.transform(*xy.T)))
    window, opened = lattice.window(outline.bounds), lattice.window((west, north - 10, west + 10, north))
    window = dataclasses.replace(window, height=N, width=N)
    wide = window.padded(HALO)
    rows, cols = wide.row - opened.row, wide.col - opened.col
    cube = cube.isel(y=slice(rows, rows + wide.height), x=slice(cols, cols + wide.width))
    valid = cube["valid"].compute(scheduler="threads").to_numpy()
    clear = valid[:, HALO:-HALO, HALO:-HALO].mean(axis=(1, 2))
    chosen = np.sort(np.argsort(-clear, kind="stable")[:dates])
    chosen = chosen[clear[chosen] >= LEAST_CLEAR]
    if not chosen.size:
        return None
    reflectance = cube["reflectance"].isel(time=chosen).compute(scheduler="threads").to_numpy()
    valid = valid[chosen]
    if missing := dates - len(chosen):  # every place has as many acquisitions; those that do not exist are not valid
        reflectance = np.concatenate([reflectance, np.repeat(reflectance[:1], missing, axis=0)])
        valid = np.concatenate([valid, np.zeros_like(valid[:1].repeat(missing, axis=0))])
    west, _, _, north = lattice.bounds(wide)
    east, up = to_cube.transform(trees[:, 0], trees[:, 1])
    xy = np.column_stack([(np.asarray(east) - west) / 10, (north - np.asarray(up)) / 10])
    inside = labelled_mask(outline, lattice, window, border=BORDER)
    return Seen(reflectance, valid, {"tree": (xy,) * dates}, inside)


def city_patches(
    rows: pd.DataFrame, trees: dict[Any, NDArray[np.float64]], options: argparse.Namespace, folder: Path
) -> Patches:
    """All crops of a city as patches; read once, then kept."""
    if (folder / "patches.json").is_file():
        return Patches.load(folder)

    def seen() -> Iterator[tuple[str, Seen]]:
        for year, of_year in rows.groupby("year"):
            items = ask(
                of_year, options.source, options.collection, folder.parent / "items" / f"{folder.name}-{year}.json"
            )
            for row in of_year.itertuples():
                one = see_crop(row, trees.get(row.crop, np.empty((0, 2))), items, dates=options.dates)
                if one is not None:
                    yield str(row.idx), one

    found = list(seen())
    if not found:
        raise InputError(f"{folder.name}: no acquisition of {options.source} is clear over any of {len(rows)} crops")
    print(f"{folder.name}: {len(found)} of {len(rows)} crops seen", file=sys.stderr, flush=True)
    patches = make_patches((one for _, one in found), bands=BANDS, objects=("tree",), halo=HALO)
    labelled = np.stack([one.labelled for _, one in found])
    names = tuple(f"{folder.name}-{idx}" for idx, _ in found)  # the same place in another year is the same place
    dataclasses.replace(patches, labelled=labelled, names=names).save(folder)
    return Patches.load(folder)


def learn(training: Patches, test: Patches, config: TrainConfig, options: argparse.Namespace) -> tuple[Model, Any]:
    """Train on some cities, measure on another."""
    cities = sorted({name.rpartition("-")[0] for name in training.names})
    card = Card(
        name=NAME,
        bands=BANDS,
        objects={"tree": "tree that annotators saw and marked on aerial imagery of 0.6 m, of any species"},
        measure={"tree": "count"},
        evidence=options.evidence,
        **input_statistics(training, sample=len(training)),
        width=WIDTH,
        mid=MID,
        blocks=BLOCKS,
        halo=HALO,
        training={
            "data": f"{len(training)} crops of {N} px: {', '.join(cities)} (urban-tree-detection-data, Ventura et al., "
            f"CC BY 4.0), acquisitions of {options.source}",
            "licence": LICENCE,
            "points_from": POINTS_FROM,
            "cities": cities,
            "test_city": options.test_city,
            "years": list(options.years),
            "command": "python workflows/trees_california_s2.py --data trees_california "
            f"--source {options.source} --out trees-s2",
            "present_above": config.present_above,
            "recipe": config.recipe,
        },
        limits=("Californian cities only.", "The aerial imagery and the acquisitions may lie months apart."),
    )
    model = train(training, card, config)
    return model, evaluate(model, test, baselines=fit_baselines(BASELINES, training, model))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, with the words of the command line unless others are given; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--source", default="earth-search", help="catalogue name, STAC API, or path")
    parser.add_argument("--collection", help="STAC collection of the API")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--years", type=int, nargs="+", default=[2018, 2020])
    parser.add_argument("--test-city", default=TEST_CITY)
    parser.add_argument("--dates", type=int, default=4, help="acquisitions per crop; the clearest are used")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--members", type=int, default=4, help="number of networks to average")
    parser.add_argument("--evidence", default="sentinel-2", help="kind of evidence; simulated for a simulated source")
    options = parser.parse_args(arguments)
    try:
        index, trees = read_index(options.data, options.years)
        if options.test_city not in set(index["city"]) or index["city"].nunique() < 2:
            raise InputError(f"{options.data}: want {options.test_city} and at least one other city")
        cities = {
            str(city): city_patches(rows, trees, options, options.out / str(city))
            for city, rows in index.groupby("city")
        }
        test = cities.pop(options.test_city)
        config = dataclasses.replace(RECIPE, steps=options.steps, members=options.members, jitter_offset=0.003)
        model, errors = learn(join(list(cities.values())), test, config, options)
        card = dataclasses.replace(model.card, error=brief(errors))
        saved = save_model(options.out / f"{NAME}.safetensors", model.net, card)
        write_metrics(options.out / "metrics.json", {"model": NAME, "sha256": saved.sha256, **errors})
    except SubpixmapError as error:
        print(f"trees_california_s2: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(rounded({"city": options.test_city, **errors["tree"]["total"]})))
    print(options.out / f"{NAME}.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
