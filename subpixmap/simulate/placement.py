"""Trees and cars of a landscape, placed as the field does it, with the years in which they stand.

In: a `Landscape` and bounds. Out: `Trees` (each with the year of planting and of removal) and `Lots` (stalls of cars).
Every parcel draws from its own generator, so a place has the same trees whatever the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from subpixmap.simulate.landcover import BUILT, PARCEL, PARCEL_M, SHRUBLAND, USE, USES, Landscape, Parcels
from subpixmap.simulate.noise import FloatArray, fractal, uniform
from subpixmap.simulate.spectra import CROWNS

KIND = {name: code for code, name in enumerate(CROWNS)}
FIRST_YEAR, LAST_YEAR = 2012, 2040
"""The calendar of change; the years of a run only cut a piece out of it."""
STANDING = 9999
"""`removed` of a tree that is never removed."""

Bounds = tuple[float, float, float, float]
Rng = np.random.Generator


@dataclass(frozen=True)
class Trees:
    """Trees as columns of equal length."""

    x: FloatArray
    """Metres from the origin."""
    y: FloatArray
    kind: NDArray[np.int8]
    """Index into `CROWNS`."""
    planted: NDArray[np.int16]
    """Year."""
    removed: NDArray[np.int16]
    """First year in which it is gone (1 January), or `STANDING`."""
    size: NDArray[np.float32]
    """Crown radius relative to the kind's at the same age."""
    tint: NDArray[np.float32]
    """Relative deviation of the crown's reflectance."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, keep: NDArray[np.bool_ | np.integer]) -> Trees:
        return Trees(*(getattr(self, field.name)[keep] for field in fields(self)))

    def age(self, year: int) -> NDArray[np.int16]:
        """Age in whole years on 1 January."""
        result: NDArray[np.int16] = (year - self.planted).astype(np.int16)
        return result

    def standing(self, year: int) -> NDArray[np.bool_]:
        """Which of them stand in a year."""
        result: NDArray[np.bool_] = (self.planted <= year) & (self.removed > year)
        return result


@dataclass(frozen=True)
class Lots:
    """Stalls of parking lots as columns of equal length."""

    x: FloatArray
    y: FloatArray
    lot: NDArray[np.int32]
    """Number of the lot, a hash of its parcel."""
    row: NDArray[np.int32]
    """Parcel row and column, which name the lot."""
    col: NDArray[np.int32]
    lane: NDArray[np.int32]
    """Number of the stall within the lot."""

    def __getitem__(self, keep: NDArray[np.bool_]) -> Lots:
        return Lots(*(getattr(self, field.name)[keep] for field in fields(self)))


def place_trees(landscape: Landscape, bounds: Bounds) -> Trees:
    """All trees whose stem lies inside (west, south, east, north), metres from the origin, in a fixed order."""
    parcels = landscape.parcels(bounds)
    west, south, east, north = bounds
    parts, owners = [], []
    reach = 2.2 * PARCEL_M
    for flat in range(parcels.use.size):
        px, py = parcels.x.ravel()[flat], parcels.y.ravel()[flat]
        if not (west - reach < px < east + reach and south - reach < py < north + reach):
            continue
        part = _parcel_trees(landscape, parcels, flat)
        if part is not None:
            parts.append(part)
            owners.append(np.full(len(part), flat, np.int32))
    parts.append(_scattered_trees(landscape, bounds))
    owners.append(np.full(len(parts[-1]), -1, np.int32))
    trees = Trees(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Trees)))
    owner = np.concatenate(owners)
    inside = (trees.x >= west) & (trees.x < east) & (trees.y >= south) & (trees.y < north)
    trees, owner = trees[inside], owner[inside]
    cover, parcel = landscape.cover(trees.x, trees.y, parcels)
    keep = np.where(
        owner >= 0, (cover == PARCEL) & (parcel == owner), _allowed(landscape, trees, cover, parcel, parcels)
    )
    return _blown_down(landscape, trees[keep])


def _allowed(
    landscape: Landscape, trees: Trees, cover: NDArray[np.int8], parcel: NDArray[np.int32], parcels: Parcels
) -> NDArray[np.bool_]:
    """Thin the scattered trees to the density of the cover on which they stand."""
    per_ha = np.zeros((len(CROWNS), 6 + len(USES)), np.float32)
    per_ha[KIND["broadleaf"], [SHRUBLAND, BUILT]] = 35, 8
    per_ha[KIND["coconut"], [SHRUBLAND, BUILT]] = 1.5, 5
    per_ha[KIND["other_palm"], [SHRUBLAND, BUILT]] = 6, 3
    for use, broadleaf, coconut, palm in (
        ("field", 1.5, 1.0, 0.5), ("shrub", 22, 2.0, 4), ("grass", 4, 1.5, 1.5), ("bare", 0.5, 0, 0),
        ("coconut_sparse", 9, 0, 2), ("coconut", 2.5, 0, 0.5), ("fishpond", 0.5, 0.5, 0.5), ("nipa", 2, 1, 0),
    ):  # fmt: skip
        per_ha[[KIND["broadleaf"], KIND["coconut"], KIND["other_palm"]], 6 + USE[use]] = broadleaf, coconut, palm
    if "coconut" not in landscape.objects:
        per_ha[KIND["coconut"]] = 0
    place = np.where(cover == PARCEL, 6 + parcels.use.ravel()[parcel], cover)
    i, j = np.round(trees.x * 100).astype(np.int64), np.round(trees.y * 100).astype(np.int64)
    result: NDArray[np.bool_] = uniform(i, j, landscape.seed, 31) * _SCATTER_PER_HA < per_ha[trees.kind, place]
    return result


_SCATTER_PER_HA = 40.0
_SCATTER_CELL = 25.0


def _scattered_trees(landscape: Landscape, bounds: Bounds) -> Trees:
    """Candidates of lone trees: a fixed number per cell and kind, to be thinned by cover."""
    west, south, east, north = bounds
    columns, rows = np.meshgrid(
        np.arange(west // _SCATTER_CELL, east // _SCATTER_CELL + 1, dtype=np.int64),
        np.arange(south // _SCATTER_CELL, north // _SCATTER_CELL + 1, dtype=np.int64),
    )
    j, i, seed = columns.ravel(), rows.ravel(), landscape.seed
    number = _SCATTER_PER_HA * _SCATTER_CELL**2 / 1e4
    parts = []
    for kind in (KIND["broadleaf"], KIND["coconut"], KIND["other_palm"]):
        for slot in range(int(np.ceil(number))):
            salt = 1000 + 50 * kind + 10 * slot
            # The last slot is filled in the share of the cells that makes the mean right.
            here = uniform(j, i, seed, salt) < min(1.0, number - slot)
            a, b = j[here], i[here]
            x = (a + uniform(a, b, seed, salt + 1)) * _SCATTER_CELL
            y = (b + uniform(a, b, seed, salt + 2)) * _SCATTER_CELL
            age = uniform(a, b, seed, salt + 3) * (55 if kind == KIND["coconut"] else 40)
            parts.append(
                Trees(
                    x, y, np.full(x.size, kind, np.int8), (FIRST_YEAR - 4 - age).astype(np.int16),
                    np.full(x.size, STANDING, np.int16),
                    (0.65 + 0.7 * uniform(a, b, seed, salt + 4)).astype(np.float32)
                    if kind != KIND["coconut"] else (0.88 + 0.24 * uniform(a, b, seed, salt + 4)).astype(np.float32),
                    (0.2 * uniform(a, b, seed, salt + 5) - 0.1).astype(np.float32),
                )
            )  # fmt: skip
    return Trees(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Trees)))


@dataclass(frozen=True)
class Planting:
    """How one parcel is planted."""

    kind: int
    along: float
    """Distance within a row, metres."""
    across: float
    """Distance between rows, metres."""
    stagger: float
    """Shift of every second row, as a share of `along`."""
    jitter: float
    """Standard deviation of a stem's place, metres."""
    survival: float
    """Share of the places that carry a tree."""
    age_spread: float
    """Standard deviation of the age within the parcel, years."""


def _planting(use: int, rng: Rng, spacing: float) -> Planting | None:
    """Draw a planting for a use; None where nothing is planted."""
    name = USES[use]
    if name == "coconut":
        if rng.random() < 0.6:  # square, on a plantation
            d = rng.uniform(8.0, 10.0) * spacing
            return Planting(KIND["coconut"], d, d * rng.uniform(0.97, 1.05), 0, 0.4, rng.uniform(0.82, 0.97), 1.0)
        d = rng.uniform(8.2, 10.5) * spacing  # irregular
        return Planting(KIND["coconut"], d, d, 0.5, 1.6, rng.uniform(0.65, 0.92), 6.0)
    if name == "coconut_sparse":
        d = rng.uniform(10.0, 20.0) * spacing
        return Planting(KIND["coconut"], d, d, 0.5 * (rng.random() < 0.5), 2.5, rng.uniform(0.6, 0.95), 7.0)
    if name == "oil_palm":
        d = rng.uniform(8.7, 9.2) * spacing
        return Planting(KIND["oil_palm"], d, d * 3**0.5 / 2, 0.5, 0.25, rng.uniform(0.88, 0.99), 0.3)
    if name == "olive":
        return _olive_planting(rng, spacing)
    if name == "orchard":
        d = rng.uniform(6.0, 9.0)
        return Planting(KIND["broadleaf"], d, d, 0, 0.4, rng.uniform(0.75, 0.97), 2.0)
    return None


def _olive_planting(rng: Rng, spacing: float) -> Planting:
    way = rng.random()
    if way < 0.55:  # traditional, about 100 per hectare
        d = rng.uniform(9.2, 11.5) * spacing
        return Planting(KIND["olive"], d, d, 0, 0.4, rng.uniform(0.9, 0.99), 8.0)
    if way < 0.96:  # intensive
        return Planting(
            KIND["olive"], rng.uniform(4.5, 6.0) * spacing, rng.uniform(6.0, 7.2) * spacing, 0, 0.2,
            rng.uniform(0.92, 0.99), 0.5,
        )  # fmt: skip
    return Planting(  # hedgerow
        KIND["olive"], rng.uniform(1.8, 2.4) * spacing, rng.uniform(4.0, 4.8) * spacing, 0, 0.1,
        rng.uniform(0.94, 0.99), 0.3,
    )  # fmt: skip


_LIFE = {"coconut": 58.0, "coconut_sparse": 62.0, "oil_palm": 25.0, "olive": 80.0, "orchard": 40.0}
_FELLING = {"coconut": 0.015, "coconut_sparse": 0.012, "oil_palm": 0.0, "olive": 0.006, "orchard": 0.01}


def _parcel_trees(landscape: Landscape, parcels: Parcels, flat: int) -> Trees | None:
    """Every generation of trees of one parcel, before its borders are cut."""
    use = int(parcels.use.ravel()[flat])
    if USES[use] not in _LIFE:
        return None
    rows, cols = divmod(flat, parcels.shape[1])
    rng = _generator(landscape.seed, parcels.row + rows, parcels.col + cols)
    plan = _planting(use, rng, landscape.world.spacing)
    assert plan is not None
    x, y = _stems(plan, rng)
    name = USES[use]
    # The stand was planted between a lifetime before the calendar and a few years into it.
    start = int(FIRST_YEAR + 11 - rng.uniform(0, _LIFE[name] + 11))
    stand_size, stand_tint = np.exp(rng.normal(0, 0.05)), rng.normal(0, 0.03)
    generations = _generations(name, start, rng)
    parts = []
    for planted, removed in generations:
        n = x.size
        years = np.round(planted + rng.normal(0, plan.age_spread, n)).astype(np.int16)
        gone = np.full(n, removed, np.int16)
        dies = rng.random(n)  # single trees die at 0.4 % a year
        death = (planted + 3 + np.log(np.maximum(dies, 1e-9)) / np.log(1 - 0.004)).astype(np.int64)
        gone = np.where((death > FIRST_YEAR) & (death < gone), death, gone).astype(np.int16)
        keep = (rng.random(n) < plan.survival) & (death > FIRST_YEAR) & (gone > years)
        size = np.exp(rng.normal(0, 0.08, n)) * stand_size * _stand_crown(plan)
        tint = rng.normal(0, 0.06, n) + stand_tint
        near = rng.normal(0, plan.jitter, (2, n))
        parts.append(
            Trees(
                parcels.x.ravel()[flat] + x + near[0], parcels.y.ravel()[flat] + y + near[1],
                np.full(n, plan.kind, np.int8), years, gone, size.astype(np.float32), tint.astype(np.float32),
            )[keep]
        )  # fmt: skip
    return Trees(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Trees)))


def _stand_crown(plan: Planting) -> float:
    """Crowns stay smaller where trees stand closer than they would grow; olives are pruned to their row."""
    if plan.kind == KIND["olive"]:
        crown: float = min(1.0, 0.42 * np.sqrt(plan.along * plan.across) / 2.6 + 0.08)
        return crown
    return 1.0


def _generations(name: str, start: int, rng: Rng) -> list[tuple[int, int]]:
    """(planted, removed) of the stands that follow each other on a parcel within the calendar."""
    generations, planted = [], start
    while planted < LAST_YEAR:
        hazard = _FELLING[name]
        year = max(planted + 6, FIRST_YEAR + 1)
        if hazard == 0:
            removed = planted + int(rng.uniform(23, 28))
        else:
            removed = year + int(rng.geometric(hazard))
        removed = removed if removed < LAST_YEAR else STANDING
        if removed > FIRST_YEAR:
            generations.append((planted, removed))
        if removed == STANDING or (name != "oil_palm" and rng.random() < 0.4):
            break
        planted = removed + (1 if rng.random() < 0.7 else 2)
    return generations


def _stems(plan: Planting, rng: Rng) -> tuple[FloatArray, FloatArray]:
    """Stems of a stand around its parcel's seed: rows with random direction and phase."""
    reach = 1.25 * PARCEL_M
    angle = rng.uniform(0, np.pi)
    rows = np.arange(-reach, reach, plan.across) + rng.uniform(0, plan.across)
    places = np.arange(-reach, reach, plan.along) + rng.uniform(0, plan.along)
    along, across = np.meshgrid(places, rows)
    along = along + (np.arange(rows.size) % 2 * plan.stagger * plan.along)[:, None]
    u, v = along.ravel(), across.ravel()
    return u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)


def _generator(seed: int, row: int, col: int, *more: int) -> Rng:
    """A generator of a parcel's own."""
    return np.random.default_rng([seed, row + 2**20, col + 2**20, *more])


def _blown_down(landscape: Landscape, trees: Trees) -> Trees:
    """Fell what the storms of the calendar fell: every four years or so one crosses the landscape."""
    removed = trees.removed.copy()
    toll = np.array([0.65, 0.4, 0.05, 0.6, 0.5, 0.0], np.float32)  # by kind
    seed = landscape.seed
    for number in range(7):
        draw = uniform(np.arange(6), np.full(6, number), seed, 41)
        year = FIRST_YEAR + 1 + 4 * number + int(draw[0] * 3)
        angle, offset = np.pi * float(draw[1]), (float(draw[2]) - 0.5) * 3000
        across = trees.x * np.sin(angle) - trees.y * np.cos(angle) - offset
        wavy = across + 300 * fractal(trees.x, trees.y, seed=seed * 97 + 60 + number, scale=900, octaves=3)
        force = np.exp(-((wavy / 600.0) ** 2))
        i, j = np.round(trees.x * 100).astype(np.int64), np.round(trees.y * 100).astype(np.int64)
        falls = (uniform(i, j, seed, 50 + number) < toll[trees.kind] * force) & (trees.planted < year - 1)
        removed = np.where(falls, np.minimum(removed, year), removed).astype(np.int16)
    kept = Trees(trees.x, trees.y, trees.kind, trees.planted, removed, trees.size, trees.tint)
    return kept[removed > trees.planted]


def place_lots(landscape: Landscape, bounds: Bounds) -> Lots:
    """Stalls of all parking lots inside the bounds: rows of 2.5 x 5 m with an aisle of 6 m between pairs of rows."""
    parcels = landscape.parcels(bounds)
    columns: list[list[NDArray[np.generic]]] = []
    for flat in np.flatnonzero(parcels.use.ravel() == USE["parking"]):
        row, col = (int(v) for v in divmod(int(flat), parcels.shape[1]))
        row, col = row + parcels.row, col + parcels.col
        rng = _generator(landscape.seed, row, col)
        x, y = _stalls(rng)
        x, y = x + parcels.x.ravel()[flat], y + parcels.y.ravel()[flat]
        n = x.size
        number = row * 100003 + col
        columns.append([x, y, *(np.full(n, v, np.int32) for v in (number, row, col)), np.arange(n, dtype=np.int32)])
    if not columns:
        none = np.zeros(0, np.int32)
        return Lots(np.zeros(0), np.zeros(0), none, none, none, none)
    merged = [np.concatenate(c) for c in zip(*columns, strict=True)]
    west, south, east, north = bounds
    inside = (merged[0] >= west) & (merged[0] < east) & (merged[1] >= south) & (merged[1] < north)
    cover, parcel = landscape.cover(merged[0][inside], merged[1][inside], parcels)
    inside[inside] = (cover == PARCEL) & (parcels.use.ravel()[parcel] == USE["parking"])
    return Lots(*(c[inside] for c in merged))


def lot_size(rng: Rng) -> tuple[float, float, float]:
    """(half length, half depth, direction) of a lot, metres and radians; the first draws of a lot's generator."""
    return rng.uniform(35, 75), rng.uniform(30, 60), rng.uniform(0, np.pi)


def lot_direction(seed: int, row: int, col: int) -> float:
    """Direction of the rows of a lot, radians from east, counterclockwise."""
    return lot_size(_generator(seed, row, col))[2]


def _stalls(rng: Rng) -> tuple[FloatArray, FloatArray]:
    half_length, half_depth, angle = lot_size(rng)
    places = np.arange(-half_length + 1.25, half_length - 1.25, 2.5)
    pair = np.arange(-half_depth + 2.5, half_depth - 7.5, 16.0)
    rows = np.sort(np.concatenate([pair, pair + 5.0]))
    u, v = (a.ravel() for a in np.meshgrid(places, rows))
    u, v = u + rng.normal(0, 0.12, u.size), v + rng.normal(0, 0.25, v.size)
    return u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)


def parked(lots: Lots, seed: int, scene: int) -> NDArray[np.bool_]:
    """Which stalls are taken in an acquisition: each lot has a fill of its own, others on other dates."""
    habit = uniform(lots.row, lots.col, seed, 71)  # how full the lot is used to be
    today = uniform(lots.row + 7919 * scene, lots.col, seed, 72)
    fill = np.clip(0.15 + 0.85 * habit + 0.5 * (today - 0.5), 0.02, 0.98)
    result: NDArray[np.bool_] = uniform(lots.lot + 65537 * scene, lots.lane, seed, 73) < fill
    return result


def join_trees(parts: list[Trees]) -> Trees:
    """Put tables of trees one below the other."""
    return Trees(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Trees)))


def join_lots(parts: list[Lots]) -> Lots:
    """Put tables of stalls one below the other."""
    return Lots(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Lots)))
