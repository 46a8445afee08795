"""Catalogues -> pixels: search, lock, decide the offset, choose, read, mask."""
