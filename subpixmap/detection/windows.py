"""Processes images in windows; a detection belongs to the window whose core contains its centre.

A window is read with a margin: what the network sees around a place, and two of the largest objects, so that of boxes
which overlap the same one stays, whichever window looks. Windows begin at multiples of the network's stride, so that
the network sees the same pixels at the same places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.detection.detector import Detector
from subpixmap.detection.images import Image
from subpixmap.detection.predict import NO_BOXES, Boxes, best_of_overlapping, predict_boxes
from subpixmap.errors import InputError
from subpixmap.grid import Window

CELL = 16
"""Side of a cell, pixels of the image: where pixels are missing is kept by cell."""
_VALID = 0.9
"""Share of the pixels of a cell that was looked at: single pixels may have the value of nodata by chance."""
SIDE = 512
"""Side of a window, pixels of the image, without its margin."""


@dataclass(frozen=True)
class WindowTask:
    """A window of an image to look at."""

    image: Image
    core: Window
    score: float | None
    """Least score; the card's when None."""

    @property
    def name(self) -> str:
        """For files and messages."""
        return f"{self.image.id}-{self.core.row}-{self.core.col}"


@dataclass(frozen=True)
class Seen:
    """What was found in the core of a window."""

    boxes: Boxes
    """In pixels of the image."""
    known: NDArray[np.bool_]
    """(row, column) of cells: whether nearly all their pixels are valid."""


def tasks_of(image: Image, detector: Detector, *, side: int = SIDE, score: float | None = None) -> Iterator[WindowTask]:
    """Windows that cover an image once, row by row.

    Raises
    ------
    InputError
        `side` is not a multiple of what windows are aligned to.
    """
    unit = max(CELL, detector.card.step)
    if side < unit or side % unit:
        raise InputError(f"--window {side}: give a multiple of {unit} pixels")
    for row in range(0, image.height, side):
        for col in range(0, image.width, side):
            size = min(side, image.height - row), min(side, image.width - col)
            yield WindowTask(image, Window(row, col, *size), score)


def detect_window(task: WindowTask, detector: Detector) -> Seen:
    """Look at one window.

    1. Read the core with its margin, aligned to the network's stride.
    2. Detect in all of it, and keep the boxes whose centre lies in the core: each place belongs to one core.
    """
    core, margin = task.core, margin_of(detector)
    step = detector.card.step
    wide = core.aligned(step).padded(margin)
    pixels, valid = task.image.read(wide)
    inside = valid[core.slices(wide)]
    known = _whole_cells(inside)
    if not inside.any():
        return Seen(NO_BOXES, known)
    boxes = predict_boxes(detector, pixels, valid, score=task.score).moved(wide.col, wide.row)
    return Seen(boxes[_centred_in(boxes, core)], known)


def margin_of(detector: Detector) -> int:
    """Pixels that are read around a core: a multiple of the step."""
    card = detector.card
    objects = int(np.ceil(2 * card.largest / card.resolution))
    return -(-(detector.halo + objects) // card.step) * card.step


def join_windows(parts: list[tuple[Window, Seen]], detector: Detector) -> Boxes:
    """Detections of an image; of two that windows on both sides of a seam both claim, the better one stays.

    Neighbours agree on what they see, but for the last bits, by which a centre may lie on either side of a seam.
    """
    boxes = Boxes.joined([seen.boxes for _, seen in parts])
    reach = detector.card.largest / detector.card.resolution
    cols = sorted({edge for window, _ in parts for edge in (window.col, window.col + window.width)})
    rows = sorted({edge for window, _ in parts for edge in (window.row, window.row + window.height)})
    x, y = boxes.centre.T
    at_seam = _near(x, cols, reach) | _near(y, rows, reach)
    kept = best_of_overlapping(boxes[at_seam], detector.card.overlap)
    both = Boxes.joined([boxes[~at_seam], kept])
    return both[np.lexsort((both.centre[:, 0], both.centre[:, 1]))]


def known_cells(image: Image, parts: list[tuple[Window, Seen]]) -> NDArray[np.bool_]:
    """(row, column) of the image's cells: whether nearly all pixels are valid."""
    known = np.zeros((-(-image.height // CELL), -(-image.width // CELL)), bool)
    for window, seen in parts:
        top, left = window.row // CELL, window.col // CELL
        known[top : top + seen.known.shape[0], left : left + seen.known.shape[1]] = seen.known
    return known


def _centred_in(boxes: Boxes, core: Window) -> NDArray[np.bool_]:
    x, y = boxes.centre.T
    inside: NDArray[np.bool_] = (
        (x >= core.col) & (x < core.col + core.width) & (y >= core.row) & (y < core.row + core.height)
    )
    return inside


def _whole_cells(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells of `CELL` pixels of which nearly all are valid; those that the edge cuts as far as they reach."""
    rows, cols = (-(-extent // CELL) * CELL for extent in valid.shape)
    padded = np.ones((rows, cols), bool)
    padded[: valid.shape[0], : valid.shape[1]] = valid
    return np.asarray(padded.reshape(rows // CELL, CELL, cols // CELL, CELL).mean(axis=(1, 3)) >= _VALID)


def _near(values: NDArray[np.floating], edges: list[int], reach: float) -> NDArray[np.bool_]:
    """Whether a coordinate lies within `reach` of any edge."""
    after = np.searchsorted(edges, values)
    ends = np.array([-np.inf, *edges, np.inf])
    return np.asarray(np.minimum(values - ends[after], ends[after + 1] - values) <= reach)
