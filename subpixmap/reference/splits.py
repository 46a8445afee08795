"""Splits labelled areas into tiles of training, calibration and test, without leaks.

Splits whole areas if there are enough of them, else tiles of areas. Labelled pixels near another split are not used
(see `tiles`), so that no input pixel is used by two splits. All acquisitions of a tile belong to its split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subpixmap.errors import InputError
from subpixmap.grid import Window
from subpixmap.reference.reference import USED, Area, Reference
from subpixmap.reference.supports import block_means
from subpixmap.reference.tiles import AreaTile, cut, keep_apart, of_split, require_apart

SPLITS = ("training", "calibration", "test")
_ORDER = ("training", "test", "calibration", "training", "training")
_HECTARE = 10  # pixels
_DRAWS = 200
_LEAST_USED = 0.02  # of the pixels of a tile, for it to be cut out
_SIZES = (100, 60, 40)
"""Sides of tiles, pixels; the first one with enough tiles is used."""
_LEAST_SIDE = 24  # of tiles around plots, pixels
_CELLS = (1000, 500, 250, 100, 50)  # sides of cells of plots, pixels
_ENOUGH = 9  # tiles with objects, to split within areas


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
    """Divide a reference into tiles, each of one split.

    1. Choose what is never divided: areas named by the user, else whole areas, else tiles from large to small.
    2. Cut the areas into tiles.
    3. Assign a split to every unit: by name, or by the best of many random draws.
    4. Drop labelled pixels whose context overlaps another split.
    5. Accept the first choice in which every split has every object; else go on with smaller units.

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
        raise InputError("--split-by tile, but --test and --calibrate name whole areas: leave out one or the other")
    if both := set(test) & set(calibration):
        raise InputError(f"area {', '.join(sorted(both))} is in --test and in --calibrate; leave it out of one")
    # 1. Large units first, because neighbours are similar: a test far from the training land is more honest.
    problems = []
    least, cell = _require_plots_fit(reference), 0 if named else _cell_side(reference.plots)
    sides = (
        sorted({max(side, least) for side in _SIZES}, reverse=True) if reference.labelled_areas else [_around(least)]
    )
    for unit in ("area", "tile") if by == "auto" and not named else ("area",) if named else (by,):
        for side in [max(size, least)] if size else sides:
            # 2. Large tiles first: they have fewer borders, at which labelled pixels are lost.
            tiles = _require_some(_tiles(reference, side, unit, cell=cell), reference)
            # 3. Random, but balanced: with few units, chance could leave a split without objects.
            splits = named or _draw(tiles, seed)
            if folds:
                splits = {unit: split for unit, split in splits.items() if split == "test"}
            # 4. After the draw, because only pixels near another split are lost.
            tiles = keep_apart([of_split(tile, splits.get(tile.unit, "training")) for tile in tiles], halo)
            # 5. A split without an object can neither calibrate nor test it.
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
    """The same tiles once per fold, each time with another part for calibration and the rest for training.

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
            f"too little labelled land for {folds} folds: outside the test land there are only "
            f"{sum(number >= 1 for number in objects.values())} tiles with objects; label more, use a smaller "
            "--folds or --tile, or set land aside for calibration with --folds 0"
        )
    ranked = sorted(objects, key=lambda key: -objects[key])
    parts = {key: at % folds for at, key in enumerate(ranked)}
    return [
        keep_apart(
            [of_split(t, "calibration" if parts[key] == k else "training") for key, t in zip(keys, tiles, strict=True)],
            halo,
        )
        for k in range(folds)
    ]


def most_folds(tiles: Sequence[AreaTile], wanted: int) -> int:
    """The number of folds: as wanted, or fewer if there are too few training tiles; at least two."""
    return max(2, min(wanted, _with_objects([tile for tile in tiles if tile.split == "training"])))


def largest_plot(tiles: Sequence[AreaTile]) -> int:
    """Side of the largest plot, pixels; 0 without plots."""
    return max((max(tile.area.window.shape) for tile in tiles if tile.is_plot), default=0)


def all_tiles(reference: Reference, *, size: int | None = None) -> list[AreaTile]:
    """All tiles of a reference, for a model trained elsewhere; each area is a unit."""
    largest = max((max(area.window.shape) for area in reference.plots), default=0)
    usual = _SIZES[0] if reference.labelled_areas else min(_around(largest), _SIZES[0])
    side = max(size or usual, min(largest, _SIZES[0]))
    tiles = _require_some(_tiles(reference, side, "area"), reference)
    return [of_split(tile, "test") for tile in tiles]


def _require_plots_fit(reference: Reference) -> int:
    """Side of the largest plot, pixels; refuses plots larger than a tile."""
    sides = {area.name: max(area.window.shape) for area in reference.plots}
    if large := {name: side for name, side in sides.items() if side > _SIZES[0]}:
        first = next(iter(large))
        raise InputError(
            f"{len(large)} of {len(sides)} plots with totals are wider than {_SIZES[0]} px, the largest training "
            f"patch (first: {first}, {large[first]} px): give totals of smaller plots, or use these to calibrate "
            "(subpixmap calibrate)"
        )
    return max(sides.values(), default=0)


def _around(largest: int) -> int:
    """Side of the tiles of plots, pixels: little larger than the plots."""
    return max(largest, _LEAST_SIDE)


def _cell_side(plots: Sequence[Area]) -> int:
    """Side of the cells of plots that stay together, pixels: the largest with enough cells with objects.

    Neighbouring plots in different splits would share context pixels and could not be used.
    """
    for side in _CELLS:
        if len({_cell_of(area, side) for area in plots if area.count.any()}) >= _ENOUGH:
            return side
    return _CELLS[-1]


def _cell_of(area: Area, side: int) -> str:
    row, col = area.window.row + area.window.height // 2, area.window.col + area.window.width // 2
    return f"plots {area.lattice.epsg}/{row // side},{col // side}"


def _tiles(reference: Reference, size: int, unit: str, *, cell: int = 0) -> list[AreaTile]:
    """All tiles with used pixels, without a split yet. They start at the corner of their area's window.

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
            f"no labelled pixel of {', '.join(reference.names[:3])} is left after removing the border strip of "
            f"{reference.border} px: label larger areas, or make the reference with a smaller --border"
        )
    return tiles


def _keys(tiles: Sequence[AreaTile], folds: int) -> list[str]:
    """The group of each tile in folds: its unit, if enough units have objects; else the tile itself."""
    units = {tile.unit for tile in tiles if float((tile.count * tile.used).sum()) >= 1}
    if len(units) >= folds:
        return [tile.unit for tile in tiles]
    return [f"{tile.area.key}/{tile.window.row},{tile.window.col}" for tile in tiles]


def _draw(tiles: Sequence[AreaTile], seed: int) -> dict[str, str]:
    """Unit -> split: the best balanced of many random draws (3 : 1 : 1), by objects and empty land."""
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


def _with_objects(tiles: Sequence[AreaTile]) -> int:
    return sum(1 for tile in tiles if float((tile.count * tile.used).sum()) >= 1)


def _lacking(tiles: Sequence[AreaTile], reference: Reference, wanted: Sequence[str]) -> str:
    """The reason why the splits cannot be used; empty if they can."""
    none = np.zeros(len(reference.objects))
    totals = {
        split: sum(((t.count * t.used).sum(axis=(1, 2)) for t in tiles if t.split == split), none) for split in wanted
    }
    for split, counts in totals.items():
        for name, number in zip(reference.objects, counts, strict=True):
            if number < 1:
                return f"the {split} land has no {name}"
    return ""
