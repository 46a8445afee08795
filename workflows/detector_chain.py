"""The whole chain on a simulated country: imagery, detector, points, count map, model, totals.

    python workflows/detector_chain.py OUT [--detector FILE | --points FILE] [--model NAME | --train]

Stages: (1) a country is simulated; (2) a detector is trained on labelled high-resolution imagery of a few places,
unless one is given; (3) it looks at imagery of other places, unless points of that imagery are given; (4) what people
would find there is compared with it; (5) its points become reference data; (6) a model that knows the objects is
calibrated on them, or one is trained on them (--train); (7) the country is mapped and counted; (8) totals are compared
with the truth. OUT/chain.json holds, for every stage, how many objects went in and came out, and what was lost; a
second model, of the true labels of the same places, tells what error is there without a detector. A stage that is done
is not done again. Everything is simulated: it shows that no stage loses objects unseen, not how well real ones are
found.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from subpixmap.detection.config import DetectConfig
from subpixmap.detection.detections import areas_path, read_detections
from subpixmap.errors import InputError, SubpixmapError
from subpixmap.files import file_sha256
from subpixmap.reference.points import read_points
from subpixmap.region.units import read_area
from subpixmap.simulate import simulate_country
from subpixmap.simulate.folder import more_highres
from subpixmap.verbs import detect as detecting
from subpixmap.verbs import teach
from subpixmap.verbs.calibrate import calibrate
from subpixmap.verbs.request import Labelling, Request, Shape
from subpixmap.verbs.run import run

OBJECTS = ("coconut",)


def train(out: Path, elsewhere: Path, objects: tuple[str, ...], name: str | None, *, places: int, steps: int) -> Path:
    """A detector of labelled places of the country, none of which lies in those where it will look."""
    taught, path = out / "taught", out / "detector.safetensors"
    if not path.is_file():
        more_highres(out / "country", taught, n=2 * places, side=200, seed=1)
        drawn, seen = (gpd.read_parquet(folder / "areas.parquet") for folder in (taught, elsewhere))
        apart = drawn[~drawn.intersects(seen.union_all())].head(places)
        apart.to_parquet(taught / "apart.areas.parquet")
        points = gpd.read_parquet(taught / "labels.parquet")
        points[points["place"].isin(apart["place"])].to_parquet(taught / "apart.labels.parquet")
        labels = detecting.BoxLabels(labelled=taught / "apart.areas.parquet", objects=objects, same_object=name)
        config = DetectConfig(steps=steps, batch=4)
        how: dict[str, Any] = {"reading": labels, "config": config, "channels": 32, "evidence": "simulated"}
        detecting.train_detector([taught], taught / "apart.labels.parquet", path, **how)
    return path


def see_elsewhere(out: Path, *, places: int, side: float) -> Path:
    """Imagery and labels of places that the detector has not seen."""
    elsewhere = out / "elsewhere"
    if not (elsewhere / "labels.parquet").is_file():  # written last
        more_highres(out / "country", elsewhere, n=places, side=side, seed=2)
    return elsewhere


def detect_elsewhere(out: Path, elsewhere: Path, detector: Path, *, workers: int) -> Path:
    """Points of those places."""
    points = out / "points.parquet"
    if not points.is_file():
        day = str(gpd.read_parquet(elsewhere / "areas.parquet")["image_date"].iloc[0])
        detecting.detect([elsewhere], detector, points, image_date=day, workers=workers)
    return points


def take_points(out: Path, elsewhere: Path, given: Path) -> Path:
    """Points of an earlier `subpixmap detect` of the same places, with the land that it looked at."""
    points = out / "points.parquet"
    _, about = read_detections(given)
    seen = {one["image_id"]: one["sha256"] for one in about["images"]}
    if seen != {path.stem: file_sha256(path) for path in elsewhere.glob("*.tif")}:
        raise InputError(f"--points {given}: these are not points of the imagery in {elsewhere}; detect in it first")
    for source, target in ((given, points), (areas_path(given), areas_path(points))):
        target.write_bytes(source.read_bytes())
    return points


def true_labels(out: Path, objects: tuple[str, ...], name: str | None) -> Path:
    """What people would find in those places: the labels of the simulator, of the objects that are followed."""
    path = out / "true.gpkg"
    labels = gpd.read_parquet(out / "elsewhere" / "labels.parquet")
    kept = labels[labels["object"].isin(objects)].drop(columns="place")
    (kept if name is None else kept.assign(object=name)).to_file(path)
    return path


def make_reference(out: Path, points: Path, name: str, day: str, *, border: int) -> dict[str, Any]:
    """Points -> reference data; how many objects of the points are in its count maps."""
    areas = points.with_suffix(".areas.geojson") if points.suffix == ".parquet" else out / "points.areas.geojson"
    made = teach.reference(points, areas, day, out / name, labelling=Labelling(border=border), quiet=True)
    inside = {k: len(v) for k, v in read_points(points).groupby("object")}
    on_map = {
        kind: float(sum(area.count[k].astype(float).sum() for area in made.areas))
        for k, kind in enumerate(made.objects)
    }
    return {"points": inside, "in_areas": dict(made.points), "on_count_maps": on_map, "areas": len(read_area(areas))}


def map_country(
    out: Path, name: str, year: int, *, known: str | None, steps: int | None, blocks: int, workers: int
) -> pd.DataFrame:
    """A known model calibrated on reference data, or one taught by it, and the country counted by it."""
    model, folder = out / f"{name}.safetensors", out / f"{name}-run"
    source = (str(out / "country"),)
    if not model.is_file() and known is not None:
        calibrate(known, model, reference=out / name, source=source, quiet=True)
    elif not model.is_file():
        asked = {} if steps is None else {"steps": steps}
        teach.train(out / name, source, model, asked=asked, shape=Shape(blocks=blocks), quiet=True)
    request = Request(
        region=str(out / "country" / "region.geojson"), years=str(year), source=source, model=str(model), out=folder,
        admin=out / "country" / "admin.parquet", workers=workers, quiet=True,
    )  # fmt: skip
    run(request)
    return pd.read_parquet(folder / "counts.parquet")


def stages(
    found: dict[str, Any], reference: dict[str, Any], counts: dict[str, pd.DataFrame], truth: pd.DataFrame, year: int
) -> dict[str, Any]:
    """Of each object: numbers by stage, and the parts of the error of the country's total."""
    result: dict[str, Any] = {}
    for name, in_areas in reference["in_areas"].items():
        row = found.get("by_object", {name: found["all"]})[name]
        total = {kind: _total(table, name, year) for kind, table in counts.items()}
        true = float(truth.loc[(truth["object"] == name) & (truth["period"] == str(year)), "count"].sum())
        if row["detected"]:  # what people would find in the places, by what was found there
            total["corrected"] = total["detected"] * row["n"] / row["detected"]
        errors = {kind: value / true - 1 for kind, value in total.items()}
        result[name] = {
            "places": {"true": row["n"], "detected": row["detected"], "matched": row["matched"]},
            "detector": {key: row[key] for key in ("recall", "precision", "f1", "count_bias")},
            "reference": {"points_in_areas": in_areas, "on_count_maps": reference["on_count_maps"][name]},
            "country": {"true": true, **total},
            "error": {
                "total": errors["detected"],
                "corrected": errors.get("corrected"),
                "with_true_labels": errors.get("labels"),
                "detected_less_labels": None if "labels" not in errors else errors["detected"] - errors["labels"],
            },
        }
    return result


def _total(counts: pd.DataFrame, name: str, year: int) -> float:
    own = counts[(counts["object"] == name) & (counts["period"] == str(year)) & (counts["unit_id"] == "REGION")]
    return float(own["map_total_full"].sum())


def follow(options: argparse.Namespace) -> dict[str, Any]:
    """All stages; what is told of them."""
    out, objects, year = options.out, tuple(options.objects.split(",")), 2021
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "country" / "country.json").is_file():
        country = {"seed": options.seed, "size_km": options.size_km, "years": (year, year), "acquisitions": 6}
        simulate_country(out / "country", objects=objects, **country)
    elsewhere = see_elsewhere(out, places=options.places, side=options.side)
    if options.points is not None:
        points = take_points(out, elsewhere, options.points)
    else:
        taught = {"places": options.taught_places, "steps": options.detector_steps}
        detector = options.detector or train(out, elsewhere, objects, options.name, **taught)
        points = detect_elsewhere(out, elsewhere, detector, workers=options.workers)
    labels = true_labels(out, objects, options.name)
    found = detecting.evaluate_detections(points, labels, labelled=areas_path(points))
    reference = make_reference(out, points, "detected", str(year), border=options.blocks + 2)
    known = None if options.train else options.model
    how = {"known": known, "steps": options.steps, "blocks": options.blocks, "workers": options.workers}
    counts = {"detected": map_country(out, "detected", year, **how)}
    if not options.without_labels:
        make_reference(out, labels, "labels", str(year), border=options.blocks + 2)
        counts["labels"] = map_country(out, "labels", year, **how)
    return stages(found, reference, counts, true_totals(out, objects, options.name), year)


def true_totals(out: Path, objects: tuple[str, ...], name: str | None) -> pd.DataFrame:
    """Of the whole country, of the objects that are followed."""
    top = gpd.read_parquet(out / "country" / "admin.parquet").query("parent_id.isna()")["unit_id"]
    truth = pd.read_csv(out / "country" / "truth.csv", dtype={"period": str, "unit_id": str})
    truth = truth[truth["unit_id"].isin(set(top)) & truth["object"].isin(objects)]
    return truth if name is None else truth.assign(object=name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--size-km", type=float, default=5)
    parser.add_argument("--detector", type=Path, help="detector to use instead of training one")
    parser.add_argument(
        "--points", type=Path, help="points.parquet of subpixmap detect in OUT/elsewhere, instead of detecting"
    )
    parser.add_argument("--objects", default=",".join(OBJECTS))
    parser.add_argument("--as", dest="name", help="one name for all objects, such as palm")
    parser.add_argument("--taught-places", type=int, default=60)
    parser.add_argument("--places", type=int, default=40)
    parser.add_argument("--side", type=float, default=300)
    parser.add_argument("--detector-steps", type=int, default=500)
    parser.add_argument("--model", default="demo-s2-v2", help="model of these objects, to calibrate on the points")
    parser.add_argument("--train", action="store_true", help="train a model on the points instead")
    parser.add_argument("--steps", type=int, help="training steps of each network  [default: from the amount of land]")
    parser.add_argument(
        "--blocks", type=int, default=2, help="residual blocks; the receptive radius is this + 2 pixels"
    )
    parser.add_argument("--without-labels", action="store_true", help="skip the comparison with true labels")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    try:
        result = follow(options)
    except SubpixmapError as error:
        print(f"detector_chain: {error}", file=sys.stderr)
        return error.exit_code
    (options.out / "chain.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
