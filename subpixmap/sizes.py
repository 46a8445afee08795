"""Sides of chunks and blocks, the same in all maps; not in `grid`, so that `--help` does not import numpy."""

from __future__ import annotations

CHUNK = 256
"""Side of an inner chunk, pixels. A block is a whole number of chunks."""
BLOCK = 1024
"""Default side of a block, pixels: suits CPUs; use 4096 on a GPU."""
