"""Real NEON tiles (0.1 m): their labels as they come, boxes to points to count map, and the tile that lies nowhere."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from subpixmap.detection.images import find_images, open_image
from subpixmap.detection.labels import LabelledImage, read_labels
from subpixmap.grid import Lattice, transformer, utm_epsg
from subpixmap.reference.countmap import count_map

pytestmark = pytest.mark.realdata

CROWNS = {
    "2018_SJER_3_252000_4107000_image_477": 7,
    "2019_YELL_2_541000_4977000_image_crop": 279,
    "OSBS_029": 61,
    "SOAP_061": 37,
}


@pytest.fixture(scope="module")
def labelled(real_data: Path) -> dict[str, LabelledImage]:
    folder = real_data / "aerial_trees"
    paths = [path for path in find_images([folder]) if path.stem in CROWNS]
    images = [open_image(path, image_date="2019", resolution=0.1, needs_crs=False) for path in paths]
    return {one.image.id: one for one in read_labels(folder, images, same_object="tree")}


def test_csv_and_voc_are_read_together(labelled: dict[str, LabelledImage]) -> None:
    assert {name: len(one.boxes) for name, one in labelled.items()} == CROWNS
    for one in labelled.values():
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert one.image.resolution == pytest.approx(0.1, rel=0.01)


def test_boxes_to_points_to_count_map_keep_their_number(labelled: dict[str, LabelledImage]) -> None:
    one = labelled["OSBS_029"]
    middle = (one.boxes[:, :2] + one.boxes[:, 2:]) / 2
    lon, lat = one.image.lonlat(middle[:, 0], middle[:, 1])
    back = np.column_stack(one.image.pixels(lon, lat))
    assert back == pytest.approx(middle, abs=1e-3)
    epsg = int(utm_epsg(lon[:1], lat[:1])[0])
    assert epsg == 32617
    x, y = transformer(4326, epsg).transform(lon, lat)
    lattice = Lattice(epsg)
    window = lattice.window((x.min(), y.min(), x.max(), y.max())).padded(3)
    assert abs(count_map(x, y, lattice, window).sum() / len(x) - 1) < 1e-9


def test_nothing_is_detected_on_a_tile_that_lies_nowhere(
    real_data: Path, detector_file: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    tile = real_data / "aerial_trees" / "SOAP_061.png"
    out = ("--model", detector_file, "-o", tmp_path / "p.parquet", "--image-date", 2019)
    assert "SOAP_061.png has no georeference" in refused("detect", tile, *out)
