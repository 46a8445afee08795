"""Resolves a name, a box or a file to the region to map and its units."""
