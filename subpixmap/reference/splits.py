"""Areas -> tiles, and tiles -> training, calibration and test, without leaks.

Whole areas where there are enough of them, else tiles of areas. Labelled pixels nearer to another split than the
receptive radius are not used, so that no pixel of one split is seen, even as context, by a pixel of another. All
acquisitions of a tile go with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from subpixmap.errors import InputError, VerificationFailed
from subpixmap.grid import Window, transformer
from subpixmap.reference.reference import USED, Area, Reference
from subpixmap.reference.supports import block_means

SPLITS = ("training", "calibration", "test")
_RANK = {"test": 0, "calibration": 1, "training": 2}
_ORDER = ("training", "test", "calibration", "training", "training")
_HECTARE = 10  # pixels
_DRAWS = 200
_LEAST_USED = 0.02  # of the pixels of a tile, for it to be cut out
_SIZES = (100, 60, 40)
"""Sides of tiles, pixels; the first that gives enough of them is taken."""
_LEAST_SIDE = 24  # of tiles around plots, pixels
_CELLS = (1000, 500, 250, 100, 50)  # sides of cells of plots, pixels
_NEAR = 100  # pixels; tiles farther apart never see the same
_ENOUGH = 9  # tiles with objects, to split within areas


@dataclass(frozen=True)
class AreaTile:
    """A square of an area's pixels: a place of the patches made of it."""

    area: Area
    window: Window
    unit: str
    """What is not split further: the area, or the tile itself."""
    split: str
    used: NDArray[np.bool_]
    """(y, x): labelled, and far enough from the edge and from other splits."""

    @property
    def count(self) -> NDArray[np.float32]:
        """(object, y, x) of the tile; nothing beyond the area's own window."""
        return cut(self.area.count, self.area.window, self.window)

    @property
    def is_plot(self) -> bool:
        """Whether the total of the area alone is known."""
        return self.area.share is not None

    @property
    def serves(self) -> bool:
        """Whether anything can be read from it; of a plot too near to another split nothing is left."""
        return not self.is_plot or bool(self.used.any())

    @property
    def share(self) -> NDArray[np.float32]:
        """(y, x): of each pixel, the share that the plot covers; zeros where there is none."""
        if self.area.share is None:
            return np.zeros(self.window.shape, np.float32)
        return cut(self.area.share, self.area.window, self.window)


def split_tiles(
    reference: Reference,
    *,
    halo: int,
    by: str = "auto",
    size: int | None = None,
    test: Sequence[str] = (),
    calibration: Sequence[str] = (),
    folds: int = 0,
    seed: int = 0,
) -> list[AreaTile]:
    """Cut a reference into tiles, each of one split.

    Parameters
    ----------
    reference
        With its areas.
    halo
        Receptive radius, pixels: the width of the buffer on both sides of a border between splits.
    by
        "area", "tile", or "auto": whole areas if each split gets objects and land of every kind of them, else tiles.
    size
        Side of a tile, pixels; chosen by the size of the areas when not given.
    test, calibration
        Names of areas for these splits; others are for training. Drawn when neither is given.
    folds
        Above 0 no land is set aside for calibration: `in_folds` shares out that of the training.
    seed
        Of the draw.

    Raises
    ------
    InputError
        An unknown area, or too little labelled land for three splits that hold every object.
    """
    if by not in ("auto", "area", "tile"):
        raise InputError(f"--split-by {by!r} is unknown; choose auto, area or tile")
    named = {**dict.fromkeys(test, "test"), **dict.fromkeys(calibration, "calibration")}
    if unknown := set(named) - set(reference.names):
        raise InputError(f"no labelled area {', '.join(sorted(unknown))}; there are {', '.join(reference.names)}")
    if named and by == "tile":
        raise InputError("--split-by tile, but --test and --calibrate name whole areas: give the one or the others")
    if both := set(test) & set(calibration):
        raise InputError(f"area {', '.join(sorted(both))} cannot serve for test and for calibration")
    problems = []
    least, cell = _require_plots_fit(reference), 0 if named else _cell_side(reference.plots)
    sides = (
        sorted({max(side, least) for side in _SIZES}, reverse=True) if reference.labelled_areas else [_around(least)]
    )
    for unit in ("area", "tile") if by == "auto" and not named else ("area",) if named else (by,):
        for side in [max(size, least)] if size else sides:
            tiles = _require_some(_tiles(reference, side, unit, cell=cell), reference)
            splits = named or _draw(tiles, seed)
            if folds:
                splits = {unit: split for unit, split in splits.items() if split == "test"}
            tiles = _apart([_of_split(tile, splits.get(tile.unit, "training")) for tile in tiles], halo)
            problem = _lacking(tiles, reference, ("training", "test") if folds else SPLITS)
            whole = unit == "area" and not folds  # folds need tiles to share out
            if not problem and (whole or size or side == sides[-1] or _with_objects(tiles) >= _ENOUGH):
                require_apart(tiles, halo)
                return tiles
            problems.append(problem)
    raise InputError(
        f"too little labelled land for training, calibration and test: {next(filter(None, reversed(problems)))}; label "
        "more areas, name those for --test and --calibrate, or leave the object out with --object"
    )


def in_folds(tiles: Sequence[AreaTile], folds: int, *, halo: int) -> list[list[AreaTile]]:
    """The same land as many times: each time another part of it is for calibration, the rest for training.

    Parameters
    ----------
    tiles
        Of the training; their order stays.
    folds
        Parts, of about as many objects each: of whole units if there are as many, else of tiles.
    halo
        As in `split_tiles`: no input pixel serves both.

    Raises
    ------
    InputError
        There are fewer tiles with objects than parts.
    """
    keys = _keys(tiles, folds)
    objects: dict[str, float] = {}
    for key, tile in zip(keys, tiles, strict=True):
        objects[key] = objects.get(key, 0.0) + float((tile.count * tile.used).sum())
    if sum(number >= 1 for number in objects.values()) < folds:
        raise InputError(
            f"too little labelled land for {folds} parts that calibrate in turn: beside the test lie "
            f"{sum(number >= 1 for number in objects.values())} tiles with objects; label more, give a smaller --folds "
            "or --tile, or set land aside for calibration with --folds 0"
        )
    ranked = sorted(objects, key=lambda key: -objects[key])
    parts = {key: at % folds for at, key in enumerate(ranked)}
    return [
        _apart(
            [
                _of_split(t, "calibration" if parts[key] == k else "training")
                for key, t in zip(keys, tiles, strict=True)
            ],
            halo,
        )
        for k in range(folds)
    ]


def most_folds(tiles: Sequence[AreaTile], wanted: int) -> int:
    """As many folds as wanted, or as the tiles of the training allow; at least two."""
    return max(2, min(wanted, _with_objects([tile for tile in tiles if tile.split == "training"])))


def largest_plot(tiles: Sequence[AreaTile]) -> int:
    """Side of the largest plot, pixels; 0 without plots."""
    return max((max(tile.area.window.shape) for tile in tiles if tile.is_plot), default=0)


def all_tiles(reference: Reference, *, size: int | None = None) -> list[AreaTile]:
    """Every tile of a reference, of no split: for a model that was taught elsewhere; each area is a unit."""
    largest = max((max(area.window.shape) for area in reference.plots), default=0)
    usual = _SIZES[0] if reference.labelled_areas else min(_around(largest), _SIZES[0])
    side = max(size or usual, min(largest, _SIZES[0]))
    tiles = _require_some(_tiles(reference, side, "area"), reference)
    return [_of_split(tile, "test") for tile in tiles]


def require_apart(tiles: Sequence[AreaTile], halo: int) -> None:
    """Prove that no input pixel serves two splits.

    Raises
    ------
    VerificationFailed
        Names the area in which it does.
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
            raise VerificationFailed(f"area {area.name}: a pixel is seen by {' and by '.join(sorted(seen))}")


def cut(values: NDArray[Any], has: Window, want: Window) -> NDArray[Any]:
    """The part (..., y, x) of a window; zeros where `values` does not reach."""
    out = np.zeros((*values.shape[:-2], *want.shape), values.dtype)
    if (part := want.overlap(has)) is not None:
        out[..., *part.slices(want)] = values[..., *part.slices(has)]
    return out


def _require_plots_fit(reference: Reference) -> int:
    """Side of the largest plot, pixels; what does not fit into a tile cannot be learnt from."""
    sides = {area.name: max(area.window.shape) for area in reference.plots}
    if large := {name: side for name, side in sides.items() if side > _SIZES[0]}:
        first = next(iter(large))
        raise InputError(
            f"{len(large)} of {len(sides)} plots with totals are wider than the {_SIZES[0]} px that a network sees at "
            f"once (first: {first}, {large[first]} px): give totals of smaller units, or calibrate with these "
            "(subpixmap calibrate)"
        )
    return max(sides.values(), default=0)


def _around(largest: int) -> int:
    """Side of the tiles of plots, pixels: not much larger than these, as no more is known there."""
    return max(largest, _LEAST_SIDE)


def _cell_side(plots: Sequence[Area]) -> int:
    """Side of the cells, pixels, whose plots stay together: the largest that gives enough cells with objects.

    Neighbours that went to different splits would see each other's pixels, and could not be used.
    """
    for side in _CELLS:
        if len({_cell_of(area, side) for area in plots if area.count.any()}) >= _ENOUGH:
            return side
    return _CELLS[-1]


def _cell_of(area: Area, side: int) -> str:
    row, col = area.window.row + area.window.height // 2, area.window.col + area.window.width // 2
    return f"plots {area.lattice.epsg}/{row // side},{col // side}"


def _tiles(reference: Reference, size: int, unit: str, *, cell: int = 0) -> list[AreaTile]:
    """All tiles that hold used pixels; of no split yet. They begin at the corner of their area's window.

    A plot is in the middle of its tile, unless it is larger. Plots are units by `cell`, or else each by itself.
    """
    tiles = []
    for area in reference.areas:
        if area.share is not None and max(area.window.shape) <= size:
            tiles.append(_plot_tile(area, size, _cell_of(area, cell) if cell else area.name))
            continue
        used = area.labelled == USED
        rows, cols = np.flatnonzero(used.any(axis=1)), np.flatnonzero(used.any(axis=0))
        if not rows.size:
            continue
        top, left = area.window.row + int(rows[0]), area.window.col + int(cols[0])
        for row in range(top, area.window.row + int(rows[-1]) + 1, size):
            for col in range(left, area.window.col + int(cols[-1]) + 1, size):
                window = Window(row, col, size, size)
                inside = cut(used, area.window, window).astype(bool)
                if inside.mean() >= _LEAST_USED or (area.share is not None and inside.any()):
                    name = area.name if unit == "area" else f"{area.name}/{row - top},{col - left}"
                    tiles.append(AreaTile(area, window, name, "training", inside))
    return tiles


def _plot_tile(area: Area, size: int, unit: str) -> AreaTile:
    """A plot in the middle of a tile."""
    row, col = area.window.row - (size - area.window.height) // 2, area.window.col - (size - area.window.width) // 2
    window = Window(row, col, size, size)
    return AreaTile(area, window, unit, "training", cut(area.labelled == USED, area.window, window).astype(bool))


def _require_some(tiles: list[AreaTile], reference: Reference) -> list[AreaTile]:
    if not tiles:
        raise InputError(
            f"no labelled pixel of {', '.join(reference.names[:3])} is left inside the border strip of "
            f"{reference.border} px: label larger areas, or make the reference with a smaller --border"
        )
    return tiles


def _of_split(tile: AreaTile, split: str) -> AreaTile:
    return AreaTile(tile.area, tile.window, tile.unit, split, tile.used)


def _keys(tiles: Sequence[AreaTile], folds: int) -> list[str]:
    """What stays together in folds, by tile: its unit, if enough of them hold objects; else each tile is by itself."""
    units = {tile.unit for tile in tiles if float((tile.count * tile.used).sum()) >= 1}
    if len(units) >= folds:
        return [tile.unit for tile in tiles]
    return [f"{tile.area.key}/{tile.window.row},{tile.window.col}" for tile in tiles]


def _draw(tiles: Sequence[AreaTile], seed: int) -> dict[str, str]:
    """Unit -> split: of many draws of three to one to one, that which shares out every object and empty land best."""
    units = list(dict.fromkeys(tile.unit for tile in tiles))
    at = {unit: i for i, unit in enumerate(units)}
    holds = np.zeros((len(units), len(tiles[0].count) + 2))
    for tile in tiles:
        inside = (tile.count * tile.used).sum(axis=(1, 2))
        empty = (block_means(np.where(tile.used, tile.count.sum(axis=0), np.nan), _HECTARE)[0] == 0).sum()
        holds[at[tile.unit]] += [*inside, empty, tile.used.sum()]
    holds /= np.maximum(holds.sum(axis=0), 1e-9)
    rng = np.random.default_rng(seed)
    best, least = np.zeros(len(units), int), np.inf
    for _ in range(_DRAWS):
        drawn = np.resize([SPLITS.index(split) for split in _ORDER], len(units))[rng.permutation(len(units))]
        shares = np.array([holds[drawn == k].sum(axis=0) for k in range(len(SPLITS))])
        off = np.abs(shares - np.array([[0.6], [0.2], [0.2]])).sum() + (shares < 0.02).sum()
        if off < least:
            best, least = drawn, off
    return {unit: SPLITS[k] for unit, k in zip(units, best.tolist(), strict=True)}


def _apart(tiles: Sequence[AreaTile], halo: int) -> list[AreaTile]:
    """Training keeps clear of calibration and test, calibration of test, by twice the radius: both sides look out."""
    kept = []
    for tile in tiles:
        used = tile.used & ~_near_others(tile, tiles, halo)
        if tile.is_plot and (used != tile.used).any():
            used = np.zeros_like(used)  # of a part of a plot the total is not known
        kept.append(AreaTile(tile.area, tile.window, tile.unit, tile.split, used))
    return kept


def _near_others(tile: AreaTile, tiles: Sequence[AreaTile], halo: int) -> NDArray[np.bool_]:
    """Pixels of a tile whose context overlaps that of a used pixel of a split that goes before its own."""
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
        if other.area.lattice.epsg != lattice.epsg:  # the zones' pixels do not lie on each other
            near = ndimage.binary_dilation(near, np.ones((3, 3)))
    grown = ndimage.maximum_filter(near, size=4 * halo + 1)
    return np.asarray(grown[tile.window.slices(frame)])


def _close(tile: AreaTile, other: AreaTile) -> bool:
    """Whether two tiles may lie near one another: their areas do, and in one zone they do themselves."""
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


def _with_objects(tiles: Sequence[AreaTile]) -> int:
    return sum(1 for tile in tiles if float((tile.count * tile.used).sum()) >= 1)


def _lacking(tiles: Sequence[AreaTile], reference: Reference, wanted: Sequence[str]) -> str:
    """Why the splits do not serve; empty if they do."""
    none = np.zeros(len(reference.objects))
    totals = {
        split: sum(((t.count * t.used).sum(axis=(1, 2)) for t in tiles if t.split == split), none) for split in wanted
    }
    for split, counts in totals.items():
        for name, number in zip(reference.objects, counts, strict=True):
            if number < 1:
                return f"{split} holds no {name}"
    return ""
