"""Real trees, counted at 9.6 m: train on four Californian cities, test on a fifth, next to the baselines.

    python workflows/trees_california.py train --data DIR --model trees.safetensors
    python workflows/trees_california.py evaluate --data DIR [--fit-data DIR] [--model M] [--json OUT]
    python workflows/trees_california.py evaluate --data DIR --leave-one-city-out [--quick] [--seed N] [--json OUT]

DIR holds `index.csv` (crop, city, year, ...), `rgbn_2p4m_uint8.npz` (images (crop, 4, 64, 64): R, G, B, NIR at 2.4 m)
and `trees.parquet` (crop, x, y in pixels of 0.6 m), made from urban-tree-detection-data (Ventura et al., CC BY 4.0).

The imagery is aerial, degraded to 9.6 m with the point spread of the Sentinel-2 bands. It was never Sentinel-2: what is
measured here is how well trees smaller than a pixel can be counted, not how well a satellite product counts them.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from trees_california_totals import balance, line_totals

from subpixmap.errors import InputError, SubpixmapError
from subpixmap.grid import Lattice, Window
from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model, load_model, save_model
from subpixmap.model.net import halo_of
from subpixmap.reference.countmap import count_map
from subpixmap.reference.patches import Patches
from subpixmap.simulate.spectra import BAND_FACTS
from subpixmap.training.baselines import fit_baseline
from subpixmap.training.config import BASELINES, TrainConfig
from subpixmap.training.evaluate import block_means, density_errors, rounded
from subpixmap.training.inputs import input_statistics, with_likeness
from subpixmap.training.process import is_fast
from subpixmap.training.state import remove_states
from subpixmap.training.train import train

NAME = "trees-california-rgbn-v2"
BANDS = ("B02", "B03", "B04", "B08")
CITIES = ("chico", "claremont", "long_beach", "santa_monica")
"""What the shipped checkpoint was trained on."""
TEST_CITY = "riverside"
SIDE, FINE, COARSE, N = 153.6, 2.4, 9.6, 16  # metres of a crop and of its pixels before and after; pixels after
LEVEL = ((0.45, 0.11), (0.47, 0.105), (0.455, 0.117), (0.477, 0.095))
"""Mean and standard deviation of every band to which each city and year is brought, about those of the four cities."""
WIDTH, MID, BLOCKS = 128, 32, 6
HALO = halo_of(BLOCKS)
SMALL = (64, 16, 4)
"""Width, features and blocks of the networks of `--quick`."""
RECIPE = TrainConfig(
    steps=4500,
    muon_rate=0.0,  # as the shipped one was trained; a third of the steps with it come out almost as good
    batch=32,
    crop=N,
    block=8,
    sample_weight=4.15,
    jitter_brightness=0.2,  # brightness is not calibrated, and differs within cities, too
    jitter_gain=0.12,
    jitter_offset=0.05,
    average=0.995,
    members=2,
    threads=1,  # as the shipped one was trained
    turns=True,
)
QUICK = dataclasses.replace(RECIPE, steps=400, muon_rate=5e-3, warmup=60, average=0.99, members=1)
"""Of `--quick`, which compares recipes where time is short: about half a minute on an idle core with AMX."""
STRIDED_STEPS = 1500
"""Of the strided baseline, which `evaluate` trains anew each time."""
VIEWS = 16
"""In which every crop is seen in training."""


@dataclass(frozen=True)
class Crops:
    """Aerial crops with the trees on them."""

    images: NDArray[np.uint8]
    """(crop, 4, 64, 64) in the order of BANDS."""
    city: NDArray[np.str_]
    year: NDArray[np.integer]
    points: tuple[NDArray[np.float64], ...]
    """For each crop (tree, 2): metres right of and below its upper left corner."""

    def of(self, cities: Sequence[str]) -> "Crops":
        """Those of some cities."""
        index = np.flatnonzero(np.isin(self.city, cities))
        return Crops(self.images[index], self.city[index], self.year[index], tuple(self.points[i] for i in index))

    @property
    def cities(self) -> list[str]:
        """Their names."""
        return sorted(set(self.city.tolist()))

    @property
    def trees(self) -> NDArray[np.float64]:
        """(crop,) number of trees."""
        return np.array([float(len(xy)) for xy in self.points])


@dataclass(frozen=True)
class View:
    """How the sensor happens to see a crop: where its pixels fall, how sharp it is, how large things are."""

    down: float = 0.0
    """Displacement of the pixels, metres."""
    right: float = 0.0
    blur: float = 1.0
    """Width of the point spread relative to that of the band."""
    zoom: float = 1.0
    """Ground side of a pixel and width of the point spread, relative to theirs."""
    turn: float = 0.0
    """Of the crop about its centre, clockwise, radians."""


def random_views(n: int, seed: int) -> list[View]:
    """Any sub-pixel phase, 15 % of sharpness, 10 % of size, any direction (training adds the quarter turns)."""
    rng = np.random.default_rng(seed)
    shifts = rng.uniform(-COARSE / 2, COARSE / 2, (n, 2))
    widths = rng.uniform((0.85, 0.9), (1.15, 1.1), (n, 2))
    turns = rng.uniform(-np.pi / 4, np.pi / 4, n)
    return [View(*shift, *width, turn) for shift, width, turn in zip(shifts, widths, turns, strict=True)]  # type: ignore[call-arg]


def read_crops(folder: Path) -> Crops:
    """Open a folder of the format above; what does not fit together is refused."""
    names = ("index.csv", "rgbn_2p4m_uint8.npz", "trees.parquet")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise InputError(f"{folder}: {', '.join(missing)} missing; want a folder like trees_california")
    index, trees = pd.read_csv(folder / names[0]), pd.read_parquet(folder / names[2])
    images = np.load(folder / names[1])["images"]
    if images.shape[1:] != (4, 64, 64) or images.dtype != np.uint8 or index["crop"].max() >= len(images):
        raise InputError(
            f"{folder / names[1]}: images are {images.dtype} {images.shape}, want uint8 ({len(index)}, 4, 64, 64)"
        )
    if lost := set(trees["crop"]) - set(index["crop"]):
        raise InputError(f"{folder / names[2]}: trees of {len(lost)} crops that index.csv lacks, such as {min(lost)}")
    if not trees[["x", "y"]].to_numpy().min(initial=0) >= 0 or trees[["x", "y"]].to_numpy().max(initial=0) > 256:
        raise InputError(f"{folder / names[2]}: x and y must lie in 0-256, pixels of 0.6 m")
    places = {crop: 0.6 * (group[["x", "y"]].to_numpy(float) + 0.5) for crop, group in trees.groupby("crop")}
    points = tuple(places.get(crop, np.empty((0, 2))) for crop in index["crop"])
    images = images[index["crop"]][:, [2, 1, 0, 3]]
    return Crops(images, index["city"].to_numpy(str), index["year"].to_numpy(int), points)


def degrade(images: NDArray[np.uint8], view: View = View()) -> NDArray[np.float32]:
    """Aerial pixels of 2.4 m -> (crop, band, 16 + 2 halo, 16 + 2 halo) of 9.6 m with a halo, in 0-1.

    Nothing is known beyond a crop, so it is continued by its mirror image, and so are its trees.
    """
    seen, images = [], _turn_images(images, view.turn)
    for i, band in enumerate(BANDS):
        # The aerial pixel is itself a mean over 2.4 m, which is part of the blur.
        sigma = view.blur * np.sqrt(BAND_FACTS[band].sigma ** 2 - FINE**2 / 12)
        rows, cols = (_weights(shift, sigma, view.zoom) for shift in (view.down, view.right))
        seen.append(rows @ (images[:, i] / np.float32(255)) @ cols.T)
    return np.stack(seen, axis=1)


def _turn_images(images: NDArray[np.uint8], angle: float) -> NDArray[Any]:
    """(crop, band, 64, 64) turned about their centres; what comes in from beyond is the mirror image."""
    if not angle:
        return images
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # (row, column) in the original
    centre = np.array([(SIDE / FINE - 1) / 2] * 2)
    turned = np.empty(images.shape, np.float32)
    for image, out in zip(images.reshape(-1, *images.shape[2:]), turned.reshape(-1, *images.shape[2:]), strict=True):
        ndimage.affine_transform(image, back, centre - back @ centre, output=out, order=1, mode="reflect")
    return turned


def _with_mirror_images(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(9 tree, 2): the trees of a crop, and their mirror images beyond its sides and corners."""
    x, y = (np.concatenate([-axis, axis, 2 * SIDE - axis]) for axis in xy.T)
    return np.stack([np.tile(x, 3), np.repeat(y.reshape(3, -1), 3, axis=0).ravel()], axis=1)


def _turn_points(xy: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """(tree, 2) turned with their crop: those that stay in it, and mirror images that come in."""
    if not angle:
        return xy
    x, y = _with_mirror_images(xy).T - SIDE / 2
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], axis=1)
    return turned[(np.abs(turned) <= SIDE / 2).all(axis=1)] + SIDE / 2  # type: ignore[no-any-return]


def _weights(shift: float, sigma: float, zoom: float) -> NDArray[np.float32]:
    """(16 + 2 halo, 64): how much each fine pixel along an axis adds to each coarse one."""
    n_fine = round(SIDE / FINE)
    centre = SIDE / 2 + shift + zoom * COARSE * (np.arange(-HALO, N + HALO) + 0.5 - N / 2)
    fine = np.arange(-n_fine, 2 * n_fine)
    weight = np.exp(-0.5 * ((centre[:, None] - FINE * (fine + 0.5)) / (zoom * sigma)) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored, folded = np.zeros((len(centre), n_fine)), np.where(fine < 0, -1 - fine, fine)
    np.add.at(mirrored.T, np.where(folded >= n_fine, 2 * n_fine - 1 - folded, folded), weight.T)
    return mirrored.astype(np.float32)


def common_level(crops: Crops, *, share: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(crop, band, 1, 1) gain and offset that bring every city and year to `LEVEL`, or a share of the way to it.

    The brightness of a flight is not calibrated. Its own pixels tell what it is, no tree is needed for that.
    """
    plain = degrade(crops.images)[..., HALO:-HALO, HALO:-HALO]
    mean, spread = np.float32(LEVEL).T  # type: ignore[arg-type, misc]
    gain, offset = (np.empty((len(plain), len(BANDS), 1, 1), np.float32) for _ in range(2))
    for flight in sorted({*zip(crops.city.tolist(), crops.year.tolist(), strict=True)}):
        mine = (crops.city == flight[0]) & (crops.year == flight[1])
        seen = np.moveaxis(plain[mine], 1, 0).reshape(len(BANDS), -1).astype(float)
        one = spread / np.maximum(seen.std(axis=1), 1e-3)  # type: ignore[has-type]
        gain[mine] = one[:, None, None]
        offset[mine] = (mean - one * seen.mean(axis=1))[:, None, None]  # type: ignore[has-type]
    return 1 + share * (gain - 1), share * offset


def see(crops: Crops, views: Sequence[View] = (View(),), *, share: float = 1.0) -> NDArray[np.float32]:
    """(crop, view, band, 16 + 2 halo, 16 + 2 halo) of 9.6 m, cities and years brought to the common level (a share)."""
    gain, offset = common_level(crops, share=share)
    return np.stack([degrade(crops.images, view) * gain + offset for view in views], axis=1)


def count_trees(points: Sequence[NDArray[np.float64]], view: View = View()) -> NDArray[np.float32]:
    """(crop, 16, 16) trees per pixel. In the plain view a crop's pixels hold its trees, no more and no less."""
    lattice, window = Lattice(32611, COARSE), Window(1000, 1000, N, N)
    west, _, _, north = lattice.bounds(window)
    counts = np.zeros((len(points), N, N), np.float32)
    for i, xy in enumerate(points):
        centre = SIDE / 2 + np.array([view.right, view.down])
        x, y = ((_with_mirror_images(_turn_points(xy, view.turn)) - centre) / view.zoom + SIDE / 2).T
        counts[i] = count_map(west + x, north - y, lattice, window)
    return counts


def with_halo(seen: NDArray[Any], halo: int) -> NDArray[Any]:
    """(..., 16 + 2 halo, 16 + 2 halo) of what was seen with the largest halo."""
    cut = HALO - halo
    return seen[..., cut:-cut, cut:-cut] if cut else seen


def make_patches(crops: Crops, views: Sequence[View], *, halo: int = HALO) -> Patches:
    """Each crop a place, each view an acquisition of it."""
    seen = with_halo(see(crops, views).astype(np.float16), halo)
    count = np.stack([count_trees(crops.points, view) for view in views], axis=1)[:, :, None]
    known = np.ones((len(count), len(views), N, N), bool)
    return Patches(seen, known, count, known[:, 0], BANDS, ("tree",))


def crops_as_places(crops: Crops) -> Patches:
    """Crops in a few views, those of a city together: what the land of a training looks like is measured on them."""
    return dataclasses.replace(make_patches(crops, random_views(4, 0)), names=tuple(crops.city.tolist()))


def train_model(
    crops: Crops,
    config: TrainConfig,
    *,
    shape: tuple[int, int, int] = (WIDTH, MID, BLOCKS),
    state: Path | None = None,
) -> Model:
    """The mean of networks over eight turns and mirrors; an interrupted training goes on from `state`."""
    patches = make_patches(crops, random_views(VIEWS, config.seed), halo=halo_of(shape[2]))
    return train(patches, make_card(crops, patches, config, shape=shape), config, state=state)


def make_card(crops: Crops, patches: Patches, config: TrainConfig, *, shape: tuple[int, int, int]) -> Card:
    """What the checkpoint is and is not."""
    width, mid, blocks = shape
    return Card(
        name=NAME,
        bands=BANDS,
        objects={"tree": "tree that annotators saw and marked on aerial imagery of 0.6 m, of any species"},
        measure={"tree": "count"},
        evidence="degraded-aerial",
        resolution=COARSE,
        sensor="NAIP aerial imagery, degraded",
        level="brightness, every city and year brought to one mean and spread",
        **input_statistics(patches, sample=len(patches)),
        width=width,
        mid=mid,
        blocks=blocks,
        halo=halo_of(blocks),
        training={
            "data": f"{len(patches)} crops of {N} px, {crops.trees.sum():.0f} trees: {', '.join(crops.cities)} "
            "(urban-tree-detection-data, Ventura et al., CC BY 4.0; NAIP imagery, degraded to 9.6 m)",
            "cities": crops.cities,
            "views": VIEWS,
            "command": f"python workflows/trees_california.py train --data trees_california --model {NAME}.safetensors",
            "present_above": config.present_above,
            "recipe": config.recipe,
        },
        limits=(
            "Trained and measured on aerial imagery degraded to 9.6 m, not on Sentinel-2, whose brightness, atmosphere "
            "and registration differ: on Sentinel-2 its numbers are not estimates.",
            "Crops are 16 px (153.6 m) and were continued by their mirror image: nothing beyond a crop was known.",
            "Riverside, the test city, was also used while the recipe was developed.",
            "Californian cities only. The brightness of the aerial imagery is not calibrated: every city and year was "
            f"brought to one mean and spread of each band ({', '.join(f'{m:g} / {s:g}' for m, s in LEVEL)}).",
        ),
    )


def predict_crops(model: Model, reflectance: NDArray[np.float32]) -> NDArray[np.float32]:
    """(crop, 16, 16) trees per pixel."""
    background, slope = model.card.calibration.get("tree", (0.0, 1.0))
    reflectance = with_halo(reflectance, model.halo)
    with torch.inference_mode():
        parts = np.array_split(reflectance, -(-len(reflectance) // 64))
        raw = np.concatenate([model.folded(torch.from_numpy(part))[:, 0, 0].numpy() for part in parts])
    return (raw - background) * slope  # type: ignore[return-value]


def score(count: NDArray[np.floating], reference: NDArray[np.floating]) -> dict[str, float]:
    """Errors of (crop, 16, 16) trees per pixel."""
    p, r = count.sum((1, 2), dtype=float), reference.sum((1, 2), dtype=float)
    spread, pixels = ((r - r.mean()) ** 2).sum(), ((reference - reference.mean()) ** 2).sum()
    scores = {
        "total_bias_pct": 100 * (p.sum() / r.sum() - 1) if r.sum() else np.nan,
        "mae_per_crop": np.abs(p - r).mean(),
        "r2_per_crop": 1 - ((p - r) ** 2).sum() / spread if spread else np.nan,
        "r2_per_pixel": 1 - ((count - reference) ** 2).sum() / pixels if pixels else np.nan,
    }
    return {key: float(value) for key, value in scores.items()} | {"n": len(p)}


def compare(
    model: Model, fit_on: Crops, test: Crops, *, strided_steps: int, baselines: Sequence[str] = BASELINES
) -> dict[str, NDArray[np.float32]]:
    """Trees per pixel of the test crops by every method; the baselines see the crops in the views of the network."""
    reflectance = see(test)[:, 0]
    counts = {"densitynet": predict_crops(model, reflectance)}
    half = [see(crops, share=0.5)[:, 0, :, HALO:-HALO, HALO:-HALO] for crops in (fit_on, test)]
    counts["balanced"] = balance(counts["densitynet"], line_totals(half[0], fit_on.trees, half[1]), test.city)
    training = make_patches(fit_on, random_views(VIEWS, RECIPE.seed))
    config = dataclasses.replace(RECIPE, steps=strided_steps)
    for name in reversed(baselines):
        print(f"fitting {name} on {len(training)} crops of {', '.join(fit_on.cities)}", file=sys.stderr, flush=True)
        fitted = fit_baseline(name, training, config=config, workers=2)
        counts[name] = fitted.predict(reflectance)[:, 0]
    return counts


def scores_by_city(counts: dict[str, NDArray[np.float32]], test: Crops) -> dict[str, Any]:
    """What `--json` holds."""
    reference = count_trees(test.points)

    def scores(keep: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
        return {method: score(count[keep], reference[keep]) for method, count in counts.items()}

    cities = {city: scores(test.city == city) for city in test.cities}
    return {"overall": scores(np.ones(len(test.city), bool)), "cities": cities}


def card_errors(city: str, count: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, Any]:
    """Measured errors in the form of a card; "1 ha" are blocks of 10 x 10 px, 0.92 ha."""
    total = {"predicted": float(count.sum()), "reference": float(reference.sum())}
    total["error_pct"] = 100 * (total["predicted"] / total["reference"] - 1)
    blocks = (block_means(a[:, None], 10)[0] for a in (count, reference))
    at_ha = density_errors(*blocks, per_ha=1e4 / COARSE**2)
    return {"city": city, "tree": {"total": total, "1 ha": at_ha, "crop": score(count, reference)}}


def run_train(options: argparse.Namespace) -> None:
    crops = read_crops(options.data)
    training = crops.of([city for city in crops.cities if city != options.test_city])
    test = crops.of([options.test_city])
    steps = options.steps or RECIPE.steps
    config = dataclasses.replace(RECIPE, seed=options.seed, steps=steps, members=options.members)
    state = options.model.with_suffix(".state")
    model = with_likeness(train_model(training, config, state=state), crops_as_places(training))
    error: dict[str, Any] = {}
    if len(test.city):
        error = card_errors(options.test_city, predict_crops(model, see(test)[:, 0]), count_trees(test.points))
    error = rounded(error)
    print(json.dumps(error, indent=1))
    save_model(options.model, model.net, dataclasses.replace(model.card, error=error))
    remove_states(state, config.members)
    print(options.model)


def run_evaluate(options: argparse.Namespace) -> None:
    crops, strided_steps = read_crops(options.data), options.steps or STRIDED_STEPS
    if options.leave_one_city_out:
        config, shape, baselines = recipe_of(options)
        counts = leave_one_city_out(crops, config, strided_steps=strided_steps, shape=shape, baselines=baselines)
        test = crops
    else:
        model = load_model(options.model)
        if (model.halo, model.card.bands, model.card.object_names) != (HALO, BANDS, ("tree",)):
            raise InputError(f"{options.model}: not a model of this recipe (halo, bands or objects differ)")
        test = crops.of([city for city in crops.cities if city not in model.card.training.get("cities", ())])
        if not len(test.city):
            raise InputError(f"{options.data}: the model was trained on every city here ({', '.join(crops.cities)})")
        counts = compare(model, fit_crops(options, crops, test), test, strided_steps=strided_steps)
    found = scores_by_city(counts, test)
    if options.leave_one_city_out:
        found["over_cities"] = over_cities(found["cities"])
    print(as_table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def recipe_of(options: argparse.Namespace) -> tuple[TrainConfig, tuple[int, int, int], tuple[str, ...]]:
    """Recipe, shape of the network and baselines of `--leave-one-city-out`."""
    fast = options.quick and is_fast()
    config = dataclasses.replace(QUICK, mixed=fast, compile=fast) if options.quick else RECIPE
    config = dataclasses.replace(config, steps=options.steps or config.steps, seed=options.seed, members=1)
    return (config, SMALL, ("mean", "ridge")) if options.quick else (config, (WIDTH, MID, BLOCKS), BASELINES)


def leave_one_city_out(
    crops: Crops,
    config: TrainConfig,
    *,
    strided_steps: int,
    shape: tuple[int, int, int] = (WIDTH, MID, BLOCKS),
    baselines: Sequence[str] = BASELINES,
) -> dict[str, NDArray[np.float32]]:
    """Trees per pixel of all crops, by models and baselines that never saw their city."""
    counts: dict[str, NDArray[np.float32]] = {}
    for city in crops.cities:
        others, test = crops.of([other for other in crops.cities if other != city]), crops.of([city])
        model = train_model(others, dataclasses.replace(config, members=1), shape=shape)
        parts = compare(model, others, test, strided_steps=strided_steps, baselines=baselines)
        for method, part in parts.items():
            counts.setdefault(method, np.full((len(crops.city), N, N), np.nan, np.float32))[crops.city == city] = part
    return counts


def over_cities(cities: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How each method does in the mean and in the worst city, by which a recipe is chosen."""
    found = {}
    for method in next(iter(cities.values())):
        keys = ("total_bias_pct", "r2_per_crop", "mae_per_crop")
        bias, r2, mae = (np.array([one[method][key] for one in cities.values()]) for key in keys)
        found[method] = {
            "mean_abs_bias_pct": float(np.abs(bias).mean()),
            "worst_abs_bias_pct": float(np.abs(bias).max()),
            "mean_r2": float(r2.mean()),
            "worst_r2": float(r2.min()),
            "mean_mae": float(mae.mean()),
        }
    return found


def fit_crops(options: argparse.Namespace, crops: Crops, test: Crops) -> Crops:
    """What the baselines are fitted on: the four cities, or all of `--fit-data` that is not tested."""
    if options.fit_data is None and not set(CITIES) <= set(crops.cities):
        folder = Path(os.environ.get("SUBPIXMAP_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
        options.fit_data = folder / "trees_california"
    fit_on = crops.of(CITIES) if options.fit_data is None else read_crops(options.fit_data)
    names = CITIES if set(CITIES) <= set(fit_on.cities) else fit_on.cities
    fit_on = fit_on.of([city for city in names if city not in test.cities])
    if not len(fit_on.city):
        raise InputError(f"{options.fit_data}: every city there is tested; give --fit-data with others")
    return fit_on


def as_table(found: dict[str, Any]) -> str:
    """A text table."""
    lines = ["city          method          total   MAE/crop     R2  R2 pixel     n"]
    for city, methods in {**found["cities"], "overall": found["overall"]}.items():
        lines += [
            f"{city:<14}{method:<14}{s['total_bias_pct']:>+6.1f}% {s['mae_per_crop']:>10.1f} {s['r2_per_crop']:>6.2f} "
            f"{s['r2_per_pixel']:>9.2f} {s['n']:>5}"
            for method, s in methods.items()
        ]
    for method, s in found.get("over_cities", {}).items():
        lines.append(
            f"{'all cities':<14}{method:<14}|total| {s['mean_abs_bias_pct']:.1f}%, worst {s['worst_abs_bias_pct']:.1f}%"
            f"; R2 {s['mean_r2']:.2f}, worst {s['worst_r2']:.2f}; MAE {s['mean_mae']:.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = f"training steps of every network  [default: {RECIPE.steps}, {STRIDED_STEPS} of the strided one]"
    verbs = parser.add_subparsers(required=True, metavar="train|evaluate")
    for name, call in (("train", run_train), ("evaluate", run_evaluate)):
        verb = verbs.add_parser(name)
        verb.set_defaults(call=call)
        verb.add_argument("--data", type=Path, required=True, help="folder of the format of trees_california")
        verb.add_argument("--steps", type=int, help=steps)
    train_verb, evaluate_verb = verbs.choices.values()
    train_verb.add_argument("--model", type=Path, default=Path(f"{NAME}.safetensors"), help="file to write")
    train_verb.add_argument("--test-city", default=TEST_CITY, help="city left out of training")
    train_verb.add_argument("--seed", type=int, default=RECIPE.seed)
    train_verb.add_argument(
        "--members", type=int, default=RECIPE.members, help="number of networks; the model is their mean"
    )
    evaluate_verb.add_argument("--model", default=NAME, help="checkpoint; cities that it was trained on are left out")
    evaluate_verb.add_argument(
        "--fit-data", type=Path, help="folder the baselines are fitted on  [default: DIR, the four cities]"
    )
    evaluate_verb.add_argument("--leave-one-city-out", action="store_true", help="train again without each city")
    quick = "with --leave-one-city-out: small networks and few steps, to compare recipes"
    evaluate_verb.add_argument("--quick", action="store_true", help=quick)
    evaluate_verb.add_argument(
        "--seed", type=int, default=RECIPE.seed, help="random seed of the networks trained again"
    )
    evaluate_verb.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    try:
        options.call(options)
    except SubpixmapError as error:
        print(f"trees_california: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
