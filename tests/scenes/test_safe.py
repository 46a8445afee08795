"""L2A products as downloaded: what the lock holds of them is what they say themselves, or they are refused by name."""

import shutil
import socket
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import shapely

from subpixmap.errors import InputError
from subpixmap.periods import make_periods
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.cube import read_reflectance, read_valid
from subpixmap.scenes.items import lock_items
from subpixmap.scenes.lattices import lattices
from subpixmap.scenes.source import find_items
from tests.helpers import safe_data, scenes_data

PERIODS = make_periods(2021)
EVERYWHERE = shapely.box(-180, -90, 180, 90)
BANDS = list(scenes_data.BANDS)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return safe_data.write_product(tmp_path_factory.mktemp("safe"), [-1000] * 13)


@pytest.fixture
def product(pristine: Any, tmp_path: Path) -> Any:
    return shutil.copytree(pristine, tmp_path / pristine.name)


def lock(source: Any, **options: Any) -> Any:
    return lock_items(find_items(str(source), EVERYWHERE, PERIODS), PERIODS, BANDS, **options)


def edit(path: Any, old: Any, new: Any) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_lock_holds_what_the_product_says(pristine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a folder of this machine needs no network"))
    said = ElementTree.parse(pristine / "MTD_MSIL2A.xml").getroot()
    (added,) = {int(node.text or "") for node in said.iter("BOA_ADD_OFFSET")}
    (taken,) = (node.get("datatakeIdentifier", "") for node in said.iter("Datatake"))
    for source in (pristine.parent, pristine):
        (item,) = lock(source)
        assert item.id == pristine.stem
        assert item.offset_dn == added == -1000
        assert item.baseline == said.findtext(".//PROCESSING_BASELINE") == "05.00"
        assert item.acquisition == taken.rpartition("_N")[0] == "GS2A_20210105T021051_028940"
        assert (item.tile, item.epsg, item.orbit, item.period) == ("51PTT", 32651, 103, "2021")
        assert item.cloud_cover == float(said.findtext(".//Cloud_Coverage_Assessment", ""))
        assert np.datetime64(item.datetime[:-1]) == np.datetime64(said.findtext(".//PRODUCT_START_TIME", "")[:-1])
        assert set(item.assets) == {*BANDS, "SCL"}
        for band, asset in item.assets.items():
            (path,) = pristine.glob(f"GRANULE/*/IMG_DATA/R{scenes_data.BANDS.get(band, 20)}m/*_{band}_*.jp2")
            with rasterio.open(path) as dataset:
                assert (asset.href, asset.transform, asset.shape) == (
                    *(str(path), tuple(dataset.transform)[:6]),
                    dataset.shape,
                )
                assert dataset.crs.to_epsg() == item.epsg


def test_the_pixels_are_the_products(pristine: Any) -> None:
    (item,) = lock(pristine)
    (lattice,) = lattices([item]).values()
    window = lattice.window(item.assets["B02"].bounds)
    for band, found in zip(BANDS, read_reflectance([item], lattice, window, BANDS), strict=True):
        step = scenes_data.BANDS[band] // 10
        dn = safe_data.pixels(band).repeat(step, 0).repeat(step, 1)
        np.testing.assert_array_equal(found, (dn.astype(np.float32) - np.float32(1000)) / np.float32(10000))
    assert read_valid([item], lattice, window, MaskRule()).all()


def test_only_products_of_the_region_are_taken(pristine: Any) -> None:
    west, south, east, north = shapely.Point(121.174, 10.846).buffer(0.001).bounds
    assert len(find_items(str(pristine), shapely.box(west, south, east, north), PERIODS)) == 1
    assert not find_items(str(pristine), shapely.box(west + 1, south, east + 1, north), PERIODS)


def test_of_two_versions_the_newer_is_taken(tmp_path: Path) -> None:
    safe_data.write_product(tmp_path, None, baseline="02.14", made="20210105T040000")
    (item,) = lock(tmp_path)
    assert (item.offset_dn, item.baseline) == (0, "02.14")
    safe_data.write_product(tmp_path, [-1000] * 13, made="20230315T040000")
    assert len({item["id"] for item in find_items(str(tmp_path), EVERYWHERE, PERIODS)}) == 2
    (item,) = lock(tmp_path)
    assert (item.offset_dn, item.baseline) == (-1000, "05.00")


@pytest.mark.parametrize(
    ("offsets", "baseline", "named"),
    [
        ([-1000] * 12 + [0], "05.00", r"-0\.1"),
        ([0] * 13, "05.00", r"05\.00.* 0"),
        (None, "05.00", r"05\.00.* 0"),  # the library alone would suppose -1000
        ([-1000] * 13, "02.14", r"02\.14"),
        ([-500] * 13, "05.00", r"-0\.05"),
    ],
)
def test_offsets_that_contradict_are_refused(tmp_path: Path, offsets: Any, baseline: str, named: str) -> None:
    product = safe_data.write_product(tmp_path, offsets, baseline=baseline)
    with pytest.raises(InputError, match=rf"{product.stem}.*{named}"):
        lock(product)
    assert lock(product, offset_rule="none")[0].offset_dn == 0


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("manifest.safe", r"manifest\.safe"),
        ("MTD_MSIL2A.xml", r"MTD_MSIL2A\.xml"),
        ("GRANULE/*/MTD_TL.xml", r"GRANULE/\w+/MTD_TL\.xml"),
        ("GRANULE/*/IMG_DATA/R20m/*_B05_20m.jp2", r"B05.*GRANULE/.*_B05_20m\.jp2"),
        ("GRANULE/*/IMG_DATA/R20m/*_SCL_20m.jp2", "SCL"),
    ],
)
def test_what_is_missing_is_named(product: Any, path: str, named: str) -> None:
    (found,) = product.glob(path)
    found.unlink()
    with pytest.raises(InputError, match=rf"{product.name}.*{named}"):
        find_items(str(product), EVERYWHERE, PERIODS)
    if found.suffix != ".jp2":
        found.write_text("<cut")
        with pytest.raises(InputError, match=product.name):
            find_items(str(product), EVERYWHERE, PERIODS)
    else:
        found.write_bytes(b"no image")
        with pytest.raises(InputError, match=rf"{product.name}.*{found.stem.split('_')[-2]}"):
            find_items(str(product), EVERYWHERE, PERIODS)


ELEMENTS = [
    *("n1:General_Info", "Product_Info", "PRODUCT_URI", "PRODUCT_START_TIME", "Datatake", "Granule"),
    *("Reflectance_Conversion", "n1:Quality_Indicators_Info", "n1:Geometric_Info", "EXT_POS_LIST"),
    *("TILE_ID", "Tile_Geocoding", "HORIZONTAL_CS_CODE", "Size", "Geoposition", "ULX", "ULY", "NROWS"),
    *("Tile_Angles", "Image_Content_QI"),
]


@pytest.mark.parametrize("element", ELEMENTS)
def test_an_element_that_is_missing_is_one_line(product: Any, element: Any) -> None:
    (granule,) = product.glob("GRANULE/*/MTD_TL.xml")
    for path in (product / "MTD_MSIL2A.xml", granule):
        text = path.read_text()
        for mark in (f"<{element}", f"</{element}"):  # all that the format of 2017 renamed is renamed like this
            text = text.replace(f"{mark}>", f"{mark}_2A>").replace(f"{mark} ", f"{mark}_2A ")
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        find_items(str(product), EVERYWHERE, PERIODS)
    told = str(caught.value)
    assert product.name in told
    assert "\n" not in told
    assert element.removeprefix("n1:") in told or element in (
        "n1:General_Info",
        "n1:Geometric_Info",
        "Tile_Geocoding",
        "NROWS",
    )


def test_every_band_is_wanted(product: Any) -> None:
    edit(product / "MTD_MSIL2A.xml", "R20m/T51PTT_20210105T021051_B11_20m", "R60m/T51PTT_20210105T021051_B11_60m")
    with pytest.raises(InputError, match=rf"{product.stem}.*B11"):
        find_items(str(product), EVERYWHERE, PERIODS)


def test_the_header_is_the_truth(product: Any) -> None:
    (granule,) = product.glob("GRANULE/*/MTD_TL.xml")
    whole = granule.read_text()
    for old, new in (
        ("<ULX>300000<", "<ULX>300010<"),
        ("<NROWS>80</NROWS><NCOLS>80<", "<NROWS>90</NROWS><NCOLS>90<"),
        ("EPSG:32651", "EPSG:32650"),
    ):
        edit(granule, old, new)
        with pytest.raises(InputError, match=rf"{product.name}/.*_B02_10m\.jp2"):
            find_items(str(product), EVERYWHERE, PERIODS)
        granule.write_text(whole)
    (image,) = product.glob("GRANULE/*/IMG_DATA/R20m/*_B12_20m.jp2")
    safe_data.write_image(image, safe_data.pixels("B12"), 20, (300020, 1200000))
    with pytest.raises(InputError, match=rf"{product.name}/.*_B12_20m\.jp2"):
        find_items(str(product), EVERYWHERE, PERIODS)


def test_no_image_outside_the_product_is_opened(product: Any, tmp_path: Path) -> None:
    (image,) = product.glob("GRANULE/*/IMG_DATA/R10m/*_B02_10m.jp2")
    shutil.copy(image, tmp_path / "other_B02_10m.jp2")
    inside = str(image.relative_to(product)).removesuffix(".jp2")
    for outside in (str(tmp_path / "other_B02_10m"), "GRANULE/../../other_B02_10m"):
        edit(product / "MTD_MSIL2A.xml", f">{inside}<", f">{outside}<")
        with pytest.raises(InputError, match=product.name):
            find_items(str(product), EVERYWHERE, PERIODS)
        edit(product / "MTD_MSIL2A.xml", f">{outside}<", f">{inside}<")


def test_level_1c_is_refused(product: Any) -> None:
    edit(product / "MTD_MSIL2A.xml", "S2MSI2A", "S2MSI1C")
    with pytest.raises(InputError, match=rf"{product.stem}.*S2MSI1C"):
        find_items(str(product), EVERYWHERE, PERIODS)


def test_without_the_library_it_is_asked_for(pristine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stactools.sentinel2.stac", None)
    with pytest.raises(InputError, match=r"subpixmap\[safe\]"):
        find_items(str(pristine), EVERYWHERE, PERIODS)
