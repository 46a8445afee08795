"""Tables of units -> pictures of units: number per hectare by period, change, error; and names that fit.

In: counts, trends and estimates by unit, and the display pixels of each unit. Out: layers as `map_section` shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from matplotlib.colors import ListedColormap, to_hex
from numpy.typing import NDArray

from subpixmap.region.vector import without_shape
from subpixmap.report.colours import CHANGE, DENSITY, ERRORS
from subpixmap.report.contents import Contents
from subpixmap.report.downsample import Layers
from subpixmap.report.estimates_section import ERROR_BANDS, EstimatesSection, estimates_section
from subpixmap.report.figures import nice_limit
from subpixmap.report.html_images import png_uri
from subpixmap.report.legends import Layer, gradient, ticks

if TYPE_CHECKING:
    import geopandas as gpd

MAX_LABELS = 2000
FRAME = 500
"""Width of a map on a screen, in which names are placed."""
_CHARACTER, _LINE = 7.0, 14.0  # width and height of a letter there
_ZOOMS = (1, 2, 4, 8, 16)


def unit_raster(units: gpd.GeoDataFrame, lowest: Sequence[str], layers: Layers) -> tuple[NDArray[np.intp], list[str]]:
    """(y, x) position in the returned list of the unit that holds a display pixel's centre; -1 where there is none."""
    from rasterio.features import rasterize

    wanted = units[units.unit_id.isin(lowest) & ~without_shape(units.geometry)]
    shapes = [(layers.grid.to_pixels(shape), i + 1) for i, shape in enumerate(wanted.geometry)]
    if not shapes:
        return np.full(layers.grid.shape, -1, np.intp), []
    found = rasterize(shapes, layers.grid.shape, transform=Affine.identity(), dtype="int32")
    return found.astype(np.intp) - 1, wanted.unit_id.astype(str).tolist()


def unit_layers(
    contents: Contents, name: str, periods: Sequence[str], raster: NDArray[np.intp], units: Sequence[str]
) -> list[Layer]:
    """Layers of one object: number per hectare, change where there are several periods, error where it was estimated.

    Parameters
    ----------
    periods
        Of the first layer's pictures.
    raster, units
        As `unit_raster` returns them.
    """
    if not units:
        return []
    found = [_density(contents, name, periods, raster, units)]
    if len(contents.periods) > 1 and contents.trend is not None and contents.model.measures[name] == "count":
        found.append(_change(contents, name, raster, units))
    estimates = estimates_section(contents.estimates, contents.sample, name)
    if estimates is not None and estimates.bands:
        found.append(_error(estimates, raster, units))
    return found


def _density(
    contents: Contents, name: str, periods: Sequence[str], raster: NDArray[np.intp], units: Sequence[str]
) -> Layer:
    counts = contents.counts[(contents.counts.object == name) & contents.counts.unit_id.isin(units)]
    wide = counts.pivot(index="unit_id", columns="period", values="density_per_ha").astype(float)
    wide = wide.reindex(index=list(units), columns=list(contents.periods))
    limit = nice_limit(wide.to_numpy(), share=0.98)
    *lower, top = ticks(limit)
    return Layer(
        key="units",
        label="By unit",
        uris=[_picture(wide[period].to_numpy(), raster, DENSITY, limit) for period in periods],
        unit="objects per hectare of the unit, on average",
        gradient=gradient(DENSITY),
        ticks=(*lower, f"{top}+" if (wide > limit).any(axis=None) else top),
    )


def _change(contents: Contents, name: str, raster: NDArray[np.intp], units: Sequence[str]) -> Layer:
    """Change in percent of units that rise or fall; pale for those without a clear change."""
    assert contents.trend is not None
    rows = contents.trend[contents.trend.object == name].set_index("unit_id").reindex(list(units))
    change = rows.change_percent.astype(float).to_numpy()
    clear = rows.direction.isin(["rise", "fall"]).to_numpy(bool)
    limit = min(nice_limit(np.abs(change[clear & np.isfinite(change)]), share=1.0) if clear.any() else 50.0, 100.0)
    shown = np.where(np.isfinite(change), np.where(clear, change, 0.0) + limit, np.nan)
    return Layer(
        key="change",
        label="Change",
        uris=[_picture(shown, raster, CHANGE, 2 * limit)],
        unit=f"clear changes from {contents.periods[0]} to {contents.periods[-1]}; grey: no clear change",
        gradient=gradient(CHANGE),
        ticks=tuple(f"{'+' if v > 0 else '−' if v < 0 else ''}{abs(v):g} %" for v in (-limit, 0, limit)),
    )


def _error(estimates: EstimatesSection, raster: NDArray[np.intp], units: Sequence[str]) -> Layer:
    """Standard error of the estimate by class; hatched where there is no interval."""
    keys = [key for key in ERROR_BANDS if key != "e0"]
    number = {key: i + 0.5 for i, key in enumerate(keys)}
    values = np.array([number.get(estimates.bands.get(unit, "e0"), np.nan) for unit in units])
    colours = [to_hex(colour) for colour in ERRORS]
    return Layer(
        key="error",
        label="Error",
        uris=[_picture(values, raster, ListedColormap(colours), float(len(keys)))],
        unit=f"standard error of the estimate of {estimates.period}, relative to the estimate; hatched: no interval",
        bands=tuple(zip(colours, (ERROR_BANDS[key] for key in keys), strict=True)),
    )


def _picture(values: NDArray[np.floating], raster: NDArray[np.intp], cmap: Any, limit: float) -> str:
    """A palette PNG of one number for each unit; hatched for units without one."""
    painted = np.append(values, np.nan)[raster]  # -1 is the last: no unit
    return png_uri(painted, raster >= 0, cmap, limit)


def unit_labels(units: gpd.GeoDataFrame, lowest: Sequence[str], layers: Layers) -> list[dict[str, Any]]:
    """Names where they fit: x, y in display pixels, and the zoom from which and below which a name is shown.

    Where few of the lowest units have room for a name, their parents are named until one has zoomed in.
    """
    there = units[~without_shape(units.geometry)]
    leaf = there.unit_id.isin(lowest)
    labels = _placed(there[leaf], layers)
    near = int(np.median([one["zoom"] for one in labels])) if labels else 1
    for one in labels:
        one["zoom"] = max(one["zoom"], near)
    parents = _placed(there[~leaf], layers) if near > 1 else []
    return labels + [one | {"until": near} for one in parents if one["zoom"] < near]


def _placed(units: gpd.GeoDataFrame, layers: Layers) -> list[dict[str, Any]]:
    """Names of units that cover none of each other; large units come first."""
    shapes = [max(shapely.get_parts(layers.grid.to_pixels(shape)), key=shapely.area) for shape in units.geometry]
    names = [
        str(name) if pd.notna(name) else str(unit) for name, unit in zip(units.unit_name, units.unit_id, strict=True)
    ]
    pixel = layers.grid.shape[1] / FRAME  # display pixels in a pixel of the screen
    placed = np.empty((0, 4))  # x, y, width, zoom
    labels: list[dict[str, Any]] = []
    for i in sorted(range(len(shapes)), key=lambda i: -float(shapely.area(shapes[i])))[:MAX_LABELS]:
        at, name, box = shapely.point_on_surface(shapes[i]), names[i][:28], shapely.bounds(shapes[i])
        width = _CHARACTER * pixel * len(name)
        for zoom in _ZOOMS:
            near = placed[placed[:, 3] <= zoom]
            apart = np.abs(near[:, :2] - (at.x, at.y)) * zoom
            covers = (apart[:, 0] < (width + near[:, 2]) / 2) & (apart[:, 1] < _LINE * pixel)
            if (box[2] - box[0]) * zoom > width and not covers.any():
                placed = np.vstack([placed, (at.x, at.y, width, zoom)])
                labels.append({"x": round(at.x, 1), "y": round(at.y, 1), "name": name, "zoom": zoom, "until": 0})
                break
    return labels
