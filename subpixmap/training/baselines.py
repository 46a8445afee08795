"""Baselines to compare with a network: the mean, ridge regression, a random forest, and the strided network.

Each is fitted on the same patches and predicts the same windows. Baselines have no checkpoint: they are fitted for each
comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model
from subpixmap.model.net import StridedNet
from subpixmap.progress import track
from subpixmap.reference.patches import Patches
from subpixmap.training.config import BASELINES, TrainConfig
from subpixmap.training.inputs import input_statistics
from subpixmap.training.train import fit

_WINDOWS = (5, 9)  # pixels a side, over which mean and standard deviation are features
_SCENES_AT_ONCE = 32
_TREES_AT_ONCE = 10

FloatArray = NDArray[np.floating]


class Baseline(Protocol):
    """A fitted baseline."""

    def predict(self, reflectance: FloatArray) -> FloatArray:
        """(n, band, y + 2 halo, x + 2 halo), with bands and halo of the training -> (n, object, y, x)."""


def fit_baseline(
    name: str,
    training: Patches,
    *,
    config: TrainConfig | None = None,
    samples: int = 50_000,
    trees: int = 100,
    seed: int = 0,
    workers: int = 1,
    progress: TextIO | None = None,
) -> Baseline:
    """Fit one of `BASELINES` on patches.

    Parameters
    ----------
    name
        mean: the mean count everywhere. ridge, random_forest: per pixel, from the values of its 3x3
        neighbourhood and from mean and standard deviation over 5x5 and 9x9. strided: `net.StridedNet`, trained with
        the loss and the loop of the network it is compared with.
    training
        Training patches; `predict` uses their bands, objects and halo.
    config
        For `strided`; default `TrainConfig` with 2000 steps. Crops larger than the patches are cut to them.
    samples
        Labelled and valid pixels that ridge and forest are fitted on, drawn at random.
    trees
        Number of trees of the forest.
    seed
        Of the draw, the forest and the strided network.
    workers
        Threads of the forest; its result does not depend on them.
    progress
        Stream for the progress of the strided network.

    Raises
    ------
    InputError
        The name is unknown, no pixel is labelled and valid, or scikit-learn is missing.
    """
    if name == "mean":
        labelled = (training.valid & training.labelled[:, None])[:, :, None]
        counts = np.sum(training.count, axis=(0, 1, 3, 4), where=labelled, dtype=float)
        return Mean(counts / max(int(labelled.sum()), 1), training.halo)
    if name in ("ridge", "random_forest"):
        return _fit_pixelwise(name, training, samples=samples, trees=trees, seed=seed, workers=workers)
    if name == "strided":
        return _fit_strided(training, config or TrainConfig(steps=2000, seed=seed), progress)
    raise InputError(f"unknown baseline {name!r}: choose from {', '.join(BASELINES)}")


def fit_baselines(
    names: Sequence[str],
    training: Patches,
    model: Model,
    config: TrainConfig | None = None,
    *,
    progress: TextIO | None = None,
) -> dict[str, Any]:
    """Baselines by name, fitted to training patches with the model's bands and objects."""
    if not names:
        return {}
    plain = training.select_bands(model.card.bands).select_objects(model.card.object_names)
    return {name: fit_baseline(name, plain, config=config, progress=progress) for name in names}


@dataclass(frozen=True)
class Mean:
    """The same count everywhere."""

    count: NDArray[np.float64]
    """(object,) objects per pixel."""
    halo: int

    def predict(self, reflectance: FloatArray) -> FloatArray:
        """As `Baseline.predict`."""
        n, _, rows, cols = reflectance.shape
        shape = (n, len(self.count), rows - 2 * self.halo, cols - 2 * self.halo)
        return np.broadcast_to(self.count[:, None, None], shape).astype(np.float32)


@dataclass(frozen=True)
class Pixelwise:
    """A regression from the features of a pixel to its counts."""

    estimator: Any
    """scikit-learn: predict (pixel, feature) -> (pixel, object)."""
    filling: NDArray[np.float32]
    """(band,) replacement of missing values."""
    n_objects: int
    halo: int

    def predict(self, reflectance: FloatArray) -> FloatArray:
        """As `Baseline.predict`."""
        parts = []
        for start in range(0, len(reflectance), _SCENES_AT_ONCE):
            x = features(reflectance[start : start + _SCENES_AT_ONCE], self.filling, self.halo)
            y = self.estimator.predict(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:3], self.n_objects)
            parts.append(np.moveaxis(y, -1, 1).astype(np.float32))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Strided:
    """The trained strided network."""

    net: StridedNet

    def predict(self, reflectance: FloatArray) -> FloatArray:
        """As `Baseline.predict`."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(reflectance), _SCENES_AT_ONCE):
                x = torch.from_numpy(np.asarray(reflectance[start : start + _SCENES_AT_ONCE], np.float32))
                parts.append(self.net(x)[:, 0].numpy())
        return np.concatenate(parts)


def features(reflectance: FloatArray, filling: FloatArray, halo: int) -> NDArray[np.float32]:
    """Features of a pixel for ridge and forest.

    Parameters
    ----------
    reflectance
        (n, band, y + 2 halo, x + 2 halo).
    filling
        (band,) replacement of missing values.
    halo
        Pixels of context; where it is narrower than a window, the image is continued by its edge.

    Returns
    -------
    numpy.ndarray
        (n, y, x, feature): bands of the 3x3 neighbourhood, then mean and standard deviation of each band by window.
    """
    x = np.asarray(reflectance, np.float32)
    x = np.where(np.isfinite(x), x, filling[:, None, None]).astype(np.float32)
    rows, cols = x.shape[-2] - 2 * halo, x.shape[-1] - 2 * halo
    inner = (slice(None), slice(None), slice(halo, halo + rows), slice(halo, halo + cols))
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    layers = [
        wide[:, :, halo + 1 + dy : halo + 1 + dy + rows, halo + 1 + dx : halo + 1 + dx + cols] for dy, dx in shifts
    ]
    for side in _WINDOWS:
        size = (1, 1, side, side)
        mean = ndimage.uniform_filter(x, size, mode="nearest")
        square = ndimage.uniform_filter(x * x, size, mode="nearest")
        layers += [mean[inner], np.sqrt(np.maximum(square - mean * mean, 0))[inner]]
    return np.moveaxis(np.concatenate(layers, axis=1), 1, -1)


def _fit_pixelwise(name: str, training: Patches, *, samples: int, trees: int, seed: int, workers: int) -> Pixelwise:
    try:
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ModuleNotFoundError as error:
        raise InputError(f"baseline {name} needs scikit-learn: pip install 'subpixmap[train]'") from error
    filling = np.array(input_statistics(training)["input_mean"], np.float32)
    x, y = _sample(training, filling, samples, np.random.default_rng(seed))
    target = y[:, 0] if y.shape[1] == 1 else y  # a single object is handed over flat, as scikit-learn asks for it
    if name == "ridge":
        estimator = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 7))).fit(x, target)
    else:
        shape = {"min_samples_leaf": 5, "max_features": 1 / 3, "max_samples": 0.5}
        estimator = RandomForestRegressor(**shape, random_state=seed, n_jobs=workers, warm_start=True)
        # A few trees more each time: they are the same as if all were grown at once.
        for grown in track([*range(_TREES_AT_ONCE, trees, _TREES_AT_ONCE), trees], "random_forest", "parts"):
            estimator.set_params(n_estimators=grown).fit(x, target)
    return Pixelwise(estimator, filling, y.shape[1], training.halo)


def _sample(
    training: Patches, filling: FloatArray, samples: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(pixel, feature) and (pixel, object) of labelled and valid pixels, a few from each of many scenes."""
    scenes = rng.permutation(len(training) * training.valid.shape[1])
    each = max(-(-samples // len(scenes)), 64)
    xs, ys, drawn = [], [], 0
    for place, scene in track(
        list(zip(*np.divmod(scenes, training.valid.shape[1]), strict=True)), "draw pixels", "scenes"
    ):
        usable = np.flatnonzero(training.valid[place, scene] & training.labelled[place])
        if drawn >= samples or not usable.size:
            continue
        at = rng.permutation(usable)[: min(each, samples - drawn)]
        x = features(training.reflectance[place, scene][None], filling, training.halo)[0]
        xs.append(x.reshape(-1, x.shape[-1])[at])
        ys.append(training.count[place, scene].reshape(len(training.objects), -1).T[at])
        drawn += at.size
    if not drawn:
        raise InputError(
            f"the {len(training)} training patches ({', '.join(training.names[:3]) or 'without names'}) have no "
            "labelled and valid pixel: label more land there, or raise --within-days"
        )
    return np.concatenate(xs), np.concatenate(ys)


def _fit_strided(training: Patches, config: TrainConfig, progress: TextIO | None) -> Strided:
    statistics = input_statistics(training)
    crop = min(config.crop, *training.count.shape[-2:])
    config = dataclasses.replace(config, crop=crop, block=min(config.block, crop), members=1, turns=False, patience=0)

    def build() -> StridedNet:
        return StridedNet(
            len(training.bands),
            len(training.objects),
            halo=training.halo,
            mean=statistics["input_mean"],
            std=statistics["input_std"],
        )

    return Strided(fit(build, training, config, progress=progress, title="strided: "))
