"""Error metrics: means, presence, density classes, background, leakage.

Arrays in, plain numbers out. Empty land is included (leaving it out hides errors), totals are signed, and intervals
come from resampling whole places, because pixels of a place are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from subpixmap.reference.supports import FloatArray, block_means

DENSITY_CLASSES = (0.0, 5.0, 20.0, 50.0, 100.0, 200.0)
"""Lower ends of classes of reference density, objects per hectare; the first holds land with up to 5."""
_CLEAR_OF_OBJECTS = 3  # pixels from the nearest reference object, for land to be background
_DENSE = 20.0  # objects of another kind per hectare, for land to show leakage
_LEAST_GROUPS = 5  # places, to resample them
_PLOT_SEEN = 0.7  # of a plot, for it to be compared; its other pixels are taken to be like these
Interval = tuple[float, float]


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
        n; mean of the reference, mae, rmse, bias (objects per hectare); slope and intercept of the reference on the
        prediction (a calibrated model has slope 1); r2 = 1 - SSE / SST, NaN if the reference does not vary.
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
        "mean": float(r.mean()),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "bias": float(error.mean()),
        "slope": float(slope),
        "intercept": float(r.mean() - slope * p.mean()),
        "r2": float(1 - (error**2).sum() / spread) if spread > 0 else float("nan"),
    }


def total_error(predicted: FloatArray, reference: FloatArray) -> dict[str, float]:
    """Sums over what is observed, and the signed error of the sum in percent (NaN where the reference is empty)."""
    observed = np.isfinite(reference) & np.isfinite(predicted)
    p, r = float(predicted[observed].sum(dtype=float)), float(reference[observed].sum(dtype=float))
    return {"predicted": p, "reference": r, "error_pct": 100 * (p / r - 1) if r > 0 else float("nan")}


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


def empty_land(predicted: FloatArray, reference: FloatArray) -> dict[str, float]:
    """Objects predicted per hectare on hectares that hold none: blocks of (place, y, x)."""
    per_ha = 100 * block_means(predicted, 10)[0][block_means(reference, 10)[0] == 0]
    per_ha = per_ha[np.isfinite(per_ha)]
    return {
        "n_ha": int(per_ha.size),
        "mean_per_ha": float(per_ha.mean()) if per_ha.size else float("nan"),
        "p99_per_ha": float(np.quantile(per_ha, 0.99)) if per_ha.size else float("nan"),
    }


def errors_by_density(predicted: FloatArray, reference: FloatArray) -> list[dict[str, float]]:
    """Errors of hectares by class of reference density: shrinkage shows as bias that falls with density."""
    p, r = 100 * block_means(predicted, 10)[0], 100 * block_means(reference, 10)[0]
    compared = np.isfinite(p) & np.isfinite(r)
    p, r = p[compared], r[compared]
    rows = []
    for low, high in zip(DENSITY_CLASSES, (*DENSITY_CLASSES[1:], np.inf), strict=True):
        here = (r >= low) & (r < high)
        if here.any():
            error = p[here] - r[here]
            row = {"from_per_ha": low, "n_ha": int(here.sum()), "reference": float(r[here].mean())}
            rows.append(row | {"bias": float(error.mean()), "mae": float(np.abs(error).mean())})
    return rows


def background(
    predicted: FloatArray,
    reference: FloatArray,
    present: NDArray[np.bool_] | None = None,
    cover: NDArray[np.integer] | None = None,
    covers: Sequence[str] = (),
) -> dict[str, dict[str, float]]:
    """False objects per km2 of land that holds none, by land cover; gated: only where presence is predicted.

    Parameters
    ----------
    predicted, reference
        (place, y, x) objects per pixel; NaN where not observed. Land nearer to an object than 3 pixels is left out.
    present
        (place, y, x): predicted presence.
    cover, covers
        (place, y, x) index into names; all land in one when not given.

    Returns
    -------
    dict
        Cover -> km2, per_km2 and, with `present`, per_km2_gated; "all" first.
    """
    near = ndimage.maximum_filter(np.nan_to_num(reference) > 0, size=(1, *(2 * _CLEAR_OF_OBJECTS - 1,) * 2))
    land = np.isfinite(reference) & np.isfinite(predicted) & ~near
    kinds = {"all": land} | ({} if cover is None else {name: land & (cover == i) for i, name in enumerate(covers)})
    by_cover = {}
    for name, here in kinds.items():
        if (km2 := float(here.sum()) / 1e4) > 0:
            by_cover[name] = {"km2": km2, "per_km2": float(predicted[here].sum(dtype=float) / km2)}
            if present is not None:
                by_cover[name]["per_km2_gated"] = float(predicted[here & present].sum(dtype=float) / km2)
    return by_cover


def leakage(objects: Sequence[str], predicted: FloatArray, reference: FloatArray) -> dict[str, dict[str, Any]]:
    """Objects of one kind counted as another.

    Parameters
    ----------
    objects
        Names.
    predicted, reference
        (place, object, y, x) objects per pixel.

    Returns
    -------
    dict
        "oil_palm as coconut" -> hectares with at least 20 oil palms and no coconut palm, coconuts predicted per hectare
        there, and their share of the oil palms.
    """
    p, r = 100 * block_means(predicted, 10)[0], 100 * block_means(reference, 10)[0]
    by_pair = {}
    for i, counted in enumerate(objects):
        for j, standing in enumerate(objects):
            here = (r[:, j] >= _DENSE) & (r[:, i] == 0) & np.isfinite(p[:, i])
            if i != j and here.any():
                per_ha, there = float(p[:, i][here].mean()), float(r[:, j][here].mean())
                by_pair[f"{standing} as {counted}"] = {
                    "n_ha": int(here.sum()), "per_ha": per_ha, "share_pct": 100 * per_ha / there,
                }  # fmt: skip
    return by_pair


def mixes(predicted: FloatArray, reference: FloatArray) -> dict[str, float]:
    """Total error in percent on all hectares with objects, on the sparser and on the denser half of them, and on none.

    A calibration that only fits the density mix of its own places has errors on one of the halves.
    """
    p, number = block_means(predicted, 10)
    r, _ = block_means(reference, 10)
    compared = np.isfinite(p) & np.isfinite(r)
    full = compared & (r > 0)
    if not full.any():
        return {"empty_per_ha": empty_land(predicted, reference)["mean_per_ha"]}
    middle = np.median(r[full])

    def error(here: NDArray[np.bool_]) -> float:
        truth = (number * r)[here].sum()
        return float(100 * ((number * p)[here].sum() / truth - 1)) if truth > 0 else float("nan")

    return {
        "all_pct": error(full),
        "sparse_pct": error(full & (r <= middle)),
        "dense_pct": error(full & (r > middle)),
        "empty_per_ha": empty_land(predicted, reference)["mean_per_ha"],
    }


def intervals(
    predicted: FloatArray, reference: FloatArray, groups: NDArray[np.integer], *, n: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals from resampling places.

    Parameters
    ----------
    predicted, reference
        (place, y, x) objects per pixel; NaN where not observed.
    groups
        (place,): number of what is resampled: places, or areas of several places.
    n, seed
        Of the draws.

    Returns
    -------
    dict
        error_pct of the total, and mae, bias and r2 of hectares -> (low, high); empty with fewer than 5 groups.
    """
    if len(kinds := np.unique(groups)) < _LEAST_GROUPS:
        return {}
    p, r = 100 * block_means(predicted, 10)[0], 100 * block_means(reference, 10)[0]
    compared = np.isfinite(p) & np.isfinite(r)
    p, r = np.where(compared, p, 0), np.where(compared, r, 0)
    observed = np.isfinite(predicted) & np.isfinite(reference)
    parts = [compared, np.abs(p - r), p - r, (p - r) ** 2, r, r**2]
    parts += [np.where(observed, predicted, 0), np.where(observed, reference, 0)]
    each = np.stack([part.sum(axis=(1, 2), dtype=float) for part in parts], axis=1)
    by_group = np.stack([each[groups == kind].sum(axis=0) for kind in kinds])
    rng = np.random.default_rng(seed)
    sums = rng.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=n) @ by_group
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without objects says nothing
        number, absolute, signed, square, truth, truth2, total, total_truth = sums.T
        draws = {
            "error_pct": 100 * (total / total_truth - 1),
            "mae": absolute / number,
            "bias": signed / number,
            "r2": 1 - square / (truth2 - truth**2 / number),
        }
    return {name: interval for name, values in draws.items() if (interval := _interval(values)) is not None}


def plot_sums(
    values: FloatArray, reference: FloatArray, share: FloatArray, plots: Sequence[str]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sums over plots.

    Parameters
    ----------
    values, reference
        (place, y, x) of one object, per pixel; NaN where not observed. The reference is the total, spread evenly.
    share
        (place, y, x): of each pixel, the share that the plot covers.
    plots
        Name of the plot of each place; places of one plot are parts of it.

    Returns
    -------
    tuple
        (plot,) each: predicted sum, true sum (both NaN where too little of the plot is seen), and its pixels.
    """
    plot = np.unique(np.array(plots), return_inverse=True)[1]
    seen = np.isfinite(values) & np.isfinite(reference)
    parts = share, share * seen, np.where(seen, values * share, 0), np.where(seen, reference, 0)
    sums = [np.asarray(np.bincount(plot, part.sum(axis=(1, 2), dtype=float)), float) for part in parts]
    pixels, clear, predicted, true = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.where(clear >= _PLOT_SEEN * pixels, pixels / clear, np.nan)
    return predicted * whole, true * whole, pixels


def plot_errors(
    values: FloatArray,
    reference: FloatArray,
    share: FloatArray,
    plots: Sequence[str],
    groups: NDArray[np.integer],
) -> dict[str, Any]:
    """Errors of one object on plots: of their total, on those without objects, and of their densities.

    Parameters
    ----------
    values, reference, share, plots
        As in `plot_sums`.
    groups
        As in `intervals`.

    Returns
    -------
    dict
        total, intervals_95 (of the total alone), empty_land and plot, as of `evaluate`.
    """
    predicted, true, pixels = plot_sums(values, reference, share, plots)
    empty = (true == 0) & np.isfinite(predicted)
    per_ha = 100 * predicted[empty] / pixels[empty]
    spread = intervals(values * share, reference, groups)
    return {
        "total": total_error(predicted, true),
        "intervals_95": {name: ends for name, ends in spread.items() if name == "error_pct"},
        "empty_land": {
            "n_ha": round(float(pixels[empty].sum()) / 100, 2),
            "mean_per_ha": float(np.average(per_ha, weights=pixels[empty])) if per_ha.size else float("nan"),
        },
        "plot": density_errors(predicted / pixels, true / pixels),
    }


def _interval(values: FloatArray) -> Interval | None:
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
