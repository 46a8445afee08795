"""A name, a box or a file -> the region to map and the units to count in."""

from subpixmap.region.resolve import Region, given_units, region_names, require_overlap, resolve_region
from subpixmap.region.units import read_units

__all__ = ["Region", "given_units", "read_units", "region_names", "require_overlap", "resolve_region"]
