"""Measures the shift between labelled points and Sentinel-2, by correlation.

The count map is shifted by some pixels and regressed on the bands of a scene. The shift with the best fit, refined by a
parabola, is the result. No sign is assumed: palms may darken one band and brighten another. A shift is certain if
several acquisitions or several areas agree on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from subpixmap.progress import track
from subpixmap.reference.imagery import Imagery, read_scenes
from subpixmap.reference.reference import UNLABELLED, Area, Reference

log = logging.getLogger(__name__)

SHIFT_M = 5.0
"""Shifts larger than this are corrected or reported, metres (half a pixel)."""
_REACH = 4  # pixels that are tried on either side
_SMOOTH = 15  # pixels; what is wider than this (land cover) is taken out, or it would hide the shift
_SOFT = 1.0  # pixels; without it the parabola is drawn to whole pixels
_LEAST_PX = 900
_LEAST_OBJECTS = 500  # of an area: few objects are moved about by the edges of the fields they stand in
_LEAST_AREAS = 4  # that agree; three that know nothing would agree in one of a hundred cases, four in one of a thousand
_LEAST_TELLING = 100  # objects of an area, for its shift to be compared with that of others
_LEAST_GAIN = 0.05  # of the explained share at the best shift over that at shifts of 3 pixels or more


@dataclass(frozen=True)
class Shift:
    """The shift to apply to the points of an area."""

    east: float
    """Metres."""
    north: float
    """Metres."""
    explained: float
    """Share of the count map's variance that the bands explain there, 0-1."""
    gain: float
    """Gain over the best share at shifts of 3 pixels or more from it."""
    spread: float
    """Standard deviation between acquisitions on the longer axis, metres; NaN with one acquisition."""
    objects: int
    """Points of the area."""
    areas: int = 1
    """Number of areas that agree on it; above 1 it is their median."""

    @property
    def certain(self) -> bool:
        """Whether the shift can be trusted: because its acquisitions agree on it, or the areas."""
        alone = self.gain >= _LEAST_GAIN and self.spread <= SHIFT_M and self.objects >= _LEAST_OBJECTS
        return alone or self.areas >= _LEAST_AREAS

    @property
    def large(self) -> bool:
        """Whether it is worth correcting."""
        return max(abs(self.east), abs(self.north)) > SHIFT_M

    @property
    def doubt(self) -> str:
        """The reason why it is uncertain, in words; empty if certain."""
        if self.certain:
            return ""
        if self.gain < _LEAST_GAIN:
            return "the bands hardly explain the positions of the points"
        if self.objects < _LEAST_OBJECTS:
            return f"the area holds {self.objects} points, fewer than {_LEAST_OBJECTS}"
        if np.isnan(self.spread):
            return "there is only one acquisition"
        return f"the acquisitions disagree by {self.spread:.1f} m"


def estimate_shifts(reference: Reference, imagery: Imagery, *, max_scenes: int = 4) -> dict[str, Shift]:
    """The shift of every area, the median over its clearest acquisitions; too small areas are left out.

    Areas with an uncertain shift get the median over the areas, if these agree (see `agreed`).
    """
    shifts: dict[str, Shift] = {}
    for area in track(reference.labelled_areas, "compare points and imagery", "areas"):
        scenes = read_scenes(area, imagery, max_scenes=max_scenes)
        labelled = area.labelled > UNLABELLED
        each = [
            shift
            for image, valid in zip(scenes.reflectance, scenes.valid, strict=True)
            if (shift := image_shift(area.count.sum(axis=0), image.astype(np.float32), valid & labelled)) is not None
        ]
        if each and area.name not in shifts:
            shifts[area.name] = _median(area, each)
    return agreed(shifts)


def agreed(shifts: Mapping[str, Shift]) -> dict[str, Shift]:
    """Shifts by area, with the median over areas where that is better known than an area's own.

    Parameters
    ----------
    shifts
        Of single areas. Those without a gain, or with hardly any points, neither count nor change.
    """
    telling = {name: one for name, one in shifts.items() if one.gain > 0 and one.objects >= _LEAST_TELLING}
    if len(telling) < _LEAST_AREAS:
        return dict(shifts)
    each = np.array([(one.east, one.north) for one in telling.values()])
    if each.std(axis=0, ddof=1).max() > SHIFT_M:
        return dict(shifts)
    east, north = (round(float(v), 2) for v in np.median(each, axis=0))
    common = {
        name: replace(one, east=east, north=north, areas=len(telling))
        for name, one in telling.items()
        if not one.certain
    }
    return {**shifts, **common}


def shift_facts(made: Reference, imagery: Imagery, *, correct: bool) -> dict[str, dict[str, Any]]:
    """Estimated shifts by area, for the record of the folder; warns about large ones.

    Parameters
    ----------
    made, imagery
        As of `estimate_shifts`.
    correct
        Whether to correct shifts that are large and certain.
    """
    kept: dict[str, dict[str, Any]] = {}
    told: dict[str, list[str]] = {}
    doubtful: dict[str, Shift] = {}
    for name, shift in estimate_shifts(made, imagery).items():
        corrected = shift.certain and shift.large and correct
        kept[name] = asdict(shift) | {"certain": shift.certain, "corrected": corrected}
        if math.isnan(shift.spread):
            kept[name]["spread"] = None
        if not shift.large:
            continue
        if not shift.certain:
            doubtful[name] = shift
            continue
        advice = "corrected" if correct else "add --correct-shift to move the points"
        told.setdefault(f"{_in_words(shift)}; {advice}", []).append(name)
    for text, names in told.items():
        log.warning("%s %s: %s", "area" if len(names) == 1 else f"{len(names)} areas agree,", ", ".join(names), text)
    if doubtful:
        worst = max(doubtful, key=lambda name: math.hypot(doubtful[name].east, doubtful[name].north))
        log.warning(
            "areas with a large but uncertain shift, which is not corrected: %d. The largest is in %s: %s (uncertain: "
            "%s). "
            "Compare points and imagery there; reference.json has the shifts of all areas",
            len(doubtful), worst, _in_words(doubtful[worst]), doubtful[worst].doubt,
        )  # fmt: skip
    return kept


def _in_words(shift: Shift) -> str:
    return f"Sentinel-2 lies {shift.east:.1f} m east and {shift.north:.1f} m north of the labelled imagery"


def image_shift(
    count: NDArray[np.floating], image: NDArray[np.floating], usable: NDArray[np.bool_]
) -> tuple[float, float, float, float] | None:
    """The shift of a count map that a scene explains best.

    1. Keep pixels from which every tried shift stays inside what is usable: all shifts are judged by the same pixels.
    2. Take fine detail of bands and count map, and an orthonormal basis of the bands: the explained share (R^2 of a
       regression on all bands) is then a sum of squared products.
    3. Compute it at every shift; the best is the answer, unless it lies at the edge.
    4. Refine it by a parabola through its neighbours.

    Parameters
    ----------
    count
        (y, x), objects per pixel.
    image
        (band, y, x) on the same pixels.
    usable
        (y, x): labelled and clear.

    Returns
    -------
    tuple or None
        pixels to the right, pixels down, explained share, gain over wrong shifts; None where too few
        pixels are usable, or none holds an object.
    """
    # 1.
    inner = ndimage.minimum_filter(usable, size=2 * _REACH + 1, mode="constant", cval=False)
    if inner.sum() < _LEAST_PX or not count[usable].any():
        return None
    # 2. Detail alone: fields and forests would explain the count map at any shift.
    bands = np.stack([_detail(np.where(usable, band, band[usable].mean()), usable)[inner] for band in image], axis=1)
    bands -= bands.mean(axis=0)
    basis, _ = np.linalg.qr(bands / np.maximum(bands.std(axis=0), 1e-9))
    detail = _detail(np.where(usable, count, 0), usable)
    # 3.
    steps = range(-_REACH, _REACH + 1)
    share = np.array([[_explained(detail, inner, basis, dr, dc) for dc in steps] for dr in steps])
    row, col = np.unravel_index(int(share.argmax()), share.shape)
    best = float(share[row, col])
    far = np.hypot(*np.meshgrid(np.arange(share.shape[0]) - row, np.arange(share.shape[1]) - col, indexing="ij")) >= 3
    gain = best - float(np.median(share[far]))
    if min(row, col) == 0 or max(row, col) == 2 * _REACH:
        return 0.0, 0.0, best, 0.0  # the best lies at the edge of what was tried: it says nothing
    # 4. Row and column by themselves, within half a pixel.
    down = row - _REACH + _peak(share[row - 1 : row + 2, col])
    right = col - _REACH + _peak(share[row, col - 1 : col + 2])
    return float(right), float(down), best, gain


def _detail(values: NDArray[np.floating], usable: NDArray[np.bool_]) -> NDArray[np.floating]:
    """What is finer than the smoothing and no finer than a pixel, over usable pixels."""
    weight = ndimage.uniform_filter(usable.astype(float), _SMOOTH, mode="constant")
    mean = ndimage.uniform_filter(np.where(usable, values, 0).astype(float), _SMOOTH, mode="constant")
    detail = np.where(usable, values - mean / np.maximum(weight, 1e-9), 0)
    return np.asarray(ndimage.gaussian_filter(detail, _SOFT, mode="constant"))


def _explained(
    detail: NDArray[np.floating], inner: NDArray[np.bool_], basis: NDArray[np.floating], down: int, right: int
) -> float:
    """Share of the count map's variance, moved by whole pixels, in the space of the bands."""
    moved = np.roll(detail, (down, right), axis=(0, 1))[inner]
    moved = moved - moved.mean()
    total = float(moved @ moved)
    return float(np.square(basis.T @ moved).sum() / total) if total > 0 else 0.0


def _peak(three: NDArray[np.floating]) -> float:
    """Where the parabola through three values has its top, -0.5 to 0.5."""
    before, middle, after = three
    bend = before - 2 * middle + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _median(area: Area, each: Sequence[tuple[float, float, float, float]]) -> Shift:
    right, down, explained, gain = np.array(each).T
    step = area.lattice.resolution
    spread = step * float(max(right.std(ddof=1), down.std(ddof=1))) if len(each) > 1 else float("nan")
    return Shift(
        east=round(float(step * np.median(right)), 2),
        north=round(float(-step * np.median(down)), 2) + 0.0,  # no -0.0
        explained=round(float(np.median(explained)), 4),
        gain=round(float(np.median(gain)), 4),
        spread=round(spread, 2),
        objects=int(area.points.sum()),
    )
