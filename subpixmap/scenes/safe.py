"""Makes a STAC item from an L2A product of ESA (a .SAFE folder), with stactools-sentinel2."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from subpixmap.errors import InputError
from subpixmap.scenes import dialect
from subpixmap.scenes.radiometry import require_level

# Elements required to build an item.
_NEEDED = {
    "MTD_MSIL2A.xml": "Product_Info PRODUCT_URI PRODUCT_START_TIME Datatake Granule Reflectance_Conversion "
    "Quality_Indicators_Info EXT_POS_LIST",
    "MTD_TL.xml": "TILE_ID HORIZONTAL_CS_CODE Size Geoposition ULX ULY Tile_Angles Image_Content_QI",
}


def read_safe(folder: Path) -> dict[str, Any]:
    """Build the item of a product from its metadata, and check it against the headers of its images.

    Raises
    ------
    InputError
        The folder is not an L2A product, a part of it is missing or cannot be read, or the header of an image
        contradicts the metadata; or stactools-sentinel2 is not installed.
    """
    folder = Path(os.path.abspath(folder))
    item = _create_item(folder)
    item["id"] = folder.stem  # the library's id has no baseline: two versions of a scene would have the same id
    del item["properties"]["created"]  # the time of reading; removed so that the same product gives the same item
    require_level(item, "L2A")
    assets = dialect.band_assets(item, [*dialect.BANDS, dialect.SCL])
    if "<BOA_ADD_OFFSET" not in Path(item["assets"]["product_metadata"]["href"]).read_text(errors="replace"):
        # From baseline 04.00 on the library then assumes -0.1. The product does not state it, so the lock decides.
        for band in dialect.BANDS:
            assets[band]["raster:bands"][0]["offset"] = 0
    for band, asset in assets.items():
        _check_image(folder, item, band, asset)
    return item


def _create_item(folder: Path) -> dict[str, Any]:
    """The library's item; its errors about the product become `InputError`."""
    try:
        from antimeridian import FixWindingWarning
        from pystac import STACError
        from shapely.errors import ShapelyError
        from stactools.sentinel2.granule_metadata import GranuleMetadataError
        from stactools.sentinel2.product_metadata import ProductMetadataError
        from stactools.sentinel2.safe_manifest import ManifestError
        from stactools.sentinel2.stac import create_item
    except ImportError as error:
        raise InputError(
            f"{folder} cannot be read without stactools-sentinel2: pip install 'subpixmap[safe]'"
        ) from error
    # Exceptions of lxml, pystac, shapely and the library for incomplete or unexpected metadata.
    bad_product = (
        GranuleMetadataError, ProductMetadataError, ManifestError, STACError, ShapelyError, OSError, SyntaxError,
        ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, ArithmeticError,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FixWindingWarning)  # ESA lists footprints clockwise; it turns them
        warnings.filterwarnings("ignore", "Use `@` matmul", PendingDeprecationWarning)  # rasterio's own, with affine 3
        try:
            item: dict[str, Any] = create_item(str(folder)).to_dict(include_self_link=False, transform_hrefs=False)
        except FileNotFoundError as error:
            name = os.path.relpath(str(error.filename), folder)
            raise InputError(f"{folder} has no {name}: the product is not complete") from None
        except bad_product as error:
            reason = _missing_elements(folder) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(f"{folder} cannot be read as an L2A product ({reason}); download it again") from None
    return item


def _missing_elements(folder: Path) -> str:
    """Names of missing metadata elements; empty if complete."""
    for name, tags in _NEEDED.items():
        for path in sorted((*folder.glob(name), *folder.glob(f"GRANULE/*/{name}"))):
            text = path.read_text(errors="replace")
            if missing := [tag for tag in tags.split() if not re.search(rf"<(\w+:)?{tag}[\s>]", text)]:
                return f"{path.relative_to(folder)} has no {', '.join(missing)}"
    return ""


def _check_image(folder: Path, item: dict[str, Any], band: str, asset: dict[str, Any]) -> None:
    """Check that the image is in the product and its header agrees with the metadata."""
    from rasterio.errors import RasterioIOError

    from subpixmap.scenes.items import Asset
    from subpixmap.scenes.reader import check_header, open_raster

    path = Path(os.path.normpath(asset["href"]))
    if not path.is_relative_to(folder):
        raise InputError(f"{folder} refers to an image outside of it: {asset['href']}")
    if not path.exists():
        raise InputError(f"{folder} has no image of {band}, {path.relative_to(folder)}: the product is not complete")
    declared = Asset(str(path), *dialect.raster(item, band, asset))
    try:
        with open_raster(str(path)) as dataset:
            check_header(dataset, declared, dialect.epsg(item, asset), classes=band == dialect.SCL)
    except RasterioIOError as error:
        raise InputError(f"{folder}: the image of {band} cannot be opened ({error}); download it again") from None
