"""An image of 20,000 x 20,000 pixels in less than 2 GB."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from subpixmap.detection.detections import read_detections
from tests.detection.conftest import EPSG, paint

CODE = """
import sys
from pathlib import Path
from subpixmap.machine import peak_rss
from subpixmap.verbs.detect import detect
image, model, out = map(Path, sys.argv[1:])
detect([image], model, out, image_date="2021", score=0.3, workers=0, quiet=True)
print(peak_rss())
"""


@pytest.mark.slow
def test_a_large_image_needs_little_memory(detector_file: Path, tmp_path: Path) -> None:
    """Twelve blocks with discs, the rest without pixels: memory is that of a window, however large the image is."""
    side, discs = 20_000, 0
    transform = Affine(1, 0, 500_000, 0, -1, 1_000_000)
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "SPARSE_OK": True}
    with rasterio.open(
        tmp_path / "large.tif", "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", nodata=0,
        crs=f"EPSG:{EPSG}", transform=transform, **options,
    ) as file:  # fmt: skip
        for k, (row, col) in enumerate(np.random.default_rng(0).integers(0, 39, (12, 2)) * 512):
            discs += len(paint(tmp_path / "block.tif", side=512, n=200, seed=k))
            with rasterio.open(tmp_path / "block.tif") as block:
                file.write(block.read(), window=Window(int(col), int(row), 512, 512))
    arguments = [tmp_path / "large.tif", detector_file, tmp_path / "points.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    peak = int(done.stdout.split()[-1])
    points, _ = read_detections(tmp_path / "points.parquet")
    print(f"peak {peak / 1e9:.2f} GB, {len(points)} points of {discs} discs")
    assert peak < 2e9
    assert len(points) == pytest.approx(discs, rel=0.1)
