"""The fine scene of a place: fractions of ground cover at 5 m and cover of crowns at 2.5 m, before any sensor.

In: a landscape, its trees and a frame of pixels. Out: `GroundLayers` (static) and `Canopy` (of one year).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.simulate.landcover import BUILT, FOREST, MANGROVE, PARCEL, SHRUBLAND, USE, WATER, Landscape
from subpixmap.simulate.noise import FloatArray, fractal, uniform
from subpixmap.simulate.placement import KIND, Bounds, Lots, Trees
from subpixmap.simulate.spectra import CROWNS, GROUND

PIXEL = 10.0
FINE = 2.5
"""Cells of crown cover, metres; crowns are drawn at half of it and averaged."""
COARSE = 5.0
"""Cells of ground cover, metres."""
MARGIN = 8
"""Pixels around a frame that are rendered for the point spread, shadows and registration errors."""

Move = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Frame:
    """A rectangle of 10 m pixels to render; west and north lie on the 20 m lattice."""

    west: float
    """Metres in the coordinates of the image."""
    north: float
    width: int
    """Pixels; even."""
    height: int
    """Pixels; even."""
    to_landscape: Move
    """(x, y) of the image -> metres from the landscape's origin."""
    to_image: Move
    """The inverse."""

    def __post_init__(self) -> None:
        if self.west % 20 or self.north % 20 or self.width % 2 or self.height % 2:
            raise ValueError(f"the frame is not on the 20 m lattice: {self.west}, {self.north}, {self.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.height, self.width

    def cells(self, step: float) -> tuple[int, int]:
        """Rows and columns of cells of `step` metres, margin included."""
        per = int(PIXEL / step)
        return (self.height + 2 * MARGIN) * per, (self.width + 2 * MARGIN) * per

    def centres(self, step: float) -> tuple[FloatArray, FloatArray]:
        """Landscape coordinates (rows, columns) of cell centres, margin included."""
        rows, cols = self.cells(step)
        x = self.west - MARGIN * PIXEL + (np.arange(cols) + 0.5) * step
        y = self.north + MARGIN * PIXEL - (np.arange(rows) + 0.5) * step
        xx, yy = np.meshgrid(x, y)
        return self.to_landscape(xx, yy)

    def bounds(self) -> Bounds:
        """Landscape bounds, margin included."""
        x, y = self.centres(PIXEL)
        return float(x.min()) - 10, float(y.min()) - 10, float(x.max()) + 10, float(y.max()) + 10

    def cell_of(self, x: FloatArray, y: FloatArray, step: float) -> tuple[FloatArray, FloatArray]:
        """(column, row) of landscape places, in cells and fractions, margin included."""
        east, north = self.to_image(x, y)
        return (east - self.west) / step + MARGIN * PIXEL / step, (self.north - north) / step + MARGIN * PIXEL / step


@dataclass(frozen=True)
class GroundLayers:
    """Fractions of the ground covers, texture included: (len(GROUND), rows, columns) at `COARSE`."""

    layers: NDArray[np.float32]


def lay_ground(landscape: Landscape, frame: Frame) -> GroundLayers:
    """Fractions of ground covers; texture enters as a mixture of covers and as brightness."""
    x, y = frame.centres(COARSE)
    parcels = landscape.parcels(frame.bounds())
    cover, parcel = landscape.cover(x, y, parcels)
    seed = landscape.seed * 97
    fine = fractal(x, y, seed=seed + 31, scale=14, octaves=1)
    middle = fractal(x, y, seed=seed + 32, scale=90, octaves=3)
    shares = _parcel_shares(landscape, parcels.row, parcels.col, parcels.use)
    place = np.where(cover < PARCEL, parcels.use.size + cover.astype(np.int32), parcel)
    table = np.concatenate([shares, _natural_shares()]).astype(np.float32)
    layers = np.ascontiguousarray(np.moveaxis(table[place], -1, 0))
    _town(layers, cover == BUILT, fine, fractal(x, y, seed=seed + 33, scale=45, octaves=2))
    _patchy(layers, middle, fine)
    rough = np.full(PARCEL + 1, 0.06, np.float32)
    rough[[FOREST, MANGROVE, SHRUBLAND]] = 0.16, 0.08, 0.12
    rough[WATER] = 0.01
    amplitude = rough[cover]
    layers *= 1 + amplitude * (0.8 * fine + 0.5 * middle)
    np.maximum(layers, 0, out=layers)
    return GroundLayers(layers)


def _layer(name: str) -> int:
    return GROUND.index(name)


def _natural_shares() -> NDArray[np.float32]:
    """Ground shares of WATER, MANGROVE, FOREST, SHRUBLAND, BUILT."""
    shares = np.zeros((5, len(GROUND)), np.float32)
    for cover, mix in (
        (WATER, {"water": 1}), (MANGROVE, {"mangrove": 1}), (FOREST, {"forest": 0.92, "shrub": 0.08}),
        (SHRUBLAND, {"shrub": 0.65, "grass": 0.25, "bare": 0.10}), (BUILT, {"roof": 1.0}),
    ):  # fmt: skip
        for name, share in mix.items():
            shares[cover, _layer(name)] = share
    return shares


# Use -> (mean share of grass, shrub, bare, other ground), the rest is the cover named.
_UNDER = {
    "coconut": (0.52, 0.22, 0.16, "field_b"), "coconut_sparse": (0.45, 0.28, 0.12, "field_c"),
    "oil_palm": (0.62, 0.18, 0.20, "grass"), "olive": (0.22, 0.03, 0.75, "bare"),
    "field": (0.05, 0.0, 0.03, ""), "shrub": (0.25, 0.65, 0.10, "shrub"), "grass": (0.85, 0.05, 0.10, "grass"),
    "bare": (0.12, 0.03, 0.85, "bare"), "orchard": (0.65, 0.10, 0.25, "grass"), "nipa": (0.03, 0.05, 0.0, "nipa"),
    "fishpond": (0.06, 0.0, 0.04, "fishpond"), "parking": (0.05, 0.0, 0.04, "asphalt"),
}  # fmt: skip


def _parcel_shares(landscape: Landscape, row: int, col: int, use: NDArray[np.int8]) -> NDArray[np.float32]:
    """(parcels, ground) shares: understorey, crops and their spread between parcels."""
    rows, cols = use.shape
    j, i = np.meshgrid(np.arange(col, col + cols), np.arange(row, row + rows))
    draws = [uniform(j, i, landscape.seed, 20 + k).ravel() for k in range(4)]
    shares = np.zeros((use.size, len(GROUND)), np.float32)
    flat = use.ravel()
    fields_ = np.array([_layer("field_a"), _layer("field_b"), _layer("field_c")])
    for name, (grass, shrub, bare, rest) in _UNDER.items():
        at = np.flatnonzero(flat == USE[name])
        parts = np.array([grass, shrub, bare])[:, None] * (0.45 + 1.1 * np.array([d[at] for d in draws[:3]]))
        parts /= np.maximum(1, parts.sum(axis=0))
        shares[at, _layer("grass")], shares[at, _layer("shrub")], shares[at, _layer("bare")] = parts
        left = 1 - parts.sum(axis=0)
        layer = _layer(rest) if rest else fields_[(draws[3][at] * 3).astype(int)]
        shares[at, layer] += left
    return shares


def _town(
    layers: NDArray[np.float32], town: NDArray[np.bool_], fine: NDArray[np.float32], block: NDArray[np.float32]
) -> None:
    """Turn built-up ground into a mosaic of roofs, streets, gardens and bare yards, in place."""
    roof = np.clip(0.5 + 1.1 * fine, 0, 1) * np.clip(0.55 + 0.3 * block, 0.1, 0.9)
    street = (1 - roof) * np.clip(0.4 - 0.35 * block, 0.05, 0.9)
    garden = (1 - roof - street) * 0.6
    for name, share in (("roof", roof), ("asphalt", street), ("grass", garden), ("bare", 1 - roof - street - garden)):
        layer = layers[_layer(name)]
        layer[town] = share[town]


def _patchy(layers: NDArray[np.float32], middle: NDArray[np.float32], fine: NDArray[np.float32]) -> None:
    """Shift the balance of grass and bare ground within parcels, in place."""
    grass, bare = layers[_layer("grass")], layers[_layer("bare")]
    both = grass + bare
    shifted = np.clip(grass / np.maximum(both, 1e-6) + 0.16 * middle + 0.06 * fine, 0, 1)
    grass[...] = both * shifted
    bare[...] = both - grass


@dataclass(frozen=True)
class Canopy:
    """Crowns of one year at `FINE`; cover of all kinds sums to at most 1."""

    cover: NDArray[np.float32]
    """(rows, columns) share hidden by crowns."""
    lit: NDArray[np.float32]
    """(len(CROWNS), rows, columns) share of each kind's crowns times their own brightness."""
    tall: tuple[tuple[float, NDArray[np.float32]], ...]
    """(height in metres, (rows, columns) share under crowns of about that height): what casts shadows."""


# kind -> crown radius at maturity (m), years of growth (e-folding), opacity seen from above, height (m), years
_GROWTH = {
    "coconut": (3.75, 4.0, 0.68, 15.0, 16.0),
    "oil_palm": (4.5, 3.6, 0.86, 9.0, 12.0),
    "olive": (2.6, 6.0, 0.85, 4.5, 10.0),
    "other_palm": (2.6, 4.0, 0.75, 6.0, 8.0),
    "broadleaf": (3.9, 6.0, 0.92, 9.0, 12.0),
    "car": (1.61, 0.01, 1.0, 1.5, 0.01),
}
_HEIGHT_EDGES = (0.0, 3.0, 6.0, 10.0, 30.0)


def crown_radius(kind: NDArray[np.int8], age: NDArray[np.integer], size: FloatArray, scale: float) -> FloatArray:
    """Crown radius, metres; `age` in years, `size` relative, `scale` of the world."""
    mature, years = (np.array([_GROWTH[name][k] for name in CROWNS])[kind] for k in (0, 1))
    result: FloatArray = mature * size * scale * (1 - np.exp(-(age + 0.5) / years))
    return result


def crown_height(kind: NDArray[np.int8], age: NDArray[np.integer]) -> FloatArray:
    """Height of the crown above the ground, metres."""
    full, years = (np.array([_GROWTH[name][k] for name in CROWNS])[kind] for k in (3, 4))
    result: FloatArray = full * (1 - np.exp(-(age + 0.5) / years))
    return result


def grow_canopy(trees: Trees, frame: Frame, year: int, scale: float) -> Canopy:
    """Draw the crowns that stand in a year."""
    trees = trees[trees.standing(year)]
    age = trees.age(year)
    radius = crown_radius(trees.kind, age, trees.size, scale)
    height = crown_height(trees.kind, age)
    col, row = frame.cell_of(trees.x, trees.y, FINE / 2)
    shape = frame.cells(FINE / 2)
    opacity = np.array([_GROWTH[name][2] for name in CROWNS], np.float32)
    rows, cols = frame.cells(FINE)
    lit = np.zeros((len(CROWNS), rows, cols), np.float32)
    cover = np.zeros((rows, cols), np.float32)
    for kind in range(len(CROWNS)):
        at = trees.kind == kind
        if not at.any():
            continue
        full = draw_discs(col[at], row[at], radius[at] / (FINE / 2), None, shape)
        tinted = draw_discs(col[at], row[at], radius[at] / (FINE / 2), 1 + trees.tint[at], shape)
        one = np.minimum(full, 1)
        cover += halve(one) * opacity[kind]
        tinted *= one
        tinted /= np.maximum(full, np.float32(1e-6))
        lit[kind] = halve(tinted) * opacity[kind]
    excess = np.maximum(cover, 1)  # crowns of different kinds that overlap
    lit /= excess
    cover /= excess
    tall = []
    for low, high in itertools.pairwise(_HEIGHT_EDGES):
        at = (height >= low) & (height < high)
        if at.any():
            share = draw_discs(col[at], row[at], radius[at] / (FINE / 2), opacity[trees.kind[at]], shape)
            tall.append((float(0.8 * height[at].mean()), halve(np.minimum(share, 0.95))))
    return Canopy(cover, lit, tuple(tall))


def park_cars(lots: Lots, taken: NDArray[np.bool_], seed: int, scene: int, frame: Frame) -> Canopy | None:
    """Cars of one acquisition as a canopy of their own; None without cars."""
    if not taken.any():
        return None
    shape = frame.cells(FINE)
    col, row = frame.cell_of(lots.x[taken], lots.y[taken], FINE)
    radius = np.full(col.size, _GROWTH["car"][0] / FINE)
    colour = uniform(lots.lot[taken] + 65537 * scene, lots.lane[taken], seed, 74)
    # White and silver, grey, dark: most cars of a lot.
    tint = np.select([colour < 0.45, colour < 0.7], [2.6, 1.1], 0.38).astype(np.float32)
    cover = np.minimum(draw_discs(col, row, radius, None, shape), 1)
    if not cover.any():
        return None
    lit = np.zeros((len(CROWNS), *shape), np.float32)
    lit[KIND["car"]] = draw_discs(col, row, radius, tint, shape)
    return Canopy(cover, lit, ())


def draw_discs(
    col: FloatArray, row: FloatArray, radius: FloatArray, weight: NDArray[np.float32] | None, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Sum of soft-edged discs; each adds exactly pi radius^2 times its weight, in cells.

    Parameters
    ----------
    col, row
        Centres in cells and fractions from the upper left corner.
    radius
        Cells.
    weight
        Factor of each disc; None is 1.
    shape
        (rows, columns) of the result; what lies outside is cut.
    """
    canvas = np.zeros(shape, np.float32)
    edges = (0.0, 1.0, 1.75, 2.5, 3.25, 4.25, np.inf)
    for low, high in itertools.pairwise(edges):
        group = np.flatnonzero((radius > low) & (radius <= high))
        for start in range(0, group.size, 20000):
            at = group[start : start + 20000]
            _stamp(canvas, col[at], row[at], radius[at], None if weight is None else weight[at])
    return canvas


def _stamp(
    canvas: NDArray[np.float32],
    col: FloatArray,
    row: FloatArray,
    radius: FloatArray,
    weight: NDArray[np.float32] | None,
) -> None:
    radius = np.maximum(radius, 0.25)  # so that every disc reaches a cell's centre; seedlings cover next to nothing
    half = int(np.ceil(radius.max() + 0.5))
    offsets = np.arange(-half, half + 1)
    base_col, base_row = np.floor(col).astype(np.int64), np.floor(row).astype(np.int64)
    dx2 = ((base_col - col + 0.5)[:, None] + offsets).astype(np.float32) ** 2
    dy2 = ((base_row - row + 0.5)[:, None] + offsets).astype(np.float32) ** 2
    share = np.sqrt(dy2[:, :, None] + dx2[:, None, :])
    np.subtract((radius + 0.5).astype(np.float32)[:, None, None], share, out=share)
    np.clip(share, 0, 1, out=share)
    area = np.pi * radius**2 * (1 if weight is None else weight)
    share *= (area / share.sum(axis=(1, 2), dtype=np.float64)).astype(np.float32)[:, None, None]
    rows, cols = canvas.shape
    pad = half + 1
    inside = (base_col >= pad) & (base_col < cols - pad) & (base_row >= pad) & (base_row < rows - pad)
    stencil = (offsets[:, None] * cols + offsets).ravel()
    at = (base_row[inside] * cols + base_col[inside])[:, None] + stencil
    np.add.at(canvas.reshape(-1), at.ravel(), share[inside].reshape(at.shape).ravel())


def halve(a: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of 2 x 2 cells."""
    result: NDArray[np.float32] = (a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) * np.float32(0.25)
    return result
