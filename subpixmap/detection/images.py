"""Opens high-resolution images and checks georeference, bands, type, pixel size and date.

An image is opened here once to look at its header, and again for every window that is read. Nothing is warped: a
window is a rectangle of the file's own pixels, filled with nodata where it reaches out of the image.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import InputError
from subpixmap.grid import Window
from subpixmap.reference.reference import parse_image_date
from subpixmap.scenes.hrefs import require_own_overviews

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG", ".jp2": "JP2OpenJPEG"}
"""Ending of a name -> driver of GDAL; others could lead it to files and servers of their own choice."""
DTYPES = ("uint8", "uint16", "float32")
_SQUARE = 0.02
"""Share by which the sides of a pixel may differ."""
_DATE_TAGS = ("TIFFTAG_DATETIME", "ACQUISITIONDATETIME", "ACQUISITION_DATE", "DATE")
_WGS84 = pyproj.Geod(ellps="WGS84")


@dataclass(frozen=True)
class Image:
    """An image file and its header."""

    path: Path
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    bands: tuple[str, ...]
    """Names of the bands; "1", "2", ... where the file has none. A last band that is transparency is not among them."""
    dtype: str
    nodata: float | None
    resolution: float
    """Side of a pixel on the ground, metres."""
    transform: Affine
    crs: str | None
    """As text; None where the file has no georeference."""
    image_date: str | None
    """As somebody wrote it: 2021-03-14, 2021-03 or 2021."""

    @property
    def id(self) -> str:
        """Its name without the suffix."""
        return self.path.stem

    @property
    def window(self) -> Window:
        """All of it."""
        return Window(0, 0, self.height, self.width)

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Pixels (band, y, x) and which of them are valid (y, x); what lies outside the image is not."""
        pixels = np.zeros((len(self.bands), *window.shape), np.float32)
        valid = np.zeros(window.shape, bool)
        if (part := window.overlap(self.window)) is not None:
            inside = RasterWindow(part.col, part.row, part.width, part.height)
            with _opened(self.path) as file:
                values = file.read(range(1, len(self.bands) + 1), window=inside)
                known = np.isfinite(values).all(axis=0)
                if self.nodata is not None:
                    known &= (values != self.nodata).any(axis=0)
                elif file.count > len(self.bands):  # the band that is left out is the mask
                    known &= file.read(file.count, window=inside) > 0
            pixels[:, *part.slices(window)] = values
            valid[part.slices(window)] = known
        return np.where(valid, pixels, np.float32(0)), valid

    def lonlat(self, col: NDArray[np.floating], row: NDArray[np.floating]) -> tuple[Any, Any]:
        """Places in pixels (edges, not centres, are whole numbers) -> degrees."""
        x, y = moved(self.transform, col, row)
        lon, lat = pyproj.Transformer.from_crs(self._known_crs, 4326, always_xy=True).transform(x, y)
        return lon, lat

    def pixels(self, lon: NDArray[np.floating], lat: NDArray[np.floating]) -> tuple[Any, Any]:
        """Degrees -> (column, row) in pixels."""
        x, y = pyproj.Transformer.from_crs(4326, self._known_crs, always_xy=True).transform(lon, lat)
        return moved(~self.transform, x, y)

    @property
    def footprint(self) -> shapely.Polygon:
        """Outline of the whole file in EPSG:4326, with vertices along its edges."""
        ring = shapely.segmentize(shapely.box(0, 0, self.width, self.height), max(self.height, self.width) / 8)
        return shapely.transform(ring, lambda xy: np.column_stack(self.lonlat(xy[:, 0], xy[:, 1])))

    @property
    def _known_crs(self) -> str:
        if self.crs is None:
            raise InputError(f"{self.path.name} has no georeference; give it one, for example with gdal_translate")
        return self.crs


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Image files of some paths: files as they are, of folders all that look like images; by name.

    Raises
    ------
    InputError
        There is no such file, a folder holds no image, or two images have the same name.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.suffix.lower() in DRIVERS)
            if not inside:
                raise InputError(f"{path} contains no image ({', '.join(DRIVERS)})")
            found += inside
        elif path.is_file() and path.suffix.lower() not in DRIVERS:
            raise InputError(f"{path.name} is not a supported image: give {', '.join(DRIVERS)}")
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"image {path} does not exist")
    stems = [path.stem for path in dict.fromkeys(found)]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"two images are called {twice[0]}: file names are the ids of images, so rename one of them")
    return list(dict.fromkeys(found))


def open_image(
    path: Path,
    *,
    image_date: str | Mapping[str, str] | None = None,
    resolution: float | None = None,
    needs_crs: bool = True,
    needs_date: bool = True,
) -> Image:
    """Look at an image.

    Parameters
    ----------
    path
        Whatever GDAL reads.
    image_date
        Of every image, or of each by its id; it goes before what the file's own tags say.
    resolution
        Side of a pixel in metres, for a file without a georeference.
    needs_crs, needs_date
        Whether an image without a georeference or a date is refused.

    Raises
    ------
    InputError
        The file cannot be read, has no georeference or no date, is not north-up with square pixels, is of another type.
    """
    try:
        with _opened(path) as file:
            require_own_overviews(file, path.name)
            transform, crs = file.transform, file.crs
            names = _band_names(file)
            header = (file.height, file.width, file.dtypes, file.nodata)
            tags = file.tags() | file.tags(ns="IMAGERY")
    except (RasterioError, OSError) as error:
        raise InputError(f"{path.name} cannot be read as an image: {' '.join(str(error).split())[:160]}") from error
    height, width, dtypes, nodata = header
    if len(set(dtypes)) > 1 or dtypes[0] not in DTYPES:
        raise InputError(
            f"{path.name} is of type {', '.join(sorted(set(dtypes)))}; convert it to one of {', '.join(DTYPES)}"
        )
    if crs is None and needs_crs:
        raise InputError(
            f"{path.name} has no georeference, so its pixels have no position; add one, for example with gdal_translate"
        )
    if crs is None and resolution is None:
        raise InputError(f"{path.name} has no georeference: give the pixel size with --resolution, metres")
    side = resolution if crs is None else _resolution(transform, crs, height, width, path.name)
    stated = image_date.get(path.stem) if isinstance(image_date, Mapping) else image_date
    taken = stated or next((_tag_date(tags[tag]) for tag in _DATE_TAGS if tag in tags), None)
    if taken is None and needs_date:
        raise InputError(f"{path.name} has no date: give --image-date, such as 2021-03-14")
    if taken is not None:
        parse_image_date(taken)
    assert side is not None  # one of the two is known
    return Image(
        path, height, width, names, dtypes[0], nodata, side, transform, None if crs is None else crs.to_wkt(), taken
    )


def read_dates(text: str | None) -> str | dict[str, str] | None:
    """One date for all images, or a CSV with columns image and image_date: the id of an image -> its date."""
    if text is None or not text.lower().endswith(".csv"):
        return text
    path = Path(text)
    if not path.is_file():
        raise InputError(f"--image-date {text}: the file does not exist")
    table = pd.read_csv(path, dtype=str)
    if not {"image", "image_date"} <= set(table.columns):
        raise InputError(f"--image-date {text}: the file needs the columns image and image_date")
    return {Path(name).stem: day for name, day in zip(table["image"], table["image_date"], strict=True)}


def require_alike(images: Sequence[Image], *, resolution: float | None = None, tolerance: float = 0.1) -> None:
    """Refuse images of another number of bands, type or pixel size than the first (or than `resolution`, metres)."""
    first = images[0]
    wanted = resolution or first.resolution
    for image in images:
        if len(image.bands) != len(first.bands):
            raise InputError(
                f"{image.path.name} has {len(image.bands)} bands and {first.path.name} {len(first.bands)}: "
                "give images of the same bands"
            )
        if image.dtype != first.dtype:
            raise InputError(f"{image.path.name} is of type {image.dtype} and {first.path.name} of {first.dtype}")
        if abs(image.resolution / wanted - 1) > tolerance:
            raise InputError(
                f"{image.path.name} has pixels of {image.resolution:.3g} m, not of {wanted:.3g} m: resample it"
            )


def moved(transform: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    """Coordinates through an affine transform."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def days_of(image: Image) -> tuple[date, date]:
    """First and last day on which an image may have been taken."""
    assert image.image_date is not None
    return parse_image_date(image.image_date)


def _opened(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver=DRIVERS[path.suffix.lower()])


def _band_names(file: Any) -> tuple[str, ...]:
    """Of the bands that hold an image; a nameless last band of transparency is a mask, where no value is one."""
    names = [str(text or number) for number, text in enumerate(file.descriptions, 1)]
    masks = file.nodata is None and file.colorinterp[-1].name == "alpha" and not file.descriptions[-1]
    return tuple(names[: len(names) - masks])


def _resolution(transform: Affine, crs: Any, height: int, width: int, name: str) -> float:
    """Side of a pixel at the middle of the image, metres."""
    if transform.b != 0 or transform.d != 0 or transform.a <= 0 or transform.e >= 0:
        raise InputError(f"{name} is not north-up; rotate it with gdalwarp")
    if crs.is_geographic:
        lon, lat = moved(transform, np.array(width / 2), np.array(height / 2))
        wide = _WGS84.inv(lon, lat, lon + transform.a, lat)[2]
        high = _WGS84.inv(lon, lat, lon, lat + transform.e)[2]
    else:
        metre = float(crs.linear_units_factor[1])
        wide, high = transform.a * metre, -transform.e * metre
    if abs(wide / high - 1) > _SQUARE:
        raise InputError(
            f"{name} has pixels of {wide:.3g} x {high:.3g} m; pixels must be square: resample the image to UTM"
        )
    return float(np.sqrt(wide * high))


def _tag_date(text: str) -> str | None:
    """The day in a tag, such as 2021:03:14 10:22:01 or 2021-03-14T10:22:01Z."""
    match = re.match(r"\s*(\d{4})[:/-]?(\d{2})[:/-]?(\d{2})", text)
    return None if match is None else "-".join(match.groups())
