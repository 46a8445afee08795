"""The sides of chunks and blocks, which every map shares; apart from `grid`, so that `--help` loads no numpy."""

from __future__ import annotations

CHUNK = 256
"""Side of an inner chunk, pixels. A block is a whole number of chunks."""
BLOCK = 1024
"""Side of a block where nothing else is asked for, pixels: right for CPUs; a GPU wants 4096."""
