"""Calibration: two numbers per object, from separate land, that correct the background and the total.

A network trained on squared error shrinks towards the mean, and 0.01 false objects per pixel over a country are
millions. Both errors are linear at first order, and a linear correction keeps sums of means equal to means of sums.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model
from subpixmap.model.mean import TRIM_FROM, fits_in_order
from subpixmap.reference.patches import Patches
from subpixmap.reference.supports import block_means
from subpixmap.training.evaluate import accumulate_model

FloatArray = NDArray[np.floating]
Fit = Callable[[FloatArray, FloatArray, FloatArray | None], tuple[float, float]]


def fit_calibration(
    raw: FloatArray, reference: FloatArray, share: FloatArray | None = None, *, side: int = 10
) -> tuple[float, float]:
    """Background and slope of one object: count = (raw - background) * slope.

    Parameters
    ----------
    raw, reference
        (place, y, x) objects per pixel, uncalibrated and reference; NaN where not observed.
    share
        (place, y, x): of each pixel, the share that a plot covers whose total alone is known; zeros without a plot.
        Where there is one, the reference is the total spread evenly, and `raw` what of it lies in the plot.
    side
        Pixels of a block side; blocks of at least 1 ha, as pixels are noisy and blurred. A plot is one block.

    Returns
    -------
    tuple
        `background` is the mean of raw over blocks without reference objects (0 without such blocks); `slope` corrects
        the total over the other blocks.

    Raises
    ------
    InputError
        There are no objects to calibrate on, or raw does not increase with the reference.
    """
    background, above, truth = _fit(raw, reference, reference, share, side)
    if not (truth > 0 and above > 0):
        raise InputError(
            f"cannot calibrate: {truth:.1f} objects in the calibration places, {above:.1f} predicted there"
        )
    return background, float(truth / above)


def fit_total(raw: FloatArray, reference: FloatArray, share: FloatArray | None = None) -> tuple[float, float]:
    """Like `fit_calibration`, without a background: corrects the total over all places.

    A network trained on little land spreads uncertain objects over their neighbourhood. Its predictions on empty
    hectares are then not a background, and subtracting them exaggerates all differences (see docs/real-sentinel-2.md).
    """
    compared = np.isfinite(raw) & np.isfinite(reference)
    predicted, truth = (float(values[compared].sum(dtype=float)) for values in (raw, reference))
    if not (truth > 0 and predicted > 0):
        raise InputError(f"cannot calibrate: {truth:.1f} objects in the calibration places, {predicted:.1f} predicted")
    return 0.0, truth / predicted


def fit_trimmed(
    trimmed: FloatArray,
    mean: FloatArray,
    reference: FloatArray,
    share: FloatArray | None = None,
    *,
    side: int = 10,
) -> tuple[float, float]:
    """Background and slope that fit means without extremes to means of all values.

    Differences between dates are skewed: a crown lies inside a pixel on some dates and outside on others, so the
    omitted highest values were as true as the others.

    Parameters
    ----------
    trimmed, mean, reference
        (place, y, x) objects per pixel: without the extremes, of all values, true; NaN where not known.
    share, side
        As in `fit_calibration`.

    Returns
    -------
    tuple
        As of `fit_calibration`; (0, 1) where there is nothing to fit on.
    """
    background, above, wanted = _fit(trimmed, mean, reference, share, side)
    return (background, float(wanted / above)) if above > 0 and wanted > 0 else (0.0, 1.0)


def _fit(
    raw: FloatArray, wanted: FloatArray, reference: FloatArray, share: FloatArray | None, side: int
) -> tuple[float, float, float]:
    """Mean excess of raw over what is wanted where the reference holds nothing; elsewhere the sums of raw above that
    background and of what is wanted."""
    (p, number), (w, _), (r, _) = (_means(values, share, side) for values in (raw, wanted, reference))
    compared = np.isfinite(p) & np.isfinite(w) & np.isfinite(r)
    empty, full = compared & (r == 0), compared & (r > 0)
    background = float(np.average((p - w)[empty], weights=number[empty])) if empty.any() else 0.0
    return background, (number * (p - background))[full].sum(), (number * w)[full].sum()


def _means(values: FloatArray, share: FloatArray | None, side: int) -> tuple[FloatArray, FloatArray]:
    """Means of blocks and their observed pixels (see `block_means`), with those of plots; any of its parts will do."""
    if share is None:
        return block_means(values, side)
    plots = share.any(axis=(1, 2))
    mean, number = block_means(values[~plots], side)
    share, values = share[plots], values[plots]
    seen = np.isfinite(values)
    pixels = (share * seen).sum(axis=(1, 2), dtype=float)
    total = np.where(seen, values, 0).sum(axis=(1, 2), dtype=float)
    enough = pixels > 0.5 * share.sum(axis=(1, 2))
    of_plots = np.where(enough, total / np.maximum(pixels, 1e-9), np.nan), np.where(enough, pixels, 0)
    return np.append(mean, of_plots[0]), np.append(number, of_plots[1])


def _covered(values: FloatArray, share: FloatArray | None) -> FloatArray:
    """(place, object, y, x): of places with a plot, what lies in it."""
    if share is None:
        return values
    plots = share.any(axis=(1, 2), keepdims=True)
    return values * np.where(plots, share, 1)[:, None]


def _share_of(patches: Sequence[Patches]) -> FloatArray | None:
    if all(one.share is None for one in patches):
        return None
    shares = [np.zeros(one.labelled.shape, np.float32) if one.share is None else one.share for one in patches]
    return np.concatenate(shares)


def calibrate(model: Model, patches: Patches) -> Model:
    """Calibrate a model on places outside training and test.

    Its card has the basis: hectares with and without objects, and a 95 % interval of the slope over places. With enough
    acquisitions, means without extremes are calibrated as well. Unlabelled objects stay unchanged.
    """
    means = _both_means(_plain(model), _with_all_objects(patches, model.card.object_names))
    return _fitted(model, *means, patches.groups, share=_share_of([patches]), labelled=set(patches.objects))


def calibrate_across(model: Model, unseen: Sequence[tuple[Model, Patches]]) -> Model:
    """As `calibrate`, by the total alone (see `fit_total`), on what parts of a model say of places they have not seen.

    Parameters
    ----------
    model
        The mean of the parts.
    unseen
        A part of the model, and the places not used in its training.
    """
    each = [_both_means(_plain(part), patches) for part, patches in unseen]
    names = [name for _, patches in unseen for name in patches.names]
    groups = np.unique(np.array(names), return_inverse=True)[1]
    trimmed, raw, reference = (np.concatenate(part) for part in zip(*each, strict=True))
    share = _share_of([patches for _, patches in unseen])
    labelled = set(model.card.objects)
    return _fitted(model, trimmed, raw, reference, groups, share=share, labelled=labelled, fit=fit_total)


def _plain(model: Model) -> Model:
    return Model.of(model.net, dataclasses.replace(model.card, calibration={}, trimmed={}))


def _fitted(
    model: Model,
    trimmed: FloatArray,
    raw: FloatArray,
    reference: FloatArray,
    groups: NDArray[np.integer],
    *,
    share: FloatArray | None = None,
    labelled: set[str],
    fit: Fit = fit_calibration,
) -> Model:
    """The model with a calibration of what was labelled, by means over dates, uncalibrated, and what is true."""
    fits, facts, covered = dict(model.card.calibration), {}, _covered(raw, share)
    for i, name in enumerate(model.card.objects):
        if name not in labelled:
            continue
        try:
            fits[name] = fit(covered[:, i], reference[:, i], share)
        except InputError as error:
            raise InputError(f"{name}: {error}; label more of it, or train longer") from error
        facts[name] = _basis(covered[:, i], reference[:, i], share, groups, fit)
    background, slope = fits_in_order(fits, model.card.objects).T[..., None, None]
    trimmed, mean = ((values - background) * slope for values in (trimmed, raw))
    training = {**model.card.training, "calibrated_on": facts}
    kept = {name: pair for name, pair in model.card.trimmed.items() if name not in labelled}
    card = dataclasses.replace(model.card, calibration=fits, trimmed=kept, training=training)
    return _with_trimmed(Model.of(model.net, card), trimmed, mean, reference, share, objects=labelled)


def _with_all_objects(patches: Patches, objects: Sequence[str]) -> Patches:
    """Places with the objects of a model in its order; counts of those that were not labelled are not known."""
    if missing := [name for name in objects if name not in patches.objects]:
        unknown = np.full_like(patches.count[:, :, :1], np.nan)
        count = np.concatenate([patches.count, *[unknown] * len(missing)], axis=2)
        patches = dataclasses.replace(patches, count=count, objects=(*patches.objects, *missing))
    return patches.select_objects(objects)


def calibrate_trimmed(model: Model, patches: Patches) -> Model:
    """The same model whose means without extremes agree with its means of all values.

    It compares two means of the same predictions, so a few places say more of it than of the calibration itself.

    Parameters
    ----------
    model
        Calibrated.
    patches
        Of `TRIM_FROM` acquisitions or more; with fewer the model stays as it is.
    """
    if patches.valid.shape[1] < TRIM_FROM:
        return model
    plain = Model.of(model.net, dataclasses.replace(model.card, trimmed={}))
    return _with_trimmed(plain, *_both_means(plain, patches), _share_of([patches]), objects=model.card.objects)


def _with_trimmed(
    model: Model,
    trimmed: FloatArray,
    mean: FloatArray,
    reference: FloatArray,
    share: FloatArray | None,
    *,
    objects: Container[str],
) -> Model:
    """The model with the means without extremes of some objects calibrated."""
    if not np.isfinite(trimmed).any():
        return model
    fits = dict(model.card.trimmed)
    trimmed, mean = (_covered(values, share) for values in (trimmed, mean))
    for i, name in enumerate(model.card.objects):
        if name in objects:
            fits[name] = fit_trimmed(trimmed[:, i], mean[:, i], reference[:, i], share)
    return Model.of(model.net, dataclasses.replace(model.card, trimmed=fits))


def _both_means(model: Model, patches: Patches) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means without extremes where there are enough values for it, of all values, and true: (place, object, y, x)."""
    places = [
        (dates.result(min_obs=TRIM_FROM)["count"], dates.result(min_obs=1, trim=False)["count"], reference)
        for dates, reference in accumulate_model(model, patches)
    ]
    trimmed, mean, truth = (np.stack(part) for part in zip(*places, strict=True))
    return trimmed, mean, truth


def _basis(
    raw: FloatArray,
    reference: FloatArray,
    share: FloatArray | None,
    groups: NDArray[np.integer],
    fit: Fit,
    *,
    draws: int = 100,
) -> dict[str, Any]:
    """Hectares behind a calibration, and the range of its slope when places are resampled."""
    means, number = _means(reference, share, 10)
    known, empty = np.isfinite(means), means == 0
    hectares = known if share is None else number / 100  # those of plots are no whole ones
    rng, kinds, slopes = np.random.default_rng(0), np.unique(groups), []
    for _ in range(draws if len(kinds) > 1 else 0):
        drawn = np.concatenate([np.flatnonzero(groups == kind) for kind in rng.choice(kinds, len(kinds))])
        with contextlib.suppress(InputError):  # a draw without objects
            slopes.append(fit(raw[drawn], reference[drawn], None if share is None else share[drawn])[1])
    basis: dict[str, Any] = {
        "objects": round(float(np.nansum(reference)), 1),
        "ha": round(float(hectares[known].sum()), 2) if share is not None else int(hectares.sum()),
        "empty_ha": round(float(hectares[empty].sum()), 2) if share is not None else int(empty.sum()),
    }
    if slopes:
        basis["slope_95"] = [round(float(q), 4) for q in np.quantile(slopes, [0.025, 0.975])]
    return basis
