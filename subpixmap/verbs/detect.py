"""The verbs of high-resolution imagery: train a detector, detect, evaluate, and review by hand."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpixmap.detection.config import DetectConfig
from subpixmap.errors import InputError
from subpixmap.files import write_json

if TYPE_CHECKING:
    from subpixmap.detection.detect import Found
    from subpixmap.detection.detector import Detector
    from subpixmap.detection.images import Image

WORTH_WORKERS = 32
"""Worker processes are started from this number of windows on; for fewer, starting them takes longer."""

log = logging.getLogger("subpixmap")


@dataclass(frozen=True, kw_only=True)
class BoxLabels:
    """How labels of imagery are read."""

    labelled: Path | None = None
    """Polygons in which every object is labelled."""
    objects: tuple[str, ...] = ()
    """Object names to keep; all others are background."""
    same_object: str | None = None
    """One name for all objects."""
    object_column: str | None = None
    layer: str | None = None
    size: float | None = None
    """Side of the box around a point, metres."""
    resolution: float | None = None
    """Side of a pixel of images without a georeference, metres."""
    image_date: str | None = None


def train_detector(
    images: Sequence[Path],
    labels: Path,
    output: Path,
    *,
    reading: BoxLabels = BoxLabels(),
    config: DetectConfig = DetectConfig(),  # noqa: B008 (frozen)
    weights: Path | None = None,
    tile: int | None = None,
    held_out: float = 0.3,
    test: Sequence[str] = (),
    channels: int = 64,
    evidence: str | None = None,
    quiet: bool = False,
) -> Detector:
    """Train a detector on labelled images; write it with its card, metrics and curves."""
    from subpixmap.detection.detector import require_device, require_name, save_detector
    from subpixmap.detection.images import find_images
    from subpixmap.detection.labels import read_labels
    from subpixmap.detection.setup import prepare
    from subpixmap.detection.stac_item import write_detector_item
    from subpixmap.detection.train import train_detector

    require_name(output)
    require_device(config.device)
    paths = find_images(images)
    opened = _open(paths, reading.image_date, resolution=reading.resolution, needs_crs=False, needs_date=False)
    options = {name: getattr(reading, name) for name in ("objects", "same_object", "object_column", "layer", "size")}
    labelled = read_labels(labels, opened, areas=reading.labelled, **options)
    if left := [one.path.name for one in opened if one.id not in {used.image.id for used in labelled}]:
        log.warning("%d of %d images have no labels and are not used (such as %s)", len(left), len(opened), left[0])
    card, tiles = prepare(
        labelled,
        name=output.stem,
        evidence=evidence or _evidence(paths),
        tile=tile,
        crop=config.crop,
        held_out=held_out,
        test=test,
        channels=channels,
        seed=config.seed,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    state, curves = output.with_suffix(".state"), output.with_suffix(".curves.csv")
    progress = None if quiet else sys.stderr
    trained = train_detector(tiles, card, config, weights=weights, state=state, curves=curves, progress=progress)
    detector = save_detector(output, trained.net, trained.card)
    write_detector_item(output, detector)
    state.unlink(missing_ok=True)
    written = [output, *_write_learned(output, detector, curves)]
    if not quiet:
        _show_error(detector.card.error["test"], detector.card.error["matching_distance_m"])
        print(*written, sep="\n")
    return detector


def detect(
    images: Sequence[Path],
    model: Path,
    output: Path,
    *,
    image_date: str | None = None,
    window: int | None = None,
    score: float | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> Found:
    """Detect objects in images; write points.parquet and, next to it, the searched area."""
    from subpixmap.detection.detect import detect_images
    from subpixmap.detection.detector import load_detector
    from subpixmap.detection.images import find_images
    from subpixmap.detection.windows import SIDE, detect_window
    from subpixmap.mapping.pool import open_pool
    from subpixmap.progress import Progress

    if output.suffix != ".parquet":
        raise InputError(f"--output {output}: points are written as GeoParquet; give a name that ends in .parquet")
    detector, side = load_detector(model), window or SIDE
    opened = _open(find_images(images), image_date)
    for image in opened:
        detector.card.require_fits(image)  # before any worker starts
    if scheduler is None and workers is None and device == "cpu":
        windows = sum(-(-image.height // side) * -(-image.width // side) for image in opened)
        workers = 0 if windows < WORTH_WORKERS else None
    with (
        open_pool(detect_window, detector.to(device), workers=workers, scheduler=scheduler, device=device) as pool,
        Progress("detect", 1, "windows", quiet=quiet) as progress,
    ):
        found = detect_images(opened, detector, output, pool=pool, window=side, score=score, told=progress.update)
    if found.left_out:
        log.warning(
            "%d objects were detected in two overlapping images; each is counted once, in the first image",
            found.left_out,
        )
    if not quiet:
        print("  ".join(f"{name} {number:,}" for name, number in found.by_object.items()))
        print(output)
    return found


def evaluate_detections(
    points: Path,
    checked: Path,
    *,
    labelled: Path | None = None,
    distance: float | None = None,
    cell: float | None = None,
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Evaluate detections against a hand-checked sample; store the result with the points, and as JSON if wanted."""
    from subpixmap.detection.detections import read_detections, write_points
    from subpixmap.detection.evaluate import evaluate_points, read_checked

    table, about = read_detections(points)
    for option, value in {"--distance": distance, "--cell": cell}.items():
        if value is not None and value <= 0:
            raise InputError(f"{option} {value:g}: give a positive number of metres")
    ids = [one["image_id"] for one in about["images"]]
    seen = read_checked(checked, labelled, names=about["objects"], images=ids)
    options = {name: value for name, value in {"distance": distance, "cell": cell}.items() if value is not None}
    facts = evaluate_points(table, seen, **options)
    write_points(points, table, about | {"evaluation": facts | {"checked": checked.name}})
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, facts)
    if not quiet:
        _show_evaluation(facts)
        print(*([output] if output else []), points, sep="\n")
    return facts


def review_detections(
    points: Path,
    images: Sequence[Path],
    output: Path,
    *,
    n: int = 30,
    cell: float = 100.0,
    seed: int = 0,
    quiet: bool = False,
) -> list[Path]:
    """Draw cells to review by hand; write them as a GeoPackage with imagery and styles."""
    from subpixmap.detection.detections import areas_path, read_detections
    from subpixmap.detection.images import find_images, open_image
    from subpixmap.detection.review import draw_cells, write_review
    from subpixmap.region.vector import read_polygons

    if output.suffix != ".gpkg":
        raise InputError(f"--output {output}: a review is a GeoPackage; give a name that ends in .gpkg")
    if n < 1 or cell <= 0:
        raise InputError(f"--n {n}, --cell {cell:g}: give at least 1 cell and a positive size in metres")
    table, about = read_detections(points)
    dates = {one["image_id"]: one["image_date"] for one in about["images"]}
    paths = [path for path in find_images(images) if path.stem in dates]
    if lost := set(dates) - {path.stem for path in paths}:
        raise InputError(
            f"the points come from images that --images does not contain, such as {sorted(lost)[0]}; add them"
        )
    opened = [open_image(path, image_date=dates) for path in paths]
    cells = draw_cells(table, opened, read_polygons(areas_path(points)), n=n, side=cell, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    written = write_review(output, cells, table, opened)
    if not quiet:
        print(f"{len(cells)} cells of {cell:g} m with {int(cells['n_detected'].sum()):,} detections")
        print(*written, sep="\n")
    return written


def finish_review(review: Path, output: Path, *, quiet: bool = False) -> list[Path]:
    """Turn a finished review into points and labelled areas, the input of `subpixmap reference`."""
    from subpixmap.detection.review import read_review, write_reference_input

    reviewed = read_review(review)
    written = write_reference_input(output, reviewed)
    if not quiet:
        kept, true = len(reviewed.cells), int(reviewed.cells["n_true"].sum())
        print(f"{kept} cells with {true:,} objects; {reviewed.rejected} rejected, {reviewed.blank} not reviewed")
        print(*written, sep="\n")
    return written


def _open(paths: Sequence[Path], image_date: str | None, **needs: Any) -> list[Image]:
    """Headers of images, with dates from a file, one date for all, or the tags of the images."""
    from subpixmap.detection.images import open_image, read_dates

    dates = read_dates(image_date)
    return [open_image(path, image_date=dates, **needs) for path in paths]


def _evidence(paths: Sequence[Path]) -> str:
    """ "simulated" for imagery of a simulated country, else "aerial"."""
    from subpixmap.simulate.recognise import is_simulated

    return "simulated" if is_simulated(str(path.parent.parent) for path in paths) else "aerial"


def _write_learned(output: Path, detector: Detector, curves: Path) -> list[Path]:
    """Metrics as JSON, curves as JSON and as a picture."""
    from subpixmap.report.curves import plot_curves

    metrics, as_json, picture = (output.with_suffix(end) for end in (".metrics.json", ".curves.json", ".curves.png"))
    write_json(metrics, {"detector": detector.card.name, "sha256": detector.sha256} | dict(detector.card.error))
    with curves.open(encoding="utf-8", newline="") as file:
        rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    write_json(as_json, rows)
    plot_curves(rows).savefig(picture, dpi=120)
    return [metrics, as_json, picture]


def _number(text: str) -> float | None:
    value = float(text or "nan")
    return None if value != value else value


def _show_error(facts: Mapping[str, Any], distance: float) -> None:
    """Recall, precision, F1 and count bias on the test blocks, on stdout."""
    print(f"on {facts['blocks']} test blocks, matched within {distance:g} m")
    print(f"{'':<14}{'n':>7}{'recall':>9}{'precision':>11}{'F1':>8}{'count bias':>12}")
    for name, row in facts.items():
        if isinstance(row, Mapping):
            shown = [_text(row[key], ".3f") for key in ("recall", "precision", "f1")]
            bias = "" if row["count_bias"] is None else f"{100 * row['count_bias']:+.1f} %"
            print(f"{name:<14}{row['n']:>7}{shown[0]:>9}{shown[1]:>11}{shown[2]:>8}{bias:>12}")


def _show_evaluation(facts: Mapping[str, Any]) -> None:
    """Recall, precision and count bias with intervals, on stdout."""
    print(f"{facts['checked_ha']:g} ha checked, matched within {facts['matching_distance_m']:g} m")
    rows = {"all": facts["all"]} | facts.get("by_object", {}) | facts["by_image"]
    rows |= {f"{row['per_ha']:g} per ha": row for row in facts["by_density"]}
    print(f"{'':<28}{'n':>7}  {'recall':<24}{'precision':<24}{'count bias'}")
    for name, row in rows.items():
        shown = [_with_interval(row, key) for key in ("recall", "precision", "count_bias")]
        print(f"{name:<28}{row['n']:>7}  {shown[0]:<24}{shown[1]:<24}{shown[2]}".rstrip())
    if facts["correction"]["factor"] is not None:
        factor = _with_interval(facts["correction"], "factor")
        print(f"factor to correct the count: {factor}(not applied)")


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    ends = row[f"{name}_ci"]
    return f"{row[name]:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
