"""An L2A product as ESA delivers it (a .SAFE folder) -> a STAC item, built by stactools-sentinel2."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from subpixmap.errors import InputError
from subpixmap.scenes import dialect

# Elements that an item cannot be built without.
_NEEDED = {
    "MTD_MSIL2A.xml": "Product_Info PRODUCT_URI PRODUCT_START_TIME Datatake Granule Reflectance_Conversion "
    "Quality_Indicators_Info EXT_POS_LIST",
    "MTD_TL.xml": "TILE_ID HORIZONTAL_CS_CODE Size Geoposition ULX ULY Tile_Angles Image_Content_QI",
}


def read_safe(folder: Path) -> dict[str, Any]:
    """Build the item of a product from its metadata, and hold it against the headers of its images.

    Raises
    ------
    InputError
        The folder is no L2A product, something of it is missing or unreadable, or an image's header is not what the
        metadata says. Or stactools-sentinel2 is not installed.
    """
    folder = Path(os.path.abspath(folder))
    item = _create_item(folder)
    item["id"] = folder.stem  # the library's has no baseline: two versions of a scene would have one name
    del item["properties"]["created"]  # the time of reading; the same product gives the same item
    dialect.require_level_2a(item)
    found = dialect.band_assets(item, [*dialect.BANDS, dialect.SCL])
    if "<BOA_ADD_OFFSET" not in Path(item["assets"]["product_metadata"]["href"]).read_text(errors="replace"):
        # From baseline 04.00 on the library then supposes -0.1. The product says of none: the lock is to decide.
        for band in dialect.BANDS:
            found[band]["raster:bands"][0]["offset"] = 0
    for band, asset in found.items():
        _hold_against_header(folder, item, band, asset)
    return item


def _create_item(folder: Path) -> dict[str, Any]:
    """The library's item, without the warnings and with one kind of error."""
    try:
        from antimeridian import FixWindingWarning
        from stactools.sentinel2.stac import create_item
    except ImportError as error:
        raise InputError(f"{folder} needs stactools-sentinel2 to be read: pip install 'subpixmap[safe]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FixWindingWarning)  # ESA lists footprints clockwise; it turns them
        warnings.filterwarnings("ignore", "Use `@` matmul", PendingDeprecationWarning)  # rasterio's own, with affine 3
        try:
            return create_item(str(folder)).to_dict(include_self_link=False, transform_hrefs=False)
        except FileNotFoundError as error:
            name = os.path.relpath(str(error.filename), folder)
            raise InputError(f"{folder} has no {name}: the product is not complete") from None
        except Exception as error:  # whatever the library and lxml raise on a product that is not what it should be
            told = _lacking(folder) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(f"{folder} cannot be read as an L2A product ({told}); download it again") from None


def _lacking(folder: Path) -> str:
    """What the metadata lacks, in words; empty if it has all."""
    for name, tags in _NEEDED.items():
        for path in sorted((*folder.glob(name), *folder.glob(f"GRANULE/*/{name}"))):
            text = path.read_text(errors="replace")
            if missing := [tag for tag in tags.split() if not re.search(rf"<(\w+:)?{tag}[\s>]", text)]:
                return f"{path.relative_to(folder)} has no {', '.join(missing)}"
    return ""


def _hold_against_header(folder: Path, item: dict[str, Any], band: str, asset: dict[str, Any]) -> None:
    """The image lies in the product, and its own header says what the metadata says of it."""
    from rasterio.errors import RasterioIOError

    from subpixmap.scenes.items import Asset
    from subpixmap.scenes.reader import check_header, open_raster

    path = Path(os.path.normpath(asset["href"]))
    if not path.is_relative_to(folder):
        raise InputError(f"{folder} names an image outside of itself: {asset['href']}")
    if not path.exists():
        raise InputError(f"{folder} has no image of {band}, {path.relative_to(folder)}: the product is not complete")
    declared = Asset(str(path), *dialect.raster(item, band, asset))
    try:
        with open_raster(str(path)) as dataset:
            check_header(dataset, declared, dialect.epsg(item, asset))
    except RasterioIOError as error:
        raise InputError(f"{folder}: the image of {band} cannot be opened ({error}); download it again") from None
