"""A window of a lattice, and periods -> the attributes and times by which other programs find a map in space and time.

Space is said twice: by the conventions `proj` and `spatial` of GeoZarr (v0.1, attributes of the group, which hold for
the arrays in it), and by a CF grid mapping, which more programs read today. Time follows CF 1.11.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from subpixmap.grid import Lattice, Window
from subpixmap.periods import Period

CF = "CF-1.11"
TIME, TIME_BOUNDS = "time", "time_bnds"
TIME_UNITS = {"units": "seconds since 1970-01-01 00:00:00", "calendar": "standard"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UUIDS = {
    "proj": ("f17cb550-5864-4468-aeb7-f3180cfb622f", "Coordinate reference system information for geospatial data"),
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
}
"""Convention -> what identifies it in all its versions, and the description that its schema wants."""


def placed(lattice: Lattice, window: Window) -> dict[str, Any]:
    """Attributes of a Zarr group whose arrays end with (y, x) of the window.

    Source: https://github.com/zarr-conventions/proj and https://github.com/zarr-conventions/spatial, tag v0.1.
    """
    return {
        "zarr_conventions": [
            {
                "uuid": uuid,
                "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
                "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
                "name": name,
                "description": what,
            }
            for name, (uuid, what) in _UUIDS.items()
        ],
        "proj:code": f"EPSG:{lattice.epsg}",
        "proj:wkt2": pyproj.CRS.from_epsg(lattice.epsg).to_wkt(),
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(window.shape),
        "spatial:bbox": list(lattice.bounds(window)),
        "spatial:transform_type": "affine",
        "spatial:transform": list(lattice.transform(window))[:6],
        "spatial:registration": "pixel",
    }


def grid_mapping(lattice: Lattice, window: Window) -> dict[str, Any]:
    """Attributes of the CF grid mapping variable; `spatial_ref` and `GeoTransform` are for GDAL and rioxarray."""
    attributes: dict[str, Any] = pyproj.CRS.from_epsg(lattice.epsg).to_cf()
    corner = lattice.transform(window).to_gdal()
    return attributes | {"spatial_ref": attributes["crs_wkt"], "GeoTransform": " ".join(map(repr, corner))}


def times(periods: Iterable[Period]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Moment (period,) and bounds (period, 2) of each, in `TIME_UNITS`; the second bound is the first moment after."""
    periods = list(periods)
    moments = [_seconds(period.moment) for period in periods]
    bounds = [[_seconds(when) for when in period.bounds] for period in periods]
    return np.array(moments, np.int64), np.array(bounds, np.int64).reshape(-1, 2)


def time_coordinates(periods: Iterable[Period]) -> dict[str, tuple[Any, ...]]:
    """The same as xarray decodes it: coordinates `time` and `time_bnds` along `period`."""
    moments, bounds = (values.astype("datetime64[s]").astype("datetime64[ns]") for values in times(periods))
    written = {**TIME_UNITS, "dtype": "int64"}
    return {
        TIME: ("period", moments, {"bounds": TIME_BOUNDS}, written),
        TIME_BOUNDS: (("period", "bnds"), bounds, {}, written),
    }


def _seconds(when: datetime) -> int:
    return int((when - _EPOCH).total_seconds())
