"""Runs a detector over images of any size: by window, each stored when done, then points on the ground.

Memory is that of a window and of the points. Finished windows lie in a folder beside the output until all are done;
rerun the same command to resume.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from subpixmap.detection.detections import area_of, areas_path, points_of, share_land, write_areas, write_points
from subpixmap.detection.detector import Detector
from subpixmap.detection.images import Image
from subpixmap.detection.predict import Boxes
from subpixmap.detection.windows import SIDE, Seen, WindowTask, join_windows, known_cells, tasks_of
from subpixmap.errors import Incomplete, InputError, Refused
from subpixmap.files import file_sha256, write_atomic, write_json

_WAIT_S = 5.0


class Pool(Protocol):
    """Something that runs windows elsewhere; see `mapping.pool`."""

    @property
    def slots(self) -> int:
        """Tasks that may be in flight."""

    def submit(self, task: Any) -> None:
        """Start one."""

    def wait(self, seconds: float) -> tuple[Any, Any] | None:
        """The next finished one, with its result or its exception."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What `detect_images` did."""

    points: int
    by_object: dict[str, int]
    left_out: int
    """Points where images overlap, or of objects that an edge cuts in two."""


def detect_images(
    images: Sequence[Image],
    detector: Detector,
    out: Path,
    *,
    pool: Pool,
    window: int = SIDE,
    score: float | None = None,
    told: Callable[[int, int], None] | None = None,
) -> Found:
    """Detect objects in all images; write points with metadata, and the searched land.

    1. Cut the images into windows.
    2. Do the windows that are not done yet, and keep each in a folder beside the output.
    3. Image by image, join the windows and put the boxes on the ground.
    4. Share out land that several images show, so that no object counts twice.
    5. Write the results, and only then delete the windows.

    Parameters
    ----------
    images
        With a georeference and a date.
    detector
        That `pool` has.
    out
        points.parquet.
    pool
        Runs `windows.detect_window`.
    window
        Side of a window, pixels.
    score
        Least score, instead of the detector's.
    told
        Called with (windows done, windows in all).

    Raises
    ------
    InputError
        An image does not fit the detector.
    Refused
        A half-done detection of another kind lies there.
    Incomplete
        Windows failed; rerun the same command to try them again.
    """
    # 1.
    for image in images:
        detector.card.require_fits(image)
    tasks = [task for image in images for task in tasks_of(image, detector, side=window, score=score)]
    folder = out.with_name(out.name + ".parts")
    recipe = _recipe(images, detector, window, score)
    _open_folder(folder, recipe)  # 2. Windows of another recipe are refused: they would not fit together.
    _run(tasks, folder, pool, told)
    # 3. Points are small: those of all images fit into memory.
    tables, areas = [], []
    for image in images:
        parts = [(task.core, _load(folder, task)) for task in tasks if task.image.id == image.id]
        tables.append(points_of(image, join_windows(parts, detector), detector))
        areas.append(area_of(image, known_cells(image, parts)))
    points, own, left_out = share_land(tables, areas)  # 4.
    # 5. The points last: whoever finds them finds their areas.
    write_areas(areas_path(out), images, own)
    write_points(out, points, recipe | _about(detector, left_out))
    shutil.rmtree(folder)
    by_object = {name: int((points["object"] == name).sum()) for name in detector.card.objects}
    return Found(len(points), by_object, left_out)


def _recipe(images: Sequence[Image], detector: Detector, window: int, score: float | None) -> dict[str, Any]:
    """What decides the points, and what a half-done detection must agree with."""
    return {
        "detector": detector.card.name,
        "detector_sha256": detector.sha256,
        "window": window,
        "score": detector.card.score if score is None else score,
        "images": [
            {"image_id": one.id, "file": one.path.name, "image_date": one.image_date, "sha256": file_sha256(one.path)}
            for one in images
        ],
    }


def _about(detector: Detector, left_out: int) -> dict[str, Any]:
    card = detector.card
    return {
        "objects": list(card.objects),
        "evidence": card.evidence,
        "resolution": card.resolution,
        "left_out": left_out,
        "error_on_held_out_blocks": dict(card.error.get("test", {})),
        "evaluation": None,
    }


def _open_folder(folder: Path, recipe: dict[str, Any]) -> None:
    path = folder / "recipe.json"
    if not path.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(path, recipe)
    elif json.loads(path.read_text(encoding="utf-8")) != recipe:
        raise Refused(
            f"{folder} has an unfinished detection of other images, detector or options: delete it, or give another -o"
        )


def _run(tasks: Sequence[WindowTask], folder: Path, pool: Pool, told: Callable[[int, int], None] | None) -> None:
    """Do every window that is not done yet; those that fail are named at the end."""
    waiting = iter([task for task in tasks if not _part(folder, task).is_file()])
    done = sum(_part(folder, task).is_file() for task in tasks)
    failed: list[str] = []
    flying = 0
    more = True
    while more or flying:
        while more and flying < pool.slots:
            task = next(waiting, None)
            more = task is not None
            if task is not None:
                pool.submit(task)
                flying += 1
        if not flying or (finished := pool.wait(_WAIT_S)) is None:
            continue
        task, seen = finished
        flying -= 1
        if isinstance(seen, InputError):
            raise seen
        if isinstance(seen, BaseException):
            failed.append(f"{task.name}: {seen}")
            continue
        _save(folder, task, seen)
        done += 1
        if told is not None:
            told(done, len(tasks))
    if failed:
        raise Incomplete(
            f"{len(failed)} of {len(tasks)} windows failed (first: {failed[0]}); rerun the same command to try them "
            "again"
        )


def _part(folder: Path, task: WindowTask) -> Path:
    return folder / f"{task.name}.npz"


def _save(folder: Path, task: WindowTask, seen: Seen) -> None:
    buffer = io.BytesIO()
    boxes = seen.boxes
    np.savez(buffer, xyxy=boxes.xyxy, score=boxes.score, kind=boxes.kind, known=seen.known)
    write_atomic(_part(folder, task), buffer.getvalue())


def _load(folder: Path, task: WindowTask) -> Seen:
    with np.load(_part(folder, task), allow_pickle=False) as file:
        return Seen(Boxes(file["xyxy"], file["score"], file["kind"]), file["known"])
