"""Tiles of a reference + acquisitions over them -> patches, a set for each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError
from subpixmap.grid import Window
from subpixmap.reference.imagery import Scenes, Sky, see
from subpixmap.reference.patches import Patches
from subpixmap.reference.reference import Area, Reference
from subpixmap.reference.splits import Tile
from subpixmap.scenes.radiometry import MaskRule


@dataclass(frozen=True)
class Sample:
    """Patches of one split, and where their pixels come from."""

    patches: Patches
    tiles: tuple[Tile, ...]
    """Of the places, in their order: area by area."""
    days: tuple[date, ...]
    """Of the acquisitions, over all areas."""
    acquisitions: dict[str, tuple[str, ...]]
    """Area -> names of its acquisitions."""


def read_sample(
    reference: Reference,
    tiles: Sequence[Tile],
    sky: Sky,
    *,
    halo: int,
    max_scenes: int = 8,
    mask: MaskRule | None = None,
    when: Callable[[date], bool] = lambda day: True,
    progress: Callable[[int], None] = lambda areas: None,
) -> Sample:
    """Read patches under tiles.

    Parameters
    ----------
    reference, tiles
        From `split_tiles`; usually those of one split.
    sky
        From `find_sky`.
    halo
        Context of the network, pixels.
    max_scenes, mask, when
        As in `see`.
    progress
        Called with the number of areas that are read.

    Returns
    -------
    Sample
        All acquisitions of a tile are samples of one place. Areas seen less often than others are filled with
        acquisitions in which nothing is valid.
    """
    if not tiles:
        raise InputError("there are no tiles to read")
    groups: dict[str, list[Tile]] = {}
    for tile in tiles:
        groups.setdefault(tile.area.key, []).append(tile)
    seen: dict[str, tuple[Scenes, Window]] = {}
    for number, (key, group) in enumerate(groups.items(), 1):
        window = _around([tile.window for tile in group]).padded(halo)
        scenes = see(group[0].area, sky, window=window, max_scenes=max_scenes, mask=mask, when=when)
        seen[key] = scenes, window
        progress(number)
    most = max(len(scenes.acquisitions) for scenes, _ in seen.values())
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("reflectance", "valid", "count", "labelled")}
    ordered = tuple(tile for group in groups.values() for tile in group)
    for tile in ordered:
        scenes, window = seen[tile.area.key]
        wide, inner = tile.window.padded(halo).slices(window), tile.window.slices(window)
        columns["reflectance"].append(_filled(scenes.reflectance[:, :, *wide], most, np.nan))
        columns["valid"].append(_filled(scenes.valid[:, *inner], most, False))
        columns["count"].append(np.broadcast_to(tile.count, (most, *tile.count.shape)))
        columns["labelled"].append(tile.used)
    arrays: dict[str, Any] = {name: np.stack(parts) for name, parts in columns.items()}
    patches = Patches(
        **arrays,
        bands=sky.bands,
        objects=tuple(reference.objects),
        names=tuple(tile.unit for tile in ordered),
    )
    days = tuple(day for scenes, _ in seen.values() for day in scenes.days)
    names = {_name(groups[key][0].area): scenes.acquisitions for key, (scenes, _) in seen.items()}
    return Sample(patches, ordered, days, names)


def _around(windows: Sequence[Window]) -> Window:
    top, left = min(w.row for w in windows), min(w.col for w in windows)
    bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
    return Window(top, left, bottom - top, right - left)


def _filled(values: NDArray[Any], most: int, empty: float) -> NDArray[Any]:
    """The first axis filled up to a length."""
    missing = np.full((most - len(values), *values.shape[1:]), empty, values.dtype)
    return np.concatenate([values, missing])


def _name(area: Area) -> str:
    return f"{area.name} (EPSG:{area.lattice.epsg})"
