"""A raster of land cover -> the cover of every pixel of patches, by the class at its centre."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from subpixmap.errors import InputError
from subpixmap.reference.patches import Patches
from subpixmap.reference.tiles import AreaTile
from subpixmap.scenes.hrefs import DRIVERS, require_own_overviews

WORLDCOVER = {
    10: "tree cover",
    20: "shrubland",
    30: "grassland",
    40: "cropland",
    50: "built-up",
    60: "bare",
    70: "snow and ice",
    80: "water",
    90: "herbaceous wetland",
    95: "mangrove",
    100: "moss and lichen",
}
"""Codes of ESA WorldCover; classes of other maps are named by their code."""
UNKNOWN = "not mapped"


def with_cover(patches: Patches, tiles: Sequence[AreaTile], path: str | Path) -> Patches:
    """Patches with the land cover of a raster; nearest class, no resampling of counts.

    Parameters
    ----------
    patches, tiles
        Of `read_sample`: a tile for each place, in the same order.
    path
        A GeoTIFF or JPEG 2000 with class codes up to 255 and a CRS, such as ESA WorldCover.

    Raises
    ------
    InputError
        The raster cannot be read, has no CRS, or does not reach the patches.
    """
    if not Path(path).is_file():
        raise InputError(f"--land-cover {path} does not exist")
    try:
        with _open(Path(path).resolve()) as raster:
            require_own_overviews(raster, str(path))
            if raster.crs is None:
                raise InputError(f"{path} has no coordinate reference system")
            codes = np.stack([_codes(raster, tile) for tile in tiles])
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{path} cannot be read as a raster of land cover (GeoTIFF or JPEG 2000): {error}") from error
    classes = np.unique(codes)
    if not classes.any():
        raise InputError(f"{path} does not cover the labelled areas; give another raster")
    names = tuple(UNKNOWN if code == 0 else WORLDCOVER.get(int(code), f"class {code}") for code in classes)
    return replace(patches, cover=np.searchsorted(classes, codes).astype(np.uint8), covers=names)


def _open(path: Path) -> rasterio.DatasetReader:
    """Open a GeoTIFF or JPEG 2000, whatever its name; no other driver of GDAL is tried."""
    first, *others = dict.fromkeys(DRIVERS.values())
    for driver in others:
        try:
            return rasterio.open(path, driver=driver)
        except rasterio.errors.RasterioIOError:
            continue
    return rasterio.open(path, driver=first)


def _codes(raster: rasterio.DatasetReader, tile: AreaTile) -> np.ndarray:
    """(y, x) class at the centre of every pixel of a tile; 0 where the raster has none."""
    lattice, window = tile.area.lattice, tile.window
    with WarpedVRT(
        raster,
        crs=f"EPSG:{lattice.epsg}",
        transform=lattice.transform(window),
        height=window.height,
        width=window.width,
        resampling=Resampling.nearest,
        nodata=0,
    ) as view:
        return np.asarray(view.read(1))
