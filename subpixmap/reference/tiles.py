"""Tiles of areas, and the rule that keeps training, calibration and test apart.

Each pixel of the network's output depends on all pixels within the receptive radius. Labelled pixels are dropped where
this context would overlap the context of another split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from subpixmap.errors import VerificationFailed
from subpixmap.grid import Window, transformer
from subpixmap.reference.reference import Area

_RANK = {"test": 0, "calibration": 1, "training": 2}
_NEAR = 100  # pixels; tiles farther apart never have common context


@dataclass(frozen=True)
class AreaTile:
    """A square of an area's pixels, the location of its training patches."""

    area: Area
    window: Window
    unit: str
    """The unit that is never divided between splits: the area, or the tile itself."""
    split: str
    used: NDArray[np.bool_]
    """(y, x): labelled, and far enough from the edge and from other splits."""

    @property
    def count(self) -> NDArray[np.float32]:
        """(object, y, x) of the tile; 0 outside the area's window."""
        return cut(self.area.count, self.area.window, self.window)

    @property
    def is_plot(self) -> bool:
        """Whether only the total of the area is known."""
        return self.area.share is not None

    @property
    def serves(self) -> bool:
        """Whether the tile has usable labels; a plot too near to another split has none."""
        return not self.is_plot or bool(self.used.any())

    @property
    def share(self) -> NDArray[np.float32]:
        """(y, x): share of each pixel covered by the plot; zeros without a plot."""
        if self.area.share is None:
            return np.zeros(self.window.shape, np.float32)
        return cut(self.area.share, self.area.window, self.window)


def of_split(tile: AreaTile, split: str) -> AreaTile:
    """The same tile in another split."""
    return AreaTile(tile.area, tile.window, tile.unit, split, tile.used)


def keep_apart(tiles: Sequence[AreaTile], halo: int) -> list[AreaTile]:
    """Drop labelled pixels of training near calibration and test, and of calibration near test.

    The distance is twice the receptive radius, because the context of both sides must not overlap.
    """
    kept = []
    for tile in tiles:
        used = tile.used & ~_near_others(tile, tiles, halo)
        if tile.is_plot and (used != tile.used).any():
            used = np.zeros_like(used)  # the total of a part of a plot is unknown
        kept.append(AreaTile(tile.area, tile.window, tile.unit, tile.split, used))
    return kept


def require_apart(tiles: Sequence[AreaTile], halo: int) -> None:
    """Check that no input pixel is used by two splits.

    Raises
    ------
    VerificationFailed
        A pixel is used by two splits; the message names the area.
    """
    for area in {tile.area.key: tile.area for tile in tiles}.values():
        frame = area.window.padded(max(tile.window.width for tile in tiles) + halo)
        seen: dict[str, NDArray[np.bool_]] = {}
        for tile in tiles:
            if tile.area.lattice == area.lattice and tile.window.overlap(frame) is not None:
                used = cut(tile.used, tile.window, frame).astype(bool)
                seen[tile.split] = seen.get(tile.split, np.zeros(frame.shape, bool)) | used
        context = [ndimage.maximum_filter(used, size=2 * halo + 1) for used in seen.values()]
        if (np.sum(context, axis=0) > 1).any():
            raise VerificationFailed(f"area {area.name}: a pixel is used by {' and by '.join(sorted(seen))}")


def cut(values: NDArray[Any], has: Window, want: Window) -> NDArray[Any]:
    """The values (..., y, x) of a window; zeros outside `values`."""
    out = np.zeros((*values.shape[:-2], *want.shape), values.dtype)
    if (part := want.overlap(has)) is not None:
        out[..., *part.slices(want)] = values[..., *part.slices(has)]
    return out


def _near_others(tile: AreaTile, tiles: Sequence[AreaTile], halo: int) -> NDArray[np.bool_]:
    """Pixels of a tile whose context overlaps that of a used pixel of a split with a higher priority."""
    lattice = tile.area.lattice
    frame = tile.window.padded(2 * halo + 2)
    west, south, east, north = lattice.bounds(frame)
    near = np.zeros(frame.shape, bool)
    for other in tiles:
        if _RANK[other.split] >= _RANK[tile.split] or not _close(tile, other):
            continue
        xx, yy = np.meshgrid(*other.area.lattice.coords(other.window))
        x, y = xx[other.used], yy[other.used]
        if other.area.lattice.epsg != lattice.epsg:
            x, y = _between(other.area.lattice.epsg, lattice.epsg, x, y)
        here = (x > west) & (x < east) & (y > south) & (y < north)
        rows, cols = ((north - y[here]) / lattice.resolution, (x[here] - west) / lattice.resolution)
        near[rows.astype(int), cols.astype(int)] = True
        if other.area.lattice.epsg != lattice.epsg:  # pixels of two zones are not aligned
            near = ndimage.binary_dilation(near, np.ones((3, 3)))
    grown = ndimage.maximum_filter(near, size=4 * halo + 1)
    return np.asarray(grown[tile.window.slices(frame)])


def _close(tile: AreaTile, other: AreaTile) -> bool:
    """Whether two tiles may be near each other: by their windows in one zone, else by their areas."""
    if tile.area.lattice.epsg == other.area.lattice.epsg:
        a, b = tile.window, other.window
        gap = max(abs(a.row - b.row), abs(a.col - b.col)) - max(a.height, b.height)
        return gap < max(a.height, b.height, _NEAR)
    one, two = shapely.box(*tile.area.bounds), shapely.box(*other.area.bounds)
    return bool(one.distance(two) < 0.1)


def _between(
    one: int, two: int, x: NDArray[np.floating], y: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    return transformer(4326, two).transform(*transformer(one, 4326).transform(x, y))
