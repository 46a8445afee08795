"""The pixel lattice of each UTM zone from locked items, and the position of each raster on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from affine import Affine

from subpixmap.errors import several_problems
from subpixmap.grid import Lattice
from subpixmap.scenes.dialect import PIXEL_M
from subpixmap.scenes.items import Asset, Item

_TILE_STEP = 60.0  # metres; corners of Sentinel-2 tiles are multiples of this


def lattices(items: Iterable[Item], resolution: float = 10.0) -> dict[int, Lattice]:
    """The lattice of each UTM zone, its phase read from the items' transforms.

    All Sentinel-2 tiles of a zone lie on one lattice of 60 m, and so of 10 and 20 m. Overviews of 120 m and more of two
    tiles may be 60 m apart; they are accepted (see `snap`). Any other shift is refused.

    Raises
    ------
    InputError
        Pixels of some items do not fit the lattice that most items of the zone share, or `resolution` is not a whole
        fraction of theirs; the message names the items.
    """
    zones: dict[int, dict[Lattice, set[str]]] = {}
    by_transform: dict[tuple[Any, ...], Lattice] = {}  # only a few: the items of a tile share them
    problems = []
    for item in items:
        for band, asset in item.assets.items():
            ratio = asset.resolution / resolution
            if ratio < 1 or abs(ratio - round(ratio)) > 1e-9:
                problems.append(
                    f"item {item.id}, asset {band}: pixels of {asset.resolution:g} m do not fit a grid of "
                    f"{resolution:g} m; choose a --resolution that divides it"
                )
            grid = item.epsg, asset.transform
            if (lattice := by_transform.get(grid)) is None:
                lattice = by_transform[grid] = Lattice.of_transform(item.epsg, Affine(*asset.transform), resolution)
            zones.setdefault(item.epsg, {}).setdefault(lattice, set()).add(item.id)
    if problems:
        raise several_problems(problems)
    chosen = {}
    for epsg, names in sorted(zones.items()):
        common = max(names, key=lambda one: (len(names[one]), -one.x_phase, -one.y_phase))
        alike = [one for one in names if _tile_steps_apart(one, common)]
        apart = sorted(set().union(*(names[one] for one in names if one not in alike)))
        if apart:
            phase = f"(phase {common.x_phase:g}, {common.y_phase:g} m at {resolution:g} m)"
            raise several_problems(
                [
                    f"item {n} is not aligned with the pixel grid of EPSG:{epsg} that most items share {phase}"
                    for n in apart
                ]
            )
        chosen[epsg] = min(alike, key=lambda one: (one.x_phase, one.y_phase))
    return chosen


def largest_pixels(items: Iterable[Item], bands: Sequence[str]) -> dict[str, float]:
    """The largest pixel size of each band in any item, metres."""
    sizes: dict[str, float] = {}
    for item in items:
        for band in bands:
            if band in item.assets:
                sizes[band] = max(sizes.get(band, 0.0), item.assets[band].resolution)
    return sizes


def coarse_bands(largest: Mapping[str, float], resolution: float) -> dict[str, float]:
    """Bands whose pixels are larger than the sensor's own and than `resolution`, such as overviews; metres by band.

    They are repeated to fill the lattice, so the network would see texture that does not exist.
    """
    return {b: size for b, size in largest.items() if size > max(PIXEL_M[b], resolution) * (1 + 1e-9)}


def _tile_steps_apart(one: Lattice, other: Lattice) -> bool:
    """Whether two lattices of a zone differ by whole steps of the tile grid."""
    shifts = one.x_phase - other.x_phase, one.y_phase - other.y_phase
    return all(shift % _TILE_STEP == 0 for shift in shifts)


def snap(asset: Asset, lattice: Lattice) -> Asset:
    """The asset with its corner on a pixel corner of the lattice.

    An asset on the lattice stays as it is. Otherwise it moves by at most half a lattice pixel: each lattice pixel takes
    the asset's pixel that holds its centre, on a tie the one to the south and east, as GDAL's nearest neighbour does.
    """
    a, b, c, d, e, f = asset.transform
    step = lattice.resolution
    west = lattice.x_phase + step * math.ceil((c - lattice.x_phase) / step - 0.5)
    north = lattice.top - step * math.ceil((lattice.top - f) / step - 0.5)
    return replace(asset, transform=(a, b, west, d, e, north))
