"""Evaluates a model by object and support: pixel, 1 ha, 4 ha, 1 km2, unit.

A block's observed part is compared with the same part of the reference. The numbers themselves are made in `metrics`;
baselines go through the same functions, in the same run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.model.card import Card
from subpixmap.model.checkpoint import Model
from subpixmap.model.mean import Accumulator, fits_in_order
from subpixmap.model.predict import predict_patch
from subpixmap.progress import track
from subpixmap.reference.patches import Patches
from subpixmap.reference.supports import SUPPORTS, FloatArray, block_means
from subpixmap.training import metrics
from subpixmap.training.metrics import density_errors, plot_errors, presence_errors

__all__ = [
    "SUPPORTS",
    "accumulate_model",
    "block_means",
    "brief",
    "density_errors",
    "errors_by_object",
    "evaluate",
    "is_object",
    "mean_over_dates",
    "predict_patches",
    "presence_errors",
    "rounded",
    "table",
]


Predictor = Callable[[NDArray[np.float32]], tuple[FloatArray, FloatArray]]
"""(band, y + 2 halo, x + 2 halo) of one acquisition, with the patches' bands and halo -> count and presence,
(object, y, x) each."""


def predict_patches(model: Model, patches: Patches) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means over the valid acquisitions of every place, as a map has them.

    Returns
    -------
    tuple
        predicted count, predicted presence and reference count, (place, object, y, x) each, of the model's objects; NaN
        where no acquisition is valid or the reference is not known.
    """
    fits = fits_in_order(model.card.trimmed, model.card.objects)
    return _means(accumulate_model(model, patches), fits)


def mean_over_dates(
    predict: Predictor, patches: Patches, objects: Sequence[str], *, trimmed_fits: FloatArray | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """As `predict_patches`, of any predictor; `objects` and `trimmed_fits` are in its order."""
    return _means(accumulate_dates(predict, patches, objects), trimmed_fits)


def accumulate_model(model: Model, patches: Patches) -> Iterator[tuple[Accumulator, FloatArray]]:
    """As `accumulate_dates`, of a model."""
    patches = patches.select_bands(model.card.bands)
    cut = patches.halo - model.halo
    if cut < 0:
        raise ValueError(f"patches have a halo of {patches.halo} px, but the network needs {model.halo}")
    inner = slice(cut, -cut or None)
    return accumulate_dates(
        lambda scene: predict_patch(model, np.ascontiguousarray(scene[:, inner, inner])),
        patches,
        model.card.object_names,
    )


def accumulate_dates(
    predict: Predictor, patches: Patches, objects: Sequence[str]
) -> Iterator[tuple[Accumulator, FloatArray]]:
    """Of every place its predictions, acquisition by acquisition where that is valid, and the mean reference count,
    (object, y, x), NaN where nothing is known."""
    index = [patches.objects.index(name) for name in objects]
    shape = patches.count.shape[3:]
    whole, nothing = (slice(None), slice(None)), np.zeros(shape, bool)
    for i, scenes in enumerate(track(patches.reflectance, "predict", "places", total=len(patches))):
        valid = patches.valid[i] & patches.labelled[i]
        dates, reference = Accumulator(len(index), shape), np.zeros((len(index), *shape))
        for scene, truth, clear in zip(scenes, patches.count[i], valid, strict=True):
            if clear.any():
                dates.add(whole, *predict(scene.astype(np.float32)), clear, nothing)
                reference += truth[index] * clear
        with np.errstate(invalid="ignore"):  # 0 / 0 is not observed
            yield dates, (reference / dates.n).astype(np.float32)


def _means(
    places: Iterable[tuple[Accumulator, FloatArray]], trimmed_fits: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    means = []
    for dates, reference in places:
        mean = dates.result(min_obs=1, trimmed_fits=trimmed_fits)
        means.append((mean["count"], mean["presence"], reference))
    count, presence, reference = (np.stack(part) for part in zip(*means, strict=True))
    return count, presence, reference


def evaluate(
    model: Model,
    patches: Patches,
    *,
    supports: Mapping[str, int] | None = None,
    baselines: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on held-out places.

    Parameters
    ----------
    model
        Calibrated or not.
    patches
        Of places held out; with the model's bands and objects.
    supports
        Name -> side in pixels; default those of `SUPPORTS` that fit into a patch.
    baselines
        Name -> fitted baseline, whose `predict` takes (n, band, y, x) reflectance with the patches' halo.

    Returns
    -------
    dict
        Object -> {"total": {...}, "presence": {...}, support: {...}, ...}, plain numbers; "places", "acquisitions",
        "groups", "leakage"; and with baselines "baselines": name -> object -> the same. Where places have plots, "plot"
        holds the errors of their densities; of plots alone, there is no error of anything smaller.
    """
    if patches.is_plot.any():
        return _evaluate_plots(model, patches, supports=supports, baselines=baselines)
    count, presence, reference = predict_patches(model, patches)
    facts: dict[str, Any] = {
        "places": len(patches),
        "groups": int(patches.groups.max()) + 1,
        "acquisitions": int(patches.valid.shape[1]),
    }
    common: dict[str, Any] = {
        "supports": supports,
        "groups": patches.groups,
        "cover": patches.cover,
        "covers": patches.covers,
        "present_above": float(model.card.training.get("present_above", 0.25)),
    }
    names = model.card.object_names
    errors = errors_by_object(
        names, count, reference, presence=presence, threshold=model.card.presence_threshold, **common
    )
    for i, name in enumerate(names):
        errors[name]["calibration"] = _before_and_after(model.card, name, count[:, i], reference[:, i])
    facts |= errors
    if len(names) > 1:
        facts["leakage"] = metrics.leakage(names, count, reference)
    if baselines:
        plain = patches.select_bands(model.card.bands)
        facts["baselines"] = {
            name: errors_by_object(names, _predicted(fitted, plain, model.card), reference, **common)
            for name, fitted in baselines.items()
        }
    return facts


def _evaluate_plots(
    model: Model, patches: Patches, *, supports: Mapping[str, int] | None, baselines: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Plots by their sums, and beside them the places where every object is labelled."""
    plots, names = patches.take(np.flatnonzero(patches.is_plot)), model.card.object_names
    count, _, reference = predict_patches(model, plots)
    share = np.zeros(0) if plots.share is None else plots.share
    facts: dict[str, Any] = {
        "places": len(patches),
        "groups": int(patches.groups.max()) + 1,
        "acquisitions": int(patches.valid.shape[1]),
        "plots": len(set(plots.plots)),
    }
    methods = {"": count}
    for name, fitted in (baselines or {}).items():
        methods[name] = _predicted(fitted, plots.select_bands(model.card.bands), model.card)
    errors = {
        method: {
            name: plot_errors(values[:, i], reference[:, i], share, plots.plots, plots.groups)
            for i, name in enumerate(names)
        }
        for method, values in methods.items()
    }
    if not patches.is_plot.all():
        fields = patches.take(np.flatnonzero(~patches.is_plot))
        of_fields = evaluate(
            model, dataclasses.replace(fields, share=None, plots=()), supports=supports, baselines=baselines
        )
        facts = of_fields | facts
        found = {"": of_fields, **of_fields.get("baselines", {})}
        errors = {
            method: {name: {**found[method][name], "plot": errors[method][name]["plot"]} for name in names}
            for method in methods
        }
    facts |= errors.pop("")
    return facts | ({"baselines": errors} if errors else {})


def errors_by_object(
    objects: Sequence[str],
    count: FloatArray,
    reference: FloatArray,
    *,
    presence: FloatArray | None = None,
    threshold: float = 0.5,
    present_above: float = 0.25,
    supports: Mapping[str, int] | None = None,
    groups: NDArray[np.integer] | None = None,
    cover: NDArray[np.integer] | None = None,
    covers: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """The errors of `evaluate` from arrays of any method.

    Parameters
    ----------
    objects
        Names.
    count, reference
        (place, object, y, x), objects per pixel; NaN where not observed.
    presence
        (place, object, y, x), 0-1; left out for methods that have none.
    threshold, present_above
        A pixel is predicted present above the first and present in the reference above the second.
    supports
        As in `evaluate`.
    groups
        (place,): places of one number are one unit, and are resampled together.
    cover, covers
        Land cover, as in `metrics.background`.
    """
    fits = supports or {k: side for k, side in SUPPORTS.items() if side <= min(count.shape[-2:])}
    together = np.arange(len(count)) if groups is None else groups
    result: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(objects):
        p, r = count[:, i], reference[:, i]
        present = None if presence is None else (presence[:, i] > threshold) & np.isfinite(r)
        errors: dict[str, Any] = {
            "total": metrics.total_error(p, r),
            "intervals_95": metrics.intervals(p, r, together),
            "empty_land": metrics.empty_land(p, r),
            "background": metrics.background(p, r, present, cover, covers),
            "by_density": metrics.errors_by_density(p, r),
        }
        for support, side in fits.items():
            errors[support] = density_errors(block_means(p, side)[0], block_means(r, side)[0])
        errors["unit"] = density_errors(*(_by_group(a, p, r, together) for a in (p, r)))
        if present is not None:
            errors["presence"] = presence_errors(present, (r > present_above) & np.isfinite(r))
            errors["gated_total"] = metrics.total_error(np.where(present | ~np.isfinite(p), p, 0), r)
        result[name] = errors
    return result


def brief(errors: Mapping[str, Any]) -> dict[str, Any]:
    """The errors for a card, to 4 digits: totals, intervals, supports, empty land, presence, calibration."""
    kept = ("total", "intervals_95", "empty_land", "presence", "plot", "unit", "calibration", *SUPPORTS)
    return {
        name: rounded({key: value[key] for key in kept if key in value} if is_object(value) else value)
        for name, value in errors.items()
        if name not in ("baselines", "leakage")
    }


def rounded(errors: Any) -> Any:
    """Nested numbers to 4 digits; NaN becomes None."""
    if isinstance(errors, Mapping):
        return {key: rounded(value) for key, value in errors.items()}
    if isinstance(errors, list | tuple):
        return [rounded(value) for value in errors]
    if isinstance(errors, float):
        return float(f"{errors:.4g}") if errors == errors else None
    return errors


def table(errors: Mapping[str, Any], support: str = "1 ha") -> str:
    """A text table: the model's objects, then the baselines."""
    lines = [f"{'object':<22}  reference    total   MAE/ha     R2  slope  empty/ha   IoU"]
    rows = {name: e for name, e in errors.items() if is_object(e)}
    for baseline, by_object in errors.get("baselines", {}).items():
        rows |= {f"{name} ({baseline})": e for name, e in by_object.items()}
    nan = float("nan")
    for name, e in rows.items():
        at = e.get(support, e.get("plot", {}))
        lines.append(
            f"{name:<22} {e['total']['reference']:>10.0f} {e['total']['error_pct']:>+7.1f}% "
            f"{at.get('mae', nan):>8.2f} {at.get('r2', nan):>6.3f} {at.get('slope', nan):>6.3f} "
            f"{e['empty_land']['mean_per_ha']:>9.3f} {e.get('presence', {}).get('iou', nan):>5.2f}"
        )
    return "\n".join(lines)


def is_object(value: Any) -> bool:
    """Whether an entry of the errors is that of an object."""
    return isinstance(value, Mapping) and "total" in value


def _before_and_after(card: Card, name: str, count: FloatArray, reference: FloatArray) -> dict[str, dict[str, float]]:
    """What calibration did: errors on mixes of densities and on empty land, without it and with it."""
    background, slope = card.calibration.get(name, (0.0, 1.0))
    raw = count / slope + background
    return {"before": metrics.mixes(raw, reference), "after": metrics.mixes(count, reference)}


def _predicted(fitted: Any, patches: Patches, card: Card) -> FloatArray:
    """(place, object, y, x) of a baseline."""

    def predict(scene: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        (count,) = fitted.predict(scene[None])
        return count, np.zeros_like(count)  # baselines do not predict presence

    return mean_over_dates(predict, patches, card.object_names)[0]


def _by_group(values: FloatArray, p: FloatArray, r: FloatArray, groups: NDArray[np.integer]) -> FloatArray:
    """Mean of every group over what is observed in both."""
    compared = np.isfinite(p) & np.isfinite(r)
    number = np.bincount(groups, compared.sum(axis=(1, 2)))
    total = np.bincount(groups, np.where(compared, values, 0).sum(axis=(1, 2), dtype=float))
    with np.errstate(invalid="ignore"):  # 0 / 0: a unit that nobody saw
        return np.asarray(total / number)
