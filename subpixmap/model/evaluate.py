"""How wrong a model is, by object and by support: pixel, 1 ha, 4 ha, 1 km2.

Empty land stays in (leaving it out flatters), a block's observed part is compared with the same part of the reference,
and the total is signed: every published total is too low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.model.checkpoint import Model
from subpixmap.model.predict import predict_patch
from subpixmap.reference.patches import Patches

SUPPORTS = {"pixel": 1, "1 ha": 10, "4 ha": 20, "1 km2": 100}
"""Name -> side of a block in pixels of 10 m."""

FloatArray = NDArray[np.floating]


def predict_patches(model: Model, patches: Patches) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means over the valid acquisitions of every place, as a map has them.

    Returns
    -------
    tuple
        predicted count, predicted presence and reference count, (place, object, y, x) each, of the model's objects; NaN
        where no acquisition is valid or the reference is not known.
    """
    patches = patches.select_bands(model.card.bands)
    cut = patches.halo - model.halo
    inner = slice(cut, -cut or None)
    index = [patches.objects.index(name) for name in model.card.objects]
    means = []
    for i, scenes in enumerate(patches.reflectance):
        valid = patches.valid[i] & patches.labelled[i]
        total = np.zeros((3, len(index), *valid.shape[1:]), np.float32)
        for scene, reference, clear in zip(scenes, patches.count[i], valid, strict=True):
            if clear.any():
                both = predict_patch(model, scene[:, inner, inner].astype(np.float32))
                total += np.array([*both, reference[index]]) * clear
        with np.errstate(invalid="ignore"):  # 0 / 0 is not observed
            means.append(total / valid.sum(axis=0, dtype=np.float32))
    count, presence, reference = np.moveaxis(np.array(means), 1, 0)
    return count, presence, reference


def block_means(values: FloatArray, side: int, *, least: float = 0.5) -> tuple[FloatArray, FloatArray]:
    """Mean over the observed pixels of blocks.

    Parameters
    ----------
    values
        (..., y, x), NaN where not observed.
    side
        Pixels; what is left over at the lower and right edge is dropped.
    least
        Blocks observed less than this are dropped (NaN).

    Returns
    -------
    tuple
        mean (..., rows, cols), NaN where dropped, and number of observed pixels of the same shape.
    """
    rows, cols = values.shape[-2] // side, values.shape[-1] // side
    observed = np.isfinite(values)

    def blocks(a: NDArray[Any]) -> FloatArray:
        cut = a[..., : rows * side, : cols * side]
        return np.asarray(cut.reshape(*a.shape[:-2], rows, side, cols, side).sum(axis=(-3, -1), dtype=np.float64))

    number = blocks(observed)
    total = blocks(np.where(observed, values, 0))
    enough = number >= max(least * side**2, 1)
    return np.where(enough, total / np.maximum(number, 1), np.nan), np.where(enough, number, 0)


def density_errors(predicted: FloatArray, reference: FloatArray, *, per_ha: float = 100.0) -> dict[str, float]:
    """Errors of block means.

    Parameters
    ----------
    predicted, reference
        Objects per pixel, equal shapes; NaN in either is left out.
    per_ha
        Pixels a hectare; MAE, RMSE and bias are given in objects per hectare.

    Returns
    -------
    dict
        n; mae, rmse, bias (objects per hectare); slope and intercept of the reference on the prediction (a calibrated
        model has slope 1); r2 = 1 - SSE / SST, NaN if the reference does not vary.
    """
    keep = np.isfinite(predicted) & np.isfinite(reference)
    p, r = predicted[keep].astype(float) * per_ha, reference[keep].astype(float) * per_ha
    if p.size == 0:
        return {"n": 0}
    error, spread = p - r, ((r - r.mean()) ** 2).sum()
    var = ((p - p.mean()) ** 2).sum()
    slope = ((p - p.mean()) * (r - r.mean())).sum() / var if var > 0 else np.nan
    return {
        "n": int(p.size),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "bias": float(error.mean()),
        "slope": float(slope),
        "intercept": float(r.mean() - slope * p.mean()),
        "r2": float(1 - (error**2).sum() / spread) if spread > 0 else float("nan"),
    }


def presence_errors(predicted: NDArray[np.bool_], reference: NDArray[np.bool_]) -> dict[str, float]:
    """IoU, precision and recall of presence; NaN where there is nothing to divide by."""
    both, either = (predicted & reference).sum(), (predicted | reference).sum()

    def ratio(a: Any, b: Any) -> float:
        return float(a / b) if b else float("nan")

    return {
        "iou": ratio(both, either),
        "precision": ratio(both, predicted.sum()),
        "recall": ratio(both, reference.sum()),
    }


def evaluate(model: Model, patches: Patches, *, supports: Mapping[str, int] | None = None) -> dict[str, Any]:
    """All errors of a model on places it has not seen.

    Parameters
    ----------
    model
        Calibrated or not.
    patches
        Of places held out; with the model's bands and objects.
    supports
        Name -> side in pixels; default those of `SUPPORTS` that fit into a patch.

    Returns
    -------
    dict
        Object -> {"total": {...}, "presence": {...}, support: {...}}, plain numbers; and "places", "acquisitions".
    """
    count, presence, reference = predict_patches(model, patches)
    return {
        "places": len(patches),
        "acquisitions": int(patches.valid.shape[1]),
        **errors_by_object(
            model.card.object_names,
            count,
            reference,
            presence=presence,
            threshold=model.card.presence_threshold,
            present_above=float(model.card.training.get("present_above", 0.25)),
            supports=supports,
        ),
    }


def errors_by_object(
    objects: Sequence[str],
    count: FloatArray,
    reference: FloatArray,
    *,
    presence: FloatArray | None = None,
    threshold: float = 0.5,
    present_above: float = 0.25,
    supports: Mapping[str, int] | None = None,
) -> dict[str, dict[str, Any]]:
    """The errors of `evaluate` from arrays, whatever method made them.

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
    """
    fits = supports or {k: side for k, side in SUPPORTS.items() if side <= min(count.shape[-2:])}
    result: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(objects):
        p, r = count[:, i], reference[:, i]
        observed = np.isfinite(r)
        predicted, truth = float(p[observed].sum(dtype=float)), float(r[observed].sum(dtype=float))
        background = 100 * block_means(p, 10)[0][block_means(r, 10)[0] == 0]
        result[name] = {
            "total": {
                "predicted": predicted,
                "reference": truth,
                "error_pct": 100 * (predicted / truth - 1) if truth > 0 else float("nan"),
            },
            "empty_land": {
                "n_ha": int(background.size),
                "mean_per_ha": float(background.mean()) if background.size else float("nan"),
                "p99_per_ha": float(np.quantile(background, 0.99)) if background.size else float("nan"),
            },
        }
        for support, side in fits.items():
            result[name][support] = density_errors(block_means(p, side)[0], block_means(r, side)[0])
        if presence is not None:
            result[name]["presence"] = presence_errors(
                (presence[:, i] > threshold) & observed, (r > present_above) & observed
            )
    return result


def table(errors: Mapping[str, Any], support: str = "1 ha") -> str:
    """A few lines for a person."""
    lines = ["object      reference    total   MAE/ha     R2  slope  empty/ha   IoU"]
    for name, e in errors.items():
        if isinstance(e, Mapping):
            at, nan = e.get(support, {}), float("nan")
            lines.append(
                f"{name:<10} {e['total']['reference']:>10.0f} {e['total']['error_pct']:>+7.1f}% "
                f"{at.get('mae', nan):>8.2f} {at.get('r2', nan):>6.3f} {at.get('slope', nan):>6.3f} "
                f"{e['empty_land']['mean_per_ha']:>9.3f} {e.get('presence', {}).get('iou', nan):>5.2f}"
            )
    return "\n".join(lines)
