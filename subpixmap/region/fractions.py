"""Which share of which pixel a polygon covers (exactextract). Plain numpy in and out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from subpixmap.grid import Lattice, Window

Array = NDArray[np.float64]


def polygon_fractions(
    polygons: Sequence[BaseGeometry], lattice: Lattice, window: Window
) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """(pixel index in the window, fraction) of one polygon after the other, by exactextract; none of them is empty."""
    from exactextract import exact_extract
    from exactextract.feature import JSONFeatureSource
    from exactextract.raster import NumPyRasterSource

    if not polygons:
        return
    # The values are not looked at: a broadcast zero stands for the raster. No CRS is given, because exactextract only
    # warns when they differ; the polygon is in the lattice's CRS by contract. One call for all costs a third.
    raster = NumPyRasterSource(np.broadcast_to(np.uint8(0), window.shape), *_corners(lattice, window))
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(one)} for one in polygons]
    for part in exact_extract(raster, JSONFeatureSource(features), ["cell_id", "coverage"]):
        pixel = np.asarray(part["properties"]["cell_id"], np.int64)
        fraction = np.asarray(part["properties"]["coverage"], np.float64)
        order = np.argsort(pixel, kind="stable")
        yield pixel[order], fraction[order]


def _corners(lattice: Lattice, window: Window) -> tuple[float, float, float, float]:
    west, south, east, north = lattice.bounds(window)
    return west, south, east, north
