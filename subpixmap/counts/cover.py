"""How units cover a block: whole tiles inside a unit, coverage fractions along the borders.

A `Cover` is made once per block (see `make_cover`) and used for every period and object. Most of a country lies inside
a unit: there, tiles of 32 px are summed as a whole, and only the rest is summed pixel by pixel. Pixels mapped beyond
the region (whole cells are mapped) belong to no row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.counts.fractions import Fractions
from subpixmap.grid import CHUNK, Window
from subpixmap.region.fractions import Array

TILE = 32
"""Side of a tile, pixels: what one unit alone covers is summed tile by tile, the rest pixel by pixel."""
TILES = (CHUNK // TILE) ** 2
"""Tiles of a chunk."""
NEAR = 1000.0
"""Metres from a unit within which what lies outside all units is counted apart: a coarse coastline cuts it off."""
EXTRA = 3
"""Rows after those of the units: outside all units within 1 km of one, outside and farther, and all of the region."""
_UNMAPPED = 255  # larger than every number of clear observations that has a bin
_SUMMED = {"b1": ("u1", "i8"), "i2": ("i4", "i8"), "u2": ("u4", "i8")}
"""Type of a layer -> those in which 32 of its values, and then a tile of them, are added up."""


@dataclass(frozen=True)
class Cover:
    """How units cover the chunks of a block. The `EXTRA` rows follow the units: near, far, and everything.

    Layers are stacks (chunk, 256, 256); pixels and tiles are numbered through the stack, row-major in each chunk.
    """

    n_units: int
    """Units and the extra rows."""
    n_cells: int
    """Cells of the ledger's grid in the block."""
    chunks: tuple[Window, ...]
    """The chunks that hold what the run computes: first those that hold anything near a unit, then the others."""
    n_near: int
    """How many these first ones are."""
    mapped: NDArray[np.bool_]
    """(chunk, 256, 256) pixels that the zone owns and the run computes."""
    area: Array
    """(n_units,) pixels that the zone owns, of the whole block."""
    whole_unit: NDArray[np.int64]
    """(k,) the unit that alone covers a tile."""
    whole_tile: NDArray[np.int64]
    """(k,) that tile."""
    border: Fractions
    """Everything else, mapped pixels only, cell by cell."""
    starts: NDArray[np.int64]
    """(s,) where in `border` a unit's part of a cell begins."""
    start_cell: NDArray[np.int64]
    """(s,) the cell of each part."""
    tile_cell: NDArray[np.int64]
    """(tile,) the cell that holds the tile."""

    def near(self) -> Cover:
        """The cover of only the first `n_near` chunks."""
        tiles = self.whole_tile < self.n_near * TILES
        parts = self.border.pixel[self.starts] < self.n_near * CHUNK**2
        lengths = np.diff(self.starts, append=len(self.border.pixel))
        pixels = np.repeat(parts, lengths)
        return replace(
            self,
            chunks=self.chunks[: self.n_near],
            mapped=self.mapped[: self.n_near],
            whole_unit=self.whole_unit[tiles],
            whole_tile=self.whole_tile[tiles],
            border=self.border.take(pixels),
            starts=np.cumsum(lengths[parts]) - lengths[parts],
            start_cell=self.start_cell[parts],
            tile_cell=self.tile_cell[: self.n_near * TILES],
        )

    def by_tile(self, layer: NDArray[Any]) -> NDArray[Any]:
        """(tile,) sums of a layer; integers stay integers."""
        # Over the rows first: long contiguous sums are several times faster than a sum over both axes at once.
        narrow, wide = _SUMMED.get(layer.dtype.str[1:], ("f8", "f8"))
        values = layer.view(np.uint8) if layer.dtype == bool else layer
        strips = np.add.reduce(values.reshape(-1, TILE, CHUNK), axis=1, dtype=narrow)
        sums: NDArray[Any] = strips.reshape(-1, CHUNK // TILE, TILE).sum(axis=2, dtype=wide).reshape(-1)
        return sums

    def sums(self, layer: NDArray[Any], by_tile: NDArray[Any] | None = None) -> Array:
        """(n_units, cell) sums of a layer without NaN that is zero wherever `mapped` is False.

        1. Sum whole tiles, which are most of a country.
        2. Weight the border pixels by the share covered by the unit, and add up each part of a cell.
        """
        # 1. A combined number of unit and cell allows one pass over the tiles.
        tiles = self.by_tile(layer) if by_tile is None else by_tile
        key = self.whole_unit * self.n_cells + self.tile_cell[self.whole_tile]
        summed = np.bincount(key, tiles[self.whole_tile], self.n_units * self.n_cells)
        sums: Array = summed.astype(np.float64, copy=False).reshape(self.n_units, self.n_cells)
        # 2. `add.reduceat` adds without a loop over units; each pair (unit, cell) begins once, so `+=` loses none.
        if self.starts.size:
            weights = layer.reshape(-1).take(self.border.pixel) * self.border.fraction
            sums[self.border.unit[self.starts], self.start_cell] += np.add.reduceat(weights, self.starts)
        return sums

    def whole_tiles_nearby(self) -> NDArray[np.int64]:
        """Tiles wholly inside the region and within 1 km of a unit.

        From the tiles of the whole region, drop those that are far as a whole or in any border pixel.
        """
        far, everything = (self.whole_tile[self.whole_unit == self.n_units - back] for back in (2, 1))
        pixel = self.border.pixel[self.border.unit == self.n_units - 2]
        row = pixel % CHUNK**2 // (CHUNK * TILE)
        partly = pixel // CHUNK**2 * TILES + row * (CHUNK // TILE) + pixel % CHUNK // TILE
        return np.setdiff1d(everything, np.append(far, partly))

    def histogram(self, values: NDArray[np.integer[Any]], bins: int) -> Array:
        """(n_units, bins) mapped pixels by value, in at most 255 bins; the last holds all larger values."""
        most = int(values.max(initial=0))
        small = (values if most < bins else np.minimum(values, bins - 1)).astype(np.uint8)
        key = self.border.unit * bins + small.reshape(-1).take(self.border.pixel)
        counts = np.bincount(key, self.border.fraction, self.n_units * bins).astype(np.float64, copy=False)
        counts = counts.reshape(self.n_units, bins)
        # Pixels of another zone may hold any number: they get a value without a bin.
        if self.whole_unit.size:
            small[~self.mapped] = _UNMAPPED
            for value in range(min(most + 1, bins)):
                tiles = self.by_tile(small == value)
                counts[:, value] += np.bincount(self.whole_unit, tiles[self.whole_tile], self.n_units)
        return counts
