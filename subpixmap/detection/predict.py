"""Pixels of a window -> boxes, scores and objects: arrays in, arrays out.

Values are scaled and resampled as in training, the network looks, and of boxes that overlap the best stays, whatever
object each is: a place holds one object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpixmap.detection.detector import Detector, DetectorCard


@dataclass(frozen=True)
class Boxes:
    """Detections in pixels of a window or of an image."""

    xyxy: NDArray[np.float32]
    """(detection, 4): xmin, ymin, xmax, ymax; edges of pixels are whole numbers."""
    score: NDArray[np.float32]
    """(detection,) 0-1."""
    kind: NDArray[np.int16]
    """(detection,) index of the object."""

    @property
    def centre(self) -> NDArray[np.float32]:
        """(detection, 2): column, row."""
        return np.asarray((self.xyxy[:, :2] + self.xyxy[:, 2:]) / 2, np.float32)

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.integer]) -> Boxes:
        return Boxes(self.xyxy[keep], self.score[keep], self.kind[keep])

    def moved(self, col: float, row: float) -> Boxes:
        """The same boxes, counted from another corner."""
        return Boxes(self.xyxy + np.array([col, row, col, row], np.float32), self.score, self.kind)

    @classmethod
    def joined(cls, parts: list[Boxes]) -> Boxes:
        """Several as one."""
        parts = parts or [NO_BOXES]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("xyxy", "score", "kind")))


NO_BOXES = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int16))


def predict_boxes(
    detector: Detector, pixels: NDArray[np.float32], valid: NDArray[np.bool_], *, score: float | None = None
) -> Boxes:
    """Detections of a window.

    Parameters
    ----------
    detector
        Network and card.
    pixels
        (band, y, x) as they stand in the file.
    valid
        (y, x); other pixels are taken for the mean of the training images, and no detection has its centre there.
    score
        Least score, instead of the card's.

    Returns
    -------
    Boxes
        In pixels of the window.
    """
    card, device = detector.card, next(detector.net.parameters()).device
    detector.net.score_thresh = card.score if score is None else score
    with torch.inference_mode():
        found = detector.net([network_input(card, pixels, valid).to(device)])[0]
    boxes = Boxes(
        (found["boxes"] / card.scale).cpu().numpy().astype(np.float32),
        found["scores"].cpu().numpy().astype(np.float32),
        found["labels"].cpu().numpy().astype(np.int16),
    )
    col, row = np.floor(boxes.centre).astype(int).T
    height, width = valid.shape
    inside = (col >= 0) & (row >= 0) & (col < width) & (row < height)
    inside[inside] = valid[row[inside], col[inside]]
    return best_of_overlapping(boxes[inside], card.overlap)


def network_input(card: DetectorCard, pixels: NDArray[np.float32], valid: NDArray[np.bool_]) -> Tensor:
    """(band, y, x) of scaled values in network pixels; what is not valid has the training mean."""
    mean = np.array(card.input_mean, np.float32)[:, None, None]
    filled = np.where(valid, pixels / np.float32(card.full_value), mean).astype(np.float32)
    return resampled(torch.from_numpy(filled), card.scale)


def resampled(pixels: Tensor, scale: float) -> Tensor:
    """(band, y, x) enlarged by bilinear interpolation, or reduced by means."""
    if scale > 1:
        mode = {"mode": "bilinear", "align_corners": False}
        return torch.nn.functional.interpolate(pixels[None], scale_factor=scale, **mode)[0]  # type: ignore[arg-type]
    return pixels if scale == 1 else torch.nn.functional.avg_pool2d(pixels[None], round(1 / scale), ceil_mode=True)[0]


def best_of_overlapping(boxes: Boxes, overlap: float) -> Boxes:
    """Of boxes whose intersection over union is larger than `overlap`, the one with the highest score (greedily)."""
    from torchvision.ops import nms

    order = np.lexsort((boxes.xyxy[:, 0], boxes.xyxy[:, 1], -boxes.score))  # the same whatever the window was
    sorted_boxes = boxes[order]
    keep = nms(torch.from_numpy(sorted_boxes.xyxy), torch.from_numpy(sorted_boxes.score), overlap)
    return sorted_boxes[np.sort(keep.numpy())]
