"""Missing is what the file says: nodata, masks, numbers that are not measurements, unknown scene classes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import InputError, Refused
from subpixmap.periods import make_periods
from subpixmap.scenes import reader
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.cube import read_reflectance, read_valid
from subpixmap.scenes.items import Asset, items_sha256, lock_items, read_lock, write_lock
from subpixmap.scenes.lattices import lattices
from tests.helpers import scenes_data

TRANSFORM = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
SIZE = 64
WHOLE = RasterWindow(0, 0, SIZE, SIZE)
PERIODS = make_periods(2021)
BANDS = {"B04": 10, "B08": 10}
GONE = (slice(10, 30), slice(5, 50))


def values() -> Any:
    return np.random.default_rng(3).integers(2, 9000, (SIZE, SIZE), dtype=np.uint16)


def write(
    path: Path, pixels: Any, *, nodata: Any = None, mask: Any = None, scale: float = 1, offset: float = 0
) -> Asset:
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", height=SIZE, width=SIZE, count=1, dtype=pixels.dtype, crs="EPSG:32651",
            transform=Affine(*TRANSFORM), nodata=nodata, compress="deflate",
        ) as dataset,
    ):  # fmt: skip
        dataset.write(pixels, 1)
        if mask is not None:
            dataset.write_mask(mask)
        if (scale, offset) != (1, 0):
            dataset.scales, dataset.offsets = (scale,), (offset,)
    return Asset(str(path), TRANSFORM, (SIZE, SIZE))


@pytest.mark.parametrize("fill", [65535, 32767, 1, 9999])
def test_what_the_header_calls_nodata_is_missing(tmp_path: Path, fill: int) -> None:
    pixels = values()
    pixels[pixels == fill] = 2
    expected = pixels.copy()
    pixels[GONE], expected[GONE] = fill, 0
    asset = write(tmp_path / "B04.tif", pixels, nodata=fill)
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), expected)
    part = reader.read_overview(asset, (SIZE, SIZE), 32651)
    np.testing.assert_array_equal(part, expected)


def test_what_a_mask_hides_is_missing(tmp_path: Path) -> None:
    pixels = values()
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[GONE] = True
    asset = write(tmp_path / "B04.tif", pixels, mask=~hidden)
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), np.where(hidden, 0, pixels))
    corner = RasterWindow(3, 7, 20, 11)
    np.testing.assert_array_equal(reader.read_window(asset, corner, 32651), np.where(hidden, 0, pixels)[7:18, 3:23])


def test_numbers_beyond_any_measurement_are_missing_without_a_header(tmp_path: Path) -> None:
    pixels = values()
    pixels[GONE] = 65535
    pixels[0, 0], pixels[0, 1] = 32766, 32767
    found = reader.read_window(write(tmp_path / "B04.tif", pixels), WHOLE, 32651)
    assert found[0, 0] == 32766
    assert found[0, 1] == 0
    assert not found[GONE].any()
    assert reader.read_window(write(tmp_path / "SCL.tif", pixels), WHOLE, 32651, classes=True)[0, 1] == 32767


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int16"])
def test_what_are_no_digital_numbers_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    asset = write(tmp_path / "B04.tif", np.ones((SIZE, SIZE), dtype))
    with pytest.raises(InputError, match=rf"B04\.tif has 1 bands of {dtype}"):
        reader.read_window(asset, WHOLE, 32651)


def test_scale_and_offset_of_the_header(tmp_path: Path) -> None:
    """Those of Sentinel-2 are read; any other, and a contradiction with the item, is named."""
    asset = write(tmp_path / "B04.tif", values(), scale=0.0001, offset=-0.1)
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651, offset_dn=-1000), values())
    np.testing.assert_array_equal(reader.read_window(asset, WHOLE, 32651), values())  # as the user has decided
    with pytest.raises(InputError, match=r"B04\.tif.*offset -0\.1.*0 was decided.*--offset-rule"):
        reader.read_window(asset, WHOLE, 32651, offset_dn=0)
    for number, (scale, offset) in enumerate(((0.0002, 0), (0.0001, -0.3), (1, 0.5))):
        asset = write(tmp_path / f"B08_{number}.tif", values(), scale=scale, offset=offset)
        with pytest.raises(InputError, match=rf"B08_{number}\.tif has the (scale|offset)"):
            reader.read_window(asset, WHOLE, 32651)
    asset = write(tmp_path / "SCL.tif", values().astype(np.uint8), scale=0.0001)
    with pytest.raises(InputError, match=r"SCL\.tif has the scale"):
        reader.read_window(asset, WHOLE, 32651, classes=True)


def test_the_item_may_say_what_is_missing_but_not_contradict_the_file(tmp_path: Path) -> None:
    raw = scenes_data.make_item(tmp_path, size_px=200, bands=BANDS)
    plain = lock_items([raw], PERIODS, list(BANDS))
    raw["assets"]["red"]["raster:bands"][0]["nodata"] = 65535
    (item,) = lock_items([raw], PERIODS, list(BANDS))
    assert item.assets["B04"].nodata == 65535
    assert items_sha256([item]) != items_sha256(plain)  # it is another reading
    write_lock(tmp_path / "items.parquet", [item])
    assert read_lock(tmp_path / "items.parquet") == [item]
    (lattice,) = lattices([item]).values()
    window = lattice.window(item.bounds)
    with pytest.raises(InputError, match=r"B04\.tif has nodata 0.*declares 65535"):
        read_reflectance([item], lattice, window, ["B04"])


@pytest.mark.parametrize(("field", "value"), [("scale", 0.5), ("scale", "x"), ("nodata", -1), ("nodata", "nan")])
def test_an_item_with_another_scale_or_nodata_is_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    raw = scenes_data.make_item(tmp_path, size_px=20, bands=BANDS)
    raw["assets"]["red"]["raster:bands"][0][field] = value
    with pytest.raises(InputError, match=f"{raw['id']}, asset B04 declares {field}"):
        lock_items([raw], PERIODS, list(BANDS))


def with_fill(tmp_path: Path, fill: int) -> Any:
    """A tile whose upper part is missing in all bands, as the header says; scene class 255 there, and 12 in a place."""
    raw = scenes_data.make_item(tmp_path, size_px=200, bands=BANDS)
    for name in ("red", "nir", "scl"):
        asset = raw["assets"][name]
        with rasterio.open(asset["href"]) as dataset:
            pixels = dataset.read(1)
        pixels[: len(pixels) // 2] = 255 if name == "scl" else fill
        if name == "scl":
            pixels[len(pixels) // 2 :] = 4
            pixels[70:75, 70:75] = 12
        os.unlink(asset["href"])
        with rasterio.open(
            asset["href"], "w", driver="GTiff", height=len(pixels), width=len(pixels), count=1, dtype=pixels.dtype,
            crs="EPSG:32651", transform=Affine(*asset["proj:transform"]), nodata=255 if name == "scl" else fill,
        ) as dataset:  # fmt: skip
            dataset.write(pixels, 1)
        del asset["raster:bands"][0]["nodata"]
    return lock_items([raw], PERIODS, list(BANDS))


def test_the_missing_part_of_a_tile_is_neither_valid_nor_reflectance(tmp_path: Path) -> None:
    items = with_fill(tmp_path, 65535)
    (lattice,) = lattices(items).values()
    window = lattice.window(items[0].bounds)
    reflectance = read_reflectance(items, lattice, window, list(BANDS))
    assert np.isnan(reflectance[:, :100]).all()
    assert np.isfinite(reflectance[:, 100:]).all()
    valid = read_valid(items, lattice, window, MaskRule())
    expected = np.zeros((200, 200), bool)
    expected[100:] = True
    expected[140:150, 140:150] = False  # an unknown class does not spread
    np.testing.assert_array_equal(valid, expected)


def test_a_run_of_before_goes_on_as_it_was_or_not_at_all(tmp_path: Path) -> None:
    """There only 0 is missing: files that say otherwise are refused, unknown classes stay valid."""
    items = with_fill(tmp_path, 65535)
    (lattice,) = lattices(items).values()
    window = lattice.window(items[0].bounds)
    with pytest.raises(Refused, match=r"B04\.tif has nodata 65535.*--out"):
        read_reflectance(items, lattice, window, ["B04"], missing="zero")
    raw = scenes_data.make_item(tmp_path / "plain", size_px=200, bands=BANDS)
    scl = np.full((100, 100), 12, np.uint8)
    scenes_data.write_raster(Path(raw["assets"]["scl"]["href"]), scl, tuple(raw["assets"]["scl"]["proj:transform"]))
    plain = lock_items([raw], PERIODS, list(BANDS))
    assert read_valid(plain, lattice, window, MaskRule(), missing="zero").all()
    assert not read_valid(plain, lattice, window, MaskRule()).any()
