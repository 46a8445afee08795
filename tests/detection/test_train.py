"""Training: splits share no object, crops keep what they show, a seed decides all, an interruption changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subpixmap.detection import train as training
from subpixmap.detection.config import DetectConfig
from subpixmap.detection.detector import load_detector
from subpixmap.detection.images import find_images, open_image
from subpixmap.detection.labels import LabelledImage, read_labels
from subpixmap.detection.setup import prepare
from subpixmap.detection.tiles import SPLITS, Tile, cut_tiles, draw_crop
from subpixmap.detection.train import train_detector
from subpixmap.errors import InputError

QUICK = DetectConfig(steps=8, batch=1, crop=48, check_every=4, warmup=2)


@pytest.fixture(scope="module")
def labelled(painted: Path) -> list[LabelledImage]:
    images = [open_image(path, needs_date=False) for path in find_images([painted])]
    return read_labels(painted / "labels.csv", images)


@pytest.fixture(scope="module")
def tiles(labelled: list[LabelledImage]) -> list[Tile]:
    return cut_tiles(labelled, ("disc",), side=96, seed=1)


def test_no_object_is_seen_by_two_splits(tiles: list[Tile]) -> None:
    assert {tile.split for tile in tiles} == set(SPLITS)
    seen: dict[tuple[str, int, int], set[str]] = {}
    for tile in tiles:
        for box, own in zip(tile.boxes, tile.own, strict=True):
            left, top, right, bottom = np.clip(box, 0, 96).astype(int)
            if own or tile.usable[top:bottom, left:right].any():
                middle = (box[:2] + box[2:]) / 2 + (tile.window.col, tile.window.row)
                seen.setdefault((tile.image_id, *middle.round().astype(int).tolist()), set()).add(tile.split)
    assert len(seen) > 40
    assert all(len(splits) == 1 for splits in seen.values())


def test_every_object_is_in_one_block_at_most(tiles: list[Tile], labelled: list[LabelledImage]) -> None:
    assert sum(int(tile.own.sum()) for tile in tiles) <= sum(len(one.boxes) for one in labelled)


def test_whole_images_are_held_out(labelled: list[LabelledImage]) -> None:
    tiles = cut_tiles(labelled, ("disc",), side=96, test=["b"])
    assert {tile.split for tile in tiles if tile.image_id == "b"} == {"test"}
    assert {tile.image_id for tile in tiles if tile.split == "test"} == {"b"}
    with pytest.raises(InputError, match="--test nowhere: no labelled image"):
        cut_tiles(labelled, ("disc",), side=96, test=["nowhere"])
    with pytest.raises(InputError, match="too little is labelled"):
        cut_tiles(labelled[:1], ("disc",), side=192)


def test_a_crop_is_turned_with_its_boxes(tiles: list[Tile]) -> None:
    """In all turns the pixels at the centres of boxes are those of discs: brighter than the rest."""
    bright, dark = [], []
    for seed in range(40):
        tile = next(tile for tile in tiles if tile.own.sum() > 3)
        crop = draw_crop(tile, 64, np.random.default_rng(seed))
        for x, y in ((crop.boxes[:, :2] + crop.boxes[:, 2:]) / 2).astype(int):
            bright.append(crop.pixels[0, y, x])
        dark.append(np.median(crop.pixels[0][crop.usable]))
    assert np.median(bright) > 1.5 * np.median(dark)


def test_a_seed_decides_all_and_an_interruption_changes_nothing(
    labelled: list[LabelledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, tiles = prepare(labelled, name="d", evidence="aerial", tile=96, crop=48, channels=8)
    whole = train_detector(tiles, card, QUICK, curves=tmp_path / "whole.csv")
    take_step = training._take_step

    def stops(run: Any, *rest: Any) -> dict[str, float]:
        if run.step == 6:
            raise KeyboardInterrupt
        return take_step(run, *rest)

    files: dict[str, Any] = {"state": tmp_path / "state", "curves": tmp_path / "curves.csv"}
    with monkeypatch.context() as patch:
        patch.setattr(training, "_take_step", stops)
        with pytest.raises(KeyboardInterrupt):
            train_detector(tiles, card, QUICK, **files)
    again = train_detector(tiles, card, QUICK, **files)
    assert again.sha256 == whole.sha256
    assert (tmp_path / "curves.csv").read_text() == (tmp_path / "whole.csv").read_text()
    with pytest.raises(InputError, match="belongs to another training"):
        train_detector(tiles, card, DetectConfig(steps=9, batch=1, crop=48, check_every=4, warmup=2), **files)
    (tmp_path / "state").write_bytes(b"no state")
    with pytest.raises(InputError, match="not a training state"):
        train_detector(tiles, card, QUICK, **files)


def test_weights_of_another_detector_are_taken(labelled: list[LabelledImage], detector_file: Path) -> None:
    card, tiles = prepare(labelled, name="d", evidence="aerial", tile=96, crop=48, channels=16)
    started = train_detector(tiles, card, DetectConfig(steps=1, batch=1, crop=48, check_every=1), weights=detector_file)
    assert started.card.training["weights"] == "discs.safetensors"
    assert started.card.training["tensors_taken"] > 50
    before, after = (one.card.error["validation"]["all"]["f1"] for one in (load_detector(detector_file), started))
    assert after > before - 0.2  # after one step it knows discs as well as the other, however well that is
