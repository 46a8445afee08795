"""Statistics of the training land in cells of 16 px, and the distance of other land from them.

In: reflectance and which pixels are observed. Out: the features of every cell (means, spread and texture of the bands,
and how neighbouring bands go together), and whether the land around a cell is like the training data: the mean over
its surroundings of the logarithm of the Mahalanobis distance, against a threshold from places that were held out.
NumPy only, one band after the other, without a library of linear algebra: the same pixels give the same bits.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError

Array = NDArray[np.float32]

CELL = 16
"""Side of a cell, pixels; it divides the chunks of a map."""
AROUND = 5
"""Cells a side of the surroundings over which distances are averaged: 800 m at 10 m."""
LEAST = 0.75
"""Share of a cell that must be observed before it tells anything."""
FAR = 4
"""Pixels between those whose difference tells of coarse texture; 1 tells of fine texture."""
_FLOOR = np.float32(5e-4)
"""Reflectance; less spread than this is rounding."""


@dataclass(frozen=True)
class Likeness:
    """Statistics of the cells of the training data, and the distance from which land is unlike them."""

    centre: Array
    """(feature,) mean of the cells."""
    whitening: Array
    """(feature, feature) lower triangle W: |W (x - centre)|^2 is the squared Mahalanobis distance of x."""
    threshold: float
    """Mean log squared distance of surroundings, beyond which they are unlike the training data."""
    facts: Mapping[str, Any]
    """What it rests on: cells of the training, cells held out, quantile."""

    def as_json(self) -> dict[str, Any]:
        """For the card: plain numbers, and the two arrays as base64 of little-endian float32."""
        lower = self.whitening[np.tril_indices(len(self.centre))]
        arrays = {"centre": _packed(self.centre), "whitening": _packed(lower)}
        return {**self.facts, "cell": CELL, "around": AROUND, "threshold": self.threshold, **arrays}

    @classmethod
    def stated(cls, stated: Mapping[str, Any], n_bands: int) -> Likeness:
        """From a card of so many bands; what cannot be right is refused."""
        n, threshold = n_features(n_bands), stated.get("threshold")
        if stated.get("cell") != CELL or stated.get("around") != AROUND:
            raise InputError(f"likeness must be of cells of {CELL} px and surroundings of {AROUND} cells")
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not math.isfinite(threshold):
            raise InputError("the threshold of likeness must be a finite number")
        whitening = np.zeros((n, n), np.float32)
        whitening[np.tril_indices(n)] = _unpacked(stated.get("whitening"), n * (n + 1) // 2)
        arrays = {"cell", "around", "threshold", "centre", "whitening"}
        facts = {name: value for name, value in stated.items() if name not in arrays}
        return cls(_unpacked(stated.get("centre"), n), whitening, float(threshold), facts)

    def scores(self, reflectance: Array, observed: NDArray[np.bool_]) -> Array:
        """(cell, cell): mean log squared distance around every cell; NaN where no cell around it can be judged.

        1. Describe each cell by its features.
        2. Measure its Mahalanobis distance from the training data, |W (x - centre)|^2.
        3. Average the logarithms over the surroundings: one odd cell, such as a pond, is no other land.

        Parameters
        ----------
        reflectance
            (band, y, x).
        observed
            (y, x).
        """
        features, share = cell_features(reflectance, observed)  # 1.
        judged = share >= LEAST
        # 2. The small number keeps the logarithm finite at the centre.
        white = np.einsum("yxf,gf->yxg", features - self.centre, self.whitening)
        distance = np.log(np.square(white).sum(axis=-1) + np.float32(1e-6))
        # 3. Over judged cells only.
        total, number = _box(np.where(judged, distance, 0)), _box(judged.astype(np.float32))
        return np.divide(total, number, out=np.full(total.shape, np.nan, np.float32), where=number > 0)

    def unlike(self, reflectance: Array, observed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(y, x): the surroundings of the pixel's cell are unlike the training data."""
        cells = self.scores(reflectance, observed) > self.threshold  # False where nothing can be judged
        rows, cols = observed.shape
        return np.repeat(np.repeat(cells, CELL, axis=0), CELL, axis=1)[:rows, :cols]


def n_features(n_bands: int) -> int:
    """Features of a cell."""
    return 8 * n_bands - 2


def cell_features(reflectance: Array, observed: NDArray[np.bool_]) -> tuple[Array, Array]:
    """(cell, cell, feature) and (cell, cell): features of every cell, and the share of it that is observed.

    Parameters
    ----------
    reflectance
        (band, y, x); a last row or column of cells that is not whole counts as not observed beyond the edge.
    observed
        (y, x).

    Notes
    -----
    Of each band: its mean, and the logarithms of its standard deviation, of the root mean square difference of pixels
    one and `FAR` apart, of the fourth root of the mean fourth power of the former (edges against noise), and of the
    root mean square of the Laplacian. Of each pair of neighbouring bands: the correlation of pixels, and of Laplacians.
    """
    rows, cols = (-(-side // CELL) * CELL for side in observed.shape)
    seen = np.zeros((rows, cols), bool)
    seen[: observed.shape[0], : observed.shape[1]] = observed
    pairs = {lag: (_both(seen, lag, 1), _both(seen, lag, 0)) for lag in (1, FAR)}
    inner = np.zeros_like(seen)
    inner[1:-1, 1:-1] = (
        pairs[1][0][1:-1, 1:-1] & pairs[1][0][1:-1, 2:] & pairs[1][1][1:-1, 1:-1] & pairs[1][1][2:, 1:-1]
    )
    masks = _Masks(seen, pairs, inner)
    parts: list[Array] = []
    before: tuple[Array, ...] | None = None
    for band in reflectance:
        values = np.zeros((rows, cols), np.float32)
        values[: band.shape[0], : band.shape[1]] = np.where(observed, band, 0)
        own, kept = _of_band(values, masks)
        parts += own
        if before is not None:
            parts += [_correlation(before[k], kept[k], before[k + 1], kept[k + 1], masks.n[k]) for k in (0, 2)]
        before = kept
    return np.stack(parts, axis=-1), masks.n[0] / np.float32(CELL**2)


class _Masks:
    """Which pixels, pairs and crosses of pixels are observed, and how many of them each cell has."""

    def __init__(self, seen: NDArray[np.bool_], pairs: Mapping[int, tuple[Any, Any]], inner: NDArray[np.bool_]) -> None:
        self.seen, self.inner = seen.astype(np.float32), inner.astype(np.float32)
        self.pairs = {lag: tuple(mask.astype(np.float32) for mask in both) for lag, both in pairs.items()}
        self.n = {0: _sums(self.seen), 2: _sums(self.inner)}
        self.n_pairs = {lag: _sums(across) + _sums(down) for lag, (across, down) in self.pairs.items()}


def _of_band(values: Array, masks: _Masks) -> tuple[list[Array], tuple[Array, ...]]:
    """Features of the cells in one band; deviations and Laplacians with the means of their squares."""
    mean = _mean(_sums(values), masks.n[0])
    deviation = (values - np.repeat(np.repeat(mean, CELL, axis=0), CELL, axis=1)) * masks.seen
    variance = _mean(_sums(np.square(deviation)), masks.n[0])
    parts = [mean, _log_root(variance)]
    for lag in (1, FAR):
        across, down = (
            _difference(values, lag, axis) * mask for axis, mask in zip((1, 0), masks.pairs[lag], strict=True)
        )
        squares = np.square(across) + np.square(down)
        parts.append(_log_root(_mean(_sums(squares), masks.n_pairs[lag])))
        if lag == 1:
            parts.append(_log_root(np.sqrt(_mean(_sums(np.square(squares)), masks.n_pairs[lag]))))
    laplacian = np.zeros_like(values)
    laplacian[1:-1, 1:-1] = (
        4 * values[1:-1, 1:-1] - values[:-2, 1:-1] - values[2:, 1:-1] - values[1:-1, :-2] - values[1:-1, 2:]
    )
    laplacian *= masks.inner
    curvature = _mean(_sums(np.square(laplacian)), masks.n[2])
    return [*parts, _log_root(curvature)], (deviation, variance, laplacian, curvature)


def _correlation(a: Array, b: Array, a_square: Array, b_square: Array, n: Array) -> Array:
    floor = _FLOOR**2
    return np.asarray(_mean(_sums(a * b), n) / np.sqrt((a_square + floor) * (b_square + floor)), np.float32)


def _both(seen: NDArray[np.bool_], lag: int, axis: int) -> NDArray[np.bool_]:
    """The pixel and the one `lag` before it are observed."""
    late, early = _shifted(lag, axis)
    out = np.zeros_like(seen)
    out[late] = seen[late] & seen[early]
    return out


def _difference(values: Array, lag: int, axis: int) -> Array:
    late, early = _shifted(lag, axis)
    out = np.zeros_like(values)
    np.subtract(values[late], values[early], out=out[late])
    return out


def _shifted(lag: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    whole = slice(None)
    late, early = slice(lag, None), slice(None, -lag)
    return ((late, whole), (early, whole)) if axis == 0 else ((whole, late), (whole, early))


def _sums(values: Array) -> Array:
    """(y, x) -> sums over cells."""
    rows, cols = values.shape
    across = values.reshape(rows, cols // CELL, CELL).sum(axis=-1)
    return np.asarray(across.reshape(rows // CELL, CELL, -1).sum(axis=1), np.float32)


def _mean(total: Array, n: Array) -> Array:
    return np.asarray(total / np.maximum(n, 1), np.float32)


def _log_root(square: Array) -> Array:
    return np.asarray(np.log(square + _FLOOR**2) / 2, np.float32)


def _box(values: NDArray[Any]) -> Array:
    """Sums over the surroundings of every cell, as far as they reach."""
    side = AROUND // 2
    padded = np.pad(values.astype(np.float32), side)
    rows, cols = values.shape
    steps = range(AROUND)
    total: Array = sum(padded[r : r + rows, c : c + cols] for r in steps for c in steps)  # type: ignore[assignment]
    return total


def _packed(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def _unpacked(text: Any, n: int) -> Array:
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise InputError("an array of likeness is not base64") from error
    if len(raw) != 4 * n:
        raise InputError(f"an array of likeness has {len(raw)} bytes; {4 * n} are expected for these bands")
    values = np.frombuffer(raw, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError("a number of likeness is not finite")
    return values
