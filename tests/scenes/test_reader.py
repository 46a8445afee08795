"""The aligned reader: the file's pixels, nothing else; errors stay errors."""

import os
import pickle
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.env import getenv, hasenv
from rasterio.windows import Window as RasterWindow

from subpixmap.errors import InputError
from subpixmap.scenes import access, reader
from subpixmap.scenes.items import Asset
from tests.helpers import scenes_data


@pytest.fixture
def raster(tmp_path: Path) -> Any:
    values = (np.arange(300 * 300) % 30000 + 1).astype(np.uint16).reshape(300, 300)
    transform = (10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0)
    path = tmp_path / "B04.tif"
    scenes_data.write_raster(path, values, transform)
    return Asset(str(path), transform, (300, 300)), values


def make(asset: Any, bounds: Any) -> Any:
    return reader.AlignedReader(
        rasters=reader.Rasters({asset.href: (asset, asset)}),
        url=asset.href,
        spec=SimpleNamespace(bounds=bounds, epsg=32651),
        dtype=np.dtype(np.uint16),
        fill_value=0,
    )


def test_windows_inside_across_and_outside_the_file(raster: Any) -> None:
    asset, values = raster
    padded = np.pad(values, 50)
    grid = make(asset, (299500.0, 1196500.0, 303500.0, 1200500.0))
    for row, col, size in [(0, 0, 400), (60, 70, 17), (0, 0, 50), (0, 0, 51), (340, 100, 60), (349, 349, 51)]:
        np.testing.assert_array_equal(
            grid.read(RasterWindow(col, row, size, size)), padded[row : row + size, col : col + size]
        )


@pytest.mark.parametrize("users_own", [None, "48"])
def test_gdal_options_hold_only_while_reading(
    raster: Any, monkeypatch: pytest.MonkeyPatch, users_own: str | None
) -> None:
    asset, _ = raster
    monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
    if users_own:
        monkeypatch.setenv("GDAL_CACHEMAX", users_own)
    inside: list[dict[str, Any]] = []
    before = dict(os.environ), hasenv()

    def look(*_: Any, **__: Any) -> Any:
        inside.append(getenv().copy())
        return np.zeros(1)

    monkeypatch.setattr(
        reader,
        "_opened",
        lambda *_: SimpleNamespace(
            dataset=SimpleNamespace(read=look),
            **{"path": None, "version": None, "nodata": None, "masked": False, "checked": None},
        ),
    )
    reader.read_window(asset, RasterWindow(0, 0, 10, 10), 32651)
    assert inside[0].get("GDAL_CACHEMAX") == (None if users_own else access.GDAL_CACHE_BYTES)
    assert (dict(os.environ), hasenv()) == before


def test_survives_pickling(raster: Any) -> None:
    asset, values = raster
    grid = pickle.loads(pickle.dumps(make(asset, asset.bounds)))
    np.testing.assert_array_equal(grid.read(RasterWindow(0, 0, 300, 300)), values)


def test_a_file_is_opened_once_and_the_pool_is_bounded(
    raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset, values = raster
    opened: list[Any] = []
    monkeypatch.setattr(
        rasterio,
        "open",
        partial(lambda f, *a, **k: opened.append(a[0]) or f(*a, **k), rasterio.open),  # type: ignore[func-returns-value]
    )
    monkeypatch.setattr(reader, "OPEN_FILES", 2)
    for _ in range(5):
        reader.read_window(asset, RasterWindow(0, 0, 10, 10), 32651)
    assert opened == [asset.href]
    for name in "abc":
        path = tmp_path / f"{name}.tif"
        scenes_data.write_raster(path, values, asset.transform)
        reader.read_window(Asset(str(path), asset.transform, asset.shape), RasterWindow(0, 0, 10, 10), 32651)
    assert len(reader._threads.pool) == 2


def test_a_missing_or_broken_file_is_an_error_and_no_nodata(
    raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subpixmap.scenes.reader.time.sleep", lambda s: None)
    asset, _ = raster
    content = (tmp_path / "B04.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    for name in ("missing.tif", "cut.tif"):
        broken = Asset(str(tmp_path / name), asset.transform, asset.shape)
        with pytest.raises(reader.ReadFailed, match=name):
            reader.read_window(broken, RasterWindow(0, 0, 300, 300), 32651)


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        ((10.0, 0.0, 300010.0, 0.0, -10.0, 1200000.0), (300, 300)),
        ((10.0, 0.0, 300000.0, 0.0, -10.0, 1200000.0), (300, 301)),
    ],
)
def test_the_header_of_the_file_is_the_truth(raster: Any, transform: Any, shape: Any) -> None:
    with pytest.raises(InputError, match=r"B04\.tif"):
        reader.read_window(Asset(raster[0].href, transform, shape), RasterWindow(0, 0, 10, 10), 32651)


def test_only_rasters_are_opened(raster: Any, tmp_path: Path) -> None:
    vrt = '<VRTDataset rasterXSize="300" rasterYSize="300"/>'
    (tmp_path / "B04.vrt").write_text(vrt)
    for href in (vrt, str(tmp_path / "B04.vrt"), "WMS:http://127.0.0.1/", "/etc/passwd"):
        with pytest.raises(InputError, match="(?i)" + re.escape(repr(href))):
            reader.read_window(Asset(href, raster[0].transform, (300, 300)), RasterWindow(0, 0, 10, 10), 32651)
