"""Land cover of an endless procedural landscape: natural covers with fractal edges, and parcels with one use each.

In: a seed, a world, coordinates (metres from the landscape's origin). Out: a cover class and a parcel for any place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpixmap.simulate.noise import FloatArray, blocks, fractal, uniform
from subpixmap.simulate.worlds import World

WATER, MANGROVE, FOREST, SHRUBLAND, BUILT, PARCEL = range(6)
"""Cover classes; a place of class PARCEL has the use of its parcel."""

USES = (
    "coconut", "coconut_sparse", "oil_palm", "olive", "field", "shrub", "grass", "bare", "orchard", "nipa", "fishpond",
    "parking",
)  # fmt: skip
USE = {name: code for code, name in enumerate(USES)}
_OBJECT_OF_USE = {"coconut": "coconut", "coconut_sparse": "coconut", "oil_palm": "oil_palm", "olive": "olive"}

PARCEL_M = 200.0
"""Mean spacing of parcels, metres: about 4 ha each."""


@dataclass(frozen=True)
class Parcels:
    """A rectangle of parcels, one per cell of a jittered lattice; arrays are (rows, columns)."""

    row: int
    """Index of the first row."""
    col: int
    """Index of the first column."""
    x: FloatArray
    """Seed of each parcel, metres."""
    y: FloatArray
    use: NDArray[np.int8]
    """Index into `USES`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.x.shape
        return rows, cols


@dataclass(frozen=True)
class Landscape:
    """An endless landscape; everything in it follows from the seed and the world."""

    seed: int
    world: World
    objects: tuple[str, ...]
    """Objects that exist; parcels of others are given to fields, shrub and orchards."""

    def parcels(self, bounds: tuple[float, float, float, float], margin: float = 600.0) -> Parcels:
        """All parcels that can reach into (west, south, east, north), metres from the origin."""
        west, south, east, north = bounds
        col, row = int((west - margin) // PARCEL_M), int((south - margin) // PARCEL_M)
        cols = int((east + margin) // PARCEL_M) - col + 1
        rows = int((north + margin) // PARCEL_M) - row + 1
        j, i = np.meshgrid(np.arange(col, col + cols), np.arange(row, row + rows))
        x = (j + 0.15 + 0.7 * uniform(j, i, self.seed, 1)) * PARCEL_M
        y = (i + 0.15 + 0.7 * uniform(j, i, self.seed, 2)) * PARCEL_M
        return Parcels(row, col, x, y, self._uses(i, j, x, y))

    def _uses(self, i: NDArray[np.integer], j: NDArray[np.integer], x: FloatArray, y: FloatArray) -> NDArray[np.int8]:
        """Draw the use of each parcel; neighbours tend to agree because affinities vary slowly."""
        weights = []
        for code, name in enumerate(USES[:10]):
            affinity = fractal(x, y, seed=self.seed * 97 + code, scale=1400, octaves=3)
            weights.append(self.world.use_share[name] * np.exp(0.8 * affinity))
        edges = np.cumsum(weights, axis=0)
        draw = uniform(j, i, self.seed, 3) * edges[-1]
        use: NDArray[np.int8] = (draw >= edges).sum(axis=0).astype(np.int8)
        for name, needs in _OBJECT_OF_USE.items():
            if needs not in self.objects:
                instead = np.take([USE[n] for n in ("field", "shrub", "grass", "orchard")], _quarter(i, j, self.seed))
                use = np.where(use == USE[name], instead, use).astype(np.int8)
        height, urban = self._height(x, y), self._urban(x, y)
        use[(height < -1.05) & (uniform(j, i, self.seed, 5) < 0.7)] = USE["fishpond"]
        if "car" in self.objects:
            lot = (urban > self.world.urban_above + 0.05) & (uniform(j, i, self.seed, 6) < self.world.parking_share)
            use[lot] = USE["parking"]
        return use

    def _height(self, x: FloatArray, y: FloatArray) -> NDArray[np.float32]:
        return fractal(x, y, seed=self.seed * 97 + 21, scale=2600, octaves=6, gain=0.5)

    def _urban(self, x: FloatArray, y: FloatArray) -> NDArray[np.float32]:
        return fractal(x, y, seed=self.seed * 97 + 22, scale=1500, octaves=4)

    def cover(self, x: FloatArray, y: FloatArray, parcels: Parcels) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        """Cover class and parcel (flat index into `parcels`) of places.

        Parameters
        ----------
        x, y
            Metres from the origin, equal shapes, inside the bounds for which `parcels` was made.

        Returns
        -------
        cover : int8 array
        parcel : int32 array
        """
        cover, parcel = np.empty(np.shape(x), np.int8), np.empty(np.shape(x), np.int32)
        flat_cover, flat_parcel, flat_x, flat_y = cover.reshape(-1), parcel.reshape(-1), np.ravel(x), np.ravel(y)
        for part in blocks(cover.size):
            flat_cover[part], flat_parcel[part] = self._cover(flat_x[part], flat_y[part], parcels)
        return cover, parcel

    def _cover(self, x: FloatArray, y: FloatArray, parcels: Parcels) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
        world = self.world
        height, urban = self._height(x, y), self._urban(x, y)
        wild = fractal(x, y, seed=self.seed * 97 + 23, scale=1800, octaves=5)
        cover = np.full(np.shape(x), PARCEL, np.int8)
        cover[wild > world.wild_above - 0.18] = SHRUBLAND
        cover[wild > world.wild_above] = FOREST
        cover[urban > world.urban_above] = BUILT
        cover[height < -1.22] = MANGROVE
        cover[height < -1.45] = WATER
        parcel = self.parcel(x, y, parcels)
        # A parking lot is a parcel inside the town; its rectangle is cut out when the ground is laid.
        cover[(parcels.use.ravel()[parcel] == USE["parking"]) & (cover == BUILT)] = PARCEL
        cover[(parcels.use.ravel()[parcel] == USE["fishpond"]) & (cover == MANGROVE)] = PARCEL
        return cover, parcel

    def parcel(self, x: FloatArray, y: FloatArray, parcels: Parcels) -> NDArray[np.int32]:
        """Flat index of the parcel that holds each place: the nearest seed, with wavering borders."""
        wx = x + 9 * fractal(x, y, seed=self.seed * 97 + 24, scale=170, octaves=3)
        wy = y + 9 * fractal(x, y, seed=self.seed * 97 + 25, scale=170, octaves=3)
        rows, cols = parcels.shape
        j = np.clip((wx // PARCEL_M).astype(np.int32) - parcels.col, 1, cols - 2)
        i = np.clip((wy // PARCEL_M).astype(np.int32) - parcels.row, 1, rows - 2)
        sx, sy = parcels.x.ravel().astype(np.float32), parcels.y.ravel().astype(np.float32)
        best = np.full(np.shape(x), np.inf, np.float32)
        chosen = np.zeros(np.shape(x), np.int32)
        wx, wy = wx.astype(np.float32), wy.astype(np.float32)
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                at = (i + di) * cols + (j + dj)
                distance = (sx[at] - wx) ** 2 + (sy[at] - wy) ** 2
                nearer = distance < best
                best = np.where(nearer, distance, best)
                chosen = np.where(nearer, at, chosen)
        return chosen.astype(np.int32)


def _quarter(i: NDArray[np.integer], j: NDArray[np.integer], seed: int) -> NDArray[np.int8]:
    return (uniform(j, i, seed, 4) * 4).astype(np.int8)
