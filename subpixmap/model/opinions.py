"""Features and disagreement of a model in small areas, to choose areas to label next.

In: reflectance of areas of one size. Out: the features under the heads, which say how alike two areas look to the
network, and the counts of every opinion: of its networks, or of the eight turns and mirrors of the only one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from subpixmap.model.checkpoint import Model
from subpixmap.model.mean import fits_in_order
from subpixmap.model.net import Averaged, DensityNet, turned, turned_back
from subpixmap.model.predict import one_thread

_BATCH = 16

Array = NDArray[np.float32]


def area_features(model: Model, reflectance: Array, clear: NDArray[np.bool_]) -> Array:
    """(area, feature): mean of `pixel_features` over the clear pixels (area, y, x) of every area."""
    pairs = zip(reflectance, clear, strict=True)
    return np.stack([pixel_features(model, one[None])[0][:, where].mean(axis=1) for one, where in pairs])


def pixel_features(model: Model, reflectance: Array) -> Array:
    """(area, feature, y, x): what the heads of all networks see of every pixel.

    Parameters
    ----------
    model
        From `load_model`.
    reflectance
        (area, band, y + 2 halo, x + 2 halo); NaN where there is none.
    """
    parts = [
        torch.cat([net.features(batch)[..., 1:-1, 1:-1] for net in _networks(model)], dim=1)
        for batch in _batches(reflectance)
    ]
    return torch.cat(parts).numpy()


def opinions(model: Model, reflectance: Array) -> Array:
    """(opinion, area, object, y, x): counts by each network of the model, or by each turn and mirror of the only one.

    The parameters are those of `pixel_features`.
    """
    background, slope = fits_in_order(model.card.calibration, model.card.objects).T[:, :, None, None]
    parts = [_opinions(model, batch) for batch in _batches(reflectance)]
    counts: Array = (torch.cat(parts, dim=1).numpy() - background) * slope
    return counts


def _opinions(model: Model, reflectance: torch.Tensor) -> torch.Tensor:
    """(opinion, area, object, y, x) densities."""
    if model.card.members > 1:
        out: torch.Tensor = model.folded_with_members(reflectance)
        return out[:, 1:, 0].movedim(1, 0)
    (net,) = _networks(model)
    views = [(turn, mirror) for mirror in (False, True) for turn in range(4)]
    return torch.stack([turned_back(net(turned(reflectance, *view)), *view)[:, 0] for view in views])


def _networks(model: Model) -> list[DensityNet]:
    return list(model.folded.members) if isinstance(model.folded, Averaged) else [model.folded]  # type: ignore[arg-type]


def _batches(reflectance: Array) -> Iterator[torch.Tensor]:
    """A few areas at a time, on one thread and without gradients."""
    with one_thread(), torch.inference_mode():
        for start in range(0, len(reflectance), _BATCH):
            yield torch.from_numpy(np.ascontiguousarray(reflectance[start : start + _BATCH], np.float32))
