"""Compares suggested with random areas to label: learning curves in a shifted simulated world and on real trees.

    python workflows/suggested_areas.py shifted [--seeds 20] [--json shifted.json]
    python workflows/suggested_areas.py trees --data trees_california [--seeds 5] [--json trees.json]
    python workflows/suggested_areas.py ... --dry-run

`shifted`: the shipped model of the base world comes to the shifted one (other spectra, blur, haze, spacing). Areas have
9 ha, of which at least three quarters are clear. Its opinions are its turns and mirrors. R2 is that of hectares, mean
over coconut palms, oil palms and olives.

`trees`: the shipped model of real trees comes to Riverside, which it has not seen (urban-tree-detection-data, aerial
imagery degraded to 9.6 m). Areas are crops of 2.4 ha; crops of one place are on one side. Its opinions are its two
networks. R2 is that of crops.

In both, the model is asked once which of six tenths of the areas should be labelled; the others test it. What is fitted
then is its last layer: a linear head on the features of every pixel, by ridge regression, which corrects what the model
says, or with `--anew` replaces it (as for an object that the network does not know yet). So a curve takes seconds, and
many seeds can be drawn; a training of all layers may behave otherwise. Every seed splits pool and test anew. Curves are
means over seeds, with their standard errors.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import trees_california
from numpy.typing import NDArray

from subpixmap.errors import SubpixmapError
from subpixmap.estimation.areas import CLEAR
from subpixmap.estimation.suggest import ALL, REASONS, suggest_areas
from subpixmap.model.checkpoint import Model, load_model
from subpixmap.model.opinions import opinions, pixel_features
from subpixmap.training.from_simulator import simulated_patches

SHIFTED_MODEL, TREES_MODEL = "demo-rgbn-v2", "trees-california-rgbn-v2"
STRATEGIES = ("random", ALL, *REASONS)
SHIFTED_SIZES = (4, 6, 8, 12, 16, 24, 32, 48, 64)
TREES_SIZES = (4, 6, 8, 12, 16, 24, 32, 48, 64)
PLACES, SEED = 300, 7100
POOL_SHARE = 0.6
"""Of the places, from which areas are chosen; the others test."""
RENDERED = 440
"""Places that are rendered; those that clouds leave clear enough are used."""
OBJECTS = ("coconut", "oil_palm", "olive")
USEFUL, BLOCK = 30, 10
"""Pixels a side of a simulated area, and of the blocks of 1 ha in which it is tested."""
MOST = 5.0
"""Deviations to which features are cut: a linear head cannot stand haze and edges of clouds that the mask misses."""
STRENGTH = 1.0
"""Of the ridge: as if so many areas had been labelled in which nothing has to be corrected."""

Array = NDArray[np.float64]

Curves = dict[str, list[float]]
Found = tuple[dict[str, NDArray[np.float64]], Sequence[int]]


@dataclass(frozen=True)
class Areas:
    """All that fits and tests need of areas; the head is linear, so sums over pixels are enough."""

    features: Array
    """(area, feature) means, by which areas are alike."""
    gram: Array
    """(area, feature + 1, feature + 1) sums over pixels of products of features and 1."""
    moment: Array
    """(area, feature + 1, object) sums over pixels of features times the reference."""
    said_moment: Array
    """The same of what the model says before it learns."""
    blocks: Array
    """(area, block, feature + 1) means over the blocks in which it is tested."""
    truth: Array
    """(area, block, object) mean of the reference over the same."""
    said: Array
    """(area, block, object) mean of what the model says before it learns."""
    disagreement: Array
    """(area,) of the model's opinions before it learns; 0 where it has none."""
    share: Array
    """(area,) of what the model counts before it learns; 0 where it counts nothing."""

    def anew(self) -> "Areas":
        """The same for a head that replaces the model's and does not correct it."""
        return replace(self, said=np.zeros_like(self.said), said_moment=np.zeros_like(self.said_moment))

    def take(self, index: NDArray[Any]) -> "Areas":
        """A selection of the fractions."""
        return Areas(**{name: values[index] for name, values in vars(self).items()})


def make_areas(
    model: Model,
    seen: NDArray[np.float32],
    count: NDArray[np.float32],
    said: NDArray[np.float32],
    clear: NDArray[np.bool_],
    block: int,
) -> Areas:
    """Areas of reflectance (area, band, y, x) with halo, reference and what the model says (area, object, y, x).

    Pixels that are not clear (area, y, x) are left out, and in tests blocks that hold one; those have NaN.
    """
    centre, spread = _standard(model, seen)
    means, grams, moments, said_moments, blocks = [], [], [], [], []
    for one, reference, guess, sees in zip(seen, count, said, clear, strict=True):
        pixels = (pixel_features(model, one[None])[0] - centre[:, None, None]) / spread[:, None, None]
        pixels = np.concatenate([pixels.clip(-MOST, MOST), np.ones((1, *pixels.shape[1:]))]).astype(float)
        flat = pixels[:, sees]
        means.append(flat[:-1].mean(axis=1))
        grams.append(flat @ flat.T)
        moments.append(flat @ reference[:, sees].T.astype(float))
        said_moments.append(flat @ guess[:, sees].T.astype(float))
        blocks.append(_means(np.where(sees, pixels, np.nan), block))
    none = np.zeros(len(seen))
    truth, before = (np.stack([_means(one.astype(float), block) for one in values]) for values in (count, said))
    sums = {"features": means, "gram": grams, "moment": moments, "said_moment": said_moments, "blocks": blocks}
    stacked = {name: np.stack(parts) for name, parts in sums.items()}
    return Areas(**stacked, truth=truth, said=before, disagreement=none, share=none)


def _standard(model: Model, seen: NDArray[np.float32]) -> tuple[Array, Array]:
    """Mean and deviation of every feature over some areas; no reference is needed for that."""
    some = [pixel_features(model, one[None])[0][:, ::5, ::5] for one in seen[::8]]
    flat = np.concatenate([one.reshape(len(one), -1) for one in some], axis=1)
    return flat.mean(axis=1).astype(float), np.maximum(flat.std(axis=1), 1e-3).astype(float)


def _means(layers: Array, block: int) -> Array:
    """(layer, y, x) -> (block, layer) means over blocks of so many pixels a side."""
    n, rows, cols = layers.shape
    parts = layers.reshape(n, rows // block, block, cols // block, block).mean(axis=(2, 4))
    means: Array = parts.reshape(n, -1).T
    return means


def fit(areas: Areas, weights: Array, strength: float = STRENGTH) -> Array:
    """(feature + 1, object): the head fitted to areas, each as often as its weight."""
    used = np.flatnonzero(weights)
    gram = np.tensordot(weights[used], areas.gram[used], 1)
    moment = np.tensordot(weights[used], areas.moment[used] - areas.said_moment[used], 1)
    pixels = areas.gram[:, -1, -1].max()
    return np.linalg.solve(gram + strength * pixels * np.eye(len(gram)), moment)


def r_squared(head: Array, test: Areas) -> float:
    """Over the blocks of the test areas, mean over objects."""
    found = (test.said + test.blocks @ head).reshape(-1, test.truth.shape[-1])
    known = np.isfinite(found).all(axis=1)
    found, truth = found[known], test.truth.reshape(found.shape)[known]
    unexplained = ((found - truth) ** 2).sum(axis=0) / ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return float(1 - unexplained.mean())


def score_on(pool: Areas, test: Areas, chosen: NDArray[np.int64], strength: float) -> float:
    """R2 after these areas of the pool are labelled."""
    return r_squared(fit(pool, np.bincount(chosen, minlength=len(pool.gram)).astype(float), strength), test)


# The two settings -----------------------------------------------------------------------------------------------------


def shifted_areas(model: Model, *, workers: int) -> Areas:
    """Places of the shifted world, with the model's counts and the spread of its opinions."""
    size = USEFUL + 2 * model.halo
    patches = simulated_patches(
        SEED, RENDERED, world="shifted", size=size, acquisitions=1, halo=model.halo, workers=workers
    )
    patches = patches.select_bands(model.card.bands).select_objects(OBJECTS)
    patches = patches.take(np.flatnonzero(patches.valid[:, 0].mean(axis=(1, 2)) >= CLEAR)[:PLACES])
    seen, clear = patches.reflectance[:, 0].astype(np.float32), patches.valid[:, 0]
    return with_opinions(model, seen, patches.count[:, 0], clear, OBJECTS, BLOCK)


def with_opinions(
    model: Model,
    seen: NDArray[np.float32],
    count: NDArray[np.float32],
    clear: NDArray[np.bool_],
    objects: Sequence[str],
    block: int,
) -> Areas:
    """As `make_areas`, with what the model says, and how far its opinions differ on every area."""
    pick = [model.card.object_names.index(name) for name in objects]
    counts = np.concatenate([opinions(model, one[None])[:, :, pick] for one in seen], axis=1)
    said = counts.mean(axis=0) if model.card.members > 1 else counts[0]
    areas = make_areas(model, seen, count, said, clear, block)
    totals = np.where(clear[:, None], counts, 0).sum(axis=(3, 4), dtype=float)  # (opinion, area, object)
    totals /= clear.mean(axis=(1, 2))[:, None]
    whole = np.maximum(totals.mean(axis=0).sum(axis=0), 1)
    spread, share = (totals.std(axis=0, ddof=1) / whole).sum(axis=1), (totals.mean(axis=0) / whole).sum(axis=1)
    return replace(areas, disagreement=spread, share=share)


def trees_areas(model: Model, crops: trees_california.Crops) -> Areas:
    """Crops of real trees, with the model's counts and the spread of its networks."""
    seen, count = trees_california.see(crops)[:, 0], trees_california.count_trees(crops.points)[:, None]
    return with_opinions(model, seen, count, np.ones((len(seen), *count.shape[-2:]), bool), ("tree",), count.shape[-1])


def curves_of(
    areas: Areas, place: NDArray[np.int64], sizes: Sequence[int], seed: int, *, strength: float = STRENGTH
) -> Curves:
    """Strategy -> R2 with 0 areas and with each of the sizes; areas of one place are on one side of the split."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(place.max() + 1)
    inside = np.isin(place, places[: round(POOL_SHARE * len(places))])
    pool, test = areas.take(np.flatnonzero(inside)), areas.take(np.flatnonzero(~inside))
    before = r_squared(np.zeros((areas.gram.shape[1], areas.truth.shape[-1])), test)
    curves = {}
    for name in STRATEGIES:
        if name == "random":
            chosen = rng.permutation(len(pool.gram))
        else:
            chosen = suggest_areas(pool.features, pool.disagreement, pool.share, max(sizes), by=name).index
        curves[name] = [before, *(score_on(pool, test, chosen[:n], strength) for n in sizes)]
    return curves


# What is told ---------------------------------------------------------------------------------------------------------


def areas_needed(curve: Sequence[float], sizes: Sequence[int], wanted: float) -> float:
    """Areas from which a curve is at least as high as wanted, between sizes by a straight line; NaN if never."""
    for k, value in enumerate(curve):
        if value >= wanted:
            if k == 0:
                return float(sizes[0])
            along = (wanted - curve[k - 1]) / (value - curve[k - 1])
            return float(sizes[k - 1] + along * (sizes[k] - sizes[k - 1]))
    return float("nan")


def as_table(curves: dict[str, NDArray[np.float64]], sizes: Sequence[int]) -> str:
    """R2 by strategy and number of areas, with standard errors, and the areas needed for the R2 of random ones."""
    lines = ["areas        " + "".join(f"{n:>14}" for n in sizes)]
    means = {name: values.mean(axis=0) for name, values in curves.items()}
    for name, values in curves.items():
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(len(sizes))
        cells = (f"{mean:.3f} ({se:.3f})" for mean, se in zip(means[name], error, strict=True))
        lines.append(f"{name:<13}" + "".join(f"{cell:>14}" for cell in cells))
    lines.append("areas needed for the R2 of random areas, as a share of these")
    for name in list(curves)[1:]:
        needed = [areas_needed(means[name], sizes, wanted) for wanted in means["random"]]
        shares = (f"{one / n:.2f}" if n and one == one else "-" for one, n in zip(needed, sizes, strict=True))
        lines.append(f"{name:<13}" + "".join(f"{cell:>14}" for cell in shares))
    return "\n".join(lines)


def _kept(path: Path | None, make: Callable[[], Areas]) -> Areas:
    """Areas from a file, or made and kept in it."""
    if path is not None and path.is_file():
        return Areas(**np.load(path))
    areas = make()
    if path is not None:
        np.savez(path, **vars(areas))
    return areas


def run_shifted(options: argparse.Namespace) -> Found:
    areas = _kept(options.cache, lambda: shifted_areas(load_model(SHIFTED_MODEL), workers=options.workers))
    return _runs(areas, np.arange(len(areas.gram)), SHIFTED_SIZES, options)


def run_trees(options: argparse.Namespace) -> Found:
    crops = trees_california.read_crops(options.data).of([trees_california.TEST_CITY])
    index = pd.read_csv(options.data / "index.csv").query("city == @trees_california.TEST_CITY")
    areas = _kept(options.cache, lambda: trees_areas(load_model(TREES_MODEL), crops))
    return _runs(areas, pd.factorize(index["idx"])[0].astype(np.int64), TREES_SIZES, options)


def _runs(areas: Areas, place: NDArray[np.int64], sizes: Sequence[int], options: argparse.Namespace) -> Found:
    """Curves of all seeds."""
    areas = areas.anew() if options.anew else areas
    runs = [curves_of(areas, place, sizes, seed, strength=options.strength) for seed in range(options.seeds)]
    return {name: np.array([run[name] for run in runs]) for name in STRATEGIES}, (0, *sizes)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings: dict[str, Callable[..., Any]] = {"shifted": run_shifted, "trees": run_trees}
    parser.add_argument("setting", choices=list(settings))
    parser.add_argument("--data", type=Path, help="folder of the format of trees_california")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1, help="number of processes that render simulated data")
    parser.add_argument("--anew", action="store_true", help="fit a last layer that replaces the model's")
    parser.add_argument("--strength", type=float, default=STRENGTH, help="strength of the ridge penalty, in areas")
    parser.add_argument("--cache", type=Path, help="FILE.npz that caches the features of the network")
    parser.add_argument("--json", type=Path, help="file for the curves of every seed")
    parser.add_argument("--dry-run", action="store_true", help="print the steps without running them")
    options = parser.parse_args(words)
    if options.setting == "trees" and options.data is None:
        parser.error("trees wants --data")
    try:
        if options.dry_run:
            sizes = SHIFTED_SIZES if options.setting == "shifted" else TREES_SIZES
            print(f"{options.setting}: {', '.join(STRATEGIES)} x {options.seeds} seeds x {len(sizes)} sizes")
            return 0
        curves, sizes = settings[options.setting](options)
    except SubpixmapError as error:
        print(f"suggested_areas: {error}", file=sys.stderr)
        return error.exit_code
    print(as_table(curves, sizes))
    if options.json:
        found = {"areas": list(sizes), "r2": {name: values.tolist() for name, values in curves.items()}}
        options.json.write_text(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
