"""Painted scenes: discs on noise, with labels; and a detector that was taught on them in seconds."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.errors
from affine import Affine

from subpixmap.detection.detector import Detector, load_detector

SIDE_M = 1.0
EPSG = 32650


def paint(
    path: Path,
    *,
    side: int = 192,
    n: int = 30,
    seed: int = 0,
    radius: float = 9.0,
    west: float = 500_000.0,
    north: float = 1_000_000.0,
    resolution: float = SIDE_M,
    bands: int = 3,
    epsg: int | None = EPSG,
    dtype: str = "uint8",
    tags: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Write an image of bright discs that do not touch; their boxes as a CSV of detectors holds them."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(70, 12, (bands, side, side))
    places: list[tuple[float, float]] = []
    for x, y in rng.uniform(radius + 1, side - radius - 1, (4000, 2)):
        if len(places) < n and all(np.hypot(x - a, y - b) > 2.2 * radius for a, b in places):
            places.append((float(x), float(y)))
    yy, xx = np.mgrid[0:side, 0:side] + 0.5
    for x, y in places:
        pixels[:, np.hypot(xx - x, yy - y) < radius] += np.array([90, 60, 30, 20, 20])[:bands, None]
    transform = Affine(resolution, 0, west, 0, -resolution, north)
    where: dict[str, Any] = {} if epsg is None else {"crs": f"EPSG:{epsg}", "transform": transform}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        _write(path, pixels, where | {"dtype": dtype}, tags or {})
    x, y = np.array(places).T if places else np.zeros((2, 0))
    return pd.DataFrame(
        {
            "image_path": path.name,
            "xmin": x - radius,
            "ymin": y - radius,
            "xmax": x + radius,
            "ymax": y + radius,
            "label": "disc",
        }
    )


def _write(path: Path, pixels: np.ndarray, where: dict[str, Any], tags: dict[str, str]) -> None:
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, photometric="minisblack", **where
    ) as file:
        file.write(np.clip(pixels, 1, 250).astype(where["dtype"]))
        file.update_tags(**tags)


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three labelled images, one empty image, and one that nobody labelled."""
    folder = tmp_path_factory.mktemp("painted")
    tables = [
        paint(folder / f"{name}.tif", n=n, seed=k, west=500_000.0 + 300 * k)
        for k, (name, n) in enumerate({"a": 30, "b": 25, "c": 12, "empty": 0, "unlabelled": 9}.items())
    ]
    text = pd.concat(tables[:3]).to_csv(index=False)
    (folder / "labels.csv").write_text(f"{text}empty.tif,,,,,\n")
    return folder


@pytest.fixture(scope="session")
def detector_file(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of discs: 100 steps."""
    from subpixmap.detection.config import DetectConfig
    from subpixmap.verbs.detect import train_detector

    path = tmp_path_factory.mktemp("detector") / "discs.safetensors"
    config = DetectConfig(steps=100, batch=2, crop=64, check_every=30, rate=3e-3, average=0.8, warmup=5)
    train_detector([painted], painted / "labels.csv", path, config=config, tile=96, channels=16, quiet=True)
    return path


@pytest.fixture(scope="session")
def detector(detector_file: Path) -> Detector:
    """The same, loaded."""
    return load_detector(detector_file)


@pytest.fixture
def refused(subpixmap: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Type a command that must be refused as bad input; its message."""

    def call(*words: object) -> str:
        capsys.readouterr()
        assert subpixmap(*words) == 2
        return capsys.readouterr().err

    return call
