"""Statistics of training patches for the card: bands, cells, and the scale of counts.

Of cells, the statistics are those of `model.likeness`. Their threshold is a quantile over land that they do not rest
on: it decides how much of such land is called unlike the training data by mistake.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model
from subpixmap.model.likeness import LEAST, Likeness, cell_features, n_features
from subpixmap.reference.patches import Patches

FloatArray = NDArray[np.floating]

QUANTILE = 0.98
"""Of the land held out, as much is like the training data."""
_PLACES = 400  # of each set that are looked at, at most
_FOLDS = 5
_FEW = 50  # cells held out, below which the training places are taken by turns, too
_ENOUGH = 3  # cells for each feature, without which nothing is said


def input_statistics(patches: Patches, *, tail: float = 0.001, sample: int = 400, seed: int = 0) -> dict[str, Any]:
    """Card fields: mean, standard deviation and range of every band over valid training pixels.

    Parameters
    ----------
    patches
        Of the training split.
    tail
        Quantile beyond which an input counts as unlike the training data; the range is widened by a tenth of itself.
    sample
        Most places that are looked at.
    seed
        Of the choice of places.
    """
    index = np.sort(np.random.default_rng(seed).permutation(len(patches))[:sample])
    h = patches.halo
    pixels = patches.reflectance[index][..., h : h + patches.size, h : h + patches.count.shape[-1]]
    pixels = np.moveaxis(pixels, 2, -1)[patches.valid[index]].astype(np.float32)
    low, high = np.quantile(pixels, [tail, 1 - tail], axis=0)
    margin = 0.1 * (high - low)
    return {
        "input_mean": _rounded(pixels.mean(axis=0, dtype=float)),
        "input_std": _rounded(pixels.std(axis=0, dtype=float)),
        "input_low": _rounded(low - margin),
        "input_high": _rounded(high + margin),
    }


def density_scale(patches: Patches) -> Tensor:
    """(object,) root mean square of the count: to count nothing is then an error of 1, whether rare or common."""
    squares = [np.square(patches.count[:, 0, i][patches.labelled], dtype=float) for i in range(len(patches.objects))]
    for name, square in zip(patches.objects, squares, strict=True):
        if not square.any():
            raise InputError(f"the training patches have no {name}; label some there")
    return torch.tensor([float(np.sqrt(square.mean())) for square in squares])


def _rounded(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)


def with_likeness(model: Model, training: Patches, held_out: Patches | None = None) -> Model:
    """The same model whose card says what the land of the training looks like; unchanged where there is too little.

    Parameters
    ----------
    model
        Trained on `training`.
    training
        Places that it was trained on.
    held_out
        Places that it was not trained on, of the same kind. Without them, or with few, the training places are held out
        by turns, whole groups of those that belong together.
    """
    found = fit_likeness(training.select_bands(model.card.bands), held_out)
    if found is None:
        return model
    return Model.of(model.net, dataclasses.replace(model.card, likeness=found.as_json()))


def fit_likeness(training: Patches, held_out: Patches | None = None, *, quantile: float = QUANTILE) -> Likeness | None:
    """What the land of training places looks like; None where there is too little land to say so.

    Parameters
    ----------
    training, held_out
        As in `with_likeness`.
    quantile
        Share of the land held out that is to be like the training data.
    """
    training = _some(training)
    found = _statistics(training)
    if found is None:
        return None
    scores = np.empty(0) if held_out is None else _scores(found, _some(held_out.select_bands(training.bands)))
    if len(scores) < _FEW:
        groups = training.groups if len(set(training.groups.tolist())) > 1 else np.arange(len(training))
        fold = groups * _FOLDS // (groups.max() + 1)
        parts = [np.flatnonzero(fold == k) for k in np.unique(fold)]
        fits = [(_statistics(training.take(np.setdiff1d(np.arange(len(training)), part))), part) for part in parts]
        known = [_scores(fit, training.take(part)) for fit, part in fits if fit is not None]
        scores = np.concatenate([scores, *known])
    if not len(scores):
        return None
    threshold = float(f"{np.quantile(scores, quantile, method='higher'):.6g}")
    facts = {**found.facts, "cells_held_out": len(scores), "quantile": quantile}
    return dataclasses.replace(found, threshold=threshold, facts=facts)


def _statistics(patches: Patches) -> Likeness | None:
    """Mean and whitening of the cells, without a threshold; None where there are too few cells."""
    from sklearn.covariance import ledoit_wolf

    parts = [np.empty((0, n_features(len(patches.bands))))]
    for reflectance, valid in _scenes(patches):
        features, share = cell_features(reflectance, valid)
        parts.append(features[share >= LEAST].astype(float))
    cells = np.concatenate(parts)
    if len(cells) < _ENOUGH * cells.shape[1]:
        return None
    centre, spread = cells.mean(axis=0), np.maximum(cells.std(axis=0), 1e-6)
    covariance, shrinkage = ledoit_wolf((cells - centre) / spread, assume_centered=True)
    whitening = np.tril(np.linalg.inv(np.linalg.cholesky(covariance))) / spread
    facts = {"cells": len(cells), "shrinkage": float(f"{shrinkage:.3g}")}
    return Likeness(centre.astype(np.float32), whitening.astype(np.float32), np.inf, facts)


def _scores(likeness: Likeness, patches: Patches) -> FloatArray:
    """Of all cells around which something can be judged."""
    scores: list[FloatArray] = [np.empty(0)]
    scores += [likeness.scores(*scene).ravel() for scene in _scenes(patches)]
    flat: FloatArray = np.concatenate(scores)
    known: FloatArray = flat[np.isfinite(flat)]
    return known


def _scenes(patches: Patches) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """(band, y, x) and (y, x) of every acquisition of every place, without context."""
    halo = patches.halo
    for place in range(len(patches)):
        for acquisition in range(patches.valid.shape[1]):
            valid = np.asarray(patches.valid[place, acquisition])
            rows, cols = valid.shape
            seen = patches.reflectance[place, acquisition, :, halo : halo + rows, halo : halo + cols]
            yield seen.astype(np.float32), valid


def _some(patches: Patches) -> Patches:
    """Places drawn at random where there are very many."""
    if len(patches) <= _PLACES:
        return patches
    return patches.take(np.sort(np.random.default_rng(0).permutation(len(patches))[:_PLACES]))
