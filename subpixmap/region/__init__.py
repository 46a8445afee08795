"""A name, a box or a file -> the region to map and the units to count in."""
